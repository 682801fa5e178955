"""Where runs are read from: their directories, or a study's results in one small file.

Such a file holds the curve of every run, and the win rates of teams that exchanged agents. Figures,
claims and the report are made from it alone, so it can be kept where runs cannot.
"""

import dataclasses
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from dm2.errors import InputError, as_path, check_setting
from dm2.files import write_atomically
from dm2.run.directory import CONFIG, METRICS
from dm2.studies.runs import Run, is_info, read_run

__all__ = ["Records", "as_exchange", "find_runs"]

_FORMAT = 1
_DAMAGE = (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError)
"""What reading a file of results that is none comes to."""
_KEPT = ("dm2_version", "jax", "commit", "config", "demonstrations", "environment")
"""What is kept of a run's configuration file."""


@dataclass
class Records:
    """What is known of a study's products, by their names."""

    runs: dict[str, Run] = field(default_factory=dict)
    exchanges: dict[str, Any] = field(default_factory=dict)
    """Win rates, `[S, S]`; see `dm2.run.evaluate.exchange`."""

    @classmethod
    def read(cls, path: Path) -> "Records":
        """Reads a file that `write` wrote; what is not there is empty.

        Raises InputError if it is no such file.
        """
        try:
            values = json.loads(path.read_text())
            if values["format"] != _FORMAT:
                raise ValueError(f"format {values['format']!r}")
            names = [row["name"] for row in values["runs"]]
            if len(set(names)) < len(names):
                raise ValueError("two runs of one name")
            runs = {row["name"]: _as_run(path, row) for row in values["runs"]}
            exchanges = {name: as_exchange(x) for name, x in values["exchanges"].items()}
            return cls(runs, exchanges)
        except FileNotFoundError:
            return cls()
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error.strerror}") from None
        except _DAMAGE as error:
            remedy = "move it away, or name a run's directory or a file that `dm2 study run` wrote"
            raise InputError(f"{path}: holds no results of a study ({error}); {remedy}") from None

    def write(self, path: Path) -> None:
        """Writes all of it, a run a line, wholly or not at all. Raises OSError."""
        rows = [json.dumps(_as_row(name, run)) for name, run in sorted(self.runs.items())]
        played = {name: np.asarray(x).tolist() for name, x in sorted(self.exchanges.items())}
        head = f'"format": {_FORMAT}, "exchanges": {json.dumps(played)}'
        whole = "{" + head + ', "runs": [\n' + ",\n".join(rows) + "\n]}\n"
        write_atomically(path, whole.encode())

    def settles(self, name: str) -> bool:
        """Whether all is known of a product: an exchange, or a run to its end or till it diverged.
        Of a run that was stopped, only a part is."""
        run = self.runs.get(name)
        return name in self.exchanges or (run is not None and (run.finished or run.diverged))

    def labelled(self, name: str, label: str | None) -> Run:
        """A run, called by a label or, with None, by its settings."""
        return dataclasses.replace(self.runs[name], label=label)

    def add(self, name: str, run: Run) -> None:
        """Adds a run, unless it was never evaluated or as much is known of it already."""
        known = self.runs.get(name)
        if len(run.steps) and (known is None or run.end > known.end):
            self.runs[name] = run


def as_exchange(values: Any) -> Float[np.ndarray, "S S"]:
    """The win rates of teams that exchanged agents, as a file holds them. Raises ValueError or
    TypeError unless they are of two teams or more."""
    rates = np.array(values, float)
    if rates.ndim != 2 or not len(rates) == rates.shape[1] >= 2 or not _are_rates(rates).all():
        raise ValueError("an exchange without a win rate from 0 to 1 for each two teams")
    return rates


def _are_rates(values: np.ndarray) -> np.ndarray:
    return (values >= 0) & (values <= 1)


