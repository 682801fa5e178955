"""What one agent owns, what it remembers, and what it keeps of its actions."""

from typing import NamedTuple

import optax
from jaxtyping import Array, Float, Int, UInt32

from dm2.agent.discriminator import DiscriminatorState
from dm2.agent.inputs import Moments
from dm2.agent.mixed_reward import Balance
from dm2.agent.self_imitation import OwnEpisodes
from dm2.agent.types import Params
from dm2.agent.value_scale import ValueScale

__all__ = ["AgentState", "Extras", "Memory"]


class AgentState(NamedTuple):
    """Everything that one agent owns and that outlives an episode."""

    key: UInt32[Array, "2"]
    """The agent's own random stream."""
    actor: Params
    critic: Params
    actor_opt: optax.OptState
    critic_opt: optax.OptState
    scale: ValueScale
    discriminator: DiscriminatorState | None
    """None for an agent that does not imitate."""
    moments: Moments | None
    """Of its observations; None where they are not standardised."""
    balance: Balance | None
    """Of the task's and the imitation's rewards; None where their weights are given in units of
    reward."""
    identity: Float[Array, " K"] | None
    """Its number in the team, one-hot; None where the networks do not take it."""
    best: OwnEpisodes | None = None
    """Its own best episodes; None where it does not imitate them."""


class Memory(NamedTuple):
    """What one agent remembers from step to step, per environment."""

    actor: Float[Array, "N H"]
    """The actor's recurrent state."""
    critic: Float[Array, "N H"]
    """The critic's recurrent state."""
    value: Float[Array, " N"]
    """The agent's latest value estimate while alive; held after death (see `masked_gae`)."""
    action: Int[Array, " N"] | None = None
    """The agent's last action; None where the networks do not take it."""


class Extras(NamedTuple):
    """What learning needs of an action later; of a rollout, `[T, N, ...]`."""

    log_probs: Float[Array, "*T N"]
    """Log-probability of the action under the policy that chose it."""
    values: Float[Array, "*T N"]
    """The critic's value of the observation; the last one while alive after death."""
    inputs: Float[Array, "*T N I"]
    """What the networks took."""
    observations: Float[Array, "*T N O"] | None
    """The observations as they came, for the discriminator and for the moments; None where there
    are neither."""
