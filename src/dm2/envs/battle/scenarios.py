"""Unit types and scenarios of SMAX (JaxMARL 0.2.0), with the numbers of its source, and of SMAC."""

from typing import NamedTuple

import numpy as np

__all__ = [
    "SCENARIOS",
    "SC_STALKER",
    "SC_ZEALOT",
    "SMAC_SCENARIOS",
    "SMAX_UNITS",
    "STARCRAFT_UNITS",
    "Scenario",
    "SmacScenario",
    "StarCraftTypes",
    "UnitTypes",
]

MARINE, MARAUDER, STALKER, ZEALOT, ZERGLING, HYDRALISK = range(6)
_DEFAULT_LIMIT = 100


class UnitTypes(NamedTuple):
    """One entry per unit type. Lengths in map units, times in seconds."""

    names: tuple[str, ...]
    speed: np.ndarray
    damage: np.ndarray
    attack_range: np.ndarray
    """From centre to centre."""
    sight: np.ndarray
    radius: np.ndarray
    health: np.ndarray
    cooldown: np.ndarray
    """Between two attacks."""


def _numbers(*values: int | float) -> np.ndarray:
    return np.array(values, np.float32)


SMAX_UNITS = UnitTypes(
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
    """Who fights whom, and for how long."""

    allies: tuple[int, ...]
    """Unit types, indices into `UnitTypes`."""
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


class StarCraftTypes(NamedTuple):
    """StarCraft's numbers, one entry per unit type. Lengths in map units, times in game loops."""

    names: tuple[str, ...]
    health: np.ndarray
    shield: np.ndarray
    armour: np.ndarray
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
    """Per loop."""
    attack_range: np.ndarray
    """From surface to surface."""
    radius: np.ndarray
    shown_cooldown: np.ndarray
    """What SMAC divides a cooldown by in its state."""


SC_STALKER, SC_ZEALOT = 1, 2
STARCRAFT_UNITS = StarCraftTypes(
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


class SmacScenario(NamedTuple):
    """Who fights whom, where, and for how long."""

    allies: tuple[int, ...]
    """Unit types, indices into `STARCRAFT_UNITS`."""
    enemies: tuple[int, ...]
    limit: int
    """Episode limit, environment steps."""

    @property
    def corridor(self) -> bool:
        """Marines fight between two cliffs, all others in the open."""
        return max(self.allies + self.enemies) == 0


def _troops(stalkers: int, zealots: int) -> tuple[int, ...]:
    return (SC_STALKER,) * stalkers + (SC_ZEALOT,) * zealots


SMAC_SCENARIOS: dict[str, SmacScenario] = {
    # The paper's five tasks.
    "5m_vs_6m": SmacScenario(_marines(5), _marines(6), 70),
    "8m_vs_9m": SmacScenario(_marines(8), _marines(9), 120),
    "3s_vs_3z": SmacScenario(_troops(3, 0), _troops(0, 3), 150),
    "3s_vs_4z": SmacScenario(_troops(3, 0), _troops(0, 4), 200),
    "3s_vs_5z": SmacScenario(_troops(3, 0), _troops(0, 5), 250),
    # SMAC's others of the same units.
    "3m": SmacScenario(_marines(3), _marines(3), 60),
    "8m": SmacScenario(_marines(8), _marines(8), 120),
    "10m_vs_11m": SmacScenario(_marines(10), _marines(11), 150),
    "27m_vs_30m": SmacScenario(_marines(27), _marines(30), 180),
    "2s3z": SmacScenario(_troops(2, 3), _troops(2, 3), 120),
    "3s5z": SmacScenario(_troops(3, 5), _troops(3, 5), 150),
}
