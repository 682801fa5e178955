"""What every command prints, and options that several commands share."""

import json as jsonlib
import sys
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

__all__ = ["At", "Json", "RunPath", "Seed", "Stochastic", "console", "report"]

Json = Annotated[bool, arg(help="Print one JSON object on standard output and nothing else.")]
RunPath = Annotated[Positional[Path], arg(help="A run's directory.")]
At = Annotated[int | None, arg(help="A checkpoint's step; the newest if left out.")]
Stochastic = Annotated[bool, arg(help="Sample actions instead of taking the most likely.")]
Seed = Annotated[int, arg(help="Seed of the episodes played.")]


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
