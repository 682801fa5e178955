"""Recurrent MAPPO (Yu et al. 2022, arXiv 2103.01955): PPO with an actor and a critic that all
agents share, of which the critic sees the environment's global state.

To learn, the team is one agent: its `K` agents in `N` environments are `K N` environments of a
single `dm2.agent.learner.Learner`, agent `k`'s part of environment `n` at place `k N + n`. The
agent's number is in the input of both networks and tells them apart. To act, an agent needs its
own observation and the shared actor only.

Death. Yu et al. (section 3) give the critic zeros and the agent's number for a dead agent, and
train it on them. Here, as in independent learning, no step at which an agent is dead counts in a
loss or a statistic, and the critic is never asked there: its last value while the agent lived is
carried on, and what the team earns afterwards reaches the agent's last actions undiscounted by
lambda (see `dm2.agent.returns.masked_gae`).
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt32

from dm2.agent.actor import Actor
from dm2.agent.costs import fit_bytes, update_flops
from dm2.agent.demonstrations import Expert
from dm2.agent.inputs import Inputs, Moments
from dm2.agent.learner import Learner, actor_arguments, critic_arguments, improved
from dm2.agent.state import AgentState, Memory
from dm2.agent.types import Trajectory, View
from dm2.compilation import Program, SideBySide, compiler_options
from dm2.envs.base import EnvSpec
from dm2.errors import InputError, check_choice, check_setting, checks_itself
from dm2.methods.base import Method
from dm2.methods.on_policy import OnPolicy

__all__ = ["RMAPPO", "CentralCritic", "SharedExtras", "SharedState", "SharedTeam"]

CriticInput = Literal["state", "agent-state"]
StateScale = Literal["layer", "running", "both", "none"]


class SharedState(NamedTuple):
    """Everything that the team owns and that outlives an episode."""

    agent: AgentState
    """Networks, optimisers, random stream, and the scales of returns and observations, one for all
    agents. It holds no agent's number."""
    state_moments: Moments | None
    """Of the global state; None where it is not standardised."""


class SharedExtras(NamedTuple):
    """What learning needs of the team's actions later; of a rollout, `[K, T, N, ...]`."""

    log_probs: Float[Array, "K *T N"]
    """Log-probability of the action under the policy that chose it."""
    values: Float[Array, "K *T N"]
    """The critic's value; the last one while alive after death."""
    inputs: Float[Array, "K *T N I"]
    """What the actor took."""
    observations: Float[Array, "K *T N O"] | None
    """The observations as they came, for their moments; None where there are none."""
    critic_inputs: Float[Array, "K *T N C"]
    """What the critic took."""
    states: Float[Array, "1 *T N S"] | None
    """The global states as they came, for their moments; None where there are none."""


class CentralCritic(NamedTuple):
    """How the critic's input is made. It holds settings only."""

    of_state: Inputs
    """How the global state is brought to one scale; its `agents` is the team's size."""
    own_observation: bool
    """Whether the agent's own observation follows, on the actor's scale."""

    def size(self, spec: EnvSpec) -> int:
        """How many numbers the critic takes."""
        observation = spec.observation_size if self.own_observation else 0
        return self.of_state.size(spec.state_size, spec.num_actions) + observation


