"""StarCraft's combat, tick by tick: shields, armour, weapons that reach from surface to surface and
attack orders that chase.

It is the engine of SMAC only; `dm2.envs.smax.combat` is that of SMAX. Time passes in ticks, which
StarCraft calls game loops. `fight` takes `Orders` of the allies only, because enemies choose their
targets in every tick; SMAX's takes the actions of all units, which it turns into the same numbers.

Arrays are laid out as `dm2.envs.smac.units` says.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from dm2.envs.geometry import separate, squared
from dm2.envs.smac.enemy import choose_targets
from dm2.envs.smac.scenarios import TEAM_POINTS
from dm2.envs.smac.units import Traits, Units

__all__ = ["Orders", "Rules", "fight", "in_reach"]

_CALM = 160  # ticks without a hit before shields regenerate
_REGENERATION = 2 / 16  # shield points per tick
_LEAST_DAMAGE = 0.5  # a hit on health does this much through any armour


class Rules(NamedTuple):
    """Rules are the map, the ticks and where the enemy marches.

    Scenarios share all but `bottom` and `top`, between which a corridor narrows the map.
    """

    width: float = 32.0
    """Of the map, map units."""
    height: float = 32.0
    ticks: int = 8
    """Ticks per environment step."""
    tick: float = 1 / 16
    """Seconds per tick, at StarCraft's normal speed."""
    bottom: float = 0.0
    """The southern edge of the ground that units can stand on."""
    top: float = 32.0
    """Its northern edge."""
    goal: tuple[float, float] = TEAM_POINTS[0]
    """Where enemies without a target walk: the point about which the allies started."""


class Orders(NamedTuple):
    """Orders are what the allies do for one environment step; a dead ally's order is ignored."""

    east: Float[Array, "K N"]
    """-1, 0 or 1."""
    north: Float[Array, "K N"]
    target: Int[Array, "K N"]
    """Index of the unit to attack, walking up to it if need be; -1 for none."""


def fight(
    rules: Rules,
    traits: Traits,
    units: Units,
    orders: Orders,
    deviations: Float[Array, "T U N"],
    num_allies: int,
) -> Units:
    """One environment step of every battle: `T` ticks under the same orders.

    In a tick, enemies choose their targets, then everybody shoots or moves at the same time, then
    units are pushed apart and kept within the map's edges. A unit that has its target in reach
    stands, and those that walk do not push it away. The second blow of an attack falls on the unit
    that the first one struck, wherever that is by then, unless the attacker has died.

    Args:
        rules: The map and the enemy's goal.
        traits: The units' numbers that do not change.
        units: The units before the step.
        orders: What each ally does.
        deviations: Ticks added to the cooldown of the shots fired in each tick.
        num_allies: How many of the units are allies.

    Returns:
        The units after the step.
    """
    north = jnp.concatenate([orders.north, jnp.zeros_like(units.x[num_allies:])])
    east = jnp.concatenate([orders.east, jnp.zeros_like(units.x[num_allies:])])
    moving = (north != 0) | (east != 0)
    foe = np.arange(len(units.x))[:, None] >= num_allies

    def tick(units: Units, deviation: Float[Array, "U N"]) -> tuple[Units, None]:
        alive = units.alive
        theirs = choose_targets(traits, units, orders.target, num_allies)
        target = jnp.concatenate([orders.target, theirs])
        goal_x, goal_y, goal_radius, engaged = _locate(traits, units, target)
        march = foe & ~engaged
        to_x = jnp.where(march, rules.goal[0], goal_x) - units.x
        to_y = jnp.where(march, rules.goal[1], goal_y) - units.y
        distance = jnp.sqrt(squared(to_x, to_y))
        reach = traits.attack_range + traits.radius + goal_radius
        stands = alive & engaged & (distance <= reach) & ~moving
        cooldown, second = (jnp.maximum(left - 1, 0.0) for left in (units.cooldown, units.second))
        fired = alive & engaged & (distance <= reach) & (cooldown <= 0)
        victim = jnp.where(fired, target, units.victim)
        strikes = fired | (alive & (units.second > 0) & (second <= 0))

        health, shield, hit = _damage(traits, units, victim, strikes)
        # Whole strides into reach: stopping at its very edge, units nudged by others never shoot.
        walking = jnp.where(engaged, distance > reach, march)
        stride = jnp.where(walking, traits.speed / jnp.maximum(distance, traits.speed), 0.0)
        step_x = jnp.where(moving, east * traits.speed, to_x * stride)
        step_y = jnp.where(moving, north * traits.speed, to_y * stride)
        calm = jnp.where(hit, 0.0, units.calm + 1)
        regained = jnp.where(calm > _CALM, _REGENERATION, 0.0)
        x = units.x + jnp.where(alive, step_x, 0.0)
        y = units.y + jnp.where(alive, step_y, 0.0)
        x, y = separate(x, y, traits.separation_radius, health > 0, stands)
        x, y = _confine(traits, rules, x, y)
        return Units(
            x=x,
            y=y,
            health=health,
            shield=jnp.where(health > 0, jnp.minimum(shield + regained, traits.shield), 0.0),
            cooldown=jnp.where(fired, traits.cooldown + deviation, cooldown),
            second=jnp.where(fired, traits.second, second),
            victim=victim,
            calm=calm,
            target=jnp.where(engaged & alive, target, -1),
        ), None

    return jax.lax.scan(tick, units, deviations)[0]


