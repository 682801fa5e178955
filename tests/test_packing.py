"""Learning skips the steps of the dead, and nothing else changes."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dm2.agent import sequences
from dm2.agent.networks import RecurrentNet
from dm2.agent.ppo import policy_loss, value_loss
from dm2.agent.sequences import Blocked, Blocks, block_steps, line_up
from dm2.agent.state import actor_part, critic_part
from test_learner import AGENT, FATES, N, T, compiled, learner, per_step, random_carry, trajectory

S, O, H, D = 2, 5, 8, 3  # noqa: E741
NET = RecurrentNet(H, D, 1.0)


# ---- which steps


LIVES = "110110 010010 001111 000000 111111"
STARTS = "100100 100000 101000 100000 000000"
"""0: death, a new episode, death. 1: waits for its life, dies, lives again, dies.
2: an episode without it, then one with it. 3: never alive. 4: always."""


def lines(alive, starts, *minibatches):
    """Of every minibatch its sequences: (step, environment) by (step, environment)."""
    lanes = line_up(alive, starts, jnp.asarray(minibatches))
    rows, length = np.asarray(lanes.rows), np.asarray(lanes.length)
    count = alive.shape[1]
    return [
        [[divmod(int(row), count) for row in rows[b, :n, lane]] for lane, n in enumerate(each)]
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
    assert block_steps(32, 128) == 16
    assert block_steps(8, 128) == 16
    assert block_steps(8, 12) == 12
    assert block_steps(1024, 128) == 1


# ---- the network in blocks


def case(seed=0):
    """A network, its memory, a rollout and a loss's weights."""
    rng = np.random.default_rng(seed)
    observations = jnp.asarray(rng.normal(size=(T, N, O)), jnp.float32)
    starts = jnp.asarray(rng.random((T, N)) < 0.3)
    carry = jnp.asarray(rng.normal(size=(N, H)), jnp.float32)
    params = NET.init(jax.random.PRNGKey(seed), carry, observations, starts)
    return params, carry, observations, starts, jnp.asarray(rng.normal(size=(T, N, D)))


def ours(params, carry, observations, starts, weights, count):
    """Outputs and the gradient of a loss, by blocks of `S` steps."""
    net = Blocked(NET.apply, observations.reshape(T * N, O))
    rows = jnp.arange(T * N).reshape(-1, S, N)
    blocks = Blocks(rows, starts.reshape(rows.shape))
    room = jax.tree.map(lambda x: jnp.full_like(x, 7), net.room(params, carry, blocks))
    outputs, remembered = net.forth(params, carry, blocks, count, room)
    d_outputs = weights.reshape(outputs.shape) * jnp.cos(outputs)
    gradient = net.back(params, carry, remembered, d_outputs, count)
    return outputs.reshape(T, N, D), gradient


