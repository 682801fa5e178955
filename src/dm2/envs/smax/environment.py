"""StarCraft-like battles by the rules of JaxMARL's SMAX (Rutherford et al. 2023, arXiv 2311.10090).

Dynamics, observations, legal actions, rewards and the scripted enemy are those of JaxMARL 0.2.0,
to rounding. Differences, and why:

- Time limits are the task's own and flagged as truncation. SMAX's default limit is 100 steps, is
  folded into `done`, and lets a battle run one step longer than it says.
- A win is read from who is alive, not inferred from the reward.
- Walls. SMAX kills a unit that touches the map's edge, and moving there stays legal. StarCraft
  does no such thing; with an imitation reward it even lets agents end an episode whose reward is
  negative. Walls are therefore safe here; `?walls=lethal` restores SMAX's rule.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt32

from dm2.envs.base import EnvSpec, Frame, Step, TeamView, attacks_on, full_name
from dm2.envs.geometry import of_others, separate
from dm2.envs.smax import enemy
from dm2.envs.smax.combat import (
    ATTACK,
    PLAIN_ACTIONS,
    STOP,
    Rules,
    directions,
    fight,
    squared_distances,
    targets,
)
from dm2.envs.smax.scenarios import (
    SCENARIOS,
    UNIT_TYPES,
    draw_kinds,
    face,
    surround_or_reflect,
)
from dm2.envs.smax.units import Traits, Units

__all__ = ["Noise", "Smax", "SmaxState"]


class SmaxState(NamedTuple):
    """The state of `N` battles; every leaf ends with the battle axis."""

    units: Units
    memory: enemy.Memory
    actions: Int[Array, "U N"]
    """Every unit's last action; others in sight perceive it."""
    kinds: Int[Array, "U N"] | None
    """Unit types, where they are drawn for each battle, else None."""
    time: Int[Array, " N"]
    """Environment steps taken."""


class Noise(NamedTuple):
    """Noise is all that is random in one environment step."""

    deviations: Float[Array, "T U N"]
    """Deviations of the weapons' cooldowns, seconds, from -1 to 2 ticks."""
    draws: Float[Array, "M N"]
    """Uniform in [0, 1): which ally in sight an enemy walks to."""


