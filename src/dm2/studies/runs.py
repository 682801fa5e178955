"""Training runs as files: reads what a comparison needs of them."""

import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeGuard

import numpy as np

from dm2.config import Config
from dm2.errors import InputError
from dm2.run.directory import CONFIG, METRICS

__all__ = ["MEASURES", "Measure", "Run", "is_info", "read_run"]

Measure = Literal["win_rate", "return"]
"""What the curves of an environment show."""
MEASURES: dict[Measure, str] = {"win_rate": "test win rate", "return": "test return"}
"""The measures in words."""

# Beginnings of the settings that do not make another method. The demonstrations' path is among
# them: files are told apart by what they hold.
_NOT_SETTINGS = ("env", "method", "seed", "steps", "demos", "keep", "checkpoint", "eval")


@dataclass(frozen=True, eq=False)
class Run:
    """One training run: its settings and its test episodes."""

    path: Path
    """Its directory, beginning as the user gave it."""
    info: dict[str, Any]
    """What config.json holds."""
    steps: np.ndarray
    """Environment steps of the evaluations, increasing."""
    win_rates: np.ndarray
    """Share of test episodes won, 0 to 1, one per evaluation; nan if unknown."""
    returns: np.ndarray
    """Mean return of the test episodes, one per evaluation; nan if unknown."""
    diverged_at: float | None = None
    """The step at which its training diverged, by its metrics."""
    label: str | None = None
    """The user's name for its group, if any."""
    measure: Measure = "win_rate"
    """Which of `win_rates` and `returns` it is compared by."""

    @property
    def config(self) -> dict[str, Any]:
        """Its settings: `method`, `env`, `seed` and more."""
        return self.info["config"]

    @property
    def demonstrations(self) -> dict[str, Any]:
        """What is known of its demonstrations: `sha256`, `win_rate`, `mean_return`."""
        return self.info.get("demonstrations") or {}

    @property
    def environment(self) -> dict[str, Any]:
        """What is known of its environment: `version`, and `wins`, false if nobody can win."""
        return self.info.get("environment") or {}

    @property
    def values(self) -> np.ndarray:
        """Its curve: the win rates or returns, by its measure."""
        return self.win_rates if self.measure == "win_rate" else self.returns

    @property
    def end(self) -> float:
        """Step of the last evaluation: nothing is known of the run beyond it."""
        return float(self.steps[-1])

    @property
    def interval(self) -> float:
        """Environment steps from one evaluation to the next, on average.

        Evaluations fall on whole iterations, so intervals differ by up to one. The last is left
        out if there are others: the end of the run may cut it short.
        """
        gaps = np.diff(self.steps)
        return float((gaps[:-1] if len(gaps) > 1 else gaps).mean())

    @property
    def planned(self) -> int:
        """The environment steps that its settings ask for."""
        return self.config["steps"]

    @property
    def diverged(self) -> bool:
        """Whether it diverged and was not evaluated at a later step."""
        return self.diverged_at is not None and self.end <= self.diverged_at

    @property
    def finished(self) -> bool:
        """Whether its last evaluation reaches the steps that its settings ask for."""
        return self.end >= self.planned and not self.diverged

    @property
    def demo_source(self) -> str | None:
        """What tells its demonstrations from others: their hash, else their win rate."""
        source = self.demonstrations.get("sha256") or self.demonstrations.get("win_rate")
        return None if source is None else str(source)

    @property
    def demo_value(self) -> float | None:
        """The demonstrators' own win rate or mean return, by the run's measure, if known."""
        return self.demonstrations.get("win_rate" if self.measure == "win_rate" else "mean_return")

    def settings(self) -> dict[str, Any]:
        """Dotted settings that make up a group, leaving out seed, length and bookkeeping.

        The version of dm2 that made the run is among them. A setting that the run does not hold is
        younger than the run, and has the value that stands for what was done before.
        """
        flat = {**_before(self.config), **dict(_flatten(self.config))}
        if self.demo_source is not None:
            flat["demonstrations"] = self.demo_source
        elif self.config.get("demos") is None:
            # Runs of earlier versions hold settings of imitation that their method ignored.
            flat = {k: v for k, v in flat.items() if not k.startswith("imitation.")}
        flat["dm2_version"] = self.info.get("dm2_version")
        return {k: _plain(v) for k, v in flat.items() if not k.startswith(_NOT_SETTINGS)}


