"""Minari's datasets, one for each agent or one of the team. Nothing is downloaded.

An episode of Minari's has one observation more than actions; that one, on which nobody acted, is
left out. A dataset of a team has observations of shape `[agents, features]`, or a dictionary or
tuple of one observation for each agent, and actions alike; where the space of these does not start
at 0, its start is subtracted. In datasets for each agent, an agent
whose episode is shorter than the others' died. The return is the sum of the rewards, if all agents
have the same rewards; else it is not known.

What `dm2 demos export` wrote says in the metadata, under `dm2`, where its episodes come from, and
in the infos of each step who was alive, what was legal and whether the team won.
"""

import json
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dm2.demos.fields import about
from dm2.demos.importing.arrays import join_files, split, stack_agents
from dm2.demos.importing.checks import Fields, Labels
from dm2.demos.importing.layout import NameMap, check_names, listed
from dm2.demos.importing.origin import agent_order, merged
from dm2.demos.importing.team import needs
from dm2.envs import EnvSpec
from dm2.errors import InputError

__all__ = ["LAYOUT", "expand", "find", "read", "root"]

LAYOUT = "dm2"
"""The entry of the metadata that says how a team is laid out over datasets."""

_METADATA = "metadata.json"


def root() -> Path:
    """The folder in which Minari keeps its datasets. It is not made."""
    chosen = os.environ.get("MINARI_DATASETS_PATH")
    return Path(chosen) if chosen else Path.home() / ".minari" / "datasets"


def find(dataset: str | Path) -> Path | None:
    """The folder of a dataset, which holds its metadata; None if there is none.

    Args:
        dataset: A folder, or the name that Minari knows it by, such as `pursuit/agent_0-v0`.

    Returns:
        The folder.
    """
    for base in (Path(dataset), root() / dataset):
        for folder in (base, base / "data"):
            if os.path.isfile(folder / _METADATA):  # false of a name that is too long, too
                return folder
    return None


def expand(datasets: Sequence[str | Path], spec: EnvSpec) -> list[Path]:
    """The folders of datasets.

    Args:
        datasets: Their names or folders; or the folder of all agents' datasets, `agent_0-v0` ….
        spec: The environment.

    Returns:
        The folders that hold their metadata.

    Raises:
        InputError: If there is no such dataset here.
    """
    if len(datasets) == 1 and find(datasets[0]) is None:
        parts = [Path(datasets[0]) / f"agent_{k}-v0" for k in range(spec.num_agents)]
        if find(parts[0]) is not None:
            datasets = parts
    folders = []
    for dataset in datasets:
        folder = find(dataset)
        if folder is None:
            problem = f"{dataset}: there is no such Minari dataset here, nor in {root()}"
            raise InputError(f"{problem}; get it first, with `minari download`")
        folders.append(folder)
    return folders


def read(
    folders: list[Path], mapping: NameMap, spec: EnvSpec
) -> tuple[list[Fields], Labels, dict[str, Any]]:
    """Reads datasets.

    Args:
        folders: The folders, as `expand` returns them: of one dataset for each agent, in their
            order unless their metadata says it, or of one dataset of the team.
        mapping: `agents` lists the agents, in their order, by the keys under which a dictionary of
            the team has them (see `stack_agents`). Minari itself stores dictionaries in the
            alphabetical order of their keys.
        spec: The environment.

    Returns:
        The episodes, what messages call them, and the provenance that the datasets tell.

    Raises:
        InputError: If Minari is not installed, or if a dataset cannot be read or does not fit.
    """
    check_names(mapping, ("agents",), lists=("agents",))
    agents = listed(mapping, "agents")
    each = "recording" if len(folders) == 1 and spec.num_agents > 1 else "agent"
    files, told = [], []
    for folder in folders:
        with about(folder):
            layout, space, found = _load(folder)
            told.append({"agent": layout.get("agent")} | layout.get("provenance", {}))
            episodes = [_episode(episode, layout, space, agents) for episode in found]
            if not layout and any("actions" not in episode for episode in episodes):
                text = f"{folder}: actions that are no whole numbers are not read"
                warnings.warn(text, UserWarning, stacklevel=2)
            arrays = {name: [e[name] for e in episodes] for name in _names(episodes)}
            files.append(split(arrays, each, spec))
    names = [str(folder) for folder in folders]
    if each == "agent":
        order = agent_order(told, names)
        files, names = _same_returns([files[i] for i in order]), [names[i] for i in order]
    joint, labels = join_files(files, names, each, spec)
    return joint, labels, merged(told, joint, parts=True)


