"""Decentralised multi-agent reinforcement learning by distribution matching (DM²).

Each agent of a team learns alone; the team coordinates because each agent matches its own part of
a target that a joint expert produced (Wang et al., AAAI 2023, arXiv 2206.00233).

Importing this package changes nothing in your process. For fast training on a CPU call
`dm2.set_up_process()` before anything imports JAX.
"""

from typing import TYPE_CHECKING

from dm2.lazy import lazily
from dm2.version import __version__

if TYPE_CHECKING:
    from dm2.agent.settings import PPO, Cloning, Imitation, Matching, SelfImitation
    from dm2.config import Config
    from dm2.demos import Demonstrations
    from dm2.deployment.agent import Agent
    from dm2.envs import Environment, make
    from dm2.errors import DivergedError, EnvError, InputError
    from dm2.methods import BC, DM2, GAIL, IPPO, IQL, MAGAIL, QMIX, RMAPPO, SIL, VDN
    from dm2.methods.presets import preset
    from dm2.run.check import check
    from dm2.run.checkpoint import CheckpointError
    from dm2.run.combine import record_style
    from dm2.run.directory import RunDirectory, load
    from dm2.run.evaluate import evaluate, watch
    from dm2.run.export import export
    from dm2.run.loop import resume, train
    from dm2.run.process import set_up_process
    from dm2.run.record import record
    from dm2.run.sweep import train_seeds
    from dm2.studies.compare import compare

__all__ = [
    "BC",
    "DM2",
    "GAIL",
    "IPPO",
    "IQL",
    "MAGAIL",
    "PPO",
    "QMIX",
    "RMAPPO",
    "SIL",
    "VDN",
    "Agent",
    "CheckpointError",
    "Cloning",
    "Config",
    "Demonstrations",
    "DivergedError",
    "EnvError",
    "Environment",
    "Imitation",
    "InputError",
    "Matching",
    "RunDirectory",
    "SelfImitation",
    "__version__",
    "check",
    "compare",
    "evaluate",
    "export",
    "load",
    "make",
    "preset",
    "record",
    "record_style",
    "resume",
    "set_up_process",
    "train",
    "train_seeds",
    "watch",
]

# Where each public name is defined. Importing it only when asked for keeps `import dm2` instant.
_MODULES = {
    "BC": "methods",
    "DM2": "methods",
    "GAIL": "methods",
    "IPPO": "methods",
    "IQL": "methods",
    "MAGAIL": "methods",
    "PPO": "agent.settings",
    "QMIX": "methods",
    "RMAPPO": "methods",
    "SIL": "methods",
    "VDN": "methods",
    "Agent": "deployment.agent",
    "CheckpointError": "run.checkpoint",
    "Cloning": "agent.settings",
    "Config": "config",
    "Demonstrations": "demos",
    "DivergedError": "errors",
    "EnvError": "errors",
    "Environment": "envs",
    "Imitation": "agent.settings",
    "InputError": "errors",
    "Matching": "agent.settings",
    "RunDirectory": "run.directory",
    "SelfImitation": "agent.settings",
    "check": "run.check",
    "compare": "studies.compare",
    "evaluate": "run.evaluate",
    "export": "run.export",
    "load": "run.directory",
    "make": "envs",
    "preset": "methods.presets",
    "record": "run.record",
    "record_style": "run.combine",
    "resume": "run.loop",
    "set_up_process": "run.process",
    "train": "run.loop",
    "train_seeds": "run.sweep",
    "watch": "run.evaluate",
}


__getattr__ = lazily(__name__, _MODULES)


def __dir__() -> list[str]:
    return sorted(__all__)
