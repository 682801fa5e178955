"""Environments of people's own, by the name of what makes them or as objects.

`package.module:factory?option=value` names a function or a class. It is called with the options as
keyword arguments, numbers as numbers. What it returns decides how it is run:

- an object with the environment contract (`dm2.Environment`), in JAX, runs as our own do;
- one with the contract for a single episode (`dm2.envs.SingleEnvironment`) is mapped over many;
- one with PettingZoo's parallel interface, a Gymnasium environment whose observation and action are
  tuples, or one with SMAC's methods is stepped in Python, in processes of its own
  (`dm2.envs.host`).

Two options are ours: `limit=STEPS` sets the episode limit, and is handed on to a factory that has
an argument of this name; `rewards=individual` pays each agent its own reward.

PettingZoo's and Gymnasium's own names are short for such: `pettingzoo/sisl/pursuit-v5`,
`mpe2/simple_spread-v3`, `gymnasium/lbforaging:Foraging-8x8-2p-1f-v3`.
"""

import copy
import dataclasses
import functools
import importlib
import inspect
import itertools
import os
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

from dm2.envs.adapters.gymnasium import GymnasiumWorld, is_team_env
from dm2.envs.adapters.pettingzoo import PettingZooWorld, is_parallel
from dm2.envs.adapters.single import Mapped, SingleEnvironment
from dm2.envs.adapters.smac import SmacWorld, is_smac
from dm2.envs.base import Environment
from dm2.envs.host import HostEnvironment
from dm2.envs.workers import InProcesses, InThisProcess, quiet_output, words_of
from dm2.envs.world import World
from dm2.errors import InputError

__all__ = ["is_custom", "make_custom", "name_of"]

_KINDS: tuple[tuple[Callable[[Any], bool], Any], ...] = (
    (is_parallel, PettingZooWorld),
    (is_smac, SmacWorld),
    (is_team_env, GymnasiumWorld),
)
_LIBRARIES = ("pettingzoo", "mpe2", "gymnasium")
_OBJECT = "object:"
_objects: dict[str, Any] = {}
"""What `name_of` was given that has no name in another process."""


class _Call(NamedTuple):
    """A name, taken apart."""

    factory: Any
    options: dict[str, Any]
    limit: int | None
    individual: bool


def is_custom(name: str) -> bool:
    """Whether a name is for `make_custom`."""
    base = name.partition("?")[0]
    return ":" in base or base.partition("/")[0] in _LIBRARIES


def name_of(env: Any, label: str) -> str:
    """The name by which `make_custom` knows an object.

    Args:
        env: A function or class that makes an environment, or an environment.
        label: What an object is called that no other process can find.

    Returns:
        `module:factory` for a function or a class that can be imported, else `object:label`.
    """
    module, attribute = getattr(env, "__module__", None), getattr(env, "__qualname__", None)
    if callable(env) and module != "__main__" and attribute and "<" not in attribute:
        found = functools.reduce(
            lambda part, name: getattr(part, name, None), attribute.split("."), sys.modules[module]
        )
        if found is env:
            return f"{module}:{attribute}"
    for name, known in _objects.items():
        if known is env:
            return name
    label = label.removeprefix(_OBJECT).partition("?")[0]
    numbers = itertools.count(2)
    name = f"{_OBJECT}{label}"
    while name in _objects:
        name = f"{_OBJECT}{label}-{next(numbers)}"
    _objects[name] = env
    return name


def make_custom(name: str) -> Environment:
    """The environment that a name stands for.

    Args:
        name: `package.module:factory`, `pettingzoo/NAME`, `mpe2/NAME`, `gymnasium/ID`, or what
            `name_of` returned, perhaps followed by `?option=value&…`.

    Raises:
        InputError: The module or the factory cannot be found, the factory raises, or what it
            returns is no environment.
    """
    call, field = _parse(name), f"env = {name!r}"
    made = _make(call, field)
    if isinstance(made, Environment):
        return _named(made, name, call, field)
    if isinstance(made, SingleEnvironment):
        return Mapped(made, name, individual=call.individual)
    kind = _kind_of(made, field)
    world: World = kind(made, field)
    here = name.startswith(_OBJECT)
    if here and made is call.factory:
        recipe = functools.partial(_copied, made, kind, field)
        recipe().close()  # what cannot be copied is refused now
    else:
        world.close()
        recipe = functools.partial(_make_world, name, call if here else None)
    group = InThisProcess if here else InProcesses
    return HostEnvironment(
        recipe, world.sizes, name, call.limit, individual=call.individual, group=group
    )


def _make_world(name: str, call: _Call | None) -> World:
    """One world of an environment that is stepped in Python."""
    field = f"env = {name!r}"
    made = _make(call or _parse(name), field)
    return _kind_of(made, field)(made, field)


def _copied(made: Any, kind: Any, field: str) -> World:
    """A world from a copy of an object. Raises InputError if it cannot be copied."""
    try:
        return kind(copy.deepcopy(made), field)
    except Exception as error:  # whatever copying raises
        remedy = "give the function or class that makes it"
        raise InputError(f"{field}: it cannot be copied: {words_of(error)}; {remedy}") from error


