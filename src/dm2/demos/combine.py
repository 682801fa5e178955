"""Demonstrations for a team, made of recordings of several teams."""

from collections.abc import Mapping, Sequence
from typing import Any

from dm2.demos.dataset import Demonstrations
from dm2.demos.fields import check
from dm2.demos.provenance import PER_AGENT, of_agent, per_agent

__all__ = ["combine"]

_SHARED = ("environment", "environment_version", "num_actions", "episode_limit")


def combine(
    recordings: Sequence[Demonstrations], provenance: Mapping[str, Any] | None = None
) -> Demonstrations:
    """Takes the part of agent `k` from the `k`-th recording.

    Agents are concurrent in the result only where they were in one and the same recording, which is
    then given several times.

    Args:
        recordings: One recording for each agent, each of the whole team.
        provenance: Entries to add to those of the recordings. Entries in which the recordings
            differ become lists, with one value for each agent.

    Returns:
        The demonstrations of the combined team.

    Raises:
        InputError: If there is no recording, or if one has another number of agents, size or type
            of observations, environment, version, number of actions or episode limit than the
            others.

    Example:
        Agents 0 and 1 come from the episodes of one team, and agent 2 from another team's.

            combine([one, one, other])
    """
    check(recordings, "recordings: there are none", "give one for each agent")
    for i, recording in enumerate(recordings):
        _check_fits(recording, i, recordings)
    labels: dict[tuple[int, Any], int] = {}
    for k, recording in enumerate(recordings):
        labels.setdefault(_episodes_of(recording, k), len(labels))
    sources = [recording.provenance for recording in recordings]
    merged: dict[str, Any] = {}
    for name in dict.fromkeys(name for source in sources for name in source):
        if name in PER_AGENT:
            merged[name] = per_agent(of_agent(source, name, k) for k, source in enumerate(sources))
        else:
            merged[name] = per_agent(source.get(name) for source in sources)
    merged["concurrency"] = [labels[_episodes_of(one, k)] for k, one in enumerate(recordings)]
    merged["win_rate"] = None
    agents = tuple(recording[k] for k, recording in enumerate(recordings))
    return Demonstrations(agents, merged | dict(provenance or {}))


def _episodes_of(recording: Demonstrations, k: int) -> tuple[int, Any]:
    """What tells the joint episodes of agent `k` from those of other recordings and agents."""
    return id(recording), recording.provenance["concurrency"][k]


def _check_fits(recording: Demonstrations, i: int, recordings: Sequence[Demonstrations]) -> None:
    """Raises InputError if recording `i` does not go with the others."""
    count, first = len(recordings), recordings[0]
    problem = f"recordings[{i}]: has {len(recording)} agents, but there are {count} recordings"
    check(len(recording) == count, problem, "give one recording of the whole team for each agent")
    facts = [(n, recording.provenance[n], first.provenance[n]) for n in _SHARED]
    sizes = (x[0].observations.shape[1] for x in (recording, first))
    kinds = (x[0].observations.dtype.name for x in (recording, first))
    facts += [("observation size", *sizes), ("type of observations", *kinds)]
    for name, have, want in facts:
        problem = f"recordings[{i}]: {name} is {have!r}, that of recordings[0] is {want!r}"
        check(have == want, problem, "combine recordings of one environment, stored in one type")
