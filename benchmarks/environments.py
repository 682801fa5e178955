"""What stepping in Python costs: `python benchmarks/environments.py [--rounds N] [--json]`.

An environment with SMAC's methods, 5 agents, 80 features and 12 actions is stepped at random, by
turns:

- `plain`: each core steps its share of the environments in a loop in Python, as fast as they go;
- `dm2`: as a rollout does, from one compiled program that calls back for every step;
- `callback`: such a program whose callback returns arrays of these shapes at once, which is
  what nobody can save who steps environments from a compiled program.

The fast environment takes microseconds, and the difference for all of them together is the overhead
of a batched step. The slow one computes for `--ms` milliseconds a step, and the ratio of the speeds
is the share of its own that is left. All are medians over the rounds, with their range.
"""

import argparse
import json
import multiprocessing
import os
import time
from typing import Any, NamedTuple

import numpy as np

AGENTS, FEATURES, ACTIONS, LIMIT = 5, 80, 12, 60


class Busy:
    """An environment with SMAC's methods that computes for some milliseconds a step."""

    def __init__(self, ms: float = 0.0) -> None:
        self.ms, self.time = ms, 0
        self.rows = np.random.default_rng(0).random((AGENTS, FEATURES), np.float32)
        self.legal = np.ones((AGENTS, ACTIONS), int)

    def get_env_info(self) -> dict[str, int]:
        """The sizes."""
        sizes = {"n_agents": AGENTS, "n_actions": ACTIONS, "obs_shape": FEATURES}
        return sizes | {"state_shape": FEATURES, "episode_limit": LIMIT}

    def reset(self) -> None:
        """Begins an episode."""
        self.time = 0

    def step(self, actions: list[int]) -> tuple[float, bool, dict[str, bool]]:
        """Computes."""
        until = time.perf_counter() + self.ms / 1000
        self.time += 1
        while time.perf_counter() < until:
            pass
        return 1.0, self.time == LIMIT, {"battle_won": False}

    def get_obs(self) -> np.ndarray:
        """The same as ever."""
        return self.rows

    def get_state(self) -> np.ndarray:
        """The same as ever."""
        return self.rows[0]

    def get_avail_actions(self) -> np.ndarray:
        """All of them."""
        return self.legal

    def close(self) -> None:
        """Ends nothing."""


class Figure(NamedTuple):
    """A figure is a median over rounds, with its range."""

    median: float
    low: float
    high: float


def loop(line: Any, ms: float, count: int) -> None:
    """Steps `count` environments in this process, as often as it is asked to."""
    rng, environments = np.random.default_rng(0), [Busy(ms) for _ in range(count)]
    while steps := line.recv():
        for _ in range(steps):
            for env in environments:
                chosen = [int(action) for action in rng.integers(ACTIONS, size=AGENTS)]
                _, over, _ = env.step(chosen)
                for show in (env.get_obs, env.get_state, env.get_avail_actions):
                    show()
                if over:
                    env.reset()
        line.send(None)


class Plain:
    """The environments in loops of their own, one a core."""

    def __init__(self, ms: float, num_envs: int, cores: int) -> None:
        self.lines: list[Any] = []
        context = multiprocessing.get_context("spawn")
        for number in range(cores):
            ours, theirs = context.Pipe()
            count = len(range(number, num_envs, cores))
            context.Process(target=loop, args=(theirs, ms, count), daemon=True).start()
            self.lines.append(ours)

    def run(self, steps: int) -> float:
        """Seconds for so many steps of every environment."""
        began = time.perf_counter()
        for line in self.lines:
            line.send(steps)
        for line in self.lines:
            line.recv()
        return time.perf_counter() - began

    def close(self) -> None:
        """Ends the processes."""
        for line in self.lines:
            line.send(0)


