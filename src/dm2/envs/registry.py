"""Environments by name: which there are, and how a name with options becomes an environment."""

import difflib
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from dm2.envs.adapters.jaxmarl import JaxMarl
from dm2.envs.base import Environment
from dm2.envs.custom import is_custom, make_custom
from dm2.envs.factories import options_of, written_options
from dm2.envs.python_env import check_limit
from dm2.envs.smac import Smac
from dm2.envs.smac.scenarios import SCENARIOS as SMAC_SCENARIOS
from dm2.envs.smac.scenarios import STARTS, UNIT_TYPES
from dm2.envs.smax import Smax
from dm2.envs.smax.scenarios import SCENARIOS as SMAX_SCENARIOS
from dm2.errors import InputError, check_setting

__all__ = ["check_name", "list_environments", "make"]


class _RuleSet(NamedTuple):
    """A rule set: its class, its scenarios and its options beside `limit`."""

    environment: Callable[..., Environment]
    scenarios: Iterable[str]
    choices: dict[str, tuple[str, ...]]


_RULE_SETS = {
    "smax": _RuleSet(
        Smax,
        SMAX_SCENARIOS,
        {"walls": ("safe", "lethal"), "reward": ("smax", "damage", "safety")},
    ),
    "smac": _RuleSet(
        Smac,
        SMAC_SCENARIOS,
        {
            "starts": tuple(STARTS),
            "numbers": tuple(UNIT_TYPES),
            "reward": ("smac", "signed", "damage", "safety"),
        },
    ),
}


def list_environments() -> tuple[str, ...]:
    """The battles' names without options.

    `make` also takes `jaxmarl/` followed by a name of JaxMARL's, and the names of
    `dm2.envs.custom`.
    """
    return tuple(
        f"{prefix}/{scenario}"
        for prefix, rule_set in _RULE_SETS.items()
        for scenario in rule_set.scenarios
    )


def make(name: str) -> Environment:
    """Makes an environment.

    Args:
        name: For example `smax/3s_vs_4z`, `smac/5m_vs_6m` or `jaxmarl/MPE_simple_spread_v3` (needs
            `pip install 'dm2[jaxmarl]'`). Options follow a question mark:
            `smax/3s_vs_4z?walls=lethal&limit=100`, `jaxmarl/MPE_simple_spread_v3?num_agents=5`.
            `package.module:factory?option=value` makes one of your own; `pettingzoo/NAME`,
            `mpe2/NAME` and `gymnasium/ID` make those libraries'.

    Raises:
        InputError: If the name (the message has the nearest known one), an option or its value is
            unknown.
    """
    check_name(name)
    if is_custom(name):
        return make_custom(name)
    base, _, query = name.partition("?")
    prefix, _, scenario = base.partition("/")
    if prefix == "jaxmarl":
        return JaxMarl(scenario, **options_of(query, f"env = {name!r}"))
    rule_set = _RULE_SETS[prefix]
    return rule_set.environment(scenario, **_options(name, query, rule_set.choices))


def check_name(name: Any) -> None:
    """Raises InputError unless a name may be an environment's. Those of JaxMARL, of other libraries
    and of people's own are only looked up by `make`, which imports what they name."""
    remedy = "must be an environment's name, for example 'smax/3m' or 'module:factory'"
    check_setting(isinstance(name, str), "env", name, remedy)
    base, known = name.partition("?")[0], list_environments()
    if base not in known and base.partition("/")[0] != "jaxmarl" and not is_custom(name):
        near = difflib.get_close_matches(base, known, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise InputError(f"env = {name!r}: no such environment; {hint}known: {', '.join(known)}")


def _options(name: str, query: str, choices: dict[str, tuple[str, ...]]) -> dict[str, Any]:
    """The keyword arguments of an environment that `query`, `a=1&b=x`, stands for.

    Args:
        name: The environment's whole name, for messages.
        query: What follows the question mark of the name.
        choices: The options that are words, with the words allowed. Every environment also takes
            `limit`, a number.

    Raises:
        InputError: If an option or its value is unknown, or an option is there twice.
    """
    options: dict[str, Any] = {}
    for key, value in written_options(query, f"env = {name!r}").items():
        if key == "limit":
            # A limit of more than ten digits is too large, and Python's `int` takes no 5000.
            options[key] = int(value) if value and value.isdecimal() and len(value) <= 10 else None
            check_limit(options[key], f"env = {name!r}")
        elif key not in choices:
            known = ", ".join((*choices, "limit"))
            raise InputError(f"env = {name!r}: no option {key!r}; known: {known}")
        elif value not in choices[key]:
            allowed = " or ".join(repr(choice) for choice in choices[key])
            raise InputError(f"env = {name!r}: {key} must be {allowed}")
        else:
            options[key] = value
    return options
