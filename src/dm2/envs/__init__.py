"""Environments: the contract they share, the two rule sets of battles, and adapters, by name."""

from dm2.envs.base import Environment, EnvSpec, Frame, Renderable, Step, TeamView
from dm2.envs.registry import list_environments, make

__all__ = [
    "EnvSpec",
    "Environment",
    "Frame",
    "Renderable",
    "Step",
    "TeamView",
    "list_environments",
    "make",
]
