"""One agent that acts and learns by PPO, from the task's reward or from a mixed one.

A team is this code mapped over agents (`dm2.methods.independent`). Inside the map no teammate can
be reached, so decentralisation is a property of the program.
"""

from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, UInt32

from dm2.agent.actor import Actor
from dm2.agent.demonstrations import Expert
from dm2.agent.inputs import Inputs, Moments
from dm2.agent.learning_reward import LearningReward
from dm2.agent.networks import RecurrentNet, mask_logits
from dm2.agent.packing import Packing, Sequences, pack, packed_fit
from dm2.agent.ppo import log_prob_of, policy_loss, value_loss
from dm2.agent.returns import next_values, rollout_advantages, standardise
from dm2.agent.self_imitation import BestEpisodes
from dm2.agent.settings import PPO, Matching, scheduled
from dm2.agent.state import AgentState, Extras, Memory
from dm2.agent.types import Params, Trajectory, View
from dm2.agent.value_scale import ValueScale, rescale_head, update_scale

__all__ = [
    "Learner",
    "PolicyTargets",
    "Prepared",
    "actor_arguments",
    "critic_arguments",
    "improved",
]

Metrics = dict[str, Float[Array, ""]]

_LAYER_NORM = Inputs()


class Prepared(NamedTuple):
    """What `Learner.prepare` works out of a rollout for the epochs of PPO."""

    advantages: Float[Array, "T N"]
    """Advantages of zero mean and unit variance over the steps at which the agent is alive."""
    value_targets: Float[Array, "T N"]
    """Returns in the critic's units."""
    packing: Packing
    """The minibatches of all epochs."""


class PolicyTargets(NamedTuple):
    """What the policy's loss needs to know of every step."""

    legal: Bool[Array, "T N A"]
    actions: Int[Array, "T N"]
    log_probs: Float[Array, "T N"]
    advantages: Float[Array, "T N"]


