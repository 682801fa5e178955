"""Geometry of pairs of units, which both rule sets share.

Arrays lead with the unit axis `U` (allies first) and end with the battle axis `N`.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

__all__ = ["of_others", "separate", "squared"]

_FAR = 1e9  # map units; larger than any distance between two units


def squared(dx: Float[Array, "..."], dy: Float[Array, "..."]) -> Float[Array, "..."]:
    """The squared length of the vectors `(dx, dy)`."""
    return dx * dx + dy * dy


def of_others(pairs: Float[Array, "K M F N"]) -> Float[Array, "K R N"]:
    """Each ally's features of every unit but itself, in one row.

    Args:
        pairs: `F` features that each of `K` allies perceives of each of `M` units, of which the
            first `K` are the allies themselves.

    Returns:
        Rows of `R = (M - 1) F` numbers, unit by unit.
    """
    allies, num_envs = len(pairs), pairs.shape[-1]
    rows = [jnp.concatenate([pairs[k, :k], pairs[k, k + 1 :]]) for k in range(allies)]
    return jnp.stack(rows).reshape(allies, -1, num_envs)


def separate(
    x: Float[Array, "U N"],
    y: Float[Array, "U N"],
    radius: Float[Array, "U _"],
    alive: Bool[Array, "U N"],
    firm: Bool[Array, "U N"] | None = None,
) -> tuple[Float[Array, "U N"], Float[Array, "U N"]]:
    """Positions after overlapping living units have been pushed apart, each by half the overlap.

    Pushes of several neighbours add up and may lead over the map's edge.

    Args:
        x: The units' positions, map units.
        y: The same.
        radius: How much room each unit takes, map units.
        alive: Whether each unit is alive.
        firm: The units that give way to firm units only: of an overlap between one of them and
            another, the other takes the whole. By default no unit is firm.

    Returns:
        The units' x and y.
    """
    # A dead unit's radius keeps its pairs from ever overlapping.
    radius = jnp.where(alive, radius, -_FAR)
    hold = None if firm is None else firm.astype(jnp.float32)

    # Pairs are visited in a loop over one of the two units: each turn is a single pass over [U, N]
    # in vector instructions. Tables of all pairs, [U, U, N], were up to six times slower on a CPU.
    def visit(other: Array, sums: tuple[Array, Array]) -> tuple[Array, Array]:
        row = functools.partial(jax.lax.dynamic_index_in_dim, index=other)
        # A unit does not push itself: its differences are 0.
        dx, dy = x - row(x), y - row(y)
        distance = jnp.sqrt(squared(dx, dy)) + 1e-6
        push = jnp.maximum((radius + row(radius)) / distance - 1, 0.0) / 2
        if hold is not None:
            push *= 1 + row(hold) - hold
        return sums[0] + dx * push, sums[1] + dy * push

    zeros = jnp.zeros_like(x)
    push_x, push_y = jax.lax.fori_loop(0, len(x), visit, (zeros, zeros))
    return x + push_x, y + push_y
