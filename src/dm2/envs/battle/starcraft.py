"""StarCraft's combat, game loop by game loop: shields, armour, weapons that reach from surface to
surface, attack orders that chase, and an enemy that attack-moves.

Arrays are laid out as in `dm2.envs.battle.engine`: units first (allies before enemies), battles
last. Lengths are map units, times game loops of 1/16 s at StarCraft's normal speed.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from dm2.envs.battle.engine import separate, squared
from dm2.envs.battle.scenarios import StarCraftTypes

__all__ = ["LOOPS", "Arena", "Forces", "Orders", "Troops", "battle", "in_reach"]

LOOPS = 8
"""Game loops per environment step."""

_ACQUIRE = 5.0  # from a unit's surface: how near an ally must come to be noticed
_CALM = 160  # loops without a hit before shields regenerate
_REGENERATION = 2 / 16  # shield points per loop
_LEAST_DAMAGE = 0.5  # a hit on health does this much through any armour


class Troops(NamedTuple):
    """What changes during a battle, for every unit."""

    x: Float[Array, "U N"]
    y: Float[Array, "U N"]
    health: Float[Array, "U N"]
    shield: Float[Array, "U N"]
    cooldown: Float[Array, "U N"]
    """Loops until the weapon is ready, 0 when it is."""
    calm: Float[Array, "U N"]
    """Loops since the last hit taken."""
    target: Int[Array, "U N"]
    """Index of the unit attacked in the latest loop, -1 for none."""

    @property
    def alive(self) -> Bool[Array, "U N"]:
        """Dead units never return."""
        return self.health > 0


class Forces(NamedTuple):
    """The unit types' numbers for each unit, `[U, 1]`, and who is an ally."""

    num_allies: int
    health: Array
    shield: Array
    armour: Array
    armoured: Array
    damage: Array
    bonus: Array
    """Damage added against armoured units."""
    hits: Array
    """Blows of one attack; armour counts against each."""
    cooldown: Array
    speed: Array
    """Map units per loop."""
    attack_range: Array
    radius: Array

    @classmethod
    def of(cls, types: StarCraftTypes, kinds: np.ndarray, num_allies: int) -> "Forces":
        """Looks up `kinds`, one for each unit."""
        columns = (getattr(types, field)[kinds][:, None] for field in cls._fields[1:])
        return cls(num_allies, *(jnp.asarray(column) for column in columns))


class Arena(NamedTuple):
    """Where units can stand, and where the enemy attack-moves to."""

    width: float
    bottom: float
    top: float
    goal: tuple[float, float]


class Orders(NamedTuple):
    """What the allies do for one environment step; a dead ally's order is ignored."""

    east: Float[Array, "K N"]
    """-1, 0 or 1."""
    north: Float[Array, "K N"]
    target: Int[Array, "K N"]
    """Index of the unit to attack, walking up to it if need be; -1 for none."""


def battle(
    forces: Forces,
    arena: Arena,
    troops: Troops,
    orders: Orders,
    deviations: Float[Array, "T U N"],
) -> Troops:
    """One environment step, a game loop for each row of `deviations`, which are loops added to the
    cooldown of the shots fired in it.

    In a loop, enemies choose their targets, then everybody shoots or moves at the same time, then
    units are pushed apart and kept within the arena. Who has its target in reach stands.
    """
    north = jnp.concatenate([orders.north, jnp.zeros_like(troops.x[forces.num_allies :])])
    east = jnp.concatenate([orders.east, jnp.zeros_like(troops.x[forces.num_allies :])])
    moving = (north != 0) | (east != 0)
    foe = np.arange(len(troops.x))[:, None] >= forces.num_allies

    def loop(troops: Troops, deviation: Float[Array, "U N"]) -> tuple[Troops, None]:
        alive = troops.alive
        target = jnp.concatenate([orders.target, _acquire(forces, troops, orders.target)])
        goal_x, goal_y, goal_radius, engaged = _locate(forces, troops, target)
        march = foe & ~engaged
        to_x = jnp.where(march, arena.goal[0], goal_x) - troops.x
        to_y = jnp.where(march, arena.goal[1], goal_y) - troops.y
        distance = jnp.sqrt(squared(to_x, to_y))
        reach = forces.attack_range + forces.radius + goal_radius
        fired = alive & engaged & (distance <= reach) & (troops.cooldown <= 0)

        health, shield, hit = _damage(forces, troops, target, fired)
        # Whole strides into reach: stopping at its very edge, units nudged by others never shoot.
        walking = jnp.where(engaged, distance > reach, march)
        stride = jnp.where(walking, forces.speed / jnp.maximum(distance, forces.speed), 0.0)
        step_x = jnp.where(moving, east * forces.speed, to_x * stride)
        step_y = jnp.where(moving, north * forces.speed, to_y * stride)
        calm = jnp.where(hit, 0.0, troops.calm + 1)
        regained = jnp.where(calm > _CALM, _REGENERATION, 0.0)
        cooldown = jnp.where(fired, forces.cooldown + deviation, troops.cooldown - 1)
        x = troops.x + jnp.where(alive, step_x, 0.0)
        y = troops.y + jnp.where(alive, step_y, 0.0)
        x, y = _confine(forces, arena, *separate(x, y, forces.radius, health > 0))
        return Troops(
            x=x,
            y=y,
            health=health,
            shield=jnp.where(health > 0, jnp.minimum(shield + regained, forces.shield), 0.0),
            cooldown=jnp.maximum(cooldown, 0.0),
            calm=calm,
            target=jnp.where(engaged & alive, target, -1),
        ), None

    return jax.lax.scan(loop, troops, deviations)[0]


