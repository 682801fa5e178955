"""Decentralised multi-agent reinforcement learning by distribution matching (DM²).

Each agent of a team learns alone; the team coordinates because each agent matches its own part of
a target that a joint expert produced (Wang et al., AAAI 2023, arXiv 2206.00233).
"""

import importlib
import os
import sys
from typing import TYPE_CHECKING, Any

from dm2.version import __version__

if TYPE_CHECKING:
    from dm2.config import PPO, Config, Imitation
    from dm2.demos import Demonstrations
    from dm2.envs import Environment, make
    from dm2.errors import InputError
    from dm2.evaluation import evaluate, record, watch
    from dm2.runs import RunDirectory, load
    from dm2.seeds import train_seeds
    from dm2.studies.compare import compare
    from dm2.training import resume, train

# XLA takes two of its own settings for features that the processor lacks, and shouts so for every
# program that it loads from disk (`dm2.runtime`). What goes wrong raises, whatever is logged.
JAX_CAME_FIRST = "jax" in sys.modules
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

__all__ = [
    "PPO",
    "Config",
    "Demonstrations",
    "Environment",
    "Imitation",
    "InputError",
    "RunDirectory",
    "__version__",
    "compare",
    "evaluate",
    "load",
    "make",
    "record",
    "resume",
    "train",
    "train_seeds",
    "watch",
]

# Where each public name lives. Importing it only when asked for keeps `import dm2` instant.
_HOMES = {
    "PPO": "config",
    "Config": "config",
    "Demonstrations": "demos",
    "Environment": "envs",
    "Imitation": "config",
    "InputError": "errors",
    "RunDirectory": "runs",
    "compare": "studies.compare",
    "evaluate": "evaluation",
    "load": "runs",
    "make": "envs",
    "record": "evaluation",
    "resume": "training",
    "train": "training",
    "train_seeds": "seeds",
    "watch": "evaluation",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'dm2' has no attribute {name!r}")
    return getattr(importlib.import_module(f"dm2.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
