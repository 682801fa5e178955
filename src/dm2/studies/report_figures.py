"""The figures of a study's report, as plain dictionaries in the words of plotly
(plotly.com/javascript/reference), whose JavaScript draws them when the report is opened."""

import html
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from dm2.figures import GRID, INK, MUTED
from dm2.studies import statistics
from dm2.studies.groups import Environment, Group
from dm2.studies.plots import Look, demonstrators, looks
from dm2.studies.runs import MEASURES
from dm2.studies.study import Study
from dm2.studies.verdicts import Result, environment_name

__all__ = ["figure_html", "report_figures"]

_WIDTH = 960  # pixels of a figure, as the template's style has it
_PANEL = 330  # pixels of a row of panels, with its titles
_LETTER, _ENTRY, _LINE = 7, 55, 22  # pixels in a legend: a letter, what surrounds a name, a line


class _Panel(NamedTuple):
    """One of the panels of a figure."""

    title: str
    traces: list[dict[str, Any]]
    xaxis: dict[str, Any]
    yaxis: dict[str, Any]


def report_figures(
    result: Result, summary: dict[str, Any]
) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Of every figure its kind, what stands below it, and the figure."""
    environments = result.comparison.environments
    styles = looks(result.comparison, result.study.levels)
    if environments:
        labels = result.study.labels
        panels = [
            _curves(title, environment, labels, styles)
            for title, environment in environments.items()
        ]
        caption = (
            "Mean and standard error over seeds. A click on a name in the legend hides its curve,"
            " a double click all others."
        )
        yield "curves", caption, _figure(panels)
    if environments and result.study.axis is not None:
        panels = [
            _levels(title, environment, summary[title], result.study, styles)
            for title, environment in environments.items()
        ]
        caption = "Mean and standard error over seeds of the area under the curve, by level."
        yield "levels", caption, _figure(panels)
    if result.exchanges:
        caption = (
            "Win rates of the team of a row's seed with one agent replaced by its counterpart from"
            " the team of a column's seed; on the diagonal, of the team by itself."
        )
        yield "exchanges", caption, _figure(list(_exchanges(result)))


def _curves(
    title: str, environment: Environment, labels: Sequence[str], styles: dict[str, Look]
) -> _Panel:
    """The learning curves of an environment, in the order of the labels."""
    traces = [
        trace
        for label in labels
        if label in environment.groups
        for trace in _curve(label, environment.groups[label], styles[label])
    ]
    end = max(group.end for group in environment.groups.values())
    yaxis: dict[str, Any] = {"title": {"text": MEASURES[environment.measure]}}
    if environment.measure == "win_rate":
        yaxis |= {"range": [-0.02, 1.02]}
    xaxis = {"title": {"text": "environment steps"}, "range": [0, 1.01 * end], "tickformat": "~s"}
    return _Panel(title, [*traces, *_demonstrators(environment, styles, end)], xaxis, yaxis)


def _curve(label: str, group: Group, look: Look) -> list[dict[str, Any]]:
    """The band, if there are several seeds, and the mean as far as all the group's runs go."""
    grid, values = statistics.curves_on_grid([(run.steps, run.values) for run in group.runs])
    mean, error = statistics.mean_and_standard_error(values)
    common = {"type": "scatter", "name": _plain(label), "legendgroup": _plain(label)}
    hover = "mean %{y:.3f}, one seed"
    bands = []
    if len(group.runs) > 1:
        hover = "mean %{y:.3f}, standard error %{customdata:.3f}"
        edges = {
            "x": np.concatenate([grid, grid[::-1]]).tolist(),
            "y": np.concatenate([mean + error, (mean - error)[::-1]]).tolist(),
        }
        fill = {"fill": "toself", "fillcolor": _faint(look.colour), "line": {"width": 0}}
        more = {"mode": "lines", "hoverinfo": "skip", "showlegend": False}
        bands = [common | edges | fill | more]
    line = common | {
        "x": grid.tolist(),
        "y": mean.tolist(),
        "customdata": error.tolist() if bands else None,
        "mode": "lines",
        "line": {"color": look.colour, "width": 2, "dash": _dash(look)},
        "hovertemplate": f"<b>%{{fullData.name}}</b><br>step %{{x:,.0f}}<br>{hover}<extra></extra>",
    }
    return [*bands, line]