def _before(config: dict[str, Any]) -> dict[str, Any]:
    """Dotted settings that stand for those that a run does not hold: the defaults, with what goes
    by its imitation's. Nothing for a method that is not known here."""
    run = {name: config.get(name) for name in ("method", "env", "demos")}
    given = config.get("imitation")
    for known in ({**run, "imitation": given}, run) if given else (run,):
        try:
            return dict(_flatten(Config.from_dict(known).to_dict()))
        except (InputError, TypeError):
            continue
    return {}


def _flatten(values: dict[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _plain(value: Any) -> Any:
    """1.0 and 1 are one setting."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def is_info(info: Any) -> TypeGuard[dict[str, Any]]:
    """Whether a run's configuration file can hold this."""
    try:
        config, demonstrations = info["config"], info.get("demonstrations") or {}
        environment = info.get("environment") or {}
        texts = [info.get(name) for name in ("dm2_version", "jax", "commit")]
        texts += [environment.get(name) for name in ("name", "version")]
        known = all(text is None or isinstance(text, str) for text in texts)
        known &= all(isinstance(config[name], str) for name in ("method", "env"))
        known &= all(type(config[name]) is int for name in ("seed", "steps"))
        values = (demonstrations.get(name) for name in ("win_rate", "mean_return"))
        return known and _are_values(*values)
    except (KeyError, TypeError, AttributeError):
        return False


def _are_values(win_rate: Any, mean_return: Any) -> bool:
    """Whether these are a win rate and a mean return, or None where one is not known."""
    rate = win_rate is None or 0 <= win_rate <= 1
    return rate and (mean_return is None or abs(mean_return) <= sys.float_info.max)


def _read_info(path: Path) -> dict[str, Any]:
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        info = None
    if is_info(info):
        return info
    remedy = "must be JSON with config.method, .env, .seed and .steps, as `dm2 train` writes it"
    raise InputError(f"{path}: {remedy}")


def _read_record(line: bytes, where: str) -> dict[str, Any] | None:
    """The checked record of an evaluation or of a divergence; None for another kind of line."""
    remedy = (
        'must be a JSON object; an "eval" has a step from 0 up, a win_rate from 0 to 1 or null,'
        " and a mean_return that is a number or null"
    )
    try:
        record = json.loads(line)
        if record["kind"] not in ("eval", "diverged"):
            return None
        known = 0 <= record["step"] <= sys.float_info.max
        if record["kind"] == "eval":
            known &= _are_values(record["win_rate"], record.get("mean_return"))
        if known:
            return record
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    raise InputError(f"{where} = {line[:80].decode(errors='replace')!r}: {remedy}")


def read_run(directory: Path, label: str | None = None) -> Run:
    """The run in `directory`; the later of two evaluations at one step counts. Raises InputError if
    a file is malformed, OSError if one is absent."""
    info, path = _read_info(directory / CONFIG), directory / METRICS
    *lines, last = path.read_bytes().split(b"\n")
    # Whatever follows the last newline is torn (the run was killed, or writes it just now),
    # unless it happens to be whole.
    try:
        json.loads(last)
        lines.append(last)
    except (ValueError, RecursionError):
        pass
    read = [_read_record(line, f"{path}:{n}") for n, line in enumerate(lines, 1) if line.strip()]
    records = [record for record in read if record is not None]
    curve = {
        float(record["step"]): (record["win_rate"], record.get("mean_return"))
        for record in records
        if record["kind"] == "eval"
    }
    steps = sorted(curve)
    values = np.array([curve[step] for step in steps], float).reshape(-1, 2)  # None becomes nan
    diverged = [float(record["step"]) for record in records if record["kind"] == "diverged"]
    diverged_at = max(diverged, default=None)
    return Run(directory, info, np.array(steps), *values.T, diverged_at=diverged_at, label=label)