def in_reach(forces: Forces, troops: Troops) -> Bool[Array, "U N"]:
    """Whether a unit's target is within its weapon's reach."""
    x, y, radius, engaged = _locate(forces, troops, troops.target)
    reach = forces.attack_range + forces.radius + radius
    return engaged & (squared(x - troops.x, y - troops.y) <= reach**2)


def _confine(forces: Forces, arena: Arena, x: Array, y: Array) -> tuple[Array, Array]:
    """Positions `[U, N]` such that every unit's whole circle is within the arena."""
    radius = forces.radius
    x = jnp.clip(x, radius, arena.width - radius)
    return x, jnp.clip(y, arena.bottom + radius, arena.top - radius)


def _acquire(forces: Forces, troops: Troops, aims: Int[Array, "K N"]) -> Int[Array, "M N"]:
    """Whom each enemy attacks, -1 for nobody.

    Candidates are the living allies within 5 of its surface or within its weapon's reach, and
    those that have it within theirs and the order to shoot at it. It keeps its target while that
    is within reach or shoots at it, else takes the closest.
    """
    allies = forces.num_allies
    enemy = jnp.arange(allies, len(troops.x))[:, None]
    x, y, radius = troops.x[allies:], troops.y[allies:], forces.radius[allies:]
    before = troops.target[allies:]

    def visit(ally: Array, found: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        nearest, choice, kept = found
        row = functools.partial(jax.lax.dynamic_index_in_dim, index=ally)
        distance = jnp.sqrt(squared(x - row(troops.x), y - row(troops.y)))
        gap = distance - radius - row(forces.radius)
        living = row(troops.alive)
        shoots = (row(aims) == enemy) & (gap <= row(forces.attack_range))
        reachable = gap <= forces.attack_range[allies:]
        near = reachable | (distance - radius <= _ACQUIRE)
        kept |= (before == ally) & living & (reachable | shoots)
        closer = living & (near | shoots) & (distance < nearest)
        nearest = jnp.where(closer, distance, nearest)
        return nearest, jnp.where(closer, ally, choice), kept

    found = (jnp.full_like(x, jnp.inf), jnp.full(x.shape, -1), jnp.zeros(x.shape, bool))
    _, choice, kept = jax.lax.fori_loop(0, allies, visit, found)
    return jax.lax.select(kept, before, choice)


def _locate(
    forces: Forces, troops: Troops, target: Int[Array, "U N"]
) -> tuple[Array, Array, Array, Bool[Array, "U N"]]:
    """Every unit's target: where it is, its radius, and whether there is a living one."""
    alive = troops.alive

    def visit(other: Array, found: tuple[Array, Array, Array, Array]):
        row = functools.partial(jax.lax.dynamic_index_in_dim, index=other)
        here = (target == other) & row(alive)
        x, y, radius, engaged = found
        x, y = jnp.where(here, row(troops.x), x), jnp.where(here, row(troops.y), y)
        return x, y, jnp.where(here, row(forces.radius), radius), engaged | here

    zeros = jnp.zeros_like(troops.x)
    found = (zeros, zeros, zeros, jnp.zeros_like(alive))
    return jax.lax.fori_loop(0, len(target), visit, found)


def _damage(
    forces: Forces, troops: Troops, target: Int[Array, "U N"], fired: Bool[Array, "U N"]
) -> tuple[Array, Array, Bool[Array, "U N"]]:
    """Health and shields after the shots, which land one after another, and who was hit.

    A blow goes to the shield first; what is left of it, less the armour, goes to health.
    """
    unit = jnp.arange(len(target))[:, None]
    most_hits = 2

    def visit(shooter: Array, after: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        health, shield, hit = after
        row = functools.partial(jax.lax.dynamic_index_in_dim, index=shooter)
        struck = row(fired) & (row(target) == unit)
        for blow in range(most_hits):
            damage = row(forces.damage) + row(forces.bonus) * forces.armoured
            damage = jnp.where(struck & (row(forces.hits) > blow), damage, 0.0)
            left = damage - jnp.minimum(shield, damage)
            shield -= damage - left
            health -= jnp.where(left > 0, jnp.maximum(left - forces.armour, _LEAST_DAMAGE), 0.0)
        return health, shield, hit | struck

    after = (troops.health, troops.shield, jnp.zeros_like(fired))
    health, shield, hit = jax.lax.fori_loop(0, len(target), visit, after)
    return jnp.maximum(health, 0.0), shield, hit
