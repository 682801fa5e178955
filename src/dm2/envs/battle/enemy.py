"""SMAX's scripted enemy (JaxMARL 0.2.0): attack the closest ally in range, or walk to one seen."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from dm2.envs.battle.engine import MOVES, Traits, Units, squared_distances

__all__ = ["Memory", "act", "first_memory"]


class Memory(NamedTuple):
    """What enemies remember; targets are numbered as their actions, from the last ally on."""

    target: Int[Array, "M N"]
    """The ally attacked last, -1 for none."""
    goal_x: Float[Array, "M N"]
    goal_y: Float[Array, "M N"]
    """Where to walk while no ally is in sight: opposite the start, through the map's centre."""


def first_memory(units: Units, num_allies: int, width: float, height: float) -> Memory:
    """At the start of a battle."""
    x, y = units.x[num_allies:], units.y[num_allies:]
    return Memory(jnp.full(x.shape, -1, jnp.int32), width - x, height - y)


def act(
    traits: Traits,
    units: Units,
    memory: Memory,
    draws: Float[Array, "M N"],
    num_allies: int,
) -> tuple[Int[Array, "M N"], Memory]:
    """The enemies' actions. `draws`, uniform in [0, 1), choose among the allies in sight."""
    # Allies in the order of the actions, along the first axis of [K, M, N].
    alive = units.alive
    distance = squared_distances(units, num_allies)[::-1]
    both = alive[:num_allies][::-1, None] & alive[None, num_allies:]
    seen = both & (distance < traits.sight[None, num_allies:] ** 2)
    near = both & (distance < traits.attack_range[None, num_allies:] ** 2)
    order = jnp.arange(num_allies)[:, None, None]

    closest = jnp.argmin(jnp.where(near, distance, jnp.inf), axis=0)
    kept = jnp.any(near & (order == memory.target), axis=0)
    attack = jnp.any(near, axis=0)
    target = jnp.where(kept, memory.target, jnp.where(attack, closest, -1))

    # The ally where the count of those seen reaches (1 - draw) of all.
    count = jnp.cumsum(seen, axis=0)
    total = count[-1]
    chosen = seen & (count == jnp.ceil((1 - draws) * total).astype(count.dtype))
    any_seen = total > 0

    def towards(ally: Float[Array, "K N"], goal: Float[Array, "M N"]) -> Float[Array, "M N"]:
        spotted = jnp.sum(jnp.where(chosen, ally[::-1, None], 0.0), axis=0)
        return jnp.where(any_seen, spotted, goal)

    dx = towards(units.x[:num_allies], memory.goal_x) - units.x[num_allies:]
    dy = towards(units.y[:num_allies], memory.goal_y) - units.y[num_allies:]
    move = jnp.argmax(jnp.stack([dy, dx, -dy, -dx]), axis=0)
    actions = jnp.where(attack, target + MOVES, move).astype(jnp.int32)
    return actions, memory._replace(target=target.astype(jnp.int32))
