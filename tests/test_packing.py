"""Learning skips the steps of the dead, and nothing else changes."""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dm2.agent import packing
from dm2.agent.learner import actor_arguments, critic_arguments
from dm2.agent.networks import RecurrentNet
from dm2.agent.packing import computed_share, pack, packed_fit, paired, plain_fit
from test_learner import AGENT, FATES, N, T, learner, per_step, trajectory

S, O, H, D = 2, 5, 8, 3  # noqa: E741
NET = RecurrentNet(H, D, 1.0)
APPLY: Any = NET.apply
"""Its type allows for changed variables beside what the network returns."""
PACK = jax.jit(pack)


# ---- which steps


LIVES = "110110 010010 001111 000000 111111"
STARTS = "100100 100000 101000 100000 000000"
"""0: death, a new episode, death. 1: waits for its life, dies, lives again, dies.
2: an episode without it, then one with it. 3: never alive. 4: always."""


def lines(alive, starts, *minibatches):
    """Of every minibatch its sequences: (step, environment) by (step, environment)."""
    packed = PACK(alive, starts, jnp.asarray(minibatches))
    rows, length = np.asarray(packed.rows), np.asarray(packed.length)
    count = alive.shape[1]
    return [
        [[divmod(int(row), count) for row in rows[b, :n, i]] for i, n in enumerate(each)]
        for b, each in enumerate(length.tolist())
    ]


def test_steps_of_the_dead_are_left_out():
    alone = lines(per_step(LIVES), per_step(STARTS), *([env] for env in range(5)))
    steps = [[t for t, _ in only] for (only,) in alone]
    assert steps == [[0, 1, 3, 4], [0, 1, 2, 3, 4], [2, 3, 4, 5], [], [0, 1, 2, 3, 4, 5]]
    assert all(env == own for own, (only,) in enumerate(alone) for _, env in only)


def test_episodes_are_dealt_anew_where_that_shortens_a_minibatch():
    # Environment 0 has episodes of 2, 1, 2 and 1 steps, the first from before; environment 1 one
    # step of one from before.
    alive, starts = per_step("111111 100000"), per_step("001101 000000")
    ((first, second),) = lines(alive, starts, [0, 1])
    assert first == [(0, 0), (1, 0), (2, 0), (5, 0)]
    assert second == [(0, 1), (3, 0), (4, 0)]
    # Nothing can be gained: all stay, the longest first.
    alive, starts = per_step("111111 111111"), per_step("001101 010000")
    ((first, second),) = lines(alive, starts, [1, 0])
    assert first == [(t, 1) for t in range(6)]
    assert second == [(t, 0) for t in (0, 1, 3, 4, 2, 5)]
    # Dealt, 3 + 2 + 2 steps would follow one another, more than the rollout has: all stay.
    alive, starts = per_step("111111 111111"), per_step("000100 001010")
    assert lines(alive, starts, [0, 1]) == [[[(t, env) for t in range(6)] for env in (0, 1)]]


@pytest.mark.parametrize("seed", range(5))
def test_no_episode_is_lost_or_cut(seed):
    rng = np.random.default_rng(seed)
    steps, count = 40, 12
    starts = rng.random((steps, count)) < 0.15
    alive = rng.random((steps, count)) < 0.2
    minibatches = [rng.permutation(count)[:6] for _ in range(4)]
    wanted = {}
    for env in range(count):
        bounds = [0, *(t for t in range(1, steps) if starts[t, env]), steps]
        for begin, end in itertools.pairwise(bounds):
            lives = np.flatnonzero(alive[begin:end, env])
            last = begin + int(lives[-1]) + 1 if len(lives) else begin
            wanted[env, begin] = [(t, env) for t in range(begin, last)]
    gained = []
    args = (jnp.asarray(alive), jnp.asarray(starts))
    for envs, sequences_ in zip(minibatches, lines(*args, *minibatches), strict=True):
        alone = [sum(len(w) for (e, _), w in wanted.items() if e == env) for env in envs]
        gained.append(max(alone) - max(map(len, sequences_)))
        found = []
        for env, sequence in zip(envs, sequences_, strict=True):
            first = wanted[env, 0]
            assert sequence[: len(first)] == first  # its memory is this environment's
            rest = sequence[len(first) :]
            while rest:
                t, e = rest[0]
                whole = wanted[e, t]
                assert rest[: len(whole)] == whole
                found.append((e, t))
                rest = rest[len(whole) :]
        later = [(e, t) for (e, t), w in wanted.items() if e in envs and t and w]
        assert sorted(found) == sorted(later)
    assert min(gained) >= 0 < max(gained)


def test_blocks_are_of_512_rows_or_16_steps():
    assert packing._block_steps(32, 128) == 16
    assert packing._block_steps(8, 128) == 16
    assert packing._block_steps(8, 12) == 12
    assert packing._block_steps(1024, 128) == 1


