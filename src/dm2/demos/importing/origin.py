"""Where the episodes of several files come from, by what `dm2 demos export` wrote into them."""

from collections.abc import Sequence
from typing import Any

from dm2.demos.importing.checks import Fields
from dm2.errors import InputError

__all__ = ["agent_order", "merged"]

_MEASURED = ("win_rate", "episode_indices")
"""The entries of a provenance that are true of all its episodes together."""


def agent_order(sources: Sequence[dict[str, Any]], names: Sequence[str]) -> list[int]:
    """The order in which files go that hold one agent's part each.

    Args:
        sources: The provenance that each file tells, in which `agent` is the number of its agent.
        names: The names of the files, for messages.

    Returns:
        The indices of the files, by their agents' numbers; as they were given if one tells none.

    Raises:
        InputError: If two files are of the same agent, or of agents of different episodes.
    """
    numbers = [number for source in sources if type(number := source.get("agent")) is int]
    if len(numbers) < len(sources):
        return list(range(len(sources)))
    for i, number in enumerate(numbers):
        first = numbers.index(number)
        if first < i:
            problem = f"{names[first]} and {names[i]}: both are the part of agent {number}"
            raise InputError(f"{problem}; give one for each agent")
        if sources[i].get("concurrency") != sources[0].get("concurrency"):
            problem = f"{names[0]} and {names[i]}: these agents come from different episodes"
            raise InputError(f"{problem}; import parts of one recording of the team")
    return sorted(range(len(sources)), key=lambda i: numbers[i])


def merged(
    sources: Sequence[dict[str, Any]], episodes: Sequence[Fields], *, parts: bool
) -> dict[str, Any]:
    """The provenance of the episodes of several files.

    Args:
        sources: The provenance that each file tells.
        episodes: The episodes.
        parts: Whether each file holds one agent's part of them.

    Returns:
        What all files say alike and is still true of all episodes together. The win rate is left
        out where all episodes say themselves whether they were won.
    """
    alike = {
        name: value
        for name, value in sources[0].items()
        if all(name in source and source[name] == value for source in sources)
    }
    same = (parts or len(sources) == 1) and alike.get("episodes", len(episodes)) == len(episodes)
    untrue = ["concurrency", *(() if same else _MEASURED)]  # all agents share these episodes
    untrue += ["agent", "team_agents"] if parts else []
    untrue += ["win_rate"] if all("won" in episode for episode in episodes) else []
    return {name: value for name, value in alike.items() if name not in untrue}
