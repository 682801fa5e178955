"""The command `study`: the paper's figures, and others, from runs to report."""

import math
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table
from tyro.conf import Positional, arg, subcommand

from dm2.cli.output import Json, console, report
from dm2.errors import InputError

__all__ = ["study"]

Names = Annotated[
    Positional[tuple[str, ...]],
    arg(help="Studies, by name or as Python files of your own; all that there are if left out."),
]
ScaleArg = Annotated[
    str, arg(help="`quick`, minutes on two cores, or `paper`, the paper's tasks by SMAC's rules.")
]
Seeds = Annotated[
    int | None, arg(help="Seeds of every curve; 3 at scale quick, 5 at scale paper if left out.")
]
Folder = Annotated[Path, arg(help="The folder of all runs, recordings, results and figures.")]
Jobs = Annotated[
    int | None, arg(help="Processes side by side; one a core if left out, as memory allows.")
]
SameExperts = Annotated[
    bool,
    arg(
        help="Also make runs again whose results are there alone and which learnt from another"
        " recording than that of OUT/demos, so that all learn from the same experts."
    ),
]
Results = Annotated[
    Path | None,
    arg(help="A folder of files of results, to draw from in place of OUT/results."),
]


@dataclass(frozen=True)
class _List:
    """List the studies and what they ask."""

    json: Json = False


@dataclass(frozen=True)
class _Chosen:
    """Which studies, and where."""

    names: Names = ()
    scale: ScaleArg = "quick"
    seeds: Seeds = None
    out: Folder = Path("studies")
    json: Json = False


@dataclass(frozen=True)
class _Plan(_Chosen):
    """Say how many runs, steps, hours and megabytes are missing; make nothing."""

    jobs: Jobs = None
    same_experts: SameExperts = False


@dataclass(frozen=True)
class _Run(_Chosen):
    """Make what is missing, and draw it. Stopped or killed, the same command goes on."""

    jobs: Jobs = None
    same_experts: SameExperts = False


@dataclass(frozen=True)
class _Status(_Chosen):
    """Say what is there, running, missing, failed."""


@dataclass(frozen=True)
class _Draw(_Chosen):
    """Draw the figures, and say which claims hold."""

    results: Results = None


@dataclass(frozen=True)
class _Report(_Chosen):
    """Write one page with all figures, tables and claims, which needs no network."""

    results: Results = None


def study(
    command: Annotated[
        Annotated[_List, subcommand("list")]
        | Annotated[_Plan, subcommand("plan")]
        | Annotated[_Run, subcommand("run")]
        | Annotated[_Status, subcommand("status")]
        | Annotated[_Draw, subcommand("draw")]
        | Annotated[_Report, subcommand("report")],
        arg(name=""),
    ],
) -> None:
    """Make the paper's figures, and others, and test what they claim."""
    actions: dict[type, Any] = {
        _List: _list,
        _Plan: _plan,
        _Run: _run,
        _Status: _status,
        _Draw: _draw,
        _Report: _report,
    }
    actions[type(command)](command)


def _studies(options: _Chosen) -> list[Any]:
    """The studies that were asked for."""
    from dm2.studies.registry import STUDIES, find_study
    from dm2.studies.scales import scale_named

    scale = scale_named(options.scale, options.seeds)
    names = dict.fromkeys(options.names or STUDIES)
    found = {name: find_study(name, scale) for name in names}
    files: dict[str, str] = {}
    for name, one in found.items():
        other = files.setdefault(one.name, name)
        if other != name:
            remedy = "give each a name of its own, by which its files are called"
            raise InputError(f"name = {one.name!r}: is that of {other} and of {name}; {remedy}")
    return list(found.values())


def _list(options: _List) -> None:
    found = _studies(_Chosen())
    if options.json:
        report({"studies": [{"name": one.name, "title": one.title} for one in found]}, True)
        return
    table = _table("", "study", "what it asks", "claims")
    for one in found:
        text = f"{escape(one.title)}\n[dim]{escape(one.question)}[/dim]"
        table.add_row(one.name, text, str(len(one.claims)))
    console().print(table)


def _plan(options: _Plan) -> None:
    from dm2.studies.planning import plan

    studies = _studies(options)
    made = plan(
        studies, options.out, options.scale, options.jobs, same_experts=options.same_experts
    )
    totals = {
        "products_there": made.there,
        "products_to_make": made.count,
        "steps": made.steps,
        "hours": made.hours,
        "disk_mib": made.disk_mib,
        "jobs": made.jobs,
    }
    if options.json:
        rows = [vars(row) | {"hours": row.hours / made.jobs} for row in made.rows]
        report({**totals, "rows": rows}, True)
        return
    if made.rows:
        titles = ("what", "environment", "method", "number", "M steps", "hours", "MiB")
        table = _table("", *titles)
        for row in made.rows:
            hours, size = f"{row.hours / made.jobs:.2f}", f"{row.disk_mib:.0f}"
            counts = (str(row.count), f"{row.steps / 1e6:.2f}", hours, size)
            table.add_row(row.kind, row.env, row.method, *counts)
        console().print(table)
    report(totals, False)


def _run(options: _Run) -> None:
    from dm2.studies.runner import make_studies

    studies = _studies(options)
    failures = make_studies(
        studies, options.out, options.scale, options.jobs, same_experts=options.same_experts
    )
    try:
        _show(studies, options, None)
    except InputError:
        if not failures:  # else they are why there is nothing to show
            raise
    if failures:
        raise RuntimeError("; ".join(failures))


