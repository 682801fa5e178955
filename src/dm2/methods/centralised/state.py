"""What a team that learns the values of its actions owns, what it remembers, and what it keeps of
what it perceives.

Axes: `K` agents, `N` environments, `H` units, `O` observation features, `A` actions, `S` state
features.
"""

from typing import NamedTuple

import optax
from jaxtyping import Array, Bool, Float, Int, UInt32

from dm2.agent.episodes import Ongoing
from dm2.agent.inputs import Moments
from dm2.agent.types import Params
from dm2.methods.centralised.replay import Replay

__all__ = ["Perceived", "QMemory", "QState"]


class QState(NamedTuple):
    """All that a team owns and that outlives an episode."""

    key: UInt32[Array, "2"]
    """The team's random stream."""
    params: dict[str, Params]
    """Of the agents' network, `agent`, and of the mixer, `mixer`."""
    target: dict[str, Params]
    """The copy that makes targets."""
    optimiser: optax.OptState
    since_copy: Int[Array, ""]
    """Updates since it was copied."""
    steps: Int[Array, ""]
    """Environment steps of the rollouts so far, as far as exploration goes by them."""
    moments: Moments | None
    """Of all agents' observations; None where they are not standardised."""
    state_moments: Moments | None
    """Of global states; None where they are not standardised or not used."""
    replay: Replay | None
    """Episodes to learn from. None where it is handed on beside the rest of the state, as the
    program that learns takes it, since it is given away there."""
    ongoing: Ongoing | None
    """Episodes under way; None where `replay` is."""


class QMemory(NamedTuple):
    """What a team remembers from step to step."""

    hidden: Float[Array, "K N H"]
    """The network's recurrent state, for each agent."""
    action: Int[Array, "K N"]
    """Each agent's last action."""


class Perceived(NamedTuple):
    """What a replay keeps of an instant, as `act` and `bootstrap` return it."""

    observations: Float[Array, "K N O"]
    legal: Bool[Array, "K N A"] | None
    """None from `act`: the trajectory has them."""
    states: Float[Array, "1 N S"] | None
