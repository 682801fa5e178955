"""How the cost of IPPO grows: `python benchmarks/growth.py [SCENARIO:ENVIRONMENTS ...]`.

CPU time of whole iterations of 128 steps, by turns, so that what disturbs the machine disturbs all.
Over seven rounds: the median of an agent-step's time, that over the first case's of the same round
(median and range), and the median of an environment step's time; then the parts of the steps at
which an agent is alive and that learning computes, on average over agents. Agents learn at a rate
of next to nothing, so they play as at first, in all rounds.
"""

import statistics
import sys
import time

import numpy as np

from dm2 import Config
from dm2.agent.sequences import block_steps
from dm2.config import PPO
from dm2.trainer import Trainer

import jax  # isort: skip
import jax.numpy as jnp  # isort: skip

STEPS, ROUNDS = 128, 7
SEED = jnp.uint32(0)
TEAMS = ("3m:32", "5m_vs_6m:32", "10m_vs_11m:32", "27m_vs_30m:32")
SIZES = ("3s_vs_4z:32", "3s_vs_4z:128", "3s_vs_4z:512", "3s_vs_4z:2048")


def shares(trainer: Trainer) -> tuple[float, float]:
    """Parts of the first rollout's steps: alive; and in blocks that are computed."""
    state = trainer.init(SEED)
    args = (state.agents, state.rollout, state.iteration, SEED)
    trajectory = trainer._collect(*args)[2]
    lanes = trainer.team._prepare(state.agents, trajectory, None)[1].lanes
    length = block_steps(lanes.envs.shape[-1], STEPS)
    longest = np.max(lanes.length, axis=-1)
    computed = np.minimum(-(-longest // length) * length, STEPS)
    return float(np.mean(trajectory.alive)), float(np.mean(computed) / STEPS)


class Case:
    """A scenario with a number of environments, and a run on it."""

    def __init__(self, name: str) -> None:
        scenario, _, envs = name.partition(":")
        ppo = PPO(learning_rate=1e-12)
        config = Config(
            "ippo", f"smax/{scenario}", num_envs=int(envs), rollout_steps=STEPS, ppo=ppo
        )
        self.name, self.trainer = name, Trainer(config)
        self.state = self.trainer.init(SEED)
        self.taken: list[float] = []
        """Microseconds of CPU time for an agent-step, by round."""

    def iterate(self) -> float:
        """The CPU time that an agent-step takes in one iteration, in microseconds."""
        began = time.process_time()
        self.state, _ = self.trainer.iterate(self.state, SEED, None)
        jax.block_until_ready(self.state)
        agents = self.trainer.env.spec.num_agents
        return (time.process_time() - began) / self.trainer.config.iteration_steps / agents * 1e6

    def line(self, first: "Case") -> str:
        """What was found."""
        step = statistics.median(self.taken)
        ratios = [mine / its for mine, its in zip(self.taken, first.taken, strict=True)]
        alive, computed = shares(self.trainer)
        return (
            f"{self.name:<16} {step:6.1f} µs an agent-step  {statistics.median(ratios):5.2f} x "
            f"[{min(ratios):.2f}, {max(ratios):.2f}]  "
            f"{step * self.trainer.env.spec.num_agents:7.1f} µs an environment step  "
            f"{alive:4.0%} alive  {computed:4.0%} computed"
        )


def main() -> None:
    """Print a line for each case, the groups one after another."""
    for names in [sys.argv[1:]] if sys.argv[1:] else [TEAMS, SIZES]:
        cases = [Case(name) for name in names]
        for case in cases:
            case.iterate()
        for _ in range(ROUNDS):
            for case in cases:
                case.taken.append(case.iterate())
        for case in cases:
            print(case.line(cases[0]), flush=True)


if __name__ == "__main__":
    main()
