"""Independent PPO: every agent learns alone from the team's task reward."""

from dataclasses import dataclass, field
from typing import ClassVar

from dm2.agent.costs import fit_bytes, update_flops
from dm2.agent.learner import Learner
from dm2.agent.settings import PPO
from dm2.envs.base import EnvSpec
from dm2.errors import checks_itself
from dm2.methods.base import Method, Settings
from dm2.methods.independent import Independent

__all__ = ["IPPO"]


@checks_itself
@dataclass(frozen=True)
class IPPO(Settings):
    """Independent PPO (de Witt et al. 2020, arXiv 2011.09533): every agent has an actor, a critic
    and optimisers of its own, and learns from the team's task reward."""

    name: ClassVar[str] = "ippo"

    ppo: PPO = field(default_factory=PPO)

    def check(self, num_envs: int) -> None:
        """Raises InputError unless the minibatches divide the environments."""
        self.ppo.check_num_envs(num_envs)

    def build(self, spec: EnvSpec) -> Method:
        """The method for an environment."""
        learner = Learner(self.ppo, None, spec.observation_size, spec.num_actions)
        return Independent(learner, spec.num_agents)

    def update_flops(self, spec: EnvSpec, steps: int) -> float:
        """Of PPO's epochs; see `dm2.agent.costs`."""
        agent_steps = steps * spec.num_agents
        return update_flops(self.ppo, spec.observation_size, spec.num_actions, agent_steps)

    def update_bytes(self, spec: EnvSpec, steps: int) -> float:
        """Of PPO's minibatches; see `dm2.agent.costs`. It does not grow with the team, whose
        agents learn one after another."""
        return fit_bytes(self.ppo, steps)
