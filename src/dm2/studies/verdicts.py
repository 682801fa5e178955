"""What becomes of a study's claims: each holds, does not hold, or is not decided.

A claim compares one number a seed of two curves. Its interval is Welch's, at 95 %, for the
difference of the two means; for steps to a level, of their logarithms, which makes it one for the
ratio of the geometric means. With few seeds it is wider than a bootstrap's, which is too narrow
then. Beside the demonstrators, who are one number, it is Student's for the mean of one curve.

For a difference d in favour of `better`, where m is the smallest that matters, a claim

========= ============================= =====================================
kind      holds if the whole interval   does not hold if the whole interval
========= ============================= =====================================
ahead     is above 0                    is below m, which goes before
far ahead is above m                    is below m
no worse  is above -m                   is below -m
alike     is within -m and m            is outside of -m and m
========= ============================= =====================================

and else it is not decided at this many seeds. Nor is it while runs are not finished, where nobody
wins at all, where all runs of a curve diverged, or where demonstrators who are to be surpassed
leave less than m to do so.

A run that never reaches a level counts with its last step, so that its steps are a lower bound. A
claim that `better` is faster cannot come out as *holds* if such a run is among its own, nor as
*does not hold* if one is among the others'. A run that diverged, and is left out of all numbers,
stands in the way likewise. Where runs of both never get there, nothing is known.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from scipy import stats

from dm2.studies import statistics
from dm2.studies.compare import BOUNDS, SIGNS
from dm2.studies.groups import Comparison, Environment, Group, group_runs
from dm2.studies.records import Records
from dm2.studies.runs import MEASURES, Measure
from dm2.studies.study import DEMONSTRATORS, STATISTICS, Claim, Kind, Statistic, Study

__all__ = ["NO_RUNS", "Result", "Verdict", "environment_name", "judge", "results_of", "smallest"]

Outcome = Literal["holds", "does not hold", "not decided"]
LEVEL = 0.95
WIN_RATE = 0.8
"""The level of `steps_to_80`."""
MARGIN = 0.05
"""The smallest difference that matters, where a claim names none."""
NO_RUNS = "no runs yet"
"""Why a claim is undecided where one of its curves, or both, has no run."""
_Values = tuple[np.ndarray, np.ndarray]
"""One number a seed, and which of them are lower bounds."""


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
    """The probability that a run of `better` is ahead of one of `than`, ties counting half; nan
    where runs that never get there are shorter than others take."""
    censored: tuple[int, int] = (0, 0)
    """How many runs never reach the level."""
    diverged: tuple[int, int] = (0, 0)
    """How many runs diverged."""
    undecided: str = ""
    """Why the numbers, if there are any, decide nothing."""

    @property
    def statistic(self) -> str:
        """What the claim is about, in words."""
        return STATISTICS[self.claim.by].format(measure=MEASURES[self.measure])

    @property
    def bound(self) -> str | None:
        """Which way runs that never get there bound the ratio: `lower` or `upper`."""
        return BOUNDS.get((self.censored[0] > 0, self.censored[1] > 0))

    @property
    def seeds_text(self) -> str:
        """`3 and 3`, or that there is nothing to judge by."""
        return " and ".join(map(str, self.seeds)) if any(self.seeds) else "—"

    @property
    def note(self) -> str:
        """What else there is to say: why nothing is decided, how many runs never get there, and how
        many diverged."""
        labels = (self.claim.better, self.claim.than)
        said = [self.undecided] if self.undecided else []
        for label, count, seeds in zip(labels, self.censored, self.seeds, strict=True):
            if count:
                said.append(f"{count} of {seeds} runs of {label} never get there")
        for label, count in zip(labels, self.diverged, strict=True):
            if count:
                said.append(f"{count} of {label} diverged")
        return "; ".join(said)

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
    gone = _all_diverged(study, records)
    verdicts = [
        verdict
        for claim in study.claims
        for verdict in _verdicts(study, claim, comparison, played, gone)
    ]
    return Result(study, comparison, played, verdicts, _unfinished(study, records))


def environment_name(title: str) -> str:
    """The environment's name, without the version that may follow it in a comparison."""
    return title.partition(" (")[0]


