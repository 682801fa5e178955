"""What one agent knows of its own expert."""

from typing import NamedTuple

import jax
from jaxtyping import Array, Bool, Float, Int

from dm2.errors import InputError

__all__ = ["Expert", "ExpertEpisodes", "required"]


class ExpertEpisodes(NamedTuple):
    """One agent's demonstrations as whole episodes, `E` of at most `T` steps, for cloning."""

    observations: Float[Array, "T E O"]
    alive: Bool[Array, "T E"]
    """False behind an episode's end too."""
    actions: Int[Array, "T E"]
    legal: Bool[Array, "T E A"]


class Expert(NamedTuple):
    """One agent's demonstrations on the device; `M` rows, of which the first `size` are real."""

    observations: Float[Array, "M O"]
    """The expert's observations while it was alive."""
    size: Int[Array, ""]
    absorbing: Float[Array, ""]
    """Share of the time up to the episode limit that this expert was dead or done."""
    actions: Bool[Array, "M A"] | None = None
    """The actions that it chose, one-hot; None where nobody asks for them."""
    episodes: ExpertEpisodes | None = None
    """The same as whole episodes; None where nobody asks for them."""

    def rounded(self, observations: Float[Array, "*B O"]) -> Float[Array, "*B O"]:
        """Observations of the agent's own, rounded as its expert's were when they were stored.

        Numbers around 1000 are 0.5 apart in float16. Standardised by a small deviation, the
        expert's would lie on a lattice on which the agent's do not, and a discriminator would tell
        them apart by that alone. An expert's that are stored in float32 leave them as they are.
        """
        # Without the barrier XLA may leave out the conversion and its inverse together.
        there = jax.lax.optimization_barrier(observations.astype(self.observations.dtype))
        return there.astype(observations.dtype)


def required(expert: Expert | None) -> Expert:
    """The expert of an agent that learns by imitation. Raises InputError if there is none."""
    if expert is None:
        problem = "experts = None: these agents learn by imitation, and none reached them"
        raise InputError(f"{problem}; hand every agent its demonstrations (load_experts)")
    return expert
