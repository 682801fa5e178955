"""Training runs on disk: the host loop around the compiled programs. It knows no method."""

import dataclasses
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from dm2.agent.demonstrations import Expert
from dm2.config import Config
from dm2.demos import Demonstrations
from dm2.demos.experts import load_experts
from dm2.errors import InputError
from dm2.run.costs import memory_mib
from dm2.run.directory import RunDirectory
from dm2.run.log import Log
from dm2.run.process import stop_signal
from dm2.run.programs import Programs, TrainState, programs_for
from dm2.run.progress import Reporter

__all__ = ["foresee", "resume", "train"]


def train(config: Config, out: str | Path, *, quiet: bool = False) -> RunDirectory:
    """Trains one run into a new directory.

    Args:
        config: the settings.
        out: the directory, which must not exist or be empty.
        quiet: whether to print no progress.

    Returns:
        The run's directory.

    Raises:
        InputError: settings, demonstrations or directory are unusable.
        KeyboardInterrupt: after Ctrl-C, when a checkpoint to resume from has been written.
    """
    programs = programs_for(config.program)
    demos = _load_demos(config, programs)
    provenance = {"environment": dataclasses.asdict(programs.env.spec)}
    if demos is not None:
        provenance["demonstrations"] = {
            "path": config.demos,
            "sha256": demos.sha256,
            "win_rate": demos.provenance.get("win_rate"),
        }
    run = RunDirectory.create(out, config, provenance)
    with run.lock():
        experts = _experts(demos, programs)
        programs.compile(experts, config.eval_episodes)
        _loop(run, programs, programs.init(jnp.uint32(config.seed)), experts, quiet)
    return run


def resume(path: str | Path, steps: int | None = None, *, quiet: bool = False) -> RunDirectory:
    """Goes on with a run from its newest checkpoint, as if it had never stopped.

    The results are bit-identical with those of an uninterrupted run on the same machine (with as
    many cores: they decide how sums are split) and versions.

    Args:
        path: the run's directory.
        steps: environment steps to train to instead of what the run was made for, no fewer.
        quiet: whether to print no progress.

    Returns:
        The run's directory.

    Raises:
        InputError: there is no such run, or it cannot go on.
        KeyboardInterrupt: after Ctrl-C, when a checkpoint to resume from has been written.
    """
    run = RunDirectory.open(path)
    with run.lock():
        programs = programs_for(run.config.program)
        _refuse_other_rules(run, programs)
        if steps is not None:
            run.extend(steps)
        demos = _load_demos(run.config, programs)
        recorded = run.info.get("demonstrations", {}).get("sha256")
        if demos is not None and demos.sha256 != recorded:
            remedy = "bring back the file that the run began with"
            raise InputError(f"demos = {run.config.demos!r}: its contents changed; {remedy}")
        experts = _experts(demos, programs)
        programs.compile(experts, run.config.eval_episodes)
        if run.steps():
            state, extra = run.load_newest_valid(programs.shapes())
            run.truncate_metrics(extra["step"])
        else:
            state = programs.init(jnp.uint32(run.config.seed))
            run.truncate_metrics(-1)
        _loop(run, programs, state, experts, quiet)
    return run


def foresee(config: Config) -> dict[str, Any]:
    """What a run would take, after the checks that `train` makes.

    Returns:
        `steps` and `iterations`, rounded up, `memory_mib` (see `dm2.run.costs`) and
        `mflop_per_step`, of its updates' matrix products.

    Raises:
        InputError: settings or demonstrations are unusable.
    """
    programs = programs_for(config.program)
    demos = _load_demos(config, programs)
    size = 0 if demos is None else sum(x.nbytes for x in _experts(demos, programs) or ())
    spec, steps = programs.env.spec, config.iteration_steps
    return {
        "environment": spec.name,
        "steps": config.iterations * steps,
        "iterations": config.iterations,
        "memory_mib": memory_mib(config.program, spec, size),
        "mflop_per_step": config.method.update_flops(spec, steps) / steps / 1e6,
    }


def _refuse_other_rules(run: RunDirectory, programs: Programs) -> None:
    """Raises InputError if the environment's rules have changed since the run began."""
    changed = run.changed_rules(programs.env.spec.version)
    if changed is not None:
        dm2 = f"dm2 {run.info['dm2_version']}, commit {run.info.get('commit') or 'unknown'}"
        remedy = f"install what it began with ({dm2}), or train again into another --out"
        raise InputError(f"{changed}; {remedy}")


def _load_demos(config: Config, programs: Programs) -> Demonstrations | None:
    if config.demos is None:
        return None
    demos = Demonstrations.load(config.demos)
    demos.check(programs.env.spec)
    return demos


def _experts(demos: Demonstrations | None, programs: Programs) -> Expert | None:
    return None if demos is None else load_experts(demos, programs.env.spec.episode_limit)


def _loop(
    run: RunDirectory, programs: Programs, state: TrainState, experts: Expert | None, quiet: bool
) -> None:
    """Iterates to the end of the run; evaluates, logs and checkpoints on the way."""
    config = run.config
    seed = jnp.uint32(config.seed)
    step = int(state.iteration) * config.iteration_steps
    total = config.iterations * config.iteration_steps
    title = f"{config.method.name} {config.env} seed {config.seed}"
    with Log(run) as log, stop_signal() as stop, Reporter(title, total, step, quiet=quiet) as out:

        def evaluate() -> None:
            episodes = config.eval_episodes
            outcome = programs.evaluate(state.agents, seed, jnp.int32(step), episodes)
            out.evaluated(log.evaluation(step, jax.device_get(outcome)))

        if step == 0:
            evaluate()
        while step < total:
            began = time.monotonic()
            state, metrics = programs.iterate(state, seed, experts)
            metrics = jax.device_get(metrics)
            before, step = step, step + config.iteration_steps
            rate = config.iteration_steps / (time.monotonic() - began)
            out.advanced(step, log.iteration(step, metrics, rate))
            last = step >= total
            if last or _crossed(before, step, config.eval_every):
                evaluate()
            chosen = any(before < mark <= step for mark in config.checkpoint_steps)
            due = _crossed(before, step, config.checkpoint_every)
            if last or chosen or due or stop.is_set():
                run.save_checkpoint(step, state, {}, permanent=chosen)
                run.prune(config.keep)
            if stop.is_set() and not last:
                raise KeyboardInterrupt(f"stopped at {step} steps; go on: dm2 resume {run.path}")


def _crossed(before: int, after: int, every: int) -> bool:
    return before // every != after // every
