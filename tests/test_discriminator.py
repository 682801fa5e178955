"""The discriminator and its reward against hand arithmetic; the sign; death; absorbing states."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dm2.agent.demonstrations import Expert
from dm2.agent.discriminator import (
    DiscriminatorState,
    Imitator,
    discriminator_loss,
    gradient_penalty,
    reward_of,
)
from dm2.agent.networks import Discriminator
from dm2.agent.settings import Imitation, RewardForm, Survival

FORMS = ("logit", "softplus", "log", "paper")
LOGITS = jnp.array([-2.0, 0.0, 3.0])


# ---- reward forms


def test_reward_forms_by_hand():
    # softplus: ln(1 + e^-2) = 0.126928, ln 2, ln(1 + e^3) = 3.048587;
    # log: -ln(1 + e^2) = -2.126928, -ln 2, -ln(1 + e^-3) = -0.048587.
    expected = {
        "logit": [-2.0, 0.0, 3.0],
        "softplus": [0.126928, 0.693147, 3.048587],
        "log": [-2.126928, -0.693147, -0.048587],
        "paper": [0.126928, 0.693147, 3.048587],
    }
    for form in FORMS:
        np.testing.assert_allclose(reward_of(form, LOGITS), expected[form], atol=2e-6)


def test_reward_forms_are_what_their_names_say_of_the_probability():
    expert = 1 / (1 + np.exp(-np.asarray(LOGITS, float)))
    policy = 1 - expert
    log_ratio = np.log(expert) - np.log(policy)
    by_name = (log_ratio, -np.log(policy), np.log(expert), -np.log(policy))
    for form, expected in zip(FORMS, by_name, strict=True):
        np.testing.assert_allclose(reward_of(form, LOGITS), expected, rtol=1e-5)
    both = reward_of("softplus", LOGITS) + reward_of("log", LOGITS)
    np.testing.assert_allclose(both, reward_of("logit", LOGITS), atol=1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_rewards_rise_with_likeness_to_the_expert(form):
    assert np.all(np.diff(reward_of(form, jnp.linspace(-9.0, 9.0, 40))) > 0)


# ---- the discriminator's loss

NOTHING = (jnp.zeros(()), jnp.zeros(()))
LOSS = jax.jit(discriminator_loss)
PENALTY = jax.jit(gradient_penalty, static_argnums=0)


def test_discriminator_loss_by_hand():
    # D = 1/2, 3/4 on the expert: (ln 2 + ln(4/3)) / 2; D = 1/2, 3/4 on the policy, and a dead
    # row: (ln 2 + ln 4) / 2.
    expert = jnp.array([0.0, np.log(3.0), 0.0, np.log(3.0)])
    policy = jnp.array([0.0, np.log(3.0), 50.0, -1e30])
    mask = jnp.array([True, True, False, False])
    of_expert, of_policy = (np.log(2) + np.log(4 / 3)) / 2, (np.log(2) + np.log(4)) / 2
    loss = LOSS(expert, policy, mask, NOTHING, NOTHING)
    assert loss == pytest.approx(of_expert + of_policy, rel=1e-6)
    # The absorbing state, logit ln 3, is 1/4 of the expert's time and 1/2 of the policy's.
    shares = [(jnp.log(3.0), jnp.asarray(share)) for share in (0.25, 0.5)]
    loss = LOSS(expert, policy, mask, *shares)
    expected = 0.75 * of_expert + 0.25 * np.log(4 / 3) + 0.5 * of_policy + 0.5 * np.log(4)
    assert loss == pytest.approx(expected, rel=1e-6)


def test_discriminator_loss_of_indifference_is_log_four():
    zeros, mask = jnp.zeros(3), jnp.array([True, False, True])
    shares = (jnp.zeros(()), jnp.asarray(0.3))
    loss = LOSS(zeros, zeros, mask, shares, shares)
    assert loss == pytest.approx(np.log(4), rel=1e-6)


# Three states, the last one absorbing; the living ones are rows: 8 + 2 of the expert, 5 + 5 of
# the policy. Absorbing shares 1/4 and 1/2.
EXPERT_ROWS, POLICY_ROWS = jnp.array([0] * 8 + [1] * 2), jnp.array([0] * 5 + [1] * 5)
EXPERT_SHARES = np.array([0.75 * 0.8, 0.75 * 0.2, 0.25])
POLICY_SHARES = np.array([0.5 * 0.5, 0.5 * 0.5, 0.5])


def tabular_loss(table):
    everyone = jnp.ones(10, bool)
    absorbing = [(table[2], jnp.asarray(share)) for share in (0.25, 0.5)]
    return discriminator_loss(table[EXPERT_ROWS], table[POLICY_ROWS], everyone, *absorbing)


def test_the_optimal_logit_is_the_log_ratio_of_the_densities():
    # d/dl [p_E softplus(-l) + p_pi softplus(l)] is (p_pi - p_E) / 2 at l = 0 and 0 at the optimum,
    # which is unique since the loss is strictly convex.
    slopes = jax.jit(jax.grad(tabular_loss))
    np.testing.assert_allclose(slopes(jnp.zeros(3)), (POLICY_SHARES - EXPERT_SHARES) / 2, atol=1e-6)
    best = jnp.asarray(np.log(EXPERT_SHARES / POLICY_SHARES), jnp.float32)
    np.testing.assert_allclose(slopes(best), np.zeros(3), atol=1e-6)


class Plane(Discriminator):
    """`l(x) = w x`."""

    @nn.compact
    def __call__(self, inputs):
        return inputs @ self.param("slope", nn.initializers.zeros_init(), (2,))


class Bowl(Discriminator):
    """`l(x) = |x|^2 / 2`, so that the slope is x itself."""

    def __call__(self, inputs):
        return 0.5 * jnp.sum(jnp.square(inputs), axis=-1)


def test_gradient_penalty_of_a_plane():
    # |(3, 4)| = 5: (5 - 1)^2 = 16, and d/dw = 2 (5 - 1) w / 5. A flat one: 1, and no NaN.
    def penalty(slope, rows):
        params = {"params": {"slope": slope}}
        return gradient_penalty(Plane(1), params, rows, -rows, jnp.ones(4, bool), rows[:, 0])

    rows = jnp.linspace(0.0, 1.0, 8).reshape(4, 2)
    both = jax.jit(jax.value_and_grad(penalty))
    value, slope = both(jnp.array([3.0, 4.0]), rows)
    assert value == pytest.approx(16.0, rel=1e-5)
    np.testing.assert_allclose(slope, [4.8, 6.4], rtol=1e-5)
    value, slope = both(jnp.zeros(2), rows)
    assert value == pytest.approx(1.0, rel=1e-5)
    assert slope.tolist() == [0.0, 0.0]


def test_gradient_penalty_is_taken_between_expert_and_policy():
    # x = u (3, 4) + (1 - u) (0, 0): |x| = 5 u, so (5 * 1 - 1)^2 = 16 and (5 * 0.4 - 1)^2 = 1; the
    # third row, u = 0, is dead (it would give 1, were it counted: mean 6 instead of 17 / 2).
    expert, policy = jnp.tile(jnp.array([3.0, 4.0]), (3, 1)), jnp.zeros((3, 2))
    mask, mix = jnp.array([True, True, False]), jnp.array([1.0, 0.4, 0.0])
    got = PENALTY(Bowl(1), {}, expert, policy, mask, mix)
    assert got == pytest.approx(17 / 2, rel=1e-5)


# ---- the imitator: two features, T steps of N environments, M expert rows

T, N, M = 8, 16, 100
HIDDEN = 16
NEVER = jnp.zeros((T, N), int)


@functools.cache
def make(survival: Survival = "none", discount=0.5, reward: RewardForm = "logit"):
    """An imitator of two-feature observations."""
    updates = 1 if survival == "absorbing" else 80
    quick = {"hidden": HIDDEN, "updates": updates, "batch": 64, "learning_rate": 1e-2}
    return Imitator(Imitation(survival=survival, reward=reward, **quick), 2, 3, discount)


def fresh(imitator, seed):
    """A discriminator with random weights (`init` itself takes seconds to compile)."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(imitator.init, jax.random.PRNGKey(0)).params
    params = jax.tree.map(lambda x: jnp.asarray(rng.normal(0, 0.4, x.shape), x.dtype), shapes)
    return DiscriminatorState(params, imitator.optimiser.init(params))


