"""Stepping environments with a team, on an environment whose numbers are known by hand."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dm2.agent.learner import Learner
from dm2.agent.returns import next_values
from dm2.agent.settings import PPO, Imitation
from dm2.agent.state import Memory
from dm2.agent.types import View
from dm2.methods import DM2, MAGAIL, RMAPPO
from dm2.methods.independent import Independent
from dm2.rollout import begin, collect, play
from dm2.rollout.stepping import random_legal
from toy_env import (
    CODES,
    DEATH,
    LENGTH,
    LIMIT,
    NAMES,
    WON,
    ToyEnv,
    random_agents,
)

# Agents, environments, steps of one rollout, hidden units, episodes of `play`.
K, N, T, H, E = 3, 4, 5, 8, 8
ENV = ToyEnv()
# An imitating one, whose trajectory keeps observations as they came, too.
LEARNER = Learner(PPO(hidden=H), Imitation(), 4, 3)
TEAM = Independent(LEARNER, K)
AGENTS = random_agents(TEAM, 0)


def host(tree: Any) -> Any:
    return jax.tree.map(np.asarray, tree)


def same_bits(a: Any, b: Any) -> bool:
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.asarray(x).tobytes() == np.asarray(y).tobytes() for x, y in pairs)


# ---- what the environment means, written once more in plain Python


def dead(name: int, time: int, k: int) -> bool:
    return time >= DEATH[name % 3][k]


def code_of(name: int, time: int, actions: np.ndarray) -> int:
    """`a0 + 3 a1 + 9 a2` over the living."""
    return sum(3**k * int(actions[k]) for k in range(K) if not dead(name, time, k))


def legal_at(name: int, time: int, k: int) -> list[bool]:
    if dead(name, time, k):
        return [True, False, False]
    return [action != (k + time) % 3 for action in range(3)]


def observation(k: int, time: int, name: int, code: int) -> list[float]:
    return [k, time, name / NAMES, code / CODES]


def code_after(rollouts: Any, row: Any) -> int:
    return code_of(row.name, row.time, rollouts.rows.actions[:, row.t, row.n])


# ---- collecting


@functools.cache
def compiled_collect() -> Any:
    return jax.jit(lambda agents, state, key: collect(ENV, TEAM, agents, state, key, T))


FOLLOWING = functools.partial(next_values, paid_after_death=True)


class Rows(NamedTuple):
    """Trajectories along one time axis, `[K, 2T, N, ...]`, all fields side by side."""

    legal: Any
    alive: Any
    starts: Any
    actions: Any
    rewards: Any
    next_alive: Any
    terminated: Any
    ended: Any
    time_left: Any
    log_probs: Any
    values: Any
    inputs: Any
    observations: Any
    next_values: Any

    @classmethod
    def of(cls, *trajectories: Any) -> "Rows":
        """Of rollouts one after the other."""
        parts = []
        for one in trajectories:
            fields = {**one._asdict(), **one.extras._asdict()}
            fields["next_values"] = jax.vmap(FOLLOWING)(one)
            parts.append({name: np.asarray(fields[name]) for name in cls._fields})
        return cls(*(np.concatenate([p[n] for p in parts], axis=1) for n in cls._fields))


class Collected(NamedTuple):
    """Two rollouts of `T` steps, one after the other."""

    first: Any
    middle: Any
    end: Any
    rows: Any
    """Both trajectories along one time axis, `[K, 2T, N, ...]`."""
    episodes: tuple


@pytest.fixture(scope="module")
def rollouts() -> Collected:
    keys = jax.random.split(jax.random.PRNGKey(6), 3)
    fresh = begin(ENV, TEAM, keys[0], N)
    middle, first, ended = compiled_collect()(AGENTS, fresh, keys[1])
    end, second, ended_later = compiled_collect()(AGENTS, middle, keys[2])
    assert same_bits(first.memory, fresh.memory)
    assert same_bits(second.memory, middle.memory)
    rows = Rows.of(host(first), host(second))
    return Collected(fresh, middle, end, rows, (host(ended), host(ended_later)))


class Row(NamedTuple):
    """Which step of which episode a row of a trajectory is, read from agent 0's observation."""

    t: int
    n: int
    time: int
    name: int

    @property
    def fate(self) -> int:
        return self.name % 3

    @property
    def last(self) -> bool:
        return self.time + 1 == LENGTH[self.fate]


