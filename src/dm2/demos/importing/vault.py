"""Flashbax's vaults, in which OG-MARL and Mava keep what teams did. Nothing is downloaded.

The names below are OG-MARL's; Mava's are `observation`, `action`, `done`, `reward` and
`legal_action_mask`. A mapping says others, such as `actions=moves` or `legal=infos/legals`.

A vault holds streams of steps, one behind another: `observations` `[streams, steps, agents,
features]`, and if known `actions` `[streams, steps, agents]`, `terminals` and `truncations`
`[streams, steps, agents]` or `[streams, steps]`, 0 or 1, `rewards` like these, and in `infos`
`legals` `[streams, steps, agents, actions]`. A dictionary of the agents' arrays may stand for an
array with an axis of agents. Anything else, such as `infos/state`, is left out.

An episode ends with the step at which every agent is terminated or truncated; an agent that is
earlier than others is dead from its next step on. Where a stream ends within an episode, that one
is left out with a warning. The return is the sum of the rewards, if all agents have the same
rewards in all episodes; else it is not known.
"""

import json
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dm2.demos.fields import about
from dm2.demos.importing.arrays import split, stack_agents
from dm2.demos.importing.checks import Fields, Labels, Names, as_flags, by_number, refuse
from dm2.demos.importing.layout import NameMap, check_names, listed
from dm2.demos.importing.team import needs
from dm2.envs import EnvSpec
from dm2.envs.workers import quiet_output
from dm2.errors import InputError

__all__ = ["is_vault", "read", "vaults_in"]

_METADATA, _STRUCTURE = "metadata.json", "structure_shape"
_KEYS = {
    "observations": ("observations", "observation"),
    "actions": ("actions", "action"),
    "rewards": ("rewards", "reward"),
    "terminals": ("terminals", "done"),
    "truncations": ("truncations",),
    "legal": ("infos/legals", "legal_action_mask"),
}
"""What OG-MARL and Mava call each field, the first that there is."""
_OF_A_STEP = ("terminals", "truncations", "rewards")


def is_vault(folder: str | Path) -> bool:
    """Whether a folder is a vault."""
    try:
        return _STRUCTURE in json.loads((Path(folder) / _METADATA).read_text())
    except (OSError, ValueError, TypeError):
        return False


def vaults_in(folder: str | Path) -> list[str]:
    """The names of the vaults in a folder."""
    there = Path(folder).iterdir() if os.path.isdir(folder) else ()
    return sorted(path.name for path in there if is_vault(path))


def read(folders: Sequence[Path], mapping: NameMap, spec: EnvSpec) -> tuple[list[Fields], Labels]:
    """Reads vaults of a team.

    Args:
        folders: The vaults.
        mapping: The keys of fields that are called otherwise. `agents` lists the agents, in their
            order, by the keys of a dictionary of their arrays (see `stack_agents`). `dead=zeros`
            says that an agent is dead from where it observes zeros alone until the end of the
            episode, as in SMAC, whose vaults do not say who is alive.
        spec: The environment.

    Returns:
        The episodes, and what messages call them.

    Raises:
        InputError: If flashbax is not installed, or if a vault cannot be read or does not fit.
    """
    check_names(mapping, (*_KEYS, "agents", "dead"), lists=("agents",))
    if mapping.get("dead", "zeros") != "zeros":
        problem = f"map = 'dead={mapping['dead']}': there is no such way to tell"
        raise InputError(f"{problem}; use dead=zeros, or leave it out")
    agents = listed(mapping, "agents")
    vaults = []
    for folder in folders:
        with about(folder):
            found = [
                _without_dead(episode) if "dead" in mapping else episode
                for stream in _streams(_fields(_load(folder), mapping))
                for episode in _episodes(stream, agents)
            ]
            if not found:
                raise InputError("the vault holds no whole episode; record one")
        vaults.append(found)
    _add_returns([episode for found in vaults for episode in found])
    episodes, labels = [], []
    for folder, found in zip(folders, vaults, strict=True):
        with about(folder):
            arrays = {name: [episode[name] for episode in found] for name in found[0]}
            part = split(arrays, "recording", spec)
        before = f"{folder}: " if len(folders) > 1 else ""
        episodes += part
        labels += [f"{before}episode {e}" for e in range(len(part))]
    return episodes, by_number(labels, spec)


