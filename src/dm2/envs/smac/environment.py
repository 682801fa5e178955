"""SMAC's tasks (Samvelyan et al. 2019, arXiv 1902.04043) without StarCraft II.

Actions, observations, state, their order and their scale are SMAC's (version 1, its default
settings), so that a policy trained here takes real SMAC's input and gives actions that real SMAC
takes. Combat is `dm2.envs.smac.combat`; `docs/battles.md` lists what it leaves out, and what nobody
has recorded.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt32

from dm2.envs.base import EnvSpec, Frame, Step, TeamView, attacks_on, full_name
from dm2.envs.geometry import of_others, squared
from dm2.envs.smac.combat import Orders, Rules, fight, in_reach
from dm2.envs.smac.scenarios import SCENARIOS, STALKER, STARTS, UNIT_TYPES, ZEALOT, place
from dm2.envs.smac.units import Traits, Units

__all__ = ["Smac", "SmacState"]

NO_OP, STOP, MOVE, ATTACK = 0, 1, 2, 6
"""Actions: nothing (for the dead), stop, move north, south, east, west, attack an enemy."""
_PLAIN_ACTIONS = ("nothing", "stop", "move north", "move south", "move east", "move west")

_NORTH, _EAST = np.array([1, -1, 0, 0]), np.array([0, 0, 1, -1])
_SIGHT, _SHOOT = 9.0, 6.0  # map units, for all units, centre to centre
_LOOK_AHEAD = 1.0  # map units: a move is legal if the point that far ahead is walkable
_CORRIDOR = Rules(bottom=8.0, top=24.0)
_KILL, _WIN, _MOST = 10.0, 200.0, 20.0  # rewards, and what all add up to after scaling


class SmacState(NamedTuple):
    """The state of `N` battles; every leaf ends with the battle axis."""

    units: Units
    actions: Int[Array, "K N"]
    """The allies' last actions, -1 before the first. Enemies have no actions, unlike in SMAX."""
    time: Int[Array, " N"]
    """Environment steps taken."""


