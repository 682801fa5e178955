"""What an agent's demonstrations hold, and how a fault in them is reported."""

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
    """Raises InputError unless `condition` holds."""
    if not condition:
        raise InputError(f"{problem}; {remedy}")


@contextlib.contextmanager
def about(place: object) -> Iterator[None]:
    """Says in an InputError raised inside where the problem is."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{place}: {error}") from None
