"""What one agent perceives, and what its part of a rollout consists of.

Shapes are those of one agent: `T` environment steps of `N` environments, `O` observation features,
`A` actions, `H` units. A team's arrays have one more axis in front, the agents', `[K, ...]`.
"""

from typing import Any, NamedTuple

from jaxtyping import Array, Bool, Float, Int

__all__ = ["Params", "Trajectory", "View"]

Params = Any
"""A pytree of a network's parameters."""


class View(NamedTuple):
    """What an agent perceives at one instant: all that it may act on, beside its memory."""

    observations: Float[Array, "N O"]
    legal: Bool[Array, "N A"]
    """Legal actions; every row has at least one."""
    alive: Bool[Array, " N"]
    """Whether the agent still acts; a dead agent's action is ignored."""
    starts: Bool[Array, " N"]
    """Whether an episode begins here, so that the memory of the one before must be dropped."""


class Trajectory(NamedTuple):
    """An agent's part of a rollout: `T` steps of `N` environments.

    Row `t` holds the action that was chosen at `t` and the reward that followed. `extras`,
    `bootstrap` and `memory` are the method's own, and the code that collects a rollout does not
    look into them; all other fields are facts of the environment and of the run.
    """

    legal: Bool[Array, "T N A"]
    alive: Bool[Array, "T N"]
    starts: Bool[Array, "T N"]
    """Whether an episode begins at step `t`."""
    actions: Int[Array, "T N"]
    rewards: Float[Array, "T N"]
    """The task's reward: the team's, or the agent's own where each is paid its own."""
    next_alive: Bool[Array, "T N"]
    """Whether the agent is alive after step `t`, before any reset."""
    terminated: Bool[Array, "T N"]
    ended: Bool[Array, "T N"]
    """Terminated or truncated."""
    time_left: Int[Array, "T N"]
    """Environment steps of the episode limit that remain after step `t`."""
    extras: Any
    """What the method's `act` kept of each step, `[T, N, ...]`."""
    bootstrap: Any
    """What the method's `bootstrap` makes of the observation that step `t` led to, `[T, N, ...]`:
    at the steps that a time limit or the rollout's end cuts; zeros elsewhere."""
    memory: Any
    """The memory with which the rollout began, `[N, ...]`."""
    progress: Float[Array, ""]
    """Share of the run, from 0 to 1, that was over when the rollout began: what schedules go by."""
