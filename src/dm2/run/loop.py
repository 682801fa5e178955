"""Training runs on disk: the host loop around the compiled programs. It knows no method."""

import contextlib
import dataclasses
import os
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dm2.config import Config
from dm2.demos import Demonstrations
from dm2.envs import HostEnvironment
from dm2.envs.factories import name_of
from dm2.errors import DivergedError, EnvError, InputError, Whole, as_path, as_whole
from dm2.run import checkpoint
from dm2.run.costs import memory_mib
from dm2.run.directory import AGENTS_SIZES, RunDirectory
from dm2.run.log import Log
from dm2.run.process import stop_signal
from dm2.run.programs import Programs, TrainState, programs_for
from dm2.run.progress import Reporter
from dm2.run.team import open_run

__all__ = ["foresee", "resume", "train"]


def train(config: Config, out: str | Path, *, env: Any = None, quiet: bool = False) -> RunDirectory:
    """Trains one run into a new directory.

    Args:
        config: The settings. The run keeps the demonstrations' absolute path.
        out: The directory, which must be new or empty.
        env: An environment of your own, or the function or class that makes one, in place of the
            one that the settings name (docs/environments.md). The run knows it by the name by which
            it can be imported, `module:factory`. One that has none trains, but no other process can
            go on with its run, which a warning says.
        quiet: Whether to print no progress.

    Returns:
        The run's directory.

    Raises:
        InputError: If settings, demonstrations or directory are unusable.
        DivergedError: If an update came to a number that is not finite.
        CheckpointError: If the run's directory cannot be written; earlier checkpoints are intact.
        EnvError: If an environment stepped in Python failed; the run can go on once it is mended.
        KeyboardInterrupt: After Ctrl-C, when a checkpoint to resume from has been written.
    """
    path = Path(as_path("out", out))
    config = _checked(config if env is None else _with_object(config, env))
    programs = programs_for(config.program)
    programs.check()
    demos = _load_demos(config, programs)
    experts = _experts(config, demos)
    provenance = {"environment": dataclasses.asdict(programs.env.spec)}
    if demos is not None:
        provenance["demonstrations"] = {
            "path": config.demos,
            "sha256": demos.sha256,
            "win_rate": demos.provenance.get("win_rate"),
            "mean_return": demos.mean_return,
        }
    new = not path.exists()
    run = RunDirectory.create(path, config, provenance)
    with run.lock(), contextlib.closing(programs):
        try:
            _compile(run, programs, experts)
            state = programs.init(jnp.uint32(config.seed))
        except Exception:  # such as what does not fit into memory
            run.discard(folder=new)
            raise
        with _going_on(run):
            _loop(run, programs, state, experts, quiet)
    return run


def resume(
    run: RunDirectory | str | Path,
    steps: Whole | None = None,
    *,
    demos: str | Path | None = None,
    quiet: bool = False,
) -> RunDirectory:
    """Goes on with a run from its newest checkpoint, as if it had never stopped.

    The results are bit-identical with those of an uninterrupted run on the same machine (with as
    many cores: they decide how sums are split) and versions.

    Args:
        run: The run or its directory.
        steps: Environment steps to train to instead of what the run was made for, no fewer.
        demos: Where the file of demonstrations lies now, if it was moved.
        quiet: Whether to print no progress.

    Returns:
        The run's directory.

    Raises:
        InputError: If there is no such run, or it cannot go on; nothing in it was changed then.
        DivergedError: If an update came to a number that is not finite.
        CheckpointError: If the run's directory cannot be written; earlier checkpoints are intact.
        EnvError: If an environment stepped in Python failed; the run can go on once it is mended.
        KeyboardInterrupt: After Ctrl-C, when a checkpoint to resume from has been written.
    """
    run = open_run(run)
    with run.lock():
        run.read_metrics()  # so that damage is told before anything is compiled or written
        config = _changed(run, steps, demos)
        programs = programs_for(config.program)
        _refuse_other_rules(run, programs)
        loaded = _load_demos(config, programs, f"dm2 resume {run.path}")
        recorded = run.info.get("demonstrations", {}).get("sha256")
        if loaded is not None and loaded.sha256 != recorded:
            remedy = "bring back the file that the run began with"
            raise InputError(f"demos = {config.demos!r}: its contents changed; {remedy}")
        experts = _experts(config, loaded)
        _compile(run, programs, experts)
        with contextlib.closing(programs), _going_on(run):
            state, step = _where_it_stopped(run, config, programs)
            if config != run.config:
                run.update(config)
            run.truncate_metrics(step)
            _loop(run, programs, state, experts, quiet)
    return run


