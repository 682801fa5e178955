"""The environment contract: functional, batched, team-stacked arrays."""

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt32

AnyArray = Array | np.ndarray

__all__ = ["EnvSpec", "Environment", "Frame", "TeamView", "Renderable", "Step", "full_name"]


class TeamView(NamedTuple):
    """What `N` teams perceive at one instant.

    `K` agents, `O` observation features, `A` actions, `S` state features.
    """

    observations: Float[Array, "K N O"]
    """Each agent's own observation: all that a decentralised agent ever sees."""
    legal: Bool[Array, "K N A"]
    """Legal actions. Every row has at least one, also for a dead agent."""
    alive: Bool[Array, "K N"]
    """Whether the agent still acts. A dead agent's action is ignored."""
    state: Float[Array, "N S"]
    """Global state, for centralised baselines only."""


class Step(NamedTuple):
    """The outcome of one joint action in each of `N` environments.

    An environment never resets itself: the state that comes with this is always the successor,
    and `rollout` does the reset.
    """

    reward: Float[Array, " N"]
    """The team's shared reward for this step."""
    terminated: Bool[Array, " N"]
    """The task ended; nothing follows, so the value of what follows is zero."""
    truncated: Bool[Array, " N"]
    """The time limit cut the episode; its value must be bootstrapped. Never with `terminated`."""
    won: Bool[Array, " N"]
    """The task ended in success, read from the environment's own state."""


@dataclass(frozen=True)
class EnvSpec:
    """The static facts about an environment."""

    name: str
    """The name that `dm2.make` takes, options included."""
    version: str
    """Implementation and its version, for example `smax 0.2.0`."""
    num_agents: int
    observation_size: int
    num_actions: int
    state_size: int
    episode_limit: int
    """Environment steps after which an episode is truncated."""


@runtime_checkable
class Environment(Protocol):
    """A cooperative task for `spec.num_agents` agents, many copies side by side.

    Pure functions of their arguments. A state is a pytree of arrays whose last axis is the
    environment's, so that `jnp.where(ended, fresh, old)` resets those that ended; no environment
    sees another's part of it.
    """

    spec: EnvSpec

    def reset(self, key: UInt32[Array, "2"], num_envs: int) -> Any:
        """Start an episode in each of `num_envs` environments; returns their state."""
        ...

    def step(
        self, key: UInt32[Array, "2"], state: Any, actions: Int[Array, "K N"]
    ) -> tuple[Any, Step]:
        """Apply one joint action in every environment. Dead agents' actions are ignored."""
        ...

    def observe(self, state: Any) -> TeamView:
        """What the teams perceive in this state: apart from `step`, to be computed only of states
        that somebody acts in."""
        ...


class Frame(NamedTuple):
    """One drawable instant of battles of `U` units, allies first.

    Shapes of one battle; `Renderable.frame` adds a last axis, the environment's.
    """

    position: Float[AnyArray, "*batch U 2"]
    """Map units, origin at the lower left."""
    health: Float[AnyArray, "*batch U"]
    """Fraction of the unit's full health, 0 to 1."""
    shield: Float[AnyArray, "*batch U"]
    """Fraction of the unit's full shield, 0 to 1; 0 for a unit that never has one."""
    alive: Bool[AnyArray, "*batch U"]
    target: Int[AnyArray, "*batch U"]
    """Index of the unit being attacked, -1 for none."""
    kind: Int[AnyArray, "*batch U"]
    """Index into `unit_names`."""


@runtime_checkable
class Renderable(Protocol):
    """An environment whose battles `dm2 watch` can draw."""

    map_size: tuple[float, float]
    num_allies: int
    unit_names: tuple[str, ...]
    unit_radii: tuple[float, ...]
    unit_ranges: tuple[float, ...]
    """How far each kind shoots, map units from its centre."""
    step_seconds: float
    """Of the battle's own time, per environment step."""

    def frame(self, state: Any) -> Frame:
        """What to draw of this state."""
        ...


def full_name(base: str, *options: tuple[str, object, object]) -> str:
    """`base?option=value&…`, of the options `(name, value, default)` that differ from the default;
    None stands for the default."""
    changed = [f"{name}={value}" for name, value, usual in options if value not in (None, usual)]
    return f"{base}?{'&'.join(changed)}" if changed else base