def _status(options: _Status) -> None:
    from dm2.studies.planning import progress, trained_steps
    from dm2.studies.products import Training
    from dm2.studies.results import STATES, failure_of

    studies = _studies(options)
    found = [progress(one, options.out, options.scale) for one in studies]
    if options.json:
        report({one.study.name: one.states for one in found}, True)
        return
    table = _table("", "study", *STATES)
    for one in found:
        table.add_row(one.study.name, *(str(one.counts[state] or "") for state in STATES))
    console().print(table)
    for product in {p.name: p for one in found for p in one.study.products}.values():
        state = next(one.states[product.name] for one in found if product.name in one.states)
        if state == "failed":
            print(f"failed  {product.kind} {product.name}: {failure_of(product, options.out)}")
        elif state in ("running", "stopped") and isinstance(product, Training):
            steps = f"{trained_steps(product, options.out):,} of {product.config.steps:,} steps"
            print(f"{state}  {product.kind} {product.name}: {steps}")


def _draw(options: _Draw) -> None:
    studies = _studies(options)
    _show(studies, options, options.results)


def _report(options: _Report) -> None:
    from dm2.studies.report import write_report

    studies = _studies(options)
    results = [result for _, result in _results(studies, options, options.results)]
    given = options.names or [one.name for one in studies]
    names = {one.name: name for one, name in zip(studies, given, strict=True)}
    commands = {one.study.name: _command(names[one.study.name], options) for one in results}
    path = write_report(
        results,
        options.out / f"report_{options.scale}.html",
        scale=options.scale,
        commands=commands,
    )
    report({"report": str(path)}, options.json)


def _command(name: str, options: _Chosen) -> str:
    """The command that makes a study, named as it was asked for."""
    words = ["dm2", "study", "run", name, "--scale", options.scale]
    if options.seeds is not None:
        words += ["--seeds", str(options.seeds)]
    if options.out != _Chosen.out:
        words += ["--out", str(options.out)]
    return shlex.join(words)


def _results(studies: list[Any], options: _Chosen, folder: Path | None) -> list[tuple[Any, Any]]:
    """The studies of which any run was evaluated, with what was found. Raises InputError if there
    is none."""
    from dm2.studies.records import Records
    from dm2.studies.results import gather, known_results, records_path
    from dm2.studies.verdicts import results_of

    if folder is not None and not folder.is_dir():
        raise InputError(f"results = '{folder}': there is no such folder")
    known = known_results(options.out, options.scale) if folder is None else None
    found, notes = [], []
    for one in studies:
        path = records_path(options.out, one, options.scale)
        path = path if folder is None else folder / path.name
        if known is None:
            records = Records.read(path)
        else:
            records, damaged = gather(one, options.out, known)
            notes += damaged
        result = results_of(one, records)
        if result.comparison.environments:
            found.append((one, result))
            notes += result.comparison.notes
        else:
            count = len(Records.read(path).runs)
            others = f", only {count} runs of other settings than it has now" if count else ""
            notes.append(f"{one.name}: there are no results in {path}{others}")
    for said in dict.fromkeys(notes):
        print(f"dm2: note: {said}", file=sys.stderr)
    if not found:
        where = options.out if folder is None else folder
        remedy = "make them with `dm2 study run`"
        raise InputError(f"{where}: holds no results of these studies; {remedy}")
    return found


def _show(studies: list[Any], options: _Chosen, folder: Path | None) -> None:
    """Draws the figures, and prints what became of the claims."""
    from dm2.studies.drawings import draw_study

    shown: dict[str, Any] = {}
    for one, result in _results(studies, options, folder):
        target = options.out / "figures" / f"{one.name}_{options.scale}"
        figures = draw_study(result, target)
        verdicts = [_as_json(verdict) for verdict in result.verdicts]
        shown[one.name] = {
            "figures": [str(path) for path in figures],
            "claims": verdicts,
            "unfinished": result.unfinished,
        }
        if not options.json:
            _print_claims(result)
            for said in result.unfinished:
                print(f"not finished  {said}")
            for path in figures:
                print(f"figure  {path}")
    if options.json:
        report(shown, True)


def _print_claims(result: Any) -> None:
    from dm2.studies.verdicts import NO_RUNS

    table = _table(result.study.title, "claim", "environment", "by", "value", "seeds", "verdict")
    colours = {"holds": "green", "does not hold": "red", "not decided": "yellow"}
    for verdict in result.verdicts:
        if verdict.undecided == NO_RUNS:  # `unfinished` names the curve
            continue
        claim = verdict.claim
        note = f"\n[dim]{escape(verdict.note)}[/dim]" if verdict.note else ""
        colour = colours[verdict.outcome]
        table.add_row(
            f"{escape(claim.text)}\n[dim]{escape(claim.pair)}[/dim]",
            escape(verdict.env),
            verdict.statistic,
            verdict.value_text(2),
            verdict.seeds_text,
            f"[{colour}]{verdict.outcome}[/{colour}]{note}",
        )
    console().print(table)


def _as_json(verdict: Any) -> dict[str, Any]:
    claim = verdict.claim
    numbers = {name: getattr(verdict, name) for name in ("value", "low", "high", "improvement")}
    return {
        "claim": claim.text,
        "better": claim.better,
        "than": claim.than,
        "by": claim.by,
        "kind": claim.kind,
        "source": claim.source,
        "environment": verdict.env,
        "verdict": verdict.outcome,
        **{name: None if math.isnan(value) else value for name, value in numbers.items()},
        "seeds": list(verdict.seeds),
        "censored": list(verdict.censored),
        "diverged": list(verdict.diverged),
        "bound": verdict.bound,
        "note": verdict.note or None,
    }


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title or None, box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in columns:
        table.add_column(column, overflow="fold")
    return table
