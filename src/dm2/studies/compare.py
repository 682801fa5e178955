"""Finds run directories, groups their seeds by what was run, and compares the groups."""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from dm2.errors import InputError
from dm2.studies import statistics

__all__ = ["BASELINE", "Groups", "Run", "compare", "find_runs", "group_runs", "table"]

THRESHOLDS = {"steps_to_50": 0.5, "steps_to_80": 0.8}
RATIO = "ratio_steps_to_80"
BASELINE = "ippo"
"""The method that the others are compared with."""
WARNINGS = "warnings"

# Beginnings of the settings that do not make another method. The demonstrations' path is among
# them: files are told apart by what they hold.
_NOT_SETTINGS = ("env", "method", "seed", "steps", "demos", "keep", "checkpoint", "eval")
_SIGNS = {"lower": "≥ ", "upper": "≤ ", "unknown": "~ "}


@dataclass(frozen=True)
class Run:
    """One training run: its settings and its test win rates."""

    path: Path
    config: dict[str, Any]
    demonstrations: dict[str, Any]
    """What config.json says of the demonstrations: `sha256`, `win_rate`; may be empty."""
    steps: np.ndarray
    """Environment steps of the evaluations, increasing."""
    win_rates: np.ndarray
    """Share of test episodes won, 0 to 1, one per evaluation."""
    label: str | None = None
    """The user's name for its group, if any."""

    @property
    def budget(self) -> float:
        """Step of the last evaluation: nothing is known of the run beyond it."""
        return float(self.steps[-1])

    @property
    def demo_source(self) -> str | None:
        """What tells its demonstrations from others: their hash, else their win rate."""
        source = self.demonstrations.get("sha256") or self.demonstrations.get("win_rate")
        return None if source is None else str(source)

    @property
    def demo_win_rate(self) -> float | None:
        """The demonstrators' own win rate, 0 to 1, if known."""
        return self.demonstrations.get("win_rate")

    def settings(self) -> dict[str, Any]:
        """Dotted settings that make up a group, leaving out seed, length and bookkeeping."""
        flat = dict(_flatten(self.config))
        if self.demo_source is not None:
            flat["demonstrations"] = self.demo_source
        elif self.config.get("demos") is None:
            # Runs of earlier versions hold settings of imitation that their method ignored.
            flat = {k: v for k, v in flat.items() if not k.startswith("imitation.")}
        return {k: _plain(v) for k, v in flat.items() if not k.startswith(_NOT_SETTINGS)}


Groups = dict[str, dict[str, list[Run]]]
"""Runs by environment, then by label, sorted by seed."""


