"""Commands on demonstrations: inspect, combine, subset, import, export."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg, subcommand

from dm2.cli.output import (
    Actions,
    Dtype,
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
    dtype: Dtype = None
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


@dataclass(frozen=True)
class _Import:
    """Make demonstrations of a recording of your own: arrays, tables, Minari datasets."""

    files: Annotated[
        Positional[tuple[str, ...]],
        arg(
            help="Files: .npz, .npy, .csv, .parquet; Minari datasets, names or folders; folders of "
            "vaults or of the authors' files."
        ),
    ]
    env: Annotated[str, arg(help="The environment that was recorded; see `dm2 doctor`.")]
    out: Out
    map: Annotated[
        tuple[str, ...],
        arg(
            metavar="NAME=COLUMN",
            help="What columns or keys are called: episode=game obs=x,y,speed 'legal=can_*' "
            "agents=red,green; observations=obs for arrays.",
        ),
    ] = ()
    format: Annotated[
        Literal["npz", "csv", "parquet", "minari", "authors", "vault"] | None,
        arg(help="The files' format; by default their names tell. `authors`: DM²'s authors'."),
    ] = None
    each: Annotated[
        Literal["recording", "episode", "agent"],
        arg(help="What each .npz or .npy file holds: joint episodes, one of them, or one agent's."),
    ] = "recording"
    dtype: Dtype = None
    overwrite: Overwrite = False
    json: Json = False


@dataclass(frozen=True)
class _Export:
    """Write a demonstration file in a format that other tools read: one of the two."""

    file: File
    out: Annotated[Path | None, arg(help="The arrays' file to write, *.npz.")] = None
    minari: Annotated[
        str | None, arg(help="What the team is called among Minari's datasets, one an agent.")
    ] = None
    overwrite: Annotated[bool, arg(help="Replace what is there.")] = False
    json: Json = False


def demos(
    command: Annotated[
        Annotated[_Inspect, subcommand("inspect")]
        | Annotated[_Combine, subcommand("combine")]
        | Annotated[_Subset, subcommand("subset")]
        | Annotated[_Import, subcommand("import")]
        | Annotated[_Export, subcommand("export")],
        arg(name=""),
    ],
) -> None:
    """Inspect, combine, cut down, import or export demonstrations."""
    if isinstance(command, _Inspect):
        _inspect(command)
    elif isinstance(command, _Combine):
        _combine(command)
    elif isinstance(command, _Subset):
        _subset(command)
    elif isinstance(command, _Import):
        _import(command)
    else:
        _export(command)


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
        dtype=options.dtype,
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


def _import(options: _Import) -> None:
    from dm2.demos.importing.formats import from_files, guess_format
    from dm2.demos.importing.layout import as_mapping
    from dm2.errors import InputError

    for file in options.files:
        if os.path.realpath(file) == os.path.realpath(options.out):
            raise InputError(f"out = {str(options.out)!r}: is imported; choose another file")
    check_new(options.out, options.overwrite)
    made = from_files(
        options.files,
        options.env,
        options.format or guess_format(options.files),
        mapping=as_mapping(options.map),
        each=options.each,
        dtype=options.dtype,
    )
    size = made.save(options.out, overwrite=options.overwrite)
    report_demos(made, options.out, size, options.json)


def _export(options: _Export) -> None:
    from dm2.demos import Demonstrations
    from dm2.errors import InputError

    if (options.out is None) == (options.minari is None):
        raise InputError("export: say one of --out FILE.npz and --minari NAME")
    if options.out is not None:
        check_new(options.out, options.overwrite, (".npz",))
    demonstrations = Demonstrations.load(options.file)
    if options.out is not None:
        size = demonstrations.to_npz(options.out, overwrite=options.overwrite)
        report({"file": str(options.out), "bytes": size}, options.json)
    else:
        names = demonstrations.to_minari(str(options.minari), overwrite=options.overwrite)
        report({"datasets": names if options.json else " ".join(names)}, options.json)
