"""The environment contract: an environment is a set of pure functions over batches of episodes.

Axes: `K` agents, `N` environments side by side, `O` observation features, `A` actions, `S` state
features, `U` units of a battle.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt32

from dm2.errors import InputError

__all__ = [
    "EnvSpec",
    "Environment",
    "Frame",
    "Renderable",
    "Step",
    "TeamView",
    "attacks_on",
    "full_name",
    "is_battle",
]

AnyArray = Array | np.ndarray


class TeamView(NamedTuple):
    """A team view is what the agents of each of `N` teams perceive at one instant."""

    observations: Float[Array, "K N O"]
    """Each agent's own observation: everything that a decentralised agent perceives."""
    legal: Bool[Array, "K N A"]
    """Legal actions. Every row has at least one, also for a dead agent."""
    alive: Bool[Array, "K N"]
    """Whether the agent still acts. A dead agent's action is ignored."""
    state: Float[Array, "N S"]
    """The global state, for centralised baselines only."""


class Step(NamedTuple):
    """A step is the outcome of one joint action in each of `N` environments.

    An environment never resets itself: the state that comes with a step is always the successor,
    and `rollout` does the reset.
    """

    reward: Float[Array, "*K N"]
    """The team's shared reward for this step, `[N]`, or each agent's own, `[K, N]`, where the spec
    says so. Agents whose method says that they share the reward learn from its mean, by which
    returns go too; all others from their own."""
    terminated: Bool[Array, " N"]
    """The task ended; nothing follows, so the value of what follows is zero."""
    truncated: Bool[Array, " N"]
    """The episode was cut, by the time limit or because its environment failed; its value must be
    bootstrapped. Never with `terminated`."""
    won: Bool[Array, " N"]
    """The task ended in success, read from the environment's own state."""


@dataclass(frozen=True)
class EnvSpec:
    """A spec holds what never changes about an environment: its name, sizes and time limit."""

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
    wins: bool = True
    """Whether an episode can be won. Where it cannot, returns are what counts."""
    action_names: tuple[str, ...] = ()
    """What each action means, for example `move north`; empty where nobody says."""
    own_rewards: bool = False
    """Whether each agent is paid its own reward, `[K, N]`, instead of the team's."""

    def __post_init__(self) -> None:
        named = len(self.action_names)
        if named not in (0, self.num_actions):
            problem = f"names {named} actions and has {self.num_actions}"
            raise InputError(f"env = {self.name!r}: {problem}; name all of them, or none")


@runtime_checkable
class Environment(Protocol):
    """An environment is a cooperative task for `spec.num_agents` agents, many copies side by side.

    Its methods are pure functions of their arguments. A state is a pytree of arrays whose last axis
    is the environments', so that `jnp.where(ended, fresh, old)` resets those that ended; no
    environment reads another's part of it.
    """

    spec: EnvSpec

    def reset(self, key: UInt32[Array, "2"], num_envs: int) -> Any:
        """Starts an episode in each of `num_envs` environments.

        Returns:
            The environments' state.
        """
        ...

    def step(
        self, key: UInt32[Array, "2"], state: Any, actions: Int[Array, "K N"]
    ) -> tuple[Any, Step]:
        """Applies one joint action in every environment.

        Args:
            key: The source of all that is random in the step.
            state: What `reset` or `step` returned.
            actions: One action per agent and environment. Dead agents' actions are ignored.

        Returns:
            The state that follows and the outcome.
        """
        ...

    def observe(self, state: Any) -> TeamView:
        """What the teams perceive in `state`.

        It is separate from `step` so that it is computed only for states in which somebody acts.
        """
        ...


class Frame(NamedTuple):
    """A frame is one drawable instant of battles of `U` units, allies first.

    The shapes are those of one battle; `Renderable.frame` adds a last axis, the environments'.
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
    """A renderable environment has battles that `dm2 watch` can draw."""

    map_size: tuple[float, float]
    """Width and height, map units."""
    num_allies: int
    unit_names: tuple[str, ...]
    """One name per unit type."""
    unit_radii: tuple[float, ...]
    """Radius of each unit type, map units."""
    unit_ranges: tuple[float, ...]
    """How far each unit type shoots, map units from its centre."""
    step_seconds: float
    """Seconds of the battle's own time per environment step."""

    def frame(self, state: Any) -> Frame:
        """What to draw of `state`."""
        ...


def attacks_on(num_enemies: int) -> tuple[str, ...]:
    """What the attacks of a battle are called, one for each enemy."""
    return tuple(f"attack enemy {enemy}" for enemy in range(num_enemies))


def full_name(base: str, *options: tuple[str, object, object]) -> str:
    """The name of an environment with the options that differ from their defaults.

    Args:
        base: The name without options, for example `smax/3m`.
        *options: Triples `(name, value, default)`; a value of None stands for the default.

    Returns:
        `base?option=value&…`, or `base` where every option has its default.
    """
    changed = [f"{name}={value}" for name, value, usual in options if value not in (None, usual)]
    return f"{base}?{'&'.join(changed)}" if changed else base


def is_battle(name: str) -> bool:
    """Whether an environment's name is that of a battle, `smax/*` or `smac/*`. All features of a
    battle's observations have one scale: they lie in about -1 to 1."""
    return name.startswith(("smax/", "smac/"))