class SharedTeam:
    """A team that shares one learner. Every array of acting leads with the agents' axis `K`; see
    `dm2.methods.base.Method` for what the functions are."""

    centralised = True
    shares_reward = True

    def __init__(self, learner: Learner, critic: CentralCritic, spec: EnvSpec) -> None:
        """Makes the team's rules.

        Args:
            learner: The rules of one agent; its critic is applied to the critic's inputs.
            critic: How those are made.
            spec: The environment's sizes.
        """
        self.learner = learner
        self.critic = critic
        self.spec = spec
        self.num_agents = spec.num_agents
        compiled = functools.partial(jax.jit, compiler_options=compiler_options("learn"))
        self.prepare = compiled(self._prepare)
        self.improve_actor = compiled(_of_the_team(learner.improve_actor))
        self.improve_critic = compiled(_of_the_team(learner.improve_critic))
        self._improve = SideBySide(self.improve_actor, self.improve_critic)

    @property
    def _numbers(self) -> Float[Array, "K K"]:
        """Every agent's number in the team, one-hot."""
        return jnp.eye(self.num_agents)

    def init(self, key: UInt32[Array, "2"]) -> SharedState:
        """A fresh team."""
        key, critic_key = jax.random.split(key)
        learner, spec = self.learner, self.spec
        blank = jnp.zeros((1, 1, self.critic.size(spec))), jnp.zeros((1, 1), bool)
        critic = learner.critic.init(critic_key, learner.critic.initial_memory(1), *blank)
        agent = learner.init(key)._replace(
            critic=critic, critic_opt=learner.optimiser.init(critic), identity=None
        )
        running = self.critic.of_state.running
        return SharedState(agent, Moments.initial(spec.state_size) if running else None)

    def memory(self, num_envs: int) -> Memory:
        """Every agent's memory before it has perceived anything."""
        one = self.learner.memory(num_envs)
        return jax.tree.map(lambda x: jnp.broadcast_to(x, (self.num_agents, *x.shape)), one)

    def action_keys(self, state: SharedState, steps: int) -> UInt32[Array, "T K 2"]:
        """Each agent's own keys for the coming rollout, from the team's key and its number."""

        def of_agent(number: Array) -> Array:
            own = jax.random.fold_in(state.agent.key, number)
            return self.learner.action_keys(state.agent._replace(key=own), steps)

        return jax.vmap(of_agent, out_axes=1)(jnp.arange(self.num_agents))

    def act(
        self,
        state: SharedState,
        memory: Memory,
        keys: UInt32[Array, "K 2"],
        view: View,
        greedy: bool,
        global_state: Float[Array, "N S"] | None = None,
    ) -> tuple[Memory, Int[Array, "K N"], SharedExtras | None]:
        """Every agent acts on its own part of the view. Only where there is a global state does
        the critic judge it; without one the team just plays, and nothing is kept for learning.

        Args:
            state: The team.
            memory: What the agents remember.
            keys: Each agent's own key.
            view: What each agent perceives.
            greedy: Whether to take the most likely actions; otherwise they are sampled.
            global_state: The environment's global state, for learning.

        Returns:
            The next memory, the actions, and what learning needs of them later.
        """

        def one(number: Array, memory: Memory, key: Array, view: View) -> tuple[Any, ...]:
            agent = state.agent._replace(identity=number)
            chosen = self.learner.choose(agent, memory, key, view, greedy)
            return *chosen, self.learner.network_inputs(agent, memory, view)

        of_team = (self._numbers, memory, keys, view)
        actor_memory, actions, log_probs, inputs = jax.vmap(one)(*of_team)
        after = memory._replace(actor=actor_memory)
        if self.learner.inputs.last_action:
            after = after._replace(action=actions.astype(jnp.int32))
        if global_state is None:
            return after, actions, None
        critic_memory, values, critic_inputs = self._judge(state, memory, view, global_state)
        extras = SharedExtras(
            log_probs=log_probs,
            values=values,
            inputs=inputs,
            observations=view.observations if self.learner.inputs.running else None,
            critic_inputs=critic_inputs,
            states=global_state[None] if self.critic.of_state.running else None,
        )
        return after._replace(critic=critic_memory, value=values), actions, extras

    def actor_of(self, state: SharedState, agent: int) -> Actor:
        """The shared actor with one agent's number."""
        return self.learner.actor_of(state.agent._replace(identity=self._numbers[agent]))

    def bootstrap(
        self,
        state: SharedState,
        memory: Memory,
        view: View,
        global_state: Float[Array, "N S"] | None = None,
    ) -> Float[Array, "K N"]:
        """Every agent's value of a global state on which nobody acts, because a time limit or the
        rollout's end cuts there; for a dead agent its last value while alive. Raises InputError
        without a global state, of which alone there are values."""
        if global_state is None:
            raise InputError("global_state = None: the critic needs it; hand over TeamView.state")
        return self._judge(state, memory, view, global_state)[1]

    def _judge(
        self, state: SharedState, memory: Memory, view: View, global_state: Float[Array, "N S"]
    ) -> tuple[Float[Array, "K N H"], Float[Array, "K N"], Float[Array, "K N C"]]:
        """The critic's next recurrent state, its values in units of the reward, and its inputs."""
        agent, critic = state.agent, self.critic
        on_scale = critic.of_state.observations(state.state_moments, global_state)

        def one(number: Array, memory: Memory, view: View) -> tuple[Array, Array, Array]:
            parts = [on_scale]
            if critic.own_observation:
                parts.append(self.learner.inputs.observations(agent.moments, view.observations))
            parts.append(jnp.broadcast_to(number, (len(on_scale), len(number))))
            inputs = jnp.concatenate(parts, axis=-1)
            row = (memory.critic, inputs[None], view.starts[None])
            after, outputs = self.learner.critic.apply(agent.critic, *row)
            value = agent.scale.restore(outputs[0, :, 0])
            return after, jnp.where(view.alive, value, memory.value), inputs

        return jax.vmap(one)(self._numbers, memory, view)

    def learn(
        self, state: SharedState, trajectory: Trajectory, experts: Expert | None
    ) -> tuple[SharedState, dict[str, Any]]:
        """The team learns. Several compiled programs are started from Python and not waited
        for."""
        state, of_actor, of_critic = self.prepare(state, trajectory)
        agent, metrics = improved(state.agent, {}, *self._improve(of_actor, of_critic))
        return state._replace(agent=agent), metrics

    def programs(
        self, state: SharedState, trajectory: Trajectory, experts: Expert | None
    ) -> list[Program]:
        """The three programs of `learn`."""
        prepare = Program(self.prepare, (state, trajectory))
        _, of_actor, of_critic = prepare.results(self._improve.home)
        return [prepare, *self._improve.programs(of_actor, of_critic)]

    def _prepare(
        self, state: SharedState, trajectory: Trajectory
    ) -> tuple[SharedState, tuple[Any, ...], tuple[Any, ...]]:
        """All of an update up to PPO's epochs.

        Returns:
            The team with what it now knows of scales, and the arguments of the actor's and of the
            critic's epochs.
        """
        extras, moments = trajectory.extras, state.state_moments
        if moments is not None:
            moments = moments.including(extras.states[0], jnp.any(trajectory.alive, axis=0))
        joint = joined(trajectory._replace(extras=extras._replace(states=None)))
        agent, prepared, _ = self.learner.prepare(state.agent, joint, None)
        of_critic = joint.extras._replace(inputs=joint.extras.critic_inputs)
        return (
            SharedState(agent, moments),
            actor_arguments(agent, joint, prepared),
            critic_arguments(agent, joint._replace(extras=of_critic), prepared),
        )


