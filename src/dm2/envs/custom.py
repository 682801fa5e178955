"""Environments of people's own: `package.module:factory?option=value`.

The factory is called with the options as keyword arguments, numbers as numbers. What it returns
decides how it is run:

- an object with the environment contract (`dm2.Environment`), in JAX, runs as our own do;
- an object with PettingZoo's parallel interface, a Gymnasium environment whose observation and
  action are tuples, or one with SMAC's methods is stepped in Python, in processes of its own
  (`dm2.envs.host`).

`limit=STEPS` sets the episode limit where the factory takes no such argument.
"""

import dataclasses
import functools
import importlib
import inspect
import os
import sys
from collections.abc import Callable
from typing import Any

from dm2.envs.adapters.gymnasium import GymnasiumWorld, is_team_env
from dm2.envs.adapters.pettingzoo import PettingZooWorld, is_parallel
from dm2.envs.adapters.smac import SmacWorld, is_smac
from dm2.envs.base import Environment
from dm2.envs.host import HostEnvironment, World
from dm2.errors import InputError

__all__ = ["make_custom"]

_KINDS: tuple[tuple[Callable[[Any], bool], Any], ...] = (
    (is_parallel, PettingZooWorld),
    (is_smac, SmacWorld),
    (is_team_env, GymnasiumWorld),
)


class Named:
    """An environment in JAX by the name that brings it back in another process."""

    def __init__(self, env: Environment, name: str) -> None:
        self._env = env
        self.spec = dataclasses.replace(env.spec, name=name)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._env, name)


def make_custom(name: str) -> Environment:
    """The environment that a name with a colon stands for.

    Args:
        name: `package.module:factory`, perhaps followed by `?option=value&…`.

    Raises:
        InputError: the module or the factory cannot be found, the factory raises, or what it
            returns is no environment.
    """
    field = f"env = {name!r}"
    made, limit = _call(name)
    if isinstance(made, Environment):
        named: Any = Named(made, name)
        return named
    kind = _kind_of(made)
    if kind is None:
        wanted = "dm2's contract, PettingZoo's parallel API, a Gymnasium environment of tuples, or"
        problem = f"the factory returned {made!r}, which is no environment"
        raise InputError(f"{field}: {problem}; return one with {wanted} SMAC's methods")
    world: World = kind(made, field)
    sizes = world.sizes
    world.close()
    return HostEnvironment(functools.partial(make_world, name), name, limit, sizes)


def make_world(name: str) -> World:
    """One world of an environment that is stepped in Python. Raises InputError as `make_custom`."""
    made, _ = _call(name)
    kind = _kind_of(made)
    assert kind is not None
    return kind(made, f"env = {name!r}")


def _kind_of(made: Any) -> Any:
    return next((kind for fits, kind in _KINDS if fits(made)), None)


def _call(name: str) -> tuple[Any, int | None]:
    """What the factory returns, and the limit if it is not the factory's business."""
    field = f"env = {name!r}"
    base, _, query = name.partition("?")
    options = {}
    for part in filter(None, query.split("&")):
        key, equals, value = part.partition("=")
        if not equals:
            raise InputError(f"{field}: option {part!r} has no value; write {part}=VALUE")
        options[key] = _value(value)
    factory = _find(base, field)
    limit = None
    if "limit" in options and not _takes(factory, "limit"):
        limit = options.pop("limit")
        if not isinstance(limit, int) or limit < 1:
            raise InputError(f"{field}: limit must be a whole number above 0")
    try:
        return factory(**options), limit
    except InputError:
        raise
    except Exception as error:  # whatever the factory raises
        problem = f"the factory raised {type(error).__name__}: {error}"
        raise InputError(f"{field}: {problem}") from error


def _find(base: str, field: str) -> Any:
    """The factory. Modules in the current folder are found, too."""
    module_name, _, attribute = base.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
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
        problem = f"importing {module_name!r} raised {type(error).__name__}: {error}"
        raise InputError(f"{field}: {problem}") from error
    if not callable(found):
        raise InputError(f"{field}: {attribute!r} is no function; write module:factory")
    return found


def _takes(factory: Any, name: str) -> bool:
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):
        return False
    return any(one.name == name or one.kind == one.VAR_KEYWORD for one in parameters)


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
