"""What training takes, worked out rather than measured: memory, and products of matrices."""

from dm2.config import Config
from dm2.envs import EnvSpec

__all__ = ["memory_mib", "update_flops"]

_BASE_MIB = 900
"""Python, JAX, and the compiler at work on several programs."""
_COPIES = 3.5
"""Of a rollout: as played, for the discriminators, agent by agent, on the second device; not all at
once."""
_ACTIVATIONS = 20
"""Numbers per unit that a network's forward and backward pass keep for a step of a minibatch."""


def memory_mib(config: Config, spec: EnvSpec, demonstration_bytes: int = 0) -> float:
    r"""Peak resident memory of a training process on a CPU, in MiB; good to about a quarter.

        base + 3.5 K T N (4 O + A + 40) + 2 · 4 · 20 H T N / minibatches + 2 · demonstrations

    bytes, for K agents, T steps, N environments, O observed numbers, A actions, H units. A
    rollout grows with the team and with the number of environments; what a minibatch keeps does
    not grow with the team, whose agents learn one after another.
    """
    steps = config.iteration_steps
    row = 4 * spec.observation_size + spec.num_actions + 40
    rollout = _COPIES * spec.num_agents * steps * row
    minibatch = 2 * 4 * _ACTIVATIONS * config.ppo.hidden * steps / config.ppo.minibatches
    return _BASE_MIB + (rollout + minibatch + 2 * demonstration_bytes) / 2**20


def update_flops(config: Config, spec: EnvSpec) -> float:
    """Multiply-adds of one IPPO update's matrix products, times two, for the whole team. A backward
    pass costs two forward passes, but for the gradient of the observations, which nobody needs;
    actor and critic differ in their heads only."""
    h, o, a = config.ppo.hidden, spec.observation_size, spec.num_actions
    net = h * h + 2 * h * 3 * h
    forward = 2 * (2 * (o * h + net) + h * (a + 1))
    samples = config.iteration_steps * spec.num_agents * config.ppo.epochs
    return (3.0 * forward - 4.0 * o * h) * samples
