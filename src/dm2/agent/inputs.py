"""What an agent's networks take in: its observations, brought to one scale, and what it knows of
itself."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from dm2.agent.networks import normalise

__all__ = ["Inputs", "Moments"]

_CLIP = 10.0  # standardised features lie within -10 and 10


class Moments(NamedTuple):
    """The running mean and variance of each feature of one agent's observations, over all steps at
    which it was alive."""

    mean: Float[Array, " O"]
    variance: Float[Array, " O"]
    steps: Float[Array, ""]
    """How many there were."""

    @classmethod
    def initial(cls, size: int) -> "Moments":
        """Of no observations: mean 0 and variance 1."""
        return cls(jnp.zeros(size), jnp.ones(size), jnp.zeros(()))

    def including(
        self, observations: Float[Array, "T N O"], alive: Bool[Array, "T N"]
    ) -> "Moments":
        r"""With a rollout's observations (Chan, Golub, LeVeque 1983, eq. 1.5):

            mean = m + d w,  variance = v (1 - w) + v' w + d^2 w (1 - w),  d = m' - m,  w = n' / n

        where `m', v', n'` are the rollout's and `n` counts the steps of both.
        """
        counts = alive[..., None].astype(jnp.float32)
        new = jnp.sum(counts)
        of_rollout = jnp.sum(observations * counts, (0, 1)) / jnp.maximum(new, 1.0)
        deviations = jnp.square(observations - of_rollout) * counts
        variance = jnp.sum(deviations, (0, 1)) / jnp.maximum(new, 1.0)
        steps = self.steps + new
        weight = new / jnp.maximum(steps, 1.0)
        apart = of_rollout - self.mean
        spread = self.variance * (1.0 - weight) + variance * weight
        spread += jnp.square(apart) * weight * (1.0 - weight)
        return Moments(self.mean + apart * weight, spread, steps)

    def standardise(self, observations: Float[Array, "*B O"]) -> Float[Array, "*B O"]:
        """`(o - mean) / sqrt(variance)`, within -10 and 10. A feature that never changed is 0."""
        # Of a mean of 1000, rounding alone leaves deviations of about 1e-4.
        least = jnp.square(1e-6 * self.mean) + 1e-12
        standardised = (observations - self.mean) * jax.lax.rsqrt(self.variance + least)
        return jnp.clip(standardised, -_CLIP, _CLIP)


class Inputs(NamedTuple):
    """How the networks' input is made of an observation. It holds settings only."""

    layer: bool = True
    """Whether each observation is brought to mean 0 and variance 1 over its features."""
    running: bool = False
    """Whether each feature is standardised first, by its `Moments`."""
    last_action: bool = False
    """Whether the agent's last action follows, one-hot; zeros where an episode begins."""
    agents: int = 0
    """The team's size where the agent's own number follows, one-hot; 0 for none."""

    def size(self, observation_size: int, num_actions: int) -> int:
        """How many numbers the networks take."""
        return observation_size + self.agents + (num_actions if self.last_action else 0)

    def observations(
        self, moments: Moments | None, observations: Float[Array, "*B O"]
    ) -> Float[Array, "*B O"]:
        """Observations on the scale that the networks take."""
        observations = observations.astype(jnp.float32)
        if moments is not None:
            observations = moments.standardise(observations)
        return normalise(observations) if self.layer else observations

    def append(
        self,
        observations: Float[Array, "N O"],
        last_action: Int[Array, " N"] | None,
        starts: Bool[Array, " N"],
        identity: Float[Array, " K"] | None,
        num_actions: int,
    ) -> Float[Array, "N I"]:
        """The networks' input: observations, last action and number, as far as they are wanted."""
        parts = [observations]
        if last_action is not None:
            parts.append(jax.nn.one_hot(jnp.where(starts, -1, last_action), num_actions))
        if identity is not None:
            parts.append(jnp.broadcast_to(identity, (*observations.shape[:-1], len(identity))))
        return jnp.concatenate(parts, axis=-1) if len(parts) > 1 else observations
