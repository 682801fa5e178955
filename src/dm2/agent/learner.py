"""One agent: initialise, act, update. The team is this, mapped over agents (`dm2.team`)."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, UInt32

from dm2.agent.imitation import DiscriminatorState, Expert, Imitator
from dm2.agent.networks import RecurrentNet, mask_logits
from dm2.agent.ppo import log_prob_of, policy_loss, value_loss
from dm2.agent.returns import masked_gae, masked_mean
from dm2.agent.value_scale import ValueScale, rescale_head, update_scale
from dm2.config import Config

__all__ = ["AgentState", "Carry", "Learner", "Trajectory"]

Params = Any


class AgentState(NamedTuple):
    """Everything that one agent owns."""

    key: UInt32[Array, "2"]
    actor: Params
    critic: Params
    actor_opt: optax.OptState
    critic_opt: optax.OptState
    scale: ValueScale
    discriminator: DiscriminatorState | None
    """None for an agent that does not imitate."""


class Carry(NamedTuple):
    """What one agent remembers from step to step, per environment."""

    actor: Float[Array, "N H"]
    critic: Float[Array, "N H"]
    value: Float[Array, " N"]
    """Its latest value estimate while alive; held after death (see `masked_gae`)."""


class Trajectory(NamedTuple):
    """One agent's view of a rollout: `T` steps of `N` environments.

    Row `t` pairs the observation at `t` with the action chosen on it and the reward that followed.
    """

    observations: Float[Array, "T N O"]
    legal: Bool[Array, "T N A"]
    alive: Bool[Array, "T N"]
    starts: Bool[Array, "T N"]
    """`observations[t]` opens an episode."""
    actions: Int[Array, "T N"]
    log_probs: Float[Array, "T N"]
    values: Float[Array, "T N"]
    next_values: Float[Array, "T N"]
    """Value of the observation after `t`, before any reset."""
    next_alive: Bool[Array, "T N"]
    rewards: Float[Array, "T N"]
    """The team's task reward."""
    terminated: Bool[Array, "T N"]
    ended: Bool[Array, "T N"]
    """Terminated or truncated."""
    time_left: Int[Array, "T N"]
    """Steps of the episode limit that remain after step `t`."""


