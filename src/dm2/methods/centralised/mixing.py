"""From each agent's value of an action to what a temporal-difference error is taken of.

A mixer is a module `mixer(values [..., K], states [..., S] | None) -> [..., M]`.
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

__all__ = ["Apart", "Mixing", "Monotonic", "Sum"]


class Apart(nn.Module):
    """No mixing: every agent's value has an error of its own, `M = K` (Tampuu et al. 2017,
    arXiv 1511.08779)."""

    @nn.compact
    def __call__(
        self, values: Float[Array, "*B K"], states: Float[Array, "*B S"] | None
    ) -> Float[Array, "*B K"]:
        """The values themselves."""
        return values


class Sum(nn.Module):
    """The team's value is the sum of its agents', `Q = sum_k Q_k`, `M = 1` (Sunehag et al. 2017,
    arXiv 1706.05296, equation 5)."""

    @nn.compact
    def __call__(
        self, values: Float[Array, "*B K"], states: Float[Array, "*B S"] | None
    ) -> Float[Array, "*B 1"]:
        """The sum over agents."""
        return jnp.sum(values, axis=-1, keepdims=True)


class Monotonic(nn.Module):
    r"""QMIX's mixing network (Rashid et al. 2018, arXiv 1803.11485, section 4 and appendix), `M=1`:

        Q = |W_2(s)| elu(|W_1(s)| q + b_1(s)) + b_2(s)

    so that `dQ / dq_k >= 0`. `W_1`, `W_2` and `b_2` are networks of the global state with one ReLU
    layer, `b_1` is linear in it.
    """

    embed: int
    """Units of the mixing layer."""
    hidden: int
    """Units of the ReLU layer that `W_1` comes from, and of that of `W_2`."""

    @nn.compact
    def __call__(
        self, values: Float[Array, "*B K"], states: Float[Array, "*B S"] | None
    ) -> Float[Array, "*B 1"]:
        """The team's value in each state."""
        if states is None:
            raise ValueError("states = None: the mixing network takes the global state")
        agents, embed, hidden = values.shape[-1], self.embed, self.hidden
        # Uniform within 1 / sqrt(inputs), as in the authors' code.
        init = nn.initializers.variance_scaling(1.0 / 3.0, "fan_in", "uniform")
        # The first layers all take the state: one product.
        first = nn.Dense(2 * hidden + 2 * embed, kernel_init=init, name="first")(states)
        of_w1, of_w2, of_b2, b1 = jnp.split(
            first, (hidden, 2 * hidden, 2 * hidden + embed), axis=-1
        )
        w1 = nn.Dense(agents * embed, kernel_init=init, name="w1")(nn.relu(of_w1))
        w2 = nn.Dense(embed, kernel_init=init, name="w2")(nn.relu(of_w2))
        b2 = nn.Dense(1, kernel_init=init, name="b2")(nn.relu(of_b2))
        w1 = jnp.abs(w1).reshape(*values.shape, embed)
        mixed = nn.elu(jnp.sum(values[..., None] * w1, axis=-2) + b1)
        return jnp.sum(mixed * jnp.abs(w2), axis=-1, keepdims=True) + b2


Mixing = Apart | Sum | Monotonic
