"""The check of Definition 1: does one product policy induce the targets of all agents?

The definition says "for all i, s, a there exists a joint policy". Read in that order, each entry
could have a policy of its own. This module reads it as one policy for all entries.

The check is exact, because the targets determine the policy. A policy that induces them has
`π'_i(a | o) = t_i(o, a) / Σ_a t_i(o, a)` wherever the target of agent `i` is positive, and its
actions elsewhere have no effect on the marginals. There is therefore one candidate, and the check
compares its marginals with the targets.
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
    """Whether one product policy induces all targets."""
    policy: Float[np.ndarray, "K S A"] | None
    """The product policy that induces the targets, `[K, S, A]`; None if there is none."""
    reason: str
    """The contradiction that was found; empty if there is none."""
    violation: float
    """The largest L1 distance that would be 0 for exact and compatible targets. It is the distance
    between the state marginals of two agents, or between a target and the marginal that the
    candidate policy induces."""
    tolerance: float
    """The largest distance that rounding or sampling can explain."""


def sampling_tolerance(samples: int, cells: int, agents: int, confidence: float = 0.99) -> float:
    """The L1 radius around an estimated distribution that contains the true one, for all agents at
    once.

    The bound is `P(‖p̂ - p‖₁ ≥ t) ≤ 2^cells exp(-n t² / 2)` (Weissman et al. 2003). A union bound
    over the agents gives `t = sqrt(2 (cells log 2 + log(agents / (1 - confidence))) / n)`.

    Args:
        samples: The number `n` of independent draws for each agent.
        cells: The number of entries of the distribution.
        agents: The number of agents.
        confidence: The probability that all true distributions are within the radius.

    Returns:
        The radius `t`.

    Raises:
        InputError: If there are no samples, or if the confidence is not between 0 and 1.
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
    """Estimates the marginals of a team from independent draws of `(s, a_i)`.

    Each agent has its own draws. A draw is the state-action pair at a geometric time, and each
    episode gives one draw. The steps of one episode depend on each other and would count for less.

    Args:
        game: The game, not a batch.
        policies: The policy of each agent, `[K, S, A]`.
        samples: The number of draws for each agent.
        rng: The source of random numbers.

    Returns:
        The estimated marginals, `[K, S, A]`.
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
    """Decides whether one product policy induces the targets of all agents (Definition 1).

    If each target is an estimate from `samples` draws, the tolerance is such that compatible
    targets are rejected with a probability below `1 - confidence`. It follows from the radius `t`
    of `sampling_tolerance`: if all estimates are within `t` of the true targets, two state
    marginals are within `2 t` of each other, and what the candidate policy induces is within `t (1
    + 2 K γ / (1-γ))` of each target.

    Args:
        game: The game, not a batch.
        targets: The target marginal of each agent, `[K, S, A]`.
        observations: The observation of agent `i` in state `s` as `observations[i, s]`, `[K, S]`.
            It restricts the policies to functions of the observation, and targets with the same
            observation are added up. By default each agent observes the state.
        samples: The number of independent draws behind each target; None if the targets are exact.
        confidence: The probability with which compatible targets are accepted; only with `samples`.

    Returns:
        The verdict, with the policy that induces the targets or the reason why there is none.

    Raises:
        InputError: If the targets have a wrong shape or are not distributions, if `observations`
            does not have two axes, or if `samples` or `confidence` is out of range.

    Example:
        >>> from dm2.theory import compatible, marginals, scenario
        >>> game, expert, start = scenario("four-tile")
        >>> targets = marginals(game, expert)
        >>> compatible(game, targets).compatible
        True
        >>> targets[1] = marginals(game, start)[1]  # agent 1 takes its target from another team
        >>> compatible(game, targets).reason
        "the agents' targets are over different states"
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
    pooled = alike @ targets
    total = pooled.sum(-1, keepdims=True)
    uniform = np.full_like(pooled, 1 / game.actions)
    candidate = np.divide(pooled, total, out=uniform, where=total > 0)
    # Each observation's difference, counted once and not for every state that looks like it.
    difference = np.abs(alike @ quantities.marginals(game, candidate) - pooled).sum(-1)
    apart = float((difference / alike.sum(-1)).sum(-1).max())
    gamma = float(game.discount)
    limit = radius * (1 + 2 * game.agents * gamma / (1 - gamma)) + _ROUNDING
    if apart > limit:
        reason = "the only candidate, of the targets' conditionals, visits other states"
        return Compatibility(False, None, reason, apart, limit)
    return Compatibility(True, candidate, "", apart, limit)
