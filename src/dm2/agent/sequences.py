"""Recurrent networks over a rollout without the steps that nobody learns from.

An agent that is dead until its episode's end learns nothing there. Its other steps are lined up
without gaps, episode behind episode, and cut into blocks of time; the blocks in which no sequence
of a minibatch has a step left are not computed.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

__all__ = ["Blocked", "Blocks", "Lanes", "block_steps", "line_up"]

_ROWS, _STEPS = 512, 16
"""Of a block, at most: steps times sequences, enough for fast products and few enough for the
cache; and steps, for the longer a block, the fewer are left out."""


def block_steps(sequences: int, steps: int) -> int:
    """Length of a block of that many sequences; at most `steps`."""
    return min(steps, _STEPS, max(1, _ROWS // sequences))


class Lanes(NamedTuple):
    """`B` minibatches of `N` sequences each, one episode after another, of at most `T` steps."""

    rows: Int[Array, "B T N"]
    """Where a step stands in the rollout, `t` times all environments plus the environment."""
    length: Int[Array, "B N"]
    """Steps of a sequence; `rows` behind them mean nothing."""
    envs: Int[Array, "B N"]
    """The environment with whose memory a sequence begins."""


def line_up(
    alive: Bool[Array, "T E"], starts: Bool[Array, "T E"], envs: Int[Array, "B N"]
) -> Lanes:
    """Minibatches of the environments `envs` as sequences of only those steps from which learning
    gains something.

    Those are the steps at or before one in the same episode at which the agent is alive: it may be
    waiting for its life, and what it saw then is in its memory. `starts` marks steps that open an
    episode. As no memory outlives an episode, one that has begun in this rollout may follow any
    other: where that makes a minibatch's longest sequence shorter, episodes are dealt anew.
    """
    steps, num_envs = alive.shape
    useful = _useful(alive, starts)
    time, column = jnp.arange(steps)[:, None], jnp.arange(num_envs)
    opens = starts.at[0].set(True)
    episode = jnp.cumsum(opens, axis=0) - 1
    begun = jax.lax.cummax(jnp.where(opens, time, 0), axis=0)
    lengths = jnp.zeros_like(episode).at[episode, column].add(useful)
    # An environment's longest episodes first, but before them the one that goes on from before.
    ranked = jnp.argsort(-lengths.at[0].set(steps), axis=0)
    rank = jnp.zeros_like(ranked).at[ranked, column].set(time)[episode, column]
    lengths = jnp.take_along_axis(lengths, ranked, axis=0)
    lane, offset, length = _deal(lengths[:, envs])
    lane, offset = (jnp.take_along_axis(x, rank[:, envs], axis=0) for x in (lane, offset))
    place = jnp.where(useful, time - begun, steps)[:, envs] + offset
    minibatch = jnp.arange(len(envs))[:, None]
    rows = jnp.zeros((len(envs), steps, envs.shape[1]), envs.dtype)
    rows = rows.at[minibatch, place, lane].set(time[..., None] * num_envs + envs, mode="drop")
    return Lanes(rows, length, envs)


def _useful(alive: Bool[Array, "T E"], starts: Bool[Array, "T E"]) -> Bool[Array, "T E"]:
    """Steps at or before one in the same episode at which the agent is alive."""

    def step(later: Array, now: tuple[Array, Array]) -> tuple[Array, Array]:
        alive, starts = now
        useful = alive | later
        return useful & ~starts, useful

    return jax.lax.scan(step, jnp.zeros_like(alive[0]), (alive, starts), reverse=True)[1]


def _deal(
    lengths: Int[Array, "R B N"],
) -> tuple[Int[Array, "R B N"], Int[Array, "R B N"], Int[Array, "B N"]]:
    """Into which sequence every episode goes and behind how many steps, and the sequences' lengths.

    `lengths[r, b, n]` is the length of the `r`-th episode of environment `n`. The first stay where
    they are; then in turns every environment's next one is dealt, the longest to the shortest
    sequence. Where that gains nothing, all episodes stay with their environment.
    """
    minibatch = jnp.arange(lengths.shape[1])[:, None]

    def turn(index: Array, state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        lane, offset, filled = state
        longest, shortest = jnp.argsort(-lengths[index]), jnp.argsort(filled)
        to = jnp.zeros_like(shortest).at[minibatch, longest].set(shortest)
        lane, offset = lane.at[index].set(to), offset.at[index].set(filled[minibatch, to])
        return lane, offset, filled.at[minibatch, to].add(lengths[index])

    total = jnp.cumsum(lengths, axis=0)
    own = jnp.broadcast_to(jnp.arange(lengths.shape[2]), lengths.shape)
    behind = total - lengths
    turns = 1 + jnp.sum(jnp.any(lengths[1:] > 0, axis=(1, 2)))
    lane, offset, filled = jax.lax.fori_loop(1, turns, turn, (own, behind, lengths[0]))
    better = (jnp.max(filled, axis=1) < jnp.max(total[-1], axis=1))[:, None]
    pick: Any = functools.partial(jnp.where, better)  # whose stub says tuples, too
    return pick(lane, own), pick(offset, behind), pick(filled, total[-1])


class Blocks(NamedTuple):
    """Steps of `N` sequences in blocks of time, `B` of `S` steps."""

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