class Smac:
    """An SMAC scenario behind the environment contract."""

    def __init__(
        self,
        scenario: str,
        *,
        starts: str = "fixed",
        numbers: str = "void",
        reward: str = "smac",
        limit: int | None = None,
    ) -> None:
        """Sets the scenario up.

        Args:
            scenario: A key of `SCENARIOS`.
            starts: A key of `STARTS`: what is drawn for each battle of where its units start.
            numbers: A key of `UNIT_TYPES`: the game that the stalker's weapon is of.
            reward: `smac`, which also pays for enemies' shields that regenerate; `signed`, which
                takes that off; `damage`, for damage alone, signed, not for kills and wins; or
                `safety`, minus the damage that the allies take, for nothing else. All come to 20.
            limit: Episode limit, environment steps; by default the scenario's.
        """
        layout, types = SCENARIOS[scenario], UNIT_TYPES[numbers]
        allies, enemies = np.array(layout.allies), np.array(layout.enemies)
        self.rules = _CORRIDOR if layout.corridor else Rules()
        self.num_allies, self.num_enemies = len(allies), len(enemies)
        self.map_size = (self.rules.width, self.rules.height)
        self.unit_names = types.names
        self.unit_radii = tuple(float(r) for r in types.separation_radius)
        self.unit_ranges = tuple(float(r) for r in types.attack_range + types.radius)
        self.step_seconds = self.rules.ticks * self.rules.tick
        self._traits = Traits.of(types, np.concatenate([allies, enemies]))
        self._place = functools.partial(place, scenario=layout, types=types, starts=STARTS[starts])
        self._shields = tuple(bool(types.shield[side].any()) for side in (allies, enemies))
        mixed = len(set(layout.allies)) > 1
        # The enemy's bits are in StarCraft's order, the allies' in that of SMAC's own unit types.
        self._bits = (
            [allies == k for k in (STALKER, ZEALOT) if mixed],
            [enemies == k for k in (ZEALOT, STALKER) if mixed],
        )
        self._reward = reward
        strength = types.health + types.shield
        self._strength = float(strength[allies].sum()), float(strength[enemies].sum())
        best = _KILL * self.num_enemies + _WIN
        best += self._strength[1]
        self._reward_scale = _MOST / best
        own, other, action = 1 + self._shields[0], 1 + self._shields[1], ATTACK + self.num_enemies
        bits = len(self._bits[0])
        self.spec = EnvSpec(
            name=full_name(
                f"smac/{scenario}",
                ("starts", starts, "fixed"),
                ("numbers", numbers, "void"),
                ("reward", reward, "smac"),
                ("limit", limit, layout.limit),
            ),
            version="smac 2",
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
            action_names=(*_PLAIN_ACTIONS, *attacks_on(self.num_enemies)),
        )

    def reset(self, key: UInt32[Array, "2"], num_envs: int) -> SmacState:
        """Starts `num_envs` battles, at places that are drawn as far as `starts` says."""
        x, y = self._place(key, num_envs=num_envs)
        shape = (self.num_allies + self.num_enemies, num_envs)

        units = Units(
            x=x,
            y=y,
            health=jnp.broadcast_to(self._traits.health, shape),
            shield=jnp.broadcast_to(self._traits.shield, shape),
            cooldown=jnp.zeros(shape),
            second=jnp.zeros(shape),
            victim=jnp.full(shape, -1, jnp.int32),
            calm=jnp.zeros(shape),
            target=jnp.full(shape, -1, jnp.int32),
        )
        actions = jnp.full((self.num_allies, num_envs), -1, jnp.int32)
        return SmacState(units, actions, jnp.zeros(num_envs, jnp.int32))

    def step(
        self, key: UInt32[Array, "2"], state: SmacState, actions: Int[Array, "K N"]
    ) -> tuple[SmacState, Step]:
        """One environment step, eight ticks, of every battle.

        Shots delay the next by -1 to 2 ticks at random. The reward is SMAC's: the enemies' lost
        health and shields, more for a kill and for a win, scaled, unless another was chosen.
        """
        before, allies = state.units, self.num_allies
        shape = (self.rules.ticks, *before.x.shape)
        deviations = jax.random.uniform(key, shape, minval=-1.0, maxval=2.0)
        actions = jnp.where(before.alive[:allies], actions, NO_OP).astype(jnp.int32)
        move = actions[..., None] - MOVE == np.arange(4)
        orders = Orders(
            east=jnp.sum(move * _EAST, axis=-1).astype(jnp.float32),
            north=jnp.sum(move * _NORTH, axis=-1).astype(jnp.float32),
            target=jnp.where(actions >= ATTACK, actions - ATTACK + allies, -1),
        )
        units = fight(self.rules, self._traits, before, orders, deviations, allies)
        alive = units.alive
        taken = before.health + before.shield - units.health - units.shield
        killed = before.alive & ~alive
        some_allies, some_enemies = jnp.any(alive[:allies], 0), jnp.any(alive[allies:], 0)
        won = some_allies & ~some_enemies
        harm = jnp.sum((taken + _KILL * killed)[allies:], axis=0)
        if self._reward == "smac":
            # Shields that regenerate make it negative; SMAC takes the absolute value.
            harm = jnp.abs(harm)
        usual = (harm + _WIN * won) * self._reward_scale
        suffered, dealt = jnp.sum(taken[:allies], axis=0), jnp.sum(taken[allies:], axis=0)
        others = {
            "damage": dealt * _MOST / self._strength[1],
            "safety": -suffered * _MOST / self._strength[0],
        }
        time = state.time + 1
        terminated = ~(some_allies & some_enemies)
        return SmacState(units, actions, time), Step(
            reward=others.get(self._reward, usual),
            terminated=terminated,
            truncated=(time >= self.spec.episode_limit) & ~terminated,
            won=won,
        )

    def observe(self, state: SmacState) -> TeamView:
        """What the allies perceive, in SMAC's order.

        An observation says whether the observer can move north, south, east, west; of each enemy
        whether it can be attacked, distance, x and y from the observer, health, shield, type; of
        each other ally whether it is in sight and the same; the observer's own health, shield,
        type. Lengths are over 9, health and shields over the full ones. All is zero for what is
        dead or out of sight, and for a dead observer.
        """
        units, allies = state.units, self.num_allies
        x, y, alive = units.x, units.y, units.alive
        dx, dy = x[None] - x[:allies, None], y[None] - y[:allies, None]
        distance = jnp.sqrt(squared(dx, dy))
        both = alive[None] & alive[:allies, None]
        legal = self._legal(units, (both & (distance <= _SHOOT))[:, allies:])
        visible = both & (distance < _SIGHT)
        where = [distance / _SIGHT, dx / _SIGHT, dy / _SIGHT]

        def features(first: Array, side: int) -> Array:
            members = slice(allies) if side == 0 else slice(allies, None)
            shown = [part[None] for part in self._condition(units, side)]
            parts = [first, *(part[:, members] for part in where), *shown]
            found = [jnp.where(visible[:, members], part, 0.0) for part in parts]
            return jnp.stack(found, axis=2)  # [K, members, features, N]

        foes = features(legal[:, ATTACK:].astype(jnp.float32), 1)
        friends = features(jnp.ones((allies, allies, 1)), 0)
        num_envs = x.shape[1]
        own = jnp.stack(self._condition(units, 0), axis=1)
        rows = [
            legal[:, MOVE:ATTACK].astype(jnp.float32),
            foes.reshape(allies, -1, num_envs),
            of_others(friends),
            own,
        ]
        observations = jnp.where(alive[:allies, None], jnp.concatenate(rows, axis=1), 0.0)
        return TeamView(
            observations=jnp.moveaxis(observations, 1, 2),
            legal=jnp.moveaxis(legal, 1, 2),
            alive=alive[:allies],
            state=self._global(state),
        )

    def frame(self, state: SmacState) -> Frame:
        """What to draw of every battle."""
        units, traits = state.units, self._traits
        return Frame(
            position=jnp.stack([units.x, units.y], axis=1),
            health=units.health / traits.health,
            shield=units.shield / jnp.maximum(traits.shield, 1.0),
            alive=units.alive,
            target=jnp.where(in_reach(traits, units), units.target, -1),
            kind=jnp.broadcast_to(traits.kind, units.target.shape),
        )

    def _legal(self, units: Units, attackable: Bool[Array, "K M N"]) -> Bool[Array, "K A N"]:
        """Legal actions: nothing for the dead; for others to stop, to move to walkable ground and
        to attack within 6.

        SMAC turns the point that a move leads to into a cell of the map by truncation towards zero,
        so that a point less than 1 beyond the western or southern edge counts as on the map.
        """
        allies, rules = self.num_allies, self.rules
        alive = units.alive[:allies, None]
        x = jnp.trunc(units.x[:allies, None] + _LOOK_AHEAD * _EAST[:, None])
        y = jnp.trunc(units.y[:allies, None] + _LOOK_AHEAD * _NORTH[:, None])
        inside = (x >= 0) & (x < rules.width) & (y >= rules.bottom) & (y < rules.top)
        return jnp.concatenate([~alive, alive, alive & inside, attackable], axis=1)

    def _condition(self, units: Units, side: int) -> list[Array]:
        """The features of a side's units that say what state they are in: health, shield if the
        side has any, type bits if it is mixed; `[members, N]` each."""
        traits, allies = self._traits, self.num_allies
        members = slice(allies) if side == 0 else slice(allies, None)
        parts = [(units.health / traits.health)[members]]
        if self._shields[side]:
            parts.append(units.shield[members] / jnp.maximum(traits.shield[members], 1.0))
        bits = [jnp.asarray(bit, jnp.float32)[:, None] for bit in self._bits[side]]
        return parts + [jnp.broadcast_to(bit, parts[0].shape) for bit in bits]

    def _global(self, state: SmacState) -> Float[Array, "N S"]:
        """SMAC's global state: per ally health, cooldown, x, y, shield, type; per enemy the same
        without cooldown; zeros for the dead; then every ally's last action, one-hot."""
        units, allies = state.units, self.num_allies
        width, height = self.map_size
        x, y = (units.x - width / 2) / width, (units.y - height / 2) / height
        shown = self._traits.shown_cooldown[:allies]
        health, *rest = self._condition(units, 0)
        ours = [health, units.cooldown[:allies] / shown, x[:allies], y[:allies], *rest]
        health, *rest = self._condition(units, 1)
        theirs = [health, x[allies:], y[allies:], *rest]
        alive, num_envs = units.alive, x.shape[1]
        rows = [
            jnp.where(alive[:allies, None], jnp.stack(ours, axis=1), 0.0),
            jnp.where(alive[allies:, None], jnp.stack(theirs, axis=1), 0.0),
            (state.actions[:, None] == np.arange(self.spec.num_actions)[:, None]) * 1.0,
        ]
        return jnp.concatenate([row.reshape(-1, num_envs) for row in rows]).T
