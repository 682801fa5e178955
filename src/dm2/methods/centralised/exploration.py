"""ε-greedy exploration: how often agents act at random, and the probabilities of their actions."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from dm2.agent.networks import mask_logits
from dm2.methods.centralised.settings import Q

__all__ = ["epsilon", "exploring"]


def epsilon(settings: Q, steps: Int[Array, ""]) -> Float[Array, ""]:
    """The share of random actions after so many environment steps: linear, then constant."""
    progress = jnp.minimum(steps / settings.epsilon_steps, 1.0)
    return settings.epsilon_start + (settings.epsilon_end - settings.epsilon_start) * progress


def exploring(
    values: Float[Array, "N A"], legal: Bool[Array, "N A"], share: Float[Array, ""]
) -> Float[Array, "N A"]:
    """The logarithms of the probabilities of actions: with probability `share` a random legal one,
    else the most valued legal one. Those of illegal actions are minus infinity."""
    best = jax.nn.one_hot(jnp.argmax(mask_logits(values, legal), axis=-1), values.shape[-1])
    uniform = legal / jnp.sum(legal, axis=-1, keepdims=True)
    return jnp.log((1.0 - share) * best + share * uniform)
