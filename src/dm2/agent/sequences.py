"""Recurrent networks over a rollout without the steps that nobody learns from.

An agent that is dead until its episode's end learns nothing there. Its other steps are lined up
without gaps, environment by environment, and cut into blocks of time; the blocks in which no
environment of a minibatch has a step left are not computed.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

__all__ = ["Blocked", "Blocks", "block_steps", "line_up"]

_ROWS, _STEPS = 512, 32
"""Of a block, at most: steps times environments, enough for fast products and few enough for the
cache; and steps, for the longer a block, the fewer are left out."""


def block_steps(num_envs: int, steps: int) -> int:
    """Length of a block of `num_envs` environments; at most `steps`."""
    return min(steps, _STEPS, max(1, _ROWS // num_envs))


def line_up(
    alive: Bool[Array, "T N"], starts: Bool[Array, "T N"]
) -> tuple[Int[Array, "T N"], Int[Array, " N"]]:
    """Per environment the steps from which learning gains something, in their order, then the
    others; and how many they are.

    Those are the steps at or before one in the same episode at which the agent is alive: it may be
    waiting for its life, and what it saw then is in its memory. `starts` marks steps that open an
    episode. A step is numbered `t N + n`, as in the flattened rollout.
    """

    def step(later: Array, now: tuple[Array, Array]) -> tuple[Array, Array]:
        alive, starts = now
        useful = alive | later
        return useful & ~starts, useful

    _, useful = jax.lax.scan(step, jnp.zeros_like(alive[0]), (alive, starts), reverse=True)
    before, idle = jnp.cumsum(useful, axis=0), jnp.cumsum(~useful, axis=0)
    count, envs = before[-1], jnp.arange(alive.shape[1])
    place = jnp.where(useful, before, count + idle) - 1
    rows = jnp.arange(alive.size).reshape(alive.shape)
    order = jnp.zeros_like(rows).at[place, envs]
    return order.set(rows, unique_indices=True, mode="promise_in_bounds"), count


class Blocks(NamedTuple):
    """Steps of `N` environments in blocks of time, `B` of `S` steps."""

    rows: Int[Array, "B S N"]
    """Where the observation stands."""
    starts: Bool[Array, "B S N"]
    """It opens an episode."""


class Blocked:
    """A recurrent network that goes through blocks, forth and back.

    `apply(params, carry [N, H], observations [S, N, O], starts [S, N])` returns the next carry and
    the outputs `[S, N, D]`.
    """

    def __init__(
        self, apply: Callable[..., tuple[Array, Array]], observations: Float[Array, "R O"]
    ) -> None:
        self._apply = apply
        self._observations = observations
        self._tree: Any = None

    def room(
        self, params: Any, carry: Float[Array, "N H"], blocks: Blocks
    ) -> tuple[Float[Array, "B S N D"], list[Array]]:
        """Zeros in the place of what `forth` returns. Passed from one minibatch to the next: making
        them for each takes time."""
        block = functools.partial(self._block, params, blocks)
        _, *left = jax.eval_shape(block, carry, 0)
        count = len(blocks.rows)
        return jax.tree.map(lambda x: jnp.zeros((count, *x.shape), x.dtype), tuple(left))

    def forth(
        self,
        params: Any,
        carry: Float[Array, "N H"],
        blocks: Blocks,
        count: int | Int[Array, ""],
        room: tuple[Float[Array, "B S N D"], list[Array]],
    ) -> tuple[Float[Array, "B S N D"], list[Array]]:
        """Outputs in the first `count` of the blocks, and what the way back needs; what `room`
        holds in the others. `count` may be known only when the program runs."""

        def step(index: Array, state: tuple[Array, Any]) -> tuple[Array, Any]:
            carry, room = state
            carry, *new = self._block(params, blocks, carry, index)
            return carry, _put(room, tuple(new), index)

        return jax.lax.fori_loop(0, count, step, (carry, room))[1]

    def back(
        self,
        params: Any,
        carry: Float[Array, "N H"],
        remembered: list[Array],
        d_outputs: Float[Array, "B S N D"],
        count: int | Int[Array, ""],
    ) -> Any:
        """The gradient with respect to the parameters, after `forth`."""

        def step(turn: Array, state: tuple[Any, Array]) -> tuple[Any, Array]:
            gradient, d_carry = state
            index = count - 1 - turn
            pull = jax.tree.unflatten(self._tree, _at(remembered, index))
            new, d_carry = pull((d_carry, _at(d_outputs, index)))
            return jax.tree.map(jnp.add, gradient, new), d_carry

        start = jax.tree.map(jnp.zeros_like, (params, carry))
        return jax.lax.fori_loop(0, count, step, start)[0]

    def _block(
        self, params: Any, blocks: Blocks, carry: Array, index: Any
    ) -> tuple[Array, Array, list[Array]]:
        rows, starts = _at(blocks, index)
        seen = self._observations.at[rows].get(mode="promise_in_bounds")

        def run(params: Any, carry: Array) -> tuple[Array, Array]:
            return self._apply(params, carry, seen, starts)

        # The function back is a tree of what it remembers; its structure is the same every time.
        (carry, outputs), pull = jax.vjp(run, params, carry)
        remembered, self._tree = jax.tree.flatten(pull)
        return carry, outputs, remembered


def _at(tree: Any, index: Any) -> Any:
    return jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, index, keepdims=False), tree)


def _put(tree: Any, new: Any, index: Any) -> Any:
    def one(x: Array, part: Array) -> Array:
        return jax.lax.dynamic_update_index_in_dim(x, part, index, 0)

    return jax.tree.map(one, tree, new)
