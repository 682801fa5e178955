"""SMAC's scripted enemy, which attack-moves: whom it attacks.

Enemies choose anew in every tick, inside `fight`, because StarCraft's do; SMAX's act once per
environment step, which is why `dm2.envs.smax.enemy` has `act` and a memory instead. Where an enemy
without a target walks is part of `fight`, beside the walking of the allies.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from dm2.envs.geometry import squared
from dm2.envs.smac.units import Traits, Units

__all__ = ["choose_targets"]

_ACQUIRE = 5.0  # map units from an enemy's surface: how near an ally must come to be noticed


def choose_targets(
    traits: Traits, units: Units, aims: Int[Array, "K N"], num_allies: int
) -> Int[Array, "M N"]:
    """Chooses the ally that each enemy attacks in this tick.

    Candidates are the living allies within 5 of its surface or within its weapon's reach, and
    those that have it within theirs and the order to shoot at it. It keeps its target while that
    is within reach or shoots at it, else takes the closest.

    Args:
        traits: The units' numbers that do not change.
        units: The units at the start of the tick.
        aims: Index of the unit that each ally has the order to attack, -1 for none.
        num_allies: How many of the units are allies.

    Returns:
        Each enemy's target, an index of a unit, -1 for nobody.
    """
    enemy = jnp.arange(num_allies, len(units.x))[:, None]
    x, y, radius = units.x[num_allies:], units.y[num_allies:], traits.radius[num_allies:]
    before = units.target[num_allies:]

    # Allies are visited in a loop, for the reason that `separate` has.
    def visit(ally: Array, found: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        nearest, choice, kept = found
        row = functools.partial(jax.lax.dynamic_index_in_dim, index=ally)
        distance = jnp.sqrt(squared(x - row(units.x), y - row(units.y)))
        gap = distance - radius - row(traits.radius)
        living = row(units.alive)
        shoots = (row(aims) == enemy) & (gap <= row(traits.attack_range))
        reachable = gap <= traits.attack_range[num_allies:]
        near = reachable | (distance - radius <= _ACQUIRE)
        kept |= (before == ally) & living & (reachable | shoots)
        closer = living & (near | shoots) & (distance < nearest)
        nearest = jnp.where(closer, distance, nearest)
        return nearest, jnp.where(closer, ally, choice), kept

    found = (jnp.full_like(x, jnp.inf), jnp.full(x.shape, -1), jnp.zeros(x.shape, bool))
    _, choice, kept = jax.lax.fori_loop(0, num_allies, visit, found)
    return jax.lax.select(kept, before, choice)
