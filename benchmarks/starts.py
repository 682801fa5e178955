"""What a team is worth on other starts than those that it was trained on, by SMAC's rules.

    python benchmarks/starts.py 5m_vs_6m fixed 0 2200000 1200000 128
    python benchmarks/starts.py 3s_vs_4z varied 0 1600000 1000000 32 reward=signed

The arguments are the scenario, the kind of starts, the seed, the environment steps to train for,
those after which the entropy weight falls from 0.05 to 0.005 at once, the number of environments,
and further options of the environment. IPPO learns with a clip of 0.1 and the other defaults. Every
200,000 steps the team is tested on its own starts in 64 battles, greedy and sampled, and at the end
in 256 battles on every kind of starts, a JSON object a test.
"""

import argparse
import json
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

import dm2
from dm2.config import ProgramSettings
from dm2.envs.smac.scenarios import SCENARIOS, STARTS
from dm2.run.programs import Programs, TrainState

_EVERY = 200_000  # environment steps between tests


def programs_of(
    scenario: str, starts: str, entropy: float, num_envs: int, options: str
) -> Programs:
    """IPPO's programs on one kind of starts."""
    name = f"smac/{scenario}?starts={starts}" + (f"&{options}" if options else "")
    method = dm2.IPPO(dm2.PPO(clip=0.1, entropy=entropy)).settled(name)
    return Programs(ProgramSettings(method, name, num_envs, 128))


def test(programs: Programs, state: TrainState, step: int, seed: int, episodes: int) -> dict:
    """The share of battles won, greedy and sampled."""
    row: dict[str, Any] = {"step": step, "env": programs.env.spec.name}
    for kind, greedy in (("greedy", True), ("sampled", False)):
        given = (state.agents, jnp.uint32(seed), jnp.uint32(step), episodes, greedy)
        row[kind] = jax.device_get(programs.evaluate(*given)).means(True)["win_rate"]
    return row


def measure(
    scenario: str, starts: str, seed: int, steps: int, switch: int, num_envs: int, options: str
) -> Iterator[dict]:
    """Trains a team and yields its tests."""
    early, late = (
        programs_of(scenario, starts, entropy, num_envs, options) for entropy in (0.05, 0.005)
    )
    state, step = early.init(jnp.uint32(seed)), 0
    while step < steps:
        programs = early if step < switch else late
        state, _ = programs.iterate(state, jnp.uint32(seed), None)
        before, step = step, step + programs.settings.iteration_steps
        if before // _EVERY != step // _EVERY:
            yield test(early, state, step, seed, 64)
    for kind in STARTS:
        other = early if kind == starts else programs_of(scenario, kind, 0.05, num_envs, options)
        yield test(other, state, step, seed, 256)


def main() -> None:
    """Print a line a test."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("scenario", choices=tuple(SCENARIOS))
    parser.add_argument("starts", choices=tuple(STARTS))
    parser.add_argument("seed", type=int)
    parser.add_argument("steps", type=int, help="environment steps to train for")
    parser.add_argument("switch", type=int, help="steps after which the entropy weight falls")
    parser.add_argument("num_envs", type=int, help="environments")
    parser.add_argument("options", nargs="?", default="", help="for example reward=signed")
    asked = parser.parse_args()
    dm2.set_up_process()
    for row in measure(**vars(asked)):
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
