"""Arrays, in memory, `.npz` or `.npy`, as the episodes of a recording.

The fields are those of `Demonstrations.from_episodes`. A field is one array of all episodes, filled
up to the longest one, or a list of arrays, one an episode:

    observations  [episodes, steps, agents, features], or a list of [steps, agents, features]
    alive         [episodes, steps, agents], or a list of [steps, agents]; by default all alive
    actions       [episodes, steps, agents], or a list of [steps, agents]
    legal         [episodes, steps, agents, actions], or a list of [steps, agents, actions]
    returns, won  [episodes]
    lengths       [episodes], the steps of each; by default all that the arrays have

A file may hold all of that; or one episode, without the axis of episodes; or one agent's part of
all episodes, without the axis of agents.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from dm2.demos.fields import about
from dm2.demos.importing.checks import (
    EPISODE_FIELDS,
    STEP_FIELDS,
    Fields,
    Labels,
    Names,
    by_number,
    check_episode,
    check_steps,
    indexed,
)
from dm2.demos.importing.layout import in_order
from dm2.demos.importing.team import join_agents
from dm2.envs import EnvSpec
from dm2.errors import InputError

__all__ = ["ARRAYS", "Each", "join_files", "split", "stack_agents"]

ARRAYS = (*STEP_FIELDS, *EPISODE_FIELDS, "lengths")
"""The fields that arrays may have."""

Each = Literal["recording", "episode", "agent"]
"""What each of several files holds: joint episodes, one of them, or one agent's part of all."""

_Sizes = dict[str, int]


def split(arrays: Mapping[str, Any], each: Each, spec: EnvSpec) -> list[Fields]:
    """Takes the arrays of one file apart into its episodes, and checks them.

    Args:
        arrays: The arrays, or lists of arrays, by the names of the fields.
        each: What the file holds, which decides about the axes.
        spec: The environment.

    Returns:
        The episodes, `[T, K, …]`; `[T, …]` of an agent's part.

    Raises:
        InputError: If a field is unknown or missing, has other axes or sizes, or holds a value that
            `check_steps` or `check_episode` rejects.
    """
    unknown = [name for name in arrays if name not in ARRAYS]
    if unknown:
        raise InputError(f"there is no field {unknown[0]!r}; known: {', '.join(ARRAYS)}")
    given = {name: array for name, array in arrays.items() if array is not None}
    if "observations" not in given:
        raise InputError("observations are missing; they are what agents learn from")
    if each == "episode":
        given = {name: [array] for name, array in given.items()}
    for name, array in given.items():
        if any(map(np.ma.is_masked, array if isinstance(array, list | tuple) else [array])):
            raise InputError(f"{name} holds masked values; fill them in, or cut them off")
    given = {n: a if isinstance(a, list | tuple) else np.asarray(a) for n, a in given.items()}
    separate = {name: _one_each(name, array) for name, array in given.items()}
    count = len(separate["observations"])
    for name, parts in separate.items():
        if len(parts) != count:
            problem = f"{name} has {len(parts)} episodes, but observations have {count}"
            raise InputError(f"{problem}; give it for every episode, or leave it out")
    parts = [{name: separate[name][e] for name in separate} for e in range(count)]
    names = ["" if each == "episode" else f"episode {e}" for e in range(count)]
    return [_one_episode(part, each, spec, name) for part, name in zip(parts, names, strict=True)]


def _one_each(name: str, array: Any) -> list[np.ndarray]:
    """The part of each episode in an array of all of them, or in a list of arrays."""
    if isinstance(array, np.ndarray) and array.ndim == 0:
        raise InputError(f"{name} has shape (), must have an entry for each episode; add its axis")
    parts = []
    for e, part in enumerate(array):
        try:
            parts.append(np.asarray(part))
        except ValueError:
            problem = f"episode {e}: {name} is a list of unlike lists"
            raise InputError(f"{problem}; make it one array, with a row for each step") from None
        if parts[-1].dtype.kind not in "biuf":
            problem = f"episode {e}: {name} is of type {parts[-1].dtype}"
            raise InputError(f"{problem}, must be of numbers; convert it with `.astype(float)`")
    return parts


def _one_episode(part: Fields, each: Each, spec: EnvSpec, name: str) -> Fields:
    place = f"{name}: " if name else ""
    known = {"agents": spec.num_agents, "features": spec.observation_size}
    sizes: _Sizes = known | {"actions": spec.num_actions}
    middle = () if each == "agent" else ("agents",)
    for field, array in part.items():
        axes = ("steps", *middle, *STEP_FIELDS[field]) if field in STEP_FIELDS else ()
        _check_shape(f"{place}{field}", array, axes, sizes, spec)
    steps = sizes["steps"]
    length = _length(part, steps, place)
    kept = {field: part[field][:length] for field in STEP_FIELDS if field in part}
    once = {field: part[field] for field in EPISODE_FIELDS if field in part}

    def locate(index: tuple[int, ...]) -> str:
        words = zip(("step", "agent"), index, strict=False)
        return ", ".join([*([name] if name else []), *(f"{word} {i}" for word, i in words)])

    names = Names(locate, indexed)
    whole = names._replace(place=lambda _: name or "the episode")
    return check_steps(kept, names, spec) | check_episode(once, whole)