class Learner:
    """The learning rules of one agent. Holds settings only; all state is in `AgentState`."""

    def __init__(self, config: Config, observation_size: int, num_actions: int) -> None:
        ppo = config.ppo
        self.config = config
        self.observation_size = observation_size
        self.num_actions = num_actions
        # Typed Any because flax's `apply` is untyped.
        self.actor: Any = RecurrentNet(ppo.hidden, num_actions, ppo.head_gain)
        self.critic: Any = RecurrentNet(ppo.hidden, 1, 1.0)
        self.optimiser = optax.chain(
            optax.clip_by_global_norm(ppo.max_grad_norm),
            optax.adam(ppo.learning_rate, eps=1e-5),
        )
        self.imitator = (
            Imitator(config.imitation, observation_size, ppo.discount) if config.imitates else None
        )

    def init(self, key: UInt32[Array, "2"]) -> AgentState:
        """A fresh agent from its own key."""
        key, actor_key, critic_key, discriminator_key = jax.random.split(key, 4)
        inputs = (
            self.actor.initial_carry(1),
            jnp.zeros((1, 1, self.observation_size)),
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
            discriminator=self.imitator.init(discriminator_key) if self.imitator else None,
        )

    def initial_carry(self, num_envs: int) -> Carry:
        """The memory of an agent that has seen nothing yet."""
        hidden = self.actor.initial_carry(num_envs)
        return Carry(hidden, hidden, jnp.zeros(num_envs))

    def action_keys(self, state: AgentState, steps: int) -> UInt32[Array, "T 2"]:
        """The agent's own keys for sampling its actions in the coming rollout."""
        return jax.random.split(jax.random.fold_in(state.key, 1), steps)

    def policy(
        self,
        state: AgentState,
        carry: Float[Array, "N H"],
        observations: Float[Array, "N O"],
        starts: Bool[Array, " N"],
    ) -> tuple[Float[Array, "N H"], Float[Array, "N A"]]:
        """The actor's logits (illegal actions not yet masked) and its next hidden state."""
        carry, logits = self.actor.apply(state.actor, carry, observations[None], starts[None])
        return carry, logits[0]

    def value(
        self,
        state: AgentState,
        carry: Float[Array, "N H"],
        observations: Float[Array, "N O"],
        starts: Bool[Array, " N"],
    ) -> tuple[Float[Array, "N H"], Float[Array, " N"]]:
        """The critic's estimate in reward units, and its next hidden state."""
        carry, outputs = self.critic.apply(state.critic, carry, observations[None], starts[None])
        return carry, state.scale.restore(outputs[0, :, 0])

    def act(
        self,
        state: AgentState,
        key: UInt32[Array, "2"],
        carry: Carry,
        observations: Float[Array, "N O"],
        legal: Bool[Array, "N A"],
        alive: Bool[Array, " N"],
        starts: Bool[Array, " N"],
    ) -> tuple[Carry, Int[Array, " N"], Float[Array, " N"]]:
        """Sample actions; returns the next memory, the actions and their log-probabilities."""
        actor_carry, logits = self.policy(state, carry.actor, observations, starts)
        critic_carry, value = self.value(state, carry.critic, observations, starts)
        value = jnp.where(alive, value, carry.value)
        actions = jax.random.categorical(key, mask_logits(logits, legal))
        carry = Carry(actor_carry, critic_carry, value)
        return carry, actions, log_prob_of(logits, legal, actions)

    def update(
        self,
        state: AgentState,
        trajectory: Trajectory,
        carry: Carry,
        expert: Expert | None,
    ) -> tuple[AgentState, dict[str, Float[Array, ""]]]:
        """Learn from one rollout: discriminator, mixed reward, advantages, PPO (Algorithm 1).

        `carry` is the memory with which the rollout began. `expert` is this agent's own part of
        the demonstrations, None for an agent that does not imitate.
        """
        # Stream 0 of the agent's key is learning, stream 1 acting (see `action_keys`).
        learning = jax.random.fold_in(state.key, 0)
        key, discriminator_key, ppo_key = jax.random.split(learning, 3)
        state = state._replace(key=key)
        rewards, state, metrics = self._mixed_reward(state, discriminator_key, trajectory, expert)
        ppo = self.config.ppo
        advantages = masked_gae(
            rewards,
            trajectory.values,
            trajectory.next_values,
            trajectory.alive,
            trajectory.next_alive,
            trajectory.terminated,
            trajectory.ended,
            ppo.discount,
            ppo.gae_lambda,
        )
        returns = advantages + trajectory.values
        scale = update_scale(state.scale, returns, trajectory.alive)
        state = state._replace(
            scale=scale,
            critic=rescale_head(state.critic, state.scale, scale),
        )
        targets = scale.normalise(returns)
        advantages = _standardise(advantages, trajectory.alive)
        state, ppo_metrics = self._ppo_epochs(
            state, ppo_key, trajectory, carry, advantages, targets
        )
        return state, metrics | ppo_metrics

    def _mixed_reward(
        self,
        state: AgentState,
        key: Array,
        trajectory: Trajectory,
        expert: Expert | None,
    ) -> tuple[Array, AgentState, dict[str, Array]]:
        """`r = w r_env + c r_imitation` after the discriminator's own update."""
        if self.imitator is None or state.discriminator is None or expert is None:
            return trajectory.rewards, state, {}
        settings = self.config.imitation
        leaves = trajectory.alive & (trajectory.terminated | ~trajectory.next_alive)
        idle = jnp.where(leaves, trajectory.time_left, 0)
        seen = (trajectory.observations, trajectory.alive, idle)
        discriminator, metrics = self.imitator.update(state.discriminator, key, expert, *seen)
        imitation = self.imitator.rewards(discriminator, *seen)
        rewards = settings.task_weight * trajectory.rewards + settings.coefficient * imitation
        metrics["imitation_reward"] = masked_mean(imitation, trajectory.alive)
        return rewards, state._replace(discriminator=discriminator), metrics

    def _ppo_epochs(self, state, key, trajectory, carry, advantages, targets):
        """`epochs` passes over the rollout in `minibatches` parts, split over environments."""
        ppo = self.config.ppo
        sequences = (
            trajectory.observations,
            trajectory.legal,
            trajectory.alive,
            trajectory.starts,
            trajectory.actions,
            trajectory.log_probs,
            advantages,
            targets,
        )
        num_envs = advantages.shape[1]

        def minibatch(state, rows):
            batch = jax.tree.map(lambda x: jnp.take(x, rows, axis=1), sequences)
            return self._step(state, batch, carry.actor[rows], carry.critic[rows])

        def epoch(state, epoch_key):
            order = jax.random.permutation(epoch_key, num_envs)
            return jax.lax.scan(minibatch, state, order.reshape(ppo.minibatches, -1))

        state, metrics = jax.lax.scan(epoch, state, jax.random.split(key, ppo.epochs))
        return state, jax.tree.map(lambda x: jnp.mean(x[-1]), metrics)

    def _step(self, state, batch, actor_carry, critic_carry):
        """One optimiser step of the actor and one of the critic."""
        ppo = self.config.ppo
        observations, legal, alive, starts, actions, log_probs, advantages, targets = batch

        def actor_loss(params):
            _, logits = self.actor.apply(params, actor_carry, observations, starts)
            return policy_loss(
                logits, legal, actions, log_probs, advantages, alive, ppo.clip, ppo.entropy
            )

        def critic_loss(params):
            _, outputs = self.critic.apply(params, critic_carry, observations, starts)
            return value_loss(outputs[..., 0], targets, alive)

        (loss, aux), grads = jax.value_and_grad(actor_loss, has_aux=True)(state.actor)
        updates, actor_opt = self.optimiser.update(grads, state.actor_opt, state.actor)
        actor = optax.apply_updates(state.actor, updates)
        error, critic_grads = jax.value_and_grad(critic_loss)(state.critic)
        updates, critic_opt = self.optimiser.update(critic_grads, state.critic_opt, state.critic)
        critic = optax.apply_updates(state.critic, updates)
        state = state._replace(
            actor=actor, critic=critic, actor_opt=actor_opt, critic_opt=critic_opt
        )
        metrics = {
            "policy_loss": loss,
            "value_loss": error,
            "actor_grad_norm": optax.tree.norm(grads),
            **aux._asdict(),
        }
        return state, metrics


def _standardise(advantages: Float[Array, "T N"], alive: Bool[Array, "T N"]) -> Array:
    """Zero mean and unit variance over the agent's living steps."""
    mean = masked_mean(advantages, alive)
    centred = jnp.where(alive, advantages - mean, 0.0)
    variance = masked_mean(jnp.square(centred), alive)
    return centred / jnp.sqrt(variance + 1e-8)
