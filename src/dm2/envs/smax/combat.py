"""SMAX's combat: movement, attacks, cooldowns, walls and collisions, by the rules of JaxMARL 0.2.0.

It is the engine of SMAX only; `dm2.envs.smac.combat` is that of SMAC. Time passes in ticks, which
JaxMARL calls world steps. `fight` takes actions, not `Orders` as SMAC's does: SMAX's enemies act
like the allies, once per environment step, so that the actions say what every unit does.

Arrays are laid out as `dm2.envs.smax.units` says. Pairs of units are compared by broadcasting, and
nothing is gathered or scattered: a target is a one-hot row.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from dm2.envs.geometry import separate, squared
from dm2.envs.smax.units import Traits, Units

__all__ = [
    "ATTACK",
    "PLAIN_ACTIONS",
    "STOP",
    "Rules",
    "directions",
    "fight",
    "squared_distances",
    "targets",
]

STOP, ATTACK = 4, 5
"""Actions 0 to 3 move north, east, south, west; 4 stops; 5 and up attack."""
PLAIN_ACTIONS = ("move north", "move east", "move south", "move west", "stop")
"""What the actions before `ATTACK` are called."""

_FAR = 1e9  # map units; beyond the range of every weapon


class Rules(NamedTuple):
    """Rules are what all scenarios share: the map, the ticks and what walls do."""

    width: float = 32.0
    """Of the map, map units."""
    height: float = 32.0
    ticks: int = 8
    """Ticks per environment step."""
    tick: float = 1 / 16
    """Seconds per tick."""
    lethal_walls: bool = False
    """Whether a unit on the map's edge dies."""


def squared_distances(units: Units, num_allies: int) -> Float[Array, "K M N"]:
    """Squared distance from every ally to every enemy, centre to centre."""
    x, y = units.x, units.y
    dx, dy = x[num_allies:] - x[:num_allies, None], y[num_allies:] - y[:num_allies, None]
    return squared(dx, dy)


def directions(actions: Int[Array, "U N"]) -> tuple[Float[Array, "U N"], Float[Array, "U N"]]:
    """Where units move, to the east and to the north: -1, 0 or 1."""
    east = (actions == 1).astype(jnp.float32) - (actions == 3)
    north = (actions == 0).astype(jnp.float32) - (actions == 2)
    return east, north


def targets(actions: Int[Array, "U N"], num_allies: int) -> Int[Array, "U N"]:
    """Index of the unit that each unit attacks, -1 for none.

    Action `ATTACK + j` attacks the `j`-th enemy for an ally, the `j`-th ally from the last for an
    enemy.
    """
    aim = actions - ATTACK
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
    """One environment step of every battle: `T` ticks under the same actions.

    In a tick, living units move and shoot at the same time, then what stands on the map's edge
    dies where walls are lethal, then overlapping units are pushed apart. This is the order of
    JaxMARL's SMAX. An attack counts if the target is within range at the start of the tick.

    Args:
        rules: The map and the length of a tick.
        traits: The units' numbers that do not change.
        units: The units before the step.
        actions: What each unit does, enemies included.
        deviations: Seconds added to the cooldown of the attacks made in each tick.
        num_allies: How many of the units are allies.

    Returns:
        The units after the step.
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


def _attack(
    traits: Traits, units: Units, target: Int[Array, "U N"]
) -> tuple[Float[Array, "U N"], Bool[Array, "U N"]]:
    """Health that every unit loses in one tick, and who fired.

    Pairs are visited in a loop over one of the two units, as in `separate` and for its reason.
    """
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