def _named(env: Environment, name: str, call: _Call, field: str) -> Environment:
    """An environment in JAX that knows the name that brings it back in another process."""
    if call.limit is not None and not _takes(call.factory, "limit"):
        raise InputError(f"{field}: it has a limit of its own, {env.spec.episode_limit} steps")
    named = copy.copy(env)
    named.spec = dataclasses.replace(env.spec, name=name)
    return named


def _kind_of(made: Any, field: str) -> Any:
    """The adapter for what a factory returned. Raises InputError if there is none."""
    for fits, kind in _KINDS:
        if fits(made):
            return kind
    problem = f"{made!r} is no environment"
    remedy = "it needs dm2's contract, PettingZoo's parallel interface, Gymnasium's with tuples or"
    remedy = f"{remedy} SMAC's methods (docs/worlds.md)"
    if hasattr(made, "agent_iter"):
        problem = "its agents act by turns"
        remedy = "convert it with pettingzoo.utils.aec_to_parallel"
    elif hasattr(made, "observation_space") and hasattr(made, "action_space"):
        problem = f"it is for one agent: its action space is {made.action_space}"
        remedy = "for several, observation and action space are Tuples, a part for each agent"
    raise InputError(f"{field}: {problem}; {remedy}")


def _parse(name: str) -> _Call:
    """Takes a name apart. Raises InputError if it names nothing, or an option is unusable."""
    field = f"env = {name!r}"
    base, _, query = name.partition("?")
    options: dict[str, Any] = {}
    for part in filter(None, query.split("&")):
        key, equals, value = part.partition("=")
        if not equals:
            raise InputError(f"{field}: option {part!r} has no value; write {part}=VALUE")
        options[key] = _value(value)
    base, fixed = _written_out(base, field)
    factory = _objects[base] if base in _objects else _find(base, field)
    limit = options.get("limit")
    if limit is not None and (not isinstance(limit, int) or limit < 1):
        raise InputError(f"{field}: limit must be a whole number above 0")
    if not _takes(factory, "limit"):
        options.pop("limit", None)
    rewards = "shared" if _takes(factory, "rewards") else options.pop("rewards", "shared")
    if rewards not in ("shared", "individual"):
        raise InputError(f"{field}: rewards must be 'shared' or 'individual'")
    return _Call(factory, {**fixed, **options}, limit, rewards == "individual")


def _written_out(base: str, field: str) -> tuple[str, dict[str, Any]]:
    """`module:factory` and the arguments for what stands before a name's question mark."""
    library, _, rest = base.partition("/")
    if library not in _LIBRARIES:
        return base, {}
    try:
        importlib.import_module(library)
    except ImportError:
        extra = f"dm2[{library}]" if library != "mpe2" else "mpe2"
        raise InputError(f"{field}: needs {library}: pip install '{extra}'") from None
    if library == "gymnasium":
        return "gymnasium:make", {"id": rest, "disable_env_checker": True}
    module = rest.replace("/", ".").replace("-", "_")
    return f"{library}.{module}:parallel_env", {}


def _make(call: _Call, field: str) -> Any:
    """What a factory returns; an object that is no factory itself. Raises InputError, whatever the
    factory raises."""
    made = call.factory
    environment = isinstance(made, Environment | SingleEnvironment)
    if not inspect.isclass(made) and (environment or any(fits(made) for fits, _ in _KINDS)):
        return made
    if not callable(made):
        return made
    try:
        with quiet_output():
            return made(**call.options)
    except InputError:
        raise
    except Exception as error:  # whatever the factory raises
        raise InputError(f"{field}: making it raised {words_of(error)}") from error


def _find(base: str, field: str) -> Any:
    """The factory. Modules in the current folder are found, too."""
    module_name, _, attribute = base.partition(":")
    if base.startswith(_OBJECT):
        problem = "it was an object of the process that trained it, which has no name in this one"
        remedy = "put what makes it into a module and train with env=module:factory"
        raise InputError(f"{field}: {problem}; {remedy}")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        with quiet_output():
            found = importlib.import_module(module_name)
        for part in attribute.split("."):
            found = getattr(found, part)
    except ModuleNotFoundError as error:
        remedy = "install it, or start where it lies"
        raise InputError(f"{field}: there is no module {error.name!r} here; {remedy}") from None
    except AttributeError:
        problem = f"module {module_name!r} has no {attribute!r}"
        raise InputError(f"{field}: {problem}; write module:factory") from None
    except Exception as error:  # whatever importing the module raises
        raise InputError(f"{field}: importing {module_name!r} raised {words_of(error)}") from error
    if not callable(found):
        raise InputError(f"{field}: {attribute!r} is no function or class; write module:factory")
    return found


def _takes(factory: Any, name: str) -> bool:
    """Whether a factory has an argument of this name."""
    try:
        return name in inspect.signature(factory).parameters
    except (TypeError, ValueError):
        return False


def _value(text: str) -> Any:
    """A number or a truth value, if it is one."""
    words = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
