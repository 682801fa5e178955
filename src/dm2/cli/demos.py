"""Commands on demonstrations: inspect, combine, subset."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg, subcommand

from dm2.cli.output import (
    Actions,
    Epsilon,
    Greedy,
    Json,
    Out,
    Overwrite,
    Seed,
    check_new,
    console,
    report,
    report_demos,
)
from dm2.run.styles import STYLES, Style

__all__ = ["demos"]

File = Annotated[Positional[Path], arg(help="A demonstration file.")]


@dataclass(frozen=True)
class _Inspect:
    """Check a demonstration file and say what is in it."""

    file: File
    json: Json = False


@dataclass(frozen=True)
class _Combine:
    """Record demonstrations whose agents come from one team or several, together or apart."""

    runs: Annotated[
        Positional[tuple[Path, ...]],
        arg(help="Run directories: one, or in mixed styles one for each agent, in their order."),
    ]
    style: Annotated[
        Style, arg(help=". ".join(f"{name}: {text}" for name, text in STYLES.items()) + ".")
    ]
    out: Out
    at: Annotated[
        int | None, arg(help="A checkpoint's step, of all runs; of each the newest if left out.")
    ] = None
    episodes: Annotated[int, arg(help="Episodes to record for each agent.")] = 1000
    greedy: Greedy = False
    epsilon: Epsilon = None
    actions: Actions = True
    seed: Seed = 0
    overwrite: Overwrite = False
    json: Json = False


@dataclass(frozen=True)
class _Subset:
    """Keep a part of a demonstration file: all that is asked for at once.

    Where agents come from different episodes, each agent's are chosen by themselves.
    """

    file: File
    out: Out
    episodes: Annotated[
        int | None, arg(help="Keep so many, the first of those that the other options leave.")
    ] = None
    agent: Annotated[int | None, arg(help="Keep the part of this agent alone, from 0.")] = None
    won: Annotated[bool, arg(help="Keep the episodes that the team won.")] = False
    return_range: Annotated[
        tuple[float, float] | None,
        arg(help="Keep the episodes whose team return, undiscounted, lies from LOW to HIGH."),
    ] = None
    overwrite: Overwrite = False
    json: Json = False


def demos(
    command: Annotated[
        Annotated[_Inspect, subcommand("inspect")]
        | Annotated[_Combine, subcommand("combine")]
        | Annotated[_Subset, subcommand("subset")],
        arg(name=""),
    ],
) -> None:
    """Inspect, combine or cut down demonstrations."""
    if isinstance(command, _Inspect):
        _inspect(command)
    elif isinstance(command, _Combine):
        _combine(command)
    else:
        _subset(command)


def _inspect(options: _Inspect) -> None:
    from dm2.demos import Demonstrations, describe

    summary = Demonstrations.load(options.file).summary()
    if options.json:
        report(summary, options.json)
    else:
        console().print(describe(summary))


def _combine(options: _Combine) -> None:
    from dm2.run.combine import record_style

    check_new(options.out, options.overwrite)
    made = record_style(
        options.runs,
        options.style,
        at=options.at,
        episodes=options.episodes,
        greedy=options.greedy,
        epsilon=options.epsilon,
        actions=options.actions,
        seed=options.seed,
    )
    size = made.save(options.out, overwrite=options.overwrite)
    report_demos(made, options.out, size, options.json)


def _subset(options: _Subset) -> None:
    from dm2.demos import Demonstrations

    check_new(options.out, options.overwrite)
    whole = Demonstrations.load(options.file)
    part = whole.subset(
        episodes=options.episodes,
        agent=options.agent,
        won=options.won,
        return_range=options.return_range,
    )
    size = part.save(options.out, overwrite=options.overwrite)
    if not whole.concurrent and options.agent is None:
        note = "agents come from different episodes; each agent's were chosen by themselves"
        print(f"dm2: note: {note}", file=sys.stderr)
    report_demos(part, options.out, size, options.json)
