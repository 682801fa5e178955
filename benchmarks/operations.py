"""Where an update's time goes: `python benchmarks/operations.py [SCENARIO [ENVIRONMENTS]]`.

Runs the policies' and the value functions' epochs on one core each after the other, under JAX's
profiler, and sorts the compiled program's operations: products of matrices inside and outside of
the GRU's loop over time, everything else inside of it, everything else.
"""

import argparse
import collections
import os
import tempfile
from pathlib import Path
from typing import Any, cast

if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # so that times add up

import dm2

dm2.set_up_process()

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402

from dm2.agent.learner import actor_arguments, critic_arguments  # noqa: E402
from dm2.config import ProgramSettings  # noqa: E402
from dm2.methods.independent import Independent  # noqa: E402
from dm2.run.costs import matmul_gflops  # noqa: E402
from dm2.run.programs import Programs  # noqa: E402

CONTAINERS = ("$", "Thunk", "while", "Pjit", "Common", "call", "Transpose")
"""Events that hold others, or are held by others."""


def events(program: Any, arguments: tuple) -> list[tuple[str, float]]:
    """Name and milliseconds of every operation of one run."""
    jax.block_until_ready(program(*arguments))
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            jax.block_until_ready(program(*arguments))
        (file,) = Path(folder).rglob("*.xplane.pb")
        data = jax.profiler.ProfileData.from_file(str(file))
    found = []
    for plane in data.planes:
        for line in plane.lines:
            found += [(event.name, event.duration_ns / 1e6) for event in line.events]
    return found


def sort(found: list[tuple[str, float]]) -> collections.Counter[str]:
    """Milliseconds by kind, of one program's events."""
    counts = collections.Counter(name for name, _ in found)
    # The GRU's loop over time runs its operations once a step, all else once a block or less.
    often = max(counts[name] for name in counts if name.startswith("dot")) // 2
    shares = cast(Any, collections.Counter())  # its type knows whole numbers only
    for name, milliseconds in found:
        if name.startswith(CONTAINERS) or " " in name:
            continue
        product = "products" if "dot" in name else "everything else"
        place = "in" if counts[name] > often else "outside"
        shares[f"{product}, {place} the GRU's loop"] += milliseconds
    return shares


def main() -> None:
    """Print the shares."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("scenario", nargs="?", default="5m_vs_6m", help="of SMAX")
    parser.add_argument("num_envs", nargs="?", type=int, default=128, help="environments")
    asked = parser.parse_args()
    settings = ProgramSettings(dm2.IPPO(), f"smax/{asked.scenario}", asked.num_envs, 128)
    programs = Programs(settings)
    state, method = programs.init(jnp.uint32(0)), cast(Independent, programs.method)
    trajectory = programs.collect(state.agents, state.rollout, state.iteration, jnp.uint32(0))[2]
    # If somebody died, an unknown share of the products would be left out.
    everybody = jnp.ones_like(trajectory.alive)
    trajectory = trajectory._replace(alive=everybody, next_alive=everybody)
    agents, prepared, _ = method.prepare(state.agents, trajectory, None)
    parts = {
        method.improve_actor: actor_arguments(agents, trajectory, prepared),
        method.improve_critic: critic_arguments(agents, trajectory, prepared),
    }
    shares: collections.Counter[str] = collections.Counter()
    for program, part in parts.items():
        shares += sort(events(program, part))
    total, peak = sum(shares.values()), matmul_gflops(5)
    flops = settings.method.update_flops(programs.env.spec, settings.iteration_steps)
    print(f"{total:.0f} ms of one core at a peak of {peak:.0f} GFLOP/s; {flops / 1e9:.0f} GFLOP, ")
    print(f"hence {flops / total / 1e6:.0f} GFLOP/s")
    for name, milliseconds in shares.most_common():
        print(f"{milliseconds / total:5.0%}  {name}")


if __name__ == "__main__":
    main()
