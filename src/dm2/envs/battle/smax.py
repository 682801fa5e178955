"""StarCraft-like battles by the rules of JaxMARL's SMAX (Rutherford et al. 2023, arXiv 2311.10090).

Dynamics, observations, legal actions, rewards and the scripted enemy are those of JaxMARL 0.2.0,
to rounding. Differences, and why:

- Time limits are the task's own and flagged as truncation. SMAX's default limit is 100 steps, is
  folded into `done`, and lets a battle run one step longer than it says.
- A win is read from who is alive, not inferred from the reward.
- Walls. SMAX kills a unit that touches the map's edge, and moving there stays legal. StarCraft
  does no such thing; with an imitation reward it even gives agents a way to end an episode whose
  reward is negative. Walls are therefore safe here; `?walls=lethal` restores SMAX's rule.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt32

from dm2.envs.base import EnvSpec, Frame, TeamView, Step, full_name
from dm2.envs.battle import enemy
from dm2.envs.battle.engine import (
    MOVES,
    STOP,
    Rules,
    Traits,
    Units,
    directions,
    fight,
    of_others,
    separate,
    squared_distances,
    targets,
)
from dm2.envs.battle.scenarios import SCENARIOS, SMAX_UNITS

__all__ = ["Noise", "Smax", "SmaxState"]

_SPREAD = 2.0  # map units about a team's starting point, each way


class SmaxState(NamedTuple):
    """`N` battles; every leaf ends with the battle axis."""

    units: Units
    memory: enemy.Memory
    actions: Int[Array, "U N"]
    """What every unit did last: all see it."""
    kinds: Int[Array, "U N"] | None
    """Unit types, where they are drawn for each battle."""
    time: Int[Array, " N"]
    """Environment steps taken."""


class Noise(NamedTuple):
    """All that is random in one environment step."""

    deviations: Float[Array, "T U N"]
    """Of the weapons' cooldowns, seconds, from -1 to 2 world steps."""
    draws: Float[Array, "M N"]
    """Uniform in [0, 1): which ally in sight an enemy walks to."""


