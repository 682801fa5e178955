"""What the networks take in: observations of any scale, and what an agent knows of itself."""

import dataclasses
import functools
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from conftest import SMALL, resumed_alike
from cue_games import SHOWN, CueGame
from dm2 import DM2, IPPO, PPO, Config, InputError, evaluate
from dm2.agent.inputs import Inputs, Moments
from dm2.agent.learner import Learner
from dm2.agent.types import View
from dm2.config import ProgramSettings
from dm2.run.programs import Programs

TINY = PPO(hidden=8, epochs=1, minibatches=2)


# ---- moments


def test_moments_by_hand():
    # One feature; two steps of two environments, of which one step counts not.
    observations = jnp.array([[[1.0], [3.0]], [[99.0], [5.0]]])
    alive = jnp.array([[True, True], [False, True]])
    first = Moments.initial(1).including(observations, alive)
    # 1, 3, 5: mean 3, variance (4 + 0 + 4) / 3.
    np.testing.assert_allclose([*first.mean, *first.variance], [3, 8 / 3], rtol=1e-6)
    assert first.steps == 3
    second = first.including(jnp.array([[[11.0]]]), jnp.array([[True]]))
    # 1, 3, 5, 11: mean 5, variance (16 + 4 + 0 + 36) / 4.
    np.testing.assert_allclose([*second.mean, *second.variance], [5, 14], rtol=1e-6)
    # (12 - 5) / sqrt(14), and no further than 10.
    np.testing.assert_allclose(second.standardise(jnp.array([12.0])), [7 / 14**0.5], rtol=1e-6)
    assert second.standardise(jnp.array([1e6])).tolist() == [10.0]
    # An agent that was never alive learns nothing of its observations.
    same = second.including(observations, jnp.zeros((2, 2), bool))
    assert jax.tree.map(np.asarray, same) == jax.tree.map(np.asarray, second)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("shift", [0.0, 1e3])
def test_moments_agree_with_numpy_over_many_rollouts(scale, shift):
    rng, moments, everything = np.random.default_rng(0), Moments.initial(3), []
    for _ in range(20):
        rows = (rng.normal(size=(5, 4, 3)) * [1, 2, 0] + shift) * scale
        alive = rng.random((5, 4)) < 0.7
        moments = moments.including(jnp.asarray(rows, jnp.float32), jnp.asarray(alive))
        everything.append(rows[alive])
    rows = np.concatenate(everything)
    np.testing.assert_allclose(moments.mean, rows.mean(0), rtol=1e-4, atol=1e-4 * scale)
    np.testing.assert_allclose(moments.variance, rows.var(0), rtol=1e-2, atol=1e-3 * scale**2)
    shown = np.asarray(moments.standardise(jnp.asarray(rows, jnp.float32)))
    np.testing.assert_allclose(shown[:, :2].std(0), 1.0, atol=0.01)
    assert np.abs(shown[:, 2]).max() < 0.1  # a feature that never changes stays near zero


# ---- what is made of an observation


def view_of(observations, starts):
    """A view in which everything is legal and everybody alive."""
    count = len(observations)
    legal = jnp.ones((count, 3), bool)
    return View(jnp.asarray(observations), legal, jnp.ones(count, bool), jnp.asarray(starts))


def test_the_last_action_and_the_agents_number_follow_the_observation():
    inputs = Inputs(layer=False, last_action=True, agents=4)
    rules = Learner(PPO(hidden=8), None, 2, 3, inputs)
    agent, memory = rules.init(jax.random.PRNGKey(0), 2), rules.memory(2)
    act: Any = functools.partial(rules.act, agent, key=jax.random.PRNGKey(1), greedy=True)
    began = act(memory, view=view_of([[5.0, 6.0], [7.0, 8.0]], [True, True]))
    memory, actions, extras = began
    number = [0, 0, 1, 0]
    assert extras.inputs.tolist() == [[5, 6, 0, 0, 0, *number], [7, 8, 0, 0, 0, *number]]
    # The second environment's episode begins again, so that its last action is forgotten.
    _, _, extras = act(memory, view=view_of([[5.0, 6.0], [7.0, 8.0]], [False, True]))
    before = np.eye(3)[actions[0]].tolist()
    assert extras.inputs.tolist() == [[5, 6, *before, *number], [7, 8, 0, 0, 0, *number]]