@pytest.fixture(scope="module")
def places(rollouts) -> list[Row]:
    seen = rollouts.rows.observations[0]
    return [
        Row(t, n, int(seen[t, n, 1]), int(seen[t, n, 2] * NAMES))
        for t in range(2 * T)
        for n in range(N)
    ]


def test_the_sample_has_every_kind_of_step(places):
    lasts = [row for row in places if row.last]
    assert {row.fate for row in lasts} == {0, 1, 2}
    for end in (T - 1, 2 * T - 1):
        cut = [row for row in places if row.t == end and not row.last]
        assert any(dead(row.name, row.time, k) for row in cut for k in (1, 2))
        assert any(row.last for row in places if row.t == end)
    assert any(row.t > 0 and row.time == 0 for row in places)


def test_a_row_pairs_observation_action_and_the_reward_that_follows(rollouts, places):
    rows = rollouts.rows
    for t, n, time, name in places:
        code = code_of(name, time, rows.actions[:, t, n])
        assert (rows.rewards[:, t, n] == 27 * time + code).all()
        for k in range(K):
            assert rows.observations[k, t, n, :3].tolist() == observation(k, time, name, 0)[:3]
            assert rows.legal[k, t, n].tolist() == legal_at(name, time, k)


def test_rows_follow_one_another(rollouts, places):
    rows = rollouts.rows
    for row in places:
        t, n, time, name = row
        if t + 1 == 2 * T:
            continue
        code = code_of(name, time, rows.actions[:, t, n])
        for k in range(K):
            following = rows.observations[k, t + 1, n].tolist()
            if row.last:
                new_name = int(following[2] * NAMES)
                assert following == observation(k, 0, new_name, 0)
            else:
                assert following == observation(k, time + 1, name, code)


def test_episodes_after_a_reset_are_new_ones(rollouts, places):
    names = {(row.n, row.name) for row in places}
    beginnings = [row for row in places if row.time == 0]
    assert len(names) == len(beginnings) > N
    drawn_together = {row.name for row in beginnings if row.t == 0}
    assert len(drawn_together) == N


def test_flags_of_a_row(rollouts, places):
    rows = rollouts.rows
    for row in places:
        t, n, time, name = row
        cut_short = row.last and row.fate != 2
        for k in range(K):
            at = (k, t, n)
            assert rows.starts[at] == (time == 0)
            assert rows.ended[at] == row.last
            assert rows.terminated[at] == cut_short
            assert rows.time_left[at] == LIMIT - time - 1
            assert rows.alive[at] != dead(name, time, k)
            assert rows.next_alive[at] != dead(name, time + 1, k)


def test_illegal_actions_are_never_chosen(rollouts):
    rows = rollouts.rows
    chosen = np.take_along_axis(rows.legal, rows.actions[..., None], axis=-1)
    assert chosen.all()
    assert (rows.actions[~rows.alive] == 0).all()
    for k in range(K):
        assert set(rows.actions[k][rows.alive[k]]) == {0, 1, 2}


def test_random_actions_are_legal_and_each_as_likely():
    legal = np.array([[0, 1, 0, 1, 1], [0, 0, 0, 0, 1], [1, 1, 1, 1, 1]], bool)
    rows = 3000
    drawn = random_legal(jax.random.PRNGKey(3), jnp.asarray(np.tile(legal, (rows, 1, 1))))
    counts = np.stack([np.sum(np.asarray(drawn) == action, axis=0) for action in range(5)], axis=1)
    share = legal / legal.sum(axis=1, keepdims=True)
    # within 5 standard deviations of binomial counts
    assert np.all(np.abs(counts - rows * share) <= 5 * np.sqrt(rows * share * (1 - share)))