class Smax:
    """An SMAX scenario behind the environment contract."""

    def __init__(
        self,
        scenario: str,
        *,
        walls: str = "safe",
        reward: str = "smax",
        limit: int | None = None,
    ) -> None:
        """Sets the scenario up.

        Args:
            scenario: A key of `SCENARIOS`.
            walls: `safe` or `lethal`: whether a unit dies on the map's edge.
            reward: `smax`, for damage and for a win; `damage`, for that alone; or `safety`, minus
                the share of the allies' health that is lost, for nothing else.
            limit: Episode limit, environment steps; by default the scenario's.
        """
        self._scenario = SCENARIOS[scenario]
        allies, enemies = self._scenario.allies, self._scenario.enemies
        self.rules = Rules(lethal_walls=walls == "lethal")
        self.num_allies, self.num_enemies = len(allies), len(enemies)
        self.map_size = (self.rules.width, self.rules.height)
        self.unit_names = UNIT_TYPES.names
        self.unit_radii = tuple(float(r) for r in UNIT_TYPES.radius)
        self.unit_ranges = tuple(float(r) for r in UNIT_TYPES.attack_range)
        self.step_seconds = self.rules.ticks * self.rules.tick
        self._kinds = np.array(allies + enemies, np.int32)
        self._reward = reward
        units, own, others = self.num_allies + self.num_enemies, 4, 7
        kinds = len(self.unit_names)
        usual = self._scenario.limit
        self.spec = EnvSpec(
            name=full_name(
                f"smax/{scenario}",
                ("walls", walls, "safe"),
                ("reward", reward, "smax"),
                ("limit", limit, usual),
            ),
            version="smax 0.2.0",
            num_agents=self.num_allies,
            observation_size=(units - 1) * (others + kinds) + own + kinds,
            num_actions=ATTACK + self.num_enemies,
            state_size=units * (own + kinds + 2),
            episode_limit=limit or usual,
            action_names=(*PLAIN_ACTIONS, *attacks_on(self.num_enemies)),
        )

    def reset(self, key: UInt32[Array, "2"], num_envs: int) -> SmaxState:
        """Starts `num_envs` battles."""
        place_key, kind_key = jax.random.split(key)
        scenario = self._scenario
        kinds = draw_kinds(kind_key, scenario, num_envs) if scenario.random else None
        place = surround_or_reflect if scenario.random else face
        x, y = place(place_key, scenario, self.map_size, num_envs)
        traits = self._traits_of(kinds)
        full = jnp.broadcast_to(traits.health, x.shape)
        x, y = separate(x, y, traits.radius, full > 0)
        units = Units(x, y, full, jnp.zeros(x.shape))
        memory = enemy.first_memory(units, self.num_allies, *self.map_size)
        actions = jnp.full(x.shape, STOP, jnp.int32)
        return SmaxState(units, memory, actions, kinds, jnp.zeros(num_envs, jnp.int32))

    def noise(self, key: UInt32[Array, "2"], num_envs: int) -> Noise:
        """Draws the randomness of one environment step."""
        deviation_key, draw_key = jax.random.split(key)
        tick = self.rules.tick
        shape = (self.rules.ticks, len(self._kinds), num_envs)
        return Noise(
            jax.random.uniform(deviation_key, shape, minval=-tick, maxval=2 * tick),
            jax.random.uniform(draw_key, (self.num_enemies, num_envs)),
        )

    def step(
        self, key: UInt32[Array, "2"], state: SmaxState, actions: Int[Array, "K N"]
    ) -> tuple[SmaxState, Step]:
        """One environment step, eight ticks, of every battle.

        The reward is the share of the enemies' health that was taken, plus 1 for a win, unless
        another one was chosen.
        """
        return self.step_with(self.noise(key, actions.shape[-1]), state, actions)

    def step_with(
        self, noise: Noise, state: SmaxState, actions: Int[Array, "K N"]
    ) -> tuple[SmaxState, Step]:
        """`step` as a function of its randomness instead of a key."""
        traits, before, allies = self._traits_of(state.kinds), state.units, self.num_allies
        replies, memory = enemy.act(traits, before, state.memory, noise.draws, allies)
        joint = jnp.concatenate([actions.astype(jnp.int32), replies])
        units = fight(self.rules, traits, before, joint, noise.deviations, allies)
        lost = (before.health - units.health) / traits.health
        taken = jnp.sum(lost[allies:], axis=0) / self.num_enemies
        suffered = jnp.sum(lost[:allies], axis=0) / allies
        some_allies = jnp.any(units.alive[:allies], axis=0)
        some_enemies = jnp.any(units.alive[allies:], axis=0)
        won = some_allies & ~some_enemies
        time = state.time + 1
        terminated = ~(some_allies & some_enemies)
        return SmaxState(units, memory, joint, state.kinds, time), Step(
            reward={"smax": taken + won, "damage": taken, "safety": -suffered}[self._reward],
            terminated=terminated,
            truncated=(time >= self.spec.episode_limit) & ~terminated,
            won=won,
        )

    def observe(self, state: SmaxState) -> TeamView:
        """What the allies perceive.

        An observation has, of each other unit, allies first: health, x and y from the observer over
        its sight, direction of the last move, last attack over the last action, cooldown over the
        type's, type bits. Then, of the observer itself: health, x and y over the map's size,
        cooldown, type bits. All is zero for what is dead or out of sight, and for a dead observer.
        """
        traits, units, allies = self._traits_of(state.kinds), state.units, self.num_allies
        alive, sight = units.alive, traits.sight[:allies, None]
        dx = units.x[None] - units.x[:allies, None]
        dy = units.y[None] - units.y[:allies, None]
        visible = alive[None] & alive[:allies, None] & (dx * dx + dy * dy < sight**2)
        kinds = jnp.broadcast_to(traits.kind, alive.shape)
        health = units.health / traits.health
        cooldown = jnp.clip(units.cooldown / traits.cooldown, 0.0, 1.0)
        bits = [kinds == kind for kind in range(len(self.unit_names))]
        last = _last_actions(state.actions, allies)

        parts = [health, dx / sight, dy / sight, *last, cooldown, *bits]
        others = jnp.stack([jnp.where(visible, part, 0.0) for part in parts], axis=2)
        parts = [health, units.x / self.rules.width, units.y / self.rules.height, cooldown, *bits]
        own = jnp.stack([jnp.where(alive, part, 0.0)[:allies] for part in parts], axis=1)
        observations = jnp.concatenate([of_others(others), own], axis=1)
        return TeamView(
            observations=jnp.moveaxis(observations, 1, 2),
            legal=self._legal(traits, units),
            alive=alive[:allies],
            state=self._global(traits, units, health, bits),
        )

    def frame(self, state: SmaxState) -> Frame:
        """What to draw of every battle."""
        traits, units, allies = self._traits_of(state.kinds), state.units, self.num_allies
        target = targets(state.actions, allies)
        dx = units.x - jnp.take_along_axis(units.x, target, axis=0)
        dy = units.y - jnp.take_along_axis(units.y, target, axis=0)
        near = dx * dx + dy * dy < traits.attack_range**2
        return Frame(
            position=jnp.stack([units.x, units.y], axis=1),
            health=units.health / traits.health,
            shield=jnp.zeros_like(units.health),
            alive=units.alive,
            target=jnp.where(units.alive & near, target, -1),
            kind=jnp.broadcast_to(traits.kind, target.shape),
        )

    def unit_types(self, state: SmaxState) -> Int[Array, "U N"]:
        """Every unit's type, an index into `unit_names`."""
        return jnp.broadcast_to(self._traits_of(state.kinds).kind, state.actions.shape)

    def _traits_of(self, kinds: Int[Array, "U N"] | None) -> Traits:
        """The units' traits: those of `kinds`, or the scenario's where `kinds` is None."""
        return Traits.of(UNIT_TYPES, self._kinds if kinds is None else kinds)

    def _legal(self, traits: Traits, units: Units) -> Bool[Array, "K N A"]:
        """Legal actions: stopping always, moving while alive, attacking the living within range."""
        allies, alive = self.num_allies, units.alive
        near = squared_distances(units, allies) < traits.attack_range[:allies, None] ** 2
        attack = near & alive[:allies, None] & alive[None, allies:]
        move = jnp.repeat(alive[:allies, None], STOP, axis=1)
        stop = jnp.ones_like(alive[:allies, None])
        return jnp.moveaxis(jnp.concatenate([move, stop, attack], axis=1), 1, 2)

    def _global(
        self,
        traits: Traits,
        units: Units,
        health: Float[Array, "U N"],
        bits: list[Bool[Array, "U N"]],
    ) -> Float[Array, "N S"]:
        """The global state: per unit health, x, y, cooldown and type bits, or zeros if it is dead;
        then every unit's team and every unit's type."""
        alive = units.alive
        parts = [health, units.x, units.y, units.cooldown, *bits]
        features = jnp.stack([jnp.where(alive, part, 0.0) for part in parts], axis=1)
        count, num_envs = alive.shape
        teams = jnp.broadcast_to(jnp.arange(count)[:, None] >= self.num_allies, alive.shape)
        kinds = jnp.broadcast_to(traits.kind, alive.shape)
        rows = [features.reshape(-1, num_envs), teams, kinds]
        return jnp.concatenate([row.astype(jnp.float32) for row in rows]).T


def _last_actions(actions: Int[Array, "U N"], num_allies: int) -> list[Array]:
    """The direction of every unit's last move, east and north, and its last attack over the number
    of the last action that it has."""
    num_units = len(actions)
    ally = np.arange(num_units)[:, None] < num_allies
    most = ATTACK - 1 + np.where(ally, num_units - num_allies, num_allies)
    return [*directions(actions), jnp.where(actions >= ATTACK, actions, 0) / most]
