"""CSV files, by Python's own reader: one row a step and agent (see `table`)."""

import csv
import math
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dm2.demos.importing.checks import Fields, Labels
from dm2.demos.importing.layout import NameMap
from dm2.demos.importing.table import Columns, Table, as_label, choose_columns, read_tables
from dm2.envs import EnvSpec
from dm2.errors import InputError

__all__ = ["read"]

_WORDS = {"true": 1.0, "false": 0.0}


def read(paths: list[Path], mapping: NameMap, spec: EnvSpec) -> tuple[list[Fields], Labels]:
    """Reads CSV files with a header, separated by commas, in UTF-8. Several are one table.

    Args:
        paths: The files.
        mapping: The columns that are not called as usual (see `choose_columns`).
        spec: The environment.

    Returns:
        The episodes, and what messages call them.

    Raises:
        InputError: If a file cannot be read or does not fit. The rows that messages name are
            numbered as an editor numbers lines: the header is row 1.
    """
    return read_tables(paths, _read_one, mapping, spec)


def _read_one(path: Path, mapping: NameMap, spec: EnvSpec) -> tuple[Columns, Table]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = _numbered(csv.reader(file, strict=True))
            _, header = next(rows, (1, []))
            if len(header) < 2:
                problem = f"the header is {','.join(header)!r}" if header else "the file is empty"
                raise InputError(f"{problem}; write a row of column names, separated by commas")
            header = [name.strip() for name in header]
            if any("\0" in name for name in header):  # as each second byte of UTF-16 is
                problem = "the header holds letters of number 0, as if it were UTF-16"
                raise InputError(f"{problem}; save the table as CSV in UTF-8")
            columns = choose_columns(header, mapping, spec)
            return columns, _cells(rows, header, columns)
    except UnicodeDecodeError as error:
        problem = f"byte {error.start} is not UTF-8"
        raise InputError(f"{problem}; save the table as CSV in UTF-8") from None
    except OSError as error:
        problem = f"cannot be read: {error.strerror or error}"
        raise InputError(f"{problem}; give a file that can be read") from None


def _numbered(reader: Any) -> Iterator[tuple[int, list[str]]]:
    """The rows that are not blank, with their numbers. Raises InputError about one that is no CSV,
    or that has another number of cells than the first one."""
    width, last = None, 0
    try:
        for row in reader:
            last = reader.line_num
            if not row:
                continue
            if width is None and row == ["sep=", ""]:  # Excel's word for what separates cells
                continue
            width = width or len(row)
            if len(row) != width:
                problem = f"row {reader.line_num} has {len(row)} cells, but the header has {width}"
                raise InputError(f"{problem}; give every row a cell for each column")
            yield reader.line_num, row
    except csv.Error as error:
        remedy = "save the table as CSV again"
        if reader.line_num > last + 1:
            remedy = f"close the quotation mark that opens in it, or {remedy}"
        raise InputError(f"row {last + 1}: {error}; {remedy}") from None


def _cells(rows: Iterator[tuple[int, list[str]]], header: Sequence[str], columns: Columns) -> Table:
    where = {name: i for i, name in enumerate(header)}
    labels = {column: [] for column in columns.labels}
    numbers = columns.numbers
    picked, numbers_of_rows, places = [where[column] for column in numbers], array("d"), []
    for number, row in rows:
        for column, found in labels.items():
            found.append(as_label(row[where[column]], f"row {number}", column))
        try:
            numbers_of_rows.extend([_number(row[i]) for i in picked])
        except ValueError:
            cells = (_cell(row[where[column]], number, column, columns) for column in numbers)
            numbers_of_rows.extend(list(cells))
        places.append(f"row {number}")
    values = np.frombuffer(numbers_of_rows, np.float64).reshape(len(places), len(picked))
    return Table(labels, {c: values[:, i] for i, c in enumerate(numbers)}, places)


def _number(cell: str) -> float:
    """The number in a cell, NaN if it is empty. Raises ValueError about anything else."""
    if not cell:
        return math.nan
    number = float(cell)
    if number - number != 0 or "_" in cell:  # no finite number, or one that only Python reads
        raise ValueError
    return number


def _cell(cell: str, row: int, column: str, columns: Columns) -> float:
    """The number in a cell, which may also hold a word. Raises InputError about anything else."""
    text = cell.strip()
    if column in columns.flags and text.lower() in _WORDS:
        return _WORDS[text.lower()]
    try:
        return _number(text)
    except ValueError:
        wanted = "0 or 1, or false or true" if column in columns.flags else "a finite number"
        problem = f"row {row}: column {column!r} = {cell!r}"
        raise InputError(f"{problem}: must be {wanted}; correct the cell") from None
