"""What becomes of a study's claims: each holds, does not hold, or is not decided.

A claim compares one number a seed of two curves. Its interval is Welch's, at 95 %, for the
difference of the two means; for steps to a level, of their logarithms, which makes it one for the
ratio of the geometric means. With few seeds it is wider than a bootstrap's, which is too narrow
then. Beside the demonstrators, who are one number, it is Student's for the mean of one curve.

For `better` ahead of `than`, by a difference d > 0 in its favour:

- *holds* if the whole interval is above 0;
- *does not hold* if the whole interval is below the smallest difference that matters;
- else it is *not decided* at this many seeds.

For a claim that neither is ahead: *holds* if the whole interval is within the smallest difference
that matters, *does not hold* if the whole interval is outside of it.

A run that never reaches a level counts with its last step, so that its steps are a lower bound. A
claim that `better` is faster cannot come out as *holds* if such a run is among its own, nor as
*does not hold* if one is among the others'. Where no run of either gets there, nothing is known.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from scipy import stats

from dm2.studies import statistics
from dm2.studies.compare import BOUNDS, SIGNS
from dm2.studies.groups import Comparison, Environment, Group, group_runs
from dm2.studies.records import Records
from dm2.studies.runs import MEASURES, Measure
from dm2.studies.study import DEMONSTRATORS, STATISTICS, Claim, Statistic, Study

__all__ = ["Result", "Verdict", "environment_name", "judge", "results_of"]

Outcome = Literal["holds", "does not hold", "not decided"]
LEVEL = 0.95
WIN_RATE = 0.8
"""The level of `steps_to_80`."""


@dataclass(frozen=True)
class Verdict:
    """A claim in one environment."""

    claim: Claim
    env: str
    measure: Measure = "win_rate"
    """What the environment is compared by."""
    outcome: Outcome = "not decided"
    value: float = np.nan
    """The difference of the means, `better` minus `than`; of steps, the ratio of the geometric
    means. nan if there is none."""
    low: float = np.nan
    high: float = np.nan
    """The interval; nan where a curve has one seed."""
    seeds: tuple[int, int] = (0, 0)
    """Of `better` and of `than`."""
    improvement: float = np.nan
    """The probability that a run of `better` is ahead of one of `than`, ties counting half."""
    censored: tuple[int, int] = (0, 0)
    """How many runs never reach the level."""
    unknown: str = ""
    """Why there is nothing to judge by, if so."""

    @property
    def statistic(self) -> str:
        """What the claim is about, in words."""
        return STATISTICS[self.claim.by].format(measure=MEASURES[self.measure])

    @property
    def bound(self) -> str | None:
        """Which way runs that never get there bound the ratio: `lower`, `upper`, or `unknown`."""
        return BOUNDS.get((self.censored[0] > 0, self.censored[1] > 0))

    @property
    def seeds_text(self) -> str:
        """`3/3`, or that there is nothing to judge by."""
        return "/".join(map(str, self.seeds)) if any(self.seeds) else "—"

    @property
    def note(self) -> str:
        """What else there is to say: why nothing is known, or how many runs never get there."""
        sides = zip((self.claim.better, self.claim.than), self.censored, self.seeds, strict=True)
        short = [
            f"{count} of {seeds} runs of {label} never get there"
            for label, count, seeds in sides
            if count
        ]
        return self.unknown or "; ".join(short)

    def value_text(self, digits: int) -> str:
        """`+0.12` above its interval; of steps `× 0.64`, marked where it is only a bound."""
        ratio = self.claim.by == "steps_to_80"
        form = f".{digits}f" if ratio else f"+.{digits}f"
        if np.isnan(self.value):
            return "—"
        text = SIGNS.get(self.bound or "", "") + ("× " if ratio else "") + format(self.value, form)
        if np.isnan(self.low) or np.isnan(self.high):
            return text
        return f"{text}\n{self.low:{form}} to {self.high:{form}}"


@dataclass(frozen=True)
class Result:
    """A study with what was found."""

    study: Study
    comparison: Comparison
    exchanges: Mapping[tuple[str, str], Any]
    """By environment and label: the win rates of teams that exchanged agents, `[S, S]`."""
    verdicts: list[Verdict]
    """Of every claim, in every environment that is to have both its curves."""
    unfinished: list[str]
    """The curves of which not all runs are settled, a sentence each."""


def results_of(study: Study, records: Records) -> Result:
    """Judges a study by what is known of its runs; those that are missing are left out."""
    runs = []
    for curve in study.curves:
        for training in curve.runs:
            if training.name in records.runs:
                runs.append(records.labelled(training.name, curve.label))
    comparison = group_runs(runs, same=True)
    played = {
        (exchange.runs[0].config.env, label): records.exchanges[exchange.name]
        for label, exchange in study.exchanges
        if exchange.name in records.exchanges
    }
    verdicts = [
        verdict for claim in study.claims for verdict in _verdicts(study, claim, comparison, played)
    ]
    return Result(study, comparison, played, verdicts, _unfinished(study, records))


def environment_name(title: str) -> str:
    """The environment's name, without the version that may follow it in a comparison."""
    return title.partition(" (")[0]


