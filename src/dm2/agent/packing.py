"""Gradient steps of a recurrent network on a rollout, without the steps that teach it nothing.

An agent that is dead until its episode's end learns nothing there. `pack` lines up its other
steps without gaps, one episode behind another, and `packed_fit` cuts those sequences into blocks
of time and skips the blocks in which no sequence of a minibatch has a step left. `plain_fit` is
the same computation over whole rollouts; the tests compare the two. `paired` lines up episodes that
are whole already, out of a replay. On an accelerator, where agents are mapped, no block is skipped.

Everything here is for one network. `T` steps, `E` environments, `B` minibatches of `N` sequences.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, Shaped

from dm2.agent.types import Params

__all__ = [
    "Packing",
    "Sequences",
    "computed_share",
    "pack",
    "packed_fit",
    "paired",
    "plain_fit",
]

_BLOCK_ROWS, _BLOCK_STEPS = 512, 16
"""The most rows (steps times sequences) of a block, enough for fast products and few enough for
the cache; and its most steps, for the longer a block is, the fewer blocks can be skipped."""

Network = Callable[[Params, Array, Array, Array], tuple[Array, Array]]
"""`network(params, memory [N, H], inputs [S, N, ...], starts [S, N])` returns the next memory
and the outputs `[S, N, D]`."""

Loss = Callable[[Array, Any, Array], tuple[Array, dict[str, Array]]]
"""`loss(outputs, targets, alive)` returns the loss and what to report of it. Its mean runs over
the steps at which the agent is alive; the leading axes are any."""

Fitted = tuple[Params, optax.OptState, dict[str, Array]]
"""Parameters, the optimiser's state, and per minibatch, `[B]`, what the loss reports and
`gradient_norm`, the gradient's norm before the optimiser clips it."""


class Sequences(NamedTuple):
    """What a recurrent network goes through: the environments of one agent's rollout, or whole
    episodes, side by side."""

    memory: Float[Array, "E H"]
    """The recurrent state with which the rollout began."""
    inputs: Shaped[Array, "T E ..."]
    """What the network takes at each step: numbers, or the places in a replay where it finds
    them."""
    starts: Bool[Array, "T E"]
    """Whether an episode begins at a step."""
    alive: Bool[Array, "T E"]


class Packing(NamedTuple):
    """`B` minibatches of `N` packed sequences each, of at most `T` steps."""

    rows: Int[Array, "B T N"]
    """Where a step stands in the rollout: `t` times all environments, plus the environment."""
    length: Int[Array, "B N"]
    """Steps of each sequence; the `rows` behind them mean nothing."""
    environments: Int[Array, "B N"]
    """The environment with whose memory a sequence begins."""


# ---- packing


def pack(
    alive: Bool[Array, "T E"], starts: Bool[Array, "T E"], environments: Int[Array, "B N"]
) -> Packing:
    """Packs minibatches of environments into sequences of the useful steps alone.

    A step is useful if it stands at or before one in the same episode at which the agent is
    alive: an agent may wait for its life, and what it observed then is in its memory. As no
    memory outlives an episode, an episode that began in this rollout may follow any other:
    where that makes the longest sequence of a minibatch shorter, episodes are dealt anew.

    Args:
        alive: Whether the agent is alive.
        starts: Whether an episode begins at a step.
        environments: The environments of each minibatch.
    """
    steps, num_envs = alive.shape
    useful = _useful(alive, starts)
    time, column = jnp.arange(steps)[:, None], jnp.arange(num_envs)
    opens = starts.at[0].set(True)
    episode = jnp.cumsum(opens, axis=0) - 1
    begun = jax.lax.cummax(jnp.where(opens, time, 0), axis=0)
    lengths = jnp.zeros_like(episode).at[episode, column].add(useful)
    # An environment's longest episodes come first, but before them the one that was under way.
    ranked = jnp.argsort(-lengths.at[0].set(steps), axis=0)
    rank = jnp.zeros_like(ranked).at[ranked, column].set(time)[episode, column]
    lengths = jnp.take_along_axis(lengths, ranked, axis=0)
    sequence, offset, length = _deal(lengths[:, environments])
    sequence, offset = (
        jnp.take_along_axis(x, rank[:, environments], axis=0) for x in (sequence, offset)
    )
    place = jnp.where(useful, time - begun, steps)[:, environments] + offset
    minibatch = jnp.arange(len(environments))[:, None]
    rows = jnp.zeros((len(environments), steps, environments.shape[1]), environments.dtype)
    source = time[..., None] * num_envs + environments
    rows = rows.at[minibatch, place, sequence].set(source, mode="drop")
    return Packing(rows, length, environments)


