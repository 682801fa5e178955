"""The team of a run as it was at one of the run's checkpoints."""

import dataclasses
import warnings
from pathlib import Path
from typing import Any, NamedTuple

from dm2.envs import EnvSpec
from dm2.envs.registry import check_name
from dm2.errors import InputError, Whole, as_path, as_whole
from dm2.run.directory import AGENTS_SIZES, RunDirectory
from dm2.run.programs import Programs, programs_for

__all__ = ["TrainedTeam", "load_team", "open_run"]


class TrainedTeam(NamedTuple):
    """A trained team can be evaluated, recorded and filmed."""

    run: RunDirectory
    programs: Programs
    """Of the environment that it plays in."""
    state: Any
    """The state of the run's method."""
    step: int
    """Environment steps of training."""


def open_run(run: RunDirectory | str | Path) -> RunDirectory:
    """Opens a run, if it is not open.

    Args:
        run: The run or its directory.

    Returns:
        The run.

    Raises:
        InputError: If there is no such run.
    """
    return run if isinstance(run, RunDirectory) else RunDirectory.open(as_path("run", run))


def load_team(
    run: RunDirectory | str | Path, at: Whole | None, env: str | None = None
) -> TrainedTeam:
    """Loads a run's team. It warns if the rules of the environment have changed since.

    Args:
        run: The run or its directory.
        at: A checkpoint's step, or one of `checkpoint_steps`; the newest if None.
        env: The name of the environment to play in; the run's if None.

    Returns:
        The team.

    Raises:
        InputError: If there is no such run, checkpoint or environment, the team diverged, the run's
            environment has other sizes now, or `env` has other sizes.
    """
    run = open_run(run)
    if env is not None:
        check_name(env)
    programs = programs_for(run.config.program)
    run.refuse_other_sizes(programs.env.spec, AGENTS_SIZES)
    changed = run.changed_rules(programs.env.spec.version)
    if changed is not None:
        warnings.warn(f"{changed}, by which the team plays now", RuntimeWarning, stacklevel=3)
    step = None if at is None else as_whole("at", at, 0)
    if step is not None:
        # A checkpoint asked for at `step` was written when its iteration ended.
        ended = -(-step // run.config.iteration_steps) * run.config.iteration_steps
        step = ended if ended in run.steps() else step
    team, extra = run.load_checkpoint(programs.shapes().agents, step, prefix="agents")
    if env is not None:
        trained_in = programs.env.spec
        programs.close()
        programs = programs_for(dataclasses.replace(run.config.program, env=env))
        _refuse_other_sizes(trained_in, programs.env.spec)
        programs.check()
    return TrainedTeam(run, programs, team, extra["step"])


def _refuse_other_sizes(trained_in: EnvSpec, other: EnvSpec) -> None:
    """Raises InputError if a team of one environment cannot play in the other."""
    differ = [
        f"{name} is {getattr(other, name)}, there {getattr(trained_in, name)}"
        for name in AGENTS_SIZES
        if getattr(other, name) != getattr(trained_in, name)
    ]
    if differ:
        problem = f"env = {other.name!r}: unlike {trained_in.name!r}, in which the team was trained"
        raise InputError(f"{problem}: {', '.join(differ)}; choose one of the same sizes")
