"""The policy and value losses against hand arithmetic and rlax; death and illegal actions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rlax

from dm2.agent.networks import mask_logits
from dm2.agent.ppo import entropy_of, log_prob_of, policy_loss, value_loss
from dm2.agent.returns import standardise

# Five samples, two actions; action 0 was taken, `NEW` and `OLD` are its probabilities.
# ratio rho:          1.2   0.5   0.5   1.2   1.05
# advantage A:          2    -1     3    -1      4
# rho A:              2.4  -0.5   1.5  -1.2    4.2
# clip(rho, .9, 1.1)A: 2.2  -0.9   2.7  -1.1    4.2
# the smaller:        2.2  -0.9   1.5  -1.2    4.2     mean 5.8 / 5
NEW = np.array([0.6, 0.25, 0.25, 0.6, 0.42])
OLD = np.array([0.5, 0.5, 0.5, 0.5, 0.4])
ADVANTAGES = jnp.array([2.0, -1.0, 3.0, -1.0, 4.0])
LOGITS = jnp.asarray(np.log(np.stack([NEW, 1.0 - NEW], axis=1)), jnp.float32)
LEGAL = jnp.ones((5, 2), bool)
ACTIONS = jnp.zeros(5, jnp.int32)
LOG_OLD = jnp.asarray(np.log(OLD), jnp.float32)
STANDARDISE = jax.jit(standardise)
LOSS = jax.jit(jax.value_and_grad(policy_loss, has_aux=True), static_argnums=(6, 7))


def loss_of(alive=True, entropy_weight=0.0):
    """Loss, diagnostics and slopes of the five samples, clipped at 0.1."""
    batch = (LOGITS, LEGAL, ACTIONS, LOG_OLD, ADVANTAGES, jnp.full(5, alive))
    (loss, aux), slopes = LOSS(*batch, 0.1, entropy_weight)
    return loss, aux, slopes


def test_policy_loss_by_hand():
    loss, aux, _ = loss_of()
    assert loss == pytest.approx(-5.8 / 5, rel=1e-6)
    ratio = NEW / OLD
    assert aux.approx_kl == pytest.approx(np.mean(ratio - 1 - np.log(ratio)), rel=1e-4)
    assert aux.clip_fraction == pytest.approx(4 / 5)
    entropy = -np.mean(NEW * np.log(NEW) + (1 - NEW) * np.log(1 - NEW))
    assert aux.entropy == pytest.approx(entropy, rel=1e-6)
    assert loss_of(entropy_weight=0.3)[0] == pytest.approx(-5.8 / 5 - 0.3 * entropy, rel=1e-6)


def test_gradient_is_zero_where_clipping_wins_and_raises_good_actions():
    # d(rho A)/d logit_0 = rho A (1 - p); samples 0 and 1 are clipped, the loss is minus a mean.
    _, _, slopes = loss_of()
    expected = -np.array([0, 0, 1.5 * 0.75, -1.2 * 0.4, 4.2 * 0.58]) / 5
    np.testing.assert_allclose(slopes[:, 0], expected, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(slopes[:, 1], -expected, rtol=1e-5, atol=1e-7)


def probabilities(logits, legal):
    """The masked categorical distribution in numpy."""
    weights = np.where(legal, np.exp(np.asarray(logits, float)), 0.0)
    return weights / weights.sum(-1, keepdims=True)


def chosen(x, actions):
    """The entry of each taken action."""
    return np.take_along_axis(np.asarray(x), np.asarray(actions)[..., None], -1)[..., 0]


def random_batch(seed, steps=8, envs=3, actions=4):
    """Arguments of `policy_loss` up to `alive`, time-major, some actions illegal."""
    rng = np.random.default_rng(seed)
    logits, old = rng.normal(size=(2, steps, envs, actions)).astype(np.float32)
    legal = rng.random((steps, envs, actions)) < 0.6
    taken = rng.integers(actions, size=(steps, envs), dtype=np.int32)
    np.put_along_axis(legal, taken[..., None], True, axis=-1)
    before = np.log(chosen(probabilities(old, legal), taken), dtype=np.float32)
    advantages = rng.normal(size=(steps, envs)).astype(np.float32)
    return logits, legal, taken, before, advantages, rng.random((steps, envs)) < 0.7


def test_policy_loss_agrees_with_rlax():
    logits, legal, taken, before, advantages, alive = batch = random_batch(0)
    (loss, aux), _ = LOSS(*batch, 0.2, 0.5)
    chances = probabilities(logits, legal)
    ratios = chosen(chances, taken) / np.exp(before)
    living = (jnp.asarray(x[alive], jnp.float32) for x in (ratios, advantages))
    expected = rlax.clipped_surrogate_pg_loss(*living, epsilon=0.2)
    entropy = -np.sum(chances * np.log(np.where(legal, chances, 1.0)), axis=-1)[alive].mean()
    assert loss == pytest.approx(float(expected) - 0.5 * entropy, rel=1e-5)
    assert aux.clip_fraction == pytest.approx(np.mean(np.abs(ratios[alive] - 1) > 0.2))
    assert 0.1 < aux.clip_fraction < 0.9


def test_entropy_by_hand():
    # Legal: 1/2, 1/4, 1/4, so H = ln 2 / 2 + 2 ln 4 / 4 = 1.5 ln 2; one legal action: 0.
    logits = jnp.log(jnp.array([[2.0, 1.0, 1e30, 1.0], [5.0, 7.0, 7.0, 7.0]]))
    legal = jnp.array([[True, True, False, True], [True, False, False, False]])
    got = entropy_of(logits, legal)
    np.testing.assert_allclose(got, [1.5 * np.log(2.0), 0.0], rtol=1e-6)
    np.testing.assert_allclose(
        log_prob_of(logits, legal, jnp.array([3, 0])), [np.log(1 / 4), 0.0], rtol=1e-6
    )


def test_illegal_actions_have_no_probability_and_no_gradient():
    logits, legal, *rest = random_batch(1)
    preferred = np.where(legal, logits, 50.0).astype(np.float32)
    chances = np.asarray(jax.nn.softmax(mask_logits(jnp.asarray(preferred), jnp.asarray(legal))))
    assert np.all(chances[~legal] == 0.0)
    np.testing.assert_allclose(chances, probabilities(logits, legal), rtol=1e-5)
    _, slopes = LOSS(preferred, legal, *rest, 0.2, 0.5)
    assert np.all(np.asarray(slopes)[~legal] == 0.0)
    assert np.any(np.asarray(slopes)[legal] != 0.0)


def test_dead_steps_change_neither_loss_nor_gradient():
    logits, legal, taken, before, advantages, alive = batch = random_batch(2)
    dead = ~alive
    assert dead.any()
    reference = LOSS(*batch, 0.2, 0.5)
    for size in (1.0, 1e4, 1e30):
        spoiled = LOSS(
            np.where(dead[..., None], np.float32(size) * logits[::-1], logits),
            np.where(dead[..., None], ~legal, legal),
            np.where(dead, (taken + 1) % 4, taken),
            np.where(dead, np.float32(-size), before),
            np.where(dead, np.float32(size), advantages),
            alive,
            0.2,
            0.5,
        )
        jax.tree.map(np.testing.assert_array_equal, spoiled, reference)
    slopes = np.asarray(reference[1])
    assert np.all(slopes[dead] == 0.0)
    assert np.all(np.any(slopes[alive & (legal.sum(-1) > 1)] != 0.0, axis=-1))


def test_a_batch_of_dead_steps_has_no_loss_and_no_gradient():
    loss, aux, slopes = loss_of(alive=False, entropy_weight=0.3)
    assert loss == 0.0
    assert aux == (0.0, 0.0, 0.0)
    assert np.all(np.asarray(slopes) == 0.0)


def test_value_loss_by_hand():
    # Half of (1 - 0)^2 and (3 - 1)^2, over two living steps: 5/4; slopes (x - y) / 2.
    predictions, targets = jnp.array([1.0, 3.0, 1e15]), jnp.array([0.0, 1.0, 0.0])
    alive = jnp.array([True, True, False])
    value, slopes = jax.value_and_grad(value_loss)(predictions, targets, alive)
    assert value == 1.25
    assert slopes.tolist() == [0.5, 1.0, 0.0]


def test_standardise_over_living_steps_only():
    # 1 and 3: mean 2, standard deviation 1.
    advantages = jnp.array([[1.0, 1e6], [3.0, -7.0]])
    alive = jnp.array([[True, False], [True, False]])
    np.testing.assert_allclose(STANDARDISE(advantages, alive), [[-1.0, 0.0], [1.0, 0.0]])
    advantages, alive = random_batch(3)[-2:]
    living = advantages[alive]
    got = np.asarray(STANDARDISE(advantages * 50 + 9, alive))
    np.testing.assert_allclose(got[alive], (living - living.mean()) / living.std(), rtol=1e-4)
    assert np.all(got[~alive] == 0.0)


def test_standardise_what_does_not_vary():
    flat, nobody = jnp.full((3, 2), 5.0), jnp.zeros((3, 2), bool)
    assert np.all(np.asarray(STANDARDISE(flat, ~nobody)) == 0.0)
    assert np.all(np.asarray(STANDARDISE(flat, nobody)) == 0.0)
