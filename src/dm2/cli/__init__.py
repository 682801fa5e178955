"""The command line: thin, one function a command, the same words as the Python API.

Results go to standard output, progress and messages to standard error. Exit codes: 0 done,
1 failed or stopped, 2 unusable arguments or input.
"""

import functools
import io
import os
import sys
from collections.abc import Callable
from typing import Any

import tyro

from dm2.cli.compare import compare
from dm2.cli.demos import demos
from dm2.cli.machine import bench, check, doctor
from dm2.cli.output import FailedError
from dm2.cli.run import evaluate, export, record, resume, watch
from dm2.cli.study import study
from dm2.cli.theory import theory
from dm2.errors import InputError
from dm2.run.process import plain_warnings, set_up_process

__all__ = ["main"]

_COMPUTING = (
    "train",
    "resume",
    "evaluate",
    "record",
    "export",
    "study",
    "watch",
    "bench",
    "check",
    "doctor",
)
"""The commands that compute with JAX."""


def _train() -> None:
    """Train a team by one of the methods, and write a run directory."""


def _commands(argv: list[str]) -> dict[str, Callable[..., None]]:
    """The commands. The one called `train` asks every method for its flags, which imports JAX, so
    that is done only where it is the one asked for."""
    train: Callable[..., None] = _train
    if argv[:1] == ["train"]:
        from dm2.cli.train import train_command

        train = train_command(argv[1:])
    others = (resume, evaluate, record, export, demos, compare, study, watch, check, doctor, bench)
    others = (*others, theory)
    commands = {"train": train} | {command.__name__: command for command in others}
    return {name: _told_apart(command) for name, command in commands.items()}


def _told_apart(command: Callable[..., None]) -> Callable[..., None]:
    """The command, in which an exit that something else asks for, such as an environment of the
    user's, is a failure: only the parser of the arguments ends the process."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except SystemExit as stop:
            from dm2.envs.workers import words_of

            raise RuntimeError(f"{words_of(stop)}; take the exit out of what was run") from stop

    return run


def main(argv: list[str] | None = None) -> int:
    """Runs one command.

    Args:
        argv: Its words; by default those that the process was started with.

    Returns:
        The exit code.
    """
    _prepare_streams()
    argv = sys.argv[1:] if argv is None else argv
    if argv == ["--version"]:
        from dm2.version import __version__

        print(f"dm2 {__version__}")
        return 0
    name = argv[0] if argv else ""
    if name in _COMPUTING or argv[:2] == ["demos", "combine"]:
        set_up_process()
    try:
        with plain_warnings():
            tyro.extras.subcommand_cli_from_dict(
                _commands(argv),
                prog="dm2",
                args=argv,
                description="Decentralised multi-agent learning.",
            )
            sys.stdout.flush()
    except SystemExit as stop:
        # tyro's own: 0 after --help, 2 for arguments it cannot use.
        return stop.code if isinstance(stop.code, int) else 1
    except FailedError:
        return 1
    except InputError as error:
        print(f"dm2: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        print(f"dm2: {str(stop) or 'stopped; the same command begins again'}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # whoever read the output has enough of it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (RuntimeError, OSError) as error:
        print(f"dm2: failed: {error}", file=sys.stderr)
        return 1
    return 0


def _prepare_streams() -> None:
    """Makes the standard streams take whatever is printed: one that the caller closed leads
    nowhere, and letters that an encoding lacks become question marks."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, this one
    for name, mode in {"stdin": "r", "stdout": "w", "stderr": "w"}.items():
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper) and mode == "w":
            stream.reconfigure(errors="replace")
