r"""Compatible targets (Definition 1): can one product policy induce every agent's target?

The definition says "for all i, s, a there exists a joint policy"; read in that order each entry
could have a policy of its own, so it is read here as one policy for all of them.

The check is exact because the targets leave no choice: a policy that induces them has
`π'_i(a | o) = t_i(o, a) / Σ_a t_i(o, a)` wherever agent `i` is asked to be, and what it does
elsewhere is never seen. So there is one candidate, and its marginals either are the targets or not.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from dm2.errors import InputError
from dm2.theory import quantities
from dm2.theory.algorithm import pooling
from dm2.theory.games import MarkovGame

__all__ = ["Compatibility", "compatible", "sample_targets", "sampling_tolerance"]

_ROUNDING = 1e-9


class Compatibility(NamedTuple):
    """The answer of `compatible`."""

    compatible: bool
    policy: Float[np.ndarray, "K S A"] | None
    """A product policy that induces the targets; None if there is none."""
    reason: str
    """What contradicts the targets; empty if nothing does."""
    violation: float
    """The largest L1 distance that should be 0: between two agents' state marginals, or between
    a target and what the one candidate induces."""
    tolerance: float
    """The most that is put down to rounding or sampling."""


def sampling_tolerance(samples: int, cells: int, agents: int, confidence: float = 0.99) -> float:
    r"""An L1 radius around `samples` independent draws that holds the truth, for all agents.

    `P(‖p̂ - p‖₁ ≥ t) ≤ 2^cells exp(-n t² / 2)` (Weissman et al. 2003), and a union over agents:
    `t = sqrt(2 (cells log 2 + log(agents / (1 - confidence))) / n)`.
    """
    if samples < 1:
        raise InputError(f"samples = {samples!r}: must be 1 or more")
    if not 0 < confidence < 1:
        raise InputError(f"confidence = {confidence!r}: must be between 0 and 1")
    failure = np.log(agents / (1 - confidence))
    return float(np.sqrt(2 * (cells * np.log(2) + failure) / samples))


def sample_targets(
    game: MarkovGame,
    policies: Float[np.ndarray, "K S A"],
    samples: int,
    rng: np.random.Generator,
) -> Float[np.ndarray, "K S A"]:
    """Marginals estimated from independent draws of `(s, a_i)`, other ones for each agent.

    A draw is a state-action pair at a geometric time, one to an episode; steps of one episode
    depend on each other and are worth fewer.
    """
    exact = quantities.marginals(game, policies)
    flat = exact.reshape(game.agents, -1)
    counts = [rng.multinomial(samples, row / row.sum()) for row in flat]
    return np.stack(counts).reshape(exact.shape) / samples


def compatible(
    game: MarkovGame,
    targets: Float[np.ndarray, "..."],
    observations: np.ndarray | None = None,
    samples: int | None = None,
    confidence: float = 0.99,
) -> Compatibility:
    r"""Whether one product policy induces every target, and which, or why not.

    `observations[i, s]` says what agent `i` sees in state `s` (by default the state itself) and
    restricts the policies to functions of that; targets that look alike count together.
    `samples` is the size of the sample behind each target, None for exact targets. With it, the
    tolerance is such that compatible targets are refused with probability below
    `1 - confidence`: if all estimates are within `t` of the truth (`sampling_tolerance`), then two
    state marginals are within `2 t`, and what the candidate induces is within
    `t (1 + 2 K γ / (1-γ))` of each of them.

    Raises InputError for targets of a wrong shape or that are no distributions.
    """
    wanted = (game.agents, game.states, game.actions)
    if targets.shape != wanted:
        raise InputError(f"targets = shape {targets.shape}: this game needs {wanted}")
    off = float(np.abs(targets.sum((-2, -1)) - 1).max())
    if not (np.isfinite(targets).all() and (targets >= 0).all() and off <= 1e-6):
        given = f"lowest entry {targets.min():g}, a sum off by {off:g}"
        raise InputError(f"targets = {given}: each agent's must be a distribution over (s, a)")
    radius = 0.0
    if samples is not None:
        cells = game.states * game.actions
        radius = sampling_tolerance(samples, cells, game.agents, confidence)
    if observations is None:
        occupied = targets.sum(-1)
        apart = float(np.abs(occupied[:, None] - occupied[None]).sum(-1).max())
        limit = 2 * radius + _ROUNDING
        if apart > limit:
            reason = "the agents' targets are over different states"
            return Compatibility(False, None, reason, apart, limit)
        observations = np.broadcast_to(np.arange(game.states), (game.agents, game.states))
    alike = pooling(observations)
    seen = alike @ targets
    total = seen.sum(-1, keepdims=True)
    uniform = np.full_like(seen, 1 / game.actions)
    candidate = np.divide(seen, total, out=uniform, where=total > 0)
    # Each observation's difference, counted once and not for every state that looks like it.
    difference = np.abs(alike @ quantities.marginals(game, candidate) - seen).sum(-1)
    apart = float((difference / alike.sum(-1)).sum(-1).max())
    gamma = float(game.discount)
    limit = radius * (1 + 2 * game.agents * gamma / (1 - gamma)) + _ROUNDING
    if apart > limit:
        reason = "the only candidate, of the targets' conditionals, visits other states"
        return Compatibility(False, None, reason, apart, limit)
    return Compatibility(True, candidate, "", apart, limit)
