"""Episodes of a recording put together: into episodes of the team, and into demonstrations."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dm2.demos.dataset import Demonstrations
from dm2.demos.fields import settled_dtype
from dm2.demos.importing.checks import EPISODE_FIELDS, STEP_FIELDS, Fields, Labels, refuse
from dm2.envs import Environment, EnvSpec, make
from dm2.errors import InputError, as_path, check_setting

__all__ = [
    "Env",
    "as_files",
    "as_given",
    "as_provenance",
    "as_spec",
    "build",
    "describe_files",
    "join_agents",
    "needs",
]

Env = str | Environment | EnvSpec
"""An environment: its name, as `dm2.make` takes it, or itself, or its specification."""


def as_spec(env: Any) -> EnvSpec:
    """The specification of an environment. Raises InputError if there is none of that name."""
    spec = make(env).spec if isinstance(env, str) else getattr(env, "spec", env)
    if not isinstance(spec, EnvSpec):
        raise InputError(f"env = {env!r}: must be an environment, its name or its specification")
    return spec


def as_given(files: Any) -> list[str]:
    """The names that were given, as texts. Raises InputError if there is none."""
    given = list(files) if isinstance(files, list | tuple) else [files]
    if not given:
        raise InputError("files: there are none; give the files of a recording")
    return [as_path("files", path) for path in given]


def as_files(files: Any) -> list[Path]:
    """The files that were given. Raises InputError if there is none, or if one is not there."""
    paths = [Path(path) for path in as_given(files)]
    for path in paths:
        if not os.path.exists(path):  # which is false of a name that is too long, too
            raise InputError(f"{path}: no such file; give the file of a recording")
    return paths


def as_provenance(given: Any) -> dict[str, Any]:
    """The entries to add to a provenance. Raises InputError if they are no dictionary."""
    remedy = "must be a dictionary, for example {'method': 'scripted'}"
    check_setting(given is None or isinstance(given, Mapping), "provenance", given, remedy)
    return dict(given or {})


def needs(package: str, extra: str) -> InputError:
    """The error that says how to install what a format needs."""
    return InputError(f"{package} is not installed; install it with `pip install 'dm2[{extra}]'`")


def describe_files(paths: Sequence[Path]) -> list[dict[str, str]]:
    """The names and digests of files, for the provenance. Of a folder, the digest is that of all
    its files' names and contents."""
    return [{"name": path.name, "sha256": _digest(path)} for path in paths]


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    if path.is_file():
        digest.update(path.read_bytes())
    else:
        for file in sorted(file for file in path.rglob("*") if file.is_file()):
            digest.update(f"{file.relative_to(path).as_posix()}\0{_digest(file)}\0".encode())
    return digest.hexdigest()


def join_agents(parts: Sequence[Fields], place: str) -> Fields:
    """Puts what the agents recorded of one episode into one episode of the team.

    An agent with fewer steps than the others died before its next one. What concerns the whole team
    must be the same in every part that has it.

    Args:
        parts: The episode as each agent recorded it, `[T, …]`, with as many `T` as it has steps.
        place: What messages call the episode.

    Returns:
        The episode of the team, `[T, K, …]`.

    Raises:
        InputError: If some agents lack a field that others have, or differ in return or win.
    """
    length = max(len(part["observations"]) for part in parts)
    joined: Fields = {}
    for name in dict.fromkeys(name for part in parts for name in part):
        without = [k for k, part in enumerate(parts) if name not in part]
        if without:
            remedy = "give it for every agent, or for none"
            raise InputError(f"{place}: agent {without[0]} has no {name}, others have; {remedy}")
        arrays = [part[name] for part in parts]
        if name in STEP_FIELDS:
            joined[name] = np.stack([_lengthen(name, a, length) for a in arrays], axis=1)
            continue
        for k, array in enumerate(arrays):
            if array != arrays[0]:
                values = f"{array.item()} for agent {k}, {arrays[0].item()} for agent 0"
                remedy = "must be the team's, the same for every agent; correct it or leave it out"
                raise InputError(f"{place}: {name} = {values}: {remedy}")
        joined[name] = arrays[0]
    return joined


def _lengthen(name: str, array: np.ndarray, length: int) -> np.ndarray:
    """The array with more steps, at which the agent is dead. All its actions are legal there, which
    means nothing."""
    more = np.full((length - len(array), *array.shape[1:]), name == "legal", array.dtype)
    return np.concatenate([array, more])


