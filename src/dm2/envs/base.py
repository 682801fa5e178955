"""The environment contract: functional, unbatched, team-stacked arrays."""

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt32

AnyArray = Array | np.ndarray

__all__ = ["EnvSpec", "Environment", "Frame", "Observation", "Renderable", "Step"]


class Observation(NamedTuple):
    """What the team perceives at one instant.

    `K` agents, `O` observation features, `A` actions, `S` state features.
    """

    local: Float[Array, "K O"]
    """Each agent's own observation: all that a decentralised agent ever sees."""
    legal: Bool[Array, "K A"]
    """Legal actions. Every row has at least one, also for a dead agent."""
    alive: Bool[Array, " K"]
    """Whether the agent still acts. A dead agent's action is ignored."""
    state: Float[Array, " S"]
    """Global state, for centralised baselines only."""


class Step(NamedTuple):
    """The outcome of one joint action.

    An environment never resets itself: `observation` is always the successor, so at an episode's
    end it is the final observation, and `rollout` does the reset.
    """

    observation: Observation
    reward: Float[Array, ""]
    """The team's shared reward for this step."""
    terminated: Bool[Array, ""]
    """The task ended; nothing follows, so the value of what follows is zero."""
    truncated: Bool[Array, ""]
    """The time limit cut the episode; its value must be bootstrapped. Never with `terminated`."""
    won: Bool[Array, ""]
    """The task ended in success, read from the environment's own state."""


@dataclass(frozen=True)
class EnvSpec:
    """The static facts about an environment."""

    name: str
    """The name that `dm2.make` takes, options included."""
    version: str
    """Implementation and its version, for example `jaxmarl 0.2.0`."""
    num_agents: int
    observation_size: int
    num_actions: int
    state_size: int
    episode_limit: int
    """Environment steps after which an episode is truncated."""


@runtime_checkable
class Environment(Protocol):
    """A cooperative task for `spec.num_agents` agents; pure functions of their arguments."""

    spec: EnvSpec

    def reset(self, key: UInt32[Array, "2"]) -> tuple[Any, Observation]:
        """Start an episode; returns the environment state (a pytree of arrays)."""
        ...

    def step(
        self, key: UInt32[Array, "2"], state: Any, actions: Int[Array, " K"]
    ) -> tuple[Any, Step]:
        """Apply one joint action. Dead agents' actions are ignored."""
        ...


class Frame(NamedTuple):
    """One drawable instant of a battle of `U` units, allies first."""

    position: Float[AnyArray, "U 2"]
    """Map units, origin at the lower left."""
    health: Float[AnyArray, " U"]
    """Fraction of the unit's full health, 0 to 1."""
    alive: Bool[AnyArray, " U"]
    target: Int[AnyArray, " U"]
    """Index of the unit being attacked, -1 for none."""
    kind: Int[AnyArray, " U"]
    """Index into `unit_names`."""


@runtime_checkable
class Renderable(Protocol):
    """An environment whose battles `dm2 watch` can draw."""

    map_size: tuple[float, float]
    num_allies: int
    unit_names: tuple[str, ...]
    unit_radii: tuple[float, ...]

    def frame(self, state: Any) -> Frame:
        """What to draw of this state."""
        ...
