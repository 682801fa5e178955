"""How much imitation weighs beside the task, whatever units the two rewards come in."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from dm2.agent.returns import masked_mean

__all__ = ["Balance"]

_DECAY = 0.95


class Balance(NamedTuple):
    r"""Debiased running variances of the two parts of one agent's advantages.

    Advantages are linear in rewards: those of `r_task + c r_imitation` are the sum of what either
    reward contributes by itself, `sum_k (gamma lambda)^k r_{t+k}`, and of what the critic takes
    off. `ratio` is the standard deviation of the task's part over that of the imitation's, in
    units of one reward over the other.
    """

    task: Float[Array, ""]
    imitation: Float[Array, ""]
    weight: Float[Array, ""]
    """How much of the variances has been filled, 0 to 1; 0 before the first update."""

    @classmethod
    def initial(cls) -> "Balance":
        """Of nothing yet."""
        return cls(jnp.zeros(()), jnp.zeros(()), jnp.zeros(()))

    def including(
        self, task: Float[Array, "T N"], imitation: Float[Array, "T N"], alive: Bool[Array, "T N"]
    ) -> "Balance":
        """Moved towards the parts of a rollout's advantages, at the steps at which the agent is
        alive."""
        step = jnp.where(jnp.any(alive), 1.0 - _DECAY, 0.0)
        return Balance(
            self.task + step * (_variance(task, alive) - self.task),
            self.imitation + step * (_variance(imitation, alive) - self.imitation),
            self.weight + step * (1.0 - self.weight),
        )

    @property
    def ratio(self) -> Float[Array, ""]:
        """1 while either part has never moved: advantages are standardised, so that the scale of
        the only one does not matter."""
        both = (self.task > 0) & (self.imitation > 0)
        return jnp.where(both, jnp.sqrt(self.task / jnp.where(both, self.imitation, 1.0)), 1.0)


def _variance(values: Float[Array, "T N"], mask: Bool[Array, "T N"]) -> Float[Array, ""]:
    return masked_mean(jnp.square(values - masked_mean(values, mask)), mask)