def _where_it_stopped(
    run: RunDirectory, config: Config, programs: Programs
) -> tuple[TrainState, int]:
    """The state of the newest checkpoint and its step; the first state and -1 if there is none yet.

    Raises InputError if there must have been one.
    """
    seed = jnp.uint32(config.seed)
    if not run.has_checkpoints():
        _refuse_lost_checkpoints(run)
        return programs.init(seed), -1
    state, extra = run.load_newest_valid(programs.shapes())
    if isinstance(programs.env, HostEnvironment) and extra["step"] < config.steps:
        state = programs.begin_anew(state, seed)
        again = "its episodes begin anew, so what follows is not bit-identical"
        problem = f"{run.path}: {run.config.env} is stepped in Python"
        warnings.warn(f"{problem}; {again}", RuntimeWarning, stacklevel=3)
    return state, extra["step"]


def _refuse_lost_checkpoints(run: RunDirectory) -> None:
    """Raises InputError if a run without checkpoints went on after its first was due; warns if what
    it recorded before that will be made again."""
    records, config = run.read_metrics(), run.config
    reached = records[-1]["step"] if records else 0
    due = min(config.checkpoint_every, *config.checkpoint_steps, config.steps)
    first = -(-due // config.iteration_steps) * config.iteration_steps
    if reached > first:
        remedy = "bring them back, or train again into another --out"
        lost = f"its checkpoints are gone, though it was trained to step {reached}"
        raise InputError(f"{run.path}: {lost}; {remedy}")
    if reached > 0:
        problem = f"{run.path}: has no checkpoint yet, so it begins anew"
        warnings.warn(problem, RuntimeWarning, stacklevel=4)


@contextlib.contextmanager
def _going_on(run: RunDirectory) -> Iterator[None]:
    """A context in which the error of an environment also says how the run goes on."""
    try:
        yield
    except EnvError as error:
        how = (
            f"go on: dm2 resume {run.path}" if run.steps() else "train anew: there is no checkpoint"
        )
        raise EnvError(f"{error}; then {how}") from None


def _with_object(config: Config, env: Any) -> Config:
    """The settings with the name of an object as their environment."""
    name = name_of(env, config.env)
    if name.startswith("object:"):
        problem = f"{name} has no name by which another process could import it"
        lost = "there is no going on, evaluating, recording, watching or --seeds from one"
        remedy = "put what makes it into a module"
        warnings.warn(f"{problem}: {lost}; {remedy}", RuntimeWarning, stacklevel=3)
    return dataclasses.replace(config, env=name)


def foresee(config: Config) -> dict[str, Any]:
    """What a run would take, after the checks that `train` makes.

    Returns:
        `environment`, its name, `steps` and `iterations`, rounded up, `memory_mib` (see
        `dm2.run.costs`) and `mflop_per_step`, of its updates' matrix products.

    Raises:
        InputError: If settings or demonstrations are unusable.
    """
    config = _checked(config)
    programs = programs_for(config.program)
    programs.check()
    demos = _load_demos(config, programs)
    size = 0 if demos is None else sum(x.nbytes for x in jax.tree.leaves(_experts(config, demos)))
    spec, steps = programs.env.spec, config.iteration_steps
    return {
        "environment": spec.name,
        "steps": config.iterations * steps,
        "iterations": config.iterations,
        "memory_mib": memory_mib(config.program, spec, size),
        "mflop_per_step": config.method.update_flops(spec, steps) / steps / 1e6,
    }


def _checked(config: Config) -> Config:
    """The settings as a run keeps them, with an absolute path, once what they announce is known to
    come."""
    if not isinstance(config, Config):
        raise InputError(f"config = {config!r}: must be a dm2.Config")
    end = config.iterations * config.iteration_steps
    for mark in config.checkpoint_steps:
        if mark > end:
            remedy = f"the run ends at {end}; ask for that many at most, or for more steps"
            raise InputError(f"checkpoint_steps = {mark}: {remedy}")
    return _at_home(config.settled)


def _at_home(config: Config) -> Config:
    """The settings with the demonstrations' absolute path, for whoever resumes elsewhere."""
    if config.demos is None:
        return config
    return dataclasses.replace(config, demos=os.path.abspath(config.demos))


def _changed(run: RunDirectory, steps: Whole | None, demos: str | Path | None) -> Config:
    """The settings with which a run goes on; they are not written yet."""
    config = run.config
    if steps is not None:
        wanted = as_whole("steps", steps)
        if wanted < config.steps:
            remedy = f"the run already goes to {config.steps}; ask for as many or more"
            raise InputError(f"steps = {wanted}: {remedy}")
        horizon = config.horizon
        if wanted > config.steps and config.method.has_schedules:
            horizon = horizon or config.steps
        config = dataclasses.replace(config, steps=wanted, horizon=horizon)
    if demos is not None:
        config = _at_home(dataclasses.replace(config, demos=as_path("demos", demos)))
    return config


def _refuse_other_rules(run: RunDirectory, programs: Programs) -> None:
    """Raises InputError if the environment's rules or sizes have changed since the run began."""
    changed = run.changed_rules(programs.env.spec.version)
    if changed is not None:
        dm2 = f"dm2 {run.info['dm2_version']}, commit {run.info.get('commit') or 'unknown'}"
        remedy = f"install what it began with ({dm2}), or train again into another --out"
        raise InputError(f"{changed}; {remedy}")
    run.refuse_other_sizes(programs.env.spec, (*AGENTS_SIZES, "state_size"))


def _load_demos(
    config: Config, programs: Programs, going_on: str | None = None
) -> Demonstrations | None:
    """The demonstrations, if the method learns from any. `going_on` is the command that may name
    another place for them."""
    if config.demos is None:
        return None
    if going_on is not None and not Path(config.demos).exists():
        remedy = f"if it was moved, say where it is now: {going_on} --demos FILE"
        raise InputError(f"demos = {config.demos!r}: no such file; {remedy}")
    demos = Demonstrations.load(config.demos)
    demos.check(programs.env.spec, same_limit=config.method.needs_same_limit)
    return demos


def _experts(config: Config, demos: Demonstrations | None) -> Any:
    return None if demos is None else config.method.experts(demos)


def _compile(run: RunDirectory, programs: Programs, experts: Any) -> None:
    try:
        programs.compile(experts, run.config.eval_episodes)
    except KeyboardInterrupt:
        when = "stopped while compiling, nothing is lost"
        raise KeyboardInterrupt(f"{when}; go on: dm2 resume {run.path}") from None


def _loop(
    run: RunDirectory, programs: Programs, state: TrainState, experts: Any, quiet: bool
) -> None:
    """Iterates to the end of the run; evaluates, logs and checkpoints on the way."""
    config, wins = run.config, programs.env.spec.wins
    seed = jnp.uint32(config.seed)
    step = int(state.iteration) * config.iteration_steps
    total = config.iterations * config.iteration_steps
    horizon = (config.horizon or config.steps) / config.iteration_steps
    title = f"{config.method.name} {config.env} seed {config.seed}"
    reporter = Reporter(title, total, step, wins=wins, quiet=quiet)
    with Log(run, wins) as log, stop_signal() as stop, reporter as out:

        def evaluate() -> None:
            episodes = config.eval_episodes
            outcome = programs.evaluate(state.agents, seed, jnp.uint32(step % 2**32), episodes)
            out.evaluated(log.evaluation(step, jax.device_get(outcome)))

        if step == 0:
            state, learnt = programs.pretrain(state, experts)
            log.pretraining(jax.device_get(learnt))
            evaluate()
        while step < total:
            began = time.monotonic()
            state, metrics = programs.iterate(state, seed, experts, horizon)
            metrics = jax.device_get(metrics)
            before, step = step, step + config.iteration_steps
            rate = config.iteration_steps / (time.monotonic() - began)
            out.advanced(step, log.iteration(step, metrics, rate))
            for quantity, agent in _not_finite(metrics, state, programs):
                raise _diverged(run, log, step, quantity, agent)
            last = step >= total
            if last or _crossed(before, step, config.eval_every):
                evaluate()
            chosen = any(before < mark <= step for mark in config.checkpoint_steps)
            due = _crossed(before, step, config.checkpoint_every)
            if last or chosen or due or stop.is_set():
                run.save_checkpoint(step, state, permanent=chosen)
                run.prune(config.keep)
            if stop.is_set() and not last:
                raise KeyboardInterrupt(f"stopped at {step} steps; go on: dm2 resume {run.path}")


def _not_finite(
    metrics: dict[str, Any], state: TrainState, programs: Programs
) -> Iterator[tuple[str, int | None]]:
    """What is not finite after an update, and whose it is, if an agent's: what the update
    reported, losses first, and what it made of the team."""
    losses_first = sorted(metrics["agents"].items(), key=lambda one: not one[0].endswith("loss"))
    for name, values in losses_first:
        for agent in np.flatnonzero(~np.isfinite(values)):
            yield name, int(agent) if len(values) == programs.env.spec.num_agents else None
    if not np.isfinite(metrics["episodes"]["returns"]):
        yield "mean_return", None
    found = checkpoint.nonfinite(state.agents, "agents")
    if found is not None:
        name, leaf = found
        agents = programs.env.spec.num_agents
        own = not programs.method.centralised and leaf.ndim > 0 and len(leaf) == agents
        yield name, int(np.argwhere(~np.isfinite(leaf))[0, 0]) if own else None


def _diverged(
    run: RunDirectory, log: Log, step: int, quantity: str, agent: int | None
) -> DivergedError:
    """The error that stops a run, after it was written down."""
    log.divergence(step, agent, quantity)
    whose = f"{quantity} of agent {agent}" if agent is not None else quantity
    problem = f"{run.path}: training diverged: {whose} is not finite at step {step}"
    kept = run.steps()
    kept_text = f"the checkpoint of step {kept[-1]} is kept" if kept else "there is no checkpoint"
    return DivergedError(f"{problem}; {kept_text}; train again with a lower learning rate")


def _crossed(before: int, after: int, every: int) -> bool:
    return before // every != after // every
