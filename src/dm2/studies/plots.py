"""Learning curves of several methods, one column of panels per environment."""

from collections.abc import Iterable, Sequence
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dm2.errors import InputError
from dm2.files import replacing
from dm2.studies import statistics
from dm2.studies.compare import BASELINE, Groups, Run, find_runs, group_runs

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_learning_curves", "learning_curves"]

# Okabe and Ito's colours, which stay apart for colour-blind readers (jfly.uni-koeln.de/color).
# Yellow is left out: it is too light for lines on white.
_BASELINE_COLOURS = ("#0072B2", "#56B4E9", "#5B6770")
_OTHER_COLOURS = ("#D55E00", "#009E73", "#CC79A7", "#E69F00", "#000000")
_INK, _MUTED, _GRID = "#333333", "#5B6770", "#E4E7EA"
_FORMATS = (".png", ".pdf", ".svg")
_ROWS = ("mean ± standard error", "interquartile mean, 95 % interval")  # of the seeds
_BOOTSTRAPS = 2000  # per point of a curve; the interval's edges move by about 0.005 beyond that
_RC: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 9.5,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "text.color": _INK,
    "svg.hashsalt": "dm2",  # the same runs give the same file
}


def _colours(groups: Groups) -> dict[str, str]:
    """One colour per label, the same in every environment; baselines come first."""
    methods = {
        label: runs[0].config["method"]
        for inside in groups.values()
        for label, runs in inside.items()
    }
    colours: dict[str, str] = {}
    baselines, others = cycle(_BASELINE_COLOURS), cycle(_OTHER_COLOURS)
    for label in sorted(methods, key=lambda label: (methods[label] != BASELINE, label)):
        colours[label] = next(baselines if methods[label] == BASELINE else others)
    return colours


