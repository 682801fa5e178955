"""Environments by name."""

import difflib
from typing import Any

from dm2.envs.base import Environment, EnvSpec, Frame, TeamView, Renderable, Step
from dm2.errors import InputError

__all__ = [
    "EnvSpec",
    "Environment",
    "Frame",
    "TeamView",
    "Renderable",
    "Step",
    "list_environments",
    "make",
]


def list_environments() -> tuple[str, ...]:
    """The battles' names, without options; `make` also takes `jaxmarl/` and a name of JaxMARL's."""
    from dm2.envs.battle.scenarios import SCENARIOS, SMAC_SCENARIOS

    names = {"smax": SCENARIOS, "smac": SMAC_SCENARIOS}
    return tuple(f"{rules}/{scenario}" for rules in names for scenario in names[rules])


def make(name: str) -> Environment:
    """The environment called `name`, for example `smax/3s_vs_4z`, `smac/5m_vs_6m` or
    `jaxmarl/MPE_simple_spread_v3` (needs `pip install dm2[jaxmarl]`).

    Options follow a question mark: `smax/3s_vs_4z?walls=lethal&limit=100`. Raises InputError for
    an unknown name (with the nearest known one), option or value.
    """
    base, _, query = name.partition("?")
    rules, _, scenario = base.partition("/")
    if rules == "jaxmarl":
        from dm2.envs.jaxmarl import JaxMarl

        return JaxMarl(scenario, **_options(name, query, {}))
    known = list_environments()
    if base not in known:
        near = difflib.get_close_matches(base, known, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise InputError(f"env = {name!r}: no such environment; {hint}known: {', '.join(known)}")
    if rules == "smac":
        from dm2.envs.battle.smac import Smac

        choices = {"reward": ("smac", "signed")}
        return Smac(scenario, **_options(name, query, choices))
    from dm2.envs.battle.smax import Smax

    return Smax(scenario, **_options(name, query, {"walls": ("safe", "lethal")}))


def _options(name: str, query: str, choices: dict[str, tuple[str, ...]]) -> dict[str, Any]:
    """`a=1&b=x` as keyword arguments of an environment; all of them take a `limit`."""
    options: dict[str, Any] = {}
    for part in filter(None, query.split("&")):
        key, _, value = part.partition("=")
        if key == "limit":
            if not value.isdecimal() or int(value) < 1:
                raise InputError(f"env = {name!r}: limit must be a whole number above 0")
            options[key] = int(value)
        elif key not in choices:
            known = ", ".join((*choices, "limit"))
            raise InputError(f"env = {name!r}: no option {key!r}; known: {known}")
        elif value not in choices[key]:
            allowed = " or ".join(repr(choice) for choice in choices[key])
            raise InputError(f"env = {name!r}: {key} must be {allowed}")
        else:
            options[key] = value
    return options
