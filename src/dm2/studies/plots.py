"""Learning curves of several methods, one column of panels per environment."""

import re
from collections.abc import Iterable, Mapping
from itertools import cycle, product
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from dm2.figures import GRID, INK, MUTED, check_figure, drawing, save_figure
from dm2.studies import statistics
from dm2.studies.groups import BASELINE, Comparison, Environment, Group
from dm2.studies.runs import MEASURES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "STYLE",
    "Look",
    "demonstrators",
    "draw_learning_curves",
    "looks",
    "save_learning_curves",
    "title_of",
]

# Okabe and Ito's colours, which stay apart for colour-blind readers (jfly.uni-koeln.de/color).
# Yellow is left out: it is too light for lines on white. Then wine, indigo and olive of Paul Tol's.
_BASELINE_COLOURS = ("#0072B2", "#56B4E9", "#5B6770")
_OTHER_COLOURS = ("#D55E00", "#009E73", "#CC79A7", "#E69F00", "#000000")
_OTHER_COLOURS += ("#882255", "#332288", "#999933")
_LEVEL_COLOURS = ("plasma", 0.0, 0.88)  # of matplotlib's, without its bright end
_MANY = 5  # curves of a panel, beyond which single seeds are left out and bands are fainter
_LINES = ("solid", (0, (4, 1.2)), (0, (5, 1.2, 1, 1.2)), (0, (1.2, 1.2)))
"""One after the other, for further rounds of the same colours."""
_DOTS = (0, (1, 1.6))
_ROWS = ("mean ± standard error", "interquartile mean, 95 % interval")  # of the seeds
_TITLE = 32  # letters that fit above a panel
_BOOTSTRAPS = 2000  # per point of a curve; the interval's edges move by about 0.005 beyond that
STYLE: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.size": 9.5,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "text.color": INK,
    "text.parse_math": False,  # a `$` in a label is a `$`
}
"""matplotlib's settings for all figures of studies."""


class Look(NamedTuple):
    """How a group's curve is drawn."""

    colour: str
    line: Any
    """As matplotlib's `linestyle`."""


def looks(comparison: Comparison, levels: Mapping[str, float] | None = None) -> dict[str, Look]:
    """One look per label, the same in every environment; baselines come first.

    Args:
        comparison: Whose labels.
        levels: Of labels that stand for levels of something; their colours are in its order.
    """
    methods = {
        label: group.runs[0].config["method"]
        for environment in comparison.environments.values()
        for label, group in environment.groups.items()
    }
    baselines, others = (
        (Look(colour, line) for line, colour in cycle(product(_LINES, colours)))
        for colours in (_BASELINE_COLOURS, _OTHER_COLOURS)
    )
    ranked = {label: Look(colour, _LINES[0]) for label, colour in _ranked(levels or {}).items()}
    ordered = sorted(methods, key=lambda label: methods[label] != BASELINE)
    return {
        label: ranked[label]
        if label in ranked
        else next(baselines if methods[label] == BASELINE else others)
        for label in ordered
    }


def _ranked(levels: Mapping[str, float]) -> dict[str, str]:
    """A colour per label, from the lowest level to the highest."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    name, low, high = _LEVEL_COLOURS
    shares = np.linspace(low, high, len(levels))
    ordered = sorted(levels, key=lambda label: levels[label])
    return {
        label: to_hex(colormaps[name](share)) for label, share in zip(ordered, shares, strict=True)
    }


def _band(values: np.ndarray, row: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Centre, lower and upper edge over seeds; the edges of a single seed are nan."""
    if row == 0:
        mean, error = statistics.mean_and_standard_error(values)
        return mean, mean - error, mean + error
    centre = statistics.interquartile_mean(values)
    low, high = statistics.bootstrap_interval(values, statistics.interquartile_mean, n=_BOOTSTRAPS)
    return centre, low, high


def _draw_group(axes: "Axes", group: Group, look: Look, row: int, many: bool) -> None:
    """The group as far as all its runs go; in the upper row, every seed as a thin line unless there
    are `many` groups."""
    grid, values = statistics.curves_on_grid([(run.steps, run.values) for run in group.runs])
    centre, low, high = _band(values, row)
    colour = look.colour
    if row == 0:
        for run in group.runs if len(group.runs) > 1 and not many else ():
            axes.plot(run.steps / 1e6, run.values, color=colour, alpha=0.25, linewidth=0.7)
        for run in group.left_out:
            axes.plot(run.steps / 1e6, run.values, color=colour, linewidth=0.9, linestyle=_DOTS)
    alpha = 0.12 if many else 0.22
    axes.fill_between(grid / 1e6, low, high, color=colour, alpha=alpha, linewidth=0)
    line = {"linestyle": look.line, "linewidth": 2.0, "solid_capstyle": "round"}
    axes.plot(grid / 1e6, centre, color=colour, **line)


def _draw_demonstrators(axes: "Axes", environment: Environment, styles: dict) -> bool:
    """A dashed line per source of demonstrations, in its group's colour if one group uses it."""
    users = demonstrators(environment)
    for value, labels in users.items():
        colour = styles[labels[0]].colour if len(labels) == 1 else INK
        axes.axhline(value, color=colour, linestyle=(0, (5, 3)), linewidth=1.2, zorder=1.5)
    return bool(users)


def demonstrators(environment: Environment) -> dict[float, list[str]]:
    """By the demonstrators' win rate or mean return, the labels of the groups that learn from
    them."""
    users: dict[float, dict[str, None]] = {}
    for label, group in environment.groups.items():
        for run in group.runs:
            if run.demo_value is not None:
                users.setdefault(float(run.demo_value), {})[label] = None
    return {value: [*labels] for value, labels in users.items()}