def _band(values: np.ndarray, row: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Centre, lower and upper edge over seeds; the edges of a single seed are nan."""
    if row == 0:
        mean, error = statistics.mean_and_standard_error(values)
        return mean, mean - error, mean + error
    centre = statistics.interquartile_mean(values)
    low, high = statistics.bootstrap_interval(values, statistics.interquartile_mean, n=_BOOTSTRAPS)
    return centre, low, high


def _draw_group(axes: "Axes", runs: Sequence[Run], colour: str, row: int) -> None:
    """The group up to its smallest common budget; in the upper row, every seed as a thin line."""
    grid, values = statistics.curves_on_grid([(run.steps, run.win_rates) for run in runs])
    centre, low, high = _band(values, row)
    if row == 0 and len(runs) > 1:
        for run in runs:
            axes.plot(run.steps / 1e6, run.win_rates, color=colour, alpha=0.25, linewidth=0.7)
    axes.fill_between(grid / 1e6, low, high, color=colour, alpha=0.22, linewidth=0)
    axes.plot(grid / 1e6, centre, color=colour, linewidth=2.0, solid_capstyle="round")


def _draw_demonstrators(axes: "Axes", inside: dict[str, list[Run]], colours: dict) -> bool:
    """A dashed line per source of demonstrations, in its group's colour if one group uses it."""
    users: dict[float, set[str]] = {}
    for label, runs in inside.items():
        for run in runs:
            if run.demo_win_rate is not None:
                users.setdefault(run.demo_win_rate, set()).add(label)
    for rate, labels in users.items():
        colour = colours[next(iter(labels))] if len(labels) == 1 else _INK
        axes.axhline(rate, color=colour, linestyle=(0, (5, 3)), linewidth=1.2, zorder=1.5)
    return bool(users)


def _style(axes: "Axes", end: float) -> None:
    axes.set_xlim(0, 1.01 * end)
    axes.set_ylim(-0.02, 1.02)
    axes.grid(color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _annotate(panels: np.ndarray, names: Iterable[str]) -> None:
    """Environments above, what is drawn to the right, axis labels at the outer edges."""
    for axes, name in zip(panels[0], names, strict=True):
        axes.set_title(name, fontsize=11, fontweight="bold", pad=8)
    for axes in panels[:, 1:].flat:
        axes.tick_params(labelleft=False)
    for axes in panels[0]:
        axes.tick_params(labelbottom=False)
    for axes in panels[-1]:
        axes.set_xlabel("environment steps (millions)")
    for row, text in zip(panels, _ROWS, strict=True):
        row[0].set_ylabel("test win rate")
        where = {"transform": row[-1].transAxes, "ha": "left", "va": "center", "rotation": 270}
        row[-1].text(1.02, 0.5, text, fontsize=8.5, color=_MUTED, **where)


def _seeds(groups: Groups, label: str) -> str:
    """`5 seeds`, or `3–5 seeds` where environments differ."""
    counts = sorted({len(inside[label]) for inside in groups.values() if label in inside})
    span = "–".join(map(str, dict.fromkeys((counts[0], counts[-1]))))
    return f"{span} seed" + ("" if counts == [1] else "s")


def _legend(figure: "Figure", groups: Groups, colours: dict[str, str], demos: bool) -> None:
    from matplotlib.lines import Line2D

    handles: list[Any] = [
        Line2D([], [], color=colour, linewidth=2.5, label=f"{label}, {_seeds(groups, label)}")
        for label, colour in colours.items()
    ]
    if demos:
        dashes = (0, (3.2, 1.8))
        handles.append(
            Line2D([], [], color=_INK, linestyle=dashes, linewidth=1.2, label="demonstrators")
        )
    # About three short entries fit under a panel; long labels get a line each.
    longest = max(len(handle.get_label()) for handle in handles)
    width = figure.get_figwidth() * 11  # letters
    columns = max(1, min(len(handles), int(width // (longest + 7))))
    rows = -(-len(handles) // columns)
    figure.set_figheight(figure.get_figheight() + 0.23 * (rows - 1))  # panels keep their height
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False)


def draw_learning_curves(groups: Groups) -> "Figure":
    """A matplotlib figure of runs grouped by `group_runs`.

    Upper row, as in the paper: mean and standard error of the test win rate over seeds. Lower
    row: interquartile mean and its 95 % bootstrap interval. Thin lines are single seeds, dashed
    ones the demonstrators' win rates. Save it with `figure.savefig`.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with mpl.rc_context(_RC):
        size = (max(5.6, 1.0 + 3.7 * len(groups)), 5.9)
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(figure)  # no window system, and no global pyplot state
        panels = figure.subplots(2, len(groups), squeeze=False)
        colours, demos = _colours(groups), False
        for column, inside in zip(panels.T, groups.values(), strict=True):
            end = max(run.budget for runs in inside.values() for run in runs) / 1e6
            for row, axes in enumerate(column):
                for label, runs in inside.items():
                    _draw_group(axes, runs, colours[label], row)
                demos |= _draw_demonstrators(axes, inside, colours)
                _style(axes, end)
        _annotate(panels, groups)
        _legend(figure, groups, colours, demos)
        return figure


def _save(figure: "Figure", out: Path) -> None:
    """Writes the figure wholly or not at all."""
    import matplotlib as mpl

    undated = {".png": {}, ".pdf": {"CreationDate": None}, ".svg": {"Date": None}}
    suffix = out.suffix.lower()
    out.parent.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(_RC), replacing(out) as temporary:
        figure.savefig(temporary, format=suffix[1:], dpi=170, metadata=undated[suffix])


def learning_curves(
    paths: Sequence[str | Path], out: str | Path, labels: Sequence[str] | None = None
) -> Path:
    """Draws the learning curves of groups of runs.

    Args:
        paths: run directories, or parents of them.
        out: the figure, a name that ends in .png, .pdf or .svg.
        labels: names of the groups, one for each of the paths; see `compare`.

    Returns:
        The path of the figure.

    Raises:
        InputError: `out` has another suffix, or what `compare` raises.
    """
    out = Path(out)
    if out.suffix.lower() not in _FORMATS:
        raise InputError(f"out = {str(out)!r}: must end in {', '.join(_FORMATS)}")
    groups, _ = group_runs(find_runs(paths, labels)[0])
    _save(draw_learning_curves(groups), out)
    return out