class Smax:
    """One SMAX scenario behind the environment contract."""

    def __init__(self, scenario: str, *, walls: str = "safe", limit: int | None = None) -> None:
        """`scenario`: a key of `SCENARIOS`; `walls`: `safe` or `lethal`; `limit`: episode limit
        in steps, SMAC's by default."""
        layout = SCENARIOS[scenario]
        self.rules = Rules(lethal_walls=walls == "lethal")
        self.num_allies, self.num_enemies = len(layout.allies), len(layout.enemies)
        self.map_size = (self.rules.width, self.rules.height)
        self.unit_names = SMAX_UNITS.names
        self.unit_radii = tuple(float(r) for r in SMAX_UNITS.radius)
        self.step_seconds = self.rules.ticks * self.rules.tick
        self.unit_ranges = tuple(float(r) for r in SMAX_UNITS.attack_range)
        self._types = np.array(layout.allies + layout.enemies, np.int32)
        self._random = layout.random
        units, own, others = self.num_allies + self.num_enemies, 4, 7
        kinds = len(self.unit_names)
        self.spec = EnvSpec(
            name=full_name(
                f"smax/{scenario}", ("walls", walls, "safe"), ("limit", limit, layout.limit)
            ),
            version="smax 0.2.0",
            num_agents=self.num_allies,
            observation_size=(units - 1) * (others + kinds) + own + kinds,
            num_actions=MOVES + self.num_enemies,
            state_size=units * (own + kinds + 2),
            episode_limit=limit or layout.limit,
        )

    def reset(self, key: UInt32[Array, "2"], num_envs: int) -> SmaxState:
        """Start `num_envs` battles."""
        place_key, kind_key = jax.random.split(key)
        kinds = self._draw_kinds(kind_key, num_envs) if self._random else None
        draw = self._surround_or_reflect if self._random else self._face
        x, y = draw(place_key, num_envs)
        traits = self._traits(kinds)
        full = jnp.broadcast_to(traits.health, x.shape)
        x, y = separate(x, y, traits.radius, full > 0)
        units = Units(x, y, full, jnp.zeros(x.shape))
        memory = enemy.first_memory(units, self.num_allies, *self.map_size)
        actions = jnp.full(x.shape, STOP, jnp.int32)
        return SmaxState(units, memory, actions, kinds, jnp.zeros(num_envs, jnp.int32))

    def noise(self, key: UInt32[Array, "2"], num_envs: int) -> Noise:
        """Draws one step's randomness."""
        deviation_key, draw_key = jax.random.split(key)
        tick = self.rules.tick
        shape = (self.rules.ticks, len(self._types), num_envs)
        return Noise(
            jax.random.uniform(deviation_key, shape, minval=-tick, maxval=2 * tick),
            jax.random.uniform(draw_key, (self.num_enemies, num_envs)),
        )

    def step(
        self, key: UInt32[Array, "2"], state: SmaxState, actions: Int[Array, "K N"]
    ) -> tuple[SmaxState, Step]:
        """Eight world steps of every battle."""
        return self.step_with(self.noise(key, actions.shape[-1]), state, actions)

    def step_with(
        self, noise: Noise, state: SmaxState, actions: Int[Array, "K N"]
    ) -> tuple[SmaxState, Step]:
        """`step`, a function of its randomness."""
        traits, before, allies = self._traits(state.kinds), state.units, self.num_allies
        replies, memory = enemy.act(traits, before, state.memory, noise.draws, allies)
        orders = jnp.concatenate([actions.astype(jnp.int32), replies])
        units = fight(self.rules, traits, before, orders, noise.deviations, allies)
        lost = (before.health[allies:] - units.health[allies:]) / traits.health[allies:]
        some_allies = jnp.any(units.alive[:allies], axis=0)
        some_enemies = jnp.any(units.alive[allies:], axis=0)
        won = some_allies & ~some_enemies
        time = state.time + 1
        terminated = ~(some_allies & some_enemies)
        return SmaxState(units, memory, orders, state.kinds, time), Step(
            reward=jnp.sum(lost, axis=0) / self.num_enemies + won,
            terminated=terminated,
            truncated=(time >= self.spec.episode_limit) & ~terminated,
            won=won,
        )

    def observe(self, state: SmaxState) -> TeamView:
        """What the allies perceive.

        Per other unit in sight, allies first: health, x and y from the observer over its sight,
        direction of the last move, last attack over the last action, cooldown over the type's,
        type bits. Then of itself: health, x and y over the map's size, cooldown, type bits.
        Zeros for what is dead or out of sight, and for a dead observer.
        """
        traits, units, allies = self._traits(state.kinds), state.units, self.num_allies
        alive, sight = units.alive, traits.sight[:allies, None]
        dx = units.x[None] - units.x[:allies, None]
        dy = units.y[None] - units.y[:allies, None]
        seen = alive[None] & alive[:allies, None] & (dx * dx + dy * dy < sight**2)
        kinds = jnp.broadcast_to(traits.kind, alive.shape)
        health = units.health / traits.health
        cooldown = jnp.clip(units.cooldown / traits.cooldown, 0.0, 1.0)
        bits = [kinds == kind for kind in range(len(self.unit_names))]
        doings = _doings(state.actions, allies)

        parts = [health, dx / sight, dy / sight, *doings, cooldown, *bits]
        others = jnp.stack([jnp.where(seen, part, 0.0) for part in parts], axis=2)
        parts = [health, units.x / self.rules.width, units.y / self.rules.height, cooldown, *bits]
        own = jnp.stack([jnp.where(alive, part, 0.0)[:allies] for part in parts], axis=1)
        local = jnp.concatenate([of_others(others), own], axis=1)
        return TeamView(
            observations=jnp.moveaxis(local, 1, 2),
            legal=self._legal(traits, units),
            alive=alive[:allies],
            state=self._global(traits, units, health, bits),
        )

    def frame(self, state: SmaxState) -> Frame:
        """What to draw of every battle."""
        traits, units, allies = self._traits(state.kinds), state.units, self.num_allies
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
        """Indices into `unit_names`."""
        return jnp.broadcast_to(self._traits(state.kinds).kind, state.actions.shape)

    def _traits(self, kinds: Int[Array, "U N"] | None) -> Traits:
        return Traits.of(SMAX_UNITS, self._types if kinds is None else kinds)

    def _legal(self, traits: Traits, units: Units) -> Bool[Array, "K N A"]:
        """Stopping always; moving while alive; attacking the living within range."""
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
        """Per unit health, x, y, cooldown and type bits, or zeros if dead; then teams and types."""
        alive = units.alive
        parts = [health, units.x, units.y, units.cooldown, *bits]
        features = jnp.stack([jnp.where(alive, part, 0.0) for part in parts], axis=1)
        count, num_envs = alive.shape
        teams = jnp.broadcast_to(jnp.arange(count)[:, None] >= self.num_allies, alive.shape)
        kinds = jnp.broadcast_to(traits.kind, alive.shape)
        rows = [features.reshape(-1, num_envs), teams, kinds]
        return jnp.concatenate([row.astype(jnp.float32) for row in rows]).T

    def _face(self, key: UInt32[Array, "2"], num_envs: int) -> tuple[Array, Array]:
        """Starting positions about a point on each side of the map."""
        width, height = self.map_size
        noise = jax.random.uniform(
            key, (2, len(self._types), num_envs), minval=-_SPREAD, maxval=_SPREAD
        )
        left = np.arange(len(self._types))[:, None] < self.num_allies
        return noise[0] + np.where(left, width / 4, 3 * width / 4), noise[1] + height / 2

    def _surround_or_reflect(self, key: UInt32[Array, "2"], num_envs: int) -> tuple[Array, Array]:
        """SMACv2's starts, either with probability 1/2: one team, of either side, in the centre
        and the other in groups on the diagonals; or allies anywhere on the left, mirrored."""
        size, count = jnp.array(self.map_size)[:, None, None], len(self._types)
        keys = jax.random.split(key, 6)
        spread = jax.random.uniform(keys[0], (2, count, num_envs), minval=-_SPREAD, maxval=_SPREAD)
        group = jax.random.randint(keys[1], (count, num_envs), 0, 4)
        inward = jax.random.uniform(keys[2], (4, 1, num_envs))
        inward = sum(jnp.where(group == g, inward[g], 0.0) for g in range(4))
        corner = jnp.stack([group >= 2, group % 2 == 1]) * size
        outside = inward * size / 2 + (1 - inward) * corner
        ally = np.arange(count)[:, None] < self.num_allies
        inside = ally == jax.random.bernoulli(keys[3], shape=(num_envs,))
        surround = jnp.where(inside, size / 2, outside) + spread

        anywhere = jax.random.uniform(keys[4], (2, count, num_envs)) * size
        left = anywhere[:, : self.num_allies] * jnp.array([0.5, 1.0])[:, None, None]
        right = anywhere[:, self.num_allies :] * jnp.array([0.5, 1.0])[:, None, None]
        mirrored = min(self.num_allies, self.num_enemies)
        right = jnp.concatenate([left[:, :mirrored], right[:, mirrored:]], axis=1)
        right = jnp.stack([self.map_size[0] - right[0], right[1]])
        reflect = jnp.concatenate([left, right], axis=1)
        x, y = jnp.where(jax.random.bernoulli(keys[5], shape=(num_envs,)), surround, reflect)
        return x, y

    def _draw_kinds(self, key: UInt32[Array, "2"], num_envs: int) -> Int[Array, "U N"]:
        """Both teams alike, of uniformly drawn types; enemies without a counterpart: marines."""
        shape = (self.num_allies, num_envs)
        allies = jax.random.randint(key, shape, 0, len(self.unit_names))
        extra = max(self.num_enemies - self.num_allies, 0)
        rest = jnp.zeros((extra, num_envs), allies.dtype)
        return jnp.concatenate([allies, allies[: self.num_enemies], rest])


def _doings(actions: Int[Array, "U N"], num_allies: int) -> list[Array]:
    """Direction of the last move, east and north, and last attack over the last action's number."""
    num_units = len(actions)
    ally = np.arange(num_units)[:, None] < num_allies
    last = MOVES - 1 + np.where(ally, num_units - num_allies, num_allies)
    return [*directions(actions), jnp.where(actions >= MOVES, actions, 0) / last]