def _useful(alive: Bool[Array, "T E"], starts: Bool[Array, "T E"]) -> Bool[Array, "T E"]:
    """Whether a step stands at or before one in the same episode at which the agent is alive."""

    def step(later: Array, now: tuple[Array, Array]) -> tuple[Array, Array]:
        alive, starts = now
        useful = alive | later
        return useful & ~starts, useful

    return jax.lax.scan(step, jnp.zeros_like(alive[0]), (alive, starts), reverse=True)[1]


def _deal(
    lengths: Int[Array, "R B N"],
) -> tuple[Int[Array, "R B N"], Int[Array, "R B N"], Int[Array, "B N"]]:
    """Deals episodes to sequences: each episode's sequence, the steps before it there, and the
    sequences' lengths.

    `lengths[r, b, n]` is the length of the `r`-th episode of environment `n`. The first episodes
    stay where they are; then, in turns, every environment's next one is dealt, the longest to the
    shortest sequence. Where that gains nothing, all episodes stay with their environment.
    """
    minibatch = jnp.arange(lengths.shape[1])[:, None]

    def turn(index: Array, state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        sequence, offset, filled = state
        longest, shortest = jnp.argsort(-lengths[index]), jnp.argsort(filled)
        to = jnp.zeros_like(shortest).at[minibatch, longest].set(shortest)
        sequence = sequence.at[index].set(to)
        offset = offset.at[index].set(filled[minibatch, to])
        return sequence, offset, filled.at[minibatch, to].add(lengths[index])

    total = jnp.cumsum(lengths, axis=0)
    own = jnp.broadcast_to(jnp.arange(lengths.shape[2]), lengths.shape)
    behind = total - lengths
    turns = 1 + jnp.sum(jnp.any(lengths[1:] > 0, axis=(1, 2)))
    sequence, offset, filled = jax.lax.fori_loop(1, turns, turn, (own, behind, lengths[0]))
    better = (jnp.max(filled, axis=1) < jnp.max(total[-1], axis=1))[:, None]
    pick: Any = functools.partial(jnp.where, better)  # its stub names tuples, too
    return pick(sequence, own), pick(offset, behind), pick(filled, total[-1])


def paired(length: Int[Array, "B N"], limit: int) -> Packing:
    """The packing of minibatches of whole episodes in which the longest is followed by the
    shortest, the second longest by the second shortest, and so on: half as many sequences, and
    where lengths differ little more steps than the longest episode has. An odd one stays alone.

    Args:
        length: Rows of each episode.
        limit: The most that an episode can have; row `t` of episode `n` of minibatch `b` stands at
            `t` times all episodes plus `b N + n`.
    """
    minibatches, size = length.shape
    half = (size + 1) // 2
    ranked = jnp.argsort(-length, axis=1)
    first, second = ranked[:, :half], ranked[:, : half - 1 : -1]
    lengths = [jnp.take_along_axis(length, index, axis=1) for index in (first, second)]
    # Where there is no second, it is the first once more, without a step.
    alone = ((0, 0), (0, half - second.shape[1]))
    second, lengths[1] = jnp.pad(second, alone), jnp.pad(lengths[1], alone)
    base = size * jnp.arange(minibatches)[:, None]
    first, second = base + first, base + second
    time = jnp.arange(2 * limit)[:, None]
    before, total = lengths[0][:, None], lengths[0] + lengths[1]
    rows = jnp.where(
        time < before,
        time * (minibatches * size) + first[:, None],
        (time - before) * (minibatches * size) + second[:, None],
    )
    rows = jnp.where(time < total[:, None], rows, 0)
    return Packing(rows, total, first)


def computed_share(packing: Packing, steps: int) -> Float[Array, ""]:
    """The part of a rollout's steps that `packed_fit` computes, from 0 to 1: those in blocks in
    which some sequence has a step left. This is of a CPU; on an accelerator all are computed.

    Args:
        packing: One agent's minibatches.
        steps: Environment steps of the rollout.
    """
    length = _block_steps(packing.environments.shape[1], steps)
    longest = jnp.max(packing.length, axis=-1)
    return jnp.mean(jnp.minimum(-(-longest // length) * length, steps)) / steps


# ---- fitting


def plain_fit(
    network: Network,
    loss: Loss,
    optimiser: optax.GradientTransformation,
    params: Params,
    opt_state: optax.OptState,
    sequences: Sequences,
    targets: Any,
    packing: Packing,
) -> Fitted:
    """One optimiser step a minibatch, over whole rollouts: what `packed_fit` computes, plainly.

    Args:
        network: The recurrent network.
        loss: The loss of its outputs.
        optimiser: Turns gradients into updates.
        params: The network's parameters.
        opt_state: The optimiser's state.
        sequences: What the network goes through.
        targets: What the loss needs to know of each step, a pytree of `[T, E, ...]`.
        packing: The minibatches; only their environments count here.
    """

    def minibatch(state: tuple[Params, Any], environments: Array) -> tuple[Any, Any]:
        params, opt_state = state
        of_steps = (sequences.inputs, sequences.starts, sequences.alive, targets)
        observations, starts, alive, mine = jax.tree.map(lambda x: x[:, environments], of_steps)

        def total(params: Params) -> tuple[Array, dict[str, Array]]:
            memory = sequences.memory[environments]
            return loss(network(params, memory, observations, starts)[1], mine, alive)

        gradient, metrics = jax.grad(total, has_aux=True)(params)
        updates, opt_state = optimiser.update(gradient, opt_state, params)
        metrics["gradient_norm"] = optax.tree.norm(gradient)
        return (optax.apply_updates(params, updates), opt_state), metrics

    fitted, metrics = jax.lax.scan(minibatch, (params, opt_state), packing.environments)
    return *fitted, metrics


def packed_fit(
    network: Network,
    loss: Loss,
    optimiser: optax.GradientTransformation,
    params: Params,
    opt_state: optax.OptState,
    sequences: Sequences,
    targets: Any,
    packing: Packing,
) -> Fitted:
    """One optimiser step a minibatch, over packed sequences; see `plain_fit` for the arguments.

    The results are those of `plain_fit` but for rounding, since sums run in another order.
    """
    length = _block_steps(packing.environments.shape[1], len(sequences.alive))
    of_steps = (sequences.inputs, sequences.starts, sequences.alive, targets)
    observations, starts, alive, targets = jax.tree.map(
        lambda x: x.reshape(-1, *x.shape[2:]), of_steps
    )
    blocked = _Blocked(network, observations)

    def cut(packing: Packing) -> tuple[Array, _Blocks, Array]:
        """One minibatch's memory, its blocks, and which of their rows mean something."""
        rows = jnp.pad(packing.rows, ((0, -len(packing.rows) % length), (0, 0)))
        real = jnp.arange(len(rows))[:, None] < packing.length
        rows, real = (x.reshape(-1, length, x.shape[1]) for x in (rows, real))
        return sequences.memory[packing.environments], _Blocks(rows, starts[rows]), real

    def minibatch(state: tuple[Params, Any, Any], packing: Packing) -> tuple[Any, Any]:
        params, opt_state, buffer = state
        memory, blocks, real = cut(packing)
        rows = blocks.rows
        mine = jax.tree.map(lambda x: x[rows], targets)
        # Vmapped, a loop of unknown length would copy all that it keeps at every turn.
        known = jax.default_backend() != "cpu"
        count = len(rows) if known else -(-jnp.max(packing.length) // length)
        buffer = blocked.forward(params, memory, blocks, count, buffer)
        outputs, residuals = buffer
        d_outputs, metrics = jax.grad(loss, has_aux=True)(outputs, mine, alive[rows] & real)
        gradient = blocked.backward(params, memory, residuals, d_outputs, count)
        updates, opt_state = optimiser.update(gradient, opt_state, params)
        metrics["gradient_norm"] = optax.tree.norm(gradient)
        return (optax.apply_updates(params, updates), opt_state, buffer), metrics

    memory, blocks, _ = cut(jax.tree.map(lambda x: x[0], packing))
    buffer = blocked.buffer(params, memory, blocks)
    (params, opt_state, _), metrics = jax.lax.scan(minibatch, (params, opt_state, buffer), packing)
    return params, opt_state, metrics


def _block_steps(sequences: int, steps: int) -> int:
    """Length of a block of that many sequences; at most `steps`."""
    return min(steps, _BLOCK_STEPS, max(1, _BLOCK_ROWS // sequences))


class _Blocks(NamedTuple):
    """Steps of `N` sequences in `B` blocks of `S` steps each."""

    rows: Int[Array, "B S N"]
    """Where the observation stands."""
    starts: Bool[Array, "B S N"]
    """Whether it begins an episode."""


class _Blocked:
    """A recurrent network that goes through blocks, forward and backward.

    What the backward pass needs of each block is kept in a buffer, which is passed from one
    minibatch to the next: to make one for each takes time.
    """

    def __init__(self, network: Network, observations: Shaped[Array, "R ..."]) -> None:
        self._network = network
        self._observations = observations
        self._tree: Any = None

    def buffer(
        self, params: Params, memory: Float[Array, "N H"], blocks: _Blocks
    ) -> tuple[Float[Array, "B S N D"], list[Array]]:
        """Zeros in the shape of what `forward` returns."""
        block = functools.partial(self._block, params, blocks)
        _, *kept = jax.eval_shape(block, memory, 0)
        count = len(blocks.rows)
        return jax.tree.map(lambda x: jnp.zeros((count, *x.shape), x.dtype), tuple(kept))

    def forward(
        self,
        params: Params,
        memory: Float[Array, "N H"],
        blocks: _Blocks,
        count: int | Int[Array, ""],
        buffer: tuple[Float[Array, "B S N D"], list[Array]],
    ) -> tuple[Float[Array, "B S N D"], list[Array]]:
        """Outputs of the first `count` blocks and what `backward` needs of them, written into
        the buffer. `count` may be known only when the program runs."""

        def step(index: Array, state: tuple[Array, Any]) -> tuple[Array, Any]:
            memory, buffer = state
            memory, *new = self._block(params, blocks, memory, index)
            return memory, _put(buffer, tuple(new), index)

        return jax.lax.fori_loop(0, count, step, (memory, buffer))[1]

    def backward(
        self,
        params: Params,
        memory: Float[Array, "N H"],
        residuals: list[Array],
        d_outputs: Float[Array, "B S N D"],
        count: int | Int[Array, ""],
    ) -> Params:
        """The gradient with respect to the parameters, after `forward`."""

        def step(turn: Array, state: tuple[Any, Array]) -> tuple[Any, Array]:
            gradient, d_memory = state
            index = count - 1 - turn
            pull = jax.tree.unflatten(self._tree, _at(residuals, index))
            new, d_memory = pull((d_memory, _at(d_outputs, index)))
            return jax.tree.map(jnp.add, gradient, new), d_memory

        start = jax.tree.map(jnp.zeros_like, (params, memory))
        return jax.lax.fori_loop(0, count, step, start)[0]

    def _block(
        self, params: Params, blocks: _Blocks, memory: Array, index: Any
    ) -> tuple[Array, Array, list[Array]]:
        """The memory after a block, its outputs, and what its backward pass needs."""
        rows, starts = _at(blocks, index)
        observations = self._observations.at[rows].get(mode="promise_in_bounds")

        def run(params: Params, memory: Array) -> tuple[Array, Array]:
            return self._network(params, memory, observations, starts)

        # The backward function is a tree of arrays whose structure is the same for every block.
        (memory, outputs), pull = jax.vjp(run, params, memory)
        residuals, self._tree = jax.tree.flatten(pull)
        return memory, outputs, residuals


def _at(tree: Any, index: Any) -> Any:
    return jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, index, keepdims=False), tree)


def _put(tree: Any, new: Any, index: Any) -> Any:
    def one(x: Array, part: Array) -> Array:
        return jax.lax.dynamic_update_index_in_dim(x, part, index, 0)

    return jax.tree.map(one, tree, new)
