"""One agent: initialise, act, update. The team is this, mapped over agents (`dm2.team`)."""

from typing import Any, cast

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, UInt32

from dm2.agent.imitation import Expert, Imitator
from dm2.agent.networks import RecurrentNet, mask_logits, normalise
from dm2.agent.ppo import log_prob_of, policy_loss, value_loss
from dm2.agent.returns import masked_gae, masked_mean
from dm2.agent.sequences import Blocked, Blocks, block_steps, line_up
from dm2.agent.state import (
    Acts,
    AgentState,
    Carry,
    Lesson,
    Params,
    Seen,
    Trajectory,
    actor_part,
    critic_part,
    improved,
)
from dm2.agent.value_scale import ValueScale, rescale_head, update_scale
from dm2.config import Config

__all__ = ["Learner"]


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
        inputs = normalise(observations)[None]
        carry, logits = self.actor.apply(state.actor, carry, inputs, starts[None])
        return carry, logits[0]

    def value(
        self,
        state: AgentState,
        carry: Float[Array, "N H"],
        observations: Float[Array, "N O"],
        starts: Bool[Array, " N"],
    ) -> tuple[Float[Array, "N H"], Float[Array, " N"]]:
        """The critic's estimate in reward units, and its next hidden state."""
        inputs = normalise(observations)[None]
        carry, outputs = self.critic.apply(state.critic, carry, inputs, starts[None])
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
        """Learn from one rollout (Algorithm 1): `prepare`, then `improve_actor` and
        `improve_critic`, which do not need each other.

        `carry` is the memory with which the rollout began. `expert` is this agent's own part of
        the demonstrations, None for an agent that does not imitate.
        """
        state, lesson, metrics = self.prepare(state, trajectory, expert)
        actor = self.improve_actor(*actor_part(state, trajectory, carry, lesson))
        critic = self.improve_critic(*critic_part(state, trajectory, carry, lesson))
        return improved(state, metrics, actor, critic)

    def prepare(
        self, state: AgentState, trajectory: Trajectory, expert: Expert | None
    ) -> tuple[AgentState, Lesson, dict[str, Float[Array, ""]]]:
        """All of an update up to PPO: discriminator, mixed reward, advantages, value targets."""
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
        envs = self._minibatches(ppo_key, trajectory.alive.shape[1])
        lanes = line_up(trajectory.alive, trajectory.starts, envs)
        lesson = Lesson(advantages, targets, lanes)
        return state, lesson, metrics

    def improve_actor(
        self, actor: Params, opt: optax.OptState, seen: Seen, acts: Acts
    ) -> tuple[Params, optax.OptState, dict[str, Float[Array, ""]]]:
        """PPO's epochs for the policy."""
        ppo = self.config.ppo

        def loss(logits: Array, acts: Acts, alive: Array) -> tuple[Array, dict[str, Array]]:
            loss, diagnostics = policy_loss(logits, *acts, alive, ppo.clip, ppo.entropy)
            return loss, {"policy_loss": loss, **diagnostics._asdict()}

        actor, opt, metrics, norm = self._epochs(self.actor, loss, actor, opt, seen, acts)
        return actor, opt, metrics | {"actor_grad_norm": norm}

    def improve_critic(
        self, critic: Params, opt: optax.OptState, seen: Seen, targets: Float[Array, "T N"]
    ) -> tuple[Params, optax.OptState, dict[str, Float[Array, ""]]]:
        """PPO's epochs for the value function, on the same minibatches as the policy's."""

        def loss(outputs: Array, targets: Array, alive: Array) -> tuple[Array, dict[str, Array]]:
            error = value_loss(outputs[..., 0], targets, alive)
            return error, {"value_loss": error}

        return self._epochs(self.critic, loss, critic, opt, seen, targets)[:3]

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
        seen = (cast(Array, trajectory.observations), trajectory.alive, idle)
        discriminator, metrics = self.imitator.update(state.discriminator, key, expert, *seen)
        imitation = self.imitator.rewards(discriminator, *seen)
        rewards = settings.task_weight * trajectory.rewards + settings.coefficient * imitation
        metrics["imitation_reward"] = masked_mean(imitation, trajectory.alive)
        return rewards, state._replace(discriminator=discriminator), metrics

    def _epochs(self, net, loss, params: Params, opt: optax.OptState, seen: Seen, told):
        """`epochs` passes over the rollout in `minibatches` parts, split over environments.

        `told` is what the loss needs to know of every step, `[T, N, ...]`. Returns the parameters,
        the optimiser's state, and the means over the last epoch of what `loss` reports and of the
        gradient's norm before it is clipped.
        """
        lanes = seen.lanes
        length = block_steps(lanes.envs.shape[1], len(seen.alive))
        of_steps = (seen.inputs, seen.starts, seen.alive, told)
        inputs, starts, alive, facts = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), of_steps)
        blocked = Blocked(net.apply, inputs)

        def cut(lanes):
            rows = jnp.pad(lanes.rows, ((0, -len(lanes.rows) % length), (0, 0)))
            real = jnp.arange(len(rows))[:, None] < lanes.length
            rows, real = (x.reshape(-1, length, x.shape[1]) for x in (rows, real))
            return seen.carry[lanes.envs], Blocks(rows, starts[rows]), real

        def minibatch(state, lanes):
            params, opt, room = state
            carry, blocks, real = cut(lanes)
            rows = blocks.rows
            batch = jax.tree.map(lambda x: x[rows], facts)
            # Vmapped, a loop of unknown length would copy all that it keeps at every turn.
            known = jax.default_backend() != "cpu"
            count = len(rows) if known else -(-jnp.max(lanes.length) // length)
            room = blocked.forth(params, carry, blocks, count, room)
            outputs, remembered = room
            lives = alive[rows] & real
            d_outputs, metrics = jax.grad(loss, has_aux=True)(outputs, batch, lives)
            grads = blocked.back(params, carry, remembered, d_outputs, count)
            updates, opt = self.optimiser.update(grads, opt, params)
            state = optax.apply_updates(params, updates), opt, room
            return state, (metrics, optax.tree.norm(grads))

        carry, blocks, _ = cut(jax.tree.map(lambda x: x[0], lanes))
        room = blocked.room(params, carry, blocks)
        (params, opt, _), reported = jax.lax.scan(minibatch, (params, opt, room), lanes)
        last = self.config.ppo.minibatches
        metrics, norm = jax.tree.map(lambda x: jnp.mean(x[-last:]), reported)
        return params, opt, metrics, norm

    def _minibatches(self, key: UInt32[Array, "2"], num_envs: int) -> Int[Array, "B N"]:
        """The environments of every minibatch, epoch by epoch."""
        ppo = self.config.ppo
        keys = jax.random.split(key, ppo.epochs)
        orders = jax.vmap(lambda key: jax.random.permutation(key, num_envs))(keys)
        return orders.reshape(ppo.epochs * ppo.minibatches, -1)


def _standardise(advantages: Float[Array, "T N"], alive: Bool[Array, "T N"]) -> Array:
    """Zero mean and unit variance over the agent's living steps."""
    mean = masked_mean(advantages, alive)
    centred = jnp.where(alive, advantages - mean, 0.0)
    variance = masked_mean(jnp.square(centred), alive)
    return centred / jnp.sqrt(variance + 1e-8)