def _demonstrators(
    environment: Environment, styles: dict[str, Look], end: float
) -> list[dict[str, Any]]:
    """A dashed line for each source of demonstrations, in the colour of the one group that uses
    it."""
    lines = []
    for value, labels in demonstrators(environment).items():
        colour = styles[labels[0]].colour if len(labels) == 1 else INK
        words = f"demonstrators of {_plain(', '.join(labels))}"
        line = {"color": colour, "width": 1.2, "dash": "dash"}
        lines.append(_level_line("demonstrators", words, value, (0.0, end), line))
    return lines


def _level_line(
    name: str, words: str, value: float, ends: tuple[float, float], line: dict[str, Any]
) -> dict[str, Any]:
    """A horizontal line that can be hovered anywhere."""
    places = np.geomspace(*ends, 50) if ends[0] > 0 else np.linspace(*ends, 50)
    return {
        "type": "scatter",
        "name": name,
        "legendgroup": name,
        "x": places.tolist(),
        "y": [value] * len(places),
        "text": [words] * len(places),  # one text for all is not shown by a template
        "mode": "lines",
        "line": line,
        "hovertemplate": "<b>%{text}</b><br>%{y:.3f}<extra></extra>",
    }


def _levels(
    title: str,
    environment: Environment,
    groups: dict[str, dict[str, Any]],
    study: Study,
    styles: dict[str, Look],
) -> _Panel:
    """The area under each curve over its level, and lines for curves without one."""
    curves = [
        curve
        for curve in study.curves
        if curve.env == environment_name(title) and curve.label in environment.groups
    ]
    placed = sorted((curve.level, curve.label) for curve in curves if curve.level is not None)
    areas = [groups[label]["area"] for _, label in placed]
    colours = [styles[label].colour for _, label in placed]
    errors = [area["standard_error"] for area in areas]
    points = {
        "type": "scatter",
        "x": [level for level, _ in placed],
        "y": [area["mean"] for area in areas],
        "error_y": {"array": errors, "color": MUTED, "thickness": 1.2, "width": 4},
        "text": [_plain(label) for _, label in placed],
        "customdata": ["one seed" if e is None else f"standard error {e:.3f}" for e in errors],
        "mode": "lines+markers",
        "line": {"color": MUTED, "width": 1},
        "marker": {"color": colours, "size": 9},
        "showlegend": False,
        "hovertemplate": "<b>%{text}</b><br>level %{x}<br>mean %{y:.3f}, %{customdata}"
        "<extra></extra>",
    }
    axis, ends = _level_axis([level for level, _ in placed], study.logarithmic)
    lines = [
        _level_line(
            _plain(curve.label),
            f"{_plain(curve.label)}, without a level",
            groups[curve.label]["area"]["mean"],
            ends,
            {"color": styles[curve.label].colour, "width": 2, "dash": _dash(styles[curve.label])},
        )
        for curve in curves
        if curve.level is None
    ]
    yaxis = {"title": {"text": f"area under the {MEASURES[environment.measure]}"}}
    xaxis = axis | {"title": {"text": _plain(study.axis or "")}}
    return _Panel(title, [points, *lines], xaxis, yaxis)


def _level_axis(
    levels: Sequence[float], logarithmic: bool
) -> tuple[dict[str, Any], tuple[float, float]]:
    """The axis, and the ends of lines along it."""
    low, high = (min(levels), max(levels)) if levels else (1.0, 1.0)
    if logarithmic:
        edge = (high / low) ** 0.04
        return {"type": "log", "dtick": 1}, (low / edge, high * edge)
    edge = 0.04 * (high - low) or 1.0
    return {}, (low - edge, high + edge)


