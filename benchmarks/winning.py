"""Who wins in as many steps: greedy win rates of dm2's teams and of a peer's in JaxMARL's game."""

import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

import dm2
from dm2.methods.base import Settings

LIMIT = 100
"""Steps of a battle at most, as in JaxMARL."""
BATTLES = 128

Learns = Callable[[int, int, int], Iterator[tuple[int, float]]]
"""With a seed, learns for so many steps and says (steps, win rate) about every so many."""


def ours(
    method: Settings, scenario: str, seed: int, steps: int, every: int
) -> Iterator[tuple[int, float]]:
    """A run of dm2 with its own settings, and its evaluations."""
    config = dm2.Config(
        method,
        f"smax/{scenario}?walls=lethal&limit={LIMIT}",
        seed=seed,
        steps=steps,
        eval_every=every,
        eval_episodes=BATTLES,
        checkpoint_every=steps,
    )
    with tempfile.TemporaryDirectory() as folder:
        run = dm2.train(config, Path(folder) / "run", quiet=True)
        records = [record for record in run.read_metrics() if record["kind"] == "eval"]
    yield from ((record["step"], record["win_rate"]) for record in records if record["step"])


def theirs(
    make: Callable[..., Any], seed: int, steps: int, every: int
) -> Iterator[tuple[int, float]]:
    """A peer, `make(seed=...)`, and its battles."""
    peer = make(seed=seed)
    agent, key = peer.init(), jax.random.PRNGKey(seed + 1)
    battles = jax.jit(lambda agent, key: win_rate(peer, agent, key))
    done, tested = 0, 0
    while done < steps:
        key, learning, testing = jax.random.split(key, 3)
        agent, _ = peer.iterate(agent, learning)
        done += peer.iteration_steps
        if done // every > tested:
            tested = done // every
            yield done, float(battles(agent, testing))


def win_rate(peer: Any, agent: Any, key: Array) -> Array:
    """The share of a peer's battles that it wins, acting greedily. By JaxMARL's own mark: the last
    reward is 1 or more."""
    env, names = peer.env, peer.names

    def stack(by_agent: dict[str, Array]) -> Array:
        return jnp.stack([by_agent[name] for name in names])

    seen, state = jax.vmap(env.reset)(jax.random.split(key, BATTLES))
    starts = jnp.zeros((len(names), BATTLES), bool)
    memory = peer.memory(BATTLES)

    def step(carry: Any, key: Array) -> tuple[Any, None]:
        state, seen, starts, memory, over, won = carry
        legal = stack(jax.vmap(env.get_avail_actions)(state)).astype(bool)
        memory, actions = peer.greedy(agent, memory, seen, starts, legal)
        keys = jax.random.split(key, BATTLES)
        following, state, reward, done, _ = jax.vmap(env.step)(
            keys, state, dict(zip(names, actions, strict=True))
        )
        ends = done["__all__"] & ~over
        won |= ends & (reward[names[0]] >= 1.0)
        return (state, stack(following), stack(done), memory, over | ends, won), None

    nothing = jnp.zeros(BATTLES, bool)
    start = (state, stack(seen), starts, memory, nothing, nothing)
    last, _ = jax.lax.scan(step, start, jax.random.split(key, LIMIT))
    return jnp.mean(last[-1])


def contest(learners: dict[str, Learns], seeds: int, steps: int, every: int, as_json: bool) -> None:
    """All learners, one after the other; a line for each test."""
    for name, learns in learners.items():
        for seed in range(seeds):
            for at, share in learns(seed, steps, every):
                if as_json:
                    row = {"program": name, "seed": seed, "step": at, "win_rate": share}
                    print(json.dumps(row), flush=True)
                else:
                    print(f"{name:<27} seed {seed}  {at:>9,} steps  wins {share:.0%}", flush=True)
