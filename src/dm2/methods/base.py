"""What a method is: its settings, and the functions by which a team acts and learns.

A *method* turns agents into a team that learns. Its settings are a frozen dataclass that derives
from `Settings`; `Settings.build` makes the `Method` for an environment. Everything else (the host
loop, evaluation, recording, filming, files) knows a method by this protocol alone.

Arrays of a team lead with the agents' axis: `K` agents, `N` environments.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

from jaxtyping import Array, Int, UInt32

from dm2.agent.actor import Actor
from dm2.agent.inputs import Inputs
from dm2.agent.settings import ObservationScale
from dm2.agent.types import Trajectory, View
from dm2.compilation import Program
from dm2.demos.dataset import Demonstrations
from dm2.envs.base import EnvSpec, is_battle
from dm2.errors import InputError, check_setting, convert_fields

__all__ = [
    "Method",
    "Pretraining",
    "Separable",
    "Settings",
    "scaled_inputs",
    "settled_scale",
]


@runtime_checkable
class Method(Protocol):
    """A team's way of acting and learning. It holds settings and compiled programs; all that
    changes is in its state and its memory, pytrees that only the method itself looks into."""

    num_agents: int
    centralised: bool
    """Whether an agent may learn from more than its own part. The code that collects a rollout
    hands such a method alone the environment's global state, as the keyword argument
    `global_state`, `[N, S]`, of `act` and `bootstrap`; it need not use it. Nobody hands it over
    when a team is evaluated, recorded or filmed."""
    shares_reward: bool
    """Whether agents learn from the team's mean reward where the environment pays each its own;
    otherwise each learns from its own."""

    def init(self, key: UInt32[Array, "2"]) -> Any:
        """A fresh team: parameters, optimisers, buffers, discriminators, random streams."""
        ...

    def memory(self, num_envs: int) -> Any:
        """What the team remembers before it has perceived anything."""
        ...

    def action_keys(self, state: Any, steps: int) -> UInt32[Array, "T K 2"]:
        """Each agent's own keys for the actions of the coming rollout."""
        ...

    def act(
        self, state: Any, memory: Any, keys: UInt32[Array, "K 2"], view: View, greedy: bool
    ) -> tuple[Any, Int[Array, "K N"], Any]:
        """The next memory, every agent's actions, and what learning needs of them later. Each
        agent acts on its own part of `view` and draws from its own key."""
        ...

    def bootstrap(self, state: Any, memory: Any, view: View) -> Any:
        """What learning needs of observations on which nobody acts, because a time limit or the
        rollout's end cuts there: for an actor-critic, their values."""
        ...

    def learn(self, state: Any, trajectory: Trajectory, experts: Any) -> tuple[Any, dict[str, Any]]:
        """The team after an update, and what to report of it: of each agent `[K]`, or `[1]` of
        what the team shares. It may start compiled programs and return before they are done."""
        ...

    def programs(self, state: Any, trajectory: Trajectory, experts: Any) -> Sequence[Program]:
        """The compiled programs that `learn` runs, with the shapes of their arguments. All
        arguments are shapes."""
        ...


@runtime_checkable
class Pretraining(Method, Protocol):
    """A method whose team learns before its first step."""

    def pretrain(self, state: Any, experts: Any) -> tuple[Any, dict[str, Any]]:
        """The fresh team after that, and what to report of it, as of `learn`."""
        ...


@runtime_checkable
class Separable(Method, Protocol):
    """A method whose agents can be taken out of their team, to act somewhere else."""

    def actor_of(self, state: Any, agent: int) -> Actor:
        """What one agent needs to act by itself, and nothing that only its teammates need."""
        ...


@dataclass(frozen=True)
class Settings:
    """The settings of a method. Derive a frozen dataclass from it, set `name`, write `build`, and
    add it to `dm2.methods.METHODS`.

    A field that is itself a frozen dataclass makes a group of flags, `--group.field`.
    """

    name: ClassVar[str]
    """What the command line and the files of a run call the method."""
    imitates: ClassVar[bool] = False
    """Whether agents learn from demonstrations."""

    def __post_init__(self) -> None:
        convert_fields(self)

    def settled(self, env: str) -> "Settings":
        """The settings with what an environment's name decides filled in."""
        return self

    @property
    def has_schedules(self) -> bool:
        """Whether settings change with the share of the run that is over."""
        return False

    @property
    def needs_same_limit(self) -> bool:
        """Whether the demonstrations must have been recorded at the environment's episode
        limit."""
        return False

    def check(self, num_envs: int) -> None:
        """Raises InputError if the settings do not go with so many parallel environments."""

    def build(self, spec: EnvSpec, num_envs: int) -> Method:
        """The method for an environment of which `num_envs` run side by side in training."""
        raise NotImplementedError(f"{type(self).__name__}.build is not written")

    def experts(self, demos: Demonstrations) -> Any:
        """What the method's `learn` and `pretrain` take of demonstrations. Raises InputError if
        they lack something."""
        return None

    def update_flops(self, spec: EnvSpec, steps: int) -> float:
        """Floating-point operations of an update's matrix products on `steps` environment steps
        with the whole team; 0 where nobody has worked it out."""
        return 0.0

    def update_bytes(self, spec: EnvSpec, steps: int, num_envs: int) -> float:
        """Memory in bytes that an update on `steps` environment steps of `num_envs` environments
        takes beside the rollout, and what is kept of earlier ones; 0 where nobody has worked it
        out."""
        return 0.0

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Settings":
        """Inverse of `dataclasses.asdict`. Raises InputError for a setting that is unknown or
        has an unusable value."""
        known = [field.name for field in dataclasses.fields(cls)]
        for name in values:
            if name not in known:
                problem = f"{name}: method {cls.name} has no such setting"
                problem += f"; known: {', '.join(known) or 'none'}"
                raise InputError(f"{problem}; was it written by another version of dm2?")
        return cls(**values)


def settled_scale(scale: ObservationScale, env: str) -> ObservationScale:
    """The scale of observations for an environment's name: what was chosen, or in place of `auto`
    what suits it, `layer` on the battles, whose features have one scale, else `running`."""
    if scale != "auto":
        return scale
    return "layer" if is_battle(env) else "running"


def scaled_inputs(
    scale: ObservationScale, spec: EnvSpec, *, last_action: bool, agent_id: bool
) -> Inputs:
    """How the networks' input is made in an environment.

    Args:
        scale: How observations are brought to one scale.
        spec: The environment's.
        last_action: Whether the networks also take the agent's last action.
        agent_id: Whether they also take the agent's number in the team.

    Raises:
        InputError: If observations are one number, of which layer norm leaves nothing.
    """
    scale = settled_scale(scale, spec.name)
    layer = scale in ("layer", "both")
    remedy = f"leaves nothing of the one number that {spec.name} shows; choose running or none"
    check_setting(not layer or spec.observation_size > 1, "observations", scale, remedy)
    return Inputs(
        layer=layer,
        running=scale in ("running", "both"),
        last_action=last_action,
        agents=spec.num_agents if agent_id else 0,
    )