def _unfinished(study: Study, records: Records) -> list[str]:
    said = []
    for curve in study.curves:
        runs = [records.runs[run.name] for run in curve.runs if run.name in records.runs]
        settled = [run for run in runs if run.finished or run.diverged]
        if len(settled) < len(curve.runs):
            text = f"{curve.label} in {curve.env}: {len(settled)} of {len(curve.runs)} runs are"
            text += " finished"
            if runs and not settled:
                text += f"; the others are used up to step {min(run.end for run in runs):,.0f}"
            said.append(text)
    return said


def _verdicts(
    study: Study, claim: Claim, comparison: Comparison, exchanges: Mapping[tuple[str, str], Any]
) -> Iterator[Verdict]:
    """The verdicts on a claim, those in environments that lack one of its curves last."""
    lacking = _envs(study, claim)
    for title, environment in comparison.environments.items():
        verdict = judge(claim, title, environment, exchanges)
        if verdict is not None:
            lacking.pop(environment_name(title), None)
            yield verdict
    for env in lacking:
        yield Verdict(claim, env, unknown="no runs yet")


def _envs(study: Study, claim: Claim) -> dict[str, None]:
    """The environments in which the study is to have both curves, or both exchanges."""
    places = [(curve.env, curve.label) for curve in study.curves]
    if claim.by == "kept":
        places = [(exchange.runs[0].config.env, label) for label, exchange in study.exchanges]
    return {env: None for env, _ in places if all((env, label) in places for label in claim.curves)}


def judge(
    claim: Claim, title: str, environment: Environment, exchanges: Mapping[tuple[str, str], Any]
) -> Verdict | None:
    """The verdict on a claim in one environment, by the runs of its two curves alone; None if the
    environment lacks one of them."""
    labels = claim.curves
    if claim.by == "kept":
        places = [(environment_name(title), label) for label in labels]
        rates = [exchanges[place] for place in places if place in exchanges]
        if len(rates) < len(labels):
            return None
        return _verdict(claim, title, "win_rate", [(_kept(one), 0) for one in rates])
    if not environment.groups.keys() >= set(labels):
        return None
    pair = environment.only(*labels)
    if claim.by == "steps_to_80" and pair.measure == "return":
        unknown = "nobody can win here, so that no run comes to 80 %"
        return Verdict(claim, title, pair.measure, unknown=unknown)
    values = [_values(claim.by, pair.groups[label], pair) for label in labels]
    if claim.than == DEMONSTRATORS:  # of no variance, so that Welch's interval is Student's
        known = [run.demo_value for run in pair.groups[claim.better].runs]
        if None in known:
            unknown = f"what {DEMONSTRATORS} reach is not known"
            return Verdict(claim, title, pair.measure, unknown=unknown)
        values.append((np.array(known), 0))
    return _verdict(claim, title, pair.measure, values)


def _verdict(
    claim: Claim, title: str, measure: Measure, values: Sequence[tuple[np.ndarray, int]]
) -> Verdict:
    """The verdict by the values of both curves, one a seed, and how many of them are bounds."""
    (better, first), (than, second) = values
    seeds, censored = (len(better), len(than)), (first, second)
    if censored == seeds:  # the ratio of two budgets says nothing
        return Verdict(claim, title, measure, seeds=seeds, censored=censored)
    lower = claim.by == "steps_to_80"
    if lower:
        better, than = np.log(np.maximum(better, 1.0)), np.log(np.maximum(than, 1.0))
    value, low, high = _welch(better, than)
    margin = -np.log1p(-claim.margin) if lower else claim.margin
    # In favour of `better`: fewer steps, or a higher value.
    ahead = (-high, -low) if lower else (low, high)
    span = np.exp([value, low, high]) if lower else (value, low, high)
    sign = -1 if lower else 1
    return Verdict(
        claim,
        title,
        measure,
        _outcome(*ahead, margin, claim.alike, censored),
        float(span[0]),
        float(span[1]),
        float(span[2]),
        seeds,
        statistics.probability_of_improvement(sign * better, sign * than),
        censored,
    )


def _kept(rates: Float[np.ndarray, "S S"]) -> Float[np.ndarray, " S"]:
    """What each team's win rate changes by when an agent is of another team."""
    others = ~np.eye(len(rates), dtype=bool)
    mixed = np.array([row[kept].mean() for row, kept in zip(rates, others, strict=True)])
    return mixed - np.diag(rates)


def _values(
    by: Statistic, group: Group, environment: Environment
) -> tuple[Float[np.ndarray, " seeds"], int]:
    """One number a seed, and how many of them are bounds."""
    if by == "area":
        return environment.areas(group), 0
    if by == "final":
        return environment.finals(group), 0
    return statistics.censor(environment.steps_to(group, WIN_RATE), group.ends)


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