def in_reach(traits: Traits, units: Units) -> Bool[Array, "U N"]:
    """Whether a unit's target is within its weapon's reach."""
    x, y, radius, engaged = _locate(traits, units, units.target)
    reach = traits.attack_range + traits.radius + radius
    return engaged & (squared(x - units.x, y - units.y) <= reach**2)


def _confine(traits: Traits, rules: Rules, x: Array, y: Array) -> tuple[Array, Array]:
    """Positions `[U, N]` such that every unit's whole circle is within the map's edges."""
    radius = traits.separation_radius
    x = jnp.clip(x, radius, rules.width - radius)
    return x, jnp.clip(y, rules.bottom + radius, rules.top - radius)


def _locate(
    traits: Traits, units: Units, target: Int[Array, "U N"]
) -> tuple[Array, Array, Array, Bool[Array, "U N"]]:
    """Every unit's target: where it is, its radius, and whether there is a living one."""
    alive = units.alive

    def visit(other: Array, found: tuple[Array, Array, Array, Array]):
        row = functools.partial(jax.lax.dynamic_index_in_dim, index=other)
        here = (target == other) & row(alive)
        x, y, radius, engaged = found
        x, y = jnp.where(here, row(units.x), x), jnp.where(here, row(units.y), y)
        return x, y, jnp.where(here, row(traits.radius), radius), engaged | here

    zeros = jnp.zeros_like(units.x)
    found = (zeros, zeros, zeros, jnp.zeros_like(alive))
    return jax.lax.fori_loop(0, len(target), visit, found)


def _damage(
    traits: Traits, units: Units, victim: Int[Array, "U N"], strikes: Bool[Array, "U N"]
) -> tuple[Array, Array, Bool[Array, "U N"]]:
    """Health and shields after the blows, which land one after another, and who was hit.

    A blow goes to the shield first; what is left of it, less the armour, goes to health.
    """
    unit = jnp.arange(len(victim))[:, None]

    def visit(attacker: Array, after: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        health, shield, hit = after
        row = functools.partial(jax.lax.dynamic_index_in_dim, index=attacker)
        struck = row(strikes) & (row(victim) == unit)
        damage = row(traits.damage) + row(traits.bonus) * traits.armoured
        damage = jnp.where(struck, damage, 0.0)
        left = damage - jnp.minimum(shield, damage)
        shield -= damage - left
        health -= jnp.where(left > 0, jnp.maximum(left - traits.armour, _LEAST_DAMAGE), 0.0)
        return health, shield, hit | struck

    after = (units.health, units.shield, jnp.zeros_like(strikes))
    health, shield, hit = jax.lax.fori_loop(0, len(victim), visit, after)
    return jnp.maximum(health, 0.0), shield, hit
