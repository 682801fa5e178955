"""Episodes that rollouts cut come out whole, once, in order; a ring keeps the newest."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dm2.agent.episodes import Ongoing, hand_over, lengths
from dm2.methods.centralised.replay import Replay, TeamRow

LIMIT, ENVS = 5, 4


class Row(NamedTuple):
    """A step's number, alone and in an array of its own."""

    number: Any
    pair: Any


class Ledger(NamedTuple):
    """Everything that was inserted, in order."""

    rows: Any
    facts: Any
    count: Any


SHAPES = Row(jax.ShapeDtypeStruct((), jnp.int32), jax.ShapeDtypeStruct((2,), jnp.float16))


def insert(ledger: Ledger, episode: Row, length: Any, step: Any, environment: Any) -> Ledger:
    rows = jax.tree.map(lambda x, new: x.at[ledger.count].set(new), ledger.rows, episode)
    facts = ledger.facts.at[ledger.count].set(jnp.stack([length, step, environment]))
    return Ledger(rows, facts, ledger.count + 1)


@jax.jit
def hand(ongoing: Ongoing, rows: Row, starts: Any, ended: Any) -> tuple[Ongoing, Ledger]:
    room = ended.size
    blank = jax.tree.map(lambda x: jnp.zeros((room, LIMIT, *x.shape), x.dtype), SHAPES)
    empty = Ledger(blank, jnp.zeros((room, 3), jnp.int32), jnp.int32(0))
    return hand_over(ongoing, rows, starts, ended, empty, insert)


@pytest.mark.parametrize("seed", range(4))
def test_episodes_across_rollouts_are_those_of_plain_python(seed):
    """Rollouts shorter than an episode, as long, and much longer."""
    rng = np.random.default_rng(seed)
    ongoing = Ongoing.initial(SHAPES, LIMIT, ENVS)
    running: list[list[int]] = [[] for _ in range(ENVS)]
    number = 0
    for steps in (2, 1, 5, 13, 3, 13, 1, 1, 2):
        numbers = number + 1 + np.arange(steps * ENVS).reshape(steps, ENVS)
        number = numbers.max()
        starts, ended = np.zeros((2, steps, ENVS), bool)
        expected, expected_lengths = [], np.zeros((steps, ENVS), int)
        for t in range(steps):
            for n in range(ENVS):
                starts[t, n] = not running[n]
                running[n].append(int(numbers[t, n]))
                expected_lengths[t, n] = len(running[n])
                ended[t, n] = len(running[n]) == LIMIT or rng.random() < 0.3
                if ended[t, n]:
                    expected.append(([*running[n]], t, n))
                    running[n] = []
        pair = np.stack([numbers, -numbers], axis=-1).astype(np.float16)
        found = lengths(ongoing.time, jnp.asarray(starts), jnp.asarray(ended))
        np.testing.assert_array_equal(found, expected_lengths)
        ongoing, ledger = hand(ongoing, Row(jnp.asarray(numbers), jnp.asarray(pair)), starts, ended)
        assert ledger.count == len(expected) == ended.sum()
        for i, (episode, t, n) in enumerate(expected):
            assert ledger.facts[i].tolist() == [len(episode), t, n]
            padded = np.array(episode + [0] * (LIMIT - len(episode)))
            np.testing.assert_array_equal(ledger.rows.number[i], padded)
            np.testing.assert_array_equal(ledger.rows.pair[i], np.stack([padded, -padded], 1))
            assert ledger.rows.pair.dtype == jnp.float16
        assert ongoing.time.tolist() == [len(episode) for episode in running]
        for n, episode in enumerate(running):
            kept = ongoing.rows.number[LIMIT - len(episode) :, n]
            assert kept.tolist() == episode


def test_nothing_is_lost_or_doubled_where_every_step_ends_an_episode():
    ongoing = Ongoing.initial(SHAPES, LIMIT, ENVS)
    numbers = jnp.arange(13 * ENVS).reshape(13, ENVS)
    pair = jnp.zeros((13, ENVS, 2), jnp.float16)
    always = jnp.ones((13, ENVS), bool)
    ongoing, ledger = hand(ongoing, Row(numbers, pair), always, always)
    assert ledger.rows.number[:, 0].tolist() == numbers.reshape(-1).tolist()
    assert ongoing.time.tolist() == [0] * ENVS


