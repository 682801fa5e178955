"""Normalisation of one agent's value targets that leaves the critic's predictions unchanged."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from dm2.agent.returns import masked_mean

__all__ = ["ValueScale", "rescale_head", "update_scale"]

_DECAY = 0.95


class ValueScale(NamedTuple):
    """Debiased running moments of the returns: the critic predicts `(return - mean) / std`."""

    first: Float[Array, ""]
    second: Float[Array, ""]
    weight: Float[Array, ""]
    """How much of the moments has been filled, 0 to 1; 0 before the first update."""

    @classmethod
    def initial(cls) -> "ValueScale":
        """Mean 0 and standard deviation 1."""
        return cls(jnp.zeros(()), jnp.zeros(()), jnp.zeros(()))

    @property
    def mean(self) -> Float[Array, ""]:
        """Mean of the returns, in reward units."""
        return self.first / jnp.maximum(self.weight, 1e-8)

    @property
    def std(self) -> Float[Array, ""]:
        """Standard deviation of the returns, at least 0.01 reward units."""
        second = self.second / jnp.maximum(self.weight, 1e-8)
        std = jnp.sqrt(jnp.maximum(second - jnp.square(self.mean), 1e-4))
        return jnp.where(self.weight > 0, std, 1.0)

    def normalise(self, returns: Float[Array, "*B"]) -> Float[Array, "*B"]:
        """Returns in the critic's units."""
        return (returns - self.mean) / self.std

    def restore(self, outputs: Float[Array, "*B"]) -> Float[Array, "*B"]:
        """The critic's outputs in reward units."""
        return outputs * self.std + self.mean


def update_scale(
    scale: ValueScale, returns: Float[Array, "T N"], alive: Bool[Array, "T N"]
) -> ValueScale:
    """The moments, moved towards those of new returns.

    Args:
        scale: The moments so far.
        returns: Returns in reward units.
        alive: The steps that count, those at which the agent is alive.
    """
    step = jnp.where(jnp.any(alive), 1.0 - _DECAY, 0.0)
    return ValueScale(
        scale.first + step * (masked_mean(returns, alive) - scale.first),
        scale.second + step * (masked_mean(jnp.square(returns), alive) - scale.second),
        scale.weight + step * (1.0 - scale.weight),
    )


def rescale_head(critic: Any, old: ValueScale, new: ValueScale) -> Any:
    """The critic with its last layer changed so that its restored predictions stay the same
    (PopArt: van Hasselt et al. 2016, arXiv 1602.07714).

    Args:
        critic: The network's parameters.
        old: The scale that its outputs are in.
        new: The scale that they are to be in.
    """
    head = critic["params"]["head"]
    kernel = head["kernel"] * (old.std / new.std)
    bias = (head["bias"] * old.std + old.mean - new.mean) / new.std
    return {"params": {**critic["params"], "head": {"kernel": kernel, "bias": bias}}}