def test_networks_take_normalised_observations(rollouts):
    seen = rollouts.rows.observations
    centred = seen - seen.mean(-1, keepdims=True)
    expected = centred / np.sqrt(centred.var(-1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(rollouts.rows.inputs, expected, atol=1e-5)


def test_observations_as_they_came_are_kept_for_imitators_only(rollouts):
    team = Independent(Learner(PPO(hidden=H), None, 4, 3), K)
    play_on = jax.jit(lambda agents, state, key: collect(ENV, team, agents, state, key, T))
    agents = AGENTS._replace(discriminator=None)
    state, rows, _ = play_on(agents, rollouts.first, jax.random.split(jax.random.PRNGKey(6), 3)[1])
    assert rows.extras.observations is None
    assert same_bits(state, rollouts.middle)
    assert same_bits(rows.extras.inputs, rollouts.rows.inputs[:, :T])


def test_collected_shapes(rollouts):
    for leaf in jax.tree.leaves(rollouts.rows):
        assert leaf.shape[:3] == (K, 2 * T, N)
    for field in ("rewards", "terminated", "ended", "time_left"):
        shared = getattr(rollouts.rows, field)
        assert (shared == shared[0]).all(), field


# ---- memory and values


class Thoughts(NamedTuple):
    """What the team makes of an episode on its own; `[K, L, ...]`."""

    values: np.ndarray
    logits: np.ndarray


@functools.cache
def think() -> Any:
    def one_step(memory, observations):
        # Nothing is ever flagged as a start here: the memory is blank because it is new.
        no, yes = jnp.zeros((K, 1), bool), jnp.ones((K, 1), bool)
        view = View(observations, jnp.ones((K, 1, 3), bool), yes, no)
        actor, logits = jax.vmap(LEARNER.policy)(AGENTS, memory, view)
        critic, value = jax.vmap(LEARNER.value)(AGENTS, memory, view)
        return Memory(actor, critic, value), logits[:, 0]

    return jax.jit(one_step)


def think_through(observations: np.ndarray) -> Thoughts:
    """A team that begins with these observations `[K, L, O]`, step by step."""
    memory, values, logits = TEAM.memory(1), [], []
    for now in np.moveaxis(observations, 1, 0):
        memory, outputs = think()(memory, now[:, None])
        values.append(np.asarray(memory.value[:, 0]))
        logits.append(np.asarray(outputs))
    return Thoughts(np.stack(values, 1), np.stack(logits, 1))


class Episode(NamedTuple):
    """A run of rows of environment `n` that one episode fills, and what may follow them."""

    n: int
    times: slice
    name: int
    last: Row
    thoughts: Thoughts
    """One step longer than the rows: also of the observation that the last one led to."""


@pytest.fixture(scope="module")
def episodes(rollouts, places) -> list[Episode]:
    rows, found = rollouts.rows, []
    for opening in (row for row in places if row.time == 0):
        mine = [row for row in places if row.n == opening.n and row.t >= opening.t]
        mine = mine[: LENGTH[opening.fate]]
        n, last = opening.n, mine[-1]
        times = slice(opening.t, last.t + 1)
        code = code_of(last.name, last.time, rows.actions[:, last.t, n])
        arrived = [[observation(k, last.time + 1, last.name, code)] for k in range(K)]
        seen = np.concatenate(
            [rows.observations[:, times, n], np.asarray(arrived, np.float32)], axis=1
        )
        found.append(Episode(n, times, last.name, last, think_through(seen)))
    return found


def log_softmax(logits: np.ndarray) -> np.ndarray:
    largest = logits.max(-1, keepdims=True)
    return logits - largest - np.log(np.exp(logits - largest).sum(-1, keepdims=True))


def test_agents_remember_their_episode_and_nothing_before_it(rollouts, episodes):
    rows = rollouts.rows
    assert any(e.times.start > 0 for e in episodes)
    assert any(e.times.start < T < e.times.stop for e in episodes)
    for n, times, _, _, thoughts in episodes:
        logits = np.where(rows.legal[:, times, n], thoughts.logits[:, :-1], -1e9)
        actions = rows.actions[:, times, n, None]
        log_probs = np.take_along_axis(log_softmax(logits), actions, axis=-1)[..., 0]
        np.testing.assert_allclose(rows.log_probs[:, times, n], log_probs, atol=1e-5)
        alive, values = rows.alive[:, times, n], rows.values[:, times, n]
        np.testing.assert_allclose(values[alive], thoughts.values[:, :-1][alive], atol=1e-5)


def test_memory_matters(episodes):
    """The last test could not fail if the networks ignored their memory."""
    longest = max(episodes, key=lambda e: e.times.stop - e.times.start)
    _, _, name, last, thoughts = longest
    final = [[observation(k, last.time, name, 0)] for k in range(K)]
    forgetful = think_through(np.asarray(final, np.float32))
    assert np.abs(forgetful.values[:, 0] - thoughts.values[:, -2]).min() > 1e-3


def test_a_dead_agents_value_is_its_last_while_alive(rollouts, places):
    values, alive = rollouts.rows.values, rollouts.rows.alive
    carried = 0
    for row in places:
        for k in range(K):
            if row.t > 0 and not alive[k, row.t, row.n]:
                carried += 1
                assert values[k, row.t, row.n] == values[k, row.t - 1, row.n]
    assert carried > 5
    assert not alive[:, T].all()  # across the seam of the two rollouts, too


def test_next_value_within_an_episode_is_the_next_rows_value(rollouts, places):
    rows = rollouts.rows
    inside = [row for row in places if not row.last and row.t not in (T - 1, 2 * T - 1)]
    assert len(inside) > 2 * N
    for t, n, _, _ in inside:
        assert same_bits(rows.next_values[:, t, n], rows.values[:, t + 1, n])


def bootstraps(rows: Any, episode: Episode) -> np.ndarray:
    """The critic's value of what the episode's last row led to; the carried one for the dead."""
    t, n, time, name = episode.last
    gone = np.array([dead(name, time + 1, k) for k in range(K)])
    return np.where(gone, rows.values[:, t, n], episode.thoughts.values[:, -1])


def test_next_value_at_a_time_limit_is_of_the_final_observation(rollouts, episodes):
    rows = rollouts.rows
    cut = [e for e in episodes if e.last.last and e.last.fate == 2]
    assert cut
    for episode in cut:
        t, n, _, name = episode.last
        assert dead(name, LIMIT, 2)
        assert not dead(name, LIMIT, 0)
        expected = bootstraps(rows, episode)
        np.testing.assert_allclose(rows.next_values[:, t, n], expected, atol=1e-5)
        fresh = rows.values[:, t + 1, n] if t + 1 < 2 * T else np.full(K, np.inf)
        assert np.abs(fresh - expected).max() > 1e-3  # not that of the reset one


def test_next_value_at_a_rollouts_end_is_of_the_observation_to_come(rollouts, episodes, places):
    rows = rollouts.rows
    ends = [e for e in episodes if e.last.t == 2 * T - 1 and not e.last.last]
    assert ends
    for episode in ends:
        expected = bootstraps(rows, episode)
        np.testing.assert_allclose(rows.next_values[:, 2 * T - 1, episode.n], expected, atol=1e-5)
    seam = [row for row in places if row.t == T - 1 and not row.last]
    for t, n, _, _ in seam:  # the next rollout goes on from the same memory
        following = rows.values[:, t + 1, n]
        np.testing.assert_allclose(rows.next_values[:, t, n], following, atol=1e-5)


# ---- episodes


def test_statistics_are_of_the_episodes_that_ended_in_the_rollout(rollouts, places):
    rewards = rollouts.rows.rewards[0]
    for half, reported in enumerate(rollouts.episodes):
        ended = [row for row in places if row.last and row.t // T == half]
        whole = [rewards[row.t - row.time : row.t + 1, row.n].sum() for row in ended]
        assert reported.ended == len(ended) > 0
        assert reported.won == sum(WON[row.fate] for row in ended)
        assert reported.length == sum(LENGTH[row.fate] for row in ended)
        assert reported.returns == sum(whole)
    began_before = [row for row in places if row.last and row.t - row.time < T <= row.t]
    assert began_before


def test_what_a_rollout_leaves_for_the_next(rollouts, places):
    episodes = host(rollouts.end.episodes)
    rewards = rollouts.rows.rewards[0]
    for row in places:
        if row.t + 1 < 2 * T:
            continue
        n, time = row.n, 0 if row.last else row.time + 1
        assert episodes.time[n] == episodes.env.time[n] == time
        assert episodes.starts[n] == row.last
        assert episodes.returns[n] == rewards[2 * T - time :, n].sum()
        assert episodes.env.code[n] == (0 if row.last else code_after(rollouts, row))


# ---- who may know what


def test_the_global_state_never_reaches_the_agents(rollouts):
    class Unknown(ToyEnv):
        def observe(self, state):
            view = super().observe(state)
            return view._replace(state=jnp.full_like(view.state, jnp.nan))

    key = jax.random.PRNGKey(5)
    _, expected, _ = compiled_collect()(AGENTS, rollouts.first, key)
    unknowing = jax.jit(lambda agents, state, key: collect(Unknown(), TEAM, agents, state, key, T))
    _, trajectory, _ = unknowing(AGENTS, rollouts.first, key)
    assert same_bits(trajectory, expected)


def test_an_agents_critic_decides_its_own_values_alone(rollouts):
    key = jax.random.PRNGKey(5)
    critic = jax.tree.map(lambda x: x.at[1].add(0.25), AGENTS.critic)
    _, before, _ = compiled_collect()(AGENTS, rollouts.first, key)
    _, after, _ = compiled_collect()(AGENTS._replace(critic=critic), rollouts.first, key)
    before, after = Rows.of(host(before)), Rows.of(host(after))
    for field in Rows._fields:
        old, new = getattr(before, field), getattr(after, field)
        assert same_bits(old[[0, 2]], new[[0, 2]]), field
        assert same_bits(old[1], new[1]) == (field not in ("values", "next_values")), field


class CentralTeam(Independent):
    """A method that declares that its learning is centralised; it keeps the state it is handed."""

    centralised = True

    def act(self, state, memory, keys, view, greedy, global_state: Any = None) -> Any:
        """As `Independent`, and the global state for each agent beside the extras."""
        memory, actions, extras = super().act(state, memory, keys, view, greedy)
        if global_state is None:
            return memory, actions, None
        shared = jnp.broadcast_to(global_state, (K, *global_state.shape))
        return memory, actions, {"own": extras, "global": shared}

    def bootstrap(self, state, memory, view, global_state: Any = None) -> Any:
        """The values, and the state in which they are."""
        values = super().bootstrap(state, memory, view)
        return {
            "values": values,
            "global": jnp.broadcast_to(global_state, (K, *global_state.shape)),
        }


def test_the_global_state_is_collected_for_a_method_that_declares_it(rollouts):
    team, key = CentralTeam(LEARNER, K), jax.random.split(jax.random.PRNGKey(6), 3)[2]
    gather = jax.jit(lambda agents, state, key: collect(ENV, team, agents, state, key, T))
    _, trajectory, _ = gather(AGENTS, rollouts.middle, key)
    later = rollouts.rows.observations[:, T:]
    assert same_bits(trajectory.extras["own"].observations, later)
    # The toy's state is what every agent observes beside its own number.
    assert same_bits(trajectory.extras["global"], later[..., 1:])
    # At a time limit the final state, not that of the next episode.
    cut = np.asarray(trajectory.ended & ~trajectory.terminated)[0]
    assert cut.any()
    final = np.asarray(trajectory.bootstrap["global"])[0][cut]
    assert (final[:, 0] == LIMIT).all()
    # Nobody hands it over to a team that is only played.
    outcome, _ = play(ENV, team, AGENTS, jax.random.PRNGKey(2), 2, greedy=True)
    assert (outcome.length > 0).all()


class Paying(ToyEnv):
    """Pays agent `k` `k + 1` times what the toy pays."""

    def step(self, key, state, actions):
        """As the toy's."""
        state, step = super().step(key, state, actions)
        return state, step._replace(reward=step.reward * jnp.array([[1.0], [2.0], [3.0]]))


@pytest.mark.parametrize(("method", "shares"), [(DM2, False), (MAGAIL, False), (RMAPPO, True)])
def test_only_agents_that_share_it_learn_from_the_mean_of_their_rewards(method, shares):
    ppo, env = PPO(hidden=H, minibatches=2), Paying()
    team = method(ppo).build(env.spec, N)

    @jax.jit
    def gather(key):
        first = begin(env, team, key, N)
        return collect(env, team, team.init(key), first, key, T)[1].rewards

    rewards = np.asarray(gather(jax.random.PRNGKey(0)))
    assert rewards[0].any()
    for k in range(K):
        np.testing.assert_array_equal(rewards[k], rewards[0] * (1 if shares else k + 1))
    # The mean is twice the toy's reward, an integer: 2, 4, 6, ... of which all are even.
    assert np.all(rewards % 2 == 0) == shares


# ---- two short rollouts are one long one


class KeyedTeam(Independent):
    """Draws from one sequence of `2T` keys, from `offset` on."""

    offset: Any = 0

    def action_keys(self, state, steps):
        """The keys that one rollout of `2T` steps would use at these steps."""
        keys = super().action_keys(state, 2 * T)
        return jax.lax.dynamic_slice_in_dim(keys, self.offset, steps, axis=0)


def test_two_short_rollouts_equal_one_long_one():
    """Rollouts split their keys by their length, so here the keys are handed out by `KeyedTeam`
    and every episode has the same name: nothing else depends on where a rollout ends."""
    env = ToyEnv(name=2)

    def roll(state, offset, steps):
        team = KeyedTeam(LEARNER, K)
        team.offset = offset
        return collect(env, team, AGENTS, state, jax.random.PRNGKey(0), steps)

    short = jax.jit(functools.partial(roll, steps=T))
    fresh = begin(env, TEAM, jax.random.PRNGKey(0), N)
    middle, first, ended = short(fresh, 0)
    end, second, ended_later = short(middle, T)
    whole_end, whole, whole_ended = jax.jit(functools.partial(roll, steps=2 * T))(fresh, 0)
    halves, whole = Rows.of(host(first), host(second)), Rows.of(host(whole))
    for field in Rows._fields:
        a, b = getattr(halves, field), getattr(whole, field)
        np.testing.assert_allclose(a, b, atol=1e-5, err_msg=field)
    assert set(np.unique(whole.actions)) == {0, 1, 2}
    assert jax.tree.map(lambda a, b: a + b, host(ended), host(ended_later)) == host(whole_ended)
    assert whole_ended.ended == N  # 10 steps hold one episode of 6
    for a, b in zip(jax.tree.leaves(end), jax.tree.leaves(whole_end), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


# ---- playing whole episodes


class Played(NamedTuple):
    """Results of `play` with one key."""

    greedy: tuple
    sampled: tuple
    unrecorded: tuple


@pytest.fixture(scope="module")
def played() -> Played:
    def thrice(key):
        whole = functools.partial(play, ENV, TEAM, AGENTS, key, E)
        greedy = whole(greedy=True, record=True, record_env=True)
        return Played(greedy, whole(greedy=False, record=True), whole(greedy=True))

    return host(jax.jit(thrice)(jax.random.PRNGKey(2)))


def names_of(recording: Any) -> list[int]:
    return [int(name) for name in recording.observations[0, 0, :, 2] * NAMES]


def check_by_hand(outcome: Any, recording: Any) -> None:
    """Every number of one set of episodes."""
    for n, name in enumerate(names_of(recording)):
        length, total, code = LENGTH[name % 3], 0, 0
        for time in range(length):
            for k in range(K):
                at = (time, k, n)
                assert recording.observations[at].tolist() == observation(k, time, name, code)
                assert recording.legal[at].tolist() == legal_at(name, time, k)
                assert recording.alive[at] != dead(name, time, k)
                assert recording.legal[at][recording.actions[at]]
            code = code_of(name, time, recording.actions[time, :, n])
            total += 27 * time + code
        assert outcome.won[n] == WON[name % 3]
        assert outcome.length[n] == length
        assert outcome.returns[n] == total


def test_playing_is_one_whole_episode_in_each_environment(played):
    for outcome, recording in (played.greedy, played.sampled):
        assert {name % 3 for name in names_of(recording)} == {0, 1, 2}
        assert outcome.won.shape == outcome.length.shape == outcome.returns.shape == (E,)
        assert recording.observations.shape == (LIMIT, K, E, 4)
        assert recording.actions.shape == recording.alive.shape == (LIMIT, K, E)
        check_by_hand(outcome, recording)
        # Somewhere a second episode ended too, and was not counted.
        openings = (recording.observations[:, 0, :, 1] == 0).sum(axis=0)
        assert openings.max() > 2


def test_greedy_takes_the_most_likely_legal_action(played):
    outcome, recording = played.greedy
    for n, length in enumerate(outcome.length):
        rows = (slice(0, length), slice(None), n)
        thoughts = think_through(np.moveaxis(recording.observations[rows], 1, 0))
        legal = np.moveaxis(recording.legal[rows], 1, 0)
        best = np.where(legal, thoughts.logits, -np.inf).argmax(-1)
        assert best.tolist() == recording.actions[rows].T.tolist()


def assert_drawn(actions, chances):
    """Counts of the actions `[K, N]` lie within five standard deviations of the chances
    `[K, A]`."""
    count = actions.shape[1]
    drawn = np.stack([(actions == a).sum(1) for a in range(chances.shape[1])], 1)
    assert np.all(np.abs(drawn - count * chances) <= 5 * np.sqrt(count * chances * (1 - chances)))


def test_actions_are_drawn_as_likely_as_the_policy_says():
    """Where a team is recorded and where it learns."""
    count, env = 4000, ToyEnv(name=2)
    recorded = jax.jit(lambda key: play(env, TEAM, AGENTS, key, count, greedy=False, record=True))
    _, kept = recorded(jax.random.PRNGKey(0))
    facts = (kept.observations[0], kept.legal[0], kept.alive[0])  # of the first step of all
    view, memory = View(*facts, jnp.ones((K, count), bool)), TEAM.memory(count)
    logits = jax.jit(jax.vmap(LEARNER.policy))(AGENTS, memory, view)[1][:, 0]
    weights = np.where(view.legal[:, 0], np.exp(np.asarray(logits, float)), 0.0)
    chances = weights / weights.sum(-1, keepdims=True)
    assert np.abs(chances - np.asarray(view.legal[:, 0]) / 2).max() > 0.2  # far from even
    assert_drawn(np.asarray(kept.actions[0]), chances)
    keys = TEAM.action_keys(AGENTS, 1)[0]
    act = jax.jit(TEAM.act, static_argnames="greedy")
    _, actions, extras = act(AGENTS, memory, keys, view, greedy=False)
    assert_drawn(np.asarray(actions), chances)
    # And what learning is told of it is the same chance.
    told = np.take_along_axis(chances, np.asarray(actions), axis=1)
    np.testing.assert_allclose(np.exp(extras.log_probs), told, rtol=1e-4)


def test_in_a_recording_each_agent_draws_from_its_own_key():
    """The rule that `play` states, followed here by hand for the first two steps."""
    key = jax.random.PRNGKey(2)
    _, act_key, _ = jax.random.split(key, 3)
    keys = [jax.random.fold_in(act_key, k) for k in range(K)]
    recorded = jax.jit(lambda key: play(ENV, TEAM, AGENTS, key, E, greedy=False, record=True))
    (_, recording), act = recorded(key), jax.jit(LEARNER.act, static_argnames="greedy")
    memories = [jax.tree.map(lambda x, k=k: x[k], TEAM.memory(E)) for k in range(K)]
    for time in range(2):
        facts = (recording.observations, recording.legal, recording.alive)
        for k in range(K):
            mine = jax.tree.map(lambda x, k=k: x[k], AGENTS)
            view = View(*(x[time, k] for x in facts), starts=jnp.full(E, time == 0))
            step_key = jax.random.fold_in(keys[k], time)
            memories[k], actions, _ = act(mine, memories[k], step_key, view, greedy=False)
            assert actions.tolist() == recording.actions[time, k].tolist()


def test_sampling_is_not_greedy(played):
    (_, greedy), (_, sampled) = played.greedy, played.sampled
    assert (greedy.observations[0] == sampled.observations[0]).all()
    assert (greedy.actions[0] != sampled.actions[0]).any()


def test_without_recording_the_outcome_is_the_same(played):
    outcome, recording = played.unrecorded
    assert recording is None
    assert same_bits(outcome, played.greedy[0])


def test_recorded_states_are_those_before_any_reset(played):
    outcome, recording = played.greedy
    assert played.sampled[1].env is None
    assert played.sampled[1].first is None
    assert recording.first.name.tolist() == names_of(recording)
    assert (recording.first.time == 0).all()
    for n, name in enumerate(names_of(recording)):
        for time in range(outcome.length[n]):
            state = jax.tree.map(lambda x, at=(time, n): int(x[at]), recording.env)
            assert state == (name, time + 1, code_of(name, time, recording.actions[time, :, n]))
