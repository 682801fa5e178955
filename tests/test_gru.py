"""The GRU against its equations, step by step, and its gradient against automatic ones."""

import inspect

import beartype
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from dm2.agent.gru import gru

STEPS, ENVS, SIZE = 6, 3, 4

STARTS = {
    "never": np.zeros((STEPS, ENVS), bool),
    "first": np.arange(STEPS)[:, None] == np.zeros(ENVS),
    "middle": np.arange(STEPS)[:, None] == np.array([3, 1, 5]),
    "random": np.random.default_rng(7).random((STEPS, ENVS)) < 0.4,
    "always": np.ones((STEPS, ENVS), bool),
}


def numbers(seed, *lead):
    """Random weight, bias, inputs and carry, with any leading axes."""
    rng = np.random.default_rng(seed)
    shapes = [(SIZE, 3 * SIZE), (SIZE,), (STEPS, ENVS, 3 * SIZE), (ENVS, SIZE)]
    return [jnp.asarray(rng.normal(size=(*lead, *shape)), jnp.float32) for shape in shapes]


def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))


def one_step(weight, bias, x, hidden):
    """The docstring's equations for one environment, in float64."""
    x_r, x_z, x_n = np.split(x, 3)
    w_r, w_z, w_n = np.split(weight, 3, axis=1)
    r, z = sigmoid(x_r + hidden @ w_r), sigmoid(x_z + hidden @ w_z)
    n = np.tanh(x_n + r * (hidden @ w_n + bias))
    return (1.0 - z) * n + z * hidden


def unrolled(weight, bias, inputs, carry, starts):
    """The same over time and environments, by plain loops."""
    weight, bias, inputs, carry = (np.asarray(x, float) for x in (weight, bias, inputs, carry))
    outputs = np.zeros((STEPS, ENVS, SIZE))
    for env in range(ENVS):
        hidden = carry[env]
        for time in range(STEPS):
            if starts[time, env]:
                hidden = np.zeros(SIZE)
            hidden = outputs[time, env] = one_step(weight, bias, inputs[time, env], hidden)
    return outputs[-1], outputs


def plain(weight, bias, inputs, carry, starts):
    """The same as a scan that jax differentiates by itself."""

    def step(hidden, xs):
        x, start = xs
        hidden = hidden * (1.0 - start[:, None])
        x_r, x_z, x_n = jnp.split(x, 3, axis=-1)
        w_r, w_z, w_n = jnp.split(weight, 3, axis=1)
        r, z = jax.nn.sigmoid(x_r + hidden @ w_r), jax.nn.sigmoid(x_z + hidden @ w_z)
        n = jnp.tanh(x_n + r * (hidden @ w_n + bias))
        hidden = (1.0 - z) * n + z * hidden
        return hidden, hidden

    return jax.lax.scan(step, carry, (inputs, starts))


def gradients(function):
    """Gradients for weight, bias, inputs and carry of a sum that weights every output."""

    def weighted(weight, bias, inputs, carry, starts, weights):
        last, outputs = function(weight, bias, inputs, carry, starts)
        return jnp.sum(last * weights[0]) + jnp.sum(outputs * weights[1:])

    return jax.grad(weighted, argnums=(0, 1, 2, 3))


def output_weights(seed, *lead):
    """A random weight for the last hidden state and for each output."""
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.normal(size=(*lead, STEPS + 1, ENVS, SIZE)), jnp.float32)


GRU = jax.jit(gru)
GRU_GRADIENTS = jax.jit(gradients(gru))
PLAIN_GRADIENTS = jax.jit(gradients(plain))


def assert_close(got, expected):
    for name, a, b in zip(("weight", "bias", "inputs", "carry"), got, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5, err_msg=name)


def test_one_step_by_hand():
    # No recurrent weights. r = sigmoid(ln 3) = 3/4, z = sigmoid(ln 4) = 4/5,
    # n = tanh(0.2 + 3/4 * 0.4) = tanh(0.5); h' = n/5 + 4/5 h, with h = 2 and then, reset, h = 0.
    weight, bias = jnp.zeros((1, 3)), jnp.array([0.4])
    inputs = jnp.broadcast_to(jnp.array([np.log(3.0), np.log(4.0), 0.2]), (1, 2, 3))
    carry, starts = jnp.full((2, 1), 2.0), jnp.array([[False, True]])
    last, outputs = gru(weight, bias, inputs, carry, starts)
    expected = [np.tanh(0.5) / 5 + 1.6, np.tanh(0.5) / 5]
    np.testing.assert_allclose(last[:, 0], expected, rtol=1e-6)
    np.testing.assert_array_equal(outputs[0], last)


