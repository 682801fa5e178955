"""Names of a recording's keys or columns: the usual ones, and those that a mapping says."""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dm2.errors import InputError

__all__ = [
    "NameMap",
    "as_mapping",
    "check_mapping",
    "check_names",
    "in_order",
    "listed",
    "numbered",
    "suggestion",
]

NameMap = Mapping[str, str | Sequence[str]]
"""Columns or keys by the names of what they hold; where several are meant, a list of them, or one
text in which commas separate them."""


def as_mapping(words: Sequence[str]) -> dict[str, str]:
    """Reads `name=column` words, as the command line takes them.

    Args:
        words: The words.

    Returns:
        The columns by names.

    Raises:
        InputError: If a word is not of that form, or a name is there twice.
    """
    mapping: dict[str, str] = {}
    for word in words:
        name, mark, column = word.partition("=")
        if not (name and mark and column):
            raise InputError(f"map = {word!r}: must be name=column, for example action=choice")
        if name in mapping:
            raise InputError(f"map = {word!r}: {name!r} is there twice; say it once")
        mapping[name] = column
    return mapping


def check_mapping(given: Any) -> dict[str, Any]:
    """The mapping that was given, or an empty one. Raises InputError if it does not map names to
    texts or to lists of texts."""
    if given is None:
        return {}
    remedy = "must be a dictionary of names, for example {'action': 'choice', 'obs': ['x', 'y']}"
    if not isinstance(given, Mapping):
        raise InputError(f"mapping = {given!r}: {remedy}")
    for name, value in given.items():
        words = value if isinstance(value, list | tuple) else [value]
        if not words or not all(isinstance(word, str) and word for word in (name, *words)):
            raise InputError(f"mapping = {dict(given)!r}: {remedy}")
    return {n: list(v) if isinstance(v, tuple) else v for n, v in given.items()}


def check_names(mapping: NameMap, known: Sequence[str], lists: Sequence[str] = ()) -> None:
    """Raises InputError if a mapping has a name that is not among those known, or a list of columns
    where it is none of the names `lists`."""
    for name, column in mapping.items():
        if name not in known:
            near = suggestion(name, known)
            problem = f"map = '{name}={column}': there is no name {name!r}; {near}"
            raise InputError(f"{problem}known: {', '.join(known)}")
        if not isinstance(column, str) and name not in lists:
            raise InputError(f"map = '{name}={column}': must be one name, not a list")


def listed(mapping: NameMap, name: str) -> list[str]:
    """The list that a mapping has for a name; an empty one if it has none. Raises InputError if a
    word of it is there twice."""
    value = mapping.get(name, [])
    words = [word.strip() for word in value.split(",")] if isinstance(value, str) else list(value)
    for word in words:
        if words.count(word) > 1:
            problem = f"map = '{name}={','.join(words)}': {word!r} is there twice"
            raise InputError(f"{problem}; name each once")
    return words


def in_order(names: Iterable[str]) -> list[str]:
    """Names that differ in one number alone in its order, which is not that of their letters:
    `agent_2`, `agent_10`. Others as they come."""
    names = list(names)
    parts = {name: re.split(r"([0-9]+)", name) for name in names}
    columns = list(zip(*parts.values(), strict=False))
    differ = [i for i, column in enumerate(columns) if len(set(column)) > 1]
    alike = len(set(map(len, parts.values()))) == 1 and len(differ) == 1
    if not alike or differ[0] % 2 == 0:  # texts stand at even places, numbers between them
        return names
    digits = {name: part[differ[0]].lstrip("0") for name, part in parts.items()}
    return sorted(names, key=lambda name: (len(digits[name]), digits[name]))


def suggestion(name: str, known: Iterable[str]) -> str:
    """The words of a message that say which known name is nearest; none if nothing is near."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}? " if near else ""


def numbered(pattern: str, names: Sequence[str]) -> list[str]:
    """The names that a pattern stands for, in the order of their numbers.

    Args:
        pattern: A name in which `*` stands for a number, for example `obs_*`.
        names: The names that there are. Their numbers may begin with zeros.

    Returns:
        Those that fit, from number 0 or 1 up.

    Raises:
        InputError: If a number between the first and the last is missing, or one is there twice.
    """
    before, _, after = pattern.partition("*")
    shape = re.compile(rf"{re.escape(before)}([0-9]{{1,9}}){re.escape(after)}")
    found: dict[int, str] = {}
    for name in names:
        match = shape.fullmatch(name)
        number = int(match[1]) if match else None
        if number in found:
            problem = f"{found[number]!r} and {name!r} have the same number"
            raise InputError(f"{problem}; give each its own")
        if number is not None:
            found[number] = name
    first = 0 if 0 in found else 1
    for number in range(first, max(found, default=0)):
        if number not in found:
            problem = f"{pattern.replace('*', str(number))!r} is missing, {found[max(found)]!r} is"
            raise InputError(f"{problem} there; number them without a gap")
    return [found[number] for number in sorted(found)]
