"""Demonstrations: what expert teams saw and did, recorded, checked and read back."""

from dm2.demos.dataset import AgentDemonstrations, Demonstrations
from dm2.demos.summary import describe

__all__ = ["AgentDemonstrations", "Demonstrations", "describe"]
