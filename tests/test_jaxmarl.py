"""JaxMARL's environments through the adapter: the same numbers, padded, and teams that learn."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dm2
from dm2.envs import Environment, make
from dm2.envs.adapters.jaxmarl import JaxMarl, quiet_import
from dm2.errors import InputError

with quiet_import():
    import jaxmarl

KEY = jax.random.PRNGKey(3)


def test_an_episode_is_jaxmarls():
    """Rewards, observations and the end of three episodes, against JaxMARL one at a time."""
    env, theirs = make("jaxmarl/MPE_simple_spread_v3"), jaxmarl.make("MPE_simple_spread_v3")
    assert isinstance(env, Environment)
    spec = env.spec
    assert (spec.num_agents, spec.observation_size, spec.num_actions) == (3, 18, 5)
    assert (spec.episode_limit, spec.version) == (25, "jaxmarl 0.2.0")
    count, state = 3, env.reset(KEY, 3)
    their_states = []
    for n, key in enumerate(jax.random.split(KEY, count)):
        observations, their_state = theirs.reset(key)
        their_states.append(their_state)
        for k, agent in enumerate(theirs.agents):
            ours = env.observe(state).observations[k, n]
            np.testing.assert_allclose(ours, observations[agent], atol=1e-6)
    step = jax.jit(env.step)
    for t in range(25):
        key = jax.random.fold_in(KEY, t)
        actions = jax.random.randint(key, (3, count), 0, 5)
        state, outcome = step(key, state, actions)
        for n, step_key in enumerate(jax.random.split(key, count)):
            chosen = dict(zip(theirs.agents, actions[:, n], strict=True))
            observations, their_states[n], rewards, _, _ = theirs.step_env(
                step_key, their_states[n], chosen
            )
            for k, agent in enumerate(theirs.agents):
                ours = env.observe(state).observations[k, n]
                np.testing.assert_allclose(ours, observations[agent], atol=1e-5)
            mean = np.mean([rewards[agent] for agent in theirs.agents])
            np.testing.assert_allclose(outcome.reward[n], mean, rtol=1e-5)
        # Nothing but the limit ends it, and everybody is alive then.
        assert np.all(outcome.truncated == (t == 24))
        assert not np.any(outcome.terminated)
        assert np.all(env.observe(state).alive)
    view = env.observe(state)
    np.testing.assert_array_equal(view.state[1], np.asarray(view.observations[:, 1]).ravel())


def test_unlike_agents_are_padded():
    """A speaker of 3 words that observes 3 numbers, a listener of 5 moves that observes 11."""
    env = JaxMarl("MPE_simple_speaker_listener_v4", limit=7)
    assert (env.spec.observation_size, env.spec.num_actions) == (11, 5)
    assert env.spec.name == "jaxmarl/MPE_simple_speaker_listener_v4?limit=7"
    view = env.observe(env.reset(KEY, 2))
    speaker = int(np.argmin(np.asarray(view.legal).sum(axis=(1, 2))))
    assert np.asarray(view.legal[speaker, 0]).tolist() == [True, True, True, False, False]
    assert np.all(view.legal[1 - speaker])
    assert not np.any(view.observations[speaker, :, 3:])
    assert np.any(view.observations[1 - speaker, :, 3:])


def test_its_legal_actions_deaths_and_ends_are_taken_over():
    """SMAX itself: only enemies in range can be attacked, units die, a lost battle terminates."""
    env = JaxMarl("HeuristicEnemySMAX")
    battles, state = 8, env.reset(KEY, 8)
    assert not np.any(env.observe(state).legal[..., 5:])
    alive = np.ones((env.spec.num_agents, battles), bool)
    ended, attackable = np.zeros(battles, bool), False
    step = jax.jit(env.step)
    east = jnp.full((env.spec.num_agents, battles), 1)  # into the enemy
    for t in range(60):
        state, outcome = step(jax.random.fold_in(KEY, t), state, east)
        view = env.observe(state)
        still_alive = np.asarray(view.alive)
        assert not np.any(still_alive & ~alive)
        alive, ended = still_alive, ended | np.asarray(outcome.terminated)
        attackable |= bool(np.any(view.legal[..., 5:]))
        assert not np.any(outcome.truncated)
    assert attackable
    assert not np.all(alive)
    assert np.any(ended)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("jaxmarl/MPE_simple_spred", "no such environment; known: .*MPE_simple_spread_v3"),
        ("jaxmarl/MPE_simple_spread_v3?walls=safe", "no option 'walls'"),
        ("jaxmarl/MPE_simple_facmac_3a_v1", "not discrete"),
    ],
)
def test_bad_names(name, message):
    with pytest.raises(InputError, match=message):
        make(name)


def test_without_jaxmarl(monkeypatch):
    monkeypatch.setitem(sys.modules, "jaxmarl", None)
    with pytest.raises(InputError, match=r"pip install dm2\[jaxmarl\]"):
        make("jaxmarl/MPE_simple_spread_v3")


@pytest.mark.learning
def test_ippo_and_dm2_learn_to_spread(tmp_path):
    """Return of a random team: about -30; IPPO gains 5 within 0.5 M steps, DM² keeps up."""
    settings = {"env": "jaxmarl/MPE_simple_spread_v3", "steps": 500_000, "eval_every": 100_000}
    dm2.train(dm2.Config(dm2.IPPO(), seed=7, **settings), tmp_path / "expert")
    demos = tmp_path / "demos.safetensors"
    dm2.record(tmp_path / "expert", episodes=200).save(demos)
    dm2.train(dm2.Config(dm2.DM2(), demos=str(demos), **settings), tmp_path / "dm2")
    dm2.train(
        dm2.Config(dm2.IPPO(), steps=1, **{k: v for k, v in settings.items() if k != "steps"}),
        tmp_path / "novice",
    )
    novice, expert, ours = (
        dm2.evaluate(tmp_path / run)["mean_return"] for run in ("novice", "expert", "dm2")
    )
    assert expert > novice + 5
    assert ours > novice + 5
