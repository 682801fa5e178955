"""A summary of demonstrations as tables to read."""

from typing import Any

from rich.console import Group
from rich.markup import escape
from rich.table import Column, Table

__all__ = ["describe"]


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
