"""The battle: movement, attacks, cooldowns, walls and collisions of many battles side by side.

Layout: arrays lead with the unit axis `U` (allies first) and end with the battle axis `N`, so that
every operation runs over contiguous battles. Coordinates are separate arrays, pairs are compared
by broadcasting, and nothing is gathered or scattered: a target is a one-hot row.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from dm2.envs.battle.scenarios import UnitTypes

__all__ = [
    "MOVES",
    "STOP",
    "Rules",
    "Traits",
    "Units",
    "directions",
    "fight",
    "of_others",
    "separate",
    "squared",
    "squared_distances",
    "targets",
]

STOP, MOVES = 4, 5
"""Actions 0 to 3 move north, east, south, west; 4 stops; 5 and up attack."""

_FAR = 1e9  # map units; away from everything


class Units(NamedTuple):
    """What changes during a battle, for every unit."""

    x: Float[Array, "U N"]
    """Map units from the left edge."""
    y: Float[Array, "U N"]
    """Map units from the lower edge."""
    health: Float[Array, "U N"]
    """In the unit types' own points; a unit lives while it is above 0."""
    cooldown: Float[Array, "U N"]
    """Seconds until the weapon is ready; goes on falling below 0."""

    @property
    def alive(self) -> Bool[Array, "U N"]:
        """Dead units never return."""
        return self.health > 0


class Traits(NamedTuple):
    """The unit types' numbers per unit: `[U, 1]`, constants, or `[U, N]` where types are drawn."""

    speed: Array
    damage: Array
    attack_range: Array
    sight: Array
    radius: Array
    health: Array
    cooldown: Array
    kind: Array
    """Type index."""

    @classmethod
    def of(cls, types: UnitTypes, kinds: Int[Array, "U N"] | np.ndarray) -> "Traits":
        """Looks up `kinds`; fixed ones, a NumPy array `[U]`, become constants of the program."""

        def look_up(column: np.ndarray) -> Array:
            if isinstance(kinds, np.ndarray):
                return jnp.asarray(column[kinds])[:, None]
            values = jnp.zeros(kinds.shape)
            for kind, value in enumerate(column):
                values = jnp.where(kinds == kind, value, values)
            return values

        found = {field: look_up(getattr(types, field)) for field in cls._fields[:-1]}
        if isinstance(kinds, np.ndarray):
            return cls(**found, kind=jnp.asarray(kinds)[:, None])
        # Looked up once, not once for each pair of units.
        return jax.lax.optimization_barrier(cls(**found, kind=kinds))


class Rules(NamedTuple):
    """What the scenarios of a rule set share."""

    width: float = 32.0
    height: float = 32.0
    ticks: int = 8
    """World steps per environment step."""
    tick: float = 1 / 16
    """Seconds per world step."""
    lethal_walls: bool = False


def squared(dx: Array, dy: Array) -> Array:
    """Squared length."""
    return dx * dx + dy * dy


def of_others(pairs: Float[Array, "K M F N"]) -> Float[Array, "K R N"]:
    """What every ally perceives of each unit but itself, in one row; allies are the first units."""
    allies, num_envs = len(pairs), pairs.shape[-1]
    rows = [jnp.concatenate([pairs[k, :k], pairs[k, k + 1 :]]) for k in range(allies)]
    return jnp.stack(rows).reshape(allies, -1, num_envs)


def squared_distances(units: Units, num_allies: int) -> Float[Array, "K M N"]:
    """From every ally to every enemy, centre to centre."""
    x, y = units.x, units.y
    dx, dy = x[num_allies:] - x[:num_allies, None], y[num_allies:] - y[:num_allies, None]
    return squared(dx, dy)


def directions(actions: Int[Array, "U N"]) -> tuple[Float[Array, "U N"], Float[Array, "U N"]]:
    """Where units move, to the east and to the north: -1, 0 or 1."""
    east = (actions == 1).astype(jnp.float32) - (actions == 3)
    north = (actions == 0).astype(jnp.float32) - (actions == 2)
    return east, north


