r"""Distribution matching for one agent: the discriminator and the reward drawn from it.

Sign convention, everywhere in this package: `D(x) = P(expert | x)` and `l(x) = logit D(x)`, so a
high `l` means "looks like the expert". The optimal discriminator has
`l(x) = log p_expert(x) - log p_policy(x)`.

Inputs are the agent's own observations (`inputs = "states"`), with `"state-actions"` followed by
the action that it chose there, one-hot. With `survival = "absorbing"` an input carries one more
feature that is 1 in the absorbing state, which an agent enters when it dies or the episode
terminates and stays in until the episode limit (cf. Kostrikov et al. 2019, arXiv 1809.02925); its
share of the time is known exactly, so it is weighted, not sampled. A dead agent's steps are spent
in it, one by one; where the episode terminates, so are the `idle_steps` that the limit had left.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, UInt32

from dm2.agent.demonstrations import Expert
from dm2.agent.inputs import Moments
from dm2.agent.networks import Discriminator
from dm2.agent.returns import masked_mean
from dm2.agent.settings import Matching, RewardForm
from dm2.agent.types import Params, Trajectory
from dm2.errors import InputError

__all__ = [
    "DiscriminatorState",
    "Imitator",
    "chosen_actions",
    "discriminator_loss",
    "gradient_penalty",
    "idle_steps",
    "reward_of",
]


class DiscriminatorState(NamedTuple):
    """The discriminator's parameters and its own optimiser's state."""

    params: Params
    opt: optax.OptState


def reward_of(form: RewardForm, logits: Float[Array, "*B"]) -> Float[Array, "*B"]:
    """Imitation reward by name, increasing in `l = logit D` with `D = P(expert | x)`.

    - `logit`: `log D - log(1 - D) = l`, the authors' code; either sign.
    - `softplus`: `-log(1 - D) = softplus(l)`, GAIL's; never negative, so surviving pays.
    - `log`: `log D = -softplus(-l)`; never positive, so an early end pays.
    - `paper`: `-log D'` with the paper's `D' = P(policy | x) = 1 - D`: equal to `softplus`.
    """
    if form == "logit":
        return logits
    if form == "log":
        return -jax.nn.softplus(-logits)
    return jax.nn.softplus(logits)


def idle_steps(trajectory: Trajectory) -> Int[Array, "*B"]:
    """How many environment steps of the episode limit are not played because the episode
    terminates with a step: `time_left` there, zero elsewhere. An agent is in the absorbing state
    for as long, dead or alive before. A time limit leaves none."""
    return jnp.where(trajectory.terminated, trajectory.time_left, 0)


def chosen_actions(actions: Int[Array, "*B"], num_actions: int) -> Bool[Array, "*B A"]:
    """Actions one-hot, as a discriminator of states and actions takes them."""
    return jax.nn.one_hot(actions, num_actions, dtype=bool)


def discriminator_loss(
    expert_logits: Float[Array, " B"],
    policy_logits: Float[Array, " B"],
    policy_mask: Bool[Array, " B"],
    expert_absorbing: tuple[Float[Array, ""], Float[Array, ""]],
    policy_absorbing: tuple[Float[Array, ""], Float[Array, ""]],
) -> Float[Array, ""]:
    r"""Binary cross-entropy, expert 1 and policy 0 (Ho & Ermon 2016, arXiv 1606.03476):

        E_expert[-log D] + E_policy[-log(1 - D)]

    Args:
        expert_logits: Logits of expert states.
        policy_logits: Logits of the agent's own states.
        policy_mask: Which of those count.
        expert_absorbing: The logit of the absorbing state and its share of the expert's time.
        policy_absorbing: The same for the agent's own time.
    """
    expert_logit, expert_share = expert_absorbing
    policy_logit, policy_share = policy_absorbing
    expert = jnp.mean(jax.nn.softplus(-expert_logits))
    policy = masked_mean(jax.nn.softplus(policy_logits), policy_mask)
    expert += expert_share * (jax.nn.softplus(-expert_logit) - expert)
    policy += policy_share * (jax.nn.softplus(policy_logit) - policy)
    return expert + policy


def gradient_penalty(
    network: Any,
    params: Params,
    expert: Float[Array, "B I"],
    policy: Float[Array, "B I"],
    mask: Bool[Array, " B"],
    mix: Float[Array, " B"],
) -> Float[Array, ""]:
    r"""`E[(|grad_x l(x)|_2 - 1)^2]` at `x = u x_expert + (1 - u) x_policy`
    (Gulrajani et al. 2017, arXiv 1704.00028), over the rows where the policy's state counts.

    Args:
        network: The discriminator.
        params: Its parameters.
        expert: Expert inputs.
        policy: As many inputs of the agent's own.
        mask: Which of those count.
        mix: u, uniform in [0, 1).
    """
    inputs = mix[:, None] * expert + (1.0 - mix[:, None]) * policy
    slopes = jax.vmap(jax.grad(lambda x: network.apply(params, x)))(inputs)
    norms = jnp.sqrt(jnp.sum(jnp.square(slopes), axis=-1) + 1e-12)
    return masked_mean(jnp.square(norms - 1.0), mask)


class Imitator:
    """What one agent does with its own demonstrations. It holds settings only, no state."""

    def __init__(
        self, settings: Matching, observation_size: int, num_actions: int, discount: float
    ) -> None:
        """Makes the rules.

        Args:
            settings: Of the discriminator, and of the reward drawn from it.
            observation_size: Features of an observation.
            num_actions: How many actions there are; inputs have as many more features where the
                discriminator takes actions.
            discount: Gamma, per environment step, by which the absorbing state is paid for the
                steps that are not played.
        """
        self.settings = settings
        self.takes_actions = settings.inputs == "state-actions"
        self.absorbing = settings.survival == "absorbing"
        self.discount = discount
        self.network: Any = Discriminator(settings.hidden)  # flax's `apply` is untyped
        self.optimiser = optax.adam(settings.learning_rate)
        self.input_size = observation_size + int(self.absorbing)
        self.input_size += num_actions if self.takes_actions else 0

    def init(self, key: UInt32[Array, "2"]) -> DiscriminatorState:
        """A fresh discriminator."""
        params = self.network.init(key, jnp.zeros((1, self.input_size)))
        return DiscriminatorState(params, self.optimiser.init(params))

    def inputs(
        self,
        observations: Float[Array, "*B O"],
        moments: Moments | None = None,
        actions: Bool[Array, "*B A"] | None = None,
    ) -> Float[Array, "*B I"]:
        """Discriminator inputs for states in which the agent is alive, the expert's or its own.

        Args:
            observations: As they came.
            moments: The agent's, which bring the expert's and its own to one scale; None for as
                they came.
            actions: Those that were chosen there, one-hot; not looked at by a discriminator of
                states.

        Returns:
            The observations as float32, behind them the actions, and a zero where there is an
            absorbing state, which this is not.

        Raises:
            InputError: If the discriminator takes actions, and there are none.
        """
        observations = observations.astype(jnp.float32)
        if moments is not None:
            observations = moments.standardise(observations)
        parts = [observations]
        if self.takes_actions:
            if actions is None:
                problem = "imitation.inputs = 'state-actions': actions are missing"
                raise InputError(f"{problem}; hand them over, or match states alone")
            parts.append(actions.astype(jnp.float32))
        if self.absorbing:
            parts.append(jnp.zeros((*observations.shape[:-1], 1)))
        return jnp.concatenate(parts, axis=-1) if len(parts) > 1 else observations

    def absorbing_logit(self, params: Params) -> Float[Array, ""]:
        """The logit of the absorbing state; zero where it is not used."""
        if not self.absorbing:
            return jnp.zeros(())
        return self.network.apply(params, jnp.zeros(self.input_size).at[-1].set(1.0))

    def update(
        self,
        state: DiscriminatorState,
        key: UInt32[Array, "2"],
        expert: Expert,
        observations: Float[Array, "T N O"],
        alive: Bool[Array, "T N"],
        idle: Int[Array, "T N"],
        moments: Moments | None = None,
        actions: Bool[Array, "T N A"] | None = None,
    ) -> tuple[DiscriminatorState, dict[str, Float[Array, ""]]]:
        """Takes `settings.updates` optimiser steps, each on `settings.batch` random rows of the
        expert, and on as many of the rollout, of which those at which the agent is dead do not
        count.

        Args:
            state: The discriminator.
            key: Decides which states are drawn.
            expert: The agent's own demonstrations.
            observations: The agent's own observations in a rollout.
            alive: Whether it was alive.
            idle: Of `idle_steps`. With the steps at which it was dead they are the time that the
                agent spent in the absorbing state.
            moments: What standardises observations; None for as they came.
            actions: The agent's own actions, one-hot; None for a discriminator of states.

        Returns:
            The discriminator after the last step, and what to report of that step.

        Raises:
            InputError: As of `inputs`.
        """
        flat = observations.reshape(-1, observations.shape[-1])
        flat_alive = alive.reshape(-1)
        own_actions = None if actions is None else actions.reshape(-1, actions.shape[-1])
        waiting = jnp.sum(idle) + jnp.sum(~alive)
        policy_share = waiting / jnp.maximum(waiting + jnp.sum(alive), 1)
        shares = (expert.absorbing, policy_share)
        if not self.absorbing:
            shares = (jnp.zeros(()), jnp.zeros(()))

        def loss_fn(params, batch_key):
            keys = jax.random.split(batch_key, 3)
            size = (self.settings.batch,)
            theirs = jax.random.randint(keys[0], size, 0, expert.size)
            ours = jax.random.randint(keys[1], size, 0, flat.shape[0])
            mask = flat_alive[ours]
            expert_inputs = self.inputs(
                expert.observations[theirs], moments, _rows(expert.actions, theirs)
            )
            policy_inputs = self.inputs(flat[ours], moments, _rows(own_actions, ours))
            expert_logits = self.network.apply(params, expert_inputs)
            policy_logits = self.network.apply(params, policy_inputs)
            still = self.absorbing_logit(params)
            loss = discriminator_loss(
                expert_logits, policy_logits, mask, (still, shares[0]), (still, shares[1])
            )
            mix = jax.random.uniform(keys[2], size)
            penalty = gradient_penalty(
                self.network, params, expert_inputs, policy_inputs, mask, mix
            )
            right = jnp.mean(expert_logits > 0) + masked_mean(
                (policy_logits < 0).astype(jnp.float32), mask
            )
            metrics = {
                "discriminator_loss": loss,
                "discriminator_accuracy": 0.5 * right,
                "gradient_penalty": penalty,
            }
            return loss + self.settings.gradient_penalty * penalty, metrics

        def step(state, batch_key):
            grads, metrics = jax.grad(loss_fn, has_aux=True)(state.params, batch_key)
            updates, opt = self.optimiser.update(grads, state.opt, state.params)
            return DiscriminatorState(optax.apply_updates(state.params, updates), opt), metrics

        keys = jax.random.split(key, self.settings.updates)
        state, metrics = jax.lax.scan(step, state, keys)
        return state, jax.tree.map(lambda x: x[-1], metrics)

    def rewards(
        self,
        state: DiscriminatorState,
        observations: Float[Array, "T N O"],
        alive: Bool[Array, "T N"],
        idle: Int[Array, "T N"],
        moments: Moments | None = None,
        actions: Bool[Array, "T N A"] | None = None,
    ) -> tuple[Float[Array, "T N"], Float[Array, ""]]:
        r"""The imitation reward of each step, before the coefficient; zero where the agent is dead,
        but with `absorbing`. There a step pays

            r_t = (r(o_t) if alive_t else r_abs) + r_abs sum_{k=1..n_t} gamma^k

        where `r` is `reward_of` the discriminator's logit, `r_abs` that of the absorbing state's
        logit, and `n_t` are the `idle` steps, which are not played. Death itself pays nothing: the
        time after it is paid as it passes, so that a rollout that cuts it leaves the rest to the
        value with which the critic goes on (see `dm2.agent.returns.masked_gae`).

        Args:
            state: The discriminator.
            observations: The agent's own observations in a rollout.
            alive: Whether it was alive.
            idle: As in `update`.
            moments: As in `update`.
            actions: As in `update`.

        Returns:
            The rewards, and the mean of `r(o_t)` over the living steps, which `centred` takes off.

        Raises:
            InputError: As of `inputs`.
        """
        logits = self.network.apply(state.params, self.inputs(observations, moments, actions))
        rewards = reward_of(self.settings.reward, logits)
        mean = masked_mean(rewards, alive)
        if self.settings.survival == "centred":
            rewards = rewards - mean
        if not self.absorbing:
            return jnp.where(alive, rewards, 0.0), mean
        still = reward_of(self.settings.reward, self.absorbing_logit(state.params))
        return jnp.where(alive, rewards, still) + still * _annuity(self.discount, idle), mean


def _rows(table: Array | None, index: Array) -> Array | None:
    return None if table is None else table[index]


def _annuity(discount: float, steps: Int[Array, "*B"]) -> Float[Array, "*B"]:
    """`sum_{k=1..n} gamma^k`."""
    if discount == 1.0:
        return steps.astype(jnp.float32)
    return discount * (1.0 - discount**steps) / (1.0 - discount)
