"""Commands on studies: compare."""

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from dm2.cli.output import Json, console, report
from dm2.errors import InputError

__all__ = ["compare"]


def compare(
    runs: Annotated[Positional[tuple[Path, ...]], arg(help="Run directories, or parents of them.")],
    out: Annotated[Path | None, arg(help="Draw the learning curves: .png, .pdf or .svg.")] = None,
    labels: Annotated[
        tuple[str, ...],
        arg(help="Names of the groups, one for each of RUNS; by default method and settings."),
    ] = (),
    json: Json = False,
) -> None:
    """Compare methods over seeds: learning curves, steps to 50 % and 80 %, area, final win rate."""
    from dm2.studies.compare import compare as compare_runs
    from dm2.studies.compare import table

    if not runs:
        raise InputError("runs: none given; name run directories, or parents of them")
    result = compare_runs(runs, labels or None)
    if out is not None:
        from dm2.studies.plots import learning_curves

        learning_curves(runs, out, labels or None)
    if json:
        report(result, json)
        return
    for part in table(result):
        console().print(part)
    if out is not None:
        print(f"figure  {out}")
