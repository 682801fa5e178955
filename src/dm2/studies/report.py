"""The report of studies: one HTML file with their claims, figures, numbers and settings.

The file needs no network and nothing beside it. The same results give the same bytes.
"""

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dm2.config import Config
from dm2.errors import InputError
from dm2.files import check_target, write_atomically
from dm2.studies.compare import span_text, steps_text, summarise
from dm2.studies.groups import Comparison
from dm2.studies.products import Recording
from dm2.studies.report_figures import figure_html, report_figures
from dm2.studies.runs import MEASURES
from dm2.studies.study import Claim, Curve, Study
from dm2.studies.verdicts import Result, Verdict, environment_name, smallest
from dm2.version import __version__

__all__ = ["check_report", "write_report"]

_TEMPLATE = "report.html.j2"
_ORDER = ("does not hold", "not decided", "holds")
"""Outcomes, in the order of the report: what fails to reproduce is said first."""


def check_report(out: str | Path) -> Path:
    """The path of a report that can be written; writing it makes missing parent folders.

    Raises:
        InputError: If the name does not end in .html, the file cannot be written, or the packages
            that make a report are missing.
    """
    path = check_target("out", out, (".html",))
    try:
        import jinja2  # noqa: F401
        import plotly  # noqa: F401
    except ImportError as error:
        remedy = "pip install 'dm2[report]'"
        raise InputError(f"out: a report needs plotly and Jinja2: {remedy}") from error
    return path


def write_report(
    results: Sequence[Result], out: str | Path, *, scale: str, commands: Mapping[str, str]
) -> Path:
    """Writes the report of studies, wholly or not at all.

    Args:
        results: The studies with what was found.
        out: The file, a name that ends in .html.
        scale: The name of the scale that the studies were run at.
        commands: By a study's name, the command that makes it; a study that is not in it is shown
            without one.

    Returns:
        The path of the report.

    Raises:
        InputError: What `check_report` raises.
    """
    path = check_report(out)
    from jinja2 import Environment as Templates
    from jinja2 import PackageLoader, StrictUndefined
    from plotly.offline import get_plotlyjs

    loader = PackageLoader("dm2.studies", ".")
    templates = Templates(autoescape=True, loader=loader, undefined=StrictUndefined)
    text = templates.get_template(_TEMPLATE).render(
        version=__version__,
        scale=scale,
        plotlyjs=get_plotlyjs(),
        outcomes=_ORDER,
        rows=_sorted(row for result in results for row in _rows(result)),
        sections=[_section(result, commands.get(result.study.name)) for result in results],
    )
    write_atomically(path, text.encode())
    return path


def _section(result: Result, command: str | None) -> dict[str, Any]:
    """What the template shows of one study."""
    study, comparison = result.study, result.comparison
    summary = summarise(comparison)
    return {
        "id": _identifier(study),
        "study": study,
        "figures": [
            (caption, figure_html(figure, f"{_identifier(study)}-{kind}"))
            for kind, caption, figure in report_figures(result, summary)
        ],
        "tables": [
            _table(title, summary[title], study) for title, _ in comparison.environments.items()
        ],
        "unfinished": result.unfinished,
        "rows": _sorted(_rows(result)),
        "notes": comparison.notes,
        "settings": [_setting(curve) for curve in study.curves],
        "versions": _versions(comparison),
        "command": command,
    }


def _identifier(study: Study) -> str:
    """The study's name in letters that stand for themselves in HTML and in a link."""
    return "study-" + re.sub(r"[^A-Za-z0-9_-]", "_", study.name)


# ---- claims


class _Row(NamedTuple):
    """A claim in one environment, in words."""

    study: Study
    id: str
    claim: Claim
    compared: str
    env: str
    statistic: str
    value: str
    """The difference or the ratio, above its interval."""
    improvement: str
    seeds: str
    note: str
    outcome: str


def _sorted(rows: Iterable[_Row]) -> list[_Row]:
    """What does not hold first, then what is not decided; else in the order of the studies."""
    return sorted(rows, key=lambda row: _ORDER.index(row.outcome))


def _rows(result: Result) -> Iterator[_Row]:
    """The verdicts in words."""
    study = result.study
    for verdict in result.verdicts:
        claim = verdict.claim
        yield _Row(
            study,
            _identifier(study),
            claim,
            _compared(verdict),
            verdict.env,
            verdict.statistic,
            verdict.value_text(3),
            _number(verdict.improvement, ".2f"),
            verdict.seeds_text,
            verdict.note,
            verdict.outcome,
        )


