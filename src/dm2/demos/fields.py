"""The arrays in an agent's demonstrations, and how errors in them are reported."""

import contextlib
from collections.abc import Iterator
from typing import Any, Literal

from dm2.envs.base import is_battle
from dm2.errors import InputError

__all__ = ["AGAIN", "DAMAGED", "FIELDS", "REQUIRED", "Dtype", "about", "check", "settled_dtype"]

Dtype = Literal["float16", "float32"]
"""The types in which observations are stored."""

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


def settled_dtype(dtype: Any, environment: Any) -> Dtype:
    """Returns the type in which observations of an environment are stored.

    Args:
        dtype: What was asked for, `float16` or `float32`, or None for what suits the environment.
            That is `float16` on the battles, smax and smac, whose features lie in about -1 to 1 and
            are rounded by at most 5e-4. Elsewhere it is `float32`: float16 ends at 65504, and
            numbers around 1000 are 0.5 apart in it, which is much once a feature is standardised.
        environment: The environment's name.

    Returns:
        The type.

    Raises:
        InputError: If there is no such type.
    """
    if dtype is None:
        return "float16" if is_battle(str(environment)) else "float32"
    check(dtype in FIELDS["observations"][0], f"dtype = {dtype!r}", "use float16 or float32")
    return dtype
