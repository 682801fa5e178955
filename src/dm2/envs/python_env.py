"""The interface of an environment that is stepped in Python, and the check of what it shows.

Adapters give environments with other interfaces this one; `dm2.envs.workers` steps many of them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int

from dm2.errors import MOST, EnvError, InputError

__all__ = [
    "PythonEnv",
    "Recipe",
    "Sizes",
    "Snapshot",
    "StepOutcome",
    "check_limit",
    "check_rewards",
    "check_shapes",
    "limit_of",
    "settle_shown",
]


@dataclass(frozen=True)
class Sizes:
    """Sizes are what never changes about an environment."""

    num_agents: int
    observation_size: int
    num_actions: int
    state_size: int
    version: str
    """What made it, and which version, for example `pettingzoo 1.27.0`."""
    limit: int | None = None
    """Its own episode limit in environment steps, if it has one."""
    unusable_limit: str = ""
    """What it says in place of one, by name and value."""
    wins: bool = False
    """Whether it says who won."""

    @cached_property
    def shown(self) -> tuple[tuple[int, ...], ...]:
        """The shapes of a snapshot's fields."""
        agents = self.num_agents
        rows = ((agents, self.observation_size), (agents, self.num_actions))
        return (*rows, (agents,), (self.state_size,))


class Snapshot(NamedTuple):
    """A snapshot is what the agents of one environment perceive at one instant."""

    observations: Float[np.ndarray, "K O"]
    legal: Bool[np.ndarray, "K A"]
    alive: Bool[np.ndarray, " K"]
    state: Float[np.ndarray, " S"]


class StepOutcome(NamedTuple):
    """What one joint action led to in one environment."""

    rewards: Float[np.ndarray, " K"]
    """Each agent's own; where the team shares one, the same for all."""
    terminated: bool
    truncated: bool
    won: bool = False


@runtime_checkable
class PythonEnv(Protocol):
    """An environment that is stepped in Python: one copy, one episode after another."""

    sizes: Sizes

    def reset(self, seed: int) -> Snapshot:
        """Begins an episode."""
        ...

    def step(self, actions: Int[np.ndarray, " K"]) -> tuple[Snapshot, StepOutcome]:
        """Takes one environment step. Nobody calls it between an episode's end and `reset`."""
        ...

    def close(self) -> None:
        """Ends whatever the environment holds."""
        ...


Recipe = Callable[[], PythonEnv]
"""Makes an environment, in whichever process it is called."""


_SHOWN = ("observations have", "legal actions have", "living agents have", "state has")


def check_shapes(snapshot: Snapshot, sizes: Sizes) -> None:
    """Raises EnvError unless a snapshot has the shapes that the sizes say."""
    for what, value, shape in zip(_SHOWN, snapshot, sizes.shown, strict=True):
        if value.shape != shape:
            remedy = f"{shape} is what the environment says of itself; make both the same"
            raise EnvError(f"its {what} the shape {value.shape}; {remedy}")


def check_rewards(rewards: Float[np.ndarray, " K"], sizes: Sizes) -> None:
    """Raises EnvError unless there is one reward for each agent."""
    if rewards.shape != (sizes.num_agents,):
        remedy = f"must be one number for each of its {sizes.num_agents} agents"
        raise EnvError(f"its rewards have the shape {rewards.shape}; {remedy}")


def settle_shown(
    observations: Float[np.ndarray, "K N O"],
    legal: Bool[np.ndarray, "K N A"],
    alive: Bool[np.ndarray, "K N"],
    state: Float[np.ndarray, "N S"],
    rewards: Float[np.ndarray, "K N"],
) -> None:
    """Makes what `N` environments show what the environment contract asks for, in place: the
    observations of a dead agent are zeros, and it has a legal action. All environments are
    looked at together, since a look at each would take longer than many an environment's step.

    Raises:
        EnvError: If a number is not finite, or a living agent has no legal action.
    """
    stuck = ~legal.any(axis=2)
    if not alive.all():
        observations[~alive] = 0
        legal[..., 0] |= stuck & ~alive
    for k, _ in np.argwhere(stuck & alive):
        remedy = "give it one, for example to do nothing, or report it dead"
        raise EnvError(f"agent {k} is alive and has no legal action; {remedy}")
    if not np.isfinite(observations).all():
        k = np.argwhere(~np.isfinite(observations))[0, 0]
        raise EnvError(f"agent {k} observes a number that is not finite; mend the observation")
    if not np.isfinite(state).all():
        raise EnvError("its state holds a number that is not finite; mend the state")
    if not np.isfinite(rewards).all():
        k, n = np.argwhere(~np.isfinite(rewards))[0]
        problem = f"the reward of agent {k} is {rewards[k, n]}"
        raise EnvError(f"{problem}; it must be a finite number")


def check_limit(limit: Any, field: str) -> None:
    """Raises InputError unless a limit is a number of steps that the clocks can count."""
    if type(limit) is not int or not 1 <= limit <= MOST:
        raise InputError(f"{field}: limit must be a whole number from 1 to {MOST}")


def limit_of(asked: int | None, own: int | None, field: str, unusable: str = "") -> int:
    """The episode limit that a name asks for, else the environment's own. Raises InputError if
    there is neither, naming what it says that is `unusable`, or the clocks cannot count so far."""
    limit = asked or own
    if limit is None and unusable:
        problem = f"its {unusable}: must be a whole number above 0"
    elif limit is None:
        problem = "it does not say after how many steps an episode ends"
    elif limit > MOST:
        problem = f"its episode limit = {limit}: must be at most {MOST}"
    else:
        return limit
    raise InputError(f"{field}: {problem}; add the option limit=STEPS")
