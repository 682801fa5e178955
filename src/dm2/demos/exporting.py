"""Demonstrations written in formats that other tools read: NumPy's `.npz`, and Minari's datasets.

The layouts are those that `importing` reads (see its `npz` and `minari`).
"""

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from dm2.demos.agent import AgentDemonstrations
from dm2.demos.dataset import Demonstrations
from dm2.demos.file import EXISTS
from dm2.demos.importing.minari import LAYOUT, find, root
from dm2.demos.importing.npz import PROVENANCE
from dm2.demos.importing.team import needs
from dm2.errors import InputError, as_path, check_flags
from dm2.files import TEMPORARY, check_target, check_writable, replacing

__all__ = ["to_minari", "to_npz"]

_PER_STEP = ("observations", "alive", "actions", "legal")


def to_npz(demos: Demonstrations, path: str | Path, *, overwrite: bool = False) -> int:
    """Writes demonstrations as arrays (see `Demonstrations.to_npz`)."""
    check_flags(overwrite=overwrite)
    target = check_target("path", path, (".npz",))
    if target.exists() and not overwrite:
        raise InputError(f"path = {str(target)!r}: {EXISTS}")
    agents, lengths = _concurrent(demos), demos[0].lengths
    keep = np.arange(lengths.max()) < lengths[:, None]
    arrays: dict[str, np.ndarray] = {"lengths": lengths}
    for name, first in agents[0].arrays().items():
        if name in _PER_STEP:
            padded = np.zeros((*keep.shape, len(agents), *first.shape[1:]), first.dtype)
            padded[keep] = np.stack([agent.arrays()[name] for agent in agents], axis=1)
            arrays[name] = padded
        elif name != "offsets":
            arrays[name] = first
    arrays[PROVENANCE] = np.array(json.dumps(demos.provenance))
    with replacing(target) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)  # pyright: ignore[reportArgumentType]
    return target.stat().st_size


def to_minari(demos: Demonstrations, name: str, *, overwrite: bool = False) -> list[str]:
    """Writes demonstrations as Minari datasets (see `Demonstrations.to_minari`)."""
    check_flags(overwrite=overwrite)
    agents = _concurrent(demos)
    folders = [f"agent_{k}-v0" for k in range(len(agents))]
    target = _check_minari_name(name, folders, overwrite)
    datasets = [f"{name}/{folder}" for folder in folders]
    layout = {"agents": len(agents), "datasets": datasets, "provenance": demos.provenance}
    with _replacing_folders(target, folders) as temporary:
        for k, (agent, dataset) in enumerate(zip(agents, datasets, strict=True)):
            facts = {"dataset_id": dataset, LAYOUT: layout | {"agent": k}}
            _write_agent(agent, demos.provenance, facts, temporary / folders[k] / "data")
    return datasets


def _check_minari_name(name: str, folders: list[str], overwrite: bool) -> Path:
    """The folder in which the datasets of a team have theirs. Raises InputError if they cannot be
    written there, or one is there and may not be replaced."""
    try:
        from minari.dataset.minari_dataset import parse_dataset_id
    except ImportError:
        raise needs("Minari", "minari") from None
    try:
        parse_dataset_id(f"{as_path('minari', name)}/{folders[0]}")
    except ValueError:
        remedy = "must be of two or more letters, digits, '_', '-' and '/', for example 'smax/3m'"
        raise InputError(f"minari = {name!r}: {remedy}") from None
    target = root() / name
    try:
        check_writable(target / folders[0])
    except OSError as error:
        problem = f"minari = {name!r}: {root()} cannot take it: {error.strerror or error}"
        remedy = "choose another name, or another folder, MINARI_DATASETS_PATH"
        raise InputError(f"{problem}; {remedy}") from None
    for folder in (target, *target.parents):
        if folder.is_relative_to(root()) and find(folder) is not None:
            raise InputError(f"minari = {name!r}: lies in a dataset; choose another name")
    if _aside(target).exists():  # a process was killed while it replaced them
        _put_back(target)
    if any((target / folder).exists() for folder in folders) and not overwrite:
        raise InputError(f"minari = {name!r}: {EXISTS}")
    return target


