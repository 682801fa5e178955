"""What one agent is and sees: its own state, its memory, its rollout, its lessons."""

from typing import Any, NamedTuple

import optax
from jaxtyping import Array, Bool, Float, Int, UInt32

from dm2.agent.imitation import DiscriminatorState
from dm2.agent.sequences import Lanes
from dm2.agent.value_scale import ValueScale

__all__ = [
    "Acts",
    "AgentState",
    "Carry",
    "Lesson",
    "Params",
    "Seen",
    "Trajectory",
    "actor_part",
    "critic_part",
    "improved",
]

Params = Any


class AgentState(NamedTuple):
    """Everything that one agent owns."""

    key: UInt32[Array, "2"]
    actor: Params
    critic: Params
    actor_opt: optax.OptState
    critic_opt: optax.OptState
    scale: ValueScale
    discriminator: DiscriminatorState | None
    """None for an agent that does not imitate."""


class Carry(NamedTuple):
    """What one agent remembers from step to step, per environment."""

    actor: Float[Array, "N H"]
    critic: Float[Array, "N H"]
    value: Float[Array, " N"]
    """Its latest value estimate while alive; held after death (see `masked_gae`)."""


class Trajectory(NamedTuple):
    """One agent's view of a rollout: `T` steps of `N` environments.

    Row `t` pairs the observation at `t` with the action chosen on it and the reward that followed.
    """

    inputs: Float[Array, "T N O"]
    """The normalised observations, which the networks took (see `dm2.agent.networks`)."""
    legal: Bool[Array, "T N A"]
    alive: Bool[Array, "T N"]
    starts: Bool[Array, "T N"]
    """`observations[t]` opens an episode."""
    actions: Int[Array, "T N"]
    log_probs: Float[Array, "T N"]
    values: Float[Array, "T N"]
    next_values: Float[Array, "T N"]
    """Value of the observation after `t`, before any reset."""
    next_alive: Bool[Array, "T N"]
    rewards: Float[Array, "T N"]
    """The team's task reward."""
    terminated: Bool[Array, "T N"]
    ended: Bool[Array, "T N"]
    """Terminated or truncated."""
    time_left: Int[Array, "T N"]
    """Steps of the episode limit that remain after step `t`."""
    observations: Float[Array, "T N O"] | None = None
    """As the environment gave them, for the discriminator; None where there is none."""


class Lesson(NamedTuple):
    """What `Learner.prepare` works out of a rollout for the epochs of PPO."""

    advantages: Float[Array, "T N"]
    """Zero mean and unit variance over the living steps."""
    targets: Float[Array, "T N"]
    """Returns in the critic's units."""
    lanes: Lanes
    """The minibatches of all epochs."""


class Seen(NamedTuple):
    """What a recurrent network goes through, minibatch by minibatch."""

    carry: Float[Array, "N H"]
    inputs: Float[Array, "T N O"]
    starts: Bool[Array, "T N"]
    alive: Bool[Array, "T N"]
    lanes: Lanes
    """The minibatches of all epochs."""


class Acts(NamedTuple):
    """What the policy is told of its steps."""

    legal: Bool[Array, "T N A"]
    actions: Int[Array, "T N"]
    log_probs: Float[Array, "T N"]
    advantages: Float[Array, "T N"]


# `Any` below is an array, or its shape when programs are compiled ahead.
def _seen(carry: Any, trajectory: Trajectory, lesson: Lesson) -> Seen:
    return Seen(carry, trajectory.inputs, trajectory.starts, trajectory.alive, lesson.lanes)


def actor_part(
    state: AgentState, trajectory: Trajectory, carry: Carry, lesson: Lesson
) -> tuple[Params, optax.OptState, Seen, Acts]:
    """The arguments of `Learner.improve_actor`, of one agent or of a team."""
    acts = Acts(trajectory.legal, trajectory.actions, trajectory.log_probs, lesson.advantages)
    return state.actor, state.actor_opt, _seen(carry.actor, trajectory, lesson), acts


def critic_part(
    state: AgentState, trajectory: Trajectory, carry: Carry, lesson: Lesson
) -> tuple[Params, optax.OptState, Seen, Any]:
    """The arguments of `Learner.improve_critic`, of one agent or of a team."""
    seen = _seen(carry.critic, trajectory, lesson)
    return state.critic, state.critic_opt, seen, lesson.targets


def improved(state: AgentState, metrics: dict, actor: tuple, critic: tuple) -> tuple:
    """The state and the metrics with what the policy and the value function learnt."""
    (actor, actor_opt, of_actor), (critic, critic_opt, of_critic) = actor, critic
    state = state._replace(actor=actor, critic=critic, actor_opt=actor_opt, critic_opt=critic_opt)
    return state, metrics | of_actor | of_critic
