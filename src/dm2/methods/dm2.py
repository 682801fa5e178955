"""DM²: independent PPO on a reward mixed of the task's and of matching one's own demonstrations."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

from dm2.agent.settings import Imitation, Matching
from dm2.demos.dataset import Demonstrations
from dm2.demos.experts import load_experts
from dm2.envs.base import EnvSpec
from dm2.errors import checks_itself
from dm2.methods.base import Method
from dm2.methods.independent import Independent
from dm2.methods.ippo import IPPO

__all__ = ["DM2", "GAIL"]


@checks_itself
@dataclass(frozen=True)
class GAIL(IPPO):
    """Independent generative adversarial imitation learning (Ho & Ermon 2016, arXiv 1606.03476):
    DM² without the team's reward. Every agent learns from its own discriminator alone (Wang et
    al. 2023, arXiv 2206.00233, Figure 6)."""

    name: ClassVar[str] = "gail"
    imitates: ClassVar[bool] = True

    imitation: Matching = field(default_factory=Matching)

    @property
    def needs_same_limit(self) -> bool:
        """With absorbing states, the time between an episode's end and the limit counts."""
        return self.imitation.survival == "absorbing"

    def experts(self, demos: Demonstrations) -> Any:
        """Each agent's own demonstrations, with actions where its discriminator takes them."""
        return load_experts(demos, actions=self.imitation.inputs == "state-actions")

    def build(self, spec: EnvSpec, num_envs: int) -> Method:
        """The method for an environment. Raises InputError if observations are one number, of which
        layer norm leaves nothing."""
        return Independent(self.learner(spec, self.imitation), spec.num_agents)


@checks_itself
@dataclass(frozen=True)
class DM2(GAIL):
    """DM² (Wang et al. 2023, arXiv 2206.00233, Algorithm 1): independent PPO in which every agent
    has a discriminator and demonstrations of its own, and learns from
    `r = task_weight * r_env + coefficient * r_imitation`."""

    name: ClassVar[str] = "dm2"

    imitation: Imitation = field(default_factory=Imitation)

    @property
    def has_schedules(self) -> bool:
        """Whether the learning rate, the entropy weight or the coefficient has an end."""
        return super().has_schedules or self.imitation.coefficient_end is not None