def _length(part: Fields, steps: int, place: str) -> int:
    if steps == 0:
        raise InputError(f"{place}observations have no step; leave the episode out")
    given = part["lengths"].item() if "lengths" in part else steps
    if given not in range(1, steps + 1):
        remedy = f"must be a whole number from 1 to {steps}, the steps that its arrays have"
        raise InputError(f"{place}lengths = {given}: {remedy}")
    return int(given)


def _check_shape(
    what: str, array: np.ndarray, axes: tuple[str, ...], sizes: _Sizes, spec: EnvSpec
) -> None:
    """Raises InputError unless an array has these axes; sizes that it is the first to have are
    noted for those that follow."""
    fits = array.ndim == len(axes)
    if fits:
        found = zip(axes, array.shape, strict=True)
        fits = all(sizes.setdefault(axis, size) == size for axis, size in found)
    if not fits:
        wanted = ", ".join(f"{sizes[axis]} {axis}" if axis in sizes else axis for axis in axes)
        remedy = f"save it with these axes, or name another environment than {spec.name}"
        raise InputError(f"{what} has shape {array.shape}, must be [{wanted}]; {remedy}")


def join_files(
    files: Sequence[list[Fields]], names: Sequence[str], each: Each, spec: EnvSpec
) -> tuple[list[Fields], Labels]:
    """Puts the episodes of several files together.

    Args:
        files: The episodes of each file.
        names: The names of the files, for messages.
        each: What each of the files holds.
        spec: The environment.

    Returns:
        The episodes of the team, and what messages call them.

    Raises:
        InputError: If there is another number of files than agents, each holding one agent's part;
            or if these parts do not fit together.
    """
    if each != "agent":
        before = [f"{name}: " if len(files) > 1 else "" for name in names]
        pairs = [(n, e) for n, file in zip(before, files, strict=True) for e in range(len(file))]
        labels = [f"{name}episode {e}" for name, e in pairs]
        return [e for file in files for e in file], by_number(labels, spec)
    if len(files) != spec.num_agents:
        remedy = "give one file for each agent, in the agents' order"
        problem = f"files: {len(files)} were given, but {spec.name} has {spec.num_agents} agents"
        raise InputError(f"{problem}; {remedy}")
    for name, file in zip(names, files, strict=True):
        if len(file) != len(files[0]):
            problem = f"{name}: has {len(file)} episodes, but {names[0]} has {len(files[0])}"
            raise InputError(f"{problem}; give every agent's part of the same episodes")
    labels = [f"episode {e}" for e in range(len(files[0]))]
    with about(", ".join(names)):
        joined = [join_agents([file[e] for file in files], label) for e, label in enumerate(labels)]
    return joined, by_number(labels, spec)


def stack_agents(name: str, values: Any, agents: list[str]) -> np.ndarray:
    """Puts the arrays of a team's agents into one.

    Args:
        name: What messages call the values.
        values: A dictionary or tuple of the agents' arrays, `[steps, …]` each; or an array, of the
            team if it has one axis alone.
        agents: The agents, in their order, by a dictionary's keys. If there are none, the keys'
            order is taken if they differ in one number alone, else the dictionary's own.

    Returns:
        The array, in which a dictionary's or tuple's agents are the second axis.

    Raises:
        InputError: If there is no agent of such a name, if there are agents to be ordered that have
            no names, or if the agents' values are no arrays of one shape.
    """
    if isinstance(values, dict):
        for agent in agents:
            if agent not in values:
                problem = f"there is no agent {agent!r} among {', '.join(values)}"
                raise InputError(f"{problem}; correct the map")
        values = {agent: values[agent] for agent in agents or in_order(values)}
    elif agents and (isinstance(values, tuple) or np.ndim(values) > 1):
        problem = f"map = 'agents={','.join(agents)}': {name} are no dictionary of agents"
        raise InputError(f"{problem}, so that these have their order already; leave it out")
    if not isinstance(values, dict | tuple):
        return np.asarray(values)
    named = values if isinstance(values, dict) else dict(enumerate(values))
    for agent, value in named.items():
        if isinstance(value, dict | tuple):
            kind = f"a {'dictionary' if isinstance(value, dict) else 'tuple'} of {len(value)}"
            problem = f"{name} of agent {agent!r} are {kind}, must be one array"
            raise InputError(f"{problem}; write what an agent observed or did as one array")
    parts = [np.asarray(value) for value in named.values()]
    if len({part.shape for part in parts}) != 1:
        shapes = ", ".join(str(part.shape) for part in parts) or "none"
        remedy = "give every agent observations and actions of one size"
        raise InputError(f"the agents' arrays have shapes {shapes}; {remedy}")
    return np.stack(parts, axis=1)
