"""SMAC's tasks (Samvelyan et al. 2019, arXiv 1902.04043) without StarCraft II.

Actions, observations, state, their order and their scale are SMAC's (version 1, its default
settings), so that a policy trained here takes real SMAC's input and its actions mean the same
there. Combat is `dm2.envs.battle.starcraft`; `docs/battles.md` lists what it leaves out.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt32

from dm2.envs.base import EnvSpec, Frame, TeamView, Step, full_name
from dm2.envs.battle.engine import of_others, squared
from dm2.envs.battle.scenarios import SC_STALKER, SC_ZEALOT, SMAC_SCENARIOS, STARCRAFT_UNITS
from dm2.envs.battle.starcraft import LOOPS, Arena, Forces, Orders, Troops, battle, in_reach

__all__ = ["Smac", "SmacState"]

NO_OP, STOP, MOVE, ATTACK = 0, 1, 2, 6
"""Actions: nothing (for the dead), stop, move north, south, east, west, attack an enemy."""

_NORTH, _EAST = np.array([1, -1, 0, 0]), np.array([0, 0, 1, -1])
_SIGHT, _SHOOT = 9.0, 6.0  # map units, for all units, centre to centre
_LOOK_AHEAD = 1.0  # map units: a move is legal if the point that far ahead is walkable
_SIDE = 32.0  # of the map
_CORRIDOR = (8.0, 24.0)  # its southern and northern edge
_STARTS = ((9.0, 16.0), (23.0, 16.0))
_SPACING = 1.5  # map units between the units of a team at the start
_KILL, _WIN, _MOST = 10.0, 200.0, 20.0  # rewards, and what all add up to after scaling


class SmacState(NamedTuple):
    """`N` battles; every leaf ends with the battle axis."""

    troops: Troops
    actions: Int[Array, "K N"]
    """The allies' last actions, -1 before the first."""
    time: Int[Array, " N"]
    """Environment steps taken."""


