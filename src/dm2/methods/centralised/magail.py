"""DM² with one discriminator for the team: the centralised counterpart, after MAGAIL."""

import functools
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt32

from dm2.agent.actor import Actor
from dm2.agent.demonstrations import Expert, required
from dm2.agent.discriminator import DiscriminatorState, Imitator, chosen_actions, idle_steps
from dm2.agent.inputs import Moments
from dm2.agent.learner import Learner
from dm2.agent.mixed_reward import Balance, mixed_reward
from dm2.agent.settings import Imitation
from dm2.agent.state import AgentState, Extras, Memory
from dm2.agent.types import Trajectory, View
from dm2.compilation import Program, compiler_options
from dm2.demos.dataset import Demonstrations
from dm2.demos.experts import load_joint_expert
from dm2.envs.base import EnvSpec
from dm2.errors import checks_itself
from dm2.methods.base import Method
from dm2.methods.dm2 import DM2
from dm2.methods.independent import Independent

__all__ = ["MAGAIL", "JointlyImitating", "TeamState"]


@checks_itself
@dataclass(frozen=True)
class MAGAIL(DM2):
    """Agents of DM² who share one discriminator (after Song et al. 2018, arXiv 1807.09936, in its
    centralised form): it sees the observations of all agents together, and its reward goes to
    every agent. All else is as in `dm2`, so that the two differ by what decentralising the
    discriminator costs."""

    name: ClassVar[str] = "magail"

    def experts(self, demos: Demonstrations) -> Any:
        """The team as one expert."""
        return load_joint_expert(demos, actions=self.imitation.inputs == "state-actions")

    def build(self, spec: EnvSpec, num_envs: int) -> Method:
        """The method for an environment. Raises InputError if observations are one number, of which
        layer norm leaves nothing."""
        # The joint imitation reward goes on while a teammate lives, whomever the task pays.
        learner = self.learner(spec, keeps_observations=True, own_rewards=False)
        return JointlyImitating(learner, self.imitation, spec.num_agents)


class TeamState(NamedTuple):
    """What the agents own, and the discriminator that they share."""

    agents: AgentState
    key: UInt32[Array, "2"]
    discriminator: DiscriminatorState
    balance: Balance | None
    """Of each agent's rewards, `[K]`; None where their weights are given in units of reward."""