def _exchanges(result: Result) -> Iterator[_Panel]:
    """A heat map for each environment and curve whose teams exchanged agents."""
    for (env, label), rates in result.exchanges.items():
        names = [f"seed {seed}" for seed in result.study.seeds_of_exchanges[env, label]]
        heat = {
            "type": "heatmap",
            "x": names,
            "y": names,
            "z": np.asarray(rates, float).tolist(),
            "zmin": 0,
            "zmax": 1,
            "colorscale": "Blues",
            "showscale": False,
            "texttemplate": "%{z:.2f}",
            "hovertemplate": "<b>team of %{y}</b><br>one agent of %{x}<br>win rate %{z:.3f}"
            "<extra></extra>",
        }
        yield _Panel(f"{env}, {label}", [heat], {}, {"autorange": "reversed"})


def _figure(panels: Sequence[_Panel]) -> dict[str, Any]:
    """A figure with its panels in rows of up to three and one legend below them."""
    columns = 2 if len(panels) == 4 else min(3, len(panels))
    rows = -(-len(panels) // columns)
    gaps = {"xgap": 0.22, "ygap": 0.4}
    layout: dict[str, Any] = {
        "template": "none",
        "grid": {"rows": rows, "columns": columns, "pattern": "independent"} | gaps,
        "font": {"family": "system-ui, sans-serif", "size": 12, "color": INK},
        "hovermode": "closest",
        "hoverlabel": {"align": "left", "namelength": -1},
        "annotations": [],
    }
    data = []
    for number, panel in enumerate(panels, start=1):
        suffix = "" if number == 1 else f"{number}"
        data += [trace | {"xaxis": f"x{suffix}", "yaxis": f"y{suffix}"} for trace in panel.traces]
        line = {"gridcolor": GRID, "zeroline": False, "linecolor": INK, "ticks": "outside"}
        layout[f"xaxis{suffix}"] = line | panel.xaxis
        layout[f"yaxis{suffix}"] = line | panel.yaxis
        layout["annotations"].append(_heading(panel.title, suffix))
    names = _legend_once(data)
    below = 60 + _LINE * _legend_lines(names)
    layout["margin"] = {"l": 60, "r": 15, "t": 40, "b": below}
    layout["height"] = 40 + rows * (_PANEL - 60) + (rows - 1) * 60 + below
    layout["legend"] = {"orientation": "h", "x": 0, "y": 0, "yref": "container"}
    layout["legend"] |= {"yanchor": "bottom", "groupclick": "togglegroup"}
    return {"data": data, "layout": layout}


def _heading(title: str, suffix: str) -> dict[str, Any]:
    """The title above a panel."""
    where = {"xref": f"x{suffix} domain", "yref": f"y{suffix} domain", "x": 0.5, "y": 1}
    shown = {"yanchor": "bottom", "yshift": 6, "showarrow": False, "font": {"size": 13}}
    return {"text": f"<b>{_plain(title)}</b>", **where, **shown}


def _legend_once(traces: list[dict[str, Any]]) -> list[str]:
    """Hides all but the first trace of a name from the legend; returns the names that it shows."""
    names: list[str] = []
    for trace in traces:
        if trace.setdefault("showlegend", trace.get("name") not in (None, *names)):
            names.append(trace["name"])
    return names


def _legend_lines(names: Sequence[str]) -> int:
    """The lines of a legend whose entries are all as wide as the longest."""
    if not names:
        return 0
    longest = max(len(html.unescape(name)) for name in names)
    return -(-len(names) // max(1, _WIDTH // (_LETTER * longest + _ENTRY)))


def figure_html(figure: dict[str, Any], identifier: str) -> str:
    """The HTML of a figure, without plotly's JavaScript."""
    from plotly.graph_objects import Figure

    config = {"displaylogo": False, "responsive": True}
    return Figure(figure).to_html(
        full_html=False, include_plotlyjs=False, div_id=identifier, config=config
    )


def _plain(text: str) -> str:
    """A text that plotly shows as it is, though it takes tags for formatting."""
    return html.escape(text, quote=False)


def _faint(colour: str) -> str:
    """A colour `#rrggbb` that lets through what is behind it."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red}, {green}, {blue}, 0.2)"


def _dash(look: Look) -> str:
    """A look's line as plotly has it: the lengths of dashes and gaps, of a line two pixels wide."""
    if look.line == "solid":
        return "solid"
    return ",".join(f"{2 * length:g}px" for length in look.line[1])
