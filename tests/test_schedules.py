"""Settings that change with the share of the run that is over."""

import dataclasses
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from conftest import SMALL
from dm2 import DM2, IPPO, PPO, Config, Imitation, InputError, train
from dm2.agent.settings import scheduled
from dm2.run.directory import RunDirectory
from dm2.run.loop import resume
from test_learner import AGENT, FATES, expert, learner, trajectory

ENV = "smax/3m?limit=12"


@pytest.mark.parametrize(
    ("progress", "value"), [(0.0, 0.5), (0.1, 0.4), (0.25, 0.25), (0.5, 0.0), (1.0, 0.0)]
)
def test_a_schedule_by_hand(progress, value):
    # From 0.5 to 0 over half of the run.
    ppo = PPO(entropy=0.5, entropy_end=0.0, entropy_share=0.5)
    assert scheduled(ppo, "entropy", jnp.float32(progress)) == pytest.approx(value)
    assert scheduled(PPO(entropy=0.5), "entropy", jnp.float32(progress)) == 0.5
    rising = Imitation(coefficient=0.0, coefficient_end=0.5, coefficient_share=0.5)
    assert scheduled(rising, "coefficient", jnp.float32(progress)) == pytest.approx(0.5 - value)


@pytest.mark.parametrize(
    ("progress", "later", "at_once"),
    [
        (0.0, 0.5, 0.5),
        (0.4, 0.5, 0.5),
        (0.5, 0.25, 0.5),
        (0.55, 0.125, 0.1),
        (0.6, 0, 0.1),
        (1, 0, 0.1),
    ],
)
def test_a_schedule_that_begins_later_by_hand(progress, later, at_once):
    """From 0.5 to 0 between 40 % and 60 % of the run, and from 0.5 to 0.1 at once at 50 %."""
    slow = PPO(entropy=0.5, entropy_end=0.0, entropy_begin=0.4, entropy_share=0.2)
    assert scheduled(slow, "entropy", jnp.float32(progress)) == pytest.approx(later, abs=1e-6)
    sudden = PPO(entropy=0.5, entropy_end=0.1, entropy_begin=0.5, entropy_share=0.0)
    assert scheduled(sudden, "entropy", jnp.float32(progress)) == pytest.approx(at_once)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"entropy_end": -1.0}, "ppo.entropy_end = -1.0: must be a finite number from 0 up"),
        ({"learning_rate_share": -0.1}, "ppo.learning_rate_share = -0.1: must be a finite number"),
        (
            {"entropy_end": 0.0, "entropy_begin": 0.5, "entropy_share": 0.75},
            "ppo.entropy_begin = 0.5: must be 0.25 at most, with ppo.entropy_share = 0.75",
        ),
        ({"entropy_share": 1.5}, "ppo.entropy_share = 1.5: must be a finite number"),
    ],
)
def test_bad_schedules(settings, message):
    with pytest.raises(InputError, match=message):
        PPO(**settings)


def updated(progress, **ppo):
    """What an imitator is after an update at a share of the run."""
    rules, path = learner("dm2", **ppo), trajectory(FATES)
    path = path._replace(progress=jnp.float32(progress))
    return jax.jit(rules.learn)(AGENT, path, expert())


@pytest.mark.learning
def test_a_schedule_is_the_constant_that_it_stands_for():
    """At first the weight is 0.3, half-way to 0.1 it is 0.2, and the step size likewise."""
    falls = {"entropy": 0.3, "entropy_end": 0.1}
    falls |= {"learning_rate": 3e-3, "learning_rate_end": 1e-3}
    for progress, entropy, rate in ((0.0, 0.3, 3e-3), (0.5, 0.2, 2e-3)):
        fixed = updated(progress, entropy=entropy, learning_rate=rate)[0]
        falling = updated(progress, **falls)[0]
        for one, other in zip(jax.tree.leaves(fixed), jax.tree.leaves(falling), strict=True):
            np.testing.assert_allclose(one, other, rtol=2e-4, atol=1e-6)


def test_the_coefficient_falls():
    rules, path = learner("dm2"), trajectory(FATES)
    constant, _, _ = rules.reward.of_rollout(AGENT, jax.random.PRNGKey(0), path, expert())
    imitation = dataclasses.replace(rules.reward.imitation, coefficient_end=0.0)  # pyright: ignore
    rules.reward.imitation = imitation
    at: Any = {}
    for share in (0.0, 0.5, 1.0):
        now = path._replace(progress=jnp.float32(share))
        at[share], _, _ = rules.reward.of_rollout(AGENT, jax.random.PRNGKey(0), now, expert())
    task = 2.0 * path.rewards
    np.testing.assert_allclose(at[0.0], constant, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(at[0.5] - task, 0.5 * (constant - task), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(at[1.0], task, rtol=1e-6)


def run_of(tmp_path, name, demos, steps=1024, **changes):
    ppo = PPO(hidden=8, epochs=1, minibatches=2, entropy=0.1, entropy_end=0.0, **changes)
    imitation = Imitation(hidden=8, updates=2, batch=16, coefficient_end=0.0)
    config = Config(DM2(ppo, imitation), ENV, steps=steps, demos=str(demos), **SMALL)
    return train(config, tmp_path / name, quiet=True)


def state_of(run, step):
    return (RunDirectory.open(run.path).checkpoint_path(step) / "state.safetensors").read_bytes()


def test_schedules_go_on_exactly(small_demos, tmp_path):
    """A run that is cut after a third of its steps goes on as if it had not been; one that is made
    longer keeps the schedule with which it began."""
    whole = run_of(tmp_path, "whole", small_demos, learning_rate_end=1e-4)
    cut = run_of(tmp_path, "cut", small_demos, learning_rate_end=1e-4)
    for step in cut.steps():
        if step > 512:
            for file in cut.checkpoint_path(step).iterdir():
                file.unlink()
            cut.checkpoint_path(step).rmdir()
    resume(cut.path, quiet=True)
    assert state_of(cut, 1024) == state_of(whole, 1024)

    short = run_of(tmp_path, "short", small_demos, steps=512)
    assert short.config.horizon is None
    resume(short.path, 1024, quiet=True)
    longer = RunDirectory.open(short.path).config
    assert (longer.steps, longer.horizon) == (1024, 512)
    same = train(longer, tmp_path / "same", quiet=True)
    assert state_of(short, 1024) == state_of(same, 1024)
    assert state_of(short, 1024) != state_of(run_of(tmp_path, "other", small_demos), 1024)


def test_without_schedules_a_run_is_extended_as_before(small_run, tmp_path):
    config = json.loads((small_run.path / "config.json").read_text())["config"]
    assert config["horizon"] is None
    assert not IPPO().has_schedules
    assert IPPO(PPO(learning_rate_end=0.0)).has_schedules
    assert DM2(imitation=Imitation(coefficient_end=0.0)).has_schedules