@pytest.mark.parametrize("count", range(T // S + 1))
def test_blocks_are_the_network_up_to_there(count):
    params, carry, observations, starts, weights = case()
    known = count * S
    # Blocks that are not reached may hold anything.
    observations = observations.at[known:].set(jnp.nan)
    args = (params, carry, observations, starts, weights)
    outputs, gradient = jax.jit(ours)(*args, count)
    assert np.all(outputs[known:] == 7)  # as it was
    if not count:
        assert not any(np.any(x) for x in jax.tree.leaves(gradient))
        return

    def plain(params):
        outputs = NET.apply(params, carry, observations[:known], starts[:known])[1]
        return jnp.sum(weights[:known] * jnp.sin(outputs)), outputs

    expected, values = jax.grad(plain, has_aux=True)(params)
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


def plain_epochs(rules, net, loss, params, opt, seen, told, key):
    """PPO's epochs over whole rollouts, a minibatch after the other: the parameters, and means
    over the last epoch of the loss and of the gradient's norm."""
    ppo = rules.config.ppo
    for epoch_key in jax.random.split(key, ppo.epochs):
        reported = []
        for envs in jax.random.permutation(epoch_key, N).reshape(ppo.minibatches, -1):
            inputs, starts, alive = (x[:, envs] for x in (seen.inputs, seen.starts, seen.alive))
            facts = jax.tree.map(lambda x: x[:, envs], told)  # noqa: B023

            def total(params):
                carry = seen.carry[envs]  # noqa: B023
                outputs = net.apply(params, carry, inputs, starts)[1]  # noqa: B023
                return loss(outputs, facts, alive)  # noqa: B023

            value, grads = jax.value_and_grad(total)(params)
            reported.append((value, optax.tree.norm(grads)))
            updates, opt = rules.optimiser.update(grads, opt, params)
            params = optax.apply_updates(params, updates)
    return params, *np.mean(reported, axis=0)


@functools.cache
def plain_update(battles):
    """Of the policy and of the value function: what improves it, on what, and what plain PPO makes
    of that."""
    rules = learner("ippo", epochs=3, minibatches=2, learning_rate=1e-2, entropy=0.1)
    agent, path = AGENT._replace(discriminator=None), trajectory(BATTLES if battles else FATES)
    # As `prepare` splits the agent's stream of learning.
    key = jax.random.split(jax.random.fold_in(agent.key, 0), 3)[2]
    agent, lesson, _ = rules.prepare(agent, path, None)
    ppo = rules.config.ppo

    def of_policy(logits, acts, alive):
        return policy_loss(logits, *acts, alive, ppo.clip, ppo.entropy)[0]

    def of_value(outputs, targets, alive):
        return value_loss(outputs[..., 0], targets, alive)

    actor = actor_part(agent, path, random_carry(0), lesson)
    critic = critic_part(agent, path, random_carry(0), lesson)
    return (
        (rules.improve_actor, actor, plain_epochs(rules, rules.actor, of_policy, *actor, key)),
        (rules.improve_critic, critic, plain_epochs(rules, rules.critic, of_value, *critic, key)),
    )


@pytest.mark.parametrize("battles", [False, True])
@pytest.mark.parametrize("rows", [4, 8, 512])  # blocks of 2, 4 (one step short) and 6 steps
@pytest.mark.parametrize("backend", ["cpu", "gpu"])  # the latter knows how many blocks there are
def test_an_update_is_the_plain_one(monkeypatch, battles, rows, backend):
    both = plain_update(battles)
    monkeypatch.setattr(sequences, "_ROWS", rows)
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    for improve, args, (params, loss, norm) in both:
        # A function of its own, or JAX takes the program made for other blocks.
        after, _, metrics = compiled(lambda *args: improve(*args))(*args)  # noqa: B023
        jax.tree.map(close, after, params)
        if "policy_loss" in metrics:
            close((metrics["policy_loss"], metrics["actor_grad_norm"]), (loss, norm))
        else:
            close(metrics["value_loss"], loss)


def test_in_these_rollouts_episodes_change_places():
    rules = learner("ippo", epochs=3, minibatches=2)
    agent = AGENT._replace(discriminator=None)
    for fates in (FATES, BATTLES):
        lanes = rules.prepare(agent, trajectory(fates), None)[1].lanes
        real = np.arange(T)[:, None] < np.asarray(lanes.length)[:, None]
        moved = np.asarray(lanes.rows) % N != np.asarray(lanes.envs)[:, None]
        assert np.any(moved & real)


def test_nothing_is_learnt_from_a_rollout_without_life():
    rules = learner("ippo", epochs=1, minibatches=2)
    agent = AGENT._replace(discriminator=None)
    dead = {name: jnp.zeros((T, N), bool) for name in ("alive", "next_alive")}
    path = trajectory(FATES)._replace(**dead)
    after, metrics = jax.jit(rules.update)(agent, path, random_carry(0), None)
    jax.tree.map(np.testing.assert_array_equal, after.actor, agent.actor)
    assert all(np.isfinite(value) for value in jax.tree.leaves(metrics))
