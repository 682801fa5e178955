"""What one agent needs to act by itself, taken out of its team."""

from typing import NamedTuple

from jaxtyping import Array, Float

from dm2.agent.inputs import Inputs, Moments
from dm2.agent.types import Params

__all__ = ["Actor"]


class Actor(NamedTuple):
    """An actor is all of an agent that acts: what it learns from, and its teammates, are left
    out."""

    params: Params
    """Of its network, a `dm2.agent.networks.RecurrentNet`."""
    inputs: Inputs
    """How the network's input is made of an observation."""
    moments: Moments | None
    """Of the observations; None where they are not standardised."""
    identity: Float[Array, " K"] | None
    """Its number in the team, one-hot; None where the network does not take it."""
    epsilon: Float[Array, ""] | None = None
    """The share of random actions with which it explores, where the network's outputs are the
    values of actions; None where they are the logits of a policy."""
