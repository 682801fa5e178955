"""A study is data: the runs behind each curve of a figure, and the claims that they test."""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from dm2.errors import (
    InputError,
    check_choice,
    check_setting,
    checks_itself,
    convert_fields,
)
from dm2.studies.products import Exchange, Product, Training, in_order

__all__ = [
    "DEMONSTRATORS",
    "STATISTICS",
    "Claim",
    "Curve",
    "Kind",
    "Statistic",
    "Study",
    "needed",
]

Statistic = Literal["area", "final", "steps_to_80", "kept"]
STATISTICS: dict[Statistic, str] = {
    "area": "area under the {measure}",
    "final": "final {measure}",
    "steps_to_80": "environment steps to a test win rate of 80 %",
    "kept": "change of the win rate by an agent of another team",
}
"""What claims are about, in words, by what an environment is compared by. One number a seed
each."""
Kind = Literal["ahead", "far ahead", "no worse", "alike"]
"""What is claimed of a difference d in favour of one curve, where m is the smallest that matters:
d > 0, d > m, d > -m, or -m < d < m."""
DEMONSTRATORS = "its demonstrators"
"""What a claim names in place of a second curve to compare the first with the team whose
demonstrations it imitates: with what that reached in the episodes that were recorded."""
_FAR_APART = 30.0
"""From this ratio of the highest to the lowest level on, an axis is logarithmic."""


@checks_itself
@dataclass(frozen=True)
class Curve:
    """Runs that differ in their seed alone, in one environment."""

    label: str
    """What it is called, in all environments alike."""
    runs: tuple[Training, ...]
    level: float | None = None
    """Where it stands on the horizontal axis, in a study of levels."""

    def __post_init__(self) -> None:
        convert_fields(self, f"curve {self.label!r}, ")
        remedy = "stands for those who recorded; choose another"
        check_setting(self.label != DEMONSTRATORS, "label", self.label, remedy)
        check_setting(bool(self.runs), f"runs of {self.label}", self.runs, "must be one at least")
        envs = {run.config.env for run in self.runs}
        check_setting(len(envs) == 1, f"runs of {self.label}", envs, "must be of one environment")
        seeds = [run.config.seed for run in self.runs]
        once = len(set(seeds)) == len(seeds)
        check_setting(once, f"seeds of {self.label}", seeds, "must be a seed for each run")

    @property
    def env(self) -> str:
        """The environment's name."""
        return self.runs[0].config.env


@checks_itself
@dataclass(frozen=True)
class Claim:
    """A claim about two curves, judged in every environment that has both.

    `better` is compared with `than` by a statistic with one number a seed, and `kind` says what is
    claimed of the difference. Where `than` is `DEMONSTRATORS`, the final value of one curve is
    compared with that of the team that it imitates.
    """

    text: str
    """The claim, as a sentence that needs no other."""
    better: str
    than: str
    by: Statistic = "area"
    kind: Kind = "ahead"
    margin: float | None = None
    """The smallest difference that matters: of win rates and of returns as they are, of steps as a
    share of them. By default 0.05, and of returns, whose scale is the environment's, 0."""
    source: str = ""
    """Where the claim comes from, such as `Figure 2`."""

    def __post_init__(self) -> None:
        prefix = f"claim {self.text!r}, "
        convert_fields(self, prefix)
        check_choice(self, prefix, "by", Statistic)
        check_choice(self, prefix, "kind", Kind)
        apart = self.better != self.than
        check_setting(apart, prefix + "than", self.than, "must be another curve than `better`")
        fits = self.than != DEMONSTRATORS or self.by == "final"
        check_setting(fits, prefix + "by", self.by, f"must be final, of {DEMONSTRATORS}")
        below = 1.0 if self.by == "steps_to_80" else math.inf
        remedy = "must be a number from 0 up, and below 1 where it is a share of steps"
        fits = self.margin is None or 0 <= self.margin < below
        check_setting(fits, prefix + "margin", self.margin, remedy)

    @property
    def pair(self) -> str:
        """`DM² − IPPO`, or of steps, which are compared by their ratio, `DM² / IPPO`."""
        return f"{self.better} {'/' if self.by == 'steps_to_80' else '−'} {self.than}"

    @property
    def curves(self) -> tuple[str, ...]:
        """The labels of the curves that it is about."""
        return (self.better,) if self.than == DEMONSTRATORS else (self.better, self.than)


