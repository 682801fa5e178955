"""Environments of people's own, by the name of what makes them or as objects.

`package.module:factory?option=value` names a function or a class. It is called with the options as
keyword arguments (`dm2.envs.factories.options_of`). What it returns decides how it is run:

- an object with the environment contract (`dm2.Environment`), in JAX, runs as our own do;
- one with the contract for a single episode (`dm2.envs.SingleEnvironment`) is mapped over many;
- one with PettingZoo's parallel interface, a Gymnasium environment whose observation and action are
  tuples, or one with SMAC's methods is stepped in Python, in processes of its own
  (`dm2.envs.host`).

Three options are ours, unless the factory has an argument of this name. `limit=STEPS` sets the
episode limit, and a factory that has such an argument is told, too; `rewards=individual` pays each
agent its own reward; `wins=true` says that it tells who won, so that win rates are counted.

PettingZoo's and Gymnasium's own names are short for such: `pettingzoo/sisl/pursuit-v5`,
`mpe2/simple_spread-v3`, `gymnasium/lbforaging:Foraging-8x8-2p-1f-v3`.
"""

import contextlib
import copy
import dataclasses
import functools
from typing import Any

from dm2.envs.adapters.single import Mapped
from dm2.envs.base import Environment, EnvSpec
from dm2.envs.factories import (
    LIBRARIES,
    OBJECT,
    Call,
    adapted,
    guarded,
    is_stepped_in_python,
    lacking,
    made_by,
    make_python_env,
    parse,
    takes,
)
from dm2.envs.host import HostEnvironment
from dm2.envs.python_env import PythonEnv
from dm2.envs.workers import InProcesses, InThisProcess, quiet_output
from dm2.errors import InputError

__all__ = ["is_custom", "make_custom"]


def is_custom(name: str) -> bool:
    """Whether a name is for `make_custom`."""
    base = name.partition("?")[0]
    return ":" in base or base.partition("/")[0] in LIBRARIES


def make_custom(name: str) -> Environment:
    """The environment that a name stands for.

    Args:
        name: `package.module:factory`, `pettingzoo/NAME`, `mpe2/NAME`, `gymnasium/ID`, or what
            `name_of` returned, perhaps followed by `?option=value&…`.

    Raises:
        InputError: If the module or the factory cannot be found, the factory raises, or what it
            returns is no environment.
    """
    call, field = parse(name), f"env = {name!r}"
    made = made_by(call, field)
    in_jax = _in_jax(made, name, call, field)
    if in_jax is not None:
        return in_jax
    adapter = adapted(made, field)
    here = name.startswith(OBJECT)
    if here and made is call.factory:
        recipe = functools.partial(_copied, made, field)
        _closed(recipe())  # what cannot be copied is refused now
    else:
        _closed(adapter)
        recipe = functools.partial(make_python_env, name, call if here else None)
    sizes = dataclasses.replace(adapter.sizes, wins=adapter.sizes.wins or call.wins)
    group = InThisProcess if here else InProcesses
    return HostEnvironment(recipe, sizes, name, call.limit, individual=call.individual, group=group)


def _in_jax(made: Any, name: str, call: Call, field: str) -> Environment | None:
    """The environment of what is written in JAX, else nothing. Raises InputError."""
    with guarded(field, "reading its attributes"):
        if is_stepped_in_python(made):
            return None
        if isinstance(made, Environment) and isinstance(made.spec, EnvSpec):
            return _named(made, name, call, field)
        if lacking(made):
            return None
        if call.wins and not hasattr(made, "won"):
            remedy = "add won, a function of the state, or leave out wins"
            raise InputError(f"{field}: wins = True: it does not say who won; {remedy}")
        return Mapped(made, name, call.limit, individual=call.individual)


def _closed(adapter: PythonEnv) -> None:
    """Ends what only told its sizes, whatever it says to that."""
    with quiet_output(), contextlib.suppress(Exception, SystemExit):
        adapter.close()


def _copied(made: Any, field: str) -> PythonEnv:
    """An environment from a copy of an object. Raises InputError if it cannot be copied."""
    with guarded(field, "copying it", "give the function or class that makes it"):
        return adapted(copy.deepcopy(made), field)


def _named(env: Environment, name: str, call: Call, field: str) -> Environment:
    """An environment in JAX that knows the name that brings it back in another process."""
    if call.limit is not None and not takes(call.factory, "limit"):
        raise InputError(f"{field}: it has a limit of its own, {env.spec.episode_limit} steps")
    if call.individual or call.wins:
        remedy = "leave out rewards and wins"
        raise InputError(f"{field}: what its steps and its spec say decides; {remedy}")
    named = copy.copy(env)
    named.spec = dataclasses.replace(env.spec, name=name)
    return named
