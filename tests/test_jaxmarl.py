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
from toy_env import compiled

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
    count, (reset, step, observe) = 3, compiled(env)
    state = reset(KEY, count)
    their_step = jax.jit(theirs.step_env)
    view = observe(state)
    their_states = []
    for n, key in enumerate(jax.random.split(KEY, count)):
        observations, their_state = theirs.reset(key)
        their_states.append(their_state)
        for k, agent in enumerate(theirs.agents):
            ours = view.observations[k, n]
            np.testing.assert_allclose(ours, observations[agent], atol=1e-6)
    for t in range(25):
        key = jax.random.fold_in(KEY, t)
        actions = jax.random.randint(key, (3, count), 0, 5)
        state, outcome = step(key, state, actions)
        view = observe(state)
        for n, step_key in enumerate(jax.random.split(key, count)):
            chosen = dict(zip(theirs.agents, actions[:, n], strict=True))
            observations, their_states[n], rewards, _, _ = their_step(
                step_key, their_states[n], chosen
            )
            for k, agent in enumerate(theirs.agents):
                ours = view.observations[k, n]
                np.testing.assert_allclose(ours, observations[agent], atol=1e-5)
            mean = np.mean([rewards[agent] for agent in theirs.agents])
            np.testing.assert_allclose(outcome.reward[n], mean, rtol=1e-5)
        # Nothing but the limit ends it, and everybody is alive then.
        assert np.all(outcome.truncated == (t == 24))
        assert not np.any(outcome.terminated)
        assert np.all(view.alive)
    np.testing.assert_array_equal(view.state[1], np.asarray(view.observations[:, 1]).ravel())


def test_unlike_agents_are_padded():
    """A speaker of 3 words that observes 3 numbers, a listener of 5 moves that observes 11."""
    env = JaxMarl("MPE_simple_speaker_listener_v4", limit=7)
    assert (env.spec.observation_size, env.spec.num_actions) == (11, 5)
    assert env.spec.name == "jaxmarl/MPE_simple_speaker_listener_v4?limit=7"
    view = compiled(env).observe(compiled(env).reset(KEY, 2))
    speaker = int(np.argmin(np.asarray(view.legal).sum(axis=(1, 2))))
    assert np.asarray(view.legal[speaker, 0]).tolist() == [True, True, True, False, False]
    assert np.all(view.legal[1 - speaker])
    assert not np.any(view.observations[speaker, :, 3:])
    assert np.any(view.observations[1 - speaker, :, 3:])


def test_its_legal_actions_deaths_and_ends_are_taken_over():
    """SMAX itself: only enemies in range can be attacked, units die, a lost battle terminates."""
    env = JaxMarl("HeuristicEnemySMAX")
    battles, (reset, step, observe) = 8, compiled(env)
    state = reset(KEY, battles)
    assert not np.any(observe(state).legal[..., 5:])
    alive = np.ones((env.spec.num_agents, battles), bool)
    ended, attackable = np.zeros(battles, bool), False
    east = jnp.full((env.spec.num_agents, battles), 1)  # into the enemy
    for t in range(60):
        state, outcome = step(jax.random.fold_in(KEY, t), state, east)
        view = observe(state)
        still_alive = np.asarray(view.alive)
        assert not np.any(still_alive & ~alive)
        alive, ended = still_alive, ended | np.asarray(outcome.terminated)
        attackable |= bool(np.any(view.legal[..., 5:]))
        assert not np.any(outcome.truncated)
    assert attackable
    assert not np.all(alive)
    assert np.any(ended)


@pytest.mark.parametrize("limit", [10, 50])
def test_a_limit_of_ones_own(limit):
    """Below and above JaxMARL's 25: the limit truncates, and nobody dies of it."""
    env = make(f"jaxmarl/MPE_simple_spread_v3?limit={limit}")
    assert env.spec.episode_limit == limit
    reset, step, observe = compiled(env)
    state = reset(KEY, 2)
    for t in range(limit):
        state, outcome = step(jax.random.fold_in(KEY, t), state, jnp.zeros((3, 2), jnp.int32))
        assert np.all(outcome.truncated == (t == limit - 1))
        assert not np.any(outcome.terminated)
        assert np.all(observe(state).alive)
    assert not env.spec.wins


def test_jaxmarls_own_arguments():
    env = make("jaxmarl/MPE_simple_spread_v3?rewards=individual&num_agents=2&num_landmarks=2")
    assert env.spec.num_agents == 2
    again = make(env.spec.name)
    assert again.spec == env.spec
    shape = jax.eval_shape(
        lambda key: env.step(key, env.reset(key, 3), jnp.zeros((2, 3), jnp.int32)), KEY
    )[1].reward.shape
    assert shape == (2, 3)
    assert env.spec.own_rewards and not make("jaxmarl/MPE_simple_spread_v3").spec.own_rewards
    assert make("jaxmarl/HeuristicEnemySMAX?scenario=2s3z").spec.num_agents == 5
    name = "jaxmarl/MPE_simple_tag_v3?competitive=true"
    assert make(name).spec.name == name