@pytest.mark.parametrize("name", STARTS)
def test_forward_is_the_unrolled_equations(name):
    arguments = numbers(0)
    last, outputs = GRU(*arguments, STARTS[name])
    expected_last, expected = unrolled(*arguments, starts=STARTS[name])
    np.testing.assert_allclose(outputs, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(last, expected_last, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", STARTS)
def test_gradient_is_the_automatic_one(name):
    arguments = (*numbers(1), STARTS[name], output_weights(2))
    assert_close(GRU_GRADIENTS(*arguments), PLAIN_GRADIENTS(*arguments))


@pytest.mark.parametrize("mapping", ["vmap", "lax.map"])
def test_gradient_is_the_automatic_one_for_each_of_several_agents(mapping):
    starts = np.stack([STARTS[name] for name in ("never", "middle", "random")])
    arguments = (*numbers(3, 3), jnp.asarray(starts), output_weights(4, 3))
    one = gradients(gru)
    maps = {"vmap": jax.vmap(one), "lax.map": lambda *args: jax.lax.map(lambda x: one(*x), args)}
    got = jax.jit(maps[mapping])(*arguments)
    for agent in range(3):
        expected = PLAIN_GRADIENTS(*(x[agent] for x in arguments))
        assert_close([x[agent] for x in got], expected)


def test_all_steps_at_once_are_single_steps():
    weight, bias, inputs, carry = numbers(5)
    starts = STARTS["random"]
    last, outputs = GRU(weight, bias, inputs, carry, starts)
    for time in range(STEPS):
        now = slice(time, time + 1)
        carry, output = GRU(weight, bias, inputs[now], carry, starts[now])
        np.testing.assert_allclose(output[0], outputs[time], rtol=1e-6, atol=1e-6)
        np.testing.assert_array_equal(output[0], carry)
    np.testing.assert_allclose(carry, last, rtol=1e-6, atol=1e-6)


def test_nothing_crosses_a_reset():
    weight, bias, inputs, carry = numbers(6)
    resets = [3, 1, 5]
    after = np.arange(STEPS)[:, None] >= np.array(resets)
    _, before_change = GRU(weight, bias, inputs, carry, STARTS["middle"])
    changed = jnp.where(after[..., None], inputs, 9.0 - inputs)
    _, after_change = GRU(weight, bias, changed, carry - 5.0, STARTS["middle"])
    np.testing.assert_array_equal(before_change[after], after_change[after])
    assert np.all(np.any(np.asarray(before_change != after_change), axis=-1) == ~after)


def test_no_gradient_crosses_a_reset():
    # Only the last output is weighted: before an environment's last reset nothing matters.
    weights = output_weights(7).at[1:].set(0.0)
    _, _, d_inputs, d_carry = GRU_GRADIENTS(*numbers(8), STARTS["middle"], weights)
    before = np.arange(STEPS)[:, None] < np.array([3, 1, 5])
    assert np.all(np.asarray(d_inputs)[before] == 0.0)
    assert np.all(np.asarray(d_inputs)[~before] != 0.0)
    assert np.all(np.asarray(d_carry) == 0.0)


def test_the_carry_has_no_gradient_where_the_first_step_starts_an_episode():
    starts = np.zeros((STEPS, ENVS), bool)
    starts[0] = [True, False, True]
    d_carry = np.asarray(GRU_GRADIENTS(*numbers(9), starts, output_weights(10))[3])
    assert np.all(d_carry[[0, 2]] == 0.0)
    assert np.all(d_carry[1] != 0.0)


def test_the_shapes_of_the_signature_can_be_checked():
    checked = jaxtyping.jaxtyped(inspect.unwrap(gru), typechecker=beartype.beartype)
    arguments = numbers(11)
    _, outputs = checked(*arguments, jnp.asarray(STARTS["random"]))
    assert outputs.shape == (STEPS, ENVS, SIZE)
    with pytest.raises(jaxtyping.TypeCheckError, match="weight"):
        checked(arguments[0][:, 1:], *arguments[1:], jnp.asarray(STARTS["random"]))
