"""RMAPPO: what is shared, what the critic sees, what counts, and whole runs."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dm2
from conftest import SMALL
from dm2 import PPO, RMAPPO, Config
from dm2.agent.types import View
from dm2.errors import InputError
from dm2.methods.centralised.rmappo import SharedTeam
from dm2.rollout import begin, collect
from dm2.rollout.stepping import view_of
from dm2.run.programs import programs_for
from toy_env import ToyEnv

# Agents, environments, steps, features of observation and state, actions of the toy environment.
K, N, T, O, S, A = 3, 4, 12, 4, 3, 3  # noqa: E741
GAMMA, LAMBDA = 0.9, 0.8
TINY = PPO(hidden=8, epochs=2, minibatches=3, head_gain=1.0, discount=GAMMA, gae_lambda=LAMBDA)
SETTINGS = RMAPPO(TINY, observations="running", states="running", last_action=True)


def team_of(settings: RMAPPO) -> SharedTeam:
    team = settings.build(ToyEnv.spec, N)
    assert isinstance(team, SharedTeam)
    return team


def fresh(team: SharedTeam):
    return jax.jit(team.init)(jax.random.PRNGKey(0))


@pytest.fixture(scope="module")
def instant():
    """One instant of the middle of episodes: every number of the views and memories random."""
    rng = np.random.default_rng(0)

    def real(*shape: int) -> jax.Array:
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    legal = rng.random((K, N, A)) < 0.7
    legal[..., 0] = True
    view = View(
        observations=real(K, N, O),
        legal=jnp.asarray(legal),
        alive=jnp.ones((K, N), bool).at[1, 2].set(False),
        starts=jnp.zeros((K, N), bool).at[:, 3].set(True),
    )
    team = team_of(SETTINGS)
    memory = team.memory(N)
    memory = memory._replace(
        actor=real(K, N, 8),
        critic=real(K, N, 8),
        value=real(K, N),
        action=jnp.asarray(rng.integers(A, size=(K, N)), jnp.int32),
    )
    return memory, jax.random.split(jax.random.PRNGKey(1), K), view, real(N, S)


@pytest.fixture(scope="module")
def acted():
    """`act` of a team that samples, compiled once for each kind of critic, and its state."""
    made = {}
    for critic in ("state", "agent-state"):
        team = team_of(dataclasses.replace(SETTINGS, critic=critic))
        act = jax.jit(team.act, static_argnames="greedy")
        made[critic] = fresh(team), act
    return made


# ---- acting


@pytest.mark.parametrize("critic", ["state", "agent-state"])
def test_the_critic_sees_the_state_and_the_actor_does_not(acted, instant, critic):
    team, act = acted[critic]
    memory, keys, view, state = instant
    after, actions, extras = act(team, memory, keys, view, greedy=False, global_state=state)
    other = act(team, memory, keys, view, greedy=False, global_state=state + 1.0)
    np.testing.assert_array_equal(actions, other[1])
    np.testing.assert_array_equal(after.actor, other[0].actor)
    np.testing.assert_array_equal(extras.log_probs, other[2].log_probs)
    alive = np.asarray(view.alive)
    assert np.all((np.asarray(extras.values) != other[2].values) == alive)
    # A dead agent's value is the last one while it lived.
    assert extras.values[1, 2] == memory.value[1, 2]


@pytest.mark.parametrize("critic", ["state", "agent-state"])
@pytest.mark.parametrize("j", range(K))
def test_an_observation_reaches_its_own_agent_alone(acted, instant, critic, j):
    team, act = acted[critic]
    memory, keys, view, state = instant
    changed = view._replace(observations=view.observations.at[j].add(1.0))
    one = act(team, memory, keys, view, greedy=False, global_state=state)
    two = act(team, memory, keys, changed, greedy=False, global_state=state)
    own = np.arange(K) == j
    moved = np.any(np.asarray(one[2].log_probs != two[2].log_probs), axis=1)
    np.testing.assert_array_equal(moved, own)
    assert np.all(np.asarray(one[1])[~own] == np.asarray(two[1])[~own])
    moved = np.any(np.asarray(one[2].values != two[2].values), axis=1)
    np.testing.assert_array_equal(moved, own & (critic == "agent-state"))


@pytest.mark.parametrize("j", range(K))
def test_an_agent_draws_from_its_own_key(acted, instant, j):
    team, act = acted["state"]
    memory, keys, view, state = instant
    view = view._replace(legal=jnp.ones((K, N, A), bool))
    draws = [
        np.asarray(act(team, memory, keys.at[j].add(i), view, greedy=False, global_state=state)[1])
        for i in range(8)
    ]
    moved = np.any(np.stack(draws) != draws[0], axis=(0, 2))
    np.testing.assert_array_equal(moved, np.arange(K) == j)
    team = team_of(SETTINGS)
    own = np.asarray(team.action_keys(fresh(team), 5)).reshape(-1, 2)
    assert len(np.unique(own, axis=0)) == 5 * K


def test_without_a_state_the_team_plays_alike_and_the_critic_rests(acted, instant):
    team, act = acted["state"]
    memory, keys, view, state = instant
    for greedy in (False, True):
        with_state = act(team, memory, keys, view, greedy=greedy, global_state=state)
        after, actions, extras = act(team, memory, keys, view, greedy=greedy)
        np.testing.assert_array_equal(actions, with_state[1])
        np.testing.assert_array_equal(after.actor, with_state[0].actor)
        np.testing.assert_array_equal(after.action, actions)
        np.testing.assert_array_equal(after.critic, memory.critic)
        assert extras is None
    with pytest.raises(InputError, match="global_state = None"):
        team_of(SETTINGS).bootstrap(team, memory, view)


def test_agents_share_parameters_and_differ_by_their_numbers(acted, instant):
    """Agents change places, and the weights of their numbers with them: so do the results."""
    team, act = acted["agent-state"]
    memory, keys, view, state = instant
    order = np.array([2, 0, 1])

    def renumbered(params):
        dense = params["params"]["dense_0"]
        moved = {
            name: dense[name].at[-K:].set(dense[name][-K:][order])
            for name in ("kernel", "scale", "shift")
        }
        return {"params": {**params["params"], "dense_0": {**dense, **moved}}}

    agent = team.agent
    agent = agent._replace(actor=renumbered(agent.actor), critic=renumbered(agent.critic))
    after, actions, extras = act(team, memory, keys, view, greedy=False, global_state=state)
    places = jax.tree.map(lambda x: x[order], (memory, keys, view))
    _, moved, others = act(team._replace(agent=agent), *places, greedy=False, global_state=state)
    np.testing.assert_array_equal(moved, actions[order])
    np.testing.assert_allclose(others.values, extras.values[order], rtol=1e-5)
    np.testing.assert_allclose(others.log_probs, extras.log_probs[order], rtol=1e-5)
    # Where the numbers keep their weights, agents of the same view differ.
    unmoved, _, _ = act(team, *places, greedy=False, global_state=state)
    apart = np.abs(np.asarray(unmoved.actor - after.actor[order]))
    assert np.all(apart.max(axis=2) > 1e-3)


@pytest.mark.parametrize("scale", ["none", "layer", "running", "both"])
@pytest.mark.parametrize("critic", ["state", "agent-state"])
def test_what_the_critic_takes(instant, critic, scale):
    team = team_of(RMAPPO(TINY, critic=critic, states=scale, observations="none"))
    memory, keys, view, state = instant
    shared = fresh(team)
    if shared.state_moments is not None:
        moments = shared.state_moments
        shared = shared._replace(
            state_moments=moments._replace(mean=jnp.full(S, 2.0), variance=jnp.full(S, 4.0))
        )
    memory = memory._replace(action=None)
    extras = team.act(shared, memory, keys, view, greedy=True, global_state=state)[2]
    assert extras is not None
    expected = np.asarray(state, np.float64)
    if scale in ("running", "both"):
        expected = (expected - 2.0) / 2.0
    if scale in ("layer", "both"):
        expected -= expected.mean(1, keepdims=True)
        expected /= np.sqrt((expected**2).mean(1, keepdims=True) + 1e-6)
    for k in range(K):
        own = [np.asarray(view.observations[k])] if critic == "agent-state" else []
        row = np.concatenate([expected, *own, np.tile(np.eye(K)[k], (N, 1))], axis=1)
        np.testing.assert_allclose(extras.critic_inputs[k], row, rtol=1e-5, atol=1e-6)


# ---- learning


@pytest.fixture(scope="module")
def played():
    """A team, a rollout of it in the toy environment, where agents die, and what `_prepare` makes
    of it."""
    team, env = team_of(SETTINGS), ToyEnv()
    state = fresh(team)
    started = begin(env, team, jax.random.PRNGKey(2), N)

    @jax.jit
    def play(state, started):
        return collect(env, team, state, started, jax.random.PRNGKey(3), T)

    _, trajectory, _ = play(state, started)
    assert not np.all(trajectory.alive)
    return team, state, trajectory


def returns_by_hand(trajectory) -> np.ndarray:
    """The lambda-return, backwards: `G = r + gamma ((1 - lambda) V' + lambda G')`; lambda is 1
    where the agent is dead after the step. `[K, T, N]`."""
    t = jax.tree.map(lambda x: np.asarray(x, np.float64), trajectory)
    result = np.zeros((K, T, N))
    for k, n in np.ndindex(K, N):
        for step in reversed(range(T)):
            reward, cut = t.rewards[k, step, n], t.bootstrap[k, step, n]
            if t.terminated[k, step, n]:
                value = 0.0
            elif t.ended[k, step, n] or step == T - 1:
                value = cut
            else:
                share = LAMBDA if t.next_alive[k, step, n] else 1.0
                following = t.extras.values[k, step + 1, n]
                value = (1 - share) * following + share * result[k, step + 1, n]
            result[k, step, n] = reward + GAMMA * value
    return result


def test_targets_are_those_of_a_loop(played):
    team, state, trajectory = played
    after, of_actor, of_critic = team.prepare(state, trajectory)
    alive = np.asarray(trajectory.alive)
    returns = returns_by_hand(trajectory)
    advantages = returns - np.asarray(trajectory.extras.values)

    def standard(x):
        return (x - x[alive].mean()) / x[alive].std()

    def by_agent(joint):
        return np.asarray(joint).reshape(T, K, N).swapaxes(0, 1)

    targets, packing = of_critic[3], of_critic[4]
    np.testing.assert_allclose(by_agent(targets)[alive], standard(returns)[alive], atol=1e-3)
    found = by_agent(of_actor[3].advantages)
    np.testing.assert_allclose(found[alive], standard(advantages)[alive], atol=1e-3)
    assert np.all(found[~alive] == 0.0)
    # Moments: of observations while alive, and of the state at every step of the toy, where
    # somebody lives till the end.
    observations, states = trajectory.extras.observations, trajectory.extras.states
    seen = np.asarray(observations)[alive]
    np.testing.assert_allclose(after.agent.moments.mean, seen.mean(0), rtol=1e-5)
    assert after.agent.moments.steps == alive.sum()
    somebody = alive.any(0)
    np.testing.assert_allclose(
        after.state_moments.mean, np.asarray(states)[0][somebody].mean(0), rtol=1e-5
    )
    assert after.state_moments.steps == somebody.sum()
    # Each epoch deals all agents' environments to three minibatches.
    dealt = np.asarray(packing.environments).reshape(2, -1)
    np.testing.assert_array_equal(np.sort(dealt), np.tile(np.arange(K * N), (2, 1)))


def test_the_bootstrap_is_the_critics_and_a_dead_agents_value_is_held(played):
    team, state, trajectory = played
    alive, values = np.asarray(trajectory.alive), np.asarray(trajectory.extras.values)
    dead = ~alive[:, 1:]
    np.testing.assert_array_equal(values[:, 1:][dead], values[:, :-1][dead])
    cut = np.asarray(trajectory.ended & ~trajectory.terminated)
    gone = cut & ~np.asarray(trajectory.next_alive)
    assert gone.any()
    np.testing.assert_array_equal(np.asarray(trajectory.bootstrap)[gone], values[gone])
    # At an episode's first step nothing is remembered, so the values can be worked out afresh.
    view = ToyEnv(5).observe(ToyEnv(5).reset(jax.random.PRNGKey(0), N))
    own = view_of(view, jnp.ones(N, bool))
    extras = team.act(
        state, team.memory(N), jnp.zeros((K, 2), jnp.uint32), own, False, global_state=view.state
    )[2]
    again = team.bootstrap(state, team.memory(N), own, global_state=view.state)
    assert extras is not None
    np.testing.assert_array_equal(again, extras.values)


def changed_rows(trajectory, mask):
    """The rollout, all but values and what the environment says changed where `mask` holds."""

    def change(x):
        where = mask.reshape(*mask.shape, *(1,) * (x.ndim - 3))
        return jnp.where(where, (x ^ 1) % 2 if x.dtype == jnp.int32 else 1.5 * x + 0.25, x)

    extras = trajectory.extras
    extras = extras._replace(
        log_probs=change(extras.log_probs),
        inputs=change(extras.inputs),
        critic_inputs=change(extras.critic_inputs),
        observations=change(extras.observations),
    )
    return trajectory._replace(extras=extras, actions=change(trajectory.actions))


def same_bits(a, b) -> bool:
    return all(
        np.asarray(x).tobytes() == np.asarray(y).tobytes()
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


def test_steps_of_the_dead_count_nowhere_and_all_others_do(played):
    team, state, trajectory = played
    learnt, metrics = team.learn(state, trajectory, None)
    assert all(x.shape == (1,) for x in metrics.values())
    again, reported = team.learn(state, changed_rows(trajectory, ~trajectory.alive), None)
    assert same_bits((learnt, metrics), (again, reported))
    for k in range(K):
        mine = trajectory.alive & (np.arange(K) == k)[:, None, None]
        other, _ = team.learn(state, changed_rows(trajectory, mine), None)
        assert not same_bits(learnt.agent.actor, other.agent.actor)
        assert not same_bits(learnt.agent.critic, other.agent.critic)


# ---- settings and runs


def test_minibatches_divide_agents_times_environments():
    nine = RMAPPO(PPO(minibatches=9))
    nine.build(ToyEnv.spec, 3)
    with pytest.raises(InputError, match="minibatches = 9: must divide num_envs = 4 x 3 agents"):
        nine.build(ToyEnv.spec, 4)
    with pytest.raises(InputError, match="critic = 'central': must be one of state, agent-state"):
        RMAPPO.from_dict({"critic": "central"})
    one = dataclasses.replace(ToyEnv.spec, state_size=1)
    with pytest.raises(InputError, match="states = 'both': leaves nothing of the 1 numbers"):
        RMAPPO(states="both").build(one, 4)


@pytest.mark.parametrize("critic", ["state", "agent-state"])
def test_costs_are_those_of_both_networks(critic):
    """By hand, `H` units, `I` inputs: `2 (I H + H H + 6 H H + H D)` forward, three times that with
    the way back, but for the inputs' gradient."""
    settings = RMAPPO(PPO(hidden=8, epochs=2), critic=critic)
    central = S + K + (O if critic == "agent-state" else 0)
    actor = 3 * 2 * ((O + K) * 8 + 7 * 64 + 8 * A) - 2 * (O + K) * 8
    value = 3 * 2 * (central * 8 + 7 * 64 + 8) - 2 * central * 8
    assert settings.update_flops(ToyEnv.spec, 10) == 10 * K * 2 * (actor + value)
    assert settings.update_bytes(ToyEnv.spec, 10, 2) > 0


CONFIG = Config(
    RMAPPO(PPO(hidden=8, epochs=1, minibatches=3), critic="agent-state", states="both"),
    "smax/3m?limit=12",
    steps=512,
    **SMALL,
)


@pytest.mark.learning
def test_a_run_compiles_nothing_twice(tmp_path):
    dm2.train(CONFIG, tmp_path / "run", quiet=True)
    programs = programs_for(CONFIG.program)
    team = programs.method
    assert isinstance(team, SharedTeam)
    compiled: list[Any] = [programs.collect, programs.evaluate, team.prepare]
    compiled += [team.improve_actor, team.improve_critic]
    assert [program._cache_size() for program in compiled] == [1] * 5
