"""Flashbax's vaults, in which OG-MARL and Mava keep what teams did. Nothing is downloaded.

A vault holds streams of steps, one behind another: `observations` `[streams, steps, agents,
features]`, and if known `actions` `[streams, steps, agents]`, `terminals` and `truncations`
`[streams, steps, agents]` or `[streams, steps]`, `rewards` like these, and in `infos` `legals`
`[streams, steps, agents, actions]`. A dictionary of the agents' arrays may stand for an array with
an axis of agents. Anything else, such as `infos/state`, is left out.

An episode ends with the step at which every agent is terminated or truncated; an agent that is
earlier than others is dead from its next step on. Where a stream ends within an episode, that one
is left out with a warning. The return is the sum of the rewards, if all agents have the same
rewards; else it is not known.
"""

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dm2.demos.fields import about
from dm2.demos.importing.arrays import split, stack_agents
from dm2.demos.importing.checks import Fields
from dm2.demos.importing.layout import check_names
from dm2.demos.importing.team import needs
from dm2.envs import EnvSpec
from dm2.envs.workers import quiet_output
from dm2.errors import InputError

__all__ = ["is_vault", "read", "vaults_in"]

_METADATA, _STRUCTURE = "metadata.json", "structure_shape"


def is_vault(folder: str | Path) -> bool:
    """Whether a folder is a vault."""
    try:
        return _STRUCTURE in json.loads((Path(folder) / _METADATA).read_text())
    except (OSError, ValueError, TypeError):
        return False


def vaults_in(folder: str | Path) -> list[str]:
    """The names of the vaults in a folder."""
    return sorted(path.name for path in Path(folder).glob("*") if is_vault(path))


def read(
    folders: Sequence[Path], mapping: Mapping[str, str], spec: EnvSpec
) -> tuple[list[Fields], list[str]]:
    """Reads vaults of a team.

    Args:
        folders: The vaults.
        mapping: `agents` lists the agents, in their order, by the keys of a dictionary of their
            arrays; by default they are taken in the order of the numbers that these end with.
            `dead=zeros` says that an agent is dead from where it observes zeros alone until the
            end of the episode, as in SMAC, whose vaults do not say who is alive.
        spec: The environment.

    Returns:
        The episodes, and what messages call each of them.

    Raises:
        InputError: If flashbax is not installed, or if a vault cannot be read or does not fit.
    """
    check_names(mapping, ("agents", "dead"))
    if mapping.get("dead", "zeros") != "zeros":
        problem = f"map = 'dead={mapping['dead']}': there is no such way to tell"
        raise InputError(f"{problem}; use dead=zeros, or leave it out")
    agents = mapping["agents"].split(",") if "agents" in mapping else None
    episodes, labels = [], []
    for folder in folders:
        with about(folder):
            found = [
                _without_dead(episode) if "dead" in mapping else episode
                for stream in _streams(_load(folder))
                for episode in _episodes(stream, agents)
            ]
            if not found:
                raise InputError("the vault holds no whole episode; record one")
            names = dict.fromkeys(name for episode in found for name in episode)
            arrays = {name: [episode[name] for episode in found] for name in names}
            part = split(arrays, "recording", spec)
        before = f"{folder}: " if len(folders) > 1 else ""
        episodes += part
        labels += [f"{before}episode {e}" for e in range(len(part))]
    return episodes, labels


