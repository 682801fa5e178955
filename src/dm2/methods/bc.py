"""Behavioural cloning of each agent's own demonstrations, then independent PPO, or nothing."""

import dataclasses
import functools
from dataclasses import dataclass, field
from typing import Any, ClassVar

import jax

from dm2.agent.cloning import clone
from dm2.agent.demonstrations import Expert
from dm2.agent.learner import Learner
from dm2.agent.settings import Cloning, Imitation
from dm2.agent.state import AgentState
from dm2.agent.types import Trajectory
from dm2.compilation import Program
from dm2.demos.dataset import Demonstrations
from dm2.demos.experts import load_experts
from dm2.envs.base import EnvSpec
from dm2.errors import check_setting, checks_itself
from dm2.methods.base import Method
from dm2.methods.dm2 import DM2
from dm2.methods.independent import Independent

__all__ = ["BC", "Cloned"]


@checks_itself
@dataclass(frozen=True)
class BC(DM2):
    """Behavioural cloning, then DM²: every agent's policy first imitates the actions in its own
    demonstrations, then learns by PPO from the mixed reward (Wang et al. 2023, arXiv 2206.00233,
    Figure 5) or as `cloning.then` says."""

    name: ClassVar[str] = "bc"

    cloning: Cloning = field(default_factory=Cloning, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cloning.then == "mixed":
            return
        remedy = f"is not used with cloning.then = {self.cloning.then!r}; leave it at its default"
        for name, default in dataclasses.asdict(Imitation()).items():
            value = getattr(self.imitation, name)
            check_setting(value == default, f"imitation.{name}", value, remedy)

    @property
    def needs_same_limit(self) -> bool:
        """As of DM², where that follows."""
        return self.cloning.then == "mixed" and super().needs_same_limit

    def experts(self, demos: Demonstrations) -> Any:
        """Each agent's own demonstrations as whole episodes too."""
        matched = self.imitation.inputs == "state-actions"
        return load_experts(demos, actions=matched, episodes=True)

    def build(self, spec: EnvSpec, num_envs: int) -> Method:
        """The method for an environment. Raises InputError if observations are one number, of which
        layer norm leaves nothing."""
        imitation = self.imitation if self.cloning.then == "mixed" else None
        return Cloned(self.learner(spec, imitation), self.cloning, spec.num_agents)


class Cloned(Independent):
    """Independent agents that clone their experts before the first step."""

    def __init__(self, learner: Learner, cloning: Cloning, num_agents: int) -> None:
        """Maps one agent's rules over a team.

        Args:
            learner: The rules of one agent.
            cloning: How it clones, and whether it learns from rollouts afterwards.
            num_agents: How many agents the team has.
        """
        super().__init__(learner, num_agents)
        self._improves = cloning.then != "nothing"
        self.pretrain = self.compiled(functools.partial(clone, learner, cloning))

    def learn(
        self, state: AgentState, trajectory: Trajectory, experts: Expert | None
    ) -> tuple[AgentState, dict[str, Any]]:
        """As of independent agents; those that do not improve only move to their next keys."""
        if self._improves:
            return super().learn(state, trajectory, experts)
        keys = jax.vmap(lambda key: jax.random.fold_in(key, 0))(state.key)
        return state._replace(key=keys), {}

    def programs(
        self, state: AgentState, trajectory: Trajectory, experts: Expert | None
    ) -> list[Program]:
        """As of independent agents; none for those that do not improve."""
        return super().programs(state, trajectory, experts) if self._improves else []