class Learner:
    """The rules by which one agent acts and learns. It holds settings only; all that changes is in
    `AgentState` and `Memory`, which every function takes and returns.

    Example: one agent's step in four environments, and what it remembers.

        learner = Learner(PPO(), None, observation_size=5, num_actions=3)
        state = learner.init(jax.random.PRNGKey(0))
        view = View(jnp.zeros((4, 5)), jnp.ones((4, 3), bool), jnp.ones(4, bool), jnp.ones(4, bool))
        memory, actions, extras = learner.act(
            state, learner.memory(4), jax.random.PRNGKey(1), view, greedy=False
        )
    """

    def __init__(
        self,
        ppo: PPO,
        imitation: Matching | None,
        observation_size: int,
        num_actions: int,
        inputs: Inputs = _LAYER_NORM,
        *,
        best: BestEpisodes | None = None,
        keeps_observations: bool = False,
        own_rewards: bool = False,
    ) -> None:
        """Makes the rules.

        Args:
            ppo: Settings of the policy's and the value function's learning.
            imitation: Settings of distribution matching; None for an agent that does not imitate.
                With those of `Matching` alone the imitation's reward is all that it learns from.
            observation_size: Features of the agent's observation.
            num_actions: How many actions the agent chooses from.
            inputs: How the networks' input is made of an observation.
            best: What the agent keeps of its own episodes to imitate them; None for an agent that
                imitates an expert.
            keeps_observations: Whether observations as they came are kept for learning although the
                agent itself does not need them.
            own_rewards: Whether the task pays the agent alone, and nothing after its death, instead
                of the team.
        """
        self.ppo = ppo
        self.inputs = inputs
        self.observation_size = observation_size
        self.num_actions = num_actions
        # Typed Any because flax's `apply` is untyped.
        self.actor: Any = RecurrentNet(ppo.hidden, num_actions, ppo.head_gain)
        self.critic: Any = RecurrentNet(ppo.hidden, 1, 1.0)
        self.optimiser = optax.chain(
            optax.clip_by_global_norm(ppo.max_grad_norm),
            optax.adam(ppo.learning_rate, eps=1e-5),
        )
        self.reward = LearningReward(
            ppo, imitation, observation_size, num_actions, best, own_rewards=own_rewards
        )
        self._keeps_observations = keeps_observations or inputs.running or imitation is not None

    # ---- beginning

    def init(self, key: UInt32[Array, "2"], number: Int[Array, ""] | int = 0) -> AgentState:
        """A fresh agent, made from its own key; `number` says which of the team it is."""
        key, actor_key, critic_key, discriminator_key = jax.random.split(key, 4)
        size, agents = self.observation_size, self.inputs.agents
        inputs = (
            self.actor.initial_memory(1),
            jnp.zeros((1, 1, self.inputs.size(size, self.num_actions))),
            jnp.zeros((1, 1), bool),
        )
        actor = self.actor.init(actor_key, *inputs)
        critic = self.critic.init(critic_key, *inputs)
        return AgentState(
            key=key,
            actor=actor,
            critic=critic,
            actor_opt=self.optimiser.init(actor),
            critic_opt=self.optimiser.init(critic),
            scale=ValueScale.initial(),
            moments=Moments.initial(size) if self.inputs.running else None,
            identity=jax.nn.one_hot(number, agents) if agents else None,
            **self.reward.initial(discriminator_key),
        )

    def memory(self, num_envs: int) -> Memory:
        """The memory of an agent that has perceived nothing yet."""
        hidden = self.actor.initial_memory(num_envs)
        none = jnp.full(num_envs, -1, jnp.int32) if self.inputs.last_action else None
        return Memory(hidden, hidden, jnp.zeros(num_envs), none)

    # ---- acting

    def action_keys(self, state: AgentState, steps: int) -> UInt32[Array, "T 2"]:
        """The agent's own keys for sampling its actions in the coming rollout."""
        # Stream 0 of the agent's key is learning (see `prepare`), stream 1 acting.
        return jax.random.split(jax.random.fold_in(state.key, 1), steps)

    def act(
        self, state: AgentState, memory: Memory, key: UInt32[Array, "2"], view: View, greedy: bool
    ) -> tuple[Memory, Int[Array, " N"], Extras]:
        """Chooses an action in each of `N` environments. Training, evaluation, recording and
        filming all act by this function.

        Args:
            state: The agent.
            memory: What it remembers.
            key: Its own key for this step; not used where `greedy`.
            view: What it perceives.
            greedy: Whether to take the most likely actions; otherwise they are sampled.

        Returns:
            The next memory, the actions, and what learning needs of them later.
        """
        observations = view.observations.astype(jnp.float32)
        actor_memory, actions, log_probs = self.choose(state, memory, key, view, greedy)
        critic_memory, value = self.value(state, memory, view)
        value = jnp.where(view.alive, value, memory.value)
        inputs = self.network_inputs(state, memory, view)  # XLA works it out once
        extras = Extras(
            log_probs=log_probs,
            values=value,
            inputs=inputs,
            observations=observations if self._keeps_observations else None,
        )
        last = actions.astype(jnp.int32) if self.inputs.last_action else None
        return Memory(actor_memory, critic_memory, value, last), actions, extras

    def choose(
        self, state: AgentState, memory: Memory, key: UInt32[Array, "2"], view: View, greedy: bool
    ) -> tuple[Float[Array, "N H"], Int[Array, " N"], Float[Array, " N"]]:
        """The actor's part of `act`: its next recurrent state, the actions, and their
        log-probabilities."""
        after, logits = self.policy(state, memory, view)
        masked = mask_logits(logits, view.legal)
        actions = jnp.argmax(masked, axis=-1) if greedy else jax.random.categorical(key, masked)
        return after, actions, log_prob_of(logits, view.legal, actions)

    def bootstrap(self, state: AgentState, memory: Memory, view: View) -> Float[Array, " N"]:
        """The value of observations on which nobody acts, because a time limit or the rollout's
        end cuts there; for a dead agent its last value while alive, which `next_values` takes for
        what its team still earns."""
        _, value = self.value(state, memory, view)
        return jnp.where(view.alive, value, memory.value)

    def policy(
        self, state: AgentState, memory: Memory, view: View
    ) -> tuple[Float[Array, "N H"], Float[Array, "N A"]]:
        """The actor's next recurrent state and its logits; illegal actions are not yet masked."""
        inputs = self.network_inputs(state, memory, view)[None]
        after, logits = self.actor.apply(state.actor, memory.actor, inputs, view.starts[None])
        return after, logits[0]

    def actor_of(self, state: AgentState) -> Actor:
        """What the agent needs to act by itself."""
        return Actor(state.actor, self.inputs, state.moments, state.identity)

    def value(
        self, state: AgentState, memory: Memory, view: View
    ) -> tuple[Float[Array, "N H"], Float[Array, " N"]]:
        """The critic's next recurrent state and its estimate in units of the reward."""
        inputs = self.network_inputs(state, memory, view)[None]
        after, outputs = self.critic.apply(state.critic, memory.critic, inputs, view.starts[None])
        return after, state.scale.restore(outputs[0, :, 0])

    def network_inputs(self, state: AgentState, memory: Memory, view: View) -> Float[Array, "N I"]:
        """What the networks take."""
        observations = self.inputs.observations(state.moments, view.observations)
        known = (memory.action, view.starts, state.identity, self.num_actions)
        return self.inputs.append(observations, *known)

    # ---- learning

    def learn(
        self, state: AgentState, trajectory: Trajectory, expert: Expert | None
    ) -> tuple[AgentState, Metrics]:
        """Learns from one rollout (Algorithm 1): `prepare`, then `improve_actor` and
        `improve_critic`, which do not need each other.

        Args:
            state: The agent.
            trajectory: Its own part of the rollout.
            expert: Its own part of the demonstrations; None for an agent that does not imitate.

        Returns:
            The agent after the update, and what to report of it.

        Raises:
            InputError: As of `prepare`.
        """
        state, prepared, metrics = self.prepare(state, trajectory, expert)
        actor = self.improve_actor(*actor_arguments(state, trajectory, prepared))
        critic = self.improve_critic(*critic_arguments(state, trajectory, prepared))
        return improved(state, metrics, actor, critic)

    def prepare(
        self, state: AgentState, trajectory: Trajectory, expert: Expert | None
    ) -> tuple[AgentState, Prepared, Metrics]:
        """All of an update up to PPO: discriminator, mixed reward, advantages, value targets.

        Args:
            state: The agent.
            trajectory: Its own part of the rollout.
            expert: Its own part of the demonstrations; None for an agent that does not imitate.

        Returns:
            The agent with all that came of the rollout but PPO's epochs, what these need, and what
            to report.

        Raises:
            InputError: If the agent learns from demonstrations, and there are none.
        """
        learning = jax.random.fold_in(state.key, 0)
        key, discriminator_key, ppo_key = jax.random.split(learning, 3)
        state = state._replace(key=key)
        state = self.with_moments(state, trajectory)
        rewards, state, metrics = self.reward.of_rollout(
            state, discriminator_key, trajectory, expert
        )
        values, alive = trajectory.extras.values, trajectory.alive
        following = next_values(trajectory, paid_after_death=self.reward.paid_after_death)
        advantages = rollout_advantages(self.ppo, trajectory, rewards, values, following)
        returns = advantages + values
        scale = update_scale(state.scale, returns, alive)
        critic = rescale_head(state.critic, state.scale, scale)
        state = state._replace(scale=scale, critic=critic)
        environments = self._minibatches(ppo_key, alive.shape[1])
        return (
            state,
            Prepared(
                advantages=standardise(advantages, alive),
                value_targets=scale.normalise(returns),
                packing=pack(alive, trajectory.starts, environments),
            ),
            metrics,
        )

    def with_moments(self, state: AgentState, trajectory: Trajectory) -> AgentState:
        """The agent whose moments include a rollout's observations, where it keeps moments."""
        if state.moments is None:
            return state
        observations = cast(Array, trajectory.extras.observations)
        return state._replace(moments=state.moments.including(observations, trajectory.alive))

    def improve_actor(
        self,
        actor: Params,
        opt_state: optax.OptState,
        sequences: Sequences,
        targets: PolicyTargets,
        packing: Packing,
        progress: Float[Array, ""],
    ) -> tuple[Params, optax.OptState, Metrics]:
        """PPO's epochs for the policy; `progress` is the share of the run that is over."""
        ppo = self.ppo
        entropy = scheduled(ppo, "entropy", progress)
        optimiser = self._optimiser_at(progress)

        def loss(
            logits: Array, targets: PolicyTargets, alive: Array
        ) -> tuple[Array, dict[str, Array]]:
            loss, diagnostics = policy_loss(logits, *targets, alive, ppo.clip, entropy)
            return loss, {"policy_loss": loss, **diagnostics._asdict()}

        actor, opt_state, metrics = packed_fit(
            self.actor.apply, loss, optimiser, actor, opt_state, sequences, targets, packing
        )
        metrics = self._last_epoch(metrics)
        norm = metrics.pop("gradient_norm")
        return actor, opt_state, metrics | {"actor_grad_norm": norm}

    def improve_critic(
        self,
        critic: Params,
        opt_state: optax.OptState,
        sequences: Sequences,
        targets: Float[Array, "T N"],
        packing: Packing,
        progress: Float[Array, ""],
    ) -> tuple[Params, optax.OptState, Metrics]:
        """PPO's epochs for the value function, on the same minibatches as the policy's."""
        optimiser = self._optimiser_at(progress)

        def loss(outputs: Array, targets: Array, alive: Array) -> tuple[Array, dict[str, Array]]:
            error = value_loss(outputs[..., 0], targets, alive)
            return error, {"value_loss": error}

        critic, opt_state, metrics = packed_fit(
            self.critic.apply, loss, optimiser, critic, opt_state, sequences, targets, packing
        )
        metrics = self._last_epoch(metrics)
        norm = metrics.pop("gradient_norm")
        return critic, opt_state, metrics | {"critic_grad_norm": norm}

    def _optimiser_at(self, progress: Float[Array, ""]) -> optax.GradientTransformation:
        """The optimiser, with the step size that the schedule says."""
        rate = scheduled(self.ppo, "learning_rate", progress)
        if isinstance(rate, float | int):
            return self.optimiser

        def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
            updates, state = self.optimiser.update(updates, state, params)
            return jax.tree.map(lambda x: x * (rate / self.ppo.learning_rate), updates), state

        return optax.GradientTransformation(self.optimiser.init, update)

    def _minibatches(self, key: UInt32[Array, "2"], num_envs: int) -> Int[Array, "B N"]:
        """The environments of every minibatch, epoch by epoch."""
        keys = jax.random.split(key, self.ppo.epochs)
        orders = jax.vmap(lambda key: jax.random.permutation(key, num_envs))(keys)
        return orders.reshape(self.ppo.epochs * self.ppo.minibatches, -1)

    def _last_epoch(self, metrics: dict[str, Float[Array, " B"]]) -> Metrics:
        """Means over the minibatches of the last epoch."""
        return jax.tree.map(lambda x: jnp.mean(x[-self.ppo.minibatches :]), metrics)