def _load(folder: Path) -> dict[str, Any]:
    """The arrays of a vault, by the names that it has for them."""
    try:
        from flashbax.vault import Vault
    except ImportError:
        raise needs("flashbax", "flashbax") from None
    if not is_vault(folder):
        within = vaults_in(folder)
        found = f"; it is one of those in it: {', '.join(within)}" if within else ""
        raise InputError(f"it is no vault, whose {_METADATA} names its structure{found}")
    where = folder.resolve()
    try:
        with quiet_output():
            vault = Vault(where.parent.name, rel_dir=str(where.parent.parent), vault_uid=where.name)
            experience: Any = vault.read().experience
    except Exception as error:  # damaged files make these libraries raise almost anything
        what = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputError(f"flashbax cannot read it ({what}); get or write it again") from None
    if not isinstance(experience, dict) or "observations" not in experience:
        raise InputError("observations are missing; they are what agents learn from")
    infos = experience.get("infos")
    known = {n: experience[n] for n in ("observations", "actions", "rewards") if n in experience}
    known |= {n: experience[n] for n in ("terminals", "truncations") if n in experience}
    if isinstance(infos, dict) and "legals" in infos:
        known["legal"] = infos["legals"]
    if not {"terminals", "truncations"} & known.keys():
        raise InputError("terminals and truncations are missing; without one no episode ends")
    return known


def _streams(arrays: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The streams, each a tree of arrays `[steps, …]`."""

    def part(values: Any, stream: int) -> Any:
        if isinstance(values, dict):
            return {name: part(value, stream) for name, value in values.items()}
        return np.asarray(values[stream])

    counts = {len(leaf) for leaf in _leaves(arrays)}
    if len(counts) > 1:
        problem = f"its arrays have {', '.join(map(str, sorted(counts)))} streams"
        raise InputError(f"{problem}; give every array as many")
    for stream in range(counts.pop()):
        yield {name: part(values, stream) for name, values in arrays.items()}


def _leaves(values: Any) -> Iterator[Any]:
    if isinstance(values, dict):
        for value in values.values():
            yield from _leaves(value)
    else:
        yield values


def _episodes(stream: dict[str, Any], agents: list[str] | None) -> Iterator[dict[str, Any]]:
    """The whole episodes of a stream, as `split` takes them."""
    known = {name: stack_agents(values, agents) for name, values in stream.items()}
    seen = known["observations"].shape
    if len(seen) != 3:
        problem = f"observations have shape {seen} in a stream, must be [steps, agents, features]"
        raise InputError(f"{problem}; write them with these axes")
    steps, team = seen[:2]
    for name, array in known.items():
        team_wide = name in ("terminals", "truncations", "rewards") and array.shape == (steps,)
        if array.shape[:2] != (steps, team) and not team_wide:
            problem = f"{name} have shape {array.shape} in a stream, observations {seen}"
            raise InputError(f"{problem}; give them for the same steps and agents")
    ended = np.zeros((steps, team), bool)
    for name in ("terminals", "truncations"):
        if name in known:
            flags = known.pop(name) != 0
            ended |= flags.reshape(steps, -1)
    rewards = known.pop("rewards", None)
    if known.get("actions", ended).dtype.kind not in "biu":
        warnings.warn("actions that are no whole numbers are not read", UserWarning, stacklevel=2)
        del known["actions"]
    start = 0
    for stop in (np.flatnonzero(ended.all(1)) + 1).tolist():
        episode = {name: array[start:stop] for name, array in known.items()}
        before = np.zeros((1, team), bool)
        earlier = np.concatenate([before, ended[start : stop - 1]])
        episode["alive"] = ~np.logical_or.accumulate(earlier)
        if rewards is not None:
            paid = rewards[start:stop]
            same = paid.ndim == 1 or bool((paid == paid[:, :1]).all())
            if same:
                team_paid = paid if paid.ndim == 1 else paid[:, 0]
                episode["returns"] = team_paid.sum(dtype=np.float64)
        yield episode
        start = stop
    if start < steps:
        problem = f"the last {steps - start} steps of a stream are no whole episode"
        warnings.warn(f"{problem} and are left out", UserWarning, stacklevel=2)


def _without_dead(episode: dict[str, Any]) -> dict[str, Any]:
    """The episode, in which those who observe zeros alone from some step on are dead."""
    sees = (episode["observations"] != 0).any(-1)
    later = np.logical_or.accumulate(sees[::-1])[::-1]
    return episode | {"alive": episode["alive"] & later}
