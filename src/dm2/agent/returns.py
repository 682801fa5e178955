"""The advantages of one agent in one environment, with time limits and death."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from dm2.agent.settings import PPO
from dm2.agent.types import Trajectory

__all__ = [
    "masked_gae",
    "masked_mean",
    "masked_variance",
    "next_values",
    "rollout_advantages",
    "standardise",
]


def masked_gae(
    *,
    rewards: Float[Array, " T"],
    values: Float[Array, " T"],
    next_values: Float[Array, " T"],
    alive: Bool[Array, " T"],
    next_alive: Bool[Array, " T"],
    terminated: Bool[Array, " T"],
    ended: Bool[Array, " T"],
    discount: float,
    gae_lambda: float,
) -> Float[Array, " T"]:
    r"""Generalised advantage estimation (Schulman et al. 2016, arXiv 1506.02438, equation 16):

        delta_t = r_t + gamma (1 - terminated_t) V_{t+1} - V_t
        A_t = delta_t + gamma lambda_t (1 - ended_t) A_{t+1}

    A time limit (`ended` without `terminated`) bootstraps from the value of the final
    observation, and a termination does not.

    Death. The team's reward goes on after an agent's death and is still earned by what the agent
    did before, so it counts; but the agent's critic must not be asked about observations that it
    is never trained on. Where the agent is dead after step `t`, `lambda_t` is 1 and `values` hold
    the last value while alive: those values cancel along the sum, and what is left is the plain
    discounted reward of the rest of the episode, plus what `next_values` holds where the rollout
    or the time limit cuts it: the carried value or, of rewards that end with the agent's life, 0.

    Args:
        rewards: The reward that followed each step.
        values: The critic's value of each step's observation; the last one while alive after death.
        next_values: The value of the observation that each step led to, before any reset.
        alive: Whether the agent was alive at each step.
        next_alive: Whether it was alive after each step, before any reset.
        terminated: Whether the episode terminated with each step.
        ended: Whether it terminated or was truncated with each step.
        discount: Gamma, from 0 to 1.
        gae_lambda: Lambda, from 0 to 1.

    Returns:
        The advantages, in units of the reward; zero where the agent is dead.
    """
    lambdas = jnp.where(next_alive, gae_lambda, 1.0)
    deltas = rewards + discount * jnp.where(terminated, 0.0, next_values) - values
    decay = discount * lambdas * (1.0 - ended)

    def step(following: Array, now: tuple[Array, Array]) -> tuple[Array, Array]:
        delta, factor = now
        advantage = delta + factor * following
        return advantage, advantage

    start = jnp.zeros_like(rewards[0])
    advantages: Array = jax.lax.scan(step, start, (deltas, decay), reverse=True)[1]
    return jnp.where(alive, advantages, 0.0)


def rollout_advantages(
    ppo: PPO,
    trajectory: Trajectory,
    rewards: Float[Array, "T N"],
    values: Float[Array, "T N"],
    next_values: Float[Array, "T N"],
) -> Float[Array, "T N"]:
    """Advantages of every step of every environment of a rollout; see `masked_gae`.

    Args:
        ppo: Holds gamma and lambda.
        trajectory: One agent's part of the rollout.
        rewards: What followed each step.
        values: Of the steps' observations.
        next_values: Of what they led to.
    """

    def of_one_environment(columns: dict[str, Array]) -> Array:
        return masked_gae(**columns, discount=ppo.discount, gae_lambda=ppo.gae_lambda)

    columns = {
        "rewards": rewards,
        "values": values,
        "next_values": next_values,
        "alive": trajectory.alive,
        "next_alive": trajectory.next_alive,
        "terminated": trajectory.terminated,
        "ended": trajectory.ended,
    }
    return jax.vmap(of_one_environment, in_axes=1, out_axes=1)(columns)


def next_values(trajectory: Trajectory, *, paid_after_death: bool) -> Float[Array, "T N"]:
    """The value of the observation that each step of one agent led to, before any reset: the next
    step's, or where the episode or the rollout ends what `Learner.bootstrap` made of it. Where the
    episode terminated it means nothing.

    Args:
        trajectory: One agent's part of the rollout.
        paid_after_death: Whether rewards go on after the agent's death. If not, what a cut leaves
            of an episode is worth nothing to a dead agent.
    """
    values, bootstrap = trajectory.extras.values, trajectory.bootstrap
    if not paid_after_death:
        bootstrap = jax.lax.select(trajectory.next_alive, bootstrap, jnp.zeros_like(bootstrap))
    following = jnp.concatenate([values[1:], bootstrap[-1:]])
    return jax.lax.select(trajectory.ended, bootstrap, following)


def standardise(advantages: Float[Array, "T N"], alive: Bool[Array, "T N"]) -> Float[Array, "T N"]:
    """Advantages of zero mean and unit variance over the steps at which the agent is alive; zero
    at the others."""
    centred = jnp.where(alive, advantages - masked_mean(advantages, alive), 0.0)
    return centred / jnp.sqrt(masked_variance(advantages, alive) + 1e-8)


def masked_mean(values: Float[Array, "*B"], mask: Bool[Array, "*B"]) -> Float[Array, ""]:
    """The mean of the values where the mask holds; zero where it holds nowhere."""
    return jnp.sum(jnp.where(mask, values, 0.0)) / jnp.maximum(jnp.sum(mask), 1)


def masked_variance(values: Float[Array, "*B"], mask: Bool[Array, "*B"]) -> Float[Array, ""]:
    """The variance of the values where the mask holds, their mean squared deviation from
    `masked_mean`; zero where it holds nowhere."""
    return masked_mean(jnp.square(values - masked_mean(values, mask)), mask)
