"""The run directory: configuration, metrics, checkpoints and a lock, safe to kill at any moment."""

import contextlib
import datetime
import fcntl
import json
import math
import os
import platform
import re
import shutil
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from dm2.config import Config
from dm2.envs import EnvSpec
from dm2.errors import InputError, as_path
from dm2.files import TEMPORARY, write_atomically
from dm2.run import checkpoint
from dm2.run.checkpoint import CheckpointError, DamagedCheckpoint, writing
from dm2.version import __version__, source_commit

__all__ = ["AGENTS_SIZES", "RunDirectory", "load"]

AGENTS_SIZES = ("num_agents", "observation_size", "num_actions")
"""The sizes of an environment that decide those of a team."""

FORMAT = 1
CONFIG, METRICS, LOCK, CHECKPOINTS = "config.json", "metrics.jsonl", "lock", "checkpoints"
_ALWAYS = ("env", "steps", "seed")
"""What the settings of every version hold, beside the method."""

_EARLIER_NAMES = (
    ("rollout/carry/", "rollout/memory/"),
    ("rollout/worlds/", "rollout/episodes/"),
    ("rollout/episodes/env/troops/", "rollout/episodes/env/units/"),
    ("rollout/episodes/env/local", "rollout/episodes/env/observations"),
)
"""How arrays of a checkpoint were called in the development versions before 0.1.0, and now."""


