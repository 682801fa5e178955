"""Parquet files, by pyarrow: one row a step and agent (see `table`)."""

import math
from pathlib import Path
from typing import Any

import numpy as np

from dm2.demos.importing.checks import Fields, Labels
from dm2.demos.importing.layout import NameMap
from dm2.demos.importing.table import Columns, Table, as_label, choose_columns, read_tables
from dm2.demos.importing.team import needs
from dm2.envs import EnvSpec
from dm2.errors import InputError

__all__ = ["read"]


def read(paths: list[Path], mapping: NameMap, spec: EnvSpec) -> tuple[list[Fields], Labels]:
    """Reads Parquet files. Several are one table.

    Args:
        paths: The files.
        mapping: The columns that are not called as usual (see `choose_columns`).
        spec: The environment.

    Returns:
        The episodes, and what messages call them.

    Raises:
        InputError: If pyarrow is not installed, or if a file cannot be read or does not fit. The
            rows that messages name are numbered from 0, as pandas does.
    """
    return read_tables(paths, _read_one, mapping, spec)


def _read_one(path: Path, mapping: NameMap, spec: EnvSpec) -> tuple[Columns, Table]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise needs("pyarrow", "parquet") from None
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            columns = _choose(file.schema_arrow, mapping, spec)
            table = file.read(columns=[*columns.labels, *columns.numbers])
    except (pyarrow.ArrowException, OSError) as error:
        problem = f"cannot be read as Parquet ({' '.join(str(error).split())[:200]})"
        raise InputError(f"{problem}; write the file again") from None
    labels = {column: _labels(table.column(column), column) for column in columns.labels}
    numbers = {column: _numbers(table.column(column), column) for column in columns.numbers}
    return columns, Table(labels, numbers, [f"row {row}" for row in range(table.num_rows)])


def _choose(schema: Any, mapping: NameMap, spec: EnvSpec) -> Columns:
    """The columns that are to be read. Raises InputError if some are missing."""
    from pyarrow import types

    try:
        return choose_columns(schema.names, mapping, spec)
    except InputError as error:
        lists = [field.name for field in schema if types.is_nested(field.type)]
        remedy = f"; column {lists[0]!r} holds lists: make a column of each number" if lists else ""
        raise InputError(f"{error}{remedy}") from None


def _labels(cells: Any, column: str) -> list[str]:
    try:
        values = cells.to_pylist()
    except UnicodeDecodeError:
        problem = f"column {column!r} holds text that is not UTF-8"
        raise InputError(f"{problem}; write the file again, with text in UTF-8") from None
    return [as_label(_text(value), f"row {row}", column) for row, value in enumerate(values)]


def _text(value: Any) -> str:
    """A label as a text; an empty one if there is none."""
    if isinstance(value, float):
        return "" if not math.isfinite(value) else str(int(value) if value == int(value) else value)
    return "" if value is None else str(value)


def _numbers(cells: Any, column: str) -> np.ndarray:
    """The numbers of a column, NaN where it is null."""
    import pyarrow
    from pyarrow import types

    kind = cells.type
    known = (types.is_boolean, types.is_integer, types.is_floating, types.is_null)
    if not any(is_kind(kind) for is_kind in known):
        problem = f"column {column!r} is of type {kind}"
        raise InputError(f"{problem}, must be of numbers or booleans; convert it")
    values = cells.cast(pyarrow.int8()) if types.is_boolean(kind) else cells
    numbers = values.cast(pyarrow.float64(), safe=False).to_numpy().astype(np.float64)
    there = cells.is_valid().to_numpy()
    for row in np.flatnonzero(there & ~np.isfinite(numbers))[:1]:
        problem = f"row {row}: column {column!r} = {numbers[row]:g}"
        raise InputError(f"{problem}: must be a finite number; correct it, or make it null")
    return numbers
