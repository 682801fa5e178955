"""Independent PPO: every agent learns alone from the team's task reward."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any, ClassVar

from dm2.agent.costs import fit_bytes, update_flops
from dm2.agent.inputs import Inputs
from dm2.agent.learner import Learner
from dm2.agent.settings import PPO, Imitation, ObservationScale
from dm2.envs.base import EnvSpec
from dm2.errors import check_choice, checks_itself
from dm2.methods.base import Method, Settings, scaled_inputs, settled_scale
from dm2.methods.independent import Independent

__all__ = ["IPPO"]


@checks_itself
@dataclass(frozen=True)
class IPPO(Settings):
    """Independent PPO (de Witt et al. 2020, arXiv 2011.09533): every agent has an actor, a critic
    and optimisers of its own, and learns from the team's task reward."""

    name: ClassVar[str] = "ippo"

    ppo: PPO = field(default_factory=PPO)
    observations: ObservationScale = field(default="auto", kw_only=True)
    """How observations are brought to one scale. `layer`: each to mean 0 and variance 1 over its
    features (layer norm), which sees nothing but their ratios; `running`: each feature by its mean
    and variance so far, of the agent's own observations; `both`, the latter first; `none`. By
    default `layer` on the battles, smax and smac, whose features have one scale, else `running`."""
    last_action: bool = field(default=False, kw_only=True)
    """Whether the networks also take the agent's last action."""
    agent_id: bool = field(default=False, kw_only=True)
    """Whether the networks also take the agent's number in the team."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "", "observations", ObservationScale)

    def settled(self, env: str) -> "IPPO":
        """With the scale of observations that suits the environment, if none was chosen."""
        return dataclasses.replace(self, observations=settled_scale(self.observations, env))

    @property
    def has_schedules(self) -> bool:
        """Whether the learning rate or the entropy weight has an end of its own."""
        return self.ppo.learning_rate_end is not None or self.ppo.entropy_end is not None

    def check(self, num_envs: int) -> None:
        """Raises InputError unless the minibatches divide the environments."""
        self.ppo.check_num_envs(num_envs)

    def build(self, spec: EnvSpec, num_envs: int) -> Method:
        """The method for an environment. Raises InputError if its observations are one number,
        of which layer norm leaves nothing."""
        return Independent(self.learner(spec), spec.num_agents)

    def learner(self, spec: EnvSpec, imitation: Imitation | None = None) -> Learner:
        """The rules of one agent."""
        sizes = (spec.observation_size, spec.num_actions)
        return Learner(self.ppo, imitation, *sizes, self.inputs(spec))

    def inputs(self, spec: EnvSpec) -> Inputs:
        """How the networks' input is made in an environment."""
        known = {"last_action": self.last_action, "agent_id": self.agent_id}
        return scaled_inputs(self.observations, spec, **known)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Settings":
        """As that of `Settings`. Runs that say nothing of the scale of observations are older than
        the setting, and took layer norm."""
        return super().from_dict({"observations": "layer", **values})

    def update_flops(self, spec: EnvSpec, steps: int) -> float:
        """Of PPO's epochs; see `dm2.agent.costs`."""
        size = self.inputs(spec).size(spec.observation_size, spec.num_actions)
        return update_flops(self.ppo, size, spec.num_actions, steps * spec.num_agents)

    def update_bytes(self, spec: EnvSpec, steps: int) -> float:
        """Of PPO's minibatches; see `dm2.agent.costs`. It does not grow with the team, whose
        agents learn one after another."""
        return fit_bytes(self.ppo, steps)
