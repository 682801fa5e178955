"""StarCraft's unit types, SMAC's scenarios of them, and how a battle starts."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt32

__all__ = [
    "SCENARIOS",
    "STARTS",
    "TEAM_POINTS",
    "UNIT_TYPES",
    "Scenario",
    "Starts",
    "UnitTypes",
    "place",
]

MARINE, STALKER, ZEALOT = range(3)
"""Indices into `UNIT_TYPES`."""

TEAM_POINTS = ((9.0, 16.0), (23.0, 16.0))
"""The points about which the allies and the enemies start."""

_SPACING = 1.5  # map units between the units of a team at the start
_WIDEST = 1.65  # the most of it where it is drawn; the least is where the units touch
_JITTER = 0.3  # map units that a unit's start may be off its place in the block, along either axis


class UnitTypes(NamedTuple):
    """Unit types are described by StarCraft's numbers, one entry per type.

    Lengths are map units, times ticks, which are StarCraft's game loops.
    """

    names: tuple[str, ...]
    health: np.ndarray
    """Full health."""
    shield: np.ndarray
    """Full shield."""
    armour: np.ndarray
    """Taken off each blow on health."""
    armoured: np.ndarray
    """1 for armoured units, which some weapons hurt more."""
    damage: np.ndarray
    """Of one blow."""
    bonus: np.ndarray
    """Added against armoured units."""
    second: np.ndarray
    """From an attack's first blow to its second, 0 for weapons that strike once."""
    cooldown: np.ndarray
    """Between two attacks."""
    speed: np.ndarray
    """Map units per tick."""
    attack_range: np.ndarray
    """From surface to surface."""
    radius: np.ndarray
    """Where the surface is that weapons reach from and to."""
    separation_radius: np.ndarray
    """How near other units and the map's edges can come."""
    shown_cooldown: np.ndarray
    """What SMAC divides a cooldown by in its state."""


def _numbers(*values: int | float) -> np.ndarray:
    return np.array(values, np.float32)


_VOID = UnitTypes(
    names=("marine", "stalker", "zealot"),
    health=_numbers(45, 80, 100),
    shield=_numbers(0, 80, 50),
    armour=_numbers(0, 1, 1),
    armoured=_numbers(0, 1, 0),
    damage=_numbers(6, 13, 8),
    bonus=_numbers(0, 5, 0),
    second=_numbers(0, 0, 4.48),
    cooldown=_numbers(13.7, 30, 19.3),
    speed=_numbers(0.1406, 0.1846, 0.1406),
    attack_range=_numbers(5, 6, 0.1),
    radius=_numbers(0.375, 0.625, 0.5),
    separation_radius=_numbers(0.375, 0.625, 0.375),
    shown_cooldown=_numbers(15, 35, 22),
)
UNIT_TYPES = {
    "void": _VOID,
    "liberty": _VOID._replace(
        damage=_numbers(6, 10, 8), bonus=_numbers(0, 4, 0), cooldown=_numbers(13.7, 23, 19.3)
    ),
}
"""StarCraft's numbers by the game they are of: `void`, its last expansion, and `liberty`, the first
game. Only the stalker's weapon differs."""


class Scenario(NamedTuple):
    """A scenario says who fights whom, where, and for how long."""

    allies: tuple[int, ...]
    """Unit types, indices into `UNIT_TYPES`."""
    enemies: tuple[int, ...]
    limit: int
    """Episode limit, environment steps."""

    @property
    def corridor(self) -> bool:
        """Whether the battle is between two cliffs: only teams of stalkers fight in the open."""
        return set(self.allies) != {STALKER}


def _mixed(stalkers: int, zealots: int) -> tuple[int, ...]:
    return (STALKER,) * stalkers + (ZEALOT,) * zealots


def _marines(count: int) -> tuple[int, ...]:
    return (MARINE,) * count


SCENARIOS: dict[str, Scenario] = {
    # The paper's five tasks.
    "5m_vs_6m": Scenario(_marines(5), _marines(6), 70),
    "8m_vs_9m": Scenario(_marines(8), _marines(9), 120),
    "3s_vs_3z": Scenario(_mixed(3, 0), _mixed(0, 3), 150),
    "3s_vs_4z": Scenario(_mixed(3, 0), _mixed(0, 4), 200),
    "3s_vs_5z": Scenario(_mixed(3, 0), _mixed(0, 5), 250),
    # SMAC's others of the same units.
    "3m": Scenario(_marines(3), _marines(3), 60),
    "8m": Scenario(_marines(8), _marines(8), 120),
    "10m_vs_11m": Scenario(_marines(10), _marines(11), 150),
    "27m_vs_30m": Scenario(_marines(27), _marines(30), 180),
    "2s3z": Scenario(_mixed(2, 3), _mixed(2, 3), 120),
    "3s5z": Scenario(_mixed(3, 5), _mixed(3, 5), 150),
}


class Starts(NamedTuple):
    """Starts say what is drawn for each battle of where its units start."""

    order: bool = False
    """Which enemy stands where in the enemies' block."""
    spacing: bool = False
    """Each team's spacing: uniform from where its largest units touch to 1.65."""
    jitter: bool = False
    """Each unit's distance from its place in the block: uniform to 0.3 along either axis."""


STARTS = {
    "fixed": Starts(),
    "order": Starts(order=True),
    "spacing": Starts(spacing=True),
    "jitter": Starts(jitter=True),
    "varied": Starts(order=True, spacing=True, jitter=True),
}
"""Starts by name: nothing is drawn, one thing alone, everything."""


def place(
    key: UInt32[Array, "2"], scenario: Scenario, types: UnitTypes, starts: Starts, num_envs: int
) -> tuple[Float[Array, "U N"], Float[Array, "U N"]]:
    """Where the units start: each team as a block about its point.

    Args:
        key: The source of what is drawn.
        scenario: Who fights whom.
        types: The unit types' numbers.
        starts: What is drawn.
        num_envs: The number of battles.

    Returns:
        The units' x and y, allies first.
    """
    order_key, spacing_key, jitter_key = jax.random.split(key, 3)
    sides = (scenario.allies, scenario.enemies)
    spacing = jnp.full((2, num_envs), _SPACING)
    if starts.spacing:
        touching = np.stack([2 * types.separation_radius[list(side)].max() for side in sides])
        shape = spacing.shape
        spacing = jax.random.uniform(spacing_key, shape, minval=touching[:, None], maxval=_WIDEST)
    ours, theirs = (
        np.array(TEAM_POINTS[side])[:, None, None] + _block(len(kinds), side) * spacing[side]
        for side, kinds in enumerate(sides)
    )
    if starts.order:
        order = jnp.argsort(jax.random.uniform(order_key, theirs.shape[1:]), axis=0)
        theirs = jnp.take_along_axis(theirs, order[None], axis=1)
    places = jnp.concatenate([ours, theirs], axis=1)
    if starts.jitter:
        places += jax.random.uniform(jitter_key, places.shape, minval=-_JITTER, maxval=_JITTER)
    return places[0], places[1]


def _block(count: int, side: int) -> Float[np.ndarray, "2 M 1"]:
    """The x and y of a team of `count` about its point, column by column from its rear, in units of
    the spacing; `side` is 0 for the allies, 1 for the enemies."""
    rows = math.ceil(math.sqrt(count))
    column, row = np.divmod(np.arange(count), rows)
    block = np.stack([column, row]).astype(np.float32)
    block -= (block.max(axis=1, keepdims=True) + block.min(axis=1, keepdims=True)) / 2
    return (block * [[1 if side == 0 else -1], [1]])[..., None]