class RunDirectory:
    """One training run on disk; made by `create` or `open`.

    Whatever writes, except `append`, leaves the old or the new content, never a part of it.
    Methods that write raise CheckpointError when the disk fails. Only the process inside
    `lock()` may write.
    """

    def __init__(self, path: Path, info: dict[str, Any], config: Config) -> None:
        self.path = path
        self.info = info
        """What `config.json` holds: versions, commit, provenance, settings."""
        self.config = config

    @classmethod
    def create(
        cls, path: str | os.PathLike[str], config: Config, provenance: Mapping[str, Any]
    ) -> "RunDirectory":
        """Starts a run in `path`, which must be new or empty.

        `provenance` (JSON values) is added to `config.json`. Raises InputError if `path` is in
        use or is no directory.
        """
        path = Path(path)
        info = {
            "format": FORMAT,
            "dm2_version": __version__,
            "python": platform.python_version(),
            "jax": jax.__version__,
            "commit": source_commit(),
            "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "config": config.to_dict(),
        }
        run = cls(path, {**info, **provenance}, config)
        # What cannot be written, or not be read, must not leave a folder behind.
        Config.from_dict(json.loads(run._encoded_info())["config"])
        cls.check_unused(path)
        try:
            with writing(path):
                path.mkdir(parents=True, exist_ok=True)
            with run.lock():
                cls.check_unused(path)  # another process may have been quicker
                for stale in path.glob(f"{TEMPORARY}*"):
                    stale.unlink()
                run._write_info()
        except CheckpointError as error:
            why = f"cannot start a run here: {error.__cause__}"
            raise InputError(f"{path}: {why}; choose another --out") from None
        return cls.open(path)

    @staticmethod
    def check_unused(path: Path) -> None:
        """Raises InputError unless `path` is absent or holds only what a killed `create` leaves."""
        try:
            names = {entry.name for entry in path.iterdir()} - {LOCK}
        except FileNotFoundError:
            return
        except OSError as error:
            raise InputError(f"{path}: {error.strerror}; choose another --out") from None
        if any(not name.startswith(TEMPORARY) for name in names):
            remedy = "choose another --out"
            if CONFIG in names:
                remedy = f"go on with `dm2 resume {path}`, or {remedy}"
            raise InputError(f"{path}: is in use; {remedy}")

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> "RunDirectory":
        """Opens an existing run.

        Raises InputError if there is none, its `config.json` cannot be read, or a dm2 with
        another major or minor version made it.
        """
        path = Path(path)
        file = path / CONFIG
        try:
            info = json.loads(file.read_bytes())
            made_by, values = info["dm2_version"], dict(info["config"])
            for name in ("environment", "demonstrations"):
                info[name] = dict(info.get(name) or {})
        except (FileNotFoundError, NotADirectoryError):
            remedy = "give the directory that `dm2 train --out` wrote"
            raise InputError(f"{path}: not a run, it has no {CONFIG}; {remedy}") from None
        except OSError as error:
            raise InputError(f"{file}: cannot be read: {error.strerror}") from None
        except (ValueError, KeyError, TypeError, RecursionError):
            remedy = "restore it from a copy, or train again into another --out"
            raise InputError(f"{file}: not a run's configuration; {remedy}") from None
        if info.get("format") != FORMAT:
            remedy = "install the dm2 that wrote it, or restore it from a copy"
            raise InputError(f"{file}: format = {info.get('format')!r}, must be {FORMAT}; {remedy}")
        if _series(made_by) != _series(__version__):
            remedy = f"install dm2 {'.'.join(_series(made_by))}, or train again into another --out"
            raise InputError(f"{file}: made by dm2 {made_by}, this is {__version__}; {remedy}")
        missing = [name for name in _ALWAYS if name not in values]
        if missing:
            remedy = "restore it from a copy, or train again into another --out"
            raise InputError(f"{file}: config has no {' and no '.join(missing)}; {remedy}")
        try:
            return cls(path, info, Config.from_dict(values))
        except InputError as error:
            raise InputError(f"{file}: {error}") from None

    def changed_rules(self, version: str) -> str | None:
        """Says that the run was made by another version of its environment's rules than `version`;
        None if it was not, or if the run does not hold which."""
        made_by = self.info.get("environment", {}).get("version", version)
        if made_by == version:
            return None
        return f"{self.path}: was trained by the rules of {made_by!r}, these are {version!r}"

    def refuse_other_sizes(self, spec: EnvSpec, sizes: Sequence[str]) -> None:
        """Raises InputError if one of these sizes, names of fields of `EnvSpec`, differs from what
        it was when the run began. What the run does not hold is taken to be the same."""
        began = self.info.get("environment", {})
        now = {name: getattr(spec, name) for name in sizes}
        changed = [
            f"{name} was {began[name]}, is {size}"
            for name, size in now.items()
            if began.get(name, size) != size
        ]
        if changed:
            problem = f"{self.path}: {spec.name!r} changed since it was trained in"
            remedy = "bring back what it was, or train again into another --out"
            raise InputError(f"{problem}: {', '.join(changed)}; {remedy}")

    def discard(self, folder: bool) -> None:
        """Takes back what `create` wrote, the `folder` too if that was new."""
        for name in (CONFIG, LOCK):
            (self.path / name).unlink()
        if folder:
            self.path.rmdir()

    def update(self, config: Config) -> None:
        """Writes other settings of the same run. Raises CheckpointError if the disk fails; the
        old ones are kept then."""
        run = RunDirectory(self.path, {**self.info, "config": config.to_dict()}, config)
        run._write_info()
        self.info, self.config = run.info, config

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Holds the run for this process; the kernel lets go when it dies, however it dies.

        Raises InputError if another process holds it.
        """
        path = self.path / LOCK
        with writing(path):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            with writing(path):
                self._acquire(descriptor)
            yield
        finally:
            os.close(descriptor)

    def is_locked(self) -> bool:
        """Whether a process holds the run."""
        try:
            descriptor = os.open(self.path / LOCK, os.O_RDWR)
        except OSError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    def append(self, record: Mapping[str, Any]) -> None:
        """Adds a line to the metrics. NaN and infinities become null.

        `record["kind"]` says of what it is, and `record["step"]` counts environment steps. Raises
        ValueError if it lacks one of them, or the step is not whole.
        """
        record = _plain(record)
        line = json.dumps(record, allow_nan=False).encode() + b"\n"
        if _parse_record(line) is None:
            raise ValueError(f"a metrics record needs a 'kind' and a whole 'step': {record}")
        with writing(self.path / METRICS), (self.path / METRICS).open("ab+") as file:
            _cut_torn_line(file)
            file.write(line)

    def read_metrics(self) -> list[dict[str, Any]]:
        """All complete records, in order; a last line that a kill cut off is left out.

        Raises InputError if another line is no record.
        """
        return [record for _, record in self._metrics_lines()]

    def truncate_metrics(self, step: int) -> None:
        """Keeps the complete records up to and including `step`."""
        kept = [line for line, record in self._metrics_lines() if record["step"] <= step]
        with writing(self.path / METRICS):
            write_atomically(self.path / METRICS, b"".join(line + b"\n" for line in kept))

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, ascending."""
        found = self._checkpoint_steps()
        return [step for step in found if checkpoint.is_complete(self.checkpoint_path(step))]

    def has_checkpoints(self) -> bool:
        """Whether there is any checkpoint, damaged ones too; call it inside `lock()`."""
        with writing(self.path / CHECKPOINTS):
            checkpoint.clear_leftovers(self.path / CHECKPOINTS)
        return bool(self._checkpoint_steps())

    def checkpoint_path(self, step: int) -> Path:
        """Where the checkpoint of `step` is or would be."""
        return self.path / CHECKPOINTS / f"{step:012d}"

    def save_checkpoint(self, step: int, tree: Any, permanent: bool = False) -> None:
        """Writes the checkpoint of `step`; a `permanent` one is never pruned. Raises what
        `checkpoint.save` raises."""
        with writing(self.checkpoint_path(step)):
            checkpoint.clear_leftovers(self.path / CHECKPOINTS)
            self._sync_metrics()  # after a power cut they reach at least as far as checkpoints
        extra = {"step": step, "permanent": permanent}
        checkpoint.save(self.checkpoint_path(step), tree, extra)

    def prune(self, keep: int) -> None:
        """Removes complete checkpoints other than the newest `keep` and the permanent ones."""
        steps = self.steps()
        for step in steps[: max(len(steps) - keep, 0)]:
            path = self.checkpoint_path(step)
            if checkpoint.read_manifest(path)["extra"].get("permanent"):
                continue
            # Renamed first: a kill half-way must not leave something that looks like damage.
            doomed = path.with_name(TEMPORARY + path.name)
            with writing(path):
                path.rename(doomed)
            shutil.rmtree(doomed, ignore_errors=True)

    def load_checkpoint(
        self, like: Any, step: int | None = None, prefix: str = ""
    ) -> tuple[Any, dict[str, Any]]:
        """The checkpoint of `step`, or the newest; see `checkpoint.load`.

        Raises InputError if it is absent, damaged, or does not fit `like`, or if its team holds a
        number that is not finite.
        """
        present = self._checkpoint_steps()
        if not present:
            raise InputError(f"{self.path}: has no checkpoint yet; train it first")
        step = present[-1] if step is None else step
        if step not in present:
            remedy = f"choose one of {', '.join(map(str, present))}"
            raise InputError(f"{self.path}: has no checkpoint of step {step}; {remedy}")
        try:
            loaded = checkpoint.load(self.checkpoint_path(step), like, prefix, _EARLIER_NAMES)
        except DamagedCheckpoint as error:
            raise InputError(f"{error} (complete ones: {self._others(step)})") from None
        self._check_finite(loaded[0], step, prefix)
        return loaded

    def load_newest_valid(self, like: Any) -> tuple[Any, dict[str, Any]]:
        """The newest undamaged checkpoint, to resume from; call it inside `lock()`.

        Newer, damaged ones are skipped with a RuntimeWarning and set aside under a name ending
        in `.damaged`, so that they count no more. Raises InputError if there is no undamaged one,
        it does not fit `like`, or its team holds a number that is not finite.
        """
        with writing(self.path / CHECKPOINTS):
            checkpoint.clear_leftovers(self.path / CHECKPOINTS)
        damaged: list[DamagedCheckpoint] = []
        for step in reversed(self._checkpoint_steps()):
            try:
                loaded = checkpoint.load(self.checkpoint_path(step), like, renamed=_EARLIER_NAMES)
            except DamagedCheckpoint as error:
                damaged.append(error)
                continue
            self._check_finite(loaded[0], step)
            for newer in self._checkpoint_steps():
                if newer > step:
                    self._set_aside(newer)
            for error in damaged:
                warnings.warn(f"{error}: resuming at step {step}", RuntimeWarning, stacklevel=2)
            return loaded
        problems = "; ".join(map(str, damaged)) or "has no checkpoint yet"
        remedy = "start again with `dm2 train` and another --out"
        raise InputError(f"{self.path}: nothing to resume from: {problems}; {remedy}")

    def _write_info(self) -> None:
        with writing(self.path / CONFIG):
            write_atomically(self.path / CONFIG, self._encoded_info())

    def _encoded_info(self) -> bytes:
        try:
            return json.dumps(self.info, indent=2).encode() + b"\n"
        except (TypeError, ValueError) as error:
            remedy = "settings must be plain values that JSON can hold"
            raise InputError(f"{self.path / CONFIG}: {error}; {remedy}") from None

    def _acquire(self, descriptor: int) -> None:
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(0.05)  # somebody may just have asked whether it is locked
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 32).decode(errors="replace") or "unknown"
            remedy = "wait for it, stop it, or choose another --out"
            raise InputError(f"{self.path}: process {holder} is training here; {remedy}") from None
        os.ftruncate(descriptor, 0)
        os.write(descriptor, str(os.getpid()).encode())

    def _sync_metrics(self) -> None:
        with contextlib.suppress(FileNotFoundError), (self.path / METRICS).open("rb") as file:
            os.fsync(file.fileno())

    def _metrics_lines(self) -> list[tuple[bytes, dict[str, Any]]]:
        path = self.path / METRICS
        try:
            lines = path.read_bytes().split(b"\n")[:-1]  # what follows the last newline is torn
        except FileNotFoundError:
            return []
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error.strerror}") from None
        records = []
        for number, line in enumerate(lines, start=1):
            record = _parse_record(line)
            if record is None:
                remedy = "remove that line, or restore the file from a copy"
                raise InputError(f"{path}: line {number} is no record; {remedy}")
            records.append((line, record))
        return records

    def _checkpoint_steps(self) -> list[int]:
        """Steps of all checkpoints, damaged ones too, ascending."""
        paths = (self.path / CHECKPOINTS).glob("*")
        return sorted(int(path.name) for path in paths if re.fullmatch(r"\d{12,}", path.name))

    def _check_finite(self, tree: Any, step: int, prefix: str = "") -> None:
        """Raises InputError if the team in a checkpoint holds a number that is not finite, as
        runs of development versions before 0.1.0 kept it after they had diverged."""
        team = tree if prefix else getattr(tree, "agents", None)
        found = checkpoint.nonfinite(team, prefix or "agents")
        if found is not None:
            problem = f"{self.path}: the team of step {step} diverged: {found[0]} is not finite"
            remedy = "choose another checkpoint, or train again with a lower learning rate"
            raise InputError(f"{problem}; {remedy} (complete ones: {self._others(step)})")

    def _others(self, step: int) -> str:
        """The other complete checkpoints."""
        return ", ".join(str(other) for other in self.steps() if other != step) or "none"

    def _set_aside(self, step: int) -> None:
        path = self.checkpoint_path(step)
        aside = path.with_name(path.name + ".damaged")
        with writing(path):
            shutil.rmtree(aside, ignore_errors=True)
            path.rename(aside)


def load(path: str | os.PathLike[str]) -> RunDirectory:
    """Opens an existing run; see `RunDirectory.open`."""
    return RunDirectory.open(as_path("path", path))


def _series(version: Any) -> list[str]:
    """Major and minor version: within a series, runs stay readable."""
    return str(version).split(".")[:2]


def _plain(value: Any) -> Any:
    """`value` in JSON's types: arrays become lists, numbers that are not finite become None."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return _plain(value.tolist()) if hasattr(value, "tolist") else value


def _parse_record(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or not isinstance(record.get("kind"), str):
        return None
    step = record.get("step")
    return record if type(step) is int and 0 <= step < 2**63 else None


def _cut_torn_line(file: Any) -> None:
    """Removes what a killed process left of its last line, so that the next starts afresh."""
    if file.tell() == 0:
        return
    file.seek(-1, os.SEEK_END)
    if file.read(1) != b"\n":
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)
