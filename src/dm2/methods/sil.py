"""Self-imitation: DM² in which every agent's expert is itself, in its own best episodes."""

from dataclasses import dataclass, field
from typing import ClassVar

from dm2.agent.self_imitation import BestEpisodes
from dm2.agent.settings import Imitation, SelfImitation
from dm2.envs.base import EnvSpec
from dm2.errors import checks_itself
from dm2.methods.base import Method
from dm2.methods.independent import Independent
from dm2.methods.ippo import IPPO

__all__ = ["SIL"]


@checks_itself
@dataclass(frozen=True)
class SIL(IPPO):
    """Self-imitation learning (cf. Oh et al. 2018, arXiv 1806.05635) as Wang et al. 2023 (arXiv
    2206.00233) compare with it: DM² whose demonstrations are each agent's own best past episodes,
    by the discounted return of the team's reward, or of the agent's own where each is paid its
    own."""

    name: ClassVar[str] = "sil"

    imitation: Imitation = field(default_factory=Imitation)
    best: SelfImitation = field(default_factory=SelfImitation)

    @property
    def has_schedules(self) -> bool:
        """Whether the learning rate, the entropy weight or the coefficient has an end."""
        return super().has_schedules or self.imitation.coefficient_end is not None

    def build(self, spec: EnvSpec, num_envs: int) -> Method:
        """The method for an environment. Raises InputError if observations are one number, of which
        layer norm leaves nothing."""
        best = self._best(spec, num_envs)
        return Independent(self.learner(spec, self.imitation, best=best), spec.num_agents)

    def update_bytes(self, spec: EnvSpec, steps: int, num_envs: int) -> float:
        """Of PPO's minibatches, as of `IPPO`, and of all agents' best episodes, which are there
        twice more while a checkpoint is written."""
        kept = spec.num_agents * self._best(spec, num_envs).nbytes()
        return super().update_bytes(spec, steps, num_envs) + 3.0 * kept

    def _best(self, spec: EnvSpec, num_envs: int) -> BestEpisodes:
        return BestEpisodes(
            self.best,
            spec.observation_size,
            spec.num_actions if self.imitation.inputs == "state-actions" else 0,
            spec.episode_limit,
            num_envs,
            self.ppo.discount,
        )