def _concurrent(demos: Demonstrations) -> tuple[AgentDemonstrations, ...]:
    """The agents. Raises InputError if they do not come from the same episodes."""
    if not demos.concurrent:
        problem = "export: the agents come from different episodes, which this format cannot say"
        raise InputError(f"{problem}; export each one's part, `dm2 demos subset --agent`")
    fields = [list(agent.arrays()) for agent in demos.agents]
    for k, names in enumerate(fields):
        if names != fields[0]:
            problem = f"export: agent {k} has {', '.join(names)}, agent 0 {', '.join(fields[0])}"
            raise InputError(f"{problem}; export each one's part, `dm2 demos subset --agent`")
    return demos.agents


def _aside(target: Path) -> Path:
    """Where the folders in `target` that are replaced wait until all the others are there."""
    return target.with_name(f"{TEMPORARY}old-{target.name}")


def _put_back(target: Path) -> None:
    """Moves the folders that wait aside back into `target`. Raises OSError."""
    for folder in sorted(_aside(target).iterdir()):
        shutil.rmtree(target / folder.name, ignore_errors=True)
        folder.rename(target / folder.name)
    _aside(target).rmdir()


@contextlib.contextmanager
def _replacing_folders(target: Path, names: list[str]) -> Iterator[Path]:
    """A folder to write folders of these names to, which take the places of those in `target` at
    the end of the context. If the context raises, `target` stays as it was and nothing is left.
    Raises OSError."""
    target.mkdir(parents=True, exist_ok=True)
    temporary, old = target.with_name(TEMPORARY + target.name), _aside(target)
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir()
        yield temporary
        old.mkdir()
        for name in names:
            if (target / name).exists():
                (target / name).rename(old / name)
        for name in names:
            (temporary / name).rename(target / name)
        temporary.rmdir()
        old.rename(temporary)  # from here on the new ones hold
    finally:
        if old.exists():
            for name in names:
                if not (temporary / name).exists():
                    shutil.rmtree(target / name, ignore_errors=True)
            _put_back(target)
        shutil.rmtree(temporary, ignore_errors=True)
        with contextlib.suppress(OSError):  # other datasets are in it
            target.rmdir()


def _write_agent(
    agent: AgentDemonstrations, source: dict[str, Any], facts: dict[str, Any], folder: Path
) -> None:
    """Writes one agent's dataset."""
    import minari
    from gymnasium.spaces import Box, Discrete
    from minari.dataset.minari_storage import MinariStorage

    size, dtype = agent.observations.shape[1], agent.observations.dtype
    space, actions = Box(-np.inf, np.inf, (size,), dtype.type), Discrete(source["num_actions"])
    folder.mkdir(parents=True)
    storage = MinariStorage.new(folder, space, actions)
    storage.update_episodes(_episode(agent, e, source) for e in range(agent.num_episodes))
    facts[LAYOUT]["fields"] = list(agent.arrays())
    known = {"algorithm_name": str(source["method"])} if source["method"] else {}
    storage.update_metadata(facts | known | {"minari_version": minari.__version__})


def _episode(agent: AgentDemonstrations, e: int, source: dict[str, Any]) -> Any:
    """One episode as Minari has it, with an observation more than actions. The last one, which
    demonstrations do not have, is the one before it again. Of the rewards, only their sum is known,
    which the last one holds."""
    from minari.data_collector import EpisodeBuffer

    limit, num_actions = source["episode_limit"], source["num_actions"]
    begin, end = agent.offsets[e : e + 2]
    rows = np.append(np.arange(begin, end), end - 1)
    steps = len(rows) - 1
    last = np.arange(steps) == steps - 1
    infos: dict[str, Any] = {"alive": agent.alive[rows]}
    infos |= {} if agent.legal is None else {"legal": agent.legal[rows]}
    infos |= {} if agent.won is None else {"won": np.full(steps + 1, agent.won[e])}
    actions = np.zeros(steps, np.int64)
    if agent.actions is not None:
        known = (agent.actions >= 0) & (agent.actions < num_actions)  # a dead agent's may not be
        actions = np.where(known, agent.actions, 0)[begin:end].astype(np.int64)
    total = 0.0 if agent.returns is None else float(agent.returns[e])
    return EpisodeBuffer(
        observations=agent.observations[rows],  # pyright: ignore[reportArgumentType]
        actions=actions,  # pyright: ignore[reportArgumentType]
        rewards=np.where(last, total, 0.0),  # pyright: ignore[reportArgumentType]
        terminations=last & (steps < limit),  # pyright: ignore[reportArgumentType]
        truncations=last & (steps >= limit),  # pyright: ignore[reportArgumentType]
        infos=infos,
    )
