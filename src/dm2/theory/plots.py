"""The figure of a run of Algorithm 2: `J`, `L`, `L_ε` and bounds above, the mismatch below."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dm2.figures import GRID, INK, check_figure, drawing, save_figure
from dm2.theory.algorithm import History

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["convergence"]

_OBJECTIVES = {  # Okabe and Ito's colours
    "joint": ("$J$, all match", "#0072B2"),
    "individual": ("$L$, sum of single matches", "#D55E00"),
    "bound": ("$L_ε$, lower bound", "#009E73"),
}
_AGENTS = ("#000000", "#CC79A7", "#56B4E9", "#E69F00", "#5B6770")


def convergence(
    histories: dict[str, History], agents: int, top: float, title: str, out: str | Path
) -> Path:
    """Draws runs of Algorithm 2 on one game side by side.

    Args:
        histories: The runs by their names; each has a column in the figure.
        agents: The number `K` of agents.
        top: The largest possible `L_ε`, which is `ε S K` (see `dm2.theory.bound_top`).
        title: The title of the figure.
        out: The file to write, .png, .pdf or .svg. Missing folders are created.

    Returns:
        The path of the file.

    Raises:
        InputError: If the file has another suffix or cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    path = check_figure(out)
    with drawing({"font.size": 9.5}):
        figure = Figure(figsize=(1.4 + 3.7 * len(histories), 5.6), layout="constrained")
        FigureCanvasAgg(figure)
        figure.suptitle(title, fontsize=11, fontweight="bold", color=INK)
        grid = {"height_ratios": (3, 2)}
        panels = figure.subplots(2, len(histories), squeeze=False, sharex="col", gridspec_kw=grid)
        for (name, history), column in zip(histories.items(), panels.T, strict=True):
            sweeps = np.arange(len(history.joint)) / history.updates_per_sweep
            _objectives(column[0], history, sweeps, agents, top)
            _mismatches(column[1], history, sweeps, agents)
            column[0].set_title(name, fontsize=10, color=INK)
            column[1].xaxis.set_major_locator(MaxNLocator(integer=True))
            column[1].set_xlabel("sweeps (one step of every agent each)")
        lowest = min(0.05, *(axes.get_ylim()[0] for axes in panels[1]))
        for axes in panels[1]:
            axes.set_ylim(lowest, 1.5)
        panels[0, 0].set_ylabel("objective")
        panels[1, 0].set_ylabel("distance (total variation)")
        for row in panels:
            for axes in row[1:]:
                axes.tick_params(which="both", labelleft=False)
            handles, labels = row[0].get_legend_handles_labels()
            beside = {"loc": "center left", "bbox_to_anchor": (1, 0.5)}
            row[-1].legend(handles, labels, frameon=False, fontsize=8, **beside)
        save_figure(figure, path, dpi=110)
    return path


def _objectives(
    axes: "Axes", history: History, sweeps: np.ndarray, agents: int, top: float
) -> None:
    for name, (label, colour) in _OBJECTIVES.items():
        axes.plot(sweeps, getattr(history, name), color=colour, linewidth=2, label=label)
    bounds = ((agents, "$K$"), (agents - 1, "$K-1$"), (top, "$ε S K$"))
    for height, label in bounds:
        axes.axhline(height, color=INK, linestyle=(0, (5, 3)), linewidth=1)
        where = {"xytext": (-2, 2), "textcoords": "offset points", "ha": "right"}
        axes.annotate(label, (1, height), xycoords=("axes fraction", "data"), fontsize=8, **where)
    axes.set_ylim(-0.05, 1.1 * agents)
    _style(axes)


def _mismatches(axes: "Axes", history: History, sweeps: np.ndarray, agents: int) -> None:
    for agent in range(agents):
        label, colour = f"agent {agent}'s marginal", _AGENTS[agent % len(_AGENTS)]
        style = ("-", (0, (4, 2)))[agent % 2]
        distance = np.maximum(history.mismatch[:, agent], 1e-12)
        axes.plot(sweeps, distance, color=colour, linestyle=style, linewidth=1.6, label=label)
    distance = np.maximum(history.distance, 1e-12)
    axes.plot(sweeps, distance, color="#CC3311", linestyle=":", label="worst policy to expert")
    axes.set_yscale("log")
    _style(axes)


def _style(axes: "Axes") -> None:
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
