"""Tables, one row a step and agent, as the episodes of a recording.

By default the columns are

    episode, step, agent   whose row it is: labels of episode and agent, and the number of the step
    obs_0, obs_1 …         what the agent observed, one column a feature
    alive                  whether the agent was alive, by default in all rows
    action                 what it did
    legal_0, legal_1 …     whether it could have done each action
    return, won            of the whole episode, in any of its rows, the same in all that have it

Rows may be in any order. Steps are numbered from 0 or from 1, in all episodes alike. Agents that
are numbered, or whose names differ in one number alone, are taken in its order, others in the order
in which they first appear; unless the mapping says `agents=red,green,blue`. An agent without rows
at the end of an episode is dead there. A cell may be empty where its agent is dead.
"""

import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64, Int64

from dm2.demos.fields import about
from dm2.demos.importing.checks import Fields, Labels, Names, check_episode, check_steps
from dm2.demos.importing.layout import (
    NameMap,
    check_names,
    in_order,
    listed,
    numbered,
    suggestion,
)
from dm2.envs import EnvSpec
from dm2.errors import InputError

__all__ = ["Columns", "Table", "as_label", "choose_columns", "episodes_of", "read_tables"]

_DEFAULTS = {
    "episode": "episode",
    "step": "step",
    "agent": "agent",
    "obs": "obs_*",
    "alive": "alive",
    "action": "action",
    "legal": "legal_*",
    "return": "return",
    "won": "won",
}
_REQUIRED = ("episode", "step", "agent", "obs")
_NAMES = (*_DEFAULTS, "agents")
_FIELDS = {"alive": "alive", "action": "actions", "legal": "legal", "obs": "observations"}
_FEATURED = ("obs", "legal")
_EMPTY_WHERE_DEAD = {"obs": 0.0, "action": 0.0, "legal": 1.0}
"""What an empty cell of a dead agent's row is taken for, which means nothing."""
_WHOLE = re.compile(r"(-?(?:0|[1-9][0-9]{0,99}))(?:\.0*)?")
"""A whole number, also as spreadsheets and pandas write it where a column has an empty cell: 3.0.
Other labels are texts, as 03, 1e5 and 2024_01 are."""


@dataclass(frozen=True)
class Columns:
    """Columns are those of a table that are read, by the names that the module's docstring lists.

    Every name has a list of columns, which for `obs` and `legal` is that of the features.
    """

    named: dict[str, list[str]]
    agents: list[str] | None
    """The agents' labels in the order of the agents, if the mapping said it."""

    @property
    def labels(self) -> list[str]:
        """The columns that hold labels."""
        return [*self.named["episode"], *self.named["agent"]]

    @property
    def numbers(self) -> list[str]:
        """The columns that hold numbers."""
        rest = (columns for name, columns in self.named.items() if name not in ("episode", "agent"))
        return [column for columns in rest for column in columns]

    @property
    def flags(self) -> list[str]:
        """The columns of numbers that may hold true and false."""
        return [c for name in ("alive", "won", "legal") for c in self.named.get(name, [])]


class Table(NamedTuple):
    """A table is the rows of one file or of several, of the columns that are read."""

    labels: dict[str, list[str]]
    """The texts in each column of labels."""
    numbers: dict[str, Float64[np.ndarray, " rows"]]
    """The numbers in each column of numbers; NaN where the cell is empty."""
    places: list[str]
    """What messages call each row: `row 7`, after the file's name if there are several."""


def read_tables(
    paths: Sequence[Path],
    read: Callable[[Path, NameMap, EnvSpec], tuple[Columns, Table]],
    mapping: NameMap,
    spec: EnvSpec,
) -> tuple[list[Fields], Labels]:
    """Reads the files of one table.

    Args:
        paths: The files.
        read: Reads one of them.
        mapping: The columns that are not called as usual (see `choose_columns`).
        spec: The environment.

    Returns:
        The episodes, and what messages call them.

    Raises:
        InputError: If a file cannot be read, does not fit, or has other columns than the first.
    """
    parts: list[tuple[Columns, Table]] = []
    for path in paths:
        with about(path):
            parts.append(read(path, mapping, spec))
            _check_alike(parts[-1][0], parts[0][0], paths[0].name)
    with about(", ".join(map(str, paths))):
        table = _concatenate([table for _, table in parts], [path.name for path in paths])
        return episodes_of(table, parts[0][0], spec)