# These only regroup arrays, so they serve one agent and a team alike. `Any` stands for an array, or
# for its shape when programs are compiled ahead.


def actor_arguments(state: AgentState, trajectory: Trajectory, prepared: Any) -> tuple:
    """The arguments of `Learner.improve_actor`."""
    extras = trajectory.extras
    targets = PolicyTargets(
        trajectory.legal, trajectory.actions, extras.log_probs, prepared.advantages
    )
    sequences = _sequences(trajectory.memory.actor, trajectory)
    packing, progress = prepared.packing, trajectory.progress
    return state.actor, state.actor_opt, sequences, targets, packing, progress


def critic_arguments(state: AgentState, trajectory: Trajectory, prepared: Any) -> tuple:
    """The arguments of `Learner.improve_critic`."""
    sequences = _sequences(trajectory.memory.critic, trajectory)
    targets, packing, progress = prepared.value_targets, prepared.packing, trajectory.progress
    return state.critic, state.critic_opt, sequences, targets, packing, progress


def improved(state: AgentState, metrics: dict, actor: tuple, critic: tuple) -> tuple:
    """The state and the metrics with what the policy and the value function learnt."""
    (actor, actor_opt, of_actor), (critic, critic_opt, of_critic) = actor, critic
    state = state._replace(actor=actor, critic=critic, actor_opt=actor_opt, critic_opt=critic_opt)
    return state, metrics | of_actor | of_critic


def _sequences(memory: Any, trajectory: Trajectory) -> Sequences:
    inputs = trajectory.extras.inputs
    return Sequences(memory, inputs, trajectory.starts, trajectory.alive)
