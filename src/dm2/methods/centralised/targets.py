"""What temporal-difference targets are made of, in one whole episode."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

__all__ = ["Targets", "own_targets", "td_targets", "team_targets"]


class Targets(NamedTuple):
    """The parts of targets that no network decides; see `td_targets`."""

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
        rewards: The team's reward of each step; those from `length` on mean nothing.
        length: The episode's steps.
        truncated: Whether a time limit cut it.
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
        rewards: The team's reward of each step; those from `length` on mean nothing.
        alive: Whether the agent is alive at a step; at `length`, after the last one.
        length: The episode's steps, fewer than `T`.
        truncated: Whether a time limit cut it.
        discount: Gamma.
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


def td_targets(
    parts: Targets, values: Float[Array, " T"], discount: float, td_lambda: float
) -> Float[Array, " T"]:
    r"""Targets that mix those of one step with those of all steps to the episode's end (Peng,
    Williams 1996, "Incremental multi-step Q-learning", without a correction for exploration):

        y_t = r_t + gamma c_t ((1 - lambda) V_{t+1} + lambda y_{t+1})

    where `y_{t+1}` is `V_{t+1}` itself if the step after `t` is none that counts: there a time
    limit cut the episode. With lambda = 0 they are those of double Q-learning.

    Args:
        parts: Rewards, and which steps go on and count.
        values: V, what the target network makes of each row; behind the last nothing follows.
        discount: Gamma.
        td_lambda: Lambda.
    """

    def earlier(
        following: tuple[Array, Array], row: tuple[Targets, Array]
    ) -> tuple[tuple[Array, Array], Array]:
        value, rest = following
        part, own_value = row
        going = jnp.where(part.continues > 0, value + td_lambda * (rest - value), 0.0)
        target = part.rewards + discount * going
        return (own_value, jnp.where(part.counts > 0, target, own_value)), target

    nothing = (jnp.zeros(()), jnp.zeros(()))
    return jax.lax.scan(earlier, nothing, (parts, values), reverse=True)[1]
