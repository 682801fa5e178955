"""Compares groups of runs in numbers and tables."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, SupportsFloat

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from dm2.errors import InputError, Whole
from dm2.studies import statistics
from dm2.studies.groups import BASELINE, Comparison, Environment, Group, read_comparison
from dm2.studies.runs import MEASURES, Measure, Run

__all__ = ["BOUNDS", "SIGNS", "compare", "span_text", "steps_text", "summarise", "table"]

WARNINGS = "warnings"
WIN_RATE_LEVELS = (0.5, 0.8)

SIGNS = {"lower": "≥ ", "upper": "≤ "}
"""What marks a number that is only a bound, by which."""
BOUNDS = {(True, False): "lower", (False, True): "upper", (True, True): "unknown"}
"""What a ratio is a bound of, by whether its numerator and its denominator are lower bounds."""
_STEPS, _RATIO = "steps_to_", "ratio_"


def _steps_to(measure: Measure, level: float) -> str:
    """`steps_to_50` for a win rate of 0.5, `steps_to_return_-20` for a return of -20."""
    return _STEPS + (f"{100 * level:.10g}" if measure == "win_rate" else f"return_{level:.10g}")


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


def _left_out(run: Run) -> dict[str, Any]:
    return {
        "path": str(run.path),
        "seed": run.config["seed"],
        "last_step": int(run.end),
        "steps": run.planned,
        "diverged": run.diverged,
    }


def _group(group: Group, levels: Sequence[float], environment: Environment) -> dict[str, Any]:
    runs, measure = group.runs, environment.measure
    result: dict[str, Any] = {
        "measure": measure,
        "seeds": [run.config["seed"] for run in runs],
        "runs": len(runs),
        "left_out": [_left_out(run) for run in group.left_out],
        "budget": int(environment.budget),
        "final_from": int(environment.final_from),
    }
    for level in levels:
        steps = environment.steps_to(group, level)
        bounded, censored = statistics.censor(steps, group.ends)
        result[_steps_to(measure, level)] = _summary(bounded) | {
            "level": level,
            "values": [_json(value) for value in steps],
            "censored": censored,
            "bound": "lower" if censored else None,
        }
    return result | {
        "area": _summary(environment.areas(group)),
        f"final_{measure}": _summary(environment.finals(group)),
    }


def _ratio(group: Group, baseline: Group, level: float, environment: Environment) -> dict[str, Any]:
    """Steps to the level over the baseline's: below 1 is faster. Says which way censoring bounds
    it."""
    above, above_censored = statistics.censor(environment.steps_to(group, level), group.ends)
    below, below_censored = statistics.censor(environment.steps_to(baseline, level), baseline.ends)
    value, low, high = statistics.ratio_interval(above, below)
    bound = BOUNDS.get((above_censored > 0, below_censored > 0))
    if bound == "unknown":  # two lower bounds bound their ratio neither way
        value = low = high = math.nan
    return {"value": _json(value), "interval": [_json(low), _json(high)], "bound": bound}


def _baseline(title: str, groups: dict[str, Group], warnings: list[str]) -> str | None:
    """The group labelled as the baseline method, else the only one of that method."""
    if BASELINE in groups:
        return BASELINE
    candidates = [
        label for label, group in groups.items() if group.runs[0].config["method"] == BASELINE
    ]
    if len(candidates) > 1:
        names = ", ".join(candidates)
        warnings.append(f"{title}: no ratio, since several groups could be its baseline: {names}")
    return candidates[0] if len(candidates) == 1 else None


def _levels(title: str, measure: Measure, levels: Sequence[SupportsFloat] | None) -> list[float]:
    """The levels in ascending order; by default 50 % and 80 % of wins, none of returns."""
    if levels is None:
        return list(WIN_RATE_LEVELS) if measure == "win_rate" else []
    try:
        numbers = sorted({float(level) for level in levels})
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"levels = {levels!r}: must be a list of numbers") from None
    for level in numbers:
        if measure == "win_rate" and not 0 < level <= 1:
            remedy = f"must be above 0 and at most 1 for {title}, which is compared by win rate"
            raise InputError(f"levels = {level:g}: {remedy}")
        if not math.isfinite(level):
            raise InputError(f"levels = {level:g}: must be finite")
    return numbers


def _environment(
    title: str,
    environment: Environment,
    levels: Sequence[SupportsFloat] | None,
    warnings: list[str],
) -> dict[str, Any]:
    groups, measure = environment.groups, environment.measure
    levels = _levels(title, measure, levels)
    result = {label: _group(group, levels, environment) for label, group in groups.items()}
    if not levels:
        return result
    baseline = _baseline(title, groups, warnings)
    for label, group in groups.items():
        if baseline is not None and label != baseline:
            ratio = _ratio(group, groups[baseline], levels[-1], environment)
            name = _RATIO + _steps_to(measure, levels[-1])
            result[label][name] = ratio | {"baseline": baseline}
    return result


def summarise(
    comparison: Comparison, levels: Sequence[SupportsFloat] | None = None
) -> dict[str, Any]:
    """The numbers of a comparison; see `compare` for the levels and for what is returned."""
    warnings = list(comparison.notes)
    result = {
        title: _environment(title, environment, levels, warnings)
        for title, environment in comparison.environments.items()
    }
    return result | {WARNINGS: warnings}


def compare(
    paths: Sequence[str | Path],
    labels: Sequence[str] | None = None,
    *,
    budget: Whole | None = None,
    levels: Sequence[SupportsFloat] | None = None,
) -> dict[str, Any]:
    """Compares groups of runs that differ in nothing but their seed.

    Environments in which nobody can win are compared by test return, others by test win rate. A
    run is finished when its last evaluation reaches the steps of its settings and it did not
    diverge. Runs that end before the finished ones of their group are left out of all its numbers,
    and so are those that diverged; while none is finished, all others are used as far as they go.
    Runs of other versions of an environment are of another environment; another version of dm2
    makes another group. A run that does not say its version goes with the others' if that is one.

    Args:
        paths: Run directories, parents of them, or files of results that `dm2 study run` wrote;
            symbolic links are followed.
        labels: Names of the groups, one for each of the paths; by default a group is called as the
            file of results calls it, or by its method and the settings in which it differs from
            others.
        budget: The environment step at which area and final value are taken; runs that end before
            it are left out, others are used, finished or not. By default, in each environment the
            last step up to which all runs go that are not left out.
        levels: The win rates (0 to 1) or returns for which the steps until they are reached are
            given; by default win rates of 0.5 and 0.8, and no returns.

    Returns:
        `{env: {label: {...}}, ..., "warnings": [...]}`, which JSON can hold; what cannot be
        computed is null. The name of an environment is followed by its version if there are
        several. Each group holds

        - `measure`: "win_rate" or "return", the same for all groups of an environment;
        - `seeds` and `runs`: the seeds used and their number;
        - `left_out`: of each run left out, `path`, `seed`, `last_step` (of its evaluations),
          `steps` (of its settings), and whether it `diverged`;
        - `budget` and `final_from`: the environment steps up to which area and final value are
          taken, and from which on evaluations count as final: the last five of the run that is
          evaluated most rarely, and those of other runs in the same stretch;
        - `steps_to_50`, `steps_to_80` (per cent of wins) or `steps_to_return_-20`: the steps at
          which the whole curve, smoothed, reaches a `level`. It is smoothed over three evaluations
          of the run that is evaluated most rarely, and over as many steps in other runs;
        - `area`: the mean height of the curve up to the budget;
        - `final_win_rate` or `final_return`: the mean of the final evaluations.

        Those hold `mean`, `standard_error`, `iqm`, and `interval` (95 % bootstrap of the mean);
        steps hold also `values` per seed (null if not reached), `censored` (how many), and
        `bound`: "lower" if any, since such a run counts with its own last step.
        `ratio_steps_to_80`, at the highest level, is the group's mean over that of its `baseline`;
        its `bound` is "lower", "upper", or, if both are censored and there is no ratio,
        "unknown". `warnings` says what
        was skipped, left out, or is unlike among runs that are compared.

    Raises:
        InputError: If a path holds no run, none of them can be used, a file is malformed, a label
            covers runs with different settings, no run of an environment reaches the budget, a run
            is evaluated for the first time after it, or a budget or level is no number, or no win
            rate where runs are compared by it.
    """
    return summarise(read_comparison(paths, labels, budget), levels)


def span_text(entry: dict[str, Any], key: str, scale: float = 1.0) -> str:
    """The value above its interval, marked where it is only a bound."""
    if entry[key] is None:
        return "—"
    low, high = entry["interval"]
    span = ""
    if low is not None and high is not None:
        dash = "–" if low >= 0 else " to "  # apart from the sign of what is below 0
        span = f"\n{low * scale:.2f}{dash}{high * scale:.2f}"
    return f"{SIGNS.get(entry.get('bound') or '', '')}{entry[key] * scale:.2f}{span}"


def steps_text(entry: dict[str, Any]) -> str:
    """In millions of environment steps."""
    runs, censored = len(entry["values"]), entry["censored"]
    reached = f"{runs - censored} of {runs}"
    if censored == runs:
        return f"—\n{reached}"
    return span_text(entry, "mean", 1e-6) + (f"\n{reached}" if censored else "")


def _titles(group: dict[str, Any]) -> list[str]:
    """The columns of a table, by one of its groups."""
    levels = [entry["level"] for name, entry in group.items() if name.startswith(_STEPS)]
    if group["measure"] == "win_rate":
        reached, final = [f"{100 * level:.10g} %" for level in levels], "final\nwin rate"
    else:
        reached, final = [f"{level:.10g}" for level in levels], "final\nreturn"
    ratio = [f"ratio\nat {reached[-1]}"] if reached else []
    return [*(f"M steps\nto {level}" for level in reached), *ratio, "\narea", final]


def _row(label: str, group: dict[str, Any]) -> list[str]:
    """A group's cells: its label above the number of seeds, then its values."""
    steps = [steps_text(entry) for name, entry in group.items() if name.startswith(_STEPS)]
    ratios = [span_text(entry, "value") for name, entry in group.items() if name.startswith(_RATIO)]
    values = [span_text(group[name], "mean") for name in ("area", f"final_{group['measure']}")]
    every = group["runs"] + len(group["left_out"])
    seeds = f"{group['runs']} of {every}" if group["left_out"] else f"{every}"
    name = f"{escape(label)}\n{seeds} seed" + ("s" if every > 1 else "")
    return [name, *steps, *(ratios or [""] if steps else []), *values]


def table(result: dict[str, Any]) -> list[Table]:
    """One table per environment of what `compare` returned: means above their 95 % intervals.

    Where not every run reached a level, how many did stands below; where runs were left out, of
    how many seeds the numbers are. Below the table stands what area and final value are of.
    """
    tables = []
    for title, groups in result.items():
        if title == WARNINGS:
            continue
        first = next(iter(groups.values()))
        words = MEASURES[first["measure"]]
        stretch = f"from step {first['final_from']:,} to {first['budget']:,}"
        caption = f"area: mean {words} up to step {first['budget']:,}; final: mean {stretch}"
        caption += "; below each mean: its 95 % interval\n"
        shown = Table(title=escape(title), caption=caption, box=SIMPLE_HEAD, padding=(0, 1, 1, 0))
        shown.caption_justify = "left"
        shown.add_column("\nmethod", overflow="fold")
        for column in _titles(first):
            shown.add_column(column, justify="right", no_wrap=True)
        for label, group in groups.items():
            shown.add_row(*_row(label, group))
        tables.append(shown)
    return tables
