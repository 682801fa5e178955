"""What the steps and episodes of every recording must hold, whatever file they come from.

Axes: `E` episodes, `T` steps of an episode, `K` agents, `O` observation features, `A` actions.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int32, Num, Shaped

from dm2.envs import EnvSpec
from dm2.errors import InputError

__all__ = [
    "EPISODE_FIELDS",
    "STEP_FIELDS",
    "Fields",
    "Labels",
    "Names",
    "as_flags",
    "by_number",
    "check_episode",
    "check_steps",
    "indexed",
    "refuse",
]

Fields = dict[str, np.ndarray]
"""The arrays of one episode, or of some steps, by the names of their fields."""

STEP_FIELDS = {
    "observations": ("features",),
    "alive": (),
    "actions": (),
    "legal": ("actions",),
}
"""The fields that have a value at each step of each agent, with the axes that follow those two."""

EPISODE_FIELDS = ("returns", "won")
"""The fields that have one value in each episode."""

_FINITE = "must be a finite number within ±3.4e38, the range of float32"


class Names(NamedTuple):
    """Names are what the messages about one recording call its places and its fields."""

    place: Callable[[tuple[int, ...]], str]
    """The place of a step, by its indices: `row 7`, or `episode 0, step 3, agent 1`."""
    field: Callable[[str, int | None], str]
    """A field, or one of its features: `column 'obs_3'`, or `observations, feature 3`."""


class Labels(NamedTuple):
    """Labels are what messages call the parts of a whole recording."""

    episodes: list[str]
    """Each episode: `episode 3`, after the name of its file if there are several."""
    agents: list[str]
    """Each agent: `agent 0`, or `agent 'north'` if a table calls it so."""
    names: Names
    """Names of the steps, by the indices of episode, step and agent, and of the fields."""


def by_number(episodes: list[str], spec: EnvSpec) -> Labels:
    """The labels of a recording that has nothing but numbers for its agents and its steps.

    Args:
        episodes: What messages call each episode.
        spec: The environment.

    Returns:
        The labels.
    """

    def place(index: tuple[int, ...]) -> str:
        return f"{episodes[index[0]]}, step {index[1]}, agent {index[2]}"

    agents = [f"agent {k}" for k in range(spec.num_agents)]
    return Labels(episodes, agents, Names(place, indexed))


def indexed(field: str, feature: int | None) -> str:
    """The name of a field of arrays, or of one of its features."""
    return field if feature is None else f"{field}[{feature}]"


def check_steps(steps: Fields, names: Names, spec: EnvSpec) -> Fields:
    """Checks what was recorded at some steps, and gives it the types that demonstrations have.

    Args:
        steps: The arrays of `STEP_FIELDS` that there are, at least the observations, with any axes
            before those that `STEP_FIELDS` lists; numbers, or booleans.
        names: What messages call places and fields.
        spec: The environment.

    Returns:
        Observations in float32 (float16 if they were), `alive` and `legal` as booleans, actions in
        int32. `alive` is true everywhere if it was left out.

    Raises:
        InputError: If a number is not finite, a boolean neither 0 nor 1, or an action of a living
            agent none of the environment's or not legal.
    """
    given = steps["observations"]
    alive = np.ones(given.shape[:-1], bool)
    if "alive" in steps:
        alive = as_flags("alive", steps["alive"], names)
    made = {"observations": _observations(given, alive, names), "alive": alive}
    if "legal" in steps:
        made["legal"] = _legal(steps["legal"], alive, names)
    if "actions" in steps:
        made["actions"] = _actions(steps["actions"], made, names, spec)
    return made


def check_episode(values: dict[str, Any], names: Names) -> Fields:
    """Checks what was recorded of one whole episode.

    Args:
        values: The values of `EPISODE_FIELDS` that there are; numbers, or booleans.
        names: What messages call the fields, and the episode.

    Returns:
        The return in float32, and whether the team won, as arrays of one value.

    Raises:
        InputError: If the return is not finite, or a win neither 0 nor 1.
    """
    made: Fields = {}
    if "returns" in values:
        given = np.atleast_1d(values["returns"])
        made["returns"] = _narrow(given)
        remedy = f"{_FINITE}; give the undiscounted return of the team"
        refuse(~np.isfinite(made["returns"]), given, "returns", names, remedy)
    if "won" in values:
        made["won"] = as_flags("won", np.atleast_1d(values["won"]), names)
    return made


def _observations(
    given: Num[np.ndarray, "*at O"], alive: Bool[np.ndarray, "*at"], names: Names
) -> Float[np.ndarray, "*at O"]:
    observations = _narrow(given)
    bad, living = ~np.isfinite(observations), alive[..., None]
    remedy = f"{_FINITE}; write what was observed, or leave the episode out"
    refuse(bad & living, given, "observations", names, remedy, featured=True)
    remedy = f"{_FINITE}; the agent is dead, so put any finite number there, such as 0"
    refuse(bad & ~living, given, "observations", names, remedy, featured=True)
    return observations


def _legal(
    given: Shaped[np.ndarray, "*at A"], alive: Bool[np.ndarray, "*at"], names: Names
) -> Bool[np.ndarray, "*at A"]:
    legal = as_flags("legal", given, names, featured=True)
    none = np.logical_not(legal.any(axis=-1))
    remedy = "must have a legal action, for the agent is alive; set one of its actions to 1"
    refuse(none & alive, np.zeros(none.shape, int), "legal", names, remedy)
    return legal | none[..., None]  # what a dead agent may do means nothing


def _actions(
    given: Shaped[np.ndarray, "*at"], made: Fields, names: Names, spec: EnvSpec
) -> Int32[np.ndarray, "*at"]:
    last, alive = spec.num_actions - 1, made["alive"]
    with np.errstate(invalid="ignore"):
        whole = np.isfinite(given) & (given == np.floor(given))
        whole &= (given > -(2**31)) & (given < 2**31)
    remedy = f"must be a whole number from 0 to {last}, as {spec.name} numbers its actions"
    refuse(~whole, given, "actions", names, remedy)
    actions = given.astype(np.int32)
    refuse(alive & ((actions < 0) | (actions > last)), actions, "actions", names, remedy)
    if "legal" in made:
        chosen = np.where(alive, actions, 0)[..., None]
        illegal = alive & ~np.take_along_axis(made["legal"], chosen, -1)[..., 0]
        remedy = "must be legal, for the agent is alive; correct the action, or what is legal"
        refuse(illegal, actions, "actions", names, remedy)
    return actions


def as_flags(
    name: str, given: Shaped[np.ndarray, "*at"], names: Names, featured: bool = False
) -> Bool[np.ndarray, "*at"]:
    """The flags as booleans. Raises InputError about the first that is neither 0 nor 1."""
    flags = given == 1
    remedy = "must be 0 or 1, or false or true"
    refuse(~flags & (given != 0), given, name, names, remedy, featured)
    return flags


def _narrow(given: Num[np.ndarray, "*at"]) -> Float[np.ndarray, "*at"]:
    """The numbers in float32, or in float16 if that is what they are in."""
    with np.errstate(over="ignore"):
        return given if given.dtype == np.float16 else given.astype(np.float32)


def refuse(
    bad: Bool[np.ndarray, "*at"],
    values: Shaped[np.ndarray, "*at"],
    name: str,
    names: Names,
    remedy: str,
    featured: bool = False,
) -> None:
    """Raises InputError about the first of the values that are bad, if there is one. The last axis
    of a field that is featured is that of its features."""
    found = np.argwhere(bad)
    if len(found):
        index = tuple(map(int, found[0]))
        place, feature = (index[:-1], index[-1]) if featured else (index, None)
        value = values[index].item()
        shown = f"{value:g}" if isinstance(value, float) else repr(value)
        raise InputError(f"{names.place(place)}: {names.field(name, feature)} = {shown}: {remedy}")