def title_of(env: str) -> str:
    """An environment's name, in as many lines as it takes above a panel."""
    lines = [""]
    for part in re.split(r"(?<=[/:?&])", env):
        if lines[-1] and len(lines[-1] + part) > _TITLE:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines)


def _style(column: Iterable["Axes"], environment: Environment) -> None:
    """Grid and limits, the same in both rows."""
    drawn = [run for group in environment.groups.values() for run in (*group.runs, *group.left_out)]
    limits = [axes.get_ylim() for axes in column]
    low, high = min(low for low, _ in limits), max(high for _, high in limits)
    end = max(run.end for run in drawn) / 1e6
    if environment.measure == "win_rate":
        low, high = -0.02, 1.02
    for axes in column:
        axes.set_xlim(0, 1.01 * end)
        axes.locator_params(axis="x", nbins=6, steps=[1, 2, 5, 10])
        axes.set_ylim(low, high)
        axes.grid(color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)


def _annotate(panels: np.ndarray, environments: dict[str, Environment]) -> None:
    """Environments above, what is drawn to the right, axis labels at the outer edges.

    A panel has a vertical axis of its own where that to its left shows something else.
    """
    for axes, title in zip(panels[0], environments, strict=True):
        axes.set_title(title_of(title), fontsize=11, fontweight="bold", pad=8)
        axes.tick_params(labelbottom=False)
    for axes in panels[-1]:
        axes.set_xlabel("environment steps (millions)")
    left = None
    for column, environment in zip(panels.T, environments.values(), strict=True):
        measure = environment.measure
        for axes in column:
            if measure == left == "win_rate":
                axes.tick_params(labelleft=False)
            else:
                axes.set_ylabel(MEASURES[measure])
        left = measure
    for row, text in zip(panels, _ROWS, strict=True):
        where = {"transform": row[-1].transAxes, "ha": "left", "va": "center", "rotation": 270}
        row[-1].text(1.02, 0.5, text, fontsize=8.5, color=MUTED, **where)


def _seeds(comparison: Comparison, label: str) -> str:
    """`5 seeds`, `3–5 seeds` where environments differ, `4 of 5 seeds` where one is left out."""
    inside = [environment.groups for environment in comparison.environments.values()]
    groups = [groups[label] for groups in inside if label in groups]
    counts = sorted((len(group.runs), len(group.runs) + len(group.left_out)) for group in groups)
    if any(group.left_out for group in groups):
        span = " and ".join(dict.fromkeys(f"{used} of {every}" for used, every in counts))
    else:
        span = "–".join(dict.fromkeys((f"{counts[0][0]}", f"{counts[-1][0]}")))
    return f"{span} seed" + ("" if max(every for _, every in counts) == 1 else "s")


def _legend(figure: "Figure", comparison: Comparison, styles: dict[str, Look], demos: bool) -> None:
    from matplotlib.lines import Line2D

    handles: list[Any] = [
        Line2D(
            [],
            [],
            color=look.colour,
            linestyle=look.line,
            linewidth=2.5,
            label=f"{label}, {_seeds(comparison, label)}",
        )
        for label, look in styles.items()
    ]
    if demos:
        dashes = (0, (3.2, 1.8))
        handles.append(
            Line2D([], [], color=INK, linestyle=dashes, linewidth=1.2, label="demonstrators")
        )
    inside = [environment.groups.values() for environment in comparison.environments.values()]
    if any(group.left_out for groups in inside for group in groups):
        words = "left out of the mean"
        handles.append(Line2D([], [], color=INK, linestyle=_DOTS, linewidth=0.9, label=words))
    # About three short entries fit under a panel; long labels get a line each.
    longest = max(len(handle.get_label()) for handle in handles)
    width = figure.get_figwidth() * 11  # letters
    columns = max(1, min(len(handles), int(width // (longest + 7))))
    rows = -(-len(handles) // columns)
    figure.set_figheight(figure.get_figheight() + 0.23 * (rows - 1))  # panels keep their height
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False)


def draw_learning_curves(
    comparison: Comparison, levels: Mapping[str, float] | None = None
) -> "Figure":
    """A matplotlib figure of a comparison. For `levels` see `looks`.

    Upper row, as in the paper: mean and standard error over seeds of the test win rate, or of the
    test return where nobody can win. Lower row: interquartile mean and its 95 % bootstrap
    interval. They are of the runs that the legend counts, as far as all of a group's go. Thin lines
    are single seeds, where there are no more than five curves, dotted ones those left out, dashed
    ones the demonstrators' win rates or returns. `save_learning_curves` writes such a figure to a
    file.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    environments = comparison.environments
    with drawing(STYLE):
        size = (max(5.6, 1.0 + 3.7 * len(environments)), 5.9)
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(figure)  # no window system, and no global pyplot state
        panels = figure.subplots(2, len(environments), squeeze=False)
        styles, demos = looks(comparison, levels), False
        for column, environment in zip(panels.T, environments.values(), strict=True):
            for row, axes in enumerate(column):
                many = len(environment.groups) > _MANY
                for label, group in environment.groups.items():
                    _draw_group(axes, group, styles[label], row, many)
                demos |= _draw_demonstrators(axes, environment, styles)
            _style(column, environment)
        _annotate(panels, environments)
        _legend(figure, comparison, styles, demos)
        return figure


def save_learning_curves(
    comparison: Comparison, out: str | Path, levels: Mapping[str, float] | None = None
) -> Path:
    """Draws the learning curves of a comparison into a file, wholly or not at all. For `levels` see
    `looks`.

    Returns its path. Raises InputError unless `out` ends in .png, .pdf or .svg and can be written.
    """
    path = check_figure(out)
    figure = draw_learning_curves(comparison, levels)
    with drawing(STYLE):
        save_figure(figure, path, dpi=170)
    return path
