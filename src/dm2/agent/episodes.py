"""Whole episodes out of rollouts, which cut them wherever a rollout ends.

`T` steps of a rollout of `N` environments; no episode is longer than `L` steps. A *row* is what is
kept of one step of one environment, a pytree of any arrays.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

__all__ = ["Ongoing", "hand_over", "lengths"]

Store = TypeVar("Store")


class Ongoing(NamedTuple):
    """The episodes that were under way when the last rollout ended."""

    rows: Any
    """The last `L` rows of every environment, `[L, N, ...]`, newest last. Those of the episode
    under way are the last `time` of them."""
    time: Int[Array, " N"]
    """Steps of the episode under way."""

    @classmethod
    def initial(cls, row: Any, limit: int, num_envs: int) -> "Ongoing":
        """No episode is under way. `row` has the shapes and types of one environment's row."""

        def blank(x: Any) -> Array:
            return jnp.zeros((limit, num_envs, *x.shape), x.dtype)

        return cls(jax.tree.map(blank, row), jnp.zeros(num_envs, jnp.int32))


def lengths(
    time: Int[Array, " N"], starts: Bool[Array, "T N"], ended: Bool[Array, "T N"]
) -> Int[Array, "T N"]:
    """The steps of the episode up to and with each step.

    Args:
        time: Steps that were made of the episode under way before the first.
        starts: Whether an episode begins with a step. What was under way before it is given up: an
            environment that cannot go back to where it was begins anew when its run is resumed.
        ended: Whether an episode ends with a step.
    """

    def step(time: Array, now: tuple[Array, Array]) -> tuple[Array, Array]:
        starts, ended = now
        length = jnp.where(starts, 0, time) + 1
        return jnp.where(ended, 0, length), length

    return jax.lax.scan(step, time, (starts, ended))[1]


def hand_over(
    ongoing: Ongoing,
    rows: Any,
    starts: Bool[Array, "T N"],
    ended: Bool[Array, "T N"],
    store: Store,
    insert: Callable[[Store, Any, Array, Array, Array], Store],
) -> tuple[Ongoing, Store]:
    """Hands every episode that ends in a rollout to `insert`, whole, in the order in which they
    end, and by the number of the environment where they end together.

    On the timeline of the old rows and the new ones, `[L + T, N, ...]`, an episode of length `l`
    that ends with step `t` of the rollout lies at `L + t - l + 1, ..., L + t`, and its environment
    is under way with the last `L` rows. The cost grows with the number of episodes that end.

    Args:
        ongoing: What was under way before.
        rows: The rollout's rows, `[T, N, ...]`.
        starts: Whether an episode begins with a step; see `lengths`.
        ended: Whether an episode ends with a step.
        store: Where episodes go.
        insert: `insert(store, episode, length, step, environment)` returns the store with an
            episode, whose rows are `[L, ...]`, zeros behind its `length`; it ended with that step
            of the rollout in that environment.

    Returns:
        What is under way now, and the store with the episodes.
    """
    steps, num_envs = ended.shape
    limit = len(jax.tree.leaves(ongoing.rows)[0])
    timeline = jax.tree.map(lambda old, new: jnp.concatenate([old, new]), ongoing.rows, rows)
    length = lengths(ongoing.time, starts, ended)
    ends = jnp.nonzero(ended.reshape(-1), size=steps * num_envs, fill_value=0)[0]

    def one(index: Array, store: Store) -> Store:
        step, environment = ends[index] // num_envs, ends[index] % num_envs
        mine = length[step, environment]
        places = limit + step - mine + 1 + jnp.arange(limit)
        inside = jnp.arange(limit) < mine

        def cut(x: Array) -> Array:
            found = x.at[places, environment].get(mode="clip")
            return jnp.where(inside.reshape(-1, *(1,) * (found.ndim - 1)), found, 0)

        episode = jax.tree.map(lambda x: cut(x).astype(x.dtype), timeline)
        return insert(store, episode, mine, step, environment)

    store = jax.lax.fori_loop(0, jnp.sum(ended), one, store)
    rows = jax.tree.map(lambda x: x[steps:], timeline)
    return Ongoing(rows, jnp.where(ended[-1], 0, length[-1])), store
