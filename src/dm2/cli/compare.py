"""Commands on studies: compare."""

import sys
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from dm2.cli.output import Json, console, report
from dm2.errors import InputError
from dm2.figures import check_figure

__all__ = ["compare"]


def compare(
    runs: Annotated[
        Positional[tuple[Path, ...]],
        arg(help="Run directories, parents of them, or files of results."),
    ],
    out: Annotated[Path | None, arg(help="Draw the learning curves: .png, .pdf or .svg.")] = None,
    labels: Annotated[
        tuple[str, ...],
        arg(help="Names of the groups, one for each of RUNS; by default method and settings."),
    ] = (),
    budget: Annotated[
        int | None,
        arg(
            help="Step at which area and final value are taken, without the runs that end before;"
            " by default the last one up to which all runs go that are not left out."
        ),
    ] = None,
    levels: Annotated[
        tuple[float, ...],
        arg(help="Win rates or returns whose steps are given; by default win rates of 0.5, 0.8."),
    ] = (),
    json: Json = False,
) -> None:
    """Compare methods over seeds: learning curves, steps to a level, area, final value.

    Environments in which nobody can win are compared by test return. What is left out of the
    numbers is said on standard error.
    """
    from dm2.studies.compare import summarise, table
    from dm2.studies.groups import read_comparison

    if not runs:
        raise InputError("runs: none given; name run directories, or parents of them")
    if out is not None:
        check_figure(out)
    comparison = read_comparison(runs, labels or None, budget)
    result = summarise(comparison, levels or None)
    if out is not None:
        from dm2.studies.plots import save_learning_curves

        save_learning_curves(comparison, out)
    for note in result["warnings"]:
        print(f"dm2: note: {note}", file=sys.stderr)
    if json:
        report(result, json)
        return
    for part in table(result):
        console().print(part)
    if out is not None:
        print(f"figure  {out}")