def _flatten(values: dict[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _plain(value: Any) -> Any:
    """1.0 and 1 are one setting."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _read_config(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        config, demonstrations = content["config"], content.get("demonstrations") or {}
        known = all(isinstance(config[name], str) for name in ("method", "env"))
        rate = demonstrations.get("win_rate")
        if known and isinstance(config["seed"], int) and (rate is None or 0 <= rate <= 1):
            return config, demonstrations
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    remedy = "must be JSON with config.method, .env and .seed, as `dm2 train` writes it"
    raise InputError(f"{path}: {remedy}")


def _evaluation(line: bytes, where: str) -> tuple[float, float] | None:
    """(step, win rate) of an evaluation, None for another kind of line."""
    remedy = 'must be a JSON object; an "eval" has a step from 0 up and a win_rate from 0 to 1'
    try:
        entry = json.loads(line)
        if entry["kind"] != "eval":
            return None
        step, win_rate = float(entry["step"]), float(entry["win_rate"])
        if 0 <= step < math.inf and 0 <= win_rate <= 1:
            return step, win_rate
    except (ValueError, KeyError, TypeError):
        pass
    raise InputError(f"{where} = {line[:80].decode(errors='replace')!r}: {remedy}")


def _read_metrics(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Steps and win rates of the evaluations; the later of two at one step wins."""
    *lines, last = path.read_bytes().split(b"\n")
    # Whatever follows the last newline is torn (the run was killed, or writes it just now),
    # unless it happens to be whole.
    try:
        json.loads(last)
        lines.append(last)
    except ValueError:
        pass
    read = [_evaluation(line, f"{path}:{n}") for n, line in enumerate(lines, 1) if line.strip()]
    curve = dict(pair for pair in read if pair is not None)
    steps = sorted(curve)
    return np.array(steps), np.array([curve[step] for step in steps])


def _directories(path: Path) -> list[Path]:
    """`path` and whatever lies below it that holds a run."""
    found = [file.parent for file in sorted(path.rglob("config.json"))]
    found = [directory for directory in found if (directory / "metrics.jsonl").is_file()]
    if not found:
        remedy = "holds no training run (config.json beside metrics.jsonl); make one with"
        raise InputError(f"{path}: {remedy} `dm2 train`, or name its directory or a parent of it")
    return found


def find_runs(
    paths: Sequence[str | Path], labels: Sequence[str] | None = None
) -> tuple[list[Run], list[str]]:
    """Reads the runs in or below `paths`; returns them and the warnings about those skipped.

    `labels`, one per path, name the groups. A run with fewer than two evaluations is no curve
    and is skipped. Raises InputError if a path holds no run, if none of them can be used, or if
    a file is malformed.
    """
    if isinstance(paths, str | Path):  # a string is a sequence of one-letter paths, "/" among them
        raise InputError(f"paths = {paths!r}: must be a list of paths")
    if labels is not None and len(labels) != len(paths):
        raise InputError(f"labels = {list(labels)!r}: must be one per path, here {len(paths)}")
    runs, warnings = {}, []
    for i, path in enumerate(paths):
        for directory in _directories(Path(path)):
            if directory.resolve() in runs:
                continue
            config, demonstrations = _read_config(directory / "config.json")
            steps, win_rates = _read_metrics(directory / "metrics.jsonl")
            if len(steps) < 2:
                warnings.append(f"{directory}: skipped, fewer than two evaluations so far")
                continue
            label = labels[i] if labels else None
            run = Run(directory, config, demonstrations, steps, win_rates, label)
            runs[directory.resolve()] = run
    if not runs:
        named = ", ".join(map(str, paths)) or "paths = []"
        raise InputError(f"{named}: no run has been evaluated yet; train longer")
    return list(runs.values()), warnings


def _demos_name(run: Run, rivals: Iterable[Run]) -> str:
    """`demos 52 %`; the hash's first digits tell apart sources of the same rounded win rate."""

    def name(of: Run) -> str:
        if of.demo_win_rate is None:
            return f"demos {(of.demo_source or 'unknown')[:7]}"
        return f"demos {100 * of.demo_win_rate:.0f} %"

    alike = {rival.demo_source for rival in rivals if name(rival) == name(run)}
    return name(run) + (f" {str(run.demo_source)[:7]}" if len(alike) > 1 else "")


def _short(key: str, keys: Iterable[str]) -> str:
    """`imitation.coefficient` as `coefficient`, unless another setting ends likewise."""
    name = key.rsplit(".", 1)[-1]
    return key if sum(other.rsplit(".", 1)[-1] == name for other in keys) > 1 else name


def _label(run: Run, among: Sequence[Run]) -> str:
    """The method, and its settings that differ among the runs of the same method."""
    rivals = [rival for rival in among if rival.config["method"] == run.config["method"]]
    every, own = [rival.settings() for rival in rivals], run.settings()
    keys = {key: None for settings in every for key in settings}
    parts = []
    for key in keys:
        if len({str(settings.get(key, "unset")) for settings in every}) == 1:
            continue
        if key == "demonstrations":
            parts.append(_demos_name(run, rivals))
        else:
            parts.append(f"{_short(key, keys)}={own.get(key, 'unset')}")
    return run.config["method"] + (f" ({', '.join(parts)})" if parts else "")


def _key(run: Run) -> str:
    return run.config["method"] + json.dumps(run.settings(), sort_keys=True)


def _one_per_seed(runs: Iterable[Run], warnings: list[str]) -> list[Run]:
    """The longest run of each seed: a repetition of a seed is no independent sample."""
    chosen: dict[int, Run] = {}
    for run in sorted(runs, key=lambda run: -run.budget):
        seed = run.config["seed"]
        if seed in chosen:
            kept = chosen[seed].path
            warnings.append(f"{run.path}: skipped, repeats seed {seed} of {kept}")
        else:
            chosen[seed] = run
    return [chosen[seed] for seed in sorted(chosen)]


def group_runs(runs: Iterable[Run]) -> tuple[Groups, list[str]]:
    """Groups runs that differ in nothing but seed, length and bookkeeping; warns of repeats.

    Raises InputError if a label of the user's covers runs with different settings.
    """
    groups: Groups = {}
    warnings: list[str] = []
    runs = sorted(runs, key=lambda run: (run.config["method"] != BASELINE, run.config["method"]))
    for env in sorted({run.config["env"] for run in runs}):
        inside = [run for run in runs if run.config["env"] == env]
        collected: dict[str, list[Run]] = {}
        for run in inside:
            label = _label(run, inside) if run.label is None else run.label
            collected.setdefault(label, []).append(run)
        for label, members in collected.items():
            if len({_key(run) for run in members}) > 1:
                names = sorted({_label(run, inside) for run in members})
                remedy = "give each its own path and label, or leave labels out"
                raise InputError(f"label {label!r}: covers {', '.join(names)} in {env}; {remedy}")
        groups[env] = {k: _one_per_seed(v, warnings) for k, v in collected.items()}
    return groups, warnings


def _json(value: Any) -> float | None:
    """JSON has neither inf nor nan: null stands for both."""
    return float(value) if np.isfinite(value) else None


def _summary(data: np.ndarray) -> dict[str, Any]:
    mean, error = statistics.mean_and_standard_error(data)
    return {
        "mean": _json(mean),
        "standard_error": _json(error),
        "iqm": _json(statistics.interquartile_mean(data)),
        "interval": [_json(bound) for bound in statistics.bootstrap_interval(data)],
    }


def _reach(runs: list[Run], threshold: float) -> tuple[np.ndarray, np.ndarray, int]:
    """Per run: the step of the threshold, inf if not reached; the same, censored; how many."""
    curves = [(run.steps, run.win_rates) for run in runs]
    steps = np.array([statistics.steps_to_threshold(*curve, threshold) for curve in curves])
    return steps, *statistics.censor(steps, [run.budget for run in runs])


def _group(runs: list[Run], budget: float) -> dict[str, Any]:
    result: dict[str, Any] = {
        "seeds": [run.config["seed"] for run in runs],
        "runs": len(runs),
        "budget": int(budget),
    }
    for name, threshold in THRESHOLDS.items():
        steps, bounded, censored = _reach(runs, threshold)
        result[name] = _summary(bounded) | {
            "values": [_json(value) for value in steps],
            "censored": censored,
            "bound": "lower" if censored else None,
        }
    area = [statistics.area_under_curve(run.steps, run.win_rates, budget) for run in runs]
    last = [statistics.final(run.win_rates[run.steps <= budget]) for run in runs]
    return result | {"area": _summary(np.array(area)), "final_win_rate": _summary(np.array(last))}


def _ratio(runs: list[Run], baseline: list[Run], name: str) -> dict[str, Any]:
    """Steps to 80 % over the baseline's: below 1 is faster. Says which way censoring bounds it."""
    _, above, above_censored = _reach(runs, THRESHOLDS["steps_to_80"])
    _, below, below_censored = _reach(baseline, THRESHOLDS["steps_to_80"])
    value, low, high = statistics.ratio_interval(above, below)
    if above_censored == len(runs) and below_censored == len(baseline):
        value = low = high = math.nan  # the ratio of two budgets says nothing
    # Two lower bounds bound their ratio neither way.
    bounds = {(True, False): "lower", (False, True): "upper", (True, True): "unknown"}
    bound = bounds.get((above_censored > 0, below_censored > 0))
    interval = [_json(low), _json(high)]
    return {"value": _json(value), "interval": interval, "bound": bound, "baseline": name}


def _baseline(groups: dict[str, list[Run]], env: str, warnings: list[str]) -> str | None:
    """The group labelled as the baseline method, else the only one of that method."""
    if BASELINE in groups:
        return BASELINE
    candidates = [k for k, runs in groups.items() if runs[0].config["method"] == BASELINE]
    if len(candidates) > 1:
        names = ", ".join(candidates)
        warnings.append(f"{env}: no ratio, since several groups could be its baseline: {names}")
    return candidates[0] if len(candidates) == 1 else None


def _environment(groups: dict[str, list[Run]], env: str, warnings: list[str]) -> dict[str, Any]:
    everyone = [run for runs in groups.values() for run in runs]
    budget = min(run.budget for run in everyone)
    longest = max(run.budget for run in everyone)
    if budget < 0.9 * longest:
        warnings.append(
            f"{env}: runs end between {budget:,.0f} and {longest:,.0f} steps; areas and final win"
            f" rates are taken at {budget:,.0f}"
        )
    result = {label: _group(runs, budget) for label, runs in groups.items()}
    baseline = _baseline(groups, env, warnings)
    for label, runs in groups.items():
        if baseline is not None and label != baseline:
            result[label][RATIO] = _ratio(runs, groups[baseline], baseline)
    return result


def compare(paths: Sequence[str | Path], labels: Sequence[str] | None = None) -> dict[str, Any]:
    """Compares groups of runs that differ in nothing but their seed.

    Args:
        paths: run directories, or parents of them.
        labels: names of the groups, one for each of the paths; by default a group is called by
            its method and the settings in which it differs from others.

    Returns:
        `{env: {label: {...}}, ..., "warnings": [...]}`, which JSON can hold; what cannot be
        computed is null. Of each group: `seeds`, `runs`, `budget` (the last step that all runs of
        the environment were evaluated at or beyond), `steps_to_50` and `steps_to_80` (on the
        smoothed curve), `area` and `final_win_rate` (both up to the budget, 0 to 1). Those hold
        `mean`, `standard_error`, `iqm`, and `interval` (95 % bootstrap of the mean); steps hold
        also `values` per seed (null if not reached), `censored` (how many), and `bound`: "lower"
        if any, since such a run counts with its own last step. `ratio_steps_to_80` is the group's
        mean over that of its `baseline`; its `bound` is "lower", "upper", or "unknown" if both
        are censored.

    Raises:
        InputError: a path holds no run, none of them can be used, a file is malformed, or a label
            covers runs with different settings.
    """
    runs, skipped = find_runs(paths, labels)
    groups, repeated = group_runs(runs)
    warnings = skipped + repeated
    result = {env: _environment(inside, env, warnings) for env, inside in groups.items()}
    return result | {WARNINGS: warnings}


def _span(entry: dict[str, Any], key: str, scale: float = 1.0) -> str:
    """The value above its interval, marked where it is only a bound."""
    if entry[key] is None:
        return "—"
    low, high = entry["interval"]
    span = "" if low is None or high is None else f"\n{low * scale:.2f}–{high * scale:.2f}"
    return f"{_SIGNS.get(entry.get('bound') or '', '')}{entry[key] * scale:.2f}{span}"


def _steps_text(entry: dict[str, Any]) -> str:
    """In millions of environment steps."""
    runs, censored = len(entry["values"]), entry["censored"]
    reached = f"{runs - censored} of {runs}"
    if censored == runs:
        return f"—\n{reached}"
    return _span(entry, "mean", 1e-6) + (f"\n{reached}" if censored else "")


def table(result: dict[str, Any]) -> list[Table]:
    """One table per environment of what `compare` returned: means above their 95 % intervals.

    Where not every run reached a threshold, how many did stands below.
    """
    tables = []
    titles = ("M steps\nto 50 %", "M steps\nto 80 %", "ratio\nat 80 %", "\narea", "final\nwin rate")
    for env in (key for key in result if key != WARNINGS):
        shown = Table(title=env, box=SIMPLE_HEAD, padding=(0, 1, 1, 0))
        shown.add_column("\nmethod", overflow="fold")
        for title in titles:
            shown.add_column(title, justify="right", no_wrap=True)
        for label, group in result[env].items():
            steps = [_steps_text(group[name]) for name in THRESHOLDS]
            ratio = _span(group[RATIO], "value") if RATIO in group else ""
            rates = [_span(group[name], "mean") for name in ("area", "final_win_rate")]
            seeds = f"{group['runs']} seed" + ("s" if group["runs"] > 1 else "")
            shown.add_row(f"{escape(label)}\n{seeds}", *steps, ratio, *rates)
        tables.append(shown)
    return tables