class Smac:
    """One SMAC scenario behind the environment contract."""

    def __init__(self, scenario: str, *, reward: str = "smac", limit: int | None = None) -> None:
        """`scenario`: a key of `SMAC_SCENARIOS`; `reward`: `smac`, which also pays for enemies'
        shields that regenerate, or `signed`, which takes that off; `limit`: episode limit in
        steps, SMAC's by default."""
        layout, types = SMAC_SCENARIOS[scenario], STARCRAFT_UNITS
        allies, enemies = np.array(layout.allies), np.array(layout.enemies)
        self.num_allies, self.num_enemies = len(allies), len(enemies)
        self.map_size = (_SIDE, _SIDE)
        self.unit_names = types.names
        self.unit_radii = tuple(float(r) for r in types.radius)
        self.step_seconds = LOOPS / 16
        self.unit_ranges = tuple(float(r) for r in types.attack_range + types.radius)
        self._kinds = np.concatenate([allies, enemies])
        self._forces = Forces.of(types, self._kinds, self.num_allies)
        self._arena = Arena(_SIDE, *(_CORRIDOR if layout.corridor else (0.0, _SIDE)), _STARTS[0])
        self._places = np.concatenate([_formation(allies, 0), _formation(enemies, 1)]).T
        self._shields = tuple(bool(types.shield[side].any()) for side in (allies, enemies))
        mixed = len(set(layout.allies)) > 1
        # The enemy's bits are in StarCraft's order, the allies' in that of SMAC's own unit types.
        self._bits = (
            [allies == k for k in (SC_STALKER, SC_ZEALOT) if mixed],
            [enemies == k for k in (SC_ZEALOT, SC_STALKER) if mixed],
        )
        self._signed = reward == "signed"
        best = _KILL * self.num_enemies + _WIN
        best += float(np.sum((types.health + types.shield)[enemies]))
        self._reward_scale = _MOST / best
        own, other, action = 1 + self._shields[0], 1 + self._shields[1], ATTACK + self.num_enemies
        bits = len(self._bits[0])
        self.spec = EnvSpec(
            name=full_name(
                f"smac/{scenario}", ("reward", reward, "smac"), ("limit", limit, layout.limit)
            ),
            version="smac 1",
            num_agents=self.num_allies,
            observation_size=4
            + self.num_enemies * (4 + other + bits)
            + (self.num_allies - 1) * (4 + own + bits)
            + own
            + bits,
            num_actions=action,
            state_size=self.num_allies * (3 + own + bits + action)
            + self.num_enemies * (2 + other + bits),
            episode_limit=limit or layout.limit,
        )

    def reset(self, key: UInt32[Array, "2"], num_envs: int) -> SmacState:
        """Start `num_envs` battles; they all start alike."""
        shape = (len(self._kinds), num_envs)

        def full(value: Array | np.ndarray) -> Array:
            return jnp.broadcast_to(jnp.asarray(value, jnp.float32), shape)

        x, y = self._places[..., None]
        troops = Troops(
            x=full(x),
            y=full(y),
            health=full(self._forces.health),
            shield=full(self._forces.shield),
            cooldown=jnp.zeros(shape),
            calm=jnp.zeros(shape),
            target=jnp.full(shape, -1, jnp.int32),
        )
        actions = jnp.full((self.num_allies, num_envs), -1, jnp.int32)
        return SmacState(troops, actions, jnp.zeros(num_envs, jnp.int32))

    def step(
        self, key: UInt32[Array, "2"], state: SmacState, actions: Int[Array, "K N"]
    ) -> tuple[SmacState, Step]:
        """Eight game loops of every battle. Shots delay the next by -1 to 2 loops at random."""
        before, allies = state.troops, self.num_allies
        deviations = jax.random.uniform(key, (LOOPS, *before.x.shape), minval=-1.0, maxval=2.0)
        actions = jnp.where(before.alive[:allies], actions, NO_OP).astype(jnp.int32)
        move = actions[..., None] - MOVE == np.arange(4)
        orders = Orders(
            east=jnp.sum(move * _EAST, axis=-1).astype(jnp.float32),
            north=jnp.sum(move * _NORTH, axis=-1).astype(jnp.float32),
            target=jnp.where(actions >= ATTACK, actions - ATTACK + allies, -1),
        )
        troops = battle(self._forces, self._arena, before, orders, deviations)
        alive = troops.alive
        taken = before.health + before.shield - troops.health - troops.shield
        killed = before.alive & ~alive
        some_allies, some_enemies = jnp.any(alive[:allies], 0), jnp.any(alive[allies:], 0)
        won = some_allies & ~some_enemies
        harm = jnp.sum((taken + _KILL * killed)[allies:], axis=0)
        if not self._signed:
            # Shields that regenerate make it negative; SMAC takes the absolute value.
            harm = jnp.abs(harm)
        time = state.time + 1
        terminated = ~(some_allies & some_enemies)
        return SmacState(troops, actions, time), Step(
            reward=(harm + _WIN * won) * self._reward_scale,
            terminated=terminated,
            truncated=(time >= self.spec.episode_limit) & ~terminated,
            won=won,
        )

    def observe(self, state: SmacState) -> TeamView:
        """What the allies perceive, in SMAC's order.

        Whether it can move north, south, east, west; of each enemy whether it can be attacked,
        distance, x and y from the observer, health, shield, type; of each other ally whether it is
        in sight and the same; its own health, shield, type. Lengths over 9, health and shields
        over the full ones. Zeros for what is dead or out of sight, and for a dead observer.
        """
        troops, allies = state.troops, self.num_allies
        x, y, alive = troops.x, troops.y, troops.alive
        dx, dy = x[None] - x[:allies, None], y[None] - y[:allies, None]
        distance = jnp.sqrt(squared(dx, dy))
        both = alive[None] & alive[:allies, None]
        legal = self._legal(troops, (both & (distance <= _SHOOT))[:, allies:])
        seen = both & (distance < _SIGHT)
        where = [distance / _SIGHT, dx / _SIGHT, dy / _SIGHT]

        def features(first: Array, side: int) -> Array:
            members = slice(allies) if side == 0 else slice(allies, None)
            shown = [part[None] for part in self._condition(troops, side)]
            parts = [first, *(part[:, members] for part in where), *shown]
            found = [jnp.where(seen[:, members], part, 0.0) for part in parts]
            return jnp.stack(found, axis=2)  # [K, members, features, N]

        foes = features(legal[:, ATTACK:].astype(jnp.float32), 1)
        friends = features(jnp.ones((allies, allies, 1)), 0)
        num_envs = x.shape[1]
        own = jnp.stack(self._condition(troops, 0), axis=1)
        rows = [
            legal[:, MOVE:ATTACK].astype(jnp.float32),
            foes.reshape(allies, -1, num_envs),
            of_others(friends),
            own,
        ]
        local = jnp.where(alive[:allies, None], jnp.concatenate(rows, axis=1), 0.0)
        return TeamView(
            observations=jnp.moveaxis(local, 1, 2),
            legal=jnp.moveaxis(legal, 1, 2),
            alive=alive[:allies],
            state=self._global(state),
        )

    def frame(self, state: SmacState) -> Frame:
        """What to draw of every battle."""
        troops, forces = state.troops, self._forces
        return Frame(
            position=jnp.stack([troops.x, troops.y], axis=1),
            health=troops.health / forces.health,
            shield=troops.shield / jnp.maximum(forces.shield, 1.0),
            alive=troops.alive,
            target=jnp.where(in_reach(forces, troops), troops.target, -1),
            kind=jnp.broadcast_to(jnp.asarray(self._kinds)[:, None], troops.target.shape),
        )

    def _legal(self, troops: Troops, attackable: Bool[Array, "K M N"]) -> Bool[Array, "K A N"]:
        """Nothing for the dead; stop, moves to walkable ground and attacks within 6 for others."""
        allies, arena = self.num_allies, self._arena
        alive = troops.alive[:allies, None]
        x = troops.x[:allies, None] + _LOOK_AHEAD * _EAST[:, None]
        y = troops.y[:allies, None] + _LOOK_AHEAD * _NORTH[:, None]
        inside = (x >= 0) & (x < arena.width) & (y >= arena.bottom) & (y < arena.top)
        return jnp.concatenate([~alive, alive, alive & inside, attackable], axis=1)

    def _condition(self, troops: Troops, side: int) -> list[Array]:
        """Health, shield if the side has any, type bits if it is mixed: `[members, N]` each."""
        forces, allies = self._forces, self.num_allies
        members = slice(allies) if side == 0 else slice(allies, None)
        parts = [(troops.health / forces.health)[members]]
        if self._shields[side]:
            parts.append(troops.shield[members] / jnp.maximum(forces.shield[members], 1.0))
        bits = [jnp.asarray(bit, jnp.float32)[:, None] for bit in self._bits[side]]
        return parts + [jnp.broadcast_to(bit, parts[0].shape) for bit in bits]

    def _global(self, state: SmacState) -> Float[Array, "N S"]:
        """SMAC's state: per ally health, cooldown, x, y, shield, type; per enemy the same without
        cooldown; zeros for the dead; then every ally's last action, one-hot."""
        troops, allies = state.troops, self.num_allies
        x, y = (troops.x - _SIDE / 2) / _SIDE, (troops.y - _SIDE / 2) / _SIDE
        shown = STARCRAFT_UNITS.shown_cooldown[self._kinds[:allies], None]
        health, *rest = self._condition(troops, 0)
        ours = [health, troops.cooldown[:allies] / shown, x[:allies], y[:allies], *rest]
        health, *rest = self._condition(troops, 1)
        theirs = [health, x[allies:], y[allies:], *rest]
        alive, num_envs = troops.alive, x.shape[1]
        rows = [
            jnp.where(alive[:allies, None], jnp.stack(ours, axis=1), 0.0),
            jnp.where(alive[allies:, None], jnp.stack(theirs, axis=1), 0.0),
            (state.actions[:, None] == np.arange(self.spec.num_actions)[:, None]) * 1.0,
        ]
        return jnp.concatenate([row.reshape(-1, num_envs) for row in rows]).T


def _formation(kinds: np.ndarray, side: int) -> np.ndarray:
    """Where a team starts, `[members, 2]`: a block about its starting point, column by column from
    its rear."""
    rows = math.ceil(math.sqrt(len(kinds)))
    column, row = np.divmod(np.arange(len(kinds)), rows)
    block = _SPACING * np.stack([column, row], axis=1)
    block = (block - (block.max(axis=0) + block.min(axis=0)) / 2) * (1 if side == 0 else -1, 1)
    return block + _STARTS[side]
