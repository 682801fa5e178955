"""What the check of a claim comes to: a verdict, judged by margins.

A margin is positive or zero where a claim holds. The claim is violated in a game whose margin is
below `-TOLERANCE`.
"""

from typing import Any, NamedTuple

import numpy as np

__all__ = ["REACHED", "TOLERANCE", "Verdict", "judge"]

TOLERANCE = 1e-8
"""The largest negative margin that counts as rounding: linear systems with `1 / (1-γ)` up to 33 in
float64.
"""
REACHED = 1e-3
"""The expert counts as reached if no policy is further from it than this, in total variation."""


class Verdict(NamedTuple):
    """The result of checking one claim on a number of games."""

    name: str
    """The name of the claim in the paper."""
    statement: str
    """What was checked, as a formula or a few words."""
    games: int
    """The number of games."""
    violations: int
    """The number of games in which the claim fails."""
    margin: float
    """The smallest margin over all games and policies. A negative margin beyond rounding is a
    violation."""
    enforced: bool = True
    """Whether a violation is an error. A statement that is only measured is not enforced."""
    cases: int = 0
    """The number of single cases, for measurements that count updates or states; 0 otherwise."""
    broken: int = 0
    """The number of cases in which the claim fails."""
    setting: str = ""
    """The reward form and the order of updates, for runs of Algorithm 2; empty otherwise."""

    @property
    def verdict(self) -> str:
        """A text: `holds` or `VIOLATED`, or how often a measured statement fails."""
        if self.enforced:
            return "VIOLATED" if self.violations else "holds"
        text = f"fails in {self.violations / self.games:.1%} of games"
        return f"{text}, {self.broken / self.cases:.2%} of cases" if self.cases else text

    def merged(self, other: "Verdict") -> "Verdict":
        """Combines two verdicts of the same claim on different games.

        Args:
            other: The other verdict.

        Returns:
            A verdict with the sums of all counts and the smaller margin.
        """
        return self._replace(
            games=self.games + other.games,
            violations=self.violations + other.violations,
            margin=min(self.margin, other.margin),
            cases=self.cases + other.cases,
            broken=self.broken + other.broken,
        )

    def to_dict(self) -> dict[str, Any]:
        """Converts the verdict to plain values for JSON.

        Returns:
            The fields and the text of `verdict`, by their names.
        """
        return {**self._asdict(), "verdict": self.verdict}


def judge(name: str, statement: str, margins: np.ndarray, **more: Any) -> Verdict:
    """Builds a verdict from margins.

    Args:
        name: The name of the claim.
        statement: What was checked.
        margins: The margins, `[*policies, games]`. A margin of NaN counts as a violation.
        more: Further fields of `Verdict`.

    Returns:
        The verdict; a game counts once, with its smallest margin.
    """
    worst = np.asarray(margins, np.float64).reshape(-1, np.shape(margins)[-1]).min(0)
    violations = int((~(worst >= -TOLERANCE)).sum())
    return Verdict(name, statement, worst.size, violations, float(worst.min()), **more)
