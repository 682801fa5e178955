"""How fast this machine is: simulator, methods, what the processor could do, and JaxMARL."""

import dataclasses
import functools
import resource
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from dm2.compilation import nothing_kept
from dm2.config import ProgramSettings
from dm2.demos import Demonstrations
from dm2.envs import Environment, make
from dm2.envs.smac import Smac
from dm2.envs.smax import Smax
from dm2.errors import InputError
from dm2.methods import IPPO, settings_class
from dm2.rollout import collect
from dm2.rollout.stepping import random_legal, random_steps
from dm2.run.costs import best_seconds, matmul_gflops
from dm2.run.programs import Programs

__all__ = ["made_up_demonstrations", "measure", "race"]

_BEGUN = time.monotonic()
_SIMULATED_ENVS, _SIMULATED_STEPS = 512, 64
_COMPILED = 2  # times; the faster counts
_EXPERT_EPISODES, _EXPERT_STEPS = 200, 100


def _simulator(env: Environment, repeats: int) -> float:
    """Environment steps a second with random legal actions."""
    run = jax.jit(lambda key: random_steps(env, key, _SIMULATED_ENVS, _SIMULATED_STEPS))
    key = jax.random.PRNGKey(0)
    jax.block_until_ready(run(key))
    steps = _SIMULATED_ENVS * _SIMULATED_STEPS
    return steps / best_seconds(lambda: run(key), repeats)


def _theirs(scenario: str) -> Callable[[Array], Any]:
    """Random legal actions in JaxMARL's SMAX as it comes, with its own automatic resets."""
    from dm2.envs.smax.parity import Reference

    env = Reference(scenario, lethal_walls=False).env

    def step(carry: Any, key: Array) -> tuple[Any, None]:
        state, _ = carry
        act_key, step_key = jax.random.split(key)
        legal = jax.vmap(env.get_avail_actions)(state)
        keys = jax.random.split(act_key, len(env.agents))
        orders = {
            name: random_legal(k, legal[name] > 0) for k, name in zip(keys, env.agents, strict=True)
        }
        keys = jax.random.split(step_key, _SIMULATED_ENVS)
        observations, state, *_ = jax.vmap(env.step)(keys, state, orders)
        return (state, {name: observations[name] for name in env.agents}), None

    def run(key: Array) -> Any:
        keys = jax.random.split(key, _SIMULATED_STEPS + 1)
        observations, state = jax.vmap(env.reset)(jax.random.split(keys[0], _SIMULATED_ENVS))
        carry = (state, {name: observations[name] for name in env.agents})
        return jax.lax.scan(step, carry, keys[1:])[0]

    return run


def race(names: Iterable[str], repeats: int) -> Iterator[dict[str, Any]]:
    """Simulators alone, an environment at a time: random legal actions, 512 environments,
    observations and legal actions at every step, the best of `repeats`.

    Beside `smax/` without options JaxMARL's SMAX runs, by turns in the same process, where it is
    installed. `pair_ns` is the time of a step over the number of pairs of units; `compile_s`
    counts from the Python function to the program, the better of two, nothing taken from disk.
    Raises InputError for an unknown environment or `repeats` that are not above 0."""
    _above_zero(iterations=repeats)
    return (_race(make(name), repeats) for name in names)


def _race(env: Environment, repeats: int) -> dict[str, Any]:
    rules, _, scenario = env.spec.name.partition("/")
    sizes = {"num_envs": _SIMULATED_ENVS, "steps": _SIMULATED_STEPS}
    programs: list[Callable[[Array], Any]] = [functools.partial(random_steps, env, **sizes)]
    if rules == "smax" and "?" not in scenario and find_spec("jaxmarl"):
        programs.append(_theirs(scenario))
    with nothing_kept():
        made = [[_compiled(program) for program in programs] for _ in range(_COMPILED)]
    compiled = [min(seconds for seconds, _ in each) for each in zip(*made, strict=True)]
    starts = [functools.partial(start, jax.random.PRNGKey(0)) for _, start in made[-1]]
    for start in starts:
        jax.block_until_ready(start())
    turns = [[best_seconds(start, 1) for start in starts] for _ in range(repeats)]
    rates = [_SIMULATED_ENVS * _SIMULATED_STEPS / min(taken) for taken in zip(*turns, strict=True)]
    row = {"environment": env.spec.name, "steps_per_s": rates[0], "compile_s": compiled[0]}
    if isinstance(env, Smax | Smac):
        units = env.num_allies + env.num_enemies
        row["pair_ns"] = 1e9 / rates[0] / units**2
    if len(rates) > 1:
        row["jaxmarl_steps_per_s"], row["jaxmarl_compile_s"] = rates[1], compiled[1]
        row["ratio"] = rates[0] / rates[1]
    return row


