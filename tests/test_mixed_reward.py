"""A coefficient that fits any task: how much imitation weighs beside it."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from conftest import SMALL, resumed_alike
from dm2 import DM2, PPO, Config, Imitation
from dm2.agent.mixed_reward import Balance
from dm2.run.directory import RunDirectory
from test_learner import AGENT, FATES, GAMMA, LAMBDA, expert, learner, trajectory


def test_the_ratio_by_hand():
    alive = jnp.array([[True, True], [True, False]])
    # Of the three steps that count: 1, 2, 6 about 3, variance 14 / 3; 0, 0, 3 about 1, variance 2.
    task, imitation = jnp.array([[1.0, 2.0], [6.0, 99.0]]), jnp.array([[0.0, 0.0], [3.0, -99.0]])
    first = Balance.initial().including(task, imitation, alive)
    assert float(first.ratio) == pytest.approx((14 / 3 / 2) ** 0.5)
    # Doubled, the task weighs 0.05 / (1 - 0.95^2) in the running variance.
    second = first.including(2.0 * task, imitation, alive)
    share = 0.05 / (1 - 0.95**2)
    mean = (1 - share) * 14 / 3 + share * 4 * 14 / 3
    assert float(second.ratio) == pytest.approx((mean / 2) ** 0.5, rel=1e-5)
    # Nobody alive: nothing is learnt of them.
    none = second.including(task, 7.0 * imitation, jnp.zeros_like(alive))
    assert jax.tree.map(float, none) == jax.tree.map(float, second)


def test_where_one_of_them_pays_nothing_there_is_nothing_to_balance():
    alive, some = jnp.ones((2, 2), bool), jnp.array([[1.0, 2.0], [3.0, 4.0]])
    assert Balance.initial().ratio == 1.0
    for parts in ((some, 0.0 * some), (0.0 * some, some)):
        assert Balance.initial().including(*parts, alive).ratio == 1.0


@pytest.mark.parametrize("units", [1.0, 0.01, 300.0])
def test_the_mixed_reward_is_balanced_in_any_units(units):
    """Whatever the environment pays in, imitation has the same share in the advantages."""
    rules, path = learner("dm2"), trajectory(FATES)
    plain, _, _ = rules.reward.of_rollout(AGENT, jax.random.PRNGKey(0), path, expert())
    imitation = (plain - 2.0 * path.rewards) / 0.5  # task weight 2, coefficient 0.5
    settings: Any = rules.reward.imitation
    rules.reward.imitation = dataclasses.replace(settings, unit="advantage", coefficient=0.25)
    agent = AGENT._replace(balance=Balance.initial())
    path = path._replace(rewards=units * path.rewards)
    mixed, after, metrics = rules.reward.of_rollout(agent, jax.random.PRNGKey(0), path, expert())

    def deviation(rewards):
        """Of what rewards alone contribute, step by step, in numpy."""
        lambdas = np.where(path.next_alive, LAMBDA, 1.0)
        decay = GAMMA * lambdas * (1.0 - np.asarray(path.ended))
        sums = np.zeros_like(rewards)
        following = np.zeros(rewards.shape[1])
        for t in reversed(range(len(rewards))):
            following = rewards[t] + decay[t] * following
            sums[t] = following
        return sums[np.asarray(path.alive)].std()

    task = np.asarray(2.0 * path.rewards)
    coefficient = 0.25 * deviation(task) / deviation(np.asarray(imitation))
    assert metrics["imitation_coefficient"] == pytest.approx(coefficient, rel=1e-4)
    np.testing.assert_allclose(mixed - task, coefficient * imitation, rtol=1e-3, atol=1e-5 * units)
    share = deviation(np.asarray(mixed) - task) / deviation(task)
    assert share == pytest.approx(0.25, rel=1e-4)
    assert after.balance is not None
    assert after.balance.task == pytest.approx(0.05 * deviation(task) ** 2, rel=1e-4)


@pytest.mark.learning
def test_balance_goes_on_exactly(small_demos, tmp_path):
    ppo = PPO(hidden=8, epochs=1, minibatches=2)
    imitation = Imitation(hidden=8, updates=2, batch=16, unit="advantage", coefficient=0.3)
    env = "smax/3m?limit=12"
    config = Config(DM2(ppo, imitation), env, steps=1024, demos=str(small_demos), **SMALL)
    assert resumed_alike(config, 512, tmp_path)
    whole = RunDirectory.open(tmp_path / "whole")
    trained = [record for record in whole.read_metrics() if record["kind"] == "train"]
    assert all(len(set(record["imitation_coefficient"])) == 3 for record in trained)
