"""StarCraft's unit types, SMAC's scenarios of them, and where a battle starts."""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

__all__ = ["SCENARIOS", "STARTS", "UNIT_TYPES", "Scenario", "UnitTypes", "formation"]

MARINE, STALKER, ZEALOT = range(3)
"""Indices into `UNIT_TYPES`."""

STARTS = ((9.0, 16.0), (23.0, 16.0))
"""The points about which the allies and the enemies start."""

_SPACING = 1.5  # map units between the units of a team at the start


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
    hits: np.ndarray
    """Blows of one attack."""
    cooldown: np.ndarray
    """Between two attacks."""
    speed: np.ndarray
    """Map units per tick."""
    attack_range: np.ndarray
    """From surface to surface."""
    radius: np.ndarray
    shown_cooldown: np.ndarray
    """What SMAC divides a cooldown by in its state."""


def _numbers(*values: int | float) -> np.ndarray:
    return np.array(values, np.float32)


UNIT_TYPES = UnitTypes(
    names=("marine", "stalker", "zealot"),
    health=_numbers(45, 80, 100),
    shield=_numbers(0, 80, 50),
    armour=_numbers(0, 1, 1),
    armoured=_numbers(0, 1, 0),
    damage=_numbers(6, 13, 8),
    bonus=_numbers(0, 5, 0),
    hits=_numbers(1, 1, 2),
    cooldown=_numbers(13.7, 30, 19.3),
    speed=_numbers(0.1406, 0.1846, 0.1406),
    attack_range=_numbers(5, 6, 0.1),
    radius=_numbers(0.375, 0.625, 0.5),
    shown_cooldown=_numbers(15, 35, 22),
)


class Scenario(NamedTuple):
    """A scenario says who fights whom, where, and for how long."""

    allies: tuple[int, ...]
    """Unit types, indices into `UNIT_TYPES`."""
    enemies: tuple[int, ...]
    limit: int
    """Episode limit, environment steps."""

    @property
    def corridor(self) -> bool:
        """Whether the battle is between two cliffs: marines fight there, all others in the open."""
        return set(self.allies + self.enemies) == {MARINE}


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


def formation(count: int, side: int) -> Float[np.ndarray, "M 2"]:
    """Where the `count` units of a team start: a block about the team's point, column by column
    from its rear.

    Args:
        count: The number of the team's units.
        side: 0 for the allies, 1 for the enemies.

    Returns:
        Each unit's x and y.
    """
    rows = math.ceil(math.sqrt(count))
    column, row = np.divmod(np.arange(count), rows)
    block = _SPACING * np.stack([column, row], axis=1)
    block = (block - (block.max(axis=0) + block.min(axis=0)) / 2) * (1 if side == 0 else -1, 1)
    return block + STARTS[side]
