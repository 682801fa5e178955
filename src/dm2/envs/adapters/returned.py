"""What the methods of other people's environments returned, taken apart and checked."""

from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from dm2.envs.spaces import MASK, briefly, numbers
from dm2.errors import EnvError

__all__ = [
    "all_of",
    "check_named",
    "dictionary",
    "each_ones",
    "flag",
    "flags_of",
    "legal_by",
    "number",
    "parts_of",
    "rewards_of",
    "truths",
]


def parts_of(result: Any, count: int, what: str, named: str) -> Any:
    """What an environment's method returned, taken apart.

    Args:
        result: What it returned.
        count: How many parts there must be.
        what: The method.
        named: The parts, for messages.

    Raises:
        EnvError: If there are not as many, as by an interface of other versions.
    """
    if not isinstance(result, tuple | list) or len(result) != count:
        kind = type(result).__name__
        given = f"{len(result)} values" if isinstance(result, tuple | list) else f"one {kind}"
        raise EnvError(f"{what} returned {given}; it must return {named}")
    return result


def dictionary(value: Any, what: str) -> dict[Any, Any]:
    """A dictionary. Raises EnvError if it is none."""
    if not isinstance(value, dict):
        raise EnvError(f"its {what}: {briefly(value)}; must be a dictionary")
    return value


def check_named(values: dict[Any, Any], agents: list[Any], what: str) -> None:
    """Raises EnvError unless a dictionary names all of the agents that acted."""
    for agent in agents:
        if agent not in values:
            names = ", ".join(map(repr, values)) or "nobody"
            problem = f"agent {agent!r} is not in `{what}`, which names {names}"
            raise EnvError(f"{problem}; name every agent that acted")


def each_ones(value: Any, agents: int, what: str) -> Any:
    """What an environment says of each agent, in a row. Raises EnvError unless it has an entry for
    each of them."""
    try:
        fits = not isinstance(value, dict | str) and len(value) == agents
    except TypeError:  # it has no length
        fits = False
    if not fits:
        problem = f"its {what}: {briefly(value)}"
        raise EnvError(f"{problem}; must be one for each of its {agents} agents")
    return value


def number(value: Any, what: str) -> float:
    """A number, perhaps in an array of its own. Raises EnvError if it is none."""
    found = numbers(value)
    if found is None or found.size != 1:
        raise EnvError(f"{what} is {briefly(value)}; must be a number")
    return float(found.item())


def flag(value: Any, what: str) -> bool:
    """A truth value, perhaps in an array of its own. Raises EnvError if it is none."""
    if value is True or value is False:
        return value
    found = truths(value)
    if found is None or found.size != 1:
        raise EnvError(f"{what} is {briefly(value)}; must be true or false")
    return bool(found.item())


def truths(value: Any) -> Bool[np.ndarray, "..."] | None:
    """An array of truth values, from such or from numbers that are all 0 or 1, else nothing."""
    found = numbers(value)
    if found is None or found.dtype.kind == "b":
        return found
    flags = found.astype(bool)
    return None if np.count_nonzero(flags != found) else flags


def flags_of(value: Any, agents: int, what: str) -> Bool[np.ndarray, "..."]:
    """A truth value for all agents, or a row with that of each. Raises EnvError if it is
    neither."""
    found = truths(value)
    if found is None or (found.size != 1 and found.shape != (agents,)):
        remedy = f"must be true or false, or that for each of its {agents} agents"
        raise EnvError(f"`{what}` is {briefly(value)}; {remedy}")
    return found


def all_of(value: Any, agents: int, what: str) -> bool:
    """A truth value, or whether all agents' are true. Raises EnvError if it is neither."""
    if value is True or value is False:  # as nearly always: a look at an array takes its time
        return value
    return bool(flags_of(value, agents, what).all())


def rewards_of(reward: Any, agents: int) -> Float[np.ndarray, "..."]:
    """Each agent's reward, from one for all or from a row. Raises EnvError if it is neither."""
    paid = numbers(reward)
    if paid is None:
        remedy = "must be a number, or one for each agent"
        raise EnvError(f"its reward is {briefly(reward)}; {remedy}")
    paid = paid.astype(np.float32, copy=False)
    return np.full(agents, paid) if paid.ndim == 0 else paid


def legal_by(mask: Any, count: int, agent: Any) -> Bool[np.ndarray, " a"]:
    """The legal actions of an agent.

    Args:
        mask: What its environment says, a truth value an action.
        count: How many actions it has.
        agent: What messages call it.

    Raises:
        EnvError: If there is not one truth value an action.
    """
    flags = truths(mask)
    if flags is None:
        problem = f"the {MASK} of agent {agent!r} is {briefly(mask)}"
        raise EnvError(f"{problem}; must be 1 for each action that is legal and 0 for the others")
    if flags.shape != (count,):
        problem = f"the {MASK} of agent {agent!r} has the shape {flags.shape}"
        raise EnvError(f"{problem}; its action space has {count} actions, make both the same")
    return flags