def test_running_observations_are_those_of_the_rollout_before():
    """A rollout is played, and learnt from, by the moments that were known when it began."""
    config = Config(IPPO(TINY, observations="running"), "smax/3m?limit=12", **SMALL)
    programs, seed = Programs(config.program), jnp.uint32(0)
    state = programs.init(seed)
    before: Any = jax.device_get(state.agents)
    _, _, trajectory, _ = programs.collect(
        state.agents, state.rollout, state.iteration, seed, jnp.float32(1)
    )
    extras, alive = trajectory.extras, np.asarray(trajectory.alive)
    np.testing.assert_allclose(extras.inputs, np.clip(extras.observations, -10, 10), rtol=1e-5)
    agents, _ = programs.method.learn(state.agents, trajectory, None)
    for k in range(3):
        mine = np.asarray(extras.observations)[k][alive[k]]
        np.testing.assert_allclose(agents.moments.mean[k], mine.mean(0), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(agents.moments.variance[k], mine.var(0), rtol=1e-3, atol=1e-5)
    assert (before.moments.steps == 0).all()
    # Playing test episodes leaves them alone: they are in nothing that evaluation returns.
    outcome = programs.evaluate(agents, seed, jnp.uint32(0), 4)
    assert set(outcome._fields) == {"won", "returns", "length"}


# ---- settings


def test_by_default_the_environment_decides():
    for env, scale in (("smax/3m", "layer"), ("smac/3m?limit=9", "layer"), ("mine", "running")):
        assert Config(IPPO(), env).settled.method.observations == scale  # pyright: ignore
        moved = dataclasses.replace(Config(IPPO(), "smax/2s3z"), env=env)  # as train(…, env=…) does
        assert moved.program.method.observations == scale  # pyright: ignore
    chosen = Config(IPPO(observations="none"), "smax/3m").method
    assert chosen.observations == "none"  # pyright: ignore
    assert DM2(TINY).imitation == DM2().imitation  # positions are as they were
    with pytest.raises(InputError, match="observations = 'no': must be one of auto, layer"):
        IPPO(observations="no")  # pyright: ignore


def test_one_number_is_never_layer_normed():
    game = CueGame("one", 1.0)
    for scale in ("layer", "both"):
        settings = ProgramSettings(IPPO(TINY, observations=scale), "cue", 8, 8)
        with pytest.raises(
            InputError, match=f"observations = '{scale}': leaves nothing of the one"
        ):
            Programs(settings, game)


def test_runs_older_than_the_setting_took_layer_norm(small_run):
    config = json.loads((small_run.path / "config.json").read_text())["config"]
    assert config.pop("observations") == "layer"
    config["env"] = "jaxmarl/MPE_simple_spread_v3"
    assert Config.from_dict(config).method.observations == "layer"  # pyright: ignore


@pytest.mark.learning
def test_moments_and_last_actions_survive_a_kill(tmp_path):
    method = IPPO(TINY, observations="both", last_action=True, agent_id=True)
    config = Config(method, "smax/3m?limit=12", steps=1024, **SMALL)
    assert resumed_alike(config, 512, tmp_path)
    assert evaluate(tmp_path / "half", episodes=5)["episodes"] == 5


# ---- learning


def learnt(shown: str, scale: float, mode: Any, seed: int = 0) -> float:
    """The share of cues that a team answers rightly after 15 updates; chance is a half."""
    settings = IPPO(PPO(hidden=16, minibatches=1), observations=mode)
    programs = Programs(ProgramSettings(settings, "cue", 16, 32), CueGame(shown, scale))
    key = jnp.uint32(seed)
    state = programs.init(key)
    for _ in range(15):
        state, _ = programs.iterate(state, key, None)
    outcome = programs.evaluate(state.agents, jnp.uint32(0), jnp.uint32(0), 200)
    return float(outcome.returns.mean())


@pytest.mark.learning
@pytest.mark.parametrize("shown", SHOWN)
def test_cues_are_learnt(shown):
    assert learnt(shown, 1000.0, "auto") == 1.0


@pytest.mark.learning
def test_layer_norm_is_blind_to_proportional_cues():
    """Which is why it is not the default elsewhere: chance is all that is reached."""
    assert 0.3 < learnt("proportional", 1.0, "layer") < 0.7


@pytest.mark.learning
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("shown", SHOWN)
def test_what_each_scaling_learns_of_cues(shown, scale, seed):
    """What docs/method.md says of cues."""
    right = {"running"}
    if shown == "one-hot":
        right |= {"layer", "both"}
    if shown != "proportional" and scale >= 1:
        right |= {"none"}
    modes = {"running", "none"} if shown == "one" else {"running", "none", "layer", "both"}
    for mode in sorted(modes):
        share = learnt(shown, scale, mode, seed)
        assert share == 1.0 if mode in right else 0.3 < share < 0.7, mode