def test_episodes_are_packed_in_pairs():
    """The longest with the shortest; an odd one alone."""
    for lengths in ([5, 1, 3], [2, 5, 5, 1], [4, 4], [3]):
        packing = paired(jnp.array([lengths, lengths[::-1]]), 5)
        assert packing.rows.shape == (2, 10, (len(lengths) + 1) // 2)
        for b, mine in enumerate((lengths, lengths[::-1])):
            found = []
            for n in range(packing.rows.shape[2]):
                rows = packing.rows[b, : packing.length[b, n], n].tolist()
                found += [(row % (2 * len(mine)), row // (2 * len(mine))) for row in rows]
            expected = [(b * len(mine) + i, t) for i, x in enumerate(mine) for t in range(x)]
            assert sorted(found) == expected
    assert packing.length.tolist() == [[3], [3]]
    assert sorted(paired(jnp.array([[2, 5, 5, 1]]), 5).length[0].tolist()) == [6, 7]


# ---- the network in blocks


def case(seed=0):
    """A network, its memory, a rollout and a loss's weights."""
    rng = np.random.default_rng(seed)
    observations = jnp.asarray(rng.normal(size=(T, N, O)), jnp.float32)
    starts = jnp.asarray(rng.random((T, N)) < 0.3)
    memory = jnp.asarray(rng.normal(size=(N, H)), jnp.float32)
    params = jax.jit(NET.init)(jax.random.PRNGKey(seed), memory, observations, starts)
    return params, memory, observations, starts, jnp.asarray(rng.normal(size=(T, N, D)))


def ours(params, memory, observations, starts, weights, count):
    """Outputs and the gradient of a loss, by blocks of `S` steps."""
    net = packing._Blocked(APPLY, observations.reshape(T * N, O))
    rows = jnp.arange(T * N).reshape(-1, S, N)
    blocks = packing._Blocks(rows, starts.reshape(rows.shape))
    buffer = jax.tree.map(lambda x: jnp.full_like(x, 7), net.buffer(params, memory, blocks))
    outputs, residuals = net.forward(params, memory, blocks, count, buffer)
    d_outputs = weights.reshape(outputs.shape) * jnp.cos(outputs)
    gradient = net.backward(params, memory, residuals, d_outputs, count)
    return outputs.reshape(T, N, D), gradient


@pytest.mark.parametrize("count", range(T // S + 1))
def test_blocks_are_the_network_up_to_there(count):
    params, memory, observations, starts, weights = case()
    known = count * S
    # Blocks that are not reached may hold anything.
    observations = observations.at[known:].set(jnp.nan)
    args = (params, memory, observations, starts, weights)
    outputs, gradient = jax.jit(ours)(*args, count)
    assert np.all(outputs[known:] == 7)  # as it was
    if not count:
        assert not any(np.any(x) for x in jax.tree.leaves(gradient))
        return

    def plain(params):
        outputs = APPLY(params, memory, observations[:known], starts[:known])[1]
        return jnp.sum(weights[:known] * jnp.sin(outputs)), outputs

    expected, values = jax.jit(jax.grad(plain, has_aux=True))(params)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    jax.tree.map(close, (gradient, outputs[:known]), (expected, values))
    # How many there are may be known before, too.
    jax.tree.map(close, jax.jit(ours, static_argnums=5)(*args, count), (outputs, gradient))


# ---- an agent's update


# Every environment's agent lives to the end of some episodes and not of others.
BATTLES = {
    "alive": per_step("111011 110011 100011 111100"),
    "next_alive": per_step("110011 100111 000111 111000"),
    "starts": per_step("000100 100010 000010 001010"),
    "terminated": per_step("001000 000100 000100 010100"),
    "ended": per_step("001001 000100 000100 010100"),
}


@functools.cache
def arguments_of(part, battles):
    """One agent's rules, and the arguments of `improve_actor` or `improve_critic`."""
    rules = learner("ippo", epochs=3, minibatches=2, learning_rate=1e-2, entropy=0.1)
    agent, path = AGENT._replace(discriminator=None), trajectory(BATTLES if battles else FATES)
    agent, prepared, _ = jax.jit(rules.prepare)(agent, path, None)
    arguments = actor_arguments if part == "actor" else critic_arguments
    return rules, arguments(agent, path, prepared)


@functools.cache
def plain_update(part, battles):
    """What the update would be without packing."""
    rules, arguments = arguments_of(part, battles)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dm2.agent.learner.packed_fit", plain_fit)
        return jax.jit(getattr(rules, f"improve_{part}"))(*arguments)


# Blocks of 2, 4 (one step short) and 6 steps; on a GPU it is known how many blocks there are.
SHAPES = [("cpu", 4), ("cpu", 8), ("cpu", 512), ("gpu", 4)]
SHAPES += [pytest.param("gpu", rows, marks=pytest.mark.learning) for rows in (8, 512)]


@pytest.mark.parametrize("battles", [False, True])
@pytest.mark.parametrize(("backend", "rows"), SHAPES)
@pytest.mark.parametrize("part", ["actor", "critic"])
def test_an_update_is_the_plain_one(monkeypatch, battles, rows, backend, part):
    rules, arguments = arguments_of(part, battles)
    expected = plain_update(part, battles)
    before = arguments[0]
    assert max(float(np.abs(a - b).max()) for a, b in pairs(before, expected[0])) > 1e-2
    monkeypatch.setattr(packing, "_BLOCK_ROWS", rows)
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    # A function of its own, or JAX takes the program made for other blocks.
    improve = getattr(rules, f"improve_{part}")
    got = jax.jit(lambda *arguments: improve(*arguments))(*arguments)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), got, expected)


def pairs(a, b):
    return zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)


def test_the_plain_one_by_hand():
    """A network that adds up observations scaled by its one parameter, from its memory on; two
    environments, a minibatch each; gradient descent with step 1 on half the mean square of the
    error. `plain_fit` is what everything else here is compared with."""

    def network(params, memory, observations, starts):
        def step(memory, now):
            observation, start = now
            memory = jnp.where(start[:, None], 0.0, memory) + params * observation
            return memory, memory

        return jax.lax.scan(step, memory, (observations, starts))

    def loss(outputs: jax.Array, targets: jax.Array, alive: jax.Array):
        error = jnp.where(alive, outputs[..., 0] - targets, 0.0)
        value = 0.5 * jnp.sum(error**2) / jnp.sum(alive)
        return value, {"loss": value}

    sequences = packing.Sequences(
        memory=jnp.array([[10.0], [0.0]]),
        inputs=jnp.array([[[1.0], [1.0]], [[2.0], [3.0]]]),
        starts=jnp.array([[False, True], [False, False]]),
        alive=jnp.array([[True, True], [True, False]]),
    )
    targets = jnp.array([[12.0, 1.0], [12.0, 99.0]])
    order = PACK(sequences.alive, sequences.starts, jnp.array([[0], [1]]))
    descent = optax.sgd(0.125)
    given = jnp.array(1.0), descent.init(1.0), sequences, targets, order
    results = jax.jit(functools.partial(plain_fit, network, loss, descent))(*given)
    # Environment 0 from memory 10 with parameter 1: outputs 11, 13; errors -1, 1; loss
    # (1 + 1) / 4 = 0.5; gradient (-1 * 1 + 1 * 3) / 2 = 1; the parameter is 0.875 then.
    # Environment 1 lives at its first step alone: output 0.875, error -0.125, loss 0.0078125,
    # gradient -0.125 * 1; the parameter is 0.890625 then.
    assert results[0] == 0.890625
    assert results[2]["loss"].tolist() == [0.5, 0.0078125]
    assert results[2]["gradient_norm"].tolist() == [1.0, 0.125]
    packed = jax.jit(functools.partial(packed_fit, network, loss, descent))(*given)
    assert packed[0] == 0.890625


def test_the_share_of_steps_that_are_computed():
    # Blocks of 16 of 40 steps. The longest sequences have 17 and 16 steps: two blocks and one.
    length = jnp.array([[17, 3], [16, 2]])
    packed = packing.Packing(jnp.zeros((2, 40, 2), int), length, jnp.zeros((2, 2), int))
    assert computed_share(packed, 40) == (32 + 16) / 2 / 40


def test_in_these_rollouts_episodes_change_places():
    rules = learner("ippo", epochs=3, minibatches=2)
    agent, prepare = AGENT._replace(discriminator=None), jax.jit(rules.prepare)
    for fates in (FATES, BATTLES):
        packed = prepare(agent, trajectory(fates), None)[1].packing
        real = np.arange(T)[:, None] < np.asarray(packed.length)[:, None]
        moved = np.asarray(packed.rows) % N != np.asarray(packed.environments)[:, None]
        assert np.any(moved & real)


def test_nothing_is_learnt_from_a_rollout_without_life():
    rules = learner("ippo", epochs=1, minibatches=2)
    agent = AGENT._replace(discriminator=None)
    dead = {name: jnp.zeros((T, N), bool) for name in ("alive", "next_alive")}
    path = trajectory(FATES)._replace(**dead)
    after, metrics = jax.jit(rules.learn)(agent, path, None)
    jax.tree.map(np.testing.assert_array_equal, after.actor, agent.actor)
    assert all(np.isfinite(value) for value in jax.tree.leaves(metrics))
