"""Programs by turns, each in a process of its own: environment steps a second of an iteration."""

import multiprocessing
import statistics
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import dm2
from winning import Learns

ENVS, STEPS = 128, 128


class Work(NamedTuple):
    """What is timed."""

    iterate: Callable[[], Any]
    flops: float
    """Operations of the products of its update."""
    steps: int = ENVS * STEPS
    """Environment steps of an iteration."""


Maker = Callable[[], Work]


def ours(name: str, scenario: str, envs: int = ENVS, **changes: Any) -> Work:
    """An iteration of dm2. `changes`: settings that differ from the method's own, by group; it
    learns next to nothing, unless a group says otherwise."""
    dm2.set_up_process()  # which is not for the peer
    from dm2.bench import made_up_demonstrations
    from dm2.config import ProgramSettings
    from dm2.methods import settings_class
    from dm2.run.programs import Programs

    method = settings_class(name).from_dict(changes or {"ppo": {"learning_rate": 1e-12}})
    settings = ProgramSettings(method, f"smax/{scenario}", envs, STEPS)
    programs = Programs(settings)
    experts = method.experts(made_up_demonstrations(programs.env)) if method.imitates else None
    state = programs.init(jnp.uint32(0))

    def iterate() -> Any:
        nonlocal state
        state, metrics = programs.iterate(state, jnp.uint32(0), experts)
        return state, metrics

    steps = settings.iteration_steps
    return Work(iterate, method.update_flops(programs.env.spec, steps), steps)


def theirs(make: Callable[[], Any], steps: int = ENVS * STEPS) -> Work:
    """An iteration of a peer, `make()`."""
    peer = make()
    agent, key = peer.init(), jax.random.PRNGKey(2)

    def iterate() -> Any:
        nonlocal agent
        agent, error = peer.iterate(agent, key)
        return agent, error

    return Work(iterate, peer.update_flops(), steps)


class Race(NamedTuple):
    """Programs that do the same work on the same battles."""

    scenario: str
    makers: dict[str, Maker]
    peer: str
    """The one that the others are compared with."""
    learners: dict[str, Learns] = {}  # noqa: RUF012 (never changed)


def seconds(function: Callable[[], Any]) -> float:
    """Wall-clock time of one call, until its results are there."""
    began = time.perf_counter()
    jax.block_until_ready(function())
    return time.perf_counter() - began


def serve(make: Maker, line: Connection) -> None:
    """A process of one program: compile, report, then one timed iteration for each request."""
    jax.config.update("jax_enable_compilation_cache", False)  # compilation is timed
    began = time.perf_counter()
    iterate, flops, steps = make()
    jax.block_until_ready(iterate())
    line.send((time.perf_counter() - began, flops, steps))
    # The second may compile again: what comes out of the peer differs in weak types from what went
    # in. Its own script, one program for all iterations, compiles once.
    jax.block_until_ready(iterate())
    while line.recv():
        line.send(seconds(iterate))


def peak_gflops(repeats: int) -> float:
    """The best of some large products of matrices."""
    from dm2.run.costs import matmul_gflops

    return matmul_gflops(repeats)


def race(rounds: int, one: Race) -> list[dict[str, Any]]:
    """All programs by turns; medians and ranges over the rounds, and ratios to the peer's speed."""
    makers, peer = one.makers, one.peer
    context = multiprocessing.get_context("spawn")
    lines: dict[str, Any] = {}  # connections, whose class depends on the platform
    first: dict[str, tuple[float, float, int]] = {}
    for name, make in makers.items():
        lines[name], far = context.Pipe()
        context.Process(target=serve, args=(make, far), daemon=True).start()
        first[name] = lines[name].recv()
    times: dict[str, list[float]] = {name: [] for name in makers}
    for _ in range(rounds):
        for name, line in lines.items():
            line.send(True)
            times[name].append(line.recv())
    for line in lines.values():
        line.send(False)
    rows = []
    for name, taken in times.items():
        compiled, flops, steps = first[name]
        rates = sorted(steps / t for t in taken)
        theirs = [first[peer][2] / t for t in times[peer]]
        ratios = sorted(steps / t / b for t, b in zip(taken, theirs, strict=True))
        rows.append(
            {
                "program": name,
                "steps_per_s": statistics.median(rates),
                "steps_per_s_range": [rates[0], rates[-1]],
                "ratio": statistics.median(ratios),
                "ratio_range": [ratios[0], ratios[-1]],
                "first_iteration_s": compiled,
                "mflop_per_step": flops / steps / 1e6,
            }
        )
    return rows