def _compiled(program: Callable[[Array], Any]) -> tuple[float, Callable[[Array], Any]]:
    """Seconds from a function to a program, by XLA's default settings, and the program."""
    jax.clear_caches()
    key = jax.random.PRNGKey(0)
    began = time.perf_counter()
    made = jax.jit(program).lower(key).compile()
    return time.perf_counter() - began, made


def _above_zero(**counts: int) -> None:
    for name, value in counts.items():
        if value < 1:
            raise InputError(f"{name} = {value}: must be a whole number above 0")


def _training(programs: Programs, repeats: int) -> float:
    """Environment steps a second of whole iterations."""
    method = programs.settings.method
    experts = method.experts(made_up_demonstrations(programs.env)) if method.imitates else None
    seed = jnp.uint32(0)
    state, _ = programs.pretrain(programs.init(seed), experts)

    def iterate():
        nonlocal state
        state, metrics = programs.iterate(state, seed, experts)
        return metrics

    jax.block_until_ready(iterate())
    return programs.settings.iteration_steps / best_seconds(iterate, repeats)


def made_up_demonstrations(env: Environment) -> Demonstrations:
    """Random observations of the right shape: speed does not depend on what they say."""
    spec, rng = env.spec, np.random.default_rng(0)
    steps = min(_EXPERT_STEPS, spec.episode_limit)
    shape = (_EXPERT_EPISODES, steps, spec.num_agents)
    return Demonstrations.from_episodes(
        rng.normal(size=(*shape, spec.observation_size)).astype(np.float32),
        np.ones(shape, bool),
        np.full(_EXPERT_EPISODES, steps),
        {
            "environment": spec.name,
            "environment_version": spec.version,
            "num_actions": spec.num_actions,
            "episode_limit": spec.episode_limit,
        },
        actions=rng.integers(spec.num_actions, size=shape),
        legal=np.ones((*shape, spec.num_actions), bool),
    )


def measure(
    env_name: str,
    iterations: int,
    num_envs: int = 128,
    rollout_steps: int = 128,
    methods: Sequence[str] = ("ippo", "dm2"),
) -> dict[str, Any]:
    """All figures in one process, each the best of `iterations` after one warm-up; of `methods`,
    in their default settings, `<method>_steps_per_s`.

    `first_update_s` counts from the import of this module to the end of the first IPPO
    iteration, with compilation unless the programs are on disk already;
    `peak_rss_mib` is the most memory that the process held while it trained, one method after
    another. Raises InputError for counts that are not above 0 and for an unknown environment or
    method.
    """
    _above_zero(iterations=iterations, num_envs=num_envs, rollout_steps=rollout_steps)
    env = make(env_name)
    chosen = {name: settings_class(name)().settled(env_name) for name in methods}
    for method in chosen.values():
        method.check(num_envs)
    settings = ProgramSettings(IPPO(), env_name, num_envs, rollout_steps)
    settings.method.check(num_envs)
    ippo = Programs(settings, env)
    ippo.compile(None)
    state = ippo.init(jnp.uint32(0))
    jax.block_until_ready(ippo.iterate(state, jnp.uint32(0), None))
    first = time.monotonic() - _BEGUN
    rates = {}
    for name, method in chosen.items():
        is_ippo = name == settings.method.name
        other = dataclasses.replace(settings, method=method)
        programs = ippo if is_ippo else Programs(other, env)
        rates[f"{name}_steps_per_s"] = _training(programs, iterations)
    peak = _peak_rss_mib()
    update = _update_seconds(ippo, iterations)
    flops = settings.method.update_flops(env.spec, settings.iteration_steps)
    return {
        "environment": env.spec.name,
        "simulator_steps_per_s": _simulator(env, iterations),
        **rates,
        "first_update_s": first,
        "update_gflops": flops / update / 1e9,
        "matmul_peak_gflops": matmul_gflops(iterations),
        "peak_rss_mib": peak,
    }


def _peak_rss_mib() -> float:
    """The most memory that this process has held."""
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss would begin with that of the process that started this one
        (line,) = (x for x in status.read_text().splitlines() if x.startswith("VmHWM"))
        return int(line.split()[1]) / 2**10
    unit = 2**20 if sys.platform == "darwin" else 2**10  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def _update_seconds(programs: Programs, repeats: int) -> float:
    """Time of the learning half of an iteration in which nobody dies: steps of the dead are left
    out, so any other would be shorter."""
    state, method = programs.init(jnp.uint32(0)), programs.method
    steps, key = programs.settings.rollout_steps, jax.random.PRNGKey(0)
    play = jax.jit(functools.partial(collect, programs.env, method, steps=steps))
    _, trajectory, _ = play(state.agents, state.rollout, key)
    everybody = jnp.ones_like(trajectory.alive)
    trajectory = trajectory._replace(alive=everybody, next_alive=everybody)
    update = functools.partial(method.learn, state.agents, trajectory, None)
    jax.block_until_ready(update())
    return best_seconds(update, repeats)
