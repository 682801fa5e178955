"""Demonstrations as agents learn from them: arrays on the device, agent `k`'s part at place `k`."""

import jax.numpy as jnp
import numpy as np

from dm2.agent.demonstrations import Expert
from dm2.demos.dataset import Demonstrations

__all__ = ["load_experts"]


def load_experts(demos: Demonstrations) -> Expert:
    """Every agent's observations while alive, padded to one length, stacked `[K, ...]`. Death and
    an early end count as absorbing up to the episode limit of the recording."""
    observations = [demos.alive_observations(k) for k in range(len(demos.agents))]
    longest = max(len(rows) for rows in observations)
    padded = [np.pad(rows, ((0, longest - len(rows)), (0, 0))) for rows in observations]
    shares = [demos.absorbing_fraction(k) for k in range(len(observations))]
    return Expert(
        jnp.asarray(np.stack(padded)),
        jnp.asarray([len(rows) for rows in observations], jnp.int32),
        jnp.asarray(shares, jnp.float32),
    )
