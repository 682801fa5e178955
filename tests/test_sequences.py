"""Learning skips the steps of the dead, and nothing else changes."""

import functools

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
from test_learner import AGENT, FATES, N, T, learner, per_step, random_carry, trajectory

S, O, H, D = 2, 5, 8, 3  # noqa: E741
NET = RecurrentNet(H, D, 1.0)


# ---- which steps


def test_steps_of_the_dead_go_last():
    # 0: death, a new episode, death. 1: waits for its life, dies, lives again, dies.
    # 2: an episode without it, then one with it. 3: never alive. 4: always.
    alive = per_step("110110 010010 001111 000000 111111")
    starts = per_step("100100 100000 101000 100000 000000")
    order, count = line_up(alive, starts)
    assert count.tolist() == [4, 5, 4, 0, 6]
    steps = [(np.asarray(order)[:n, env] // 5).tolist() for env, n in enumerate(count.tolist())]
    assert steps == [[0, 1, 3, 4], [0, 1, 2, 3, 4], [2, 3, 4, 5], [], [0, 1, 2, 3, 4, 5]]
    # All the rows of an environment are there, once.
    rows = np.sort(np.asarray(order), axis=0)
    np.testing.assert_array_equal(rows, np.arange(30).reshape(6, 5))


def test_blocks_are_of_512_rows_or_32_steps():
    assert block_steps(32, 128) == 16
    assert block_steps(8, 128) == 32
    assert block_steps(8, 20) == 20
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


def plain_epochs(rules, net, loss, params, opt, seen, told):
    """PPO's epochs over whole sequences, a minibatch after the other."""
    ppo = rules.config.ppo
    for key in jax.random.split(seen.key, ppo.epochs):
        for envs in jax.random.permutation(key, N).reshape(ppo.minibatches, -1):
            observations, starts, alive = (
                x[:, envs] for x in (seen.observations, seen.starts, seen.alive)
            )
            facts = jax.tree.map(lambda x: x[:, envs], told)  # noqa: B023

            def total(params):
                carry = seen.carry[envs]  # noqa: B023
                outputs = net.apply(params, carry, observations, starts)[1]  # noqa: B023
                return loss(outputs, facts, alive)  # noqa: B023

            grads = jax.grad(total)(params)
            updates, opt = rules.optimiser.update(grads, opt, params)
            params = optax.apply_updates(params, updates)
    return params


@pytest.mark.parametrize("rows", [4, 8, 512])  # blocks of 2, 4 (one step short) and 6 steps
@pytest.mark.parametrize("backend", ["cpu", "gpu"])  # the latter knows how many blocks there are
def test_an_update_is_the_plain_one(monkeypatch, rows, backend):
    monkeypatch.setattr(sequences, "_ROWS", rows)
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    rules = learner("ippo", epochs=2, minibatches=2, learning_rate=1e-2, entropy=0.1)
    agent, path = AGENT._replace(discriminator=None), trajectory(FATES)
    agent, lesson, _ = rules.prepare(agent, path, None)
    ppo = rules.config.ppo

    def of_policy(logits, acts, alive):
        return policy_loss(logits, *acts, alive, ppo.clip, ppo.entropy)[0]

    def of_value(outputs, targets, alive):
        return value_loss(outputs[..., 0], targets, alive)

    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    for part, improve, net, loss in (
        (actor_part, rules.improve_actor, rules.actor, of_policy),
        (critic_part, rules.improve_critic, rules.critic, of_value),
    ):
        args = part(agent, path, random_carry(0), lesson)
        jax.tree.map(close, jax.jit(improve)(*args)[0], plain_epochs(rules, net, loss, *args))


def test_nothing_is_learnt_from_a_rollout_without_life():
    rules = learner("ippo", epochs=1, minibatches=2)
    agent = AGENT._replace(discriminator=None)
    dead = {name: jnp.zeros((T, N), bool) for name in ("alive", "next_alive")}
    path = trajectory(FATES)._replace(**dead)
    after, metrics = jax.jit(rules.update)(agent, path, random_carry(0), None)
    jax.tree.map(np.testing.assert_array_equal, after.actor, agent.actor)
    assert all(np.isfinite(value) for value in jax.tree.leaves(metrics))
