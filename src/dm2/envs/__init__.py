"""Environments: the contract they share, the two rule sets of battles, and adapters, by name.

`SmacEnv` and `PettingZooEnv` put any of them behind other libraries' interfaces. They are imported
when they are first asked for; the latter needs `pip install 'dm2[pettingzoo]'`.
"""

import importlib
from typing import TYPE_CHECKING, Any

from dm2.envs.adapters.single import Mapped, SingleEnvironment
from dm2.envs.base import Environment, EnvSpec, Frame, Renderable, Step, TeamView
from dm2.envs.host import HostEnvironment
from dm2.envs.registry import list_environments, make

if TYPE_CHECKING:
    from dm2.envs.interfaces.pettingzoo import PettingZooEnv
    from dm2.envs.interfaces.smac import SmacEnv

__all__ = [
    "EnvSpec",
    "Environment",
    "Frame",
    "HostEnvironment",
    "Mapped",
    "PettingZooEnv",
    "Renderable",
    "SingleEnvironment",
    "SmacEnv",
    "Step",
    "TeamView",
    "list_environments",
    "make",
]

_INTERFACES = {"PettingZooEnv": "pettingzoo", "SmacEnv": "smac"}


def __getattr__(name: str) -> Any:
    if name not in _INTERFACES:
        raise AttributeError(f"module 'dm2.envs' has no attribute {name!r}")
    return getattr(importlib.import_module(f"dm2.envs.interfaces.{_INTERFACES[name]}"), name)
