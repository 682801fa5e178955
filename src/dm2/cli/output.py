"""What every command prints, and options that several commands share."""

import json as jsonlib
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from dm2.errors import InputError
from dm2.files import check_target

__all__ = [
    "Actions",
    "At",
    "Dtype",
    "Epsilon",
    "FailedError",
    "Greedy",
    "Json",
    "OtherEnv",
    "Out",
    "Overwrite",
    "RunPath",
    "Seed",
    "check_new",
    "console",
    "report",
    "report_demos",
]


class FailedError(Exception):
    """A command failed and has said why: the exit code is 1."""


Json = Annotated[bool, arg(help="Print one JSON object on standard output and nothing else.")]
RunPath = Annotated[Positional[Path], arg(help="A run's directory.")]
At = Annotated[int | None, arg(help="A checkpoint's step; the newest if left out.")]
OtherEnv = Annotated[
    str | None,
    arg(help="Another environment to play in, of the same sizes; the run's if left out."),
]
Seed = Annotated[int, arg(help="Seed of the episodes played.")]
Greedy = Annotated[bool, arg(help="Take the most likely actions; otherwise sample.")]
Epsilon = Annotated[
    float | Literal["auto"] | None,
    arg(
        help="Each agent takes a random legal action with this probability, else its most likely "
        "one; `auto`: the largest, in steps of 0.01, that costs at most 10 points of win rate."
    ),
]
Actions = Annotated[bool, arg(help="Keep actions and legal actions, which cloning needs.")]
Dtype = Annotated[
    Literal["float16", "float32"] | None,
    arg(
        help="The type in which observations are stored; by default float16 on smax and smac, "
        "whose features lie in about -1 to 1, else float32."
    ),
]
Out = Annotated[Path, arg(help="The file to write, usually *.safetensors.")]
Overwrite = Annotated[bool, arg(help="Replace a file that is there.")]


def check_new(out: Path, overwrite: bool, suffixes: tuple[str, ...] = ()) -> None:
    """Makes sure, before the work is done whose result it takes, that demonstrations can be written
    to a file. Folders that are missing are made only where the file is written.

    Args:
        out: The file.
        overwrite: Whether it may be replaced.
        suffixes: What its name must end in one of; by default anything.

    Raises:
        InputError: If it cannot be written, or is there and may not be replaced.
    """
    from dm2.demos.file import EXISTS

    if check_target("out", out, suffixes).exists() and not overwrite:
        raise InputError(f"out = {str(out)!r}: {EXISTS}")


def console() -> Any:
    """A console of the terminal's width, or of 110 columns where the output is a file."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 110)


def report(result: dict[str, Any], json: bool) -> None:
    """Prints one JSON object, or one `name  value` line for each value that there is."""
    if json:
        print(jsonlib.dumps(result, allow_nan=False))
        return
    shown = {name: value for name, value in result.items() if value is not None}
    width = max(map(len, shown))
    for name, value in shown.items():
        text = f"{value:.4g}" if isinstance(value, float) else str(value)
        print(f"{name:<{width}}  {text}")


def report_demos(demos: Any, out: Path, size: int, json: bool) -> None:
    """Reports demonstrations that were written.

    Args:
        demos: The demonstrations, `dm2.Demonstrations`.
        out: Their file.
        size: The size of the file in bytes.
        json: Whether to print JSON.
    """
    source = demos.provenance
    chance = {} if source.get("epsilon") is None else {"epsilon": source["epsilon"]}
    scores = {"win_rate": source["win_rate"], "mean_return": demos.mean_return}
    result = {"file": str(out), "bytes": size, "episodes": source["episodes"], **chance, **scores}
    report(result, json)
