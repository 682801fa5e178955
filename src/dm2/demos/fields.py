"""The arrays in an agent's demonstrations, and how errors in them are reported."""

import contextlib
from collections.abc import Iterator
from typing import Any

from dm2.errors import InputError

__all__ = ["AGAIN", "DAMAGED", "FIELDS", "REQUIRED", "about", "check"]

# field -> allowed types, axes. `steps` and `episodes` are the same numbers throughout an agent.
FIELDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "observations": (("float16", "float32"), ("steps", "O")),
    "alive": (("bool",), ("steps",)),
    "offsets": (("int64",), ("episodes + 1",)),
    "actions": (("int16", "int32"), ("steps",)),
    "legal": (("bool",), ("steps", "A")),
    "returns": (("float32",), ("episodes",)),
    "won": (("bool",), ("episodes",)),
}
REQUIRED = ("observations", "alive", "offsets")
AGAIN = "record the demonstrations again with `dm2 record`"
DAMAGED = f"the file is damaged: copy it again, or {AGAIN}"


def check(condition: Any, problem: str, remedy: str = AGAIN) -> None:
    """Raises an error if a condition does not hold.

    Args:
        condition: The condition.
        problem: What is wrong, with the name of the field and its value.
        remedy: What the user can do.

    Raises:
        InputError: If the condition is false.
    """
    if not condition:
        raise InputError(f"{problem}; {remedy}")


@contextlib.contextmanager
def about(place: object) -> Iterator[None]:
    """Adds the place of a problem to the text of an InputError that is raised inside the context.

    Args:
        place: The place, for example the path of a file or `agent 0`.

    Raises:
        InputError: The error of the context, with `place` in front.
    """
    try:
        yield
    except InputError as error:
        raise InputError(f"{place}: {error}") from None
