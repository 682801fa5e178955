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

__all__ = ["Blocks", "block_steps", "in_blocks", "line_up"]

_ROWS = 512
"""Steps times environments of a block: enough for fast products, few enough for the cache."""


def block_steps(num_envs: int, steps: int) -> int:
    """Length of a block of `num_envs` environments; at most `steps`."""
    return min(steps, max(1, _ROWS // num_envs))


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


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def in_blocks(
    apply: Callable[..., tuple[Array, Array]],
    params: Any,
    carry: Float[Array, "N H"],
    observations: Float[Array, "R O"],
    blocks: Blocks,
    count: int | Int[Array, ""],
) -> Float[Array, "B S N D"]:
    """Outputs of a recurrent network in the first `count` of the blocks, zeros in the others.

    `apply(params, carry, observations [S, N, O], starts [S, N])` returns the next carry and the
    outputs `[S, N, D]`. The gradient, with respect to `params` and `carry`, takes the time of
    `count` blocks, too; `count` may be known only when the program runs.
    """
    block = functools.partial(_block, apply, params, observations, blocks)
    empty = _room(blocks, jax.eval_shape(block, carry, 0)[1], jnp.zeros)

    def step(index: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        carry, outputs = state
        carry, new = block(carry, index)
        return carry, _put(outputs, new, index)

    return jax.lax.fori_loop(0, count, step, (carry, empty))[1]


def _block(
    apply: Callable, params: Any, observations: Array, blocks: Blocks, carry: Array, index: Any
) -> tuple[Array, Array]:
    rows, starts = _at(blocks, index)
    seen = observations.at[rows].get(mode="promise_in_bounds")
    return apply(params, carry, seen, starts)


def _at(tree: Any, index: Any) -> Any:
    return jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, index, keepdims=False), tree)


def _put(tree: Any, new: Any, index: Any) -> Any:
    def one(x: Array, part: Array) -> Array:
        return jax.lax.dynamic_update_index_in_dim(x, part, index, 0)

    return jax.tree.map(one, tree, new)


def _room(blocks: Blocks, of_one: Any, make: Callable[..., Array]) -> Any:
    """Arrays for what every block leaves."""
    count = len(blocks.rows)
    return jax.tree.map(lambda x: make((count, *x.shape), x.dtype), of_one)


def _forward(apply, params, carry, observations, blocks, count):
    trees = []

    def block(carry: Array, index: Any) -> tuple[Array, Array, list[Array]]:
        def run(params: Any, carry: Array) -> tuple[Array, Array]:
            return _block(apply, params, observations, blocks, carry, index)

        # The function back is a tree of what it remembers; its structure is the same every time.
        (carry, outputs), pull = jax.vjp(run, params, carry)
        remembered, tree = jax.tree.flatten(pull)
        trees.append(tree)
        return carry, outputs, remembered

    _, outputs, remembered = jax.eval_shape(block, carry, 0)
    rooms = _room(blocks, outputs, jnp.zeros), _room(blocks, remembered, jax.lax.empty)

    def step(index: Array, state: tuple[Array, tuple[Array, Any]]) -> tuple[Array, Any]:
        carry, rooms = state
        carry, *new = block(carry, index)
        return carry, _put(rooms, tuple(new), index)

    _, (outputs, remembered) = jax.lax.fori_loop(0, count, step, (carry, rooms))
    pulls = jax.tree.unflatten(trees[-1], remembered)
    return outputs, (params, carry, pulls, count)


def _backward(_, saved, d_outputs):
    params, carry, pulls, count = saved

    def step(turn: Array, state: tuple[Any, Array]) -> tuple[Any, Array]:
        gradient, d_carry = state
        index = count - 1 - turn
        new, d_carry = _at(pulls, index)((d_carry, _at(d_outputs, index)))
        return jax.tree.map(jnp.add, gradient, new), d_carry

    start = jax.tree.map(jnp.zeros_like, (params, carry))
    gradient, d_carry = jax.lax.fori_loop(0, count, step, start)
    return gradient, d_carry, None, None, None


in_blocks.defvjp(_forward, _backward)
