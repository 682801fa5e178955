"""Replay of whole episodes of a team: a ring in which the newest episode takes the oldest's place.

Axes: `T` steps of `N` environments, `C` episodes that there is room for, `L` the episode limit, `K`
agents, `O` observation features, `A` actions, `S` state features. An episode of length `l` has `l`
steps; where a time limit cut it, row `l` holds what the team perceived then.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt32

from dm2.agent.episodes import Ongoing, hand_over
from dm2.agent.types import Trajectory

__all__ = ["Replay", "TeamRow", "rows_of", "store"]


class TeamRow(NamedTuple):
    """What is kept of a step of a team, `[..., K, ...]`."""

    observations: Float[Array, "*B K O"]
    legal: Bool[Array, "*B K A"]
    alive: Bool[Array, "*B K"]
    actions: Int[Array, "*B K"]
    rewards: Float[Array, "*B"]
    """The team's task reward that followed."""
    states: Float[Array, "*B S"] | None
    """The global state; None for a method that mixes without it."""


class Replay(NamedTuple):
    """Episodes, the `i`-th that was ever stored at `i` modulo `C`."""

    rows: TeamRow
    """`[C, L + 1, ...]`; zeros behind an episode's end."""
    length: Int[Array, " C"]
    """Steps of each episode."""
    truncated: Bool[Array, " C"]
    """Whether a time limit cut it."""
    inserted: Int[Array, ""]
    """Episodes that were ever stored."""

    @classmethod
    def initial(cls, row: TeamRow, limit: int, capacity: int) -> "Replay":
        """Without episodes. `row` has the shapes and types of one step."""
        rows = jax.tree.map(lambda x: jnp.zeros((capacity, limit + 1, *x.shape), x.dtype), row)
        length, none = jnp.zeros(capacity, jnp.int32), jnp.zeros((), jnp.int32)
        return cls(rows, length, jnp.zeros(capacity, bool), none)

    @property
    def stored(self) -> Int[Array, ""]:
        """How many episodes there are."""
        return jnp.minimum(self.inserted, len(self.length))

    def insert(
        self, episode: TeamRow, final: TeamRow, length: Int[Array, ""], truncated: Bool[Array, ""]
    ) -> "Replay":
        """With one more episode.

        Args:
            episode: Its rows, `[L, ...]`, zeros behind its end.
            final: What the team perceived at its end, if a time limit cut it.
            length: Its steps.
            truncated: Whether a time limit cut it.
        """
        place = self.inserted % len(self.length)

        def put(rows: Array, new: Array, last: Array) -> Array:
            whole = jnp.pad(new, ((0, 1), *((0, 0),) * (new.ndim - 1)))
            whole = jax.lax.dynamic_update_index_in_dim(whole, last.astype(rows.dtype), length, 0)
            return jax.lax.dynamic_update_index_in_dim(rows, whole, place, 0)

        return Replay(
            jax.tree.map(put, self.rows, episode, final),
            self.length.at[place].set(length),
            self.truncated.at[place].set(truncated),
            self.inserted + 1,
        )

    def draw(self, key: UInt32[Array, "2"], shape: tuple[int, ...]) -> Int[Array, "*shape"]:
        """Numbers of stored episodes, each with the same chance, with replacement."""
        return jax.random.randint(key, shape, 0, jnp.maximum(self.stored, 1))


def rows_of(trajectory: Trajectory) -> TeamRow:
    """What is kept of a rollout's steps, `[T, N, ...]`."""
    extras = trajectory.extras

    def joined(x: Array) -> Array:
        return jnp.moveaxis(x, 0, 2)

    return TeamRow(
        observations=joined(extras.observations),
        legal=joined(trajectory.legal),
        alive=joined(trajectory.alive),
        actions=joined(trajectory.actions),
        rewards=trajectory.rewards[0],
        states=None if extras.states is None else extras.states[0],
    )


def store(
    replay: Replay, ongoing: Ongoing, rows: TeamRow, trajectory: Trajectory
) -> tuple[Replay, Ongoing]:
    """Stores the episodes that ended in a rollout.

    Args:
        replay: The replay.
        ongoing: The episodes that were under way before the rollout.
        rows: The rollout's, see `rows_of`.
        trajectory: The rollout.

    Returns:
        The replay with the episodes that ended, and those under way now.
    """
    final, ended = trajectory.bootstrap, trajectory.ended[0]
    cut = ended & ~trajectory.terminated[0]

    def insert(
        replay: Replay, episode: TeamRow, length: Array, step: Array, environment: Array
    ) -> Replay:
        def at(x: Array) -> Array:
            return x[:, step, environment]

        last = TeamRow(
            observations=at(final.observations),
            legal=at(final.legal),
            alive=at(trajectory.next_alive),
            actions=jnp.zeros_like(episode.actions[0]),
            rewards=jnp.zeros(()),
            states=None if final.states is None else at(final.states)[0],
        )
        return replay.insert(episode, last, length, cut[step, environment])

    ongoing, replay = hand_over(ongoing, rows, trajectory.starts[0], ended, replay, insert)
    return replay, ongoing
