"""What one agent knows of its own expert."""

from typing import NamedTuple

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


def required(expert: Expert | None) -> Expert:
    """The expert of an agent that learns by imitation. Raises InputError if there is none."""
    if expert is None:
        problem = "experts = None: these agents learn by imitation, and none reached them"
        raise InputError(f"{problem}; hand every agent its demonstrations (load_experts)")
    return expert
