"""The settings of QMIX, VDN and IQL: recurrent Q-learning with shared parameters, and a mixer."""

import dataclasses
from dataclasses import dataclass, field
from typing import ClassVar

from dm2.agent.costs import ACTIVATIONS
from dm2.agent.inputs import Inputs
from dm2.agent.settings import ObservationScale
from dm2.envs.base import EnvSpec
from dm2.errors import check_choice, check_finite, check_setting, checks_itself
from dm2.methods.base import Method, Settings, scaled_inputs, settled_scale
from dm2.methods.centralised.mixing import Apart, Mixing, Monotonic, Sum
from dm2.methods.centralised.qlearning import QLearning
from dm2.methods.centralised.settings import Mixer, Q

__all__ = ["IQL", "QMIX", "VDN"]


@checks_itself
@dataclass(frozen=True)
class IQL(Settings):
    """Independent Q-learning (Tampuu et al. 2017, arXiv 1511.08779) with parameters and a replay
    that the agents share, as in PyMARL: every agent's value has a target of its own."""

    name: ClassVar[str] = "iql"

    q: Q = field(default_factory=Q)
    observations: ObservationScale = field(default="auto", kw_only=True)
    """How observations, and global states where they are used, are brought to one scale. `layer`:
    each to mean 0 and variance 1 over its features (layer norm), which sees nothing but their
    ratios; `running`: each feature by its mean and variance so far, of all agents' observations;
    `both`, the latter first; `none`. By default `layer` on the battles, smax and smac, whose
    features have one scale, else `running`."""
    reward_scale: float | None = field(default=None, kw_only=True)
    """What rewards are multiplied by before anything is learnt of them. By default 10 on smax,
    whose battles pay 2 in all, as JaxMARL does to come to SMAC's 20, else 1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "", "observations", ObservationScale)
        if self.reward_scale is not None:
            check_finite(self, "", "reward_scale", low=1e-12)

    def settled(self, env: str) -> "IQL":
        """With the scales of observations and of rewards that suit the environment, where none
        was chosen."""
        usual = 10.0 if env.startswith("smax/") else 1.0
        return dataclasses.replace(
            self,
            observations=settled_scale(self.observations, env),
            reward_scale=usual if self.reward_scale is None else self.reward_scale,
        )

    def build(self, spec: EnvSpec, num_envs: int) -> Method:
        """The method for an environment. Raises InputError if layer norm leaves nothing of its
        observations or of its states."""
        return self.team(spec, num_envs)

    def team(self, spec: EnvSpec, num_envs: int) -> QLearning:
        """The Q-learning team for an environment; see `build`."""
        scale = self.settled(spec.name).reward_scale
        assert scale is not None
        return QLearning(self.q, self.inputs(spec), self.mixing(spec), scale, spec, num_envs)

    def mixing(self, spec: EnvSpec) -> Mixing:
        """What leaves the values as they are, so that each agent has an error of its own."""
        return Apart()

    def inputs(self, spec: EnvSpec) -> Inputs:
        """How the networks' input is made in an environment."""
        return scaled_inputs(self.observations, spec, last_action=True, agent_id=True)

    def update_flops(self, spec: EnvSpec, steps: int) -> float:
        """Of all updates of a rollout, as if every episode lasted to the limit. The network learns,
        at three forward passes but for the gradient of what goes in, and its copy makes targets."""
        q, size = self.q, self.inputs(spec).size(spec.observation_size, spec.num_actions)
        inner = (q.dense_layers - 1) * q.hidden**2 + 6 * q.hidden**2 + q.hidden * spec.num_actions
        of_agent = 2.0 * (4 * inner + 3 * size * q.hidden)
        rows = q.updates * q.batch * (spec.episode_limit + 1)
        return rows * (spec.num_agents * of_agent + self.mixing_flops(spec))

    def mixing_flops(self, spec: EnvSpec) -> float:
        """Of the mixer, its copy and its gradient, of one step of a team."""
        return 0.0

    def update_bytes(self, spec: EnvSpec, steps: int, num_envs: int) -> float:
        """Of the replay, which is there twice more while a checkpoint is written, and of what an
        update keeps of a batch, as if its episodes lasted to the limit."""
        rows = self.q.batch * (spec.episode_limit + 1) * spec.num_agents
        replay = self.team(spec, 1).replay_bytes()
        return 3.0 * replay + 4.0 * ACTIVATIONS * self.q.hidden * rows


@checks_itself
@dataclass(frozen=True)
class VDN(IQL):
    """Value decomposition (Sunehag et al. 2017, arXiv 1706.05296): the team's value is the sum of
    its agents', and the team has one target. Recurrent agents with shared parameters."""

    name: ClassVar[str] = "vdn"

    def mixing(self, spec: EnvSpec) -> Mixing:
        """A sum."""
        return Sum()


@checks_itself
@dataclass(frozen=True)
class QMIX(IQL):
    """QMIX (Rashid et al. 2018, arXiv 1803.11485): the team's value is a monotonic function of its
    agents', which the global state decides. Recurrent agents with shared parameters."""

    name: ClassVar[str] = "qmix"

    mixer: Mixer = field(default_factory=Mixer)

    def mixing(self, spec: EnvSpec) -> Mixing:
        """The monotonic network."""
        layer = self.inputs(spec).layer
        remedy = f"leaves nothing of the one number that {spec.name}'s state is; choose running"
        check_setting(not layer or spec.state_size > 1, "observations", self.observations, remedy)
        return Monotonic(self.mixer.embed, self.mixer.hidden)

    def mixing_flops(self, spec: EnvSpec) -> float:
        """Of the networks of the state, which take most of it."""
        embed, hidden = self.mixer.embed, self.mixer.hidden
        inner = hidden * embed * (spec.num_agents + 1) + embed
        first = spec.state_size * 2 * (hidden + embed)
        return 2.0 * (4 * inner + 3 * first)
