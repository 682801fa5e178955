"""The networks against the plain computation that they speed up."""

from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dm2.agent.gru import gru
from dm2.agent.networks import RecurrentNet, normalise

T, N, O, H, A = 5, 3, 7, 8, 4  # noqa: E741
NET = RecurrentNet(H, A, 0.5)


def example():
    rng = np.random.default_rng(0)
    observations = jnp.asarray(rng.normal(2.0, 3.0, (T, N, O)), jnp.float32)
    starts = jnp.asarray(rng.random((T, N)) < 0.3)
    carry = jnp.asarray(rng.normal(size=(N, H)), jnp.float32)
    params = NET.init(jax.random.PRNGKey(0), carry, observations, starts)
    # Scales and shifts that are not one and zero.
    noise = [0.3 * rng.normal(size=x.shape).astype(np.float32) for x in jax.tree.leaves(params)]
    tree = jax.tree.structure(params)
    params = jax.tree.map(lambda x, n: x + n, params, jax.tree.unflatten(tree, noise))
    return params, carry, observations, starts


def plain(params, carry, observations, starts):
    """Layer by layer on `[T, N]`, with flax's own layer norm."""
    p = params["params"]
    norm = {"params": {"scale": p["dense_0"]["scale"], "bias": p["dense_0"]["shift"]}}
    x = nn.LayerNorm().apply(norm, observations)
    for name in ("dense_0", "dense_1"):
        x = jnp.maximum(x @ p[name]["kernel"] + p[name]["bias"], 0.0)
    x = x @ p["gru_input"]["kernel"] + p["gru_input"]["bias"]
    carry, x = gru(p["gru_weight"], p["gru_bias"], x, carry, starts)
    return carry, x @ p["head"]["kernel"] + p["head"]["bias"]


def test_the_network_is_the_plain_one():
    params, carry, observations, starts = example()
    # Its type allows for changed variables beside what the network returns.
    got = cast(Any, NET.apply(params, carry, normalise(observations), starts))
    for a, b in zip(got, plain(params, carry, observations, starts), strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_so_is_its_gradient():
    params, carry, observations, starts = example()

    def loss(function, observations):
        return lambda params: jnp.sum(jnp.sin(function(params, carry, observations, starts)[1]))

    got = jax.grad(loss(NET.apply, normalise(observations)))(params)
    expected = jax.grad(loss(plain, observations))(params)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert np.abs(b).max() > 1e-3
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


def test_normalised_by_hand():
    # Mean 2, variance (1 + 0 + 1) / 3.
    expected = np.array([-1.0, 0.0, 1.0]) / np.sqrt(2 / 3)
    np.testing.assert_allclose(normalise(jnp.array([[1.0, 2.0, 3.0]]))[0], expected, rtol=1e-5)
    np.testing.assert_array_equal(normalise(jnp.full((2, 4), 7.0)), 0.0)