def build(
    episodes: Sequence[Fields],
    labels: Labels,
    spec: EnvSpec,
    dtype: Any,
    provenance: Mapping[str, Any],
) -> Demonstrations:
    """Makes demonstrations of the episodes of a team.

    Args:
        episodes: The episodes, `[T, K, …]` each, as `check_steps` and `check_episode` return them.
        labels: What messages call the parts of the recording.
        spec: The environment.
        dtype: The type in which observations are stored; None for what suits the environment.
        provenance: What is known of the recording, `imported` at least. What it does not say of the
            environment is taken from the specification.

    Returns:
        The demonstrations.

    Raises:
        InputError: If there is no episode, if one is longer than the environment's episodes or
            lacks a field that others have, if nobody is ever alive in it, if an agent is never
            alive or lives again after its death, if what a living agent observed is beyond
            `dtype`, or if the recording says that it is of another environment.
    """
    if not episodes:
        raise InputError("the recording holds no episode; record one")
    _check_episodes(episodes, labels, spec)
    ever = np.any([episode["alive"].any(axis=0) for episode in episodes], axis=0)
    if not ever.all():
        field, agent = labels.names.field("alive", None), labels.agents[np.argmin(ever)]
        problem = f"{field} = 0 at every step of {agent}: it has nothing to show"
        raise InputError(f"{problem}; record episodes in which it is alive")
    dtype = settled_dtype(dtype, spec.name)
    if dtype == "float16":
        _check_range(episodes, labels)
    length = np.array([len(episode["observations"]) for episode in episodes])
    names = [name for name in episodes[0] if name in STEP_FIELDS]
    longest = int(length.max())
    steps = {n: np.stack([_lengthen(n, e[n], longest) for e in episodes]) for n in names}
    once = {n: np.concatenate([e[n] for e in episodes]) for n in EPISODE_FIELDS if n in episodes[0]}
    facts = {
        "environment": spec.name,
        "environment_version": spec.version,
        "num_actions": spec.num_actions,
        "episode_limit": spec.episode_limit,
    }
    observations, alive = steps.pop("observations"), steps.pop("alive")
    made = Demonstrations.from_episodes(
        observations, alive, length, facts | dict(provenance), **steps, **once, dtype=dtype
    )
    made.check(spec)
    return made


def _check_episodes(episodes: Sequence[Fields], labels: Labels, spec: EnvSpec) -> None:
    every = dict.fromkeys(name for episode in episodes for name in episode)
    for e, (episode, label) in enumerate(zip(episodes, labels.episodes, strict=True)):
        steps = len(episode["observations"])
        problem = f"{label} has {steps} steps, but those of {spec.name} have at most"
        base, mark, options = spec.name.partition("?")
        longer = f"{base}?{options}&limit={steps}" if mark else f"{base}?limit={steps}"
        remedy = f"cut it, or name an environment that lasts, such as {longer}"
        if steps > spec.episode_limit:
            raise InputError(f"{problem} {spec.episode_limit}; {remedy}")
        missing = [name for name in every if name not in episode]
        if missing:
            remedy = "give it for every episode, or for none"
            raise InputError(f"{label} has no {missing[0]}, but others have; {remedy}")
        if not episode["alive"].any():
            raise InputError(f"{label}: nobody is alive at any step of it; leave the episode out")
        revived = episode["alive"][1:] & ~episode["alive"][:-1]
        for t, k in np.argwhere(revived)[:1].tolist():
            place, field = labels.names.place((e, t + 1, k)), labels.names.field("alive", None)
            problem = f"{place}: {field} = 1, though {labels.agents[k]} was dead before"
            remedy = "set alive to 1 before, or to 0 from its death to the end of the episode"
            raise InputError(f"{problem}; {remedy}")


def _check_range(episodes: Sequence[Fields], labels: Labels) -> None:
    """Raises InputError about the first number that a living agent observed and that is beyond
    float16."""
    remedy = "must be within ±65504, the range of float16; use dtype float32, `--dtype float32`"
    for e, episode in enumerate(episodes):
        given = episode["observations"]
        with np.errstate(over="ignore"):
            beyond = np.isinf(given.astype(np.float16)) & episode["alive"][..., None]
        names = labels.names._replace(place=lambda index, e=e: labels.names.place((e, *index)))
        refuse(beyond, given, "observations", names, remedy, featured=True)