def _check_alike(columns: Columns, first: Columns, file: str) -> None:
    """Raises InputError if other columns of a file are read than of the first file."""
    read, wanted = (one.labels + one.numbers for one in (columns, first))
    missing, added = set(wanted) - set(read), set(read) - set(wanted)
    remedy = "give all files of a table the same columns"
    if missing:
        raise InputError(f"there is no column {min(missing)!r}, which {file} has; {remedy}")
    if added:
        raise InputError(f"there is a column {min(added)!r}, which {file} does not have; {remedy}")


def as_label(text: str, place: str, column: str) -> str:
    """The label that a text is, whole numbers without a point. Raises InputError if there is
    none."""
    text = text.strip()
    if not text:
        raise _empty(place, column, "say whose row it is")
    number = _WHOLE.fullmatch(text)
    return str(int(number[1])) if number else text


def choose_columns(header: Sequence[str], mapping: NameMap, spec: EnvSpec) -> Columns:
    """Finds the columns that are to be read.

    Args:
        header: The names of the table's columns.
        mapping: The columns that are not called as usual. `obs` and `legal` are a pattern in which
            `*` stands for the number of the feature, or a list of columns. `agents` is a list of
            the agents' labels.
        spec: The environment.

    Returns:
        The columns.

    Raises:
        InputError: If a column is missing or there twice, or if there is another number of
            features, actions or agents than in the environment.
    """
    check_names(mapping, _NAMES, lists=(*_FEATURED, "agents"))
    for column in header:
        if list(header).count(column) > 1:
            raise InputError(f"column {column!r} is there twice; give every column its own name")
    sizes = {"obs": (spec.observation_size, "features of an observation")}
    sizes["legal"] = (spec.num_actions, "actions")
    named: dict[str, list[str]] = {}
    columns_of = _DEFAULTS | dict(mapping)
    for name in _DEFAULTS:
        wanted = listed(columns_of, name) if name in _FEATURED else [str(columns_of[name])]
        found = _find(name, wanted, header)
        if not found and (name in mapping or name in _REQUIRED):
            raise _missing(name, wanted[0], header)
        if found and name in sizes and len(found) != sizes[name][0]:
            count, what = sizes[name]
            problem = f"columns {found[0]!r} to {found[-1]!r} are {len(found)}"
            remedy = "give one column for each, or name another environment"
            raise InputError(f"{problem}, but {spec.name} has {count} {what}; {remedy}")
        if found:
            named[name] = found
    unused = [column for column in header if all(column not in used for used in named.values())]
    if unused:
        text = f"columns that are not read: {_listed(unused)}; `--map` names those that are"
        warnings.warn(text, UserWarning, stacklevel=2)
    agents = [as_label(agent, "map", "agents") for agent in listed(mapping, "agents")]
    return Columns(named, agents or None)


def _find(name: str, wanted: list[str], header: Sequence[str]) -> list[str]:
    """The columns that a name stands for. None of them, if the only one is not in the header."""
    if name in _FEATURED and len(wanted) == 1 and "*" in wanted[0]:
        return numbered(wanted[0], header)
    for column in wanted:
        if column not in header:
            if len(wanted) > 1:
                raise _missing(name, column, header)
            return []
    return wanted


def _missing(name: str, column: str, header: Sequence[str]) -> InputError:
    near = suggestion(column, header)
    remedy = f"say which holds {name}, `--map {name}=COLUMN`"
    have = f"the table has {_listed(header)}"
    return InputError(f"there is no column {column!r}; {near}{have}; {remedy}")


def _listed(words: Sequence[Any]) -> str:
    """The first twenty words, in quotation marks."""
    return ", ".join(map(repr, words[:20])) + (" …" if len(words) > 20 else "")


def _concatenate(tables: Sequence[Table], files: Sequence[str]) -> Table:
    """The rows of several tables of the same columns, one after the other."""
    if len(tables) == 1:
        return tables[0]
    labels = {c: [x for table in tables for x in table.labels[c]] for c in tables[0].labels}
    numbers = {c: np.concatenate([t.numbers[c] for t in tables]) for c in tables[0].numbers}
    pairs = zip(tables, files, strict=True)
    return Table(labels, numbers, [f"{file}: {row}" for t, file in pairs for row in t.places])