@checks_itself
@dataclass(frozen=True)
class Study:
    """What is run, how it is drawn, and what it tests.

    Raises InputError if it has no curve, a claim or an exchange is about one that there is not, a
    claim is about curves of no common environment, or two curves of one environment have one label.
    """

    name: str
    """Up to 100 letters, digits, - and _: files are called by it."""
    title: str
    question: str
    """What it is to find out, in a sentence or two."""
    curves: tuple[Curve, ...]
    claims: tuple[Claim, ...] = ()
    exchanges: tuple[tuple[str, Exchange], ...] = ()
    """Labels of curves, and the exchanges between the teams of their runs."""
    axis: str | None = None
    """What the levels of the curves are, where it is a study of levels: it is then drawn as a
    number of each curve over them."""

    def __post_init__(self) -> None:
        convert_fields(self, "study.")
        remedy = "must be up to 100 letters, digits, - and _"
        named = bool(re.fullmatch(r"[\w-]{1,100}", self.name))
        check_setting(named, "study.name", self.name, remedy)
        check_setting(
            bool(self.curves), f"curves of {self.name}", self.curves, "must be one at least"
        )
        labels = {curve.label for curve in self.curves}
        exchanged = {label for label, _ in self.exchanges}
        for label in exchanged:
            self._check_label("exchange", label, labels)
        for claim in self.claims:
            for label in claim.curves:
                self._check_label("claim", label, exchanged if claim.by == "kept" else labels)
            if not self.envs_of(claim):
                remedy = "have no environment in common; give them one"
                raise InputError(f"claim of {self.name} = {claim.pair!r}: its curves {remedy}")
        places = [(curve.env, curve.label) for curve in self.curves]
        for place in places:
            if places.count(place) > 1:
                remedy = "give every curve of an environment a label of its own"
                raise InputError(f"curves of {self.name} = {place}: there are two; {remedy}")
        if self.axis is not None and all(curve.level is None for curve in self.curves):
            raise InputError(f"axis of {self.name} = {self.axis!r}: no curve has a level")

    def _check_label(self, kind: str, label: str, known: set[str]) -> None:
        remedy = f"must be one of {', '.join(sorted(known))}" if known else "there is no exchange"
        check_setting(label in known, f"{kind} of {self.name}", label, remedy)

    @property
    def runs(self) -> list[Training]:
        """The runs behind its curves, each once."""
        return list({run.name: run for curve in self.curves for run in curve.runs}.values())

    @property
    def products(self) -> list[Product]:
        """All that it needs, each after what it is made of."""
        exchanges: Iterable[Product] = (exchange for _, exchange in self.exchanges)
        return in_order([*self.runs, *exchanges])

    def envs_of(self, claim: Claim) -> list[str]:
        """The environments that are to have both curves of a claim, or both exchanges."""
        places = [(curve.env, curve.label) for curve in self.curves]
        if claim.by == "kept":
            places = [(exchange.runs[0].config.env, label) for label, exchange in self.exchanges]
        envs = dict.fromkeys(env for env, _ in places)
        return [env for env in envs if all((env, label) in places for label in claim.curves)]

    @property
    def seeds_of_exchanges(self) -> dict[tuple[str, str], list[int]]:
        """By environment and label of an exchange, the seeds of its teams."""
        return {
            (exchange.runs[0].config.env, label): [run.config.seed for run in exchange.runs]
            for label, exchange in self.exchanges
        }

    @property
    def levels(self) -> dict[str, float]:
        """By its label, the level of each curve that has one."""
        return {curve.label: curve.level for curve in self.curves if curve.level is not None}

    @property
    def logarithmic(self) -> bool:
        """Whether levels are so far apart that their axis is a logarithmic one, which has no 0."""
        levels = self.levels.values()
        return min(levels, default=0) > 0 and max(levels) >= _FAR_APART * min(levels)

    @property
    def labels(self) -> list[str]:
        """The labels of its curves, in their order."""
        return list(dict.fromkeys(curve.label for curve in self.curves))


def needed(studies: Sequence[Study]) -> list[Product]:
    """All that several studies need, each product once and after what it is made of."""
    return in_order(product for study in studies for product in study.products)
