"""Unit types and scenarios of SMAX (JaxMARL 0.2.0), with the numbers of its source, and how a
battle starts.

Starting positions are arrays of units (allies first) by battles.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt32

__all__ = [
    "SCENARIOS",
    "UNIT_TYPES",
    "Scenario",
    "UnitTypes",
    "draw_kinds",
    "face",
    "surround_or_reflect",
]

MARINE, MARAUDER, STALKER, ZEALOT, ZERGLING, HYDRALISK = range(6)
"""Indices into `UNIT_TYPES`."""

_DEFAULT_LIMIT = 100  # environment steps; JaxMARL's
_SPREAD = 2.0  # map units that a start may be off its team's point, along either axis


class UnitTypes(NamedTuple):
    """Unit types are described by these numbers, one entry per type.

    Lengths are map units, times seconds.
    """

    names: tuple[str, ...]
    speed: np.ndarray
    """Map units per second."""
    damage: np.ndarray
    """Health that one attack takes."""
    attack_range: np.ndarray
    """From centre to centre."""
    sight: np.ndarray
    """From centre to centre."""
    radius: np.ndarray
    health: np.ndarray
    """Full health."""
    cooldown: np.ndarray
    """Between two attacks."""


def _numbers(*values: int | float) -> np.ndarray:
    return np.array(values, np.float32)


UNIT_TYPES = UnitTypes(
    names=("marine", "marauder", "stalker", "zealot", "zergling", "hydralisk"),
    speed=_numbers(3.15, 2.25, 4.13, 3.15, 4.13, 3.15),
    damage=_numbers(9, 10, 13, 8, 5, 12),
    attack_range=_numbers(5, 6, 6, 2, 2, 5),
    sight=_numbers(9, 10, 10, 9, 8, 9),
    radius=_numbers(0.375, 0.5625, 0.625, 0.5, 0.375, 0.625),
    health=_numbers(45, 125, 160, 150, 35, 80),
    cooldown=_numbers(0.61, 1.07, 1.87, 0.86, 0.5, 0.59),
)


class Scenario(NamedTuple):
    """A scenario says who fights whom, and for how long."""

    allies: tuple[int, ...]
    """Unit types, indices into `UNIT_TYPES`."""
    enemies: tuple[int, ...]
    limit: int
    """Episode limit, environment steps."""
    random: bool = False
    """Unit types and starting positions are drawn for each battle, as in SMACv2."""


def _mixed(stalkers: int, zealots: int) -> tuple[int, ...]:
    return (STALKER,) * stalkers + (ZEALOT,) * zealots


def _marines(count: int) -> tuple[int, ...]:
    return (MARINE,) * count


SCENARIOS: dict[str, Scenario] = {
    # The paper's five tasks, with SMAC's episode limits.
    "5m_vs_6m": Scenario(_marines(5), _marines(6), 70),
    "8m_vs_9m": Scenario(_marines(8), _marines(9), 120),
    "3s_vs_3z": Scenario(_mixed(3, 0), _mixed(0, 3), 150),
    "3s_vs_4z": Scenario(_mixed(3, 0), _mixed(0, 4), 200),
    "3s_vs_5z": Scenario(_mixed(3, 0), _mixed(0, 5), 250),
    # JaxMARL's other scenarios, with its limit.
    "3m": Scenario(_marines(3), _marines(3), _DEFAULT_LIMIT),
    "8m": Scenario(_marines(8), _marines(8), _DEFAULT_LIMIT),
    "25m": Scenario(_marines(25), _marines(25), _DEFAULT_LIMIT),
    "10m_vs_11m": Scenario(_marines(10), _marines(11), _DEFAULT_LIMIT),
    "27m_vs_30m": Scenario(_marines(27), _marines(30), _DEFAULT_LIMIT),
    "2s3z": Scenario(_mixed(2, 3), _mixed(2, 3), _DEFAULT_LIMIT),
    "3s5z": Scenario(_mixed(3, 5), _mixed(3, 5), _DEFAULT_LIMIT),
    "3s5z_vs_3s6z": Scenario(_mixed(3, 5), _mixed(3, 6), _DEFAULT_LIMIT),
    "6h_vs_8z": Scenario((HYDRALISK,) * 6, _mixed(0, 8), _DEFAULT_LIMIT),
    "smacv2_5_units": Scenario(_marines(5), _marines(5), _DEFAULT_LIMIT, random=True),
    "smacv2_10_units": Scenario(_marines(10), _marines(10), _DEFAULT_LIMIT, random=True),
    "smacv2_20_units": Scenario(_marines(20), _marines(20), _DEFAULT_LIMIT, random=True),
}


def face(
    key: UInt32[Array, "2"],
    scenario: Scenario,
    map_size: tuple[float, float],
    num_envs: int,
) -> tuple[Float[Array, "U N"], Float[Array, "U N"]]:
    """Starting positions of teams that face each other: allies about a point on the map's left,
    enemies about a point on its right.

    Returns:
        The units' x and y.
    """
    (width, height), num_allies = map_size, len(scenario.allies)
    count = num_allies + len(scenario.enemies)
    noise = jax.random.uniform(key, (2, count, num_envs), minval=-_SPREAD, maxval=_SPREAD)
    left = np.arange(count)[:, None] < num_allies
    return noise[0] + np.where(left, width / 4, 3 * width / 4), noise[1] + height / 2


def surround_or_reflect(
    key: UInt32[Array, "2"],
    scenario: Scenario,
    map_size: tuple[float, float],
    num_envs: int,
) -> tuple[Float[Array, "U N"], Float[Array, "U N"]]:
    """Starting positions of SMACv2, which are of two sorts, each with probability 1/2.

    Either one team, of either side, is in the centre and the other in groups on the diagonals; or
    the allies are anywhere on the left and the enemies mirror them.

    Returns:
        The units' x and y.
    """
    num_allies, num_enemies = len(scenario.allies), len(scenario.enemies)
    size, count = jnp.array(map_size)[:, None, None], num_allies + num_enemies
    keys = jax.random.split(key, 6)
    spread = jax.random.uniform(keys[0], (2, count, num_envs), minval=-_SPREAD, maxval=_SPREAD)
    group = jax.random.randint(keys[1], (count, num_envs), 0, 4)
    inward = jax.random.uniform(keys[2], (4, 1, num_envs))
    inward = sum(jnp.where(group == g, inward[g], 0.0) for g in range(4))
    corner = jnp.stack([group >= 2, group % 2 == 1]) * size
    outside = inward * size / 2 + (1 - inward) * corner
    ally = np.arange(count)[:, None] < num_allies
    inside = ally == jax.random.bernoulli(keys[3], shape=(num_envs,))
    surround = jnp.where(inside, size / 2, outside) + spread

    anywhere = jax.random.uniform(keys[4], (2, count, num_envs)) * size
    left = anywhere[:, :num_allies] * jnp.array([0.5, 1.0])[:, None, None]
    right = anywhere[:, num_allies:] * jnp.array([0.5, 1.0])[:, None, None]
    mirrored = min(num_allies, num_enemies)
    right = jnp.concatenate([left[:, :mirrored], right[:, mirrored:]], axis=1)
    right = jnp.stack([map_size[0] - right[0], right[1]])
    reflect = jnp.concatenate([left, right], axis=1)
    x, y = jnp.where(jax.random.bernoulli(keys[5], shape=(num_envs,)), surround, reflect)
    return x, y


def draw_kinds(key: UInt32[Array, "2"], scenario: Scenario, num_envs: int) -> Int[Array, "U N"]:
    """Unit types drawn uniformly, the same for both teams.

    Enemies beyond the allies' number are marines, as in SMAX.
    """
    num_allies, num_enemies = len(scenario.allies), len(scenario.enemies)
    allies = jax.random.randint(key, (num_allies, num_envs), 0, len(UNIT_TYPES.names))
    extra = max(num_enemies - num_allies, 0)
    rest = jnp.full((extra, num_envs), MARINE, allies.dtype)
    return jnp.concatenate([allies, allies[:num_enemies], rest])
