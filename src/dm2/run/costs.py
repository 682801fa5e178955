"""The memory that training takes, worked out rather than measured."""

from dm2.config import ProgramSettings
from dm2.envs import EnvSpec

__all__ = ["memory_mib"]

_BASE_MIB = 900
"""Python, JAX, and the compiler at work on several programs."""
_COPIES = 3.5
"""Of a rollout: as played, for the discriminators, agent by agent, on the second device; not all at
once."""


def memory_mib(settings: ProgramSettings, spec: EnvSpec, demonstration_bytes: int = 0) -> float:
    r"""Peak resident memory of a training process on a CPU, in MiB; good to about a quarter.

        base + 3.5 K T N (4 O + A + 40) + update + 2 · demonstrations

    bytes, for K agents, T steps, N environments, O observed numbers and A actions. A rollout
    grows with the team and with the number of environments; `update` is what the method says
    (`Settings.update_bytes`).
    """
    steps = settings.iteration_steps
    row = 4 * spec.observation_size + spec.num_actions + 40
    rollout = _COPIES * spec.num_agents * steps * row
    update = settings.method.update_bytes(spec, steps)
    return _BASE_MIB + (rollout + update + 2 * demonstration_bytes) / 2**20
