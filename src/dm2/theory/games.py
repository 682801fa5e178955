"""Tabular Markov games in float64: their definition and a random generator.

A `MarkovGame` holds one game or a batch of games of the same size. In this package `*B` stands for
the axes of the batch (none for one game), `K` for the number of agents, `S` for the number of
states, `A` for the number of actions of one agent and `J = A^K` for the number of joint actions.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from dm2.errors import InputError

__all__ = [
    "Array",
    "MarkovGame",
    "check_policies",
    "joint_rewards",
    "random_games",
    "random_policies",
]

if TYPE_CHECKING:
    Array = np.ndarray
else:  # what has no axes left, as a number of a single game, numpy makes a scalar
    Array = np.ndarray | np.float64

_ROUNDING = 1e-9


@dataclass(frozen=True, eq=False)
class MarkovGame:
    """A Markov game of `K` agents that all observe the state (arXiv 2206.00233, Section 3).

    The game has `S` states and `A` actions for each agent. Every array may have leading axes `*B`,
    which make it a batch of games of one size. There are `J = A^K` joint actions. The joint action
    of the single actions `a_0 … a_{K-1}` has the index `a_0 A^{K-1} + … + a_{K-1}`.

    Raises:
        InputError: If the shapes do not fit together, if `initial` or `transitions` is not a
            distribution, if a reward is not finite, or if a discount is outside [0, 1).

    Example:
        Two agents earn 1 per step in state 1, which they reach if both take action 1.

        >>> import numpy as np
        >>> from dm2.theory import MarkovGame
        >>> transitions = np.zeros((2, 4, 2))  # [states, joint actions, next states]
        >>> transitions[:, :3, 0] = 1  # (0, 0), (0, 1) and (1, 0) lead to state 0
        >>> transitions[:, 3, 1] = 1  # (1, 1) leads to state 1
        >>> rewards = np.zeros((2, 2, 4))  # [agents, states, joint actions]
        >>> rewards[:, 1] = 1
        >>> game = MarkovGame(np.array([1.0, 0.0]), transitions, rewards, np.array(0.5), actions=2)
        >>> game.agents, game.states, game.actions
        (2, 2, 2)
    """

    initial: Float[np.ndarray, "..."]
    """The distribution of the first state, `p0(s)`, `[*B, S]`."""
    transitions: Float[np.ndarray, "..."]
    """The distribution of the next state, `T(s' | s, a)`, `[*B, S, J, S]`."""
    rewards: Float[np.ndarray, "..."]
    """The reward `R_i(s, a)` of each agent, `[*B, K, S, J]`; equal for all agents of a team."""
    discount: Float[Array, "..."]
    """The discount factor `γ`, `[*B]`."""
    actions: int
    """The number `A` of actions of one agent."""

    def __post_init__(self) -> None:
        for name in ("initial", "transitions", "rewards", "discount"):
            object.__setattr__(self, name, np.asarray(getattr(self, name), np.float64))
        *batch, states = self.initial.shape or (0,)
        agents = self.rewards.shape[-3] if self.rewards.ndim >= 3 else 0
        joint = self.actions**agents
        wanted = {
            "initial": (*batch, states),
            "transitions": (*batch, states, joint, states),
            "rewards": (*batch, agents, states, joint),
            "discount": tuple(batch),
        }
        if min(states, agents, self.actions) < 1:
            given = f"{states} states, {agents} agents, {self.actions} actions"
            raise InputError(f"game = {given}: needs at least one of each")
        for name, shape in wanted.items():
            given = getattr(self, name).shape
            if given != shape:
                sizes = f"{agents} agents with {self.actions} actions and {states} states"
                raise InputError(f"{name} = shape {given}: {sizes} need {shape}")
        _check_distribution("initial", self.initial)
        _check_distribution("transitions", self.transitions)
        if not np.isfinite(self.rewards).all():
            raise InputError("rewards: must be finite")
        if not ((self.discount >= 0) & (self.discount < 1)).all():
            given = np.round(self.discount, 6).tolist()
            raise InputError(f"discount = {given}: must be from 0 to below 1")

    @property
    def agents(self) -> int:
        """The number `K` of agents."""
        return self.rewards.shape[-3]

    @property
    def states(self) -> int:
        """The number `S` of states."""
        return self.initial.shape[-1]

    def __getitem__(self, index: int | slice | np.ndarray | None) -> "MarkovGame":
        """Selects games from a batch.

        Args:
            index: An index into the first axis of the batch. `None` turns one game into a batch of
                one.

        Returns:
            One game for an integer, and a batch otherwise.
        """
        part = object.__new__(MarkovGame)  # a part of what was checked needs no check
        for name in ("initial", "transitions", "rewards", "discount"):
            object.__setattr__(part, name, getattr(self, name)[index])
        object.__setattr__(part, "actions", self.actions)
        return part

    def with_rewards(self, rewards: Float[np.ndarray, "*B K S J"]) -> "MarkovGame":
        """Returns the same game with other rewards.

        Args:
            rewards: The new rewards, `[*B, K, S, J]`.

        Returns:
            A new game; the old one does not change.

        Raises:
            InputError: If the rewards do not fit the game or are not finite.
        """
        return MarkovGame(self.initial, self.transitions, rewards, self.discount, self.actions)


def joint_rewards(rewards: Float[np.ndarray, "*B K S A"]) -> Float[np.ndarray, "*B K S J"]:
    """Expresses rewards of each agent's own action as rewards of the joint action.

    Args:
        rewards: The reward of each agent for its own action, `[*B, K, S, A]`.

    Returns:
        The same rewards, `[*B, K, S, J]`, as `MarkovGame.with_rewards` takes them.
    """
    agents, actions = rewards.shape[-3], rewards.shape[-1]
    own = np.indices((actions,) * agents).reshape(agents, -1)
    return np.stack([rewards[..., i, :, :].take(own[i], -1) for i in range(agents)], -3)


def _check_distribution(name: str, values: np.ndarray) -> None:
    worst = np.abs(values.sum(-1) - 1).max(initial=0)
    if not (np.isfinite(values).all() and (values >= 0).all() and worst <= _ROUNDING):
        given = f"lowest entry {values.min():g}, a sum off by {worst:g}"
        raise InputError(f"{name} = {given}: entries must be 0 or more and sum to 1")


def check_policies(
    game: MarkovGame, policies: Float[np.ndarray, "..."], name: str = "policies"
) -> None:
    """Checks that policies fit a game.

    Args:
        game: The game or batch of games.
        policies: The array to check. It must be `[*B, K, S, A]`, and a distribution over the
            actions in each state.
        name: The name to use in the error.

    Raises:
        InputError: If the shape is wrong or an entry is not a distribution.
    """
    wanted = (*game.initial.shape[:-1], game.agents, game.states, game.actions)
    if policies.shape != wanted:
        raise InputError(f"{name} = shape {policies.shape}: this game needs {wanted}")
    _check_distribution(name, policies)


def random_games(
    count: int,
    agents: int,
    states: int,
    actions: int,
    rng: np.random.Generator,
    floor: float | None = None,
    discount: float | None = None,
) -> MarkovGame:
    """Draws a batch of random team games in which every policy visits every state.

    Transitions and `p0` are Dirichlet(1/2) in one half of the games and deterministic in the other.
    Both are mixed with the uniform distribution at weight `S * floor`, so that
    `ρ_π(s) = (1-γ) p0(s) + γ E[T(s | …)] ≥ floor` for every policy. The team reward is uniform in
    [0, 1].

    Args:
        count: The number of games.
        agents: The number `K` of agents.
        states: The number `S` of states.
        actions: The number `A` of actions of one agent.
        rng: The source of random numbers.
        floor: The lower bound on every visitation. If it is None, each game draws `S * floor`
            log-uniformly from [0.01, 0.5].
        discount: The discount factor `γ`. If it is None, each game draws its own uniformly from
            [0.3, 0.97].

    Returns:
        A batch of `count` games.

    Raises:
        InputError: Unless `0 < floor ≤ 1 / states`.
    """
    if floor is None:
        weights = np.exp(rng.uniform(np.log(0.01), np.log(0.5), count))
    else:
        if not 0 < floor <= 1 / states:
            raise InputError(f"floor = {floor:g}: must be above 0 and at most 1/states")
        weights = np.full(count, states * floor)
    joint = actions**agents
    ahead = rng.dirichlet(np.full(states, 0.5), (count, states, joint))
    sharp = np.eye(states)[ahead.argmax(-1)]
    ahead = np.where(rng.random((count, 1, 1, 1)) < 0.5, sharp, ahead)
    start = rng.dirichlet(np.full(states, 0.5), count)
    wide = weights[:, None, None, None]
    rewards = rng.random((count, 1, states, joint))
    drawn = rng.uniform(0.3, 0.97, count)
    return MarkovGame(
        initial=_normalised((1 - weights[:, None]) * start + weights[:, None] / states),
        transitions=_normalised((1 - wide) * ahead + wide / states),
        rewards=np.repeat(rewards, agents, axis=1),
        discount=drawn if discount is None else np.full(count, float(discount)),
        actions=actions,
    )


def _normalised(values: np.ndarray) -> np.ndarray:
    return values / values.sum(-1, keepdims=True)


def random_policies(
    game: MarkovGame, rng: np.random.Generator, concentration: float | int = 1.0
) -> Float[np.ndarray, "*B K S A"]:
    """Draws random policies from a Dirichlet distribution.

    Args:
        game: The game or batch of games.
        rng: The source of random numbers.
        concentration: The parameter of the Dirichlet distribution. Below 1 the policies are nearly
            deterministic, far above 1 they are nearly uniform.

    Returns:
        Policies `[*B, K, S, A]` with positive probabilities.
    """
    shape = (*game.initial.shape[:-1], game.agents, game.states)
    drawn = rng.gamma(float(concentration), size=(*shape, game.actions)) + 1e-12
    return _normalised(drawn)
