"""Battles a second, ours and JaxMARL's: `python benchmarks/simulator.py [SCENARIO …]`.

Random legal actions in 512 battles, one process, the two timed by turns; the best of five. JaxMARL
is used as it comes: its automatic resets, its observations, its legal actions.
"""

import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from dm2.envs import make
from dm2.envs.battle.scenarios import SCENARIOS
from dm2.rollout import random_steps
from reference import Reference

BATTLES, STEPS, TURNS = 512, 32, 5


def theirs(scenario: str) -> Callable[[jax.Array], Any]:
    """Random battles in JaxMARL."""
    env = Reference(scenario, lethal_walls=False).env

    def step(carry: Any, key: jax.Array) -> tuple[Any, None]:
        state, _ = carry
        act_key, step_key = jax.random.split(key)
        legal = jax.vmap(env.get_avail_actions)(state)
        keys = jax.random.split(act_key, len(env.agents))
        orders = {
            name: jax.random.categorical(k, jnp.where(legal[name], 0.0, -1e9))
            for k, name in zip(keys, env.agents, strict=True)
        }
        keys = jax.random.split(step_key, BATTLES)
        seen, state, *_ = jax.vmap(env.step)(keys, state, orders)
        return (state, {name: seen[name] for name in env.agents}), None

    def run(key: jax.Array) -> Any:
        keys = jax.random.split(key, STEPS + 1)
        seen, state = jax.vmap(env.reset)(jax.random.split(keys[0], BATTLES))
        carry = (state, {name: seen[name] for name in env.agents})
        return jax.lax.scan(step, carry, keys[1:])[0]

    return run


def ours(scenario: str) -> Callable[[jax.Array], Any]:
    """Random battles in our engine."""
    env = make(f"smax/{scenario}")
    return lambda key: random_steps(env, key, BATTLES, STEPS)


def main(scenarios: list[str]) -> None:
    """Prints the table."""
    print(
        "scenario            ours, steps/s (compiled in)    JaxMARL           ratio   per unit pair"
    )
    for scenario in scenarios:
        programs = [jax.jit(program(scenario)) for program in (ours, theirs)]
        compiling, times = [], [[], []]
        for program in programs:
            began = time.perf_counter()
            jax.block_until_ready(program(jax.random.PRNGKey(0)))
            compiling.append(time.perf_counter() - began)
        for turn in range(TURNS):
            for program, taken in zip(programs, times, strict=True):
                began = time.perf_counter()
                jax.block_until_ready(program(jax.random.PRNGKey(turn)))
                taken.append(time.perf_counter() - began)
        rates = [BATTLES * STEPS / min(taken) for taken in times]
        layout = SCENARIOS[scenario]
        pairs = (len(layout.allies) + len(layout.enemies)) ** 2
        cells = [f"{rate:>11,.0f} ({s:4.1f} s)" for rate, s in zip(rates, compiling, strict=True)]
        ratio, cost = rates[0] / rates[1], 1e9 / rates[0] / pairs
        print(f"{scenario:<16} {'  '.join(cells)}  {ratio:5.1f}  {cost:6.1f} ns", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:] or list(SCENARIOS))
