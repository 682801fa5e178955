"""Names of a recording's keys or columns: the usual ones, and those that a mapping says."""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence

from dm2.errors import InputError

__all__ = ["as_mapping", "check_names", "numbered", "suggestion"]


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


def check_names(mapping: Mapping[str, str], known: Sequence[str]) -> None:
    """Raises InputError if a mapping has a name that is not among those known."""
    for name, column in mapping.items():
        if name not in known:
            near = suggestion(name, known)
            problem = f"map = '{name}={column}': there is no name {name!r}; {near}"
            raise InputError(f"{problem}known: {', '.join(known)}")


def suggestion(name: str, known: Iterable[str]) -> str:
    """The words of a message that say which known name is nearest; none if nothing is near."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}? " if near else ""


def numbered(pattern: str, names: Sequence[str]) -> list[str]:
    """The names that a pattern stands for, in the order of their numbers.

    Args:
        pattern: A name in which `*` stands for a number, for example `obs_*`.
        names: The names that there are.

    Returns:
        Those that fit, from number 0 or 1 up.

    Raises:
        InputError: If a number between the first and the last is missing.
    """
    before, _, after = pattern.partition("*")
    shape = re.compile(rf"{re.escape(before)}(0|[1-9]\d{{0,8}}){re.escape(after)}")
    found = {int(match[1]): name for name in names if (match := shape.fullmatch(name))}
    first = 0 if 0 in found else 1
    for number in range(first, max(found, default=0)):
        if number not in found:
            problem = f"{pattern.replace('*', str(number))!r} is missing, {found[max(found)]!r} is"
            raise InputError(f"{problem} there; number them without a gap")
    return [found[number] for number in sorted(found)]
