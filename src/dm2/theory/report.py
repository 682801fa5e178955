"""The tables that `dm2 theory verify` prints."""

from collections.abc import Sequence
from typing import Any

from rich.table import Table

from dm2.theory.verdict import Verdict

__all__ = ["tables"]


def tables(verdicts: Sequence[Verdict]) -> list[Table]:
    """Arranges verdicts in tables.

    Args:
        verdicts: The verdicts of `dm2.theory.verify`.

    Returns:
        Three tables: the enforced claims, the runs of Algorithm 2 by reward form and order of
        updates, and the other measurements.
    """
    enforced = [v for v in verdicts if v.enforced]
    runs = [v for v in verdicts if v.setting]
    rest = [v for v in verdicts if not v.enforced and not v.setting]
    return [
        _rows("Claims (a violation is an error)", enforced),
        _matrix(runs),
        _rows("Assumed, or stated without a condition it needs (measured)", rest),
    ]


def _rows(title: str, verdicts: Sequence[Verdict]) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    table.add_column("claim", no_wrap=True)
    table.add_column("statement")
    for column in ("games", "violations", "worst margin"):
        table.add_column(column, justify="right")
    table.add_column("verdict")
    for v in verdicts:
        numbers = (str(v.games), str(v.violations), f"{v.margin:.1e}")
        table.add_row(v.name, v.statement, *numbers, v.verdict)
    return table


def _matrix(verdicts: Sequence[Verdict]) -> Table:
    """The table of the runs, in percent: one row per form and order, one column per question."""
    title = "Algorithm 2 (measured): how often this fails, in % of games (cases)"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    table.caption_justify = "left"
    table.add_column("reward, order", no_wrap=True)
    settings = list(dict.fromkeys(v.setting for v in verdicts))
    columns = [v for v in verdicts if v.setting == settings[0]] if settings else []
    for v in columns:
        table.add_column(v.name, justify="right")
    table.caption = "\n".join(f"{v.name}: {v.statement}" for v in columns)
    cells: dict[str, list[Any]] = {setting: [] for setting in settings}
    for v in verdicts:
        cells[v.setting].append(_share(v))
    for setting, row in cells.items():
        table.add_row(setting, *row)
    return table


def _share(verdict: Verdict) -> str:
    text = f"{100 * verdict.violations / verdict.games:.1f}"
    return f"{text} ({100 * verdict.broken / verdict.cases:.2g})" if verdict.cases else text
