"""Which episodes of an agent are kept when a part of the demonstrations is taken."""

import math
from typing import Any

import numpy as np
from jaxtyping import Int

from dm2.demos.agent import AgentDemonstrations
from dm2.demos.fields import check
from dm2.errors import as_whole, check_flags

__all__ = ["as_choice", "choose"]


def as_choice(episodes: Any, won: Any, return_range: Any) -> dict[str, Any]:
    """Checks by what episodes are chosen (see `Demonstrations.subset`).

    Args:
        episodes: How many are kept, or None.
        won: Whether only those that the team won are kept.
        return_range: The lowest and the highest return, or None.

    Returns:
        What is asked for, by the names of the arguments, as values that JSON can hold.

    Raises:
        InputError: If an argument is unusable.
    """
    choice: dict[str, Any] = {}
    if episodes is not None:
        choice["episodes"] = as_whole("episodes", episodes)
    check_flags(won=won)
    if won:
        choice["won"] = True
    if return_range is not None:
        choice["return_range"] = _as_range(return_range)
    return choice


def choose(
    agent: AgentDemonstrations, k: int, choice: dict[str, Any]
) -> Int[np.ndarray, " chosen"]:
    """Chooses among one agent's episodes.

    Args:
        agent: The demonstrations for the agent.
        k: The index of the agent, for messages.
        choice: What `as_choice` returned.

    Returns:
        The indices of the episodes, ascending.

    Raises:
        InputError: If there are none or too few of them, or if wins or returns are not known.
    """
    kept, unknown = np.ones(agent.num_episodes, bool), "the demonstrations of agent"
    if "won" in choice:
        check(agent.won is not None, f"won: {unknown} {k} do not say who won", "leave it out")
        kept &= np.asarray(agent.won)
    if "return_range" in choice:
        known = agent.returns is not None
        check(known, f"return_range: {unknown} {k} hold no returns", "leave it out")
        low, high = np.array(choice["return_range"], np.float32)  # as the returns were rounded
        returns = np.asarray(agent.returns)
        kept &= (low <= returns) & (returns <= high)
    (indices,) = np.nonzero(kept)
    asked = ", ".join(
        f"{name} = {choice[name]}" for name in ("won", "return_range") if name in choice
    )
    total = agent.num_episodes
    check(
        len(indices), f"{asked}: none of the {total} episodes of agent {k} is left", "ask for more"
    )
    wanted = choice.get("episodes", len(indices))
    problem = f"episodes = {wanted}: agent {k} has only {len(indices)} to take them from"
    check(wanted <= len(indices), problem, "ask for fewer")
    return indices[:wanted]


def _as_range(given: Any) -> list[float]:
    """The two returns. Raises InputError if they are not finite numbers in their order."""
    try:
        low, high = (float(value) for value in given)
    except (TypeError, ValueError, OverflowError):
        low = high = math.nan
    fits = math.isfinite(low) and math.isfinite(high) and low <= high
    remedy = "must be two finite numbers, the lower one first"
    check(fits, f"return_range = {given!r}", remedy)
    return [low, high]
