"""Demonstrations: what the agents of an expert team observed and did, as arrays and as a file."""

from dm2.demos.agent import AgentDemonstrations
from dm2.demos.combine import combine
from dm2.demos.dataset import Demonstrations
from dm2.demos.summary import describe

__all__ = ["AgentDemonstrations", "Demonstrations", "combine", "describe"]
