"""The computations of `dm2 theory verify`: every claim on many random games of several sizes."""

from collections.abc import Callable

import numpy as np

from dm2.errors import InputError
from dm2.theory.claims import CLAIMS
from dm2.theory.measurements import MEASUREMENTS, other_convention
from dm2.theory.sample import draw
from dm2.theory.verdict import Verdict

__all__ = ["SIZES", "verify"]

SIZES = (
    (1, 4, 3),
    (2, 2, 2),
    (2, 3, 2),
    (2, 4, 3),
    (2, 6, 2),
    (2, 8, 3),
    (3, 3, 2),
    (3, 4, 2),
    (3, 2, 3),
    (4, 3, 2),
)
"""The numbers of agents, states and actions of the games; each size has an equal share."""


def verify(
    games: int = 1000, seed: int = 0, progress: Callable[[str], None] | None = None
) -> list[Verdict]:
    """Checks every claim of the paper on random games.

    Some claims are enforced: a violation means that the theorem, or this package, is wrong. Other
    statements are assumptions of the paper, or lack a condition that they need. They are measured,
    and their verdict says how often they fail.

    Args:
        games: The number of random games; each size in `dm2.theory.verification.SIZES` has an equal
            share. In addition, a tenth of this number of random starts is run on the handshake.
        seed: The seed of the games, experts and policies. The same seed gives the same verdicts.
        progress: A function that receives one line of text before each size of games.

    Returns:
        One verdict for each claim and setting, those of enforced claims first.

    Raises:
        InputError: If there are fewer games than sizes, or if the seed is negative.

    Example:
        >>> from dm2.theory import verify
        >>> verdicts = verify(games=10, seed=0)
        >>> [v.name for v in verdicts if v.enforced and v.violations]
        []
    """
    if games < len(SIZES):
        raise InputError(f"games = {games}: needs at least {len(SIZES)}, one of each size")
    if seed < 0:
        raise InputError(f"seed = {seed}: must be 0 or more")
    merged: dict[tuple[str, str, str], Verdict] = {}
    streams = np.random.default_rng(seed).spawn(len(SIZES) + 1)
    shares = np.diff(np.linspace(0, games, len(SIZES) + 1).astype(int))
    for size, count, rng in zip(SIZES, shares, streams, strict=False):
        if progress is not None:
            progress("{} games of {} agents, {} states, {} actions".format(count, *size))
        sample = draw(int(count), *size, rng)
        found = [claim(sample) for claim in CLAIMS]
        found += [verdict for measure in MEASUREMENTS for verdict in measure(sample)]
        for verdict in found:
            key = verdict.name, verdict.statement, verdict.setting
            merged[key] = merged[key].merged(verdict) if key in merged else verdict
    for verdict in other_convention(max(1, games // 10), streams[-1]):
        merged[verdict.name, verdict.statement, ""] = verdict
    return sorted(merged.values(), key=lambda verdict: not verdict.enforced)
