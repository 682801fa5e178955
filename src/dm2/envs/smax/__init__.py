"""Battles by the rules of JaxMARL's SMAX."""

from dm2.envs.smax.environment import Smax, SmaxState

__all__ = ["Smax", "SmaxState"]
