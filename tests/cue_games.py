"""Games of one step in which a cue says which action pays; no test itself.

Two agents see the same cue, drawn anew for every episode, and each is paid for itself being right:
the team's reward is the share of agents who took the action that the cue names.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, UInt32

from dm2.envs import EnvSpec, Step, TeamView

SHOWN = {
    "one": ((-1.0,), (1.0,)),
    "proportional": ((1.0, 2.0), (2.0, 4.0)),
    "one-hot": ((1.0, 0.0), (0.0, 1.0)),
}
"""What is seen of either cue."""


class CueState(NamedTuple):
    """Which action pays, and whether it was taken already."""

    cue: Int[Array, " N"]
    over: Bool[Array, " N"]


class CueGame:
    """`shown`: a key of `SHOWN`; `scale`: what the observations are multiplied by."""

    def __init__(self, shown: str, scale: float, agents: int = 2) -> None:
        self.observations = scale * jnp.array(SHOWN[shown])
        size = self.observations.shape[1]
        self.spec = EnvSpec(f"cue/{shown}", "1", agents, size, 2, 1, 1)

    def reset(self, key: UInt32[Array, "2"], num_envs: int) -> CueState:
        """Draw a cue in every environment."""
        return CueState(jax.random.randint(key, (num_envs,), 0, 2), jnp.zeros(num_envs, bool))

    def step(
        self, key: UInt32[Array, "2"], state: CueState, actions: Int[Array, "K N"]
    ) -> tuple[CueState, Step]:
        """The one step."""
        right = jnp.mean((actions == state.cue).astype(jnp.float32), axis=0)
        over = jnp.ones_like(state.over)
        return CueState(state.cue, over), Step(right, over, ~over, right == 1)

    def observe(self, state: CueState) -> TeamView:
        """The cue as it is shown."""
        count, num_envs = self.spec.num_agents, len(state.cue)
        seen = jnp.broadcast_to(
            self.observations[state.cue], (count, num_envs, self.spec.observation_size)
        )
        legal = jnp.ones((count, num_envs, 2), bool)
        alive = jnp.ones((count, num_envs), bool)
        return TeamView(seen, legal, alive, state.cue[:, None].astype(jnp.float32))
