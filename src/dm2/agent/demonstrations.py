"""What one agent knows of its own expert."""

from typing import NamedTuple

from jaxtyping import Array, Float, Int

__all__ = ["Expert"]


class Expert(NamedTuple):
    """One agent's demonstrations on the device; `M` rows, of which the first `size` are real."""

    observations: Float[Array, "M O"]
    """The expert's observations while it was alive."""
    size: Int[Array, ""]
    absorbing: Float[Array, ""]
    """Share of the time up to the episode limit that this expert was dead or done."""
