"""Advantages against hand arithmetic, plain loops and rlax."""

import functools
from typing import Any

import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rlax

from dm2.agent.returns import masked_gae, masked_mean

GAE = functools.partial(jax.jit, static_argnames=("discount", "gae_lambda"))(masked_gae)


def gae(rewards, values, next_values, alive, next_alive, terminated, ended, gamma=0.5, lam=0.5):
    """`masked_gae` of lists."""
    floats = {"rewards": rewards, "values": values, "next_values": next_values}
    flags = {"alive": alive, "next_alive": next_alive, "terminated": terminated, "ended": ended}
    columns = {k: jnp.asarray(x, jnp.float32) for k, x in floats.items()}
    columns |= {k: jnp.asarray(x, bool) for k, x in flags.items()}
    return np.asarray(GAE(**columns, discount=gamma, gae_lambda=lam))


NO, YES = [0, 0, 0, 0], [1, 1, 1, 1]
REWARDS, VALUES, NEXT = [1, 2, 3, 4], [4, 2, 8, 2], [2, 8, 2, 6]


def test_ordinary_steps():
    # gamma = lambda = 1/2, so A_t = delta_t + A_{t+1} / 4.
    # deltas: 1+1-4 = -2, 2+4-2 = 4, 3+1-8 = -4, 4+3-2 = 5
    # A_3 = 5, A_2 = -4 + 5/4 = -11/4, A_1 = 4 - 11/16 = 53/16, A_0 = -2 + 53/64 = -75/64
    got = gae(REWARDS, VALUES, NEXT, YES, YES, NO, NO)
    assert got.tolist() == [-75 / 64, 53 / 16, -11 / 4, 5]


def test_termination_does_not_bootstrap():
    # Terminated at 1: delta_1 = 2 - 2 = 0 whatever follows; A_0 = -2 + 0/4; A_2, A_3 as before.
    end = [0, 1, 0, 0]
    for beyond in (8, 99):
        got = gae(REWARDS, VALUES, [2, beyond, 2, 6], YES, YES, end, end)
        assert got.tolist() == [-2, 0, -11 / 4, 5]


def test_time_limit_bootstraps_from_the_observation_before_the_reset():
    # Truncated at 1 with a final value of 10, not the next episode's first value of 8:
    # delta_1 = 2 + 5 - 2 = 5; A_1 = 5, A_0 = -2 + 5/4 = -3/4; A_2, A_3 as before.
    got = gae(REWARDS, VALUES, [2, 10, 2, 6], YES, YES, NO, [0, 1, 0, 0])
    assert got.tolist() == [-3 / 4, 5, -11 / 4, 5]


def test_several_episodes_in_one_column():
    # Terminated at 0, truncated at 1, terminated at 3:
    # A_0 = 1 - 4 = -3, A_1 = 2 + 4 - 2 = 4, A_3 = 4 - 2 = 2, A_2 = 3 + 1 - 8 + 2/4 = -7/2
    got = gae(REWARDS, VALUES, NEXT, YES, YES, [1, 0, 0, 1], [1, 1, 0, 1])
    assert got.tolist() == [-3, 4, -7 / 2, 2]


# The agent dies by its step 1; c is its value there, carried over steps 2 and 3. From death on
# lambda is 1, so with gamma = 1/2
#     A_1 = (r_1 + c/2 - c) + (r_2 + c/2 - c)/2 + (r_3 + next_3/2 - c)/4
#         = r_1 + r_2/2 + r_3/4 + next_3/8 - c
# and A_0 = r_0 + c/2 - V_0 + A_1/4.
DEATH: dict[str, Any] = {"alive": [1, 1, 0, 0], "next_alive": [1, 0, 0, 0]}


@pytest.mark.parametrize("carried", [2, 6])
def test_after_death_only_the_teams_rewards_count(carried):
    # Terminated at 3. With r = 1, 2, 4, 8: A_1 = 2 + 2 + 2 - c; V_0 = 1: A_0 = c/2 + A_1/4.
    end, c = [0, 0, 0, 1], carried
    got = gae([1, 2, 4, 8], [1, c, c, c], [c, c, c, 77], **DEATH, terminated=end, ended=end)
    assert got.tolist() == [c / 2 + (6 - c) / 4, 6 - c, 0, 0]


@pytest.mark.parametrize("ended", [0, 1], ids=["rollout", "time limit"])
@pytest.mark.parametrize("carried", [2, 6])
def test_a_cut_after_death_adds_the_carried_value(carried, ended):
    # As above plus gamma^3 c = c/8 at step 1.
    c = carried
    ends: dict[str, Any] = {"terminated": NO, "ended": [0, 0, 0, ended]}
    got = gae([1, 2, 4, 8], [1, c, c, c], [c, c, c, c], **DEATH, **ends)
    first = 6 - c + c / 8
    assert got.tolist() == [c / 2 + first / 4, first, 0, 0]


@pytest.mark.parametrize("middle", [-3, 50])
def test_the_values_held_between_death_and_the_end_cancel(middle):
    # Whatever is held at steps 2 and 3, as long as it is the same on both sides of each step.
    values, nexts, end = [1, 2, middle, middle], [2, middle, middle, 77], [0, 0, 0, 1]
    got = gae([1, 2, 4, 8], values, nexts, **DEATH, terminated=end, ended=end)
    assert got.tolist() == [2 / 2 + (6 - 2) / 4, 6 - 2, 0, 0]


