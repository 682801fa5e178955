"""DM²: independent PPO on a reward mixed of the task's and of matching one's own demonstrations."""

from dataclasses import dataclass, field
from typing import ClassVar

from dm2.agent.settings import Imitation
from dm2.envs.base import EnvSpec
from dm2.errors import checks_itself
from dm2.methods.base import Method
from dm2.methods.independent import Independent
from dm2.methods.ippo import IPPO

__all__ = ["DM2"]


@checks_itself
@dataclass(frozen=True)
class DM2(IPPO):
    """DM² (Wang et al. 2023, arXiv 2206.00233, Algorithm 1): independent PPO in which every agent
    has a discriminator and demonstrations of its own, and learns from
    `r = task_weight * r_env + coefficient * r_imitation`."""

    name: ClassVar[str] = "dm2"
    imitates: ClassVar[bool] = True

    imitation: Imitation = field(default_factory=Imitation)

    @property
    def has_schedules(self) -> bool:
        """Whether the learning rate, the entropy weight or the coefficient has an end."""
        return super().has_schedules or self.imitation.coefficient_end is not None

    @property
    def needs_same_limit(self) -> bool:
        """With absorbing states, the time between an episode's end and the limit counts."""
        return self.imitation.survival == "absorbing"

    def build(self, spec: EnvSpec, num_envs: int) -> Method:
        """The method for an environment."""
        return Independent(self.learner(spec, self.imitation), spec.num_agents)