def _number(value: float, form: str) -> str:
    return "—" if np.isnan(value) else format(value, form)


def _compared(verdict: Verdict) -> str:
    """What is claimed of which curves, and the smallest difference that matters."""
    claim, margin = verdict.claim, smallest(verdict.claim, verdict.measure)
    share = f"{100 * margin:g} %" if claim.by == "steps_to_80" else f"{margin:g}"
    if claim.kind == "alike":
        return f"{claim.better} and {claim.than} alike, to {share}"
    words = {"ahead": "ahead of", "far ahead": "far ahead of", "no worse": "no worse than"}
    return f"{claim.better} {words[claim.kind]} {claim.than}; what matters: {share}"


# ---- numbers


def _table(title: str, groups: dict[str, dict[str, Any]], study: Study) -> dict[str, Any]:
    """The numbers of the groups of an environment: columns, and a row for each group."""
    first = next(iter(groups.values()))
    measure, budget = first["measure"], first["budget"]
    words, final = MEASURES[measure], f"final_{measure}"
    reached = [name for name in first if name.startswith("steps_to_")]
    columns = [f"M steps to {100 * first[name]['level']:g} %" for name in reached]
    planned = {(curve.env, curve.label): len(curve.runs) for curve in study.curves}
    rows = [
        [
            label,
            _seeds(group["runs"], planned.get((environment_name(title), label))),
            *(steps_text(group[name]) for name in reached),
            span_text(group["area"], "mean"),
            f"{group['area']['iqm']:.2f}",
            span_text(group[final], "mean"),
        ]
        for label, group in groups.items()
    ]
    return {
        "title": title,
        "columns": ["curve", "seeds", *columns, "area", "IQM of area", f"final {words[5:]}"],
        "rows": rows,
        "caption": f"Area: mean {words} up to step {budget:,}. Final: mean {words} from step"
        f" {first['final_from']:,} to {budget:,}.",
    }


def _seeds(used: int, planned: int | None) -> str:
    return f"{used}" if planned in (used, None) else f"{used} of {planned}"


# ---- settings


def _setting(curve: Curve) -> list[str]:
    """The cells of a curve: what its runs are, and their settings that are not the defaults."""
    run = curve.runs[0]
    config = run.config
    default = Config(type(config.method)(), curve.env, demos=config.demos)
    seeds = ", ".join(str(run.config.seed) for run in curve.runs)
    sources = [_recording(run.demos) for run in curve.runs if run.demos is not None]
    changed = _changed(config.to_dict(), default.to_dict())
    return [
        curve.label,
        curve.env,
        config.method.name,
        f"{config.steps:,}",
        seeds,
        "\n".join(dict.fromkeys(sources)) or "—",
        "\n".join(changed) or "—",
    ]


def _changed(values: dict[str, Any], default: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """`group.setting = value` of every setting that differs, but for those in other columns."""
    for name, value in values.items():
        if isinstance(value, dict) and isinstance(default[name], dict):
            yield from _changed(value, default[name], f"{prefix}{name}.")
        elif value != default[name] and prefix + name not in ("steps", "seed"):
            yield f"{prefix}{name} = {value}"


def _recording(demos: Recording) -> str:
    """Whose demonstrations they are, and how they were recorded if not by default."""
    teams = [f"{run.config.method.name}, seed {run.config.seed}" for run in demos.runs]
    fields = [field for field in dataclasses.fields(demos) if field.name != "runs"]
    values = [(field.name, getattr(demos, field.name), field.default) for field in fields]
    changed = [f"{name} = {value}" for name, value, default in values if value != default]
    return "; ".join([*teams, *changed])


def _versions(comparison: Comparison) -> list[str]:
    """What the runs were made with, each version once."""
    environments = comparison.environments.values()
    groups = [group for environment in environments for group in environment.groups.values()]
    infos = [run.info for group in groups for run in (*group.runs, *group.left_out)]
    lines = []
    for kind, words in (("dm2_version", "dm2"), ("jax", "JAX"), ("commit", "commit")):
        found = sorted({str(info[kind]) for info in infos if info.get(kind)})
        lines.append(f"{words} {', '.join(found) or 'not known'}")
    return lines if infos else []
