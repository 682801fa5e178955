"""An environment in JAX: hunters surround their prey on a grid whose edges meet."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

SIZE = 7
MOVES = ((0, 0), (0, 1), (0, -1), (1, 0), (-1, 0))


class Grid(NamedTuple):
    """Tiles of the hunters and of the prey."""

    hunters: Int[Array, "K 2"]
    prey: Int[Array, "2"]


class Hunt:
    """Three hunters are paid when all of them stand on the prey or beside it, which ends the task.
    The prey takes a random step half of the time. One episode, as pure functions."""

    num_agents, num_actions, episode_limit = 3, len(MOVES), 40

    def reset(self, key: Array) -> Grid:
        """Places everybody at random."""
        tiles = jax.random.randint(key, (self.num_agents + 1, 2), 0, SIZE)
        return Grid(tiles[:-1], tiles[-1])

    def step(
        self, key: Array, state: Grid, actions: Int[Array, " K"]
    ) -> tuple[Grid, Float[Array, ""], Bool[Array, ""]]:
        """Moves everybody by a tile."""
        moves = jnp.array(MOVES)
        way, moving = jax.random.split(key)
        flight = moves[jax.random.randint(way, (), 1, len(MOVES))] * jax.random.bernoulli(moving)
        state = Grid((state.hunters + moves[actions]) % SIZE, (state.prey + flight) % SIZE)
        caught = self.won(state)
        return state, caught.astype(jnp.float32), caught

    def observe(self, state: Grid) -> Float[Array, "K O"]:
        """Where the prey and the other hunters are, as seen by each."""
        others = [jnp.roll(state.hunters, -k, axis=0) for k in range(1, self.num_agents)]
        seen = [_way(state.hunters, state.prey), *(_way(state.hunters, other) for other in others)]
        return jnp.concatenate(seen, axis=1) / (SIZE // 2)

    def won(self, state: Grid) -> Bool[Array, ""]:
        """Whether the prey is surrounded."""
        return jnp.all(jnp.abs(_way(state.hunters, state.prey)).sum(axis=1) <= 1)


def _way(start: Int[Array, "K 2"], end: Array) -> Int[Array, "K 2"]:
    """The shortest way on a grid whose edges meet."""
    return (end - start + SIZE // 2) % SIZE - SIZE // 2
