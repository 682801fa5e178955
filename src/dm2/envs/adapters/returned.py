"""What the methods of other people's worlds returned, taken apart and checked."""

from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from dm2.envs.spaces import MASK
from dm2.errors import WorldError

__all__ = ["dictionary", "legal_by", "number", "parts_of", "rewards_of"]


def parts_of(result: Any, count: int, what: str, named: str) -> Any:
    """What a world's method returned, taken apart.

    Args:
        result: what it returned.
        count: how many parts there must be.
        what: the method.
        named: the parts, for messages.

    Raises:
        WorldError: there are not as many, as by an interface of other versions.
    """
    if not isinstance(result, tuple | list) or len(result) != count:
        kind = type(result).__name__
        given = f"{len(result)} values" if isinstance(result, tuple | list) else f"one {kind}"
        raise WorldError(f"{what} returned {given}; it must return {named}")
    return result


def dictionary(value: Any, what: str) -> dict[Any, Any]:
    """A dictionary. Raises WorldError if it is none."""
    if not isinstance(value, dict):
        raise WorldError(f"its {what}: {value!r}; must be a dictionary")
    return value


def number(value: Any, what: str) -> float:
    """A number, perhaps in an array of its own. Raises WorldError if it is none."""
    try:
        return float(np.asarray(value).item())
    except (TypeError, ValueError):
        raise WorldError(f"{what} is {value!r}; must be a number") from None


def rewards_of(reward: Any, agents: int) -> Float[np.ndarray, " k"]:
    """Each agent's reward, from one for all or from a row. Raises WorldError if it is neither."""
    try:
        paid = np.asarray(reward, np.float32)
    except (TypeError, ValueError):
        remedy = "must be a number, or one for each agent"
        raise WorldError(f"its reward is {reward!r}; {remedy}") from None
    return np.full(agents, paid) if paid.ndim == 0 else paid


def legal_by(mask: Any, count: int, agent: Any) -> Bool[np.ndarray, " a"]:
    """The legal actions of an agent.

    Args:
        mask: what its world says, a number an action.
        count: how many actions it has.
        agent: what messages call it.

    Raises:
        WorldError: there is not one number an action.
    """
    flags = np.asarray(mask, bool)
    if flags.shape != (count,):
        problem = f"the {MASK} of agent {agent!r} has the shape {flags.shape}"
        raise WorldError(f"{problem}; its action space has {count} actions, make both the same")
    return flags
