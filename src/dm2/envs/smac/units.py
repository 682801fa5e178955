"""The units of an SMAC battle as arrays.

Arrays lead with the unit axis `U` (allies first) and end with the battle axis `N`, so that every
operation runs over contiguous battles. Coordinates are separate arrays.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from dm2.envs.smac.scenarios import UnitTypes

__all__ = ["Traits", "Units"]


class Units(NamedTuple):
    """Units are described by the numbers that change during a battle."""

    x: Float[Array, "U N"]
    """Map units from the left edge."""
    y: Float[Array, "U N"]
    """Map units from the lower edge."""
    health: Float[Array, "U N"]
    """In StarCraft's points; a unit is alive while it is above 0."""
    shield: Float[Array, "U N"]
    """In StarCraft's points."""
    cooldown: Float[Array, "U N"]
    """Ticks until the weapon is ready, 0 when it is."""
    second: Float[Array, "U N"]
    """Ticks until the second blow of the latest attack, 0 if none is to come."""
    victim: Int[Array, "U N"]
    """Index of the unit that the latest attack struck, -1 before the first."""
    calm: Float[Array, "U N"]
    """Ticks since the last hit taken."""
    target: Int[Array, "U N"]
    """Index of the unit attacked in the latest tick, -1 for none. It is all that the scripted
    enemies remember, so there is no separate memory as in SMAX."""

    @property
    def alive(self) -> Bool[Array, "U N"]:
        """Whether each unit is alive. Dead units never return."""
        return self.health > 0


class Traits(NamedTuple):
    """Traits are the unit types' numbers for each unit, with the meaning they have in `UnitTypes`.

    They are constants of the program: SMAC's scenarios never draw types.
    """

    health: Float[Array, "U 1"]
    shield: Float[Array, "U 1"]
    armour: Float[Array, "U 1"]
    armoured: Float[Array, "U 1"]
    damage: Float[Array, "U 1"]
    bonus: Float[Array, "U 1"]
    second: Float[Array, "U 1"]
    cooldown: Float[Array, "U 1"]
    speed: Float[Array, "U 1"]
    attack_range: Float[Array, "U 1"]
    radius: Float[Array, "U 1"]
    separation_radius: Float[Array, "U 1"]
    shown_cooldown: Float[Array, "U 1"]
    kind: Int[Array, "U 1"]
    """Unit type, an index into `UNIT_TYPES`."""

    @classmethod
    def of(cls, types: UnitTypes, kinds: Int[np.ndarray, " U"]) -> "Traits":
        """Looks up the numbers of each unit's type.

        Args:
            types: The numbers by type.
            kinds: The units' types.
        """
        columns = (getattr(types, field)[kinds][:, None] for field in cls._fields[:-1])
        return cls(*(jnp.asarray(column) for column in columns), kind=jnp.asarray(kinds)[:, None])
