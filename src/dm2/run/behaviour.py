"""How a team behaves while it is recorded: it samples, is greedy, or explores at times."""

from typing import Any, NamedTuple, SupportsFloat

import jax.numpy as jnp
import numpy as np

from dm2.errors import InputError, check_setting
from dm2.run.team import TrainedTeam

__all__ = [
    "Behaviour",
    "Epsilon",
    "as_chance",
    "choose_behaviour",
    "largest_epsilon",
]

Epsilon = SupportsFloat | str | None
"""The probability of a random action, from 0 to 1, or `auto`, or None."""

SEARCH_EPISODES = 512
"""Episodes by which one probability is judged."""
ALLOWED_LOSS = 0.1
"""How far the win rate may fall, as a share of all episodes (the paper, Appendix B)."""


class Behaviour(NamedTuple):
    """The behaviour says how a team chooses its actions."""

    greedy: bool
    """Whether agents take their most likely actions; otherwise they sample."""
    epsilon: float | None = None
    """The probability with which an agent takes a random legal action instead."""
    search: dict[str, Any] | None = None
    """How `epsilon` was found, if it was."""

    @property
    def provenance(self) -> dict[str, Any]:
        """What demonstrations say of it."""
        if self.epsilon is None:
            return {"policy": "greedy" if self.greedy else "stochastic"}
        found = {} if self.search is None else {"epsilon_search": self.search}
        return {"policy": "epsilon-greedy", "epsilon": self.epsilon, **found}


def choose_behaviour(
    greedy: bool, epsilon: Epsilon, teams: list[TrainedTeam], seed: int
) -> list[Behaviour]:
    """Decides how teams behave.

    Args:
        greedy: Whether agents take their most likely actions.
        epsilon: The probability of a random action; `auto` finds that of each team.
        teams: The teams.
        seed: The seed of the episodes in which `auto` tries probabilities.

    Returns:
        The behaviour of each team.

    Raises:
        InputError: If both are asked for, if `epsilon` is unusable, or if `auto` cannot be found.
    """
    if epsilon is None:
        return [Behaviour(greedy)] * len(teams)
    chance = as_chance(epsilon)
    remedy = "goes with epsilon = None alone; leave one of the two out"
    check_setting(not greedy, "greedy", greedy, remedy)
    if chance is not None:
        return [Behaviour(True, chance)] * len(teams)
    return [largest_epsilon(team, seed) for team in teams]


def largest_epsilon(team: TrainedTeam, seed: int) -> Behaviour:
    """Finds how often a team can act at random and still win nearly as often.

    It is the largest probability, in steps of 0.01, at which the win rate lies at most
    `ALLOWED_LOSS` below that of the greedy team. Every probability is tried in the same
    `SEARCH_EPISODES` episodes: same starts, and an agent that explores at one probability also does
    at any higher one. The search is a bisection, and takes the win rate to fall with the
    probability: where it does not, what is found costs at most as much, and a larger probability
    may exist.

    Args:
        team: The team.
        seed: The seed of the episodes.

    Returns:
        The behaviour, with the win rates of the greedy team and of what was found.

    Raises:
        InputError: If nobody can win in the environment, or if the greedy team wins too rarely to
            lose as much as is allowed.
    """
    spec = team.programs.env.spec
    remedy = "give a number instead, from 0 to 1"
    wins = f"is found by win rates, and nobody can win in {spec.name}; {remedy}"
    check_setting(spec.wins, "epsilon", "auto", wins)

    def win_rate(percent: int) -> float:
        arguments = (
            team.state,
            jnp.uint32(seed),
            jnp.uint32(team.step % 2**32),
            SEARCH_EPISODES,
            True,
        )
        outcome = team.programs.evaluate(*arguments, epsilon=jnp.float32(percent / 100))
        return float(np.mean(outcome.won))

    rates = {0: win_rate(0)}
    problem = f"the greedy team wins {rates[0]:.1%} of its episodes and has too little to lose"
    check_setting(rates[0] > ALLOWED_LOSS, "epsilon", "auto", f"{problem}; {remedy}")
    low, high = 0, 101  # the loss at `low` is allowed, that at `high` is not or cannot be tried
    while high - low > 1:
        middle = (low + high) // 2
        rates[middle] = win_rate(middle)
        if rates[0] - rates[middle] <= ALLOWED_LOSS:
            low = middle
        else:
            high = middle
    search = {"episodes": SEARCH_EPISODES, "greedy_win_rate": rates[0], "win_rate": rates[low]}
    return Behaviour(True, low / 100, search)


def as_chance(epsilon: Any) -> float | None:
    """The probability; None for `auto`. Raises InputError if it is neither."""
    if epsilon == "auto":
        return None
    try:
        chance = None if isinstance(epsilon, str | bool) else float(epsilon)
    except (TypeError, ValueError, OverflowError):
        chance = None
    if chance is None or not 0 <= chance <= 1:
        raise InputError(f"epsilon = {epsilon!r}: must be a number from 0 to 1, or 'auto'")
    return chance
