"""Environments: the contract they share, the two rule sets of battles, and adapters, by name."""

from dm2.envs.adapters.single import Mapped, SingleEnvironment
from dm2.envs.base import Environment, EnvSpec, Frame, Renderable, Step, TeamView
from dm2.envs.host import HostEnvironment
from dm2.envs.registry import list_environments, make

__all__ = [
    "EnvSpec",
    "Environment",
    "Frame",
    "HostEnvironment",
    "Mapped",
    "Renderable",
    "SingleEnvironment",
    "Step",
    "TeamView",
    "list_environments",
    "make",
]
