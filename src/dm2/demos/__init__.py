"""Demonstrations: what expert teams saw and did, recorded, checked and read back."""

from dm2.demos.dataset import AgentDemonstrations, Demonstrations, describe

__all__ = ["AgentDemonstrations", "Demonstrations", "describe"]