class Ours:
    """The environments behind dm2's environment contract, in one compiled program."""

    def __init__(self, ms: float, num_envs: int, steps: int) -> None:
        import jax

        from dm2.envs import HostEnvironment, make
        from dm2.rollout.stepping import random_steps

        made = make(f"environments:Busy?ms={ms}")
        assert isinstance(made, HostEnvironment)
        self.env, self.key = made, jax.random.PRNGKey(0)
        play = jax.jit(lambda key: random_steps(made, key, num_envs, steps)[0].returns)
        self.play = play.lower(self.key).compile()

    def run(self) -> float:
        """Seconds for the steps."""
        began = time.perf_counter()
        self.env.settle(self.play(self.key))
        return time.perf_counter() - began

    def close(self) -> None:
        """Ends the environments."""
        self.env.close()


class Callback:
    """JAX's callback with arrays of the environments' shapes, and nothing behind it."""

    def __init__(self, ours: Ours, num_envs: int, steps: int) -> None:
        import jax
        from jax.experimental import io_callback

        spec = ours.env.spec
        agents = spec.num_agents, num_envs
        arrays = (
            np.zeros((*agents, spec.observation_size), np.float32),
            np.ones((*agents, spec.num_actions), bool),
            np.ones(agents, bool),
            np.zeros((num_envs, spec.state_size), np.float32),
            np.zeros(agents, np.float32),
            *np.zeros((3, num_envs), bool),
        )
        shapes = tuple(jax.ShapeDtypeStruct(array.shape, array.dtype) for array in arrays)

        def step(actions: Any, _: None) -> tuple[Any, Any]:
            shown = io_callback(lambda _: arrays, shapes, actions, ordered=True)
            return actions + shown[5], shown[4].sum()

        begin = np.zeros(agents, np.int32)
        self.play = jax.jit(lambda: jax.lax.scan(step, begin, length=steps)).lower().compile()

    def run(self) -> float:
        """Seconds for the steps."""
        import jax

        began = time.perf_counter()
        jax.block_until_ready(self.play())
        return time.perf_counter() - began


def measure(ms: float, num_envs: int, steps: int, rounds: int) -> dict[str, Any]:
    """Steps both by turns.

    Args:
        ms: what a step of an environment takes, beside its own microseconds.
        num_envs: environments.
        steps: steps of each in a round.
        rounds: how often.

    Returns:
        `batched_ms` and `plain_ms`, what a step of all environments takes, `overhead_ms`, their
        difference, `share`, their ratio, and `callback_ms`.
    """
    cores = min(len(os.sched_getaffinity(0)), num_envs)
    plain, ours = Plain(ms, num_envs, cores), Ours(ms, num_envs, steps)
    callback = Callback(ours, num_envs, steps)
    try:
        for run in (lambda: plain.run(steps), ours.run, callback.run):
            run()  # what is slow once
        turns = [(plain.run(steps), ours.run(), callback.run()) for _ in range(rounds)]
    finally:
        plain.close()
        ours.close()
    theirs, mine, called = 1000 * np.array(turns).T / steps
    figures = {
        "plain_ms": theirs,
        "batched_ms": mine,
        "callback_ms": called,
        "overhead_ms": mine - theirs,
        "share": theirs / mine,
    }
    row = {
        name: Figure(*(float(f(x)) for f in (np.median, np.min, np.max)))
        for name, x in figures.items()
    }
    return {"ms": ms, "num_envs": num_envs, "cores": cores, **row}


def main() -> None:
    """Measure, as the command line says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument(
        "--ms", type=float, default=5.0, help="what the slow environment takes a step"
    )
    parser.add_argument("--num-envs", type=int, default=16)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    for ms, steps in ((0.0, 500), (asked.ms, 100)):
        row = measure(ms, asked.num_envs, steps, asked.rounds)
        if asked.json:
            kinds = ((k, v._asdict() if isinstance(v, Figure) else v) for k, v in row.items())
            print(json.dumps(dict(kinds)))
            continue
        print(f"{row['num_envs']} environments of {ms:g} ms a step on {row['cores']} cores")
        for name in ("plain_ms", "batched_ms", "callback_ms", "overhead_ms", "share"):
            middle, low, high = row[name]
            print(f"  {name:<12} {middle:.3f} [{low:.3f}, {high:.3f}]", flush=True)


if __name__ == "__main__":
    main()
