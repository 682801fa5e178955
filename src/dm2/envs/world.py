"""The interface of one world that is stepped in Python, and the check of what it shows.

Adapters give worlds with other interfaces this one; `dm2.envs.workers` steps many of them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int

from dm2.errors import WorldError

__all__ = ["Outcome", "Recipe", "Sizes", "Snapshot", "World", "checked_outcome", "checked_snapshot"]


@dataclass(frozen=True)
class Sizes:
    """Sizes are what never changes about a world."""

    num_agents: int
    observation_size: int
    num_actions: int
    state_size: int
    version: str
    """What made it, and which version, for example `pettingzoo 1.27.0`."""
    limit: int | None = None
    """Its own episode limit in environment steps, if it has one."""
    wins: bool = False
    """Whether it says who won."""


class Snapshot(NamedTuple):
    """A snapshot is what the agents of one world perceive at one instant."""

    observations: Float[np.ndarray, "K O"]
    legal: Bool[np.ndarray, "K A"]
    alive: Bool[np.ndarray, " K"]
    state: Float[np.ndarray, " S"]


class Outcome(NamedTuple):
    """An outcome is what one joint action led to."""

    rewards: Float[np.ndarray, " K"]
    """Each agent's own; where the team shares one, the same for all."""
    terminated: bool
    truncated: bool
    won: bool = False


@runtime_checkable
class World(Protocol):
    """A world is one copy of an environment that is stepped in Python."""

    sizes: Sizes

    def reset(self, seed: int) -> Snapshot:
        """Begins an episode."""
        ...

    def step(self, actions: Int[np.ndarray, " K"]) -> tuple[Snapshot, Outcome]:
        """Takes one environment step. Nobody calls it between an episode's end and `reset`."""
        ...

    def close(self) -> None:
        """Ends whatever the world holds."""
        ...


Recipe = Callable[[], World]
"""Makes a world, in whichever process it is called."""


def checked_snapshot(snapshot: Snapshot, sizes: Sizes) -> Snapshot:
    """A snapshot as the environment contract has it: the observations of a dead agent are zeros,
    and it has at least one legal action.

    Args:
        snapshot: What the world shows.
        sizes: What it says of itself.

    Returns:
        The snapshot, mended where an agent is dead.

    Raises:
        WorldError: A shape is not what the sizes say, a number is not finite, or a living agent has
            no legal action.
    """
    agents = sizes.num_agents
    shapes = ((agents, sizes.observation_size), (agents, sizes.num_actions), (agents,))
    words = ("observations", "legal actions", "living agents", "state")
    for what, value, shape in zip(words, snapshot, (*shapes, (sizes.state_size,)), strict=True):
        if np.shape(value) != shape:
            remedy = f"{shape} is what the world says of itself; make both the same"
            raise WorldError(f"its {what} have the shape {np.shape(value)}; {remedy}")
    observations, legal, alive, state = snapshot
    for k in np.flatnonzero(~np.isfinite(observations).all(axis=1)):
        raise WorldError(f"agent {k} observes a number that is not finite; mend the observation")
    if not np.isfinite(state).all():
        raise WorldError("its state holds a number that is not finite; mend the state")
    stuck = ~legal.any(axis=1)
    for k in np.flatnonzero(stuck & alive):
        remedy = "give it one, for example to do nothing, or report it dead"
        raise WorldError(f"agent {k} is alive and has no legal action; {remedy}")
    if not alive.all():
        observations = np.where(alive[:, None], observations, 0)
        legal = legal.copy()
        legal[stuck, 0] = True
    return Snapshot(observations, legal, alive, state)


def checked_outcome(outcome: Outcome, sizes: Sizes) -> Outcome:
    """The outcome, if it is one. Raises WorldError if its rewards are not one finite number for
    each agent."""
    rewards = outcome.rewards
    if np.shape(rewards) != (sizes.num_agents,):
        remedy = f"must be one number for each of its {sizes.num_agents} agents"
        raise WorldError(f"its rewards have the shape {np.shape(rewards)}; {remedy}")
    for k in np.flatnonzero(~np.isfinite(rewards)):
        raise WorldError(f"the reward of agent {k} is {rewards[k]}; it must be a finite number")
    return outcome
