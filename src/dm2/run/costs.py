"""The memory and the time that training takes, worked out rather than measured."""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from dm2.config import ProgramSettings
from dm2.envs import EnvSpec

__all__ = ["best_seconds", "matmul_gflops", "memory_mib", "seconds_per_step"]

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
    update = settings.method.update_bytes(spec, steps, settings.num_envs)
    return _BASE_MIB + (rollout + update + 2 * demonstration_bytes) / 2**20


_MATRIX = 2048
_SHARE_OF_PEAK = 0.8
"""Of what large matrix products reach, an update's do. Measured on two cores, for IPPO and DM²."""
_PLAYING_S = 30e-6
"""Of an environment step: environment, acting, everything else that is no matrix product of an
update. As measured for three agents of smax/3s_vs_4z, a process a core."""


def seconds_per_step(settings: ProgramSettings, spec: EnvSpec, gflops: float) -> float:
    """Seconds that training takes for an environment step; good to about a factor of two.

    Args:
        settings: Of the run.
        spec: Of its environment.
        gflops: What the cores of one process reach, by `matmul_gflops`.
    """
    steps = settings.iteration_steps
    flops = settings.method.update_flops(spec, steps) / steps
    return _PLAYING_S * spec.num_agents / 3 + flops / (_SHARE_OF_PEAK * gflops * 1e9)


Clock = Callable[[], float]


def matmul_gflops(repeats: int, clock: Clock = time.perf_counter) -> float:
    """What the best of some large float32 matrix products reaches, in GFLOP/s.

    With `time.process_time` as the clock it is what one core reaches that does nothing else,
    however busy the machine is at present.
    """
    product = jax.jit(lambda x: x @ x)
    x = jnp.ones((_MATRIX, _MATRIX))
    jax.block_until_ready(product(x))
    return 2 * _MATRIX**3 / best_seconds(lambda: product(x), repeats, clock) / 1e9


def best_seconds(function: Any, repeats: int, clock: Clock = time.perf_counter) -> float:
    """The shortest of some runs: the least disturbed by whatever else the machine does."""
    times = []
    for _ in range(repeats):
        began = clock()
        jax.block_until_ready(function())
        times.append(clock() - began)
    return min(times)
