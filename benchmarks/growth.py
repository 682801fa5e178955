"""How the cost of IPPO grows: `python benchmarks/growth.py [SCENARIO:ENVIRONMENTS ...]`.

CPU time of whole iterations of 128 steps, median and range of five, over agent-steps and over
environment steps; and the parts of the steps at which an agent is alive and that learning computes,
on average over agents. Agents learn at a rate of next to nothing, so they play as at first, in all.
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

STEPS, ROUNDS = 128, 5
TEAMS = ("3m:32", "5m_vs_6m:32", "10m_vs_11m:32", "27m_vs_30m:32")
SIZES = ("3s_vs_4z:32", "3s_vs_4z:128", "3s_vs_4z:512", "3s_vs_4z:2048")


def shares(trainer: Trainer) -> tuple[float, float]:
    """Parts of the first rollout's steps: alive; and in blocks that are computed."""
    state = trainer.init(jnp.uint32(0))
    args = (state.agents, state.rollout, state.iteration, jnp.uint32(0))
    trajectory = trainer._collect(*args)[2]
    lanes = trainer.team._prepare(state.agents, trajectory, None)[1].lanes
    length = block_steps(lanes.envs.shape[-1], STEPS)
    longest = np.max(lanes.length, axis=-1)
    computed = np.minimum(-(-longest // length) * length, STEPS)
    return float(np.mean(trajectory.alive)), float(np.mean(computed) / STEPS)


def measure(case: str) -> str:
    """One line about a scenario and a number of environments."""
    scenario, _, envs = case.partition(":")
    ppo = PPO(learning_rate=1e-12)
    trainer = Trainer(
        Config("ippo", f"smax/{scenario}", num_envs=int(envs), rollout_steps=STEPS, ppo=ppo)
    )
    agents, seed = trainer.env.spec.num_agents, jnp.uint32(0)
    state, _ = trainer.iterate(trainer.init(seed), seed, None)
    jax.block_until_ready(state)
    taken = []
    for _ in range(ROUNDS):
        began = time.process_time()
        state, _ = trainer.iterate(state, seed, None)
        jax.block_until_ready(state)
        taken.append((time.process_time() - began) / trainer.config.iteration_steps * 1e6)
    low, middle, high = min(taken), statistics.median(taken), max(taken)
    alive, computed = shares(trainer)
    return (
        f"{case:<16} {middle / agents:6.1f} µs an agent-step  {middle:7.1f} [{low:.1f}, {high:.1f}]"
        f" µs an environment step  {alive:4.0%} alive  {computed:4.0%} computed"
    )


def main() -> None:
    """Print a line for each case as it is done."""
    for case in sys.argv[1:] or TEAMS + SIZES:
        print(measure(case), flush=True)


if __name__ == "__main__":
    main()