def test_what_was_under_way_is_given_up_where_an_episode_starts():
    """Three steps, 1 to 3, before a run stops; all environments but the last, whose
    episode goes on, begin anew. Two rollouts later an episode of five steps, 11 to 15, is over."""

    def rows(*numbers: int) -> Row:
        column = jnp.tile(jnp.array(numbers)[:, None], (1, ENVS))
        return Row(column, jnp.zeros((*column.shape, 2), jnp.float16))

    def flags(steps: int, *at: int) -> Any:
        return jnp.zeros((steps, ENVS), bool).at[jnp.array(at, int)].set(True)

    ongoing = Ongoing.initial(SHAPES, LIMIT, ENVS)
    ongoing, _ = hand(ongoing, rows(1, 2, 3), flags(3, 0), flags(3))
    assert ongoing.time.tolist() == [3] * ENVS
    anew = flags(2, 0).at[0, -1].set(False)
    one_goes_on = flags(2).at[1, -1].set(True)
    ongoing, ledger = hand(ongoing, rows(11, 12), anew, one_goes_on)
    assert ledger.facts[: int(ledger.count)].tolist() == [[5, 1, ENVS - 1]]
    assert ledger.rows.number[0].tolist() == [1, 2, 3, 11, 12]
    assert ongoing.time.tolist() == [2] * (ENVS - 1) + [0]
    ended = flags(3, 2).at[:, -1].set(False)
    ongoing, ledger = hand(ongoing, rows(13, 14, 15), flags(3).at[0, -1].set(True), ended)
    assert ledger.facts[: int(ledger.count)].tolist() == [[5, 2, n] for n in range(ENVS - 1)]
    assert ledger.rows.number[: ENVS - 1].tolist() == [[11, 12, 13, 14, 15]] * (ENVS - 1)
    assert ongoing.time.tolist() == [0] * (ENVS - 1) + [3]


def team_row(number: int, rows: int | None = None) -> TeamRow:
    """Two agents, one feature, all of whose numbers are `number`."""

    def full(*shape: int, dtype: Any = jnp.float32) -> Any:
        return jnp.full(shape if rows is None else (rows, *shape), number, dtype)

    return TeamRow(
        full(2, 1), full(2, 3, dtype=bool), full(2, dtype=bool), full(2, dtype=int), full(), full(1)
    )


def test_the_newest_episode_takes_the_oldests_place():
    shapes = jax.eval_shape(lambda: team_row(0))
    replay = Replay.initial(shapes, LIMIT, 3)
    assert replay.stored == 0
    insert = jax.jit(Replay.insert)
    for number in range(1, 6):
        length, cut = jnp.int32(number), jnp.asarray(number % 2 == 0)
        replay = insert(replay, team_row(number, LIMIT), team_row(-number), length, cut)
        assert replay.stored == min(number, 3)
    # The fourth took the first's place, the fifth the second's.
    assert replay.inserted == 5
    assert replay.length.tolist() == [4, 5, 3]
    assert replay.truncated.tolist() == [True, False, False]
    assert replay.rows.observations.shape == (3, LIMIT + 1, 2, 1)
    # The final observation stands behind the last step, here in an episode of 4 steps.
    assert replay.rows.observations[0, :, 0, 0].tolist() == [4, 4, 4, 4, -4, 0]
    assert replay.rows.observations[1, :, 1, 0].tolist() == [5, 5, 5, 5, 5, -5]
    assert replay.rows.rewards[2].tolist() == [3, 3, 3, -3, 3, 0]


def test_only_stored_episodes_are_drawn_and_all_of_them():
    replay = Replay.initial(jax.eval_shape(lambda: team_row(0)), LIMIT, 7)
    for stored, inserted in ((3, 3), (7, 7), (7, 100)):
        filled = replay._replace(inserted=jnp.int32(inserted))
        drawn = filled.draw(jax.random.PRNGKey(0), (40, 50))
        counts = np.bincount(np.ravel(drawn), minlength=7)
        assert counts[stored:].sum() == 0
        # 2000 draws: 286 or 667 each, five standard deviations are at most 105.
        assert np.abs(counts[:stored] - 2000 / stored).max() < 105