def joined(trajectory: Trajectory) -> Trajectory:
    """A team's trajectory as one agent's in `K N` environments.

    Args:
        trajectory: The team's, `[K, T, N, ...]`, its memory `[K, N, ...]`, its progress `[K]`.

    Returns:
        Fields `[T, K N, ...]`, agent `k`'s in environment `n` at place `k N + n`, the memory
        `[K N, ...]`, and the progress as a scalar.
    """

    def rows(x: Array) -> Array:
        return jnp.moveaxis(x, 0, 1).reshape(x.shape[1], -1, *x.shape[3:])

    parts = trajectory._replace(memory=None, progress=None)
    return jax.tree.map(rows, parts)._replace(
        memory=jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), trajectory.memory),
        progress=trajectory.progress[0],
    )


def _of_the_team(fit: Callable) -> Callable:
    """The function, with what it reports as `[1]`, of the team as a whole."""

    def fitted(*arguments: Any) -> tuple[Any, ...]:
        params, opt_state, metrics = fit(*arguments)
        return params, opt_state, jax.tree.map(lambda x: x[None], metrics)

    return fitted


@checks_itself
@dataclass(frozen=True)
class RMAPPO(OnPolicy):
    """Recurrent MAPPO (Yu et al. 2022, arXiv 2103.01955): all agents share an actor, and a critic
    that sees the global state. Both networks take the agent's number in the team."""

    name: ClassVar[str] = "rmappo"

    critic: CriticInput = field(default="agent-state", kw_only=True)
    """What the critic takes beside the agent's number: the global `state`, or `agent-state`, which
    appends the agent's own observation (Yu et al., section 5.2)."""
    states: StateScale = field(default="running", kw_only=True)
    """How global states are brought to one scale, as `observations` says of observations. Their
    features need not have one: those of smax are map units and seconds."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "", "critic", CriticInput)
        check_choice(self, "", "states", StateScale)

    def build(self, spec: EnvSpec, num_envs: int) -> Method:
        """The method for an environment. Raises InputError if the minibatches do not divide agents
        times environments, or layer norm leaves nothing of observations or states."""
        self.ppo.check_num_envs(num_envs, spec.num_agents)
        inputs = self.inputs_of(spec, agent_id=True)
        learner = Learner(self.ppo, None, spec.observation_size, spec.num_actions, inputs)
        return SharedTeam(learner, self._central_critic(spec), spec)

    def _central_critic(self, spec: EnvSpec) -> CentralCritic:
        layer = self.states in ("layer", "both")
        remedy = f"leaves nothing of the {spec.state_size} numbers of {spec.name}'s state"
        remedy += "; choose running or none"
        check_setting(not layer or spec.state_size > 1, "states", self.states, remedy)
        running = self.states in ("running", "both")
        of_state = Inputs(layer=layer, running=running, agents=spec.num_agents)
        return CentralCritic(of_state, self.critic == "agent-state")

    def update_flops(self, spec: EnvSpec, steps: int) -> float:
        """Of PPO's epochs; see `dm2.agent.costs`."""
        actor = self.inputs_of(spec, agent_id=True).size(spec.observation_size, spec.num_actions)
        mean = (actor + self._central_critic(spec).size(spec)) / 2
        return update_flops(self.ppo, mean, spec.num_actions, steps * spec.num_agents)

    def update_bytes(self, spec: EnvSpec, steps: int, num_envs: int) -> float:
        """Of PPO's minibatches (see `dm2.agent.costs`), which hold all agents' steps, and of three
        copies of what the critic takes: as collected, joined, and on the second device."""
        agent_steps = steps * spec.num_agents
        critic = 3 * 4 * self._central_critic(spec).size(spec) * agent_steps
        return fit_bytes(self.ppo, agent_steps) + critic
