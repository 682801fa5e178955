"""The losses of PPO for one agent.

Axes `*B` are any: time and sequences in training. Means run over the steps at which the agent is
alive."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from dm2.agent.networks import mask_logits
from dm2.agent.returns import masked_mean

__all__ = ["PolicyLoss", "entropy_of", "log_prob_of", "policy_loss", "value_loss"]


class PolicyLoss(NamedTuple):
    """Diagnostics of the actor's loss."""

    entropy: Float[Array, ""]
    """Nats."""
    approx_kl: Float[Array, ""]
    """Estimate of KL(old || new) = E[ratio - 1 - log ratio], nats."""
    clip_fraction: Float[Array, ""]


def log_prob_of(
    logits: Float[Array, "*B A"], legal: Bool[Array, "*B A"], actions: Int[Array, "*B"]
) -> Float[Array, "*B"]:
    """The log-probability `log pi(a | o)` of actions under the masked categorical distribution.

    Args:
        logits: The policy's outputs.
        legal: The legal actions, to which the distribution is confined.
        actions: The actions that were chosen.
    """
    log_probs = jax.nn.log_softmax(mask_logits(logits, legal))
    return jnp.take_along_axis(log_probs, actions[..., None], axis=-1)[..., 0]


def entropy_of(logits: Float[Array, "*B A"], legal: Bool[Array, "*B A"]) -> Float[Array, "*B"]:
    """The entropy of the masked categorical distribution, in nats."""
    log_probs = jax.nn.log_softmax(mask_logits(logits, legal))
    return -jnp.sum(jnp.where(legal, jnp.exp(log_probs) * log_probs, 0.0), axis=-1)


def policy_loss(
    logits: Float[Array, "*B A"],
    legal: Bool[Array, "*B A"],
    actions: Int[Array, "*B"],
    old_log_probs: Float[Array, "*B"],
    advantages: Float[Array, "*B"],
    alive: Bool[Array, "*B"],
    clip: float,
    entropy_weight: float | Float[Array, ""],
) -> tuple[Float[Array, ""], PolicyLoss]:
    r"""Clipped surrogate with an entropy bonus (Schulman et al. 2017, arXiv 1707.06347, eq. 7):

        L = -E[min(rho A, clip(rho, 1 - eps, 1 + eps) A)] - w E[H(pi)],   rho = pi / pi_old

    Args:
        logits: The policy's outputs now.
        legal: The legal actions.
        actions: The actions that were chosen.
        old_log_probs: Their log-probabilities under the policy that chose them.
        advantages: How much better they were than expected.
        alive: The steps that count.
        clip: Eps.
        entropy_weight: W.

    Returns:
        The loss, which is to be made smaller, and diagnostics.
    """
    log_ratio = jnp.where(alive, log_prob_of(logits, legal, actions) - old_log_probs, 0.0)
    ratio = jnp.exp(log_ratio)
    clipped = jnp.clip(ratio, 1.0 - clip, 1.0 + clip)
    surrogate = jnp.minimum(ratio * advantages, clipped * advantages)
    entropy = masked_mean(entropy_of(logits, legal), alive)
    loss = -masked_mean(surrogate, alive) - entropy_weight * entropy
    kl = masked_mean(ratio - 1.0 - log_ratio, alive)
    fraction = masked_mean((jnp.abs(ratio - 1.0) > clip).astype(jnp.float32), alive)
    return loss, PolicyLoss(entropy, kl, fraction)


def value_loss(
    predictions: Float[Array, "*B"], targets: Float[Array, "*B"], alive: Bool[Array, "*B"]
) -> Float[Array, ""]:
    """Half the mean squared error of the critic's predictions."""
    return 0.5 * masked_mean(jnp.square(predictions - targets), alive)