def test_death_stays_within_its_episode():
    # Step 0: dies, 1: dead and terminated, 2 and 3: a new life, as in the ordinary example.
    # A_0 = r_0 + r_1/2 - V_0 = 1 + 2/2 - 4 = -2
    alive, next_alive, end = [1, 0, 1, 1], [0, 0, 1, 1], [0, 1, 0, 0]
    got = gae(REWARDS, [4, 4, 8, 2], [4, 4, 2, 6], alive, next_alive, end, end)
    assert got.tolist() == [-2, 0, -11 / 4, 5]


def test_dying_with_the_last_step():
    # Death and termination at once: A_3 = 4 - 2 = 2, A_2 = -4 + 2/4, A_1 = 4 - 3.5/4 = 25/8,
    # A_0 = -2 + 25/32. Death and time limit at once: the carried value 2 is the bootstrap,
    # A_3 = 4 + 1 - 2 = 3.
    fallen, last = [1, 1, 1, 0], [0, 0, 0, 1]
    got = gae(REWARDS, VALUES, NEXT, YES, fallen, last, last)
    assert got.tolist() == [-2 + 25 / 32, 25 / 8, -7 / 2, 2]
    assert gae(REWARDS, VALUES, [2, 8, 2, 2], YES, fallen, NO, last)[3] == 3


def test_dead_steps_have_advantage_exactly_zero():
    got = gae([5, 6, 7, 8], [9, 9, 9, 9], [1e6, 3, 2, 1], NO, NO, NO, NO)
    assert got.tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("seed", [0, 1])
def test_agrees_with_rlax(seed):
    """rlax knows one sequence of values and no time limits. Where one falls, its lambda is 0
    (nothing flows back) and the reward makes up for the value of the next episode's first step."""
    rng = np.random.default_rng(seed)
    steps, envs, gamma, lam = 9, 4, 0.9, 0.8
    rewards, values, cut = rng.normal(size=(3, steps, envs))
    terminated = rng.random((steps, envs)) < 0.25
    truncated = ~terminated & (rng.random((steps, envs)) < 0.25)
    assert terminated.any()
    assert truncated.any()
    following = np.concatenate([values[1:], rng.normal(size=(1, envs))])
    next_values = np.where(truncated, cut, following)
    yes, ended = np.ones((steps, envs), bool), terminated | truncated
    columns = (rewards, values, next_values, yes, yes, terminated, ended)
    got = [gae(*(x[:, n] for x in columns), gamma=gamma, lam=lam) for n in range(envs)]
    theirs = jax.vmap(rlax.truncated_generalized_advantage_estimation, 1, 1)(
        jnp.asarray(rewards + gamma * np.where(truncated, cut - following, 0.0), jnp.float32),
        jnp.asarray(gamma * (1.0 - terminated), jnp.float32),
        jnp.asarray(lam * (1.0 - truncated), jnp.float32),
        jnp.asarray(np.concatenate([values, following[-1:]]), jnp.float32),
    )
    np.testing.assert_allclose(np.stack(got, 1), theirs, rtol=1e-5, atol=1e-5)


STEPS = 5
numbers = hnp.arrays(np.float32, STEPS, elements=st.floats(-8, 8, width=16))
flags = hnp.arrays(np.bool_, STEPS)


@hypothesis.settings(deadline=None, max_examples=40)
@hypothesis.given(numbers, numbers, numbers, flags, flags, st.sampled_from([0.5, 1.0]))
def test_lambda_one_is_monte_carlo_and_lambda_zero_the_td_error(
    rewards, values, cut, terminated, truncated, gamma
):
    ended = terminated | truncated
    next_values = np.where(ended, cut, np.append(values[1:], cut[-1]))
    ones = np.ones(STEPS, bool)
    arguments = (rewards, values, next_values, ones, ones, terminated, ended, gamma)
    returns, after = np.zeros(STEPS), cut[-1]
    for t in reversed(range(STEPS)):
        beyond = 0.0 if terminated[t] else cut[t] if truncated[t] else after
        returns[t] = after = rewards[t] + gamma * beyond
    np.testing.assert_allclose(gae(*arguments, 1.0), returns - values, rtol=1e-5, atol=1e-4)
    errors = rewards + gamma * np.where(terminated, 0.0, next_values) - values
    np.testing.assert_allclose(gae(*arguments, 0.0), errors, rtol=1e-5, atol=1e-4)


def test_masked_mean():
    # (1 + 5) / 2; the gradient is 1/2 on the rows that count.
    values, mask = jnp.array([1.0, 1e30, 5.0, jnp.nan]), jnp.array([True, False, True, False])
    assert masked_mean(values, mask) == 3.0
    assert jax.grad(masked_mean)(values, mask).tolist() == [0.5, 0.0, 0.5, 0.0]


def test_masked_mean_of_nothing_is_zero_with_zero_gradient():
    values, mask = jnp.array([[1.0, jnp.inf], [-3.0, jnp.nan]]), jnp.zeros((2, 2), bool)
    assert masked_mean(values, mask) == 0.0
    assert jax.grad(masked_mean)(values, mask).tolist() == [[0.0, 0.0], [0.0, 0.0]]