class JointlyImitating:
    """Independent learners whose imitation reward comes from one discriminator; see
    `dm2.methods.base.Method` for what the functions are."""

    centralised = True
    shares_reward = False  # as in DM²: the discriminator is all that is shared

    def __init__(self, learner: Learner, imitation: Imitation, num_agents: int) -> None:
        """Maps one agent's rules over a team.

        Args:
            learner: The rules of one agent, which does not imitate by itself.
            imitation: Settings of the shared discriminator and of how rewards are mixed.
            num_agents: How many agents the team has.
        """
        self.independent = Independent(learner, num_agents)
        self.imitation = imitation
        self.num_agents = num_agents
        sizes = (num_agents * learner.observation_size, num_agents * learner.num_actions)
        self.imitator = Imitator(imitation, *sizes, learner.ppo.discount)
        self.reward = jax.jit(self._reward, compiler_options=compiler_options("learn"))

    def init(self, key: UInt32[Array, "2"]) -> TeamState:
        """Fresh agents, made as without imitation, and a discriminator."""
        agents = self.independent.init(key)
        own, discriminator_key = jax.random.split(jax.random.fold_in(key, self.num_agents))
        balance = None
        if self.imitation.unit == "advantage":
            blank = Balance.initial()
            balance = jax.tree.map(lambda x: jnp.broadcast_to(x, (self.num_agents,)), blank)
        return TeamState(agents, own, self.imitator.init(discriminator_key), balance)

    def memory(self, num_envs: int) -> Memory:
        """As of independent agents."""
        return self.independent.memory(num_envs)

    def action_keys(self, state: TeamState, steps: int) -> UInt32[Array, "T K 2"]:
        """As of independent agents."""
        return self.independent.action_keys(state.agents, steps)

    def act(
        self,
        state: TeamState,
        memory: Memory,
        keys: UInt32[Array, "K 2"],
        view: View,
        greedy: bool,
        global_state: Float[Array, "N S"] | None = None,
    ) -> tuple[Memory, Int[Array, "K N"], Extras]:
        """As of independent agents: only what they learn from is centralised."""
        return self.independent.act(state.agents, memory, keys, view, greedy)

    def actor_of(self, state: TeamState, agent: int) -> Actor:
        """As of independent agents."""
        return self.independent.actor_of(state.agents, agent)

    def bootstrap(
        self,
        state: TeamState,
        memory: Memory,
        view: View,
        global_state: Float[Array, "N S"] | None = None,
    ) -> Float[Array, "K N"]:
        """As of independent agents."""
        return self.independent.bootstrap(state.agents, memory, view)

    def learn(
        self, state: TeamState, trajectory: Trajectory, experts: Expert | None
    ) -> tuple[TeamState, dict[str, Any]]:
        """The discriminator learns, then every agent alone from the reward that came of it."""
        state, rewards, metrics = self.reward(state, trajectory, experts)
        trajectory = trajectory._replace(rewards=rewards)
        agents, of_agents = self.independent.learn(state.agents, trajectory, None)
        return state._replace(agents=agents), metrics | of_agents

    def programs(
        self, state: TeamState, trajectory: Trajectory, experts: Expert | None
    ) -> list[Program]:
        """That of the discriminator, and those of the agents."""
        own = Program(self.reward, (state, trajectory, experts))
        return [own, *self.independent.programs(state.agents, trajectory, None)]

    def _reward(
        self, state: TeamState, trajectory: Trajectory, expert: Expert | None
    ) -> tuple[TeamState, Float[Array, "K T N"], dict[str, Array]]:
        """Each agent's mixed reward, after the discriminator's update."""
        key, update_key = jax.random.split(state.key)
        alive = trajectory.alive
        somebody = jnp.any(alive, axis=0)
        idle = idle_steps(trajectory)[0]  # episodes end for all agents together
        observations = side_by_side(trajectory.extras.observations, alive)
        actions = None
        if self.imitator.takes_actions:
            count = self.independent.learner.num_actions
            actions = side_by_side(chosen_actions(trajectory.actions, count), alive)
        # Every agent takes the rollout into its moments when it learns; here as it will be then.
        agents = jax.vmap(self.independent.learner.with_moments)(state.agents, trajectory)
        moments = joint_moments(agents.moments)
        if moments is not None:
            observations = required(expert).rounded(observations)
        of_steps = (observations, somebody, idle, moments, actions)
        discriminator, metrics = self.imitator.update(
            state.discriminator, update_key, required(expert), *of_steps
        )
        imitation, mean = self.imitator.rewards(discriminator, *of_steps)
        metrics["imitation_reward"] = mean
        mix = functools.partial(mixed_reward, self.independent.learner.ppo, self.imitation)
        rewards, balance, of_mixing = jax.vmap(mix, in_axes=(0, None, 0))(
            trajectory, imitation, state.balance
        )
        state = TeamState(state.agents, key, discriminator, balance)
        return state, rewards, {name: x[None] for name, x in metrics.items()} | of_mixing


def side_by_side(
    rows: Float[Array, "K T N O"] | Bool[Array, "K T N O"], alive: Bool[Array, "K T N"]
) -> Float[Array, "T N KO"] | Bool[Array, "T N KO"]:
    """All agents' rows one behind another, `[T, N, K O]`, those of the dead as zeros."""
    _, steps, envs, _ = rows.shape
    rows = jnp.where(alive[..., None], rows, jnp.zeros((), rows.dtype))
    return jnp.moveaxis(rows, 0, 2).reshape(steps, envs, -1)


def joint_moments(moments: Moments | None) -> Moments | None:
    """The moments of all agents' features `[K O]`, of those that each agent keeps of its own."""
    if moments is None:
        return None
    return Moments(moments.mean.reshape(-1), moments.variance.reshape(-1), jnp.sum(moments.steps))