def _load(folder: Path) -> tuple[dict[str, Any], Any, list[Any]]:
    """What the metadata says of a team's layout, if `dm2 demos export` wrote it, and the space of
    actions and the episodes of the dataset in a folder."""
    try:
        import minari
    except ImportError:
        raise needs("Minari", "minari") from None
    metadata = _metadata(folder)
    try:
        # Without its spaces, Minari would make the environment that the metadata names.
        spaces = {"observation_space", "action_space"} <= metadata.keys()
        dataset = minari.MinariDataset(folder) if spaces else None
        space = dataset.action_space if dataset else None
        episodes = list(dataset.iterate_episodes()) if dataset else []
    except ImportError as error:
        raise InputError(f"{error}; install what it names") from None
    except Exception as error:  # damaged files make these libraries raise almost anything
        what = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputError(f"Minari cannot read it ({what}); get or write it again") from None
    if not spaces:
        raise InputError("the metadata has no spaces; write the dataset with a newer Minari")
    layout: Any = metadata.get(LAYOUT)
    parts = (layout.get("provenance"), layout.get("fields")) if isinstance(layout, dict) else ()
    ours = list(map(type, parts)) == [dict, list]
    return (layout if ours else {}), space, episodes


def _metadata(folder: Path) -> dict[str, Any]:
    """What the metadata in a folder says. Raises InputError if it is damaged, which may be that of
    a vault as well."""
    try:
        found = json.loads((folder / _METADATA).read_text())
    except (OSError, ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise InputError(f"{_METADATA} holds no JSON object; get or write it again")
    return found


def _names(episodes: list[Fields]) -> list[str]:
    """The fields that all episodes have."""
    if not episodes:
        raise InputError("the dataset holds no episode; record one")
    return [name for name in episodes[0] if all(name in episode for episode in episodes)]


def _from_zero(actions: Any, space: Any) -> Any:
    """Actions numbered from 0, also if those of their space start elsewhere."""
    if isinstance(actions, dict):
        return {name: _from_zero(part, space[name]) for name, part in actions.items()}
    if isinstance(actions, tuple):
        return tuple(_from_zero(part, space[i]) for i, part in enumerate(actions))
    return np.asarray(actions) - getattr(space, "start", 0)


def _episode(data: Any, layout: dict[str, Any], space: Any, agents: list[str]) -> dict[str, Any]:
    """The arrays of one episode, as `split` takes them."""
    infos, steps = data.infos or {}, len(data.rewards)
    with about(f"episode {data.id}"):
        observations = stack_agents("observations", data.observations, agents)
        episode: dict[str, Any] = {"observations": observations[:steps]}
        actions = stack_agents("actions", _from_zero(data.actions, space), agents)
        episode |= {"actions": actions} if actions.dtype.kind in "iu" else {}
        episode["returns"] = np.asarray(data.rewards, np.float64).sum()
        if layout:
            episode |= {n: np.asarray(infos[n])[:steps] for n in ("alive", "legal") if n in infos}
            episode |= {"won": infos["won"][-1]} if "won" in infos else {}
            episode = {name: a for name, a in episode.items() if name in layout["fields"]}
        return episode


def _same_returns(files: list[list[Fields]]) -> list[list[Fields]]:
    """The agents' episodes, without their returns unless these are the same for all agents."""
    returns = [[e["returns"].item() for e in file if "returns" in e] for file in files]
    if all(one == returns[0] for one in returns):
        return files
    return [[{n: a for n, a in e.items() if n != "returns"} for e in file] for file in files]
