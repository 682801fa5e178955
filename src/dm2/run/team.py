"""The team of a run as it was at one of the run's checkpoints."""

import warnings
from pathlib import Path
from typing import Any, NamedTuple

from dm2.errors import Whole, as_path, as_whole
from dm2.run.directory import AGENTS_SIZES, RunDirectory
from dm2.run.programs import Programs, programs_for

__all__ = ["TrainedTeam", "load_team", "open_run"]


class TrainedTeam(NamedTuple):
    """A trained team can be evaluated, recorded and filmed."""

    run: RunDirectory
    programs: Programs
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


def load_team(run: RunDirectory | str | Path, at: Whole | None) -> TrainedTeam:
    """Loads a run's team. It warns if the rules of the environment have changed since.

    Args:
        run: The run or its directory.
        at: A checkpoint's step, or one of `checkpoint_steps`; the newest if None.

    Returns:
        The team.

    Raises:
        InputError: If there is no such run or checkpoint, its team diverged, or the environment has
            other sizes now.
    """
    run = open_run(run)
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
    return TrainedTeam(run, programs, team, extra["step"])