# What takes time here is compiling, not running.
UPDATES = {survival: jax.jit(make(survival).update) for survival in ("none", "absorbing")}


def gaussians(seed=0):
    """Expert around (1.5, 1.5), policy around (-1.5, -1.5); most of the policy's steps alive."""
    rng = np.random.default_rng(seed)
    expert = jnp.asarray(rng.normal(1.5, 1.0, (M, 2)), jnp.float32)
    policy = jnp.asarray(rng.normal(-1.5, 1.0, (T, N, 2)), jnp.float32)
    alive = jnp.asarray(rng.random((T, N)) < 0.8)
    return Expert(expert, jnp.asarray(M), jnp.asarray(0.25)), policy, alive


def idle_for(alive):
    """Some idle steps."""
    return jnp.where(alive, jnp.arange(T * N).reshape(T, N) % 3, 0)


def logits_of(params, rows):
    """The discriminator in numpy, float64."""
    x = np.asarray(rows, float)
    layers = [params["params"][name] for name in ("dense_0", "dense_1", "head")]
    weights = [(np.asarray(y["kernel"], float), np.asarray(y["bias"], float)) for y in layers]
    for kernel, bias in weights[:2]:
        x = np.tanh(x @ kernel + bias)
    return (x @ weights[2][0] + weights[2][1])[..., 0]


