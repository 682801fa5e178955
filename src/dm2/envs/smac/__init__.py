"""SMAC's tasks without StarCraft II."""

from dm2.envs.smac.environment import Smac, SmacState

__all__ = ["Smac", "SmacState"]
