"""Tabular Markov games, one or a batch of equally large ones, in float64."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from dm2.errors import InputError

__all__ = ["Array", "MarkovGame", "check_policies", "random_games", "random_policies"]

if TYPE_CHECKING:
    Array = np.ndarray
else:  # what has no axes left, as a number of a single game, numpy makes a scalar
    Array = np.ndarray | np.float64

_ROUNDING = 1e-9


@dataclass(frozen=True, eq=False)
class MarkovGame:
    """`K` agents who all see the state, `S` states, `A` actions each (arXiv 2206.00233, Section 3).

    Every array may have leading axes `*B`: a batch of games of one size. The joint action of
    actions `a_0 … a_{K-1}` has the index `a_0 A^{K-1} + … + a_{K-1}`; there are `J = A^K`.
    Raises InputError for shapes that do not fit, for what is not a distribution, and for a
    discount outside [0, 1).
    """

    initial: Float[np.ndarray, "..."]
    """`p0(s)`, `[*B, S]`."""
    transitions: Float[np.ndarray, "..."]
    """`T(s' | s, a)`, `[*B, S, J, S]`."""
    rewards: Float[np.ndarray, "..."]
    """`R_i(s, a)` of each agent, `[*B, K, S, J]`; a team's are the same."""
    discount: Float[Array, "..."]
    """`γ`, `[*B]`."""
    actions: int
    """`A`, of one agent."""

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
        """`K`."""
        return self.rewards.shape[-3]

    @property
    def states(self) -> int:
        """`S`."""
        return self.initial.shape[-1]

    def __getitem__(self, index: int | slice | np.ndarray | None) -> "MarkovGame":
        """One game of a batch, or a part of the batch; None makes one game a batch of one."""
        part = object.__new__(MarkovGame)  # a part of what was checked needs no check
        for name in ("initial", "transitions", "rewards", "discount"):
            object.__setattr__(part, name, getattr(self, name)[index])
        object.__setattr__(part, "actions", self.actions)
        return part

    def with_rewards(self, rewards: Float[np.ndarray, "*B K S J"]) -> "MarkovGame":
        """The same game paid differently."""
        return MarkovGame(self.initial, self.transitions, rewards, self.discount, self.actions)


def _check_distribution(name: str, values: np.ndarray) -> None:
    worst = np.abs(values.sum(-1) - 1).max(initial=0)
    if not (np.isfinite(values).all() and (values >= 0).all() and worst <= _ROUNDING):
        given = f"lowest entry {values.min():g}, a sum off by {worst:g}"
        raise InputError(f"{name} = {given}: entries must be 0 or more and sum to 1")


def check_policies(
    game: MarkovGame, policies: Float[np.ndarray, "..."], name: str = "policies"
) -> None:
    """Raises InputError unless `policies` is `[*B, K, S, A]`, distributions over actions."""
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
    r"""A batch of `count` random team games in which every policy visits every state.

    Transitions and `p0` are Dirichlet(1/2) in one half of the games and deterministic in the
    other, mixed with the uniform distribution at weight `S * floor`, so that
    `ρ_π(s) = (1-γ) p0(s) + γ E[T(s | …)] ≥ floor` whatever the policy.
    A floor or discount left out is drawn for each game: `S * floor` log-uniformly from
    [0.01, 0.5], `γ` uniformly from [0.3, 0.97]. The team reward is uniform in [0, 1].
    Raises InputError unless `0 < floor ≤ 1 / states`.
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
    """Dirichlet policies; below 1 they are nearly deterministic, far above nearly uniform."""
    shape = (*game.initial.shape[:-1], game.agents, game.states)
    drawn = rng.gamma(float(concentration), size=(*shape, game.actions)) + 1e-12
    return _normalised(drawn)
