"""How the cost of IPPO grows: `python benchmarks/growth.py [SCENARIO:ENVIRONMENTS ...]`.

CPU time of whole iterations of 128 steps, by turns, so that what disturbs the machine disturbs all.
Over seven rounds: the median of an agent-step's time, that over the first case's of the same round
(median and range), and the median of an environment step's time; then the parts of the steps at
which an agent is alive and that learning computes, on average over agents. Agents learn at a rate
of next to nothing, so they play as at first, in all rounds.
"""

import argparse
import statistics
import time
from typing import cast

import numpy as np

import dm2

dm2.set_up_process()

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402

from dm2.agent.packing import computed_share  # noqa: E402
from dm2.config import ProgramSettings  # noqa: E402
from dm2.methods.independent import Independent  # noqa: E402
from dm2.run.programs import Programs  # noqa: E402

STEPS, ROUNDS = 128, 7
SEED = jnp.uint32(0)
TEAMS = ("3m:32", "5m_vs_6m:32", "10m_vs_11m:32", "27m_vs_30m:32")
SIZES = ("3s_vs_4z:32", "3s_vs_4z:128", "3s_vs_4z:512", "3s_vs_4z:2048")


def shares(programs: Programs) -> tuple[float, float]:
    """Parts of the first rollout's steps: alive; and computed by learning."""
    state = programs.init(SEED)
    trajectory = programs.collect(state.agents, state.rollout, state.iteration, SEED)[2]
    method = cast(Independent, programs.method)
    packing = method.prepare(state.agents, trajectory, None)[1].packing
    computed = jax.vmap(lambda packing: computed_share(packing, STEPS))(packing)
    return float(np.mean(trajectory.alive)), float(np.mean(computed))


class Case:
    """A scenario with a number of environments, and a run on it."""

    def __init__(self, name: str) -> None:
        scenario, _, envs = name.partition(":")
        method = dm2.IPPO(dm2.PPO(learning_rate=1e-12))
        settings = ProgramSettings(method, f"smax/{scenario}", int(envs), STEPS)
        self.name, self.programs = name, Programs(settings)
        self.state = self.programs.init(SEED)
        self.taken: list[float] = []
        """Microseconds of CPU time for an agent-step, by round."""

    def iterate(self) -> float:
        """The CPU time that an agent-step takes in one iteration, in microseconds."""
        began = time.process_time()
        self.state, _ = self.programs.iterate(self.state, SEED, None)
        jax.block_until_ready(self.state)
        agents = self.programs.env.spec.num_agents
        return (time.process_time() - began) / self.programs.settings.iteration_steps / agents * 1e6

    def line(self, first: "Case") -> str:
        """What was found."""
        step = statistics.median(self.taken)
        ratios = [mine / its for mine, its in zip(self.taken, first.taken, strict=True)]
        alive, computed = shares(self.programs)
        return (
            f"{self.name:<16} {step:6.1f} µs an agent-step  {statistics.median(ratios):5.2f} x "
            f"[{min(ratios):.2f}, {max(ratios):.2f}]  "
            f"{step * self.programs.env.spec.num_agents:7.1f} µs an environment step  "
            f"{alive:4.0%} alive  {computed:4.0%} computed"
        )


def case_name(word: str) -> str:
    """A case of the command line. Raises ArgumentTypeError unless it ends in a number."""
    if not word.partition(":")[2].isdecimal():
        raise argparse.ArgumentTypeError(f"{word!r} must look like 3s_vs_4z:32")
    return word


def main() -> None:
    """Print a line for each case, the groups one after another."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    help = "the table's two groups, by default"
    parser.add_argument(
        "cases", nargs="*", type=case_name, metavar="SCENARIO:ENVIRONMENTS", help=help
    )
    asked = parser.parse_args().cases
    for names in [asked] if asked else [TEAMS, SIZES]:
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