def _load(folder: Path) -> dict[str, Any]:
    """The arrays of a vault, by the keys that it has for them."""
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
    return experience if isinstance(experience, dict) else {}


def _fields(experience: dict[str, Any], mapping: NameMap) -> dict[str, Any]:
    """The arrays of a vault by the names of the fields."""
    infos = experience.get("infos")
    within = infos if isinstance(infos, dict) else {}
    there = experience | {f"infos/{name}": array for name, array in within.items()}
    known = {}
    for name, usual in _KEYS.items():
        wanted = (str(mapping[name]),) if name in mapping else usual
        found = [there[key] for key in wanted if key in there]
        if name in mapping and not found:
            problem = f"there is no key {mapping[name]!r} for {name}"
            raise InputError(f"{problem}; the vault has {', '.join(there)}")
        if found:
            known[name] = found[0]
    if "observations" not in known:
        problem = f"observations are missing, the vault has {', '.join(there) or 'none'}"
        raise InputError(f"{problem}; say which they are, `--map observations=KEY`")
    if not {"terminals", "truncations"} & known.keys():
        problem = f"terminals and truncations are missing, the vault has {', '.join(there)}"
        raise InputError(f"{problem}; without one no episode ends: `--map terminals=KEY`")
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


def _episodes(stream: dict[str, Any], agents: list[str]) -> Iterator[dict[str, Any]]:
    """The whole episodes of a stream, as `split` takes them, but for their rewards, `[T, K]` or
    the team's `[T, 1]`, in place of the return."""
    known = {name: stack_agents(name, values, agents) for name, values in stream.items()}
    shape = known["observations"].shape
    if len(shape) != 3:
        problem = f"observations have shape {shape} in a stream, must be [steps, agents, features]"
        raise InputError(f"{problem}; write them with these axes")
    steps, team = shape[:2]
    for name, array in known.items():
        fits = array.shape[:2] == (steps, team)
        if name in _OF_A_STEP:
            fits = array.shape in ((steps, team), (steps,))
        if not fits:
            problem = f"{name} have shape {array.shape} in a stream, observations {shape}"
            raise InputError(f"{problem}; give them for the same steps and agents")
    names = Names(_place, lambda field, _: field)
    ended = np.zeros((steps, team), bool)
    for name in ("terminals", "truncations"):
        if name in known:
            ended |= as_flags(name, known.pop(name), names).reshape(steps, -1)
    rewards = known.pop("rewards", None)
    if rewards is not None:
        remedy = "must be a finite number; write what was paid"
        refuse(~np.isfinite(rewards), rewards, "rewards", names, remedy)
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
            episode["rewards"] = rewards[start:stop].reshape(stop - start, -1)
        yield episode
        start = stop
    if start < steps:
        problem = f"the last {steps - start} steps of a stream are no whole episode"
        warnings.warn(f"{problem} and are left out", UserWarning, stacklevel=2)


def _add_returns(episodes: list[dict[str, Any]]) -> None:
    """Puts the return in place of the rewards of every episode, if all agents have the same rewards
    in all of them. Agents with rewards of their own may be paid alike in one episode by chance."""
    paid = [episode.pop("rewards", None) for episode in episodes]
    if all(one is not None and (one == one[:, :1]).all() for one in paid):
        for episode, one in zip(episodes, paid, strict=True):
            episode["returns"] = one[:, 0].sum(dtype=np.float64)


def _place(index: tuple[int, ...]) -> str:
    """What messages call a step of a stream, and an agent if it is one's own."""
    words = zip(("step", "agent"), index, strict=False)
    return ", ".join(f"{word} {i}" for word, i in words) + " of a stream"


def _without_dead(episode: dict[str, Any]) -> dict[str, Any]:
    """The episode, in which those who observe zeros alone from some step on are dead."""
    sees = (episode["observations"] != 0).any(-1)
    later = np.logical_or.accumulate(sees[::-1])[::-1]
    return episode | {"alive": episode["alive"] & later}
