"""Value normalisation: its moments against numpy, and that predictions survive every update."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dm2.agent.networks import RecurrentNet
from dm2.agent.value_scale import ValueScale, rescale_head, update_scale

UPDATE = jax.jit(update_scale)
ALIVE = jnp.ones((3, 2), bool)


def returns_of(*values):
    return jnp.asarray(values, jnp.float32).reshape(3, 2)


def test_before_any_update_nothing_is_scaled():
    scale = ValueScale.initial()
    assert (scale.mean, scale.std) == (0.0, 1.0)
    assert scale.normalise(jnp.array([7.0])).tolist() == [7.0]
    assert scale.restore(jnp.array([7.0])).tolist() == [7.0]


def test_the_first_update_takes_over_the_moments_of_the_living_steps():
    # Of 1, 1, 3, 3: mean 2, standard deviation 1. The moments start from 0; without debiasing
    # the mean would be 0.05 * 2.
    alive = ALIVE.at[2].set(False)
    scale = UPDATE(ValueScale.initial(), returns_of(1, 3, 3, 1, 500, -70), alive)
    assert scale.mean == pytest.approx(2.0, rel=1e-6)
    assert scale.std == pytest.approx(1.0, rel=1e-5)
    assert scale.weight == pytest.approx(0.05)
    np.testing.assert_allclose(scale.normalise(jnp.array([0.0, 5.0])), [-2, 3], rtol=1e-5)
    np.testing.assert_allclose(scale.restore(jnp.array([-2.0, 3.0])), [0, 5], atol=1e-5)


def test_moments_are_those_of_numpy():
    rng = np.random.default_rng(0)
    batches = rng.normal(loc=[[[3.0]], [[5.0]], [[-1.0]], [[0.0]]], scale=2.0, size=(4, 3, 2))
    masks = rng.random((4, 3, 2)) < 0.7
    scale = ValueScale.initial()
    for batch, mask in zip(batches, masks, strict=True):
        scale = UPDATE(scale, jnp.asarray(batch, jnp.float32), jnp.asarray(mask))
    # Each update weighs 0.95 times the one after it.
    weights = 0.95 ** np.arange(3, -1, -1)
    pairs = list(zip(batches, masks, strict=True))
    mean = np.average([x[m].mean() for x, m in pairs], weights=weights)
    second = np.average([np.square(x[m]).mean() for x, m in pairs], weights=weights)
    assert scale.mean == pytest.approx(mean, rel=1e-5)
    assert scale.std == pytest.approx(np.sqrt(second - mean**2), rel=1e-5)
    assert scale.weight == pytest.approx(1 - 0.95**4, rel=1e-5)


def test_without_living_steps_nothing_changes():
    before = UPDATE(ValueScale.initial(), returns_of(1, 2, 3, 4, 5, 6), ALIVE)
    for scale in (before, ValueScale.initial()):
        assert UPDATE(scale, returns_of(9, 9, 9, 9, 9, 9), ~ALIVE) == scale


def test_the_standard_deviation_has_a_floor():
    scale = UPDATE(ValueScale.initial(), jnp.full((3, 2), 5.0), ALIVE)
    assert scale.std == pytest.approx(0.01, rel=1e-6)
    np.testing.assert_allclose(scale.normalise(jnp.array([5.0, 5.01])), [0.0, 1.0], atol=1e-3)


def test_rescaling_leaves_restored_predictions_unchanged():
    rng = np.random.default_rng(1)
    network = RecurrentNet(4, 1, 1.0)
    observations = jnp.asarray(rng.normal(size=(3, 2, 5)), jnp.float32)
    inputs = (network.initial_memory(2), observations, jnp.zeros((3, 2), bool))
    shapes = jax.eval_shape(network.init, jax.random.PRNGKey(0), *inputs)
    critic = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), x.dtype), shapes)
    apply = jax.jit(network.apply)
    old, expected = ValueScale.initial(), np.asarray(apply(critic, *inputs)[1])
    for mean, std in ((40.0, 8.0), (-3.0, 0.5), (0.0, 100.0)):
        returns = jnp.asarray(rng.normal(mean, std, size=(3, 2)), jnp.float32)
        new = UPDATE(old, returns, ALIVE)
        rescaled = rescale_head(critic, old, new)
        outputs = apply(rescaled, *inputs)[1]
        np.testing.assert_allclose(new.restore(outputs), expected, rtol=1e-3, atol=1e-4)
        assert not np.allclose(old.restore(outputs), expected, rtol=1e-2)
        for name, layer in critic["params"].items():
            assert (rescaled["params"][name] is layer) == (name != "head")
        critic, old = rescaled, new