@pytest.mark.learning
def test_battles_are_won_when_the_enemies_are_dead():
    env = JaxMarl("HeuristicEnemySMAX", limit=40)
    assert env.spec.wins
    start = compiled(env).reset(KEY, 4)
    stop = jnp.full((5, 4), 4)
    # Battles: as it began; no enemy left; nobody left; no enemy left as the limit is reached.
    dead = np.zeros((10, 4), bool)
    dead[5:, [1, 2, 3]] = True
    dead[:5, 2] = True
    inner = start.env.state
    inner = inner.replace(
        unit_alive=inner.unit_alive & ~dead, unit_health=jnp.where(dead, 0.0, inner.unit_health)
    )
    state = start._replace(env=start.env.replace(state=inner), time=jnp.array([0, 0, 0, 39]))
    _, outcome = compiled(env).step(KEY, state, stop)
    assert outcome.won.tolist() == [False, True, False, True]
    assert outcome.terminated.tolist() == [False, True, True, True]
    assert not np.any(outcome.truncated)


@pytest.mark.learning  # for its time
def test_who_lives_at_a_battle_s_limit_is_read_from_its_state():
    """A battle that is lost with the limit's last step terminates, and nobody lives then."""
    env = make("jaxmarl/HeuristicEnemySMAX?scenario=5m_vs_6m&limit=22")
    battles, (reset, step, observe) = 256, compiled(env)
    state, ends = reset(KEY, battles), []
    for t in range(22):
        draw = jax.random.uniform(jax.random.fold_in(KEY, 100 + t), observe(state).legal.shape)
        actions = jnp.argmax(draw * observe(state).legal, axis=-1)
        before = state.alive
        state, outcome = step(jax.random.fold_in(KEY, t), state, actions)
        lives = np.asarray(state.env.state.unit_alive[:5] & before)
        over, cut = np.asarray(outcome.terminated), np.asarray(outcome.truncated)
        np.testing.assert_array_equal(np.asarray(state.alive)[:, ~over], lives[:, ~over])
        lost = ~lives.any(axis=0)
        assert np.all(over[lost])
        assert not np.any(cut[lost])
        ends.append((cut.any(), (over & lost).any()))
    assert all(ends[-1])  # with the limit's step, some are cut and some are lost


def test_the_riddle_is_won_by_telling_when_all_have_been_there():
    env = JaxMarl("switch_riddle")
    assert env.spec.wins
    state = compiled(env).reset(KEY, 4)
    # The third prisoner is in the room; the first two have been there, but in the last riddle.
    room = jnp.full(4, 2, state.env.agent_in_room.dtype)
    been = jnp.array([[1, 1, 0], [1, 1, 0], [1, 1, 0], [1, 0, 0]], state.env.has_been.dtype).T
    state = state._replace(env=state.env.replace(agent_in_room=room, has_been=been))
    # Tell, do nothing, only others tell, tell too early.
    actions = jnp.array([[0, 0, 2], [0, 0, 0], [2, 2, 0], [0, 0, 2]]).T
    _, outcome = compiled(env).step(KEY, state, actions)
    assert outcome.won.tolist() == [True, False, False, False]
    assert outcome.terminated.tolist() == [True, False, False, True]
    np.testing.assert_allclose(outcome.reward, [1, 0, 0, -1])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("jaxmarl/switch_riddle?limit=7", "limit = 7: JaxMARL ends its episodes after 6 steps"),
        ("jaxmarl/storm?limit=9&competitive=true", "observations do not go by its agents' names"),
        ("jaxmarl/MPE_simple_spred", "no such environment; known: .*MPE_simple_spread_v3"),
        ("jaxmarl/MPE_simple_spread_v3?walls=safe", "no option 'walls'; known: .*num_agents"),
        ("jaxmarl/MPE_simple_spread_v3?name=x", "no option 'name'; known: .*num_agents"),
        ("jaxmarl/MPE_simple_spread_v3?self=2", "cannot make it: TypeError: .*'self'"),
        ("jaxmarl/MPE_simple_spread_v3?rewards=mine", "rewards must be 'shared' or 'individual'"),
        ("jaxmarl/HeuristicEnemySMAX?scenario=9z", "cannot make it: KeyError: '9z'"),
        ("jaxmarl/MPE_simple_tag_v3", "play against each other; .* add competitive=true"),
        ("jaxmarl/MPE_simple_facmac_3a_v1", "not discrete"),
    ],
)
def test_bad_names(name, message):
    with pytest.raises(InputError, match=message):
        make(name)


def test_without_jaxmarl(monkeypatch):
    monkeypatch.setitem(sys.modules, "jaxmarl", None)
    with pytest.raises(InputError, match=r"pip install 'dm2\[jaxmarl\]'"):
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
