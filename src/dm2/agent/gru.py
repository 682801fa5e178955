"""A gated recurrent unit over time, with resets and a hand-written gradient.

Learning spends most of its time here, so the backward pass keeps what the forward pass computed
and forms each weight's gradient as one product over all time steps, after the scan.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

__all__ = ["gru"]


def _sigmoid(x: Array) -> Array:
    # tanh vectorises on CPU where the logistic function's exp and division do not.
    return 0.5 + 0.5 * jnp.tanh(0.5 * x)


def _forward(weight, bias, inputs, carry, starts):
    size = carry.shape[-1]

    def step(hidden: Array, xs: tuple[Array, Array]) -> tuple[Array, tuple]:
        x, start = xs
        hidden = jnp.where(start[:, None], 0.0, hidden)
        recurrent = hidden @ weight
        gates = _sigmoid(x[:, : 2 * size] + recurrent[:, : 2 * size])
        reset, update = gates[:, :size], gates[:, size:]
        inner = recurrent[:, 2 * size :] + bias
        candidate = jnp.tanh(x[:, 2 * size :] + reset * inner)
        new = candidate + update * (hidden - candidate)
        return new, (new, hidden, gates, inner, candidate)

    return jax.lax.scan(step, carry, (inputs, starts))


@jax.custom_vjp
def gru(
    weight: Float[Array, "H 3*H"],
    bias: Float[Array, " H"],
    inputs: Float[Array, "T N 3*H"],
    carry: Float[Array, "N H"],
    starts: Bool[Array, "T N"],
) -> tuple[Float[Array, "N H"], Float[Array, "T N H"]]:
    r"""Runs a GRU over `T` steps (Cho et al. 2014, arXiv 1406.1078, with the reset gate applied
    after the recurrent product, as in cuDNN):

        r, z = sigmoid(x_r + h W_r), sigmoid(x_z + h W_z)
        n = tanh(x_n + r (h W_n + b))
        h' = (1 - z) n + z h

    Args:
        weight: `(W_r, W_z, W_n)`.
        bias: B.
        inputs: The projected inputs `x = (x_r, x_z, x_n)`, biases of the input side included.
        carry: The hidden state before the first step.
        starts: Where true, a new episode begins with the input of that step: the hidden state that
            arrives there is replaced by zeros *before* it is used.

    Returns:
        The last hidden state, and the hidden states after each step.

    Example: three steps of two environments, of which the second begins an episode at its last.

        weight, bias = jnp.zeros((4, 12)), jnp.zeros(4)
        starts = jnp.array([[False, False], [False, False], [False, True]])
        last, outputs = gru(weight, bias, jnp.ones((3, 2, 12)), jnp.zeros((2, 4)), starts)
    """
    last, (outputs, *_) = _forward(weight, bias, inputs, carry, starts)
    return last, outputs


def _gru_forward(weight, bias, inputs, carry, starts):
    last, (outputs, *residuals) = _forward(weight, bias, inputs, carry, starts)
    return (last, outputs), (weight, starts, residuals)


def _gru_backward(saved, cotangents):
    weight, starts, (hidden, gates, inner, candidate) = saved
    d_last, d_outputs = cotangents
    size = d_last.shape[-1]
    transposed = weight.T

    def step(d_next, xs):
        d_output, start, h, gate, a, n = xs
        reset, update = gate[:, :size], gate[:, size:]
        d_new = d_next + d_output
        d_n = d_new * (1.0 - update) * (1.0 - n * n)
        d_z = d_new * (h - n) * update * (1.0 - update)
        d_r = d_n * a * reset * (1.0 - reset)
        d_input = jnp.concatenate([d_r, d_z, d_n], axis=-1)
        d_recurrent = jnp.concatenate([d_r, d_z, d_n * reset], axis=-1)
        d_h = d_new * update + d_recurrent @ transposed
        return jnp.where(start[:, None], 0.0, d_h), d_input

    xs = (d_outputs, starts, hidden, gates, inner, candidate)
    d_carry, d_inputs = jax.lax.scan(step, d_last, xs, reverse=True)
    d_inner = d_inputs[..., 2 * size :] * gates[..., :size]
    d_recurrent = jnp.concatenate([d_inputs[..., : 2 * size], d_inner], axis=-1)
    flat = d_recurrent.reshape(-1, 3 * size)
    d_weight = hidden.reshape(-1, size).T @ flat
    d_bias = flat[:, 2 * size :].sum(0)
    return d_weight, d_bias, d_inputs, d_carry, None


gru.defvjp(_gru_forward, _gru_backward)
