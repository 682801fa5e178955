"""A summary of demonstrations: as plain values, and as tables to read."""

from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Group
from rich.markup import escape
from rich.table import Column, Table

from dm2.demos.agent import AgentDemonstrations

if TYPE_CHECKING:
    from dm2.demos.dataset import Demonstrations

__all__ = ["describe", "summarise"]


def summarise(
    demos: "Demonstrations", distinct: list[AgentDemonstrations], won: np.ndarray | None
) -> dict[str, Any]:
    """Summarises demonstrations (see `Demonstrations.summary`).

    Args:
        demos: The demonstrations.
        distinct: One agent for each group that shares its joint episodes.
        won: Whether the team won each different joint episode; None if that is unknown.

    Returns:
        A dictionary of plain values.
    """
    source, first = demos.provenance, demos[0]
    lengths = np.concatenate([agent.lengths for agent in distinct])
    return {
        "environment": source["environment"],
        "environment_version": source["environment_version"],
        "agents": len(demos),
        "episodes": source["episodes"],
        "steps": int(lengths.sum()),
        "episode_length": _spread(lengths),
        "observation_size": first.observations.shape[1],
        "dtype": first.observations.dtype.name,
        "fields": list(first.arrays()),
        "win_rate": source["win_rate"] if won is None else float(np.mean(won)),
        "mean_return": demos.mean_return,
        "concurrency": source["concurrency"],
        "concurrent": demos.concurrent,
        "file_bytes": demos.file_bytes,
        "sha256": demos.sha256,
        "per_agent": [_of_agent(demos, k) for k in range(len(demos))],
        "provenance": source,
    }


def _of_agent(demos: "Demonstrations", k: int) -> dict[str, Any]:
    agent, alive = demos[k], demos.alive_observations(k)
    low, high = alive.min(axis=0), alive.max(axis=0)
    return {
        "concurrency": demos.provenance["concurrency"][k],
        "episodes": agent.num_episodes,
        "steps": len(agent.alive),
        "steps_alive": len(alive),
        "episode_length": _spread(agent.lengths),
        "absorbing": demos.absorbing_fraction(k),
        "observation": _spread(alive),  # on the steps alive, as are constant features
        "constant_features": float(np.mean(low == high)),
    }


def _spread(values: np.ndarray) -> dict[str, float]:
    mean = float(np.mean(values, dtype=np.float64))
    return {"mean": mean, "min": values.min().item(), "max": values.max().item()}


def describe(summary: dict[str, Any]) -> Group:
    """Arranges a summary in tables.

    Args:
        summary: The result of `Demonstrations.summary`.

    Returns:
        A group of tables that rich can print.
    """
    properties = Table("what", Column("value", overflow="fold"), show_header=False, box=None)
    for name, value in summary.items():
        if name not in ("per_agent", "provenance"):
            properties.add_row(name.replace("_", " "), _show(value))
    for name, value in summary["provenance"].items():
        if name not in summary:
            properties.add_row(f"provenance: {name.replace('_', ' ')}", _show(value))
    names = ("steps", "steps_alive", "absorbing", "mean", "min", "max", "constant_features")
    titles = [name.replace("_", " ") for name in ("agent", "episodes", *names)]
    table = Table(*titles, box=None)
    for k, row in enumerate(summary["per_agent"]):
        values = row | row["observation"]
        table.add_row(str(k), str(row["episodes"]), *[_show(values[name]) for name in names])
    return Group(properties, table)


def _show(value: Any) -> str:
    if isinstance(value, dict) and value.keys() == {"mean", "min", "max"}:
        return f"{_show(value['mean'])} ({_show(value['min'])} to {_show(value['max'])})"
    if isinstance(value, dict):
        return ", ".join(f"{escape(name)} {_show(item)}" for name, item in value.items())
    if isinstance(value, list):
        return ", ".join(_show(item) for item in value)
    if value is None:
        return "unknown"
    return f"{value:.4g}" if isinstance(value, float) else escape(str(value))