def softplus(x):
    return np.log1p(np.exp(x))


def assert_identical(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_gradient_penalty_of_the_discriminator_by_finite_differences():
    state = fresh(make(), 3)
    rng = np.random.default_rng(4)
    expert, policy = rng.normal(size=(2, 5, 2))
    mix = rng.random(5)
    rows = mix[:, None] * expert + (1 - mix[:, None]) * policy
    slopes = []
    for axis in np.eye(2) * 1e-5:
        up, down = logits_of(state.params, rows + axis), logits_of(state.params, rows - axis)
        slopes.append((up - down) / 2e-5)
    expected = np.mean((np.linalg.norm(slopes, axis=0) - 1) ** 2)
    arrays = [jnp.asarray(x, jnp.float32) for x in (expert, policy)]
    everyone, mix = jnp.ones(5, bool), jnp.asarray(mix, jnp.float32)
    got = PENALTY(make().network, state.params, *arrays, everyone, mix)
    assert got == pytest.approx(expected, rel=1e-4)


def test_the_discriminator_learns_who_the_expert_is():
    expert, policy, alive = gaussians()
    state = fresh(make(), 0)
    state, metrics = UPDATES["none"](state, jax.random.PRNGKey(1), expert, policy, alive, NEVER)
    assert metrics["discriminator_accuracy"] > 0.9
    assert metrics["discriminator_loss"] < 0.7 < np.log(4)
    assert metrics["gradient_penalty"] < 0.5
    of_expert = logits_of(state.params, expert.observations)
    of_policy = logits_of(state.params, policy.reshape(-1, 2))
    assert np.mean(of_expert > 0) > 0.9
    assert np.mean(of_policy < 0) > 0.9
    like = jnp.broadcast_to(expert.observations[: T * N // 2].mean(0), (T, N, 2))
    rewards = jax.jit(make().rewards)
    ours, theirs = (rewards(state, x, NEVER == 0, NEVER)[0] for x in (policy, like))
    assert np.mean(np.asarray(theirs) > np.asarray(ours)) > 0.95


@pytest.mark.parametrize("survival", ["none", "absorbing"])
def test_dead_policy_rows_change_nothing_in_the_update(survival):
    expert, policy, alive = gaussians(1)
    state, key = fresh(make(survival), 2), jax.random.PRNGKey(3)
    arguments = (alive, idle_for(alive))
    reference = UPDATES[survival](state, key, expert, policy, *arguments)
    spoiled = jnp.where(alive[..., None], policy, 1e4)
    assert_identical(UPDATES[survival](state, key, expert, spoiled, *arguments), reference)
    living = jnp.where(alive[..., None], 2.0 * policy, policy)
    _, metrics = UPDATES[survival](state, key, expert, living, *arguments)
    assert metrics["discriminator_loss"] != reference[1]["discriminator_loss"]


def test_only_the_real_rows_of_the_expert_are_used():
    expert, policy, alive = gaussians(2)
    state, key = fresh(make(), 4), jax.random.PRNGKey(5)

    def learn(count, spoilt):
        rows = expert.observations.at[spoilt:].set(jnp.nan)
        theirs = Expert(rows, jnp.asarray(count), expert.absorbing)
        return UPDATES["none"](state, key, theirs, policy, alive, NEVER)

    for leaf in jax.tree.leaves(learn(40, 40)):
        assert np.all(np.isfinite(leaf))
    # All of the real ones are: one NaN among them is found.
    assert np.isnan(learn(40, 39)[1]["discriminator_loss"])


def test_absorbing_shares_by_hand():
    # All of a kind, so that sampling does not matter. The expert is in the absorbing state 1/4 of
    # the time; the policy lives for 32 steps, is dead for 96, and episodes that terminate leave 20
    # + 44 unplayed, so 160 / 192 = 5/6 of it.
    state = fresh(make("absorbing"), 6)
    expert = Expert(jnp.tile(jnp.array([1.0, 2.0]), (M, 1)), jnp.asarray(M), jnp.asarray(0.25))
    policy = jnp.broadcast_to(jnp.array([-1.0, 0.5]), (T, N, 2))
    alive = jnp.broadcast_to(jnp.arange(T)[:, None] < 2, (T, N))
    idle = jnp.zeros((T, N), int).at[1, 3].set(20).at[5, 5].set(44)
    rows = [[1.0, 2.0, 0.0], [-1.0, 0.5, 0.0], [0.0, 0.0, 1.0]]
    theirs, ours, still = logits_of(state.params, rows)
    expected = 0.75 * softplus(-theirs) + 0.25 * softplus(-still)
    expected += softplus(ours) / 6 + 5 / 6 * softplus(still)
    update = UPDATES["absorbing"]
    _, metrics = update(state, jax.random.PRNGKey(7), expert, policy, alive, idle)
    assert metrics["discriminator_loss"] == pytest.approx(expected, rel=1e-5)


# ---- rewards of a trajectory: three steps of two environments, in the second of which the agent
# dies with step 1; both episodes terminate with step 2, 1 and 3 steps before the limit

POLICY = jnp.asarray(np.random.default_rng(8).normal(size=(3, 2, 2)), jnp.float32)
LIVING = jnp.array([[True, True], [True, True], [True, False]])
IDLE = jnp.array([[0, 0], [0, 0], [1, 3]])


@functools.cache
def compiled_rewards(survival, discount):
    return jax.jit(make(survival, discount, "softplus").rewards)


def rewards_of(survival, discount=0.5, observations=POLICY):
    """Softplus rewards, and the parameters of the discriminator behind them."""
    state = fresh(make(survival), 9)
    rewards, _ = compiled_rewards(survival, discount)(state, observations, LIVING, IDLE)
    return np.asarray(rewards), state.params


@pytest.mark.parametrize("survival", ["none", "centred"])
def test_the_mean_reward_is_reported_as_it_is_before_it_is_taken_off(survival):
    state = fresh(make(survival), 9)
    _, mean = compiled_rewards(survival, 0.5)(state, POLICY, LIVING, IDLE)
    raw = np.asarray(softplus(logits_of(state.params, POLICY)))
    np.testing.assert_allclose(mean, raw[np.asarray(LIVING)].mean(), rtol=1e-5)


def test_rewards_are_those_of_the_living_steps():
    rewards, params = rewards_of("none")
    expected = np.where(LIVING, softplus(logits_of(params, POLICY)), 0.0)
    np.testing.assert_allclose(rewards, expected, rtol=1e-5)


@pytest.mark.parametrize(("discount", "annuity"), [(0.5, (0.5, 0.875)), (1.0, (1.0, 3.0))])
def test_absorbing_rewards_pay_the_dead_and_for_the_steps_left(discount, annuity):
    # sum_{k=1..n} gamma^k for n = 1 and 3: 1/2 and 1/2 + 1/4 + 1/8 = 7/8; 1 and 3 at gamma = 1.
    rewards, params = rewards_of("absorbing", discount)
    living = softplus(logits_of(params, np.concatenate([POLICY, np.zeros((3, 2, 1))], axis=-1)))
    still = softplus(logits_of(params, [0.0, 0.0, 1.0]))
    one, three = annuity
    waits = np.array([[0, 0], [0, 0], [one, three]])
    expected = np.where(LIVING, living, still) + still * waits
    np.testing.assert_allclose(rewards, expected, rtol=1e-5)


def test_centred_rewards_have_mean_zero_over_living_steps():
    rewards, _ = rewards_of("centred")
    plain, _ = rewards_of("none")
    living = np.asarray(LIVING)
    assert rewards[living].mean() == pytest.approx(0.0, abs=1e-6)
    np.testing.assert_allclose((plain - rewards)[living], plain[living].mean(), rtol=1e-5)
    assert np.all(rewards[~living] == 0.0)


@pytest.mark.parametrize("survival", ["none", "centred", "absorbing"])
def test_what_is_observed_at_dead_steps_changes_nothing(survival):
    reference, _ = rewards_of(survival)
    spoiled = jnp.where(LIVING[..., None], POLICY, 1e4)
    assert_identical(rewards_of(survival, observations=spoiled)[0], reference)
    assert (reference[2, 1] == 0.0) == (survival != "absorbing")