def targets(actions: Int[Array, "U N"], num_allies: int) -> Int[Array, "U N"]:
    """Index of the unit that each attacks, -1 for none.

    Action `MOVES + j` attacks the `j`-th enemy for an ally, the `j`-th ally from the last for an
    enemy.
    """
    aim = actions - MOVES
    ally = jnp.arange(len(actions))[:, None] < num_allies
    return jnp.where(aim < 0, -1, jnp.where(ally, aim + num_allies, num_allies - 1 - aim))


def fight(
    rules: Rules,
    traits: Traits,
    units: Units,
    actions: Int[Array, "U N"],
    deviations: Float[Array, "T U N"],
    num_allies: int,
) -> Units:
    """One environment step: `rules.ticks` world steps under the same orders.

    `deviations`, seconds, are added to the cooldown of the attacks made in a world step.
    Attacks are simultaneous, count if the target is within range at the start of the world step,
    and follow the order of JaxMARL's SMAX: move and shoot, then walls, then collisions.
    """
    target = targets(actions, num_allies)
    east, north = (part * traits.speed * rules.tick for part in directions(actions))

    def tick(units: Units, deviation: Float[Array, "U N"]) -> tuple[Units, None]:
        x, y, alive = units.x, units.y, units.alive
        damage, fired = _attack(traits, units, target)
        cooldown = jnp.where(fired, traits.cooldown + deviation, units.cooldown - rules.tick)
        health = jnp.maximum(units.health - damage, 0.0)
        x = jnp.where(alive, jnp.clip(x + east, 0.0, rules.width), x)
        y = jnp.where(alive, jnp.clip(y + north, 0.0, rules.height), y)
        if rules.lethal_walls:
            outside = (x <= 0) | (x >= rules.width) | (y <= 0) | (y >= rules.height)
            health = jnp.where(outside, 0.0, health)
        x, y = separate(x, y, traits.radius, health > 0)
        return Units(x, y, health, cooldown), None

    return jax.lax.scan(tick, units, deviations)[0]


# Pairs of units are visited in a loop over one of the two: each turn is a single pass over [U, N]
# in vector instructions. Tables of all pairs, [U, U, N], were up to six times slower on a CPU.


def _attack(
    traits: Traits, units: Units, target: Int[Array, "U N"]
) -> tuple[Float[Array, "U N"], Bool[Array, "U N"]]:
    """Health that every unit loses, and who fired."""
    unit = jnp.arange(len(target))[:, None]
    x, y = jnp.where(units.alive, units.x, _FAR), units.y
    ready = units.alive & (units.cooldown <= 0)
    reach = jnp.where(ready, traits.attack_range**2, -1.0)
    strength = jnp.broadcast_to(traits.damage, x.shape)

    def visit(other: Array, sums: tuple[Array, Array]) -> tuple[Array, Array]:
        damage, fired = sums
        row = functools.partial(jax.lax.dynamic_index_in_dim, index=other)
        distance = squared(x - row(x), y - row(y))
        hit = (row(target) == unit) & (distance < row(reach))
        damage += jnp.where(hit, row(strength), 0.0)
        fired += jnp.where((target == other) & (distance < reach), 1.0, 0.0)
        return damage, fired

    zeros = jnp.zeros_like(x)
    damage, fired = jax.lax.fori_loop(0, len(x), visit, (zeros, zeros))
    return damage, fired > 0


def separate(x: Array, y: Array, radius: Array, alive: Array) -> tuple[Array, Array]:
    """Positions `[U, N]` after overlapping living units have been pushed apart, each by half of
    their overlap.

    Pushes of several neighbours add up and may lead over the map's edge.
    """
    # A dead unit's radius keeps its pairs from ever overlapping.
    radius = jnp.where(alive, radius, -_FAR)

    def visit(other: Array, sums: tuple[Array, Array]) -> tuple[Array, Array]:
        row = functools.partial(jax.lax.dynamic_index_in_dim, index=other)
        # A unit does not push itself: its differences are 0.
        dx, dy = x - row(x), y - row(y)
        distance = jnp.sqrt(squared(dx, dy)) + 1e-6
        push = jnp.maximum((radius + row(radius)) / distance - 1, 0.0) / 2
        return sums[0] + dx * push, sums[1] + dy * push

    zeros = jnp.zeros_like(x)
    push_x, push_y = jax.lax.fori_loop(0, len(x), visit, (zeros, zeros))
    return x + push_x, y + push_y