def _as_row(name: str, run: Run) -> dict[str, Any]:
    info = {key: run.info[key] for key in _KEPT if key in run.info}
    if (demos := run.config.get("demos")) is not None:  # by its name, wherever the folder lies
        info["config"] = run.config | {"demos": Path(demos).stem}
    if run.demonstrations:
        known = ("sha256", "win_rate", "mean_return")
        info["demonstrations"] = {key: run.demonstrations.get(key) for key in known}
    return {
        "name": name,
        "label": run.label,
        "steps": [int(step) for step in run.steps],
        "win_rates": _numbers(run.win_rates, 7),  # shares of up to 128 episodes are exact
        "returns": _numbers(run.returns, 4),
        "diverged_at": run.diverged_at,
        "info": info,
    }


def _numbers(values: Iterable[float], digits: int) -> list[float | None]:
    """To so many digits after the point, null for what is not known."""
    return [round(float(value), digits) if np.isfinite(value) else None for value in values]


def _as_run(path: Path, row: dict[str, Any]) -> Run:
    if not is_info(row["info"]):
        raise ValueError("a run with damaged settings")
    steps, rates, returns = (
        np.array(row[name], float) for name in ("steps", "win_rates", "returns")
    )
    increase = len(steps) > 0 and np.isfinite(steps).all() and (np.diff(steps) > 0).all()
    sound = increase and (_are_rates(rates) | np.isnan(rates)).all() and not np.isinf(returns).any()
    if not sound or not len(steps) == len(rates) == len(returns):
        raise ValueError("a run with damaged evaluations")
    diverged_at, label, where = row["diverged_at"], row["label"], path / row["name"]
    diverged_at = None if diverged_at is None else float(diverged_at)
    if diverged_at is not None and not np.isfinite(diverged_at):
        raise ValueError("a run that diverged at no step")
    if not isinstance(label, str | None):
        raise TypeError(f"label {label!r}")
    return Run(where, row["info"], steps, rates, returns, diverged_at, label)


def _directories(path: Path, notes: list[str]) -> list[Path]:
    """`path` and whatever lies below it that holds a run; symbolic links are followed.

    Adds a note for each directory with one of a run's two files.
    """
    found: list[Path] = []
    visited = set()
    for directory, below, files in os.walk(path, followlinks=True):
        real = os.path.realpath(directory)
        if real in visited:  # a link leads back here
            below.clear()
            continue
        visited.add(real)
        below.sort()
        present = [name for name in (CONFIG, METRICS) if name in files]
        if len(present) == 2:
            found.append(Path(directory))
        elif present:
            absent = METRICS if present == [CONFIG] else CONFIG
            notes.append(f"{Path(directory)}: skipped, it has {present[0]} but no {absent}")
    if not found:
        problem = f"holds no training run ({CONFIG} beside {METRICS})"
        remedy = (
            "make one with `dm2 train`, or name its directory, a parent of it, or files of results"
        )
        raise InputError(f"{path}: {problem}; {remedy}")
    return found


def find_runs(
    paths: Sequence[str | Path], labels: Sequence[str] | None = None
) -> tuple[list[Run], list[str]]:
    """Reads the runs in or below `paths`, or in files of results; returns them and notes about
    what was skipped.

    `labels`, one per path, name the groups; without them, runs in files of results have the labels
    that those hold, if any. A run that two paths lead to is read once. Raises InputError if a path
    holds no run or a file is malformed.
    """
    for name, given in (("paths", paths), ("labels", labels)):
        # A string is a sequence of one-letter paths, "/" among them.
        listed = isinstance(given, Sequence) and not isinstance(given, str | bytes)
        check_setting(listed or given is None, name, given, f"must be a list of {name}")
    if not paths:
        raise InputError(f"paths = {paths!r}: name run directories, or parents of them")
    if labels is not None and len(labels) != len(paths):
        raise InputError(f"labels = {list(labels)!r}: must be one per path, here {len(paths)}")
    runs: dict[Path, Run] = {}
    notes: list[str] = []
    for i, path in enumerate(Path(as_path("paths", path)) for path in paths):
        label = labels[i] if labels else None
        if path.is_file():
            for run in Records.read(path).runs.values():
                named = run if label is None else dataclasses.replace(run, label=label)
                runs.setdefault(run.path.resolve(), named)
            continue
        for directory in _directories(path, notes):
            if directory.resolve() not in runs:
                runs[directory.resolve()] = read_run(directory, label)
    return list(runs.values()), list(dict.fromkeys(notes))
