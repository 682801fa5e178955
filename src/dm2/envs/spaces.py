"""Gymnasium's spaces as the contract has them: numbers in a row, and one choice among actions."""

from typing import Any

import numpy as np
from jaxtyping import Float

from dm2.errors import EnvError, InputError, one_line

__all__ = [
    "MASK",
    "action_count",
    "briefly",
    "flat",
    "flat_size",
    "is_tuple",
    "masked",
    "nth_action",
    "numbers",
]

MASK = "action_mask"
"""What the part of an observation, or of an agent's infos, is called that says what is legal."""


def numbers(value: Any) -> np.ndarray | None:
    """An array of real numbers or truth values, else nothing. Text is not read as a number, and no
    complex number loses its imaginary part."""
    try:
        found = np.asarray(value)
    except (TypeError, ValueError):  # its rows are of unlike lengths
        return None
    return found if found.dtype.kind in "biuf" else None


def briefly(value: Any) -> str:
    """A value in one line of a message; of a long one, the beginning."""
    return one_line(repr(value), 80)


def flat_size(space: Any, field: str, what: str = "observation space") -> int:
    """How many numbers an observation, or a state, is when it is flattened.

    A box counts its entries, a discrete space its choices and a multi-discrete one those of all
    its parts (one number a choice, 1 for the chosen), a binary one its bits; dictionaries and
    tuples the sum of their parts, but for the `action_mask` of a dictionary.

    Args:
        space: The space.
        field: What messages call the environment.
        what: What they call the space.

    Raises:
        InputError: If the space is of another kind.
    """
    kind = _kind(space)
    if kind == "Box":
        return int(np.prod(space.shape))
    if kind == "Discrete":
        return int(space.n)
    if kind == "MultiDiscrete":
        return int(np.sum(space.nvec))
    if kind == "MultiBinary":
        return int(np.prod(space.shape))
    if kind in ("Tuple", "Dict"):
        parts = _parts(space)
        if any(masked(part) for part in parts.values()):
            remedy = f"show {MASK} beside the agent's observation, not within it"
            raise InputError(f"{field}: its {what} is {space}; {remedy}")
        return sum(flat_size(part, field, what) for part in parts.values())
    remedy = f"must be made of {', '.join(_KINDS)}"
    raise InputError(f"{field}: its {what} is {space}; {remedy}")


def flat(space: Any, value: Any) -> Float[np.ndarray, " O"]:
    """An observation in a row; see `flat_size`. Raises EnvError if the space does not hold it."""
    kind = _kind(space)
    try:
        if kind == "Discrete":
            return _one_hot(_choice(value) - int(space.start), int(space.n))
        if kind == "MultiDiscrete":
            begin = (
                np.zeros_like(space.nvec) if getattr(space, "start", None) is None else space.start
            )
            chosen = zip(*map(np.ravel, (value, begin, space.nvec)), strict=True)
            return np.concatenate([_one_hot(_choice(x) - int(b), int(n)) for x, b, n in chosen])
        if kind == "Tuple":
            return np.concatenate([flat(p, v) for p, v in zip(space.spaces, value, strict=True)])
        if kind == "Dict":
            return np.concatenate([flat(p, value[name]) for name, p in _parts(space).items()])
        row = numbers(value)
    except (IndexError, KeyError, OverflowError, TypeError, ValueError):
        row = None
    if row is None:
        problem = f"it shows {briefly(value)}, which is not in {briefly(space)}"
        raise EnvError(f"{problem}; {_REMEDY}")
    if row.shape != space.shape:
        problem = f"it shows an array of shape {row.shape}, which is not in {briefly(space)}"
        raise EnvError(f"{problem}; {_REMEDY}")
    return row.astype(np.float32, copy=False).ravel()


_REMEDY = "make the space say what is shown"


def action_count(space: Any, field: str) -> int:
    """How many actions there are. Raises InputError unless the space is discrete."""
    if _kind(space) != "Discrete":
        remedy = "dm2's agents choose among discrete actions; wrap it so that they are"
        raise InputError(f"{field}: its action space is {space}; {remedy}")
    return int(space.n)


def nth_action(space: Any, index: int) -> int:
    """The action of a discrete space that stands at an index; the last one beyond its end, where
    the agent is not alive."""
    return int(space.start) + min(index, int(space.n) - 1)


def is_tuple(space: Any) -> bool:
    """Whether a space is a tuple of others."""
    return _kind(space) == "Tuple"


def masked(space: Any) -> bool:
    """Whether an observation is a dictionary that says which actions are legal."""
    return _kind(space) == "Dict" and MASK in space.spaces


_KINDS = ("Box", "Discrete", "MultiDiscrete", "MultiBinary", "Tuple", "Dict")


def _kind(space: Any) -> str:
    """What a space is, also by a class of its own. Gymnasium need not be there."""
    names = (base.__name__ for base in type(space).__mro__)
    return next((name for name in names if name in _KINDS), "")


def _parts(space: Any) -> dict[Any, Any]:
    """The parts of a tuple or a dictionary by their names, but for what says what is legal."""
    if _kind(space) == "Tuple":
        return dict(enumerate(space.spaces))
    return {name: part for name, part in space.spaces.items() if name != MASK}


def _choice(value: Any) -> int:
    """The whole number that a choice is. Raises ValueError or OverflowError if it is none."""
    found = numbers(value)
    if found is None or found.item() != int(found.item()):
        raise ValueError(value)
    return int(found.item())


def _one_hot(index: int, size: int) -> Float[np.ndarray, " n"]:
    row = np.zeros(size, np.float32)
    if not 0 <= index < size:
        raise IndexError(index)
    row[index] = 1
    return row
