"""Environments: the contract they share, the two rule sets of battles, and adapters, by name.

`SmacEnv` and `PettingZooEnv` put any of them behind other libraries' interfaces; the latter needs
`pip install 'dm2[pettingzoo]'`.
"""

from typing import TYPE_CHECKING

from dm2.lazy import lazily

if TYPE_CHECKING:
    from dm2.envs.adapters.single import Mapped, SingleEnvironment
    from dm2.envs.base import Environment, EnvSpec, Frame, Renderable, Step, TeamView
    from dm2.envs.host import HostEnvironment
    from dm2.envs.interfaces.pettingzoo import PettingZooEnv
    from dm2.envs.interfaces.smac import SmacEnv
    from dm2.envs.registry import list_environments, make

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

# Where each public name is defined. Processes that only step environments in Python import none of
# these, and so no JAX.
_MODULES = {
    "EnvSpec": "base",
    "Environment": "base",
    "Frame": "base",
    "HostEnvironment": "host",
    "Mapped": "adapters.single",
    "PettingZooEnv": "interfaces.pettingzoo",
    "Renderable": "base",
    "SingleEnvironment": "adapters.single",
    "SmacEnv": "interfaces.smac",
    "Step": "base",
    "TeamView": "base",
    "list_environments": "registry",
    "make": "registry",
}


__getattr__ = lazily(__name__, _MODULES)
