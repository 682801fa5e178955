"""The units of an SMAX battle as arrays.

Arrays lead with the unit axis `U` (allies first) and end with the battle axis `N`, so that every
operation runs over contiguous battles. Coordinates are separate arrays.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from dm2.envs.smax.scenarios import UnitTypes

__all__ = ["Traits", "Units"]


class Units(NamedTuple):
    """Units are described by the numbers that change during a battle."""

    x: Float[Array, "U N"]
    """Map units from the left edge."""
    y: Float[Array, "U N"]
    """Map units from the lower edge."""
    health: Float[Array, "U N"]
    """In the unit types' own points; a unit is alive while it is above 0."""
    cooldown: Float[Array, "U N"]
    """Seconds until the weapon is ready; goes on falling below 0."""

    @property
    def alive(self) -> Bool[Array, "U N"]:
        """Whether each unit is alive. Dead units never return."""
        return self.health > 0


class Traits(NamedTuple):
    """Traits are the unit types' numbers for each unit, with the meaning they have in `UnitTypes`.

    Their last axis is 1, and they are constants of the program, or it is the battle axis, where
    types are drawn.
    """

    speed: Float[Array, "U _"]
    damage: Float[Array, "U _"]
    attack_range: Float[Array, "U _"]
    sight: Float[Array, "U _"]
    radius: Float[Array, "U _"]
    health: Float[Array, "U _"]
    cooldown: Float[Array, "U _"]
    kind: Int[Array, "U _"]
    """Unit type, an index into `UNIT_TYPES`."""

    @classmethod
    def of(cls, types: UnitTypes, kinds: Int[Array, "U N"] | Int[np.ndarray, " U"]) -> "Traits":
        """Looks up the numbers of each unit's type.

        Args:
            types: The numbers by type.
            kinds: The units' types. Types that are the same in every battle, a NumPy array `[U]`,
                become constants of the program.
        """

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
