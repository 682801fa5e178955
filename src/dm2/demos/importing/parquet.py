"""Parquet files, by pyarrow: one row a step and agent (see `table`)."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dm2.demos.fields import about
from dm2.demos.importing.checks import Fields
from dm2.demos.importing.table import Columns, Table, choose_columns, concatenate, episodes_of
from dm2.demos.importing.team import needs
from dm2.envs import EnvSpec
from dm2.errors import InputError

__all__ = ["read"]


def read(
    paths: list[Path], mapping: Mapping[str, str], spec: EnvSpec
) -> tuple[list[Fields], list[str]]:
    """Reads Parquet files. Several are one table.

    Args:
        paths: The files.
        mapping: The columns that are not called as usual (see `choose_columns`).
        spec: The environment.

    Returns:
        The episodes, and what messages call each of them.

    Raises:
        InputError: If pyarrow is not installed, or if a file cannot be read or does not fit. The
            rows that messages name are numbered from 0, as pandas does.
    """
    tables, columns = [], None
    for path in paths:
        with about(path):
            columns, table = _read_one(path, mapping, spec)
            tables.append(table)
    assert columns is not None
    with about(", ".join(map(str, paths))):
        return episodes_of(concatenate(tables, [path.name for path in paths]), columns, spec)


def _read_one(path: Path, mapping: Mapping[str, str], spec: EnvSpec) -> tuple[Columns, Table]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise needs("pyarrow", "parquet") from None
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            columns = choose_columns(file.schema_arrow.names, mapping, spec)
            table = file.read(columns=[*columns.labels, *columns.numbers])
    except (pyarrow.ArrowException, OSError) as error:
        problem = f"cannot be read as Parquet ({' '.join(str(error).split())[:200]})"
        raise InputError(f"{problem}; write the file again") from None
    labels = {column: _labels(table.column(column), column) for column in columns.labels}
    numbers = {column: _numbers(table.column(column), column) for column in columns.numbers}
    return columns, Table(labels, numbers, [f"row {row}" for row in range(table.num_rows)])


def _labels(cells: Any, column: str) -> list[str]:
    labels = []
    for row, value in enumerate(cells.to_pylist()):
        if value is None or (isinstance(value, float) and not math.isfinite(value)):
            raise InputError(f"row {row}: column {column!r} is empty; say whose row it is")
        whole = isinstance(value, float) and value == int(value)
        labels.append(str(int(value) if whole else value))
    return labels


def _numbers(cells: Any, column: str) -> np.ndarray:
    """The numbers of a column, NaN where it is null."""
    import pyarrow
    from pyarrow import types

    kind = cells.type
    if not (types.is_boolean(kind) or types.is_integer(kind) or types.is_floating(kind)):
        problem = f"column {column!r} is of type {kind}"
        raise InputError(f"{problem}, must be of numbers or booleans; convert it")
    values = cells.cast(pyarrow.int8()) if types.is_boolean(kind) else cells
    numbers = values.cast(pyarrow.float64(), safe=False).to_numpy().astype(np.float64)
    there = cells.is_valid().to_numpy()
    for row in np.flatnonzero(there & ~np.isfinite(numbers))[:1]:
        problem = f"row {row}: column {column!r} = {numbers[row]:g}"
        raise InputError(f"{problem}: must be a finite number; correct it, or make it null")
    return numbers
