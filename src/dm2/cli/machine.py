"""Commands on this machine and on environments: bench, check, doctor."""

import json as jsonlib
import sys
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from dm2.cli.output import FailedError, Json, Seed, report
from dm2.errors import InputError

__all__ = ["bench", "check", "doctor"]


def doctor(json: Json = False) -> None:
    """Check the installation and list versions, devices and environments."""
    from dm2.cli.installation import examine

    report(examine(), json)


def check(
    env: Annotated[
        Positional[str], arg(help="The environment, for example module:factory?option=value.")
    ],
    num_envs: Annotated[int, arg(help="Environments side by side.")] = 4,
    seconds: Annotated[float, arg(help="For how long they are played at least.")] = 3.0,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Play an environment at random: does it keep its contract, how fast is it, what is padded?"""
    from dm2.run.check import check as check_environment

    result = check_environment(env, num_envs=num_envs, seconds=seconds, seed=seed)
    problems, padding = result["problems"], result.get("padding")
    if not json:
        result = {name: value for name, value in result.items() if name != "problems"}
        if padding is not None:
            result["padding"] = "; ".join(padding) or "nothing is unused"
    report(result, json)
    for problem in problems:
        print(f"dm2: {problem}", file=sys.stderr)
    if problems:
        raise FailedError


def bench(
    what: Annotated[
        Positional[Literal["training", "simulator", "parity"]],
        arg(
            help="`training`: simulator and methods in environment steps a second; `simulator`: "
            "the environments alone, smax/ beside JaxMARL's where it is installed; `parity`: how "
            "far smax/ is from JaxMARL's (needs the jaxmarl extra)."
        ),
    ] = "training",
    env: Annotated[
        tuple[str, ...],
        arg(help="Environments; by default smax/5m_vs_6m for training, else all battles."),
    ] = (),
    methods: Annotated[
        tuple[str, ...], arg(help="Methods to train, in their default settings.")
    ] = ("ippo", "dm2"),
    iterations: Annotated[int, arg(help="Timed iterations of each program.")] = 3,
    num_envs: Annotated[int, arg(help="Parallel environments in training.")] = 128,
    rollout_steps: Annotated[int, arg(help="Steps per environment between updates.")] = 128,
    states: Annotated[int, arg(help="Random states to compare, for parity.")] = 500,
    json: Json = False,
) -> None:
    """Measure this machine, or compare the battles with JaxMARL's."""
    from dm2 import bench as benchmarks
    from dm2.envs import list_environments

    if what == "training":
        name, *more = env or ("smax/5m_vs_6m",)
        if more:
            raise InputError(f"env = {' '.join(env)}: training is measured on one environment")
        figures = benchmarks.measure(name, iterations, num_envs, rollout_steps, methods)
        report(figures, json)
        return
    if what == "simulator":
        rows = benchmarks.race(env or list_environments(), iterations)
    else:
        from dm2.envs.smax import parity

        rows = parity.report(env, states)
    shown = []
    for row in rows:
        shown.append(row)
        if not json:
            # Of a comparison, what is equal need not be said.
            figures = (f"{k} {v:.4g}" for k, v in list(row.items())[1:] if v)
            print(f"{row['environment']:<22} {'  '.join(figures)}", flush=True)
    if json:
        print(jsonlib.dumps({"rows": shown}))
    if what == "parity":
        from dm2.envs.smax.parity import TOLERANCE

        worst = max(row["worst"] for row in shown)
        if worst > TOLERANCE:
            raise RuntimeError(f"worst difference {worst:.1e}, more than {TOLERANCE:g}")
