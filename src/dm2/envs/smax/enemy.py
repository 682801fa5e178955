"""SMAX's scripted enemy (JaxMARL 0.2.0): attack the closest ally in range, else walk towards an
ally in sight."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from dm2.envs.smax.combat import ATTACK, squared_distances
from dm2.envs.smax.units import Traits, Units

__all__ = ["Memory", "act", "first_memory"]


class Memory(NamedTuple):
    """The memory is what each enemy keeps from one environment step to the next."""

    target: Int[Array, "M N"]
    """The ally attacked last, numbered as the enemies' actions are, from the last ally on; -1 for
    none."""
    goal_x: Float[Array, "M N"]
    """Where the enemy walks while no ally is in sight: opposite its start, through the map's
    centre."""
    goal_y: Float[Array, "M N"]


def first_memory(units: Units, num_allies: int, width: float, height: float) -> Memory:
    """The enemies' memory at the start of a battle on a map of `width` by `height`."""
    x, y = units.x[num_allies:], units.y[num_allies:]
    return Memory(jnp.full(x.shape, -1, jnp.int32), width - x, height - y)


def act(
    traits: Traits,
    units: Units,
    memory: Memory,
    draws: Float[Array, "M N"],
    num_allies: int,
) -> tuple[Int[Array, "M N"], Memory]:
    """Chooses the enemies' actions for one environment step.

    An enemy attacks the ally that it attacked last while that is in range, else the closest in
    range. With none in range it walks towards an ally in sight, drawn anew each step, else towards
    its goal.

    Args:
        traits: The units' numbers that do not change.
        units: The units now.
        memory: What the enemies remember.
        draws: Uniform in [0, 1); they choose among the allies in sight.
        num_allies: How many of the units are allies.

    Returns:
        The actions and the memory that follows.
    """
    # Allies in the order of the actions, along the first axis of [K, M, N].
    alive = units.alive
    distance = squared_distances(units, num_allies)[::-1]
    both = alive[:num_allies][::-1, None] & alive[None, num_allies:]
    visible = both & (distance < traits.sight[None, num_allies:] ** 2)
    near = both & (distance < traits.attack_range[None, num_allies:] ** 2)
    order = jnp.arange(num_allies)[:, None, None]

    closest = jnp.argmin(jnp.where(near, distance, jnp.inf), axis=0)
    kept = jnp.any(near & (order == memory.target), axis=0)
    attack = jnp.any(near, axis=0)
    target = jnp.where(kept, memory.target, jnp.where(attack, closest, -1))

    # The ally where the count of the visible ones reaches (1 - draw) of all that are visible.
    count = jnp.cumsum(visible, axis=0)
    total = count[-1]
    chosen = visible & (count == jnp.ceil((1 - draws) * total).astype(count.dtype))
    any_visible = total > 0

    def towards(ally: Float[Array, "K N"], goal: Float[Array, "M N"]) -> Float[Array, "M N"]:
        spotted = jnp.sum(jnp.where(chosen, ally[::-1, None], 0.0), axis=0)
        return jnp.where(any_visible, spotted, goal)

    dx = towards(units.x[:num_allies], memory.goal_x) - units.x[num_allies:]
    dy = towards(units.y[:num_allies], memory.goal_y) - units.y[num_allies:]
    move = jnp.argmax(jnp.stack([dy, dx, -dy, -dx]), axis=0)
    actions = jnp.where(attack, target + ATTACK, move).astype(jnp.int32)
    return actions, memory._replace(target=target.astype(jnp.int32))