def episodes_of(table: Table, columns: Columns, spec: EnvSpec) -> tuple[list[Fields], Labels]:
    """Sorts the rows of a table into the episodes of a team, and checks them.

    Args:
        table: The rows.
        columns: The columns that were read.
        spec: The environment.

    Returns:
        The episodes, `[T, K, …]`, and what messages call them.

    Raises:
        InputError: If a row is there twice or missing, if there are other agents than the
            environment has, or if a cell is empty or holds what the checks reject.
    """
    if not table.places:
        raise InputError("the table has no rows; give one for each step and agent")
    named, names = columns.named, _names_of(table, columns)
    steps = check_steps(_step_values(table, columns), names, spec)
    episode, episodes = _index(table.labels[named["episode"][0]], None)
    agent, agents = _index(table.labels[named["agent"][0]], columns.agents)
    _check_agents(agents, columns, spec)
    step, first = _steps_from_zero(table, named["step"][0], spec)
    rows = _arrange(table, (episode, step, agent), (episodes, agents), first)
    labels = [f"episode {label!r}" for label in episodes]
    # Each episode's rows in their order, at once: a search for every episode would be quadratic.
    ends = np.cumsum(np.bincount(episode))
    parts = np.split(np.argsort(episode, kind="stable"), ends[:-1])
    made = [
        _gather(rows[e], steps) | _once(table, columns, parts[e], label)
        for e, label in enumerate(labels)
    ]
    names = names._replace(place=lambda index: table.places[rows[index]])
    return made, Labels(labels, [f"agent {label!r}" for label in agents], names)


def _names_of(table: Table, columns: Columns) -> Names:
    by_field = {field: columns.named.get(name, []) for name, field in _FIELDS.items()}

    def call(field: str, i: int | None) -> str:
        found = by_field[field]
        if i is None and len(found) > 1:
            return f"columns {found[0]!r} to {found[-1]!r}"
        return f"column {found[i or 0]!r}"

    return Names(lambda index: table.places[index[0]], call)


def _step_values(table: Table, columns: Columns) -> Fields:
    """The arrays of `check_steps`. Raises InputError about a cell that may not be empty."""
    values, numbers = {}, table.numbers
    alive = np.ones(len(table.places), bool)
    for name in (name for name in _FIELDS if name in columns.named):
        found = columns.named[name]
        array = np.stack([numbers[column] for column in found], axis=-1)
        if name in _EMPTY_WHERE_DEAD:
            array[np.isnan(array) & ~alive[:, None]] = _EMPTY_WHERE_DEAD[name]
        for row, i in np.argwhere(np.isnan(array))[:1]:
            remedy = "fill it in, or set alive to 0 if the agent was dead"
            raise _empty(table.places[row], found[i], remedy)
        alive = array[:, 0] != 0 if name == "alive" else alive
        values[_FIELDS[name]] = array if name in _FEATURED else array[:, 0]
    return values


def _empty(place: str, column: str, remedy: str) -> InputError:
    return InputError(f"{place}: column {column!r} is empty; {remedy}")


def _index(labels: list[str], order: list[str] | None) -> tuple[Int64[np.ndarray, " rows"], list]:
    """The index of each row's label, and the labels in their order, numbers as numbers."""
    distinct = list(dict.fromkeys(labels))
    if order is not None:
        ordered = [*order, *(label for label in distinct if label not in order)]
    elif all(map(_WHOLE.fullmatch, distinct)):
        ordered = sorted(map(int, distinct))
    else:
        ordered = in_order(distinct)
    index = {str(label): i for i, label in enumerate(ordered)}
    return np.array([index[label] for label in labels], np.int64), ordered


def _check_agents(agents: list, columns: Columns, spec: EnvSpec) -> None:
    (column,), count = columns.named["agent"], spec.num_agents
    if columns.agents is not None and agents != columns.agents:
        problem = f"column {column!r} = {agents[len(columns.agents)]!r}: is not among the agents of"
        raise InputError(f"{problem} the map, {', '.join(columns.agents)}; correct either")
    if columns.agents is not None and len(agents) != count:
        problem = f"map = 'agents={','.join(agents)}': names {len(agents)} agents"
        remedy = "name each of its agents once, or name another environment"
        raise InputError(f"{problem}, but {spec.name} has {count}; {remedy}")
    if len(agents) != count:
        problem = f"column {column!r} holds {len(agents)} agents ({_listed(agents)})"
        remedy = "give the rows of every agent, or name another environment"
        raise InputError(f"{problem}, but {spec.name} has {count}; {remedy}")