def _all_diverged(study: Study, records: Records) -> set[tuple[str, str]]:
    """The curves all of whose runs diverged, by environment and label."""
    gone = set()
    for curve in study.curves:
        runs = [records.runs.get(run.name) for run in curve.runs]
        if all(run is not None and run.diverged for run in runs):
            gone.add((curve.env, curve.label))
    return gone


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
    study: Study,
    claim: Claim,
    comparison: Comparison,
    exchanges: Mapping[tuple[str, str], Any],
    diverged: Collection[tuple[str, str]],
) -> Iterator[Verdict]:
    """The verdicts on a claim, those in environments that lack one of its curves last."""
    gone = {
        env: [label for label in claim.curves if (env, label) in diverged]
        for env in study.envs_of(claim)
    }
    judged = set()
    for title, environment in comparison.environments.items():
        env = environment_name(title)
        verdict = None if gone.get(env) else judge(claim, title, environment, exchanges)
        if verdict is not None:
            judged.add(env)
            yield verdict
    for env, labels in gone.items():
        if env not in judged:
            why = f"all runs of {' and of '.join(labels)} diverged" if labels else NO_RUNS
            yield Verdict(claim, env, undecided=why)


def judge(
    claim: Claim, title: str, environment: Environment, exchanges: Mapping[tuple[str, str], Any]
) -> Verdict | None:
    """The verdict on a claim in one environment, by the runs of its two curves alone; None if the
    environment lacks one of them."""
    labels = claim.curves
    if claim.by == "kept":
        return _judge_exchanges(claim, title, environment, exchanges)
    if not environment.groups.keys() >= set(labels):
        return None
    pair = environment.only(*labels)
    groups = [pair.groups[label] for label in labels]
    blank = _blank(claim, title, environment)
    if claim.by == "steps_to_80" and pair.measure == "return":
        unknown = "nobody can win here, so that no run comes to 80 %"
        return replace(blank, undecided=unknown)
    values = [_values(claim.by, group, pair) for group in groups]
    if claim.than == DEMONSTRATORS:  # of no variance, so that Welch's interval is Student's
        known = [run.demo_value for run in groups[0].runs]
        if None in known:
            return replace(blank, undecided=f"what {DEMONSTRATORS} reach is not known")
        values.append(_exact(np.array(known, float)))
    if pair.measure == "win_rate" and not any(x.any() for x, _ in values):
        blank = _undecided(blank, "nobody wins")
    elif claim.than == DEMONSTRATORS and pair.measure == "win_rate":
        most = 1.0 - smallest(claim, pair.measure)
        if claim.kind in ("ahead", "far ahead") and values[1][0].max() > most:
            blank = _undecided(blank, f"{DEMONSTRATORS} win too often to be surpassed")
    return _verdict(blank, values)


def _judge_exchanges(
    claim: Claim, title: str, environment: Environment, exchanges: Mapping[tuple[str, str], Any]
) -> Verdict | None:
    """The verdict on what an agent of another team costs; None if an exchange is missing."""
    places = [(environment_name(title), label) for label in claim.curves]
    rates = [exchanges[place] for place in places if place in exchanges]
    if len(rates) < len(places):
        return None
    blank = _blank(claim, title, environment)
    if not any(one.any() for one in rates):
        blank = _undecided(blank, "nobody wins")
    return _verdict(blank, [_exact(_kept(one)) for one in rates])


def _blank(claim: Claim, title: str, environment: Environment) -> Verdict:
    """A verdict without numbers: how many runs diverged, and that nothing is decided while others
    are not finished."""
    groups = [environment.groups.get(label, Group([], [])) for label in claim.curves]
    diverged = [sum(run.diverged for run in (*g.runs, *g.left_out)) for g in groups]
    finished = all(run.finished or run.diverged for group in groups for run in group.runs)
    return Verdict(
        claim,
        title,
        environment.measure,
        diverged=(diverged[0], sum(diverged[1:])),
        undecided="" if finished else "not all runs are finished",
    )


