"""The random games, experts and joint policies on which claims are checked."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from dm2.theory import quantities
from dm2.theory.games import MarkovGame, random_games, random_policies

__all__ = ["Sample", "draw"]


class Sample(NamedTuple):
    """A batch of games of one size, each with a random deterministic expert and joint policies."""

    game: MarkovGame
    """The batch of games."""
    expert: Float[np.ndarray, "B K S A"]
    """The policies of the experts, `[B, K, S, A]`."""
    policies: tuple[Float[np.ndarray, "B K S A"], ...]
    """Joint policies to test, `[B, K, S, A]` each: the uniform one, random ones from nearly uniform
    to deterministic, one near the expert, one that differs from the expert in agent 0 alone, and
    the expert."""
    low: Float[np.ndarray, "B S"]
    """The least visitation of each state, `min_π ρ_π(s)`, `[B, S]`."""
    high: Float[np.ndarray, "B S"]
    """The greatest visitation of each state, `max_π ρ_π(s)`, `[B, S]`."""
    rng: np.random.Generator
    """The source of random numbers for claims that draw more."""

    @property
    def epsilon(self) -> Float[np.ndarray, " B"]:
        """The largest `ε` for which Condition 1 holds."""
        return self.low.min(-1)


def draw(count: int, agents: int, states: int, actions: int, rng: np.random.Generator) -> Sample:
    """Draws a sample of random games of one size, with random deterministic experts.

    Args:
        count: The number of games.
        agents: The number `K` of agents.
        states: The number `S` of states.
        actions: The number `A` of actions of one agent.
        rng: The source of random numbers; the sample keeps it.

    Returns:
        The sample.
    """
    game = random_games(count, agents, states, actions, rng)
    shape = (count, agents, states)
    expert = np.eye(actions)[rng.integers(actions, size=shape)]
    near = 0.95 * expert + 0.05 * random_policies(game, rng)
    but_one = expert.copy()
    but_one[:, 0] = random_policies(game, rng)[:, 0]
    policies = (
        np.full_like(expert, 1 / actions),
        random_policies(game, rng),
        random_policies(game, rng, 0.2),
        np.eye(actions)[rng.integers(actions, size=shape)],
        near,
        but_one,
        expert,
    )
    low, high = quantities.visitation_bounds(game)
    return Sample(game, expert, policies, low, high, rng)
