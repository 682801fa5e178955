"""The figures of a study: learning curves, numbers over levels, and exchanges between teams."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dm2.figures import check_figure, drawing, save_figure
from dm2.studies import statistics
from dm2.studies.groups import Environment
from dm2.studies.plots import STYLE, looks, save_learning_curves, title_of
from dm2.studies.runs import MEASURES
from dm2.studies.verdicts import Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_study"]

_SUFFIXES = (".png", ".pdf")
_DPI = 170


def draw_study(result: Result, target: Path) -> list[Path]:
    """Draws a study, as PNG and as PDF.

    Args:
        result: What was found; of at least one environment.
        target: The path of the figures without the suffix. A second figure, of levels or of
            exchanges, has `_levels` or `_exchanges` added to its name.

    Returns:
        The figures' paths.

    Raises:
        InputError: If one of the files cannot be written.
    """
    levels = result.study.levels
    paths = [
        save_learning_curves(result.comparison, target.with_name(target.name + suffix), levels)
        for suffix in _SUFFIXES
    ]
    if result.study.axis is not None:
        paths += _save(_levels(result), target.with_name(target.name + "_levels"))
    if result.exchanges:
        paths += _save(_exchanges(result), target.with_name(target.name + "_exchanges"))
    return paths


def _save(figure: "Figure", target: Path) -> list[Path]:
    paths = [check_figure(target.with_name(target.name + suffix)) for suffix in _SUFFIXES]
    with drawing(STYLE):
        for path in paths:
            save_figure(figure, path, dpi=_DPI)
    return paths


def _new_figure(columns: int, height: float, rows: int = 1) -> tuple["Figure", Any]:
    """A figure and its panels, `[rows, columns]`; `height` is a row's, in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    size = (max(5.0, 0.8 + 4.0 * columns), rows * height)
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False)


def _levels(result: Result) -> "Figure":
    """The area under the curve over the level: mean and standard error of the seeds. A curve
    without a level is a horizontal line, what demonstrators reach are crosses."""
    study, environments = result.study, result.comparison.environments
    levels, styles = study.levels, looks(result.comparison, study.levels)
    with drawing(STYLE):
        figure, (row,) = _new_figure(len(environments), 3.4)
        for axes, (title, environment) in zip(row, environments.items(), strict=True):
            _draw_levels(axes, environment, levels)
            for label, group in environment.groups.items():
                if label not in levels:
                    colour = styles[label].colour
                    mean, error = statistics.mean_and_standard_error(environment.areas(group))
                    axes.axhline(mean, color=colour, linewidth=1.6, label=label)
                    if np.isfinite(error):
                        axes.axhspan(
                            mean - error, mean + error, color=colour, alpha=0.15, linewidth=0
                        )
            axes.set_title(title_of(title), fontsize=11, fontweight="bold")
            axes.set_xlabel(study.axis or "")
            axes.set_ylabel(f"area under the {MEASURES[environment.measure]}")
            if environment.measure == "win_rate":
                axes.set_ylim(-0.02, 1.02)
            if study.logarithmic:
                axes.set_xscale("log")
                axes.xaxis.set_major_formatter("{x:g}")  # no powers: no text here is a formula
        handles, labels = row[0].get_legend_handles_labels()
        figure.legend(
            handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=8
        )
        return figure


def _draw_levels(axes: "Axes", environment: Environment, levels: dict[str, float]) -> None:
    points, experts = [], []
    for label, group in environment.groups.items():
        if label in levels:
            mean, error = statistics.mean_and_standard_error(environment.areas(group))
            points.append((levels[label], mean, np.nan_to_num(error)))
            if group.runs[0].demo_value is not None:
                experts.append((levels[label], group.runs[0].demo_value))
    if points:
        x, mean, error = np.array(sorted(points)).T
        words = "mean ± standard error"
        axes.errorbar(x, mean, error, color="#D55E00", marker="o", capsize=3, label=words)
    if experts:
        wins = environment.measure == "win_rate"
        words = "demonstrators win" if wins else "demonstrators' return"
        axes.plot(*np.array(sorted(experts)).T, "x", color="#333333", label=words)


def _exchanges(result: Result) -> "Figure":
    """The win rates of all pairs of teams, a panel for each environment and method, two a row."""
    played = result.exchanges
    with drawing(STYLE):
        from matplotlib.cm import ScalarMappable

        figure, panels = _new_figure(min(2, len(played)), 3.9, rows=-(-len(played) // 2))
        for axes in panels.flat[len(played) :]:
            axes.set_axis_off()
        for axes, ((env, label), rates) in zip(panels.flat, played.items(), strict=False):
            axes.imshow(rates, vmin=0, vmax=1, cmap="cividis")
            for (i, j), rate in np.ndenumerate(rates):
                ink = "white" if rate < 0.5 else "black"
                axes.text(j, i, f"{rate:.2f}", ha="center", va="center", color=ink)
            axes.set_title(f"{title_of(env)}\n{label}", fontsize=10, fontweight="bold")
            axes.set_xlabel("one agent is of the team of seed")
            axes.set_ylabel("all others are of that of seed")
            seeds = result.study.seeds_of_exchanges[env, label]
            axes.set_xticks(range(len(rates)), seeds)
            axes.set_yticks(range(len(rates)), seeds)
        figure.set_layout_engine("compressed")  # for panels that stay square
        scale = ScalarMappable(cmap="cividis")  # from 0 to 1
        figure.colorbar(scale, ax=panels.ravel().tolist(), label="test win rate", shrink=0.8)
        return figure
