"""What temporal-difference targets are made of, in one whole episode."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

__all__ = ["Targets", "own_targets", "team_targets"]


class Targets(NamedTuple):
    r"""The parts of the targets `y_t = r_t + gamma c_t Q'_{t+1}` that no network decides."""

    rewards: Float[Array, "*B"]
    """r, in the learner's units."""
    continues: Float[Array, "*B"]
    """c: 1 where the value of what follows counts, else 0."""
    counts: Float[Array, "*B"]
    """1 for a step that is learnt from, else 0."""


def team_targets(
    rewards: Float[Array, " T"], length: Int[Array, ""], truncated: Bool[Array, ""]
) -> Targets:
    """The team's, in one episode: every step counts, and only a termination ends what follows.

    Args:
        rewards: the team's reward of each step; those from `length` on mean nothing.
        length: the episode's steps.
        truncated: whether a time limit cut it.
    """
    time = jnp.arange(len(rewards))
    inside = time < length
    continues = inside & (truncated | (time < length - 1))
    kept = jnp.where(inside, rewards, 0.0)
    return Targets(kept, continues.astype(jnp.float32), inside.astype(jnp.float32))


def own_targets(
    rewards: Float[Array, " T"],
    alive: Bool[Array, " T"],
    length: Int[Array, ""],
    truncated: Bool[Array, ""],
    discount: float,
) -> Targets:
    r"""One agent's, in one episode. Only the steps count at which it is alive. Its death ends its
    choices but not the team's reward, to which it contributed, and no network is asked what a dead
    agent's observations are worth: where the agent is dead after step `t`, nothing is bootstrapped,
    and in place of `r_t` stands the reward of the rest of the episode, `G_t = r_t + gamma G_{t+1}`.

    Args:
        rewards: the team's reward of each step; those from `length` on mean nothing.
        alive: whether the agent is alive at a step; at `length`, after the last one.
        length: the episode's steps, fewer than `T`.
        truncated: whether a time limit cut it.
        discount: gamma.
    """
    team = team_targets(rewards, length, truncated)

    def earlier(rest: Array, reward: Array) -> tuple[Array, Array]:
        rest = reward + discount * rest
        return rest, rest

    rest = jax.lax.scan(earlier, jnp.zeros(()), team.rewards, reverse=True)[1]
    next_alive = jnp.append(alive[1:], False)
    return Targets(
        jnp.where(next_alive, team.rewards, rest),
        team.continues * next_alive,
        team.counts * alive,
    )
