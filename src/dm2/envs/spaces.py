"""Gymnasium's spaces as the contract has them: numbers in a row, and one choice among actions."""

from typing import Any

import numpy as np
from jaxtyping import Float

from dm2.errors import InputError, WorldError

__all__ = ["action_count", "flat", "flat_size", "nth_action"]


def flat_size(space: Any, field: str) -> int:
    """How many numbers an observation is when it is flattened.

    A box counts its entries, a discrete space its choices and a multi-discrete one those of all
    its parts (one number a choice, 1 for the chosen), a binary one its bits; dictionaries and
    tuples the sum of their parts.

    Args:
        space: the space.
        field: what messages call the environment.

    Raises:
        InputError: the space is of another kind.
    """
    kind = type(space).__name__
    if kind == "Box":
        return int(np.prod(space.shape))
    if kind == "Discrete":
        return int(space.n)
    if kind == "MultiDiscrete":
        return int(np.sum(space.nvec))
    if kind == "MultiBinary":
        return int(np.prod(space.shape))
    if kind in ("Tuple", "Dict"):
        return sum(flat_size(part, field) for part in _parts(space))
    remedy = "must be made of Box, Discrete, MultiDiscrete, MultiBinary, Tuple and Dict"
    raise InputError(f"{field}: its observation space is {space}; {remedy}")


def flat(space: Any, value: Any) -> Float[np.ndarray, " O"]:
    """An observation in a row; see `flat_size`. Raises WorldError if the space does not hold it."""
    kind = type(space).__name__
    try:
        if kind == "Discrete":
            return _one_hot(int(value) - int(space.start), int(space.n))
        if kind == "MultiDiscrete":
            chosen = zip(np.ravel(value), np.ravel(space.nvec), strict=True)
            return np.concatenate([_one_hot(int(x), int(n)) for x, n in chosen])
        if kind == "Tuple":
            return np.concatenate([flat(p, v) for p, v in zip(space.spaces, value, strict=True)])
        if kind == "Dict":
            return np.concatenate([flat(part, value[name]) for name, part in space.spaces.items()])
        row = np.asarray(value, np.float32)
    except (IndexError, KeyError, TypeError, ValueError):
        raise WorldError(f"it shows {value!r}, which is not in {space}; {_REMEDY}") from None
    if row.shape != space.shape:
        problem = f"it shows an array of shape {row.shape}, which is not in {space}"
        raise WorldError(f"{problem}; {_REMEDY}")
    return row.ravel()


_REMEDY = "make the space say what is shown"


def action_count(space: Any, field: str) -> int:
    """How many actions there are. Raises InputError unless the space is discrete."""
    if type(space).__name__ != "Discrete":
        remedy = "dm2's agents choose among discrete actions; wrap it so that they are"
        raise InputError(f"{field}: its action space is {space}; {remedy}")
    return int(space.n)


def nth_action(space: Any, index: int) -> int:
    """The action of a discrete space that stands at an index; the last one beyond its end, where
    the agent is not alive."""
    return int(space.start) + min(index, int(space.n) - 1)


def _parts(space: Any) -> list[Any]:
    return list(space.spaces.values() if type(space).__name__ == "Dict" else space.spaces)


def _one_hot(index: int, size: int) -> Float[np.ndarray, " n"]:
    row = np.zeros(size, np.float32)
    if not 0 <= index < size:
        raise IndexError(index)
    row[index] = 1
    return row