def _steps_from_zero(
    table: Table, column: str, spec: EnvSpec
) -> tuple[Int64[np.ndarray, " rows"], int]:
    """The steps, numbered from 0, and what the table numbers the first one, 0 or 1."""
    given = table.numbers[column]
    for row in np.flatnonzero(np.isnan(given))[:1]:
        raise _empty(table.places[row], column, "number the steps of every episode from 0")
    bad = (given != np.floor(given)) | (given < 0)
    for row in np.flatnonzero(bad)[:1]:
        shown = f"{table.places[row]}: column {column!r} = {given[row]:g}"
        raise InputError(f"{shown}: must be a whole number; number the steps from 0")
    first, row = given.min(), int(given.argmin())
    if first > 1:
        shown = f"{table.places[row]}: column {column!r} = {first:g}, the lowest step of all"
        raise InputError(f"{shown}: must be 0 or 1; number the steps of every episode from 0")
    for row in np.flatnonzero(given - first >= spec.episode_limit)[:1]:
        shown = f"{table.places[row]}: column {column!r} = {given[row]:g}"
        problem = f"but an episode of {spec.name} has at most {spec.episode_limit} steps"
        remedy = "cut the episode, or name an environment with a longer `?limit=`"
        raise InputError(f"{shown}, {problem}; {remedy}")
    return (given - first).astype(np.int64), int(first)


def _arrange(
    table: Table,
    at: tuple[np.ndarray, np.ndarray, np.ndarray],
    labels: tuple[list, list],
    first: int,
) -> Int64[np.ndarray, "E T K"]:
    """The row of each step of each agent; -1 where it has none, being dead."""
    episodes, agents = labels
    rows = np.full((len(episodes), int(at[1].max()) + 1, len(agents)), -1, np.int64)
    rows[at] = np.arange(len(table.places))
    for row in np.flatnonzero(rows[at] != np.arange(len(table.places)))[:1]:
        e, t, k = (int(index[row]) for index in at)
        where = f"{table.places[row]} and {table.places[rows[e, t, k]]}"
        step = f"episode {episodes[e]!r}, step {t + first}, agent {agents[k]!r}"
        raise InputError(f"{where}: both are {step}; keep one of them, or tell them apart")
    there = rows >= 0
    later = np.logical_or.accumulate(there[:, ::-1], axis=1)[:, ::-1]
    never = ~there.any(axis=1)
    for e, k in np.argwhere(never)[:1]:
        problem = f"episode {episodes[e]!r} has no row of agent {agents[k]!r}"
        raise InputError(f"{problem}; give its rows, with alive = 0 if it was dead throughout")
    for e, t, k in np.argwhere(later & ~there)[:1]:
        place = f"episode {episodes[e]!r}, step {t + first}, agent {agents[k]!r}"
        remedy = "add it, or end the episode there"
        raise InputError(f"{place}: the row is missing, though later ones are there; {remedy}")
    return rows


def _gather(rows: Int64[np.ndarray, "T K"], steps: Fields) -> Fields:
    """The fields of one episode, `[T, K, …]`. Where an agent has no row it is dead."""
    rows = rows[: int(np.flatnonzero((rows >= 0).any(axis=1))[-1]) + 1]
    episode = {}
    for name, array in steps.items():
        episode[name] = array[rows]
        episode[name][rows < 0] = name == "legal"
    return episode


def _once(table: Table, columns: Columns, rows: Int64[np.ndarray, " rows"], label: str) -> Fields:
    """What the rows of one episode say of it as a whole."""
    said = {}
    for name, field in (("return", "returns"), ("won", "won")):
        for column in columns.named.get(name, []):
            values = table.numbers[column]
            given = rows[~np.isnan(values[rows])]
            for row in given[values[given] != values[given[:1]]][:1]:
                shown = f"{table.places[row]}: column {column!r} = {values[row]:g}"
                other = f"but {values[given[0]]:g} in {table.places[given[0]]}"
                remedy = f"it concerns the whole of {label}: correct one of them"
                raise InputError(f"{shown}, {other}; {remedy}")
            if len(given):
                said[field] = values[given[0]]
    call = {"returns": "return", "won": "won"}
    names = Names(lambda _: label, lambda field, _: f"column {columns.named[call[field]][0]!r}")
    return check_episode(said, names)
