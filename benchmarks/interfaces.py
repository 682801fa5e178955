"""How fast environments are behind other tools' interfaces:
`python benchmarks/interfaces.py [NAME …]`.

Random legal actions, episode after episode, in one Python loop that draws them with NumPy and does
nothing else. By turns, the best of `ROUNDS`, short ones: busy machines have quiet moments.
`first` is the time from nothing made to `SmacEnv`'s first step taken, compiling included; `alone`
is the environment itself, stepped by a compiled call with the same actions every time: nothing
checked, nothing unpacked.
"""

import argparse
import time
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from dm2.envs import PettingZooEnv, SmacEnv, make

NAMES = ("smac/3m", "smac/3s_vs_4z", "smac/8m_vs_9m", "smax/3m", "smax/3s_vs_4z", "smax/8m_vs_9m")
STEPS, ROUNDS = 100, 40


def alone(name: str) -> Iterator[None]:
    """Steps an environment without an interface."""
    env = make(name)
    begin = jax.jit(lambda key: env.reset(key, 1))

    def step(key: Array, state: object, actions: Array) -> object:
        state, outcome = env.step(key, state, actions)
        return state, env.observe(state), outcome

    program = jax.jit(step)
    key = jax.random.PRNGKey(0)
    actions = jnp.ones((env.spec.num_agents, 1), jnp.int32)
    while True:
        state, ended = begin(key), False
        while not ended:
            state, _, outcome = program(key, state, actions)
            ended = bool(outcome.terminated[0] | outcome.truncated[0])
            yield


def smac(name: str) -> Iterator[None]:
    """Steps `SmacEnv`."""
    env, rng = SmacEnv(name, seed=0), np.random.default_rng(0)
    while True:
        env.reset()
        ended = False
        while not ended:
            legal = np.array(env.get_avail_actions())
            actions = (rng.random(legal.shape) * legal).argmax(axis=1)
            _, ended, _ = env.step(actions)
            env.get_obs()
            env.get_state()
            yield


def pettingzoo(name: str) -> Iterator[None]:
    """Steps `PettingZooEnv`."""
    env, rng = PettingZooEnv(name), np.random.default_rng(0)
    observations, _ = env.reset(seed=0)
    while True:
        legal = {agent: observations[agent]["action_mask"] for agent in env.agents}
        actions = {a: int((rng.random(len(mask)) * mask).argmax()) for a, mask in legal.items()}
        observations, *_ = env.step(actions)
        yield
        if not env.agents:
            observations, _ = env.reset()


def timed(steps: Iterator[None], count: int) -> float:
    """The seconds that so many steps take."""
    begun = time.perf_counter()
    for _ in range(count):
        next(steps)
    return time.perf_counter() - begun


def measure(name: str, count: int, rounds: int) -> str:
    """The cells of the table for one environment."""
    kinds: tuple[Callable[[str], Iterator[None]], ...] = (alone, smac, pettingzoo)
    players = [kind(name) for kind in kinds]
    first = [timed(player, 1) for player in players]
    times = [[timed(player, count) for player in players] for _ in range(rounds)]
    speeds = (f"{count / min(taken):,.0f}" for taken in zip(*times, strict=True))
    return " | ".join([name, *speeds, f"{first[1]:.1f} s"])


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="environments")
    names = parser.parse_args().names
    print("| environment | alone, steps/s | SmacEnv, steps/s | PettingZooEnv, steps/s | first |")
    print("|---|---|---|---|---|")
    for name in names or NAMES:
        print(f"| {measure(name, STEPS, ROUNDS)} |", flush=True)


if __name__ == "__main__":
    main()
