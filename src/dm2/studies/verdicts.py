"""What becomes of a study's claims: each holds, does not hold, or is not decided.

A claim compares one number a seed of two curves. Its interval is Welch's, at 95 %, for the
difference of the two means; for steps to a level, of their logarithms, which makes it one for the
ratio of the geometric means. With few seeds it is wider than a bootstrap's, which is too narrow
then.

For `better` ahead of `than`, by a difference d > 0 in its favour:

- *holds* if the whole interval is above 0;
- *does not hold* if the whole interval is below the smallest difference that matters;
- else it is *not decided* at this many seeds.

For a claim that neither is ahead: *holds* if the whole interval is within the smallest difference
that matters, *does not hold* if the whole interval is outside of it.

A run that never reaches a level counts with its last step, so that its steps are a lower bound. A
claim that `better` is faster cannot come out as *holds* if such a run is among its own, nor as
*does not hold* if one is among the others'.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from scipy import stats

from dm2.studies import statistics
from dm2.studies.groups import Comparison, Environment, group_runs
from dm2.studies.records import Records
from dm2.studies.study import Claim, Statistic, Study

__all__ = ["Result", "Verdict", "judge", "results_of"]

Outcome = Literal["holds", "does not hold", "not decided"]
LEVEL = 0.95
WIN_RATE = 0.8
"""The level of `steps_to_80`."""


@dataclass(frozen=True)
class Verdict:
    """A claim in one environment."""

    claim: Claim
    env: str
    outcome: Outcome
    value: float
    """The difference of the means, `better` minus `than`; of steps, the ratio of the geometric
    means. nan if there is none."""
    low: float
    high: float
    """The interval; nan where a curve has one seed."""
    seeds: tuple[int, int]
    """Of `better` and of `than`."""
    improvement: float
    """The probability that a run of `better` is ahead of one of `than`, ties counting half."""
    censored: tuple[int, int] = (0, 0)
    """How many runs never reach the level."""


@dataclass(frozen=True)
class Result:
    """A study with what was found."""

    study: Study
    comparison: Comparison
    exchanges: Mapping[tuple[str, str], Any]
    """By environment and label: the win rates of teams that exchanged agents, `[S, S]`."""
    verdicts: list[Verdict]


def results_of(study: Study, records: Records, budget: int | None = None) -> Result:
    """Judges a study by what is known of its runs.

    Args:
        study: the study.
        records: its runs; those that are missing are left out.
        budget: the environment step at which numbers are taken; see `dm2.compare`.
    """
    runs = []
    for curve in study.curves:
        for training in curve.runs:
            if training.name in records.runs:
                runs.append(records.labelled(training.name, curve.label))
    comparison = group_runs(runs, budget=budget, same=True)
    played = {
        (exchange.runs[0].config.env, label): records.exchanges[exchange.name]
        for label, exchange in study.exchanges
        if exchange.name in records.exchanges
    }
    verdicts = [
        verdict
        for claim in study.claims
        for title, environment in comparison.environments.items()
        if (verdict := judge(claim, title, environment, played)) is not None
    ]
    return Result(study, comparison, played, verdicts)


def judge(
    claim: Claim, title: str, environment: Environment, exchanges: Mapping[tuple[str, str], Any]
) -> Verdict | None:
    """The verdict on a claim in one environment; None if that lacks one of its curves."""
    values, censored = [], []
    for label in (claim.better, claim.than):
        found = _values(claim.by, label, title, environment, exchanges)
        if found is None:
            return None
        values.append(found[0])
        censored.append(found[1])
    better, than = values
    lower = claim.by == "steps_to_80"
    if lower:
        better, than = np.log(np.maximum(better, 1.0)), np.log(np.maximum(than, 1.0))
    value, low, high = _welch(better, than)
    margin = -np.log1p(-claim.margin) if lower else claim.margin
    # In favour of `better`: fewer steps, or a higher value.
    ahead = (-high, -low) if lower else (low, high)
    outcome = _outcome(*ahead, margin, claim.alike, (censored[0], censored[1]))
    span = np.exp([value, low, high]) if lower else (value, low, high)
    sign = -1 if lower else 1
    return Verdict(
        claim,
        title,
        outcome,
        float(span[0]),
        float(span[1]),
        float(span[2]),
        (len(better), len(than)),
        statistics.probability_of_improvement(sign * better, sign * than),
        (censored[0], censored[1]),
    )


def _values(
    by: Statistic,
    label: str,
    title: str,
    environment: Environment,
    exchanges: Mapping[tuple[str, str], Any],
) -> tuple[Float[np.ndarray, " seeds"], int] | None:
    """One number a seed, and how many of them are bounds."""
    if by == "kept":
        rates = exchanges.get((title.partition(" (")[0], label))
        if rates is None:
            return None
        others = ~np.eye(len(rates), dtype=bool)
        mixed = np.array([row[kept].mean() for row, kept in zip(rates, others, strict=True)])
        return mixed - np.diag(rates), 0
    if label not in environment.groups:
        return None
    runs = environment.groups[label].runs
    budget, since = environment.budget, environment.final_from
    if by == "area":
        return np.array(
            [statistics.area_under_curve(run.steps, run.values, budget) for run in runs]
        ), 0
    if by == "final":
        return np.array([statistics.final(run.steps, run.values, since, budget) for run in runs]), 0
    steps = [
        statistics.steps_to_threshold(run.steps, run.values, WIN_RATE, environment.window(run))
        for run in runs
    ]
    return statistics.censor(steps, [run.end for run in runs])


def _welch(a: np.ndarray, b: np.ndarray) -> tuple[float, float, float]:
    """The difference of the means, and Welch's interval; nan with one seed."""
    value = float(a.mean() - b.mean())
    if min(len(a), len(b)) < 2:
        return value, np.nan, np.nan
    parts = [x.var(ddof=1) / len(x) for x in (a, b)]
    square = sum(parts)
    if square == 0:
        return value, value, value
    freedom = square**2 / sum(part**2 / (len(x) - 1) for part, x in zip(parts, (a, b), strict=True))
    half = float(stats.t.ppf((1 + LEVEL) / 2, freedom) * np.sqrt(square))
    return value, value - half, value + half


def _outcome(
    low: float, high: float, margin: float, alike: bool, censored: tuple[int, int]
) -> Outcome:
    """By the interval of the difference in favour of `better`."""
    if np.isnan(low) or np.isnan(high):
        return "not decided"
    if alike:
        if any(censored):
            return "not decided"
        if -margin < low and high < margin:
            return "holds"
        return "does not hold" if low > margin or high < -margin else "not decided"
    if low > 0 and not censored[0]:
        return "holds"
    return "does not hold" if high < margin and not censored[1] else "not decided"
