"""Independent PPO: every agent learns alone from the task's reward."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

from dm2.agent.costs import fit_bytes, update_flops
from dm2.agent.inputs import Inputs
from dm2.agent.learner import Learner
from dm2.agent.settings import Matching
from dm2.envs.base import EnvSpec
from dm2.errors import checks_itself
from dm2.methods.base import Method, Settings
from dm2.methods.independent import Independent
from dm2.methods.on_policy import OnPolicy

__all__ = ["IPPO"]


@checks_itself
@dataclass(frozen=True)
class IPPO(OnPolicy):
    """Independent PPO (de Witt et al. 2020, arXiv 2011.09533): every agent has an actor, a critic
    and optimisers of its own, and learns from the team's reward, or from its own where the
    environment pays each agent its own."""

    name: ClassVar[str] = "ippo"

    agent_id: bool = field(default=False, kw_only=True)
    """Whether the networks also take the agent's number in the team."""

    def check(self, num_envs: int) -> None:
        """Raises InputError unless the minibatches divide the environments."""
        self.ppo.check_num_envs(num_envs)

    def build(self, spec: EnvSpec, num_envs: int) -> Method:
        """The method for an environment. Raises InputError if its observations are one number,
        of which layer norm leaves nothing."""
        return Independent(self.learner(spec), spec.num_agents)

    def learner(self, spec: EnvSpec, imitation: Matching | None = None, **more: Any) -> Learner:
        """The rules of one agent; `more` are keyword arguments of `Learner`."""
        sizes = (spec.observation_size, spec.num_actions)
        more = {"own_rewards": spec.own_rewards, **more}
        return Learner(self.ppo, imitation, *sizes, self.inputs(spec), **more)

    def inputs(self, spec: EnvSpec) -> Inputs:
        """How the networks' input is made in an environment."""
        return self.inputs_of(spec, agent_id=self.agent_id)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Settings":
        """As that of `Settings`. Runs that say nothing of the scale of observations are older than
        the setting, and took layer norm."""
        return super().from_dict({"observations": "layer", **values})

    def update_flops(self, spec: EnvSpec, steps: int) -> float:
        """Of PPO's epochs; see `dm2.agent.costs`."""
        size = self.inputs(spec).size(spec.observation_size, spec.num_actions)
        return update_flops(self.ppo, size, spec.num_actions, steps * spec.num_agents)

    def update_bytes(self, spec: EnvSpec, steps: int, num_envs: int) -> float:
        """Of PPO's minibatches; see `dm2.agent.costs`. It does not grow with the team, whose
        agents learn one after another."""
        return fit_bytes(self.ppo, steps)