def _undecided(verdict: Verdict, why: str) -> Verdict:
    """It decides nothing, for this reason unless there is another already."""
    return replace(verdict, undecided=verdict.undecided or why)


def _exact(values: Float[np.ndarray, " seeds"]) -> _Values:
    return values, np.zeros(len(values), bool)


def _verdict(blank: Verdict, values: Sequence[_Values]) -> Verdict:
    """The verdict by the values of both curves.

    Args:
        blank: What is known of it without these.
        values: Of `better` and of `than`.
    """
    claim = blank.claim
    (better, first), (than, second) = values
    censored = int(first.sum()), int(second.sum())
    blank = replace(blank, seeds=(len(better), len(than)), censored=censored)
    if all(censored):  # two lower bounds bound their ratio neither way
        return blank
    # Who is ahead is not known of a run that never got there, and another that took longer.
    known = not (better[first] < than.max()).any() and not (than[second] < better.max()).any()
    lower = claim.by == "steps_to_80"
    if lower:
        better, than = np.log(np.maximum(better, 1.0)), np.log(np.maximum(than, 1.0))
    value, low, high = _welch(better, than)
    margin = smallest(claim, blank.measure)
    margin = -np.log1p(-margin) if lower else margin
    # In favour of `better`: fewer steps, or a higher value.
    ahead = (-high, -low) if lower else (low, high)
    bounds = (censored[0] + blank.diverged[0] > 0, censored[1] + blank.diverged[1] > 0)
    span = np.exp([value, low, high]) if lower else (value, low, high)
    sign = -1 if lower else 1
    return replace(
        blank,
        outcome="not decided" if blank.undecided else _outcome(claim.kind, ahead, margin, bounds),
        value=float(span[0]),
        low=float(span[1]),
        high=float(span[2]),
        improvement=statistics.probability_of_improvement(sign * better, sign * than)
        if known
        else np.nan,
    )


def smallest(claim: Claim, measure: Measure) -> float:
    """The smallest difference that matters in a claim, by what an environment is compared by."""
    if claim.margin is not None:
        return claim.margin
    return 0.0 if measure == "return" else MARGIN


def _kept(rates: Float[np.ndarray, "S S"]) -> Float[np.ndarray, " S"]:
    """What each team's win rate changes by when an agent is of another team."""
    others = ~np.eye(len(rates), dtype=bool)
    mixed = np.array([row[kept].mean() for row, kept in zip(rates, others, strict=True)])
    return mixed - np.diag(rates)


def _values(by: Statistic, group: Group, environment: Environment) -> _Values:
    if by == "area":
        return _exact(environment.areas(group))
    if by == "final":
        return _exact(environment.finals(group))
    steps = environment.steps_to(group, WIN_RATE)
    return statistics.censor(steps, group.ends)[0], np.isinf(steps)


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
    kind: Kind, ahead: tuple[float, float], margin: float, bounds: tuple[bool, bool]
) -> Outcome:
    """What becomes of a claim.

    Args:
        kind: What is claimed.
        ahead: The interval of the difference in favour of `better`.
        margin: The smallest difference that matters.
        bounds: Whether `better` may in truth be worse, and `than`, since runs of theirs never got
            where they were to get, or diverged.
    """
    low, high = ahead
    if np.isnan(low) or np.isnan(high):
        return "not decided"
    if kind == "alike":
        if any(bounds):
            return "not decided"
        if -margin < low and high < margin:
            return "holds"
        return "does not hold" if low > margin or high < -margin else "not decided"
    fails = {"ahead": margin, "far ahead": margin, "no worse": -margin}[kind]
    holds = {"ahead": 0.0, "far ahead": margin, "no worse": -margin}[kind]
    if high < fails:
        return "not decided" if bounds[1] else "does not hold"
    return "holds" if low > holds and not bounds[0] else "not decided"
