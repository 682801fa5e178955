"""How far our SMAX is from JaxMARL's (0.2.0): the same states, orders and randomness in both.

JaxMARL is needed: `pip install dm2[jaxmarl]`.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dm2.envs import TeamView, Step
from dm2.envs.battle import enemy
from dm2.envs.battle.engine import MOVES, Units, directions
from dm2.envs.battle.scenarios import SCENARIOS
from dm2.envs.battle.smax import Noise, Smax, SmaxState
from dm2.envs.jaxmarl import quiet_import
from dm2.errors import InputError

__all__ = ["TOLERANCE", "Reference", "differences", "random_states", "report"]

TOLERANCE = 1e-5
"""What rounding explains; positions are up to 32."""


class Reference:
    """JaxMARL's environment of a scenario, and the way between its states and ours."""

    def __init__(self, scenario: str, lethal_walls: bool) -> None:
        try:
            with quiet_import():
                from jaxmarl.environments.smax import HeuristicEnemySMAX
                from jaxmarl.environments.smax.smax_env import Scenario
        except ImportError as error:
            raise InputError("comparing needs JaxMARL: pip install dm2[jaxmarl]") from error
        layout = SCENARIOS[scenario]
        self.num_allies, self.num_enemies = len(layout.allies), len(layout.enemies)
        kinds = jnp.array(layout.allies + layout.enemies, jnp.uint8)
        theirs = Scenario(kinds, self.num_allies, self.num_enemies, layout.random, layout.random)
        # Its time limit is never reached.
        self.env: Any = HeuristicEnemySMAX(
            scenario=theirs, walls_cause_death=lethal_walls, max_steps=2**30
        )

    def noise(self, key: jax.Array) -> Noise:
        """The numbers that JaxMARL draws from `key` in one step of one battle."""
        tick, units = self.env.time_per_step, self.num_allies + self.num_enemies
        key, action_key = jax.random.split(key)

        def draw(key: jax.Array) -> jax.Array:  # as `jax.random.choice` does
            return jax.random.uniform(jax.random.split(key)[0])

        def deviate(key: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
            key, tick_key = jax.random.split(key)
            keys = jax.random.split(tick_key, units)
            uniform = jax.vmap(lambda k: jax.random.uniform(k, minval=-tick, maxval=2 * tick))
            return key, uniform(keys)

        draws = jax.vmap(draw)(jax.random.split(action_key, self.num_enemies))
        ticks = self.env.world_steps_per_env_step
        return Noise(jax.lax.scan(deviate, key, None, length=ticks)[1], draws)

    def import_states(self, env: Smax, state: SmaxState) -> Any:
        """Our battles as JaxMARL's states, whose leaves begin with the battle axis."""
        return jax.vmap(self._import, in_axes=-1)(
            state._replace(kinds=env.unit_types(state)), jnp.stack(directions(state.actions))
        )

    def _import(self, state: Any, moves: jax.Array) -> Any:
        _, blank = self.env.reset(jax.random.PRNGKey(0))
        inner = blank.state.replace(
            unit_positions=jnp.stack([state.units.x, state.units.y], axis=-1),
            unit_alive=state.units.health > 0,
            unit_health=state.units.health,
            unit_types=state.kinds.astype(blank.state.unit_types.dtype),
            unit_weapon_cooldowns=state.units.cooldown,
            prev_movement_actions=moves.T,
            prev_attack_actions=jnp.where(state.actions >= MOVES, state.actions, 0),
            step=state.time,
        )
        memory = blank.enemy_policy_state.replace(
            default_target=jnp.stack([state.memory.goal_x, state.memory.goal_y], axis=-1),
            last_attacked_enemy=state.memory.target,
        )
        return blank.replace(state=inner, enemy_policy_state=memory)

    def step(self, key: jax.Array, state: Any, actions: jax.Array) -> tuple[Any, jax.Array]:
        """One step of one battle: the state it leads to and the reward."""
        orders = {name: actions[i] for i, name in enumerate(self.env.agents)}
        _, state, rewards, _, _ = self.env.step_env(key, state, orders)
        return state, rewards[self.env.agents[0]]

    def observe(self, state: Any) -> TeamView:
        """What the allies of one battle perceive."""
        seen, legal = self.env.get_obs(state), self.env.get_avail_actions(state)
        names = self.env.agents
        return TeamView(
            jnp.stack([seen[name] for name in names]),
            jnp.stack([legal[name] for name in names]).astype(bool),
            state.state.unit_alive[: self.num_allies],
            self.env.get_world_state(state),
        )


def random_states(env: Smax, rng: np.random.Generator, count: int) -> SmaxState:
    """`count` battles in any state: crowded and scattered, at and beyond walls, units dead, out of
    sight and exactly in line, weapons ready and cooling.

    Large teams get more room. Where many units stand nearly on one spot, the direction of a push
    hangs on the last bit, and the order of a sum decides who goes where.
    """
    state = env.reset(jax.random.PRNGKey(rng.integers(2**31)), count)
    units, num_allies = len(state.actions), env.num_allies
    shape = (units, count)
    room = max(units / 11, 1)
    crowd = rng.choice([1.5 * room, 4.0 * room, 16.0], count)  # half of the width of the crowd
    centre = rng.uniform(0, 32, (2, count))
    x, y = centre[:, None] + crowd * rng.uniform(-1, 1, (2, *shape))
    # In some battles on a grid, so that distances tie and units stand on one another.
    grid = rng.random(count) < 0.25
    x, y = np.where(grid, np.round(x), x), np.where(grid, np.round(y), y)
    inside = rng.random(count) < 0.8
    x, y = (np.where(inside, np.clip(v, 0, 32), v) for v in (x, y))
    full = np.asarray(state.units.health)
    health = full * np.where(rng.random(shape) < 0.2, 0.0, rng.uniform(0.02, 1, shape))
    cooldown = np.where(rng.random(shape) < 0.5, 0.0, rng.uniform(-0.5, 1.5, shape))
    last = MOVES + np.where(np.arange(units)[:, None] < num_allies, units - num_allies, num_allies)
    target = rng.integers(-1, num_allies, (units - num_allies, count))
    goal = rng.uniform(0, 32, (2, units - num_allies, count))
    as_float = [jnp.asarray(v, jnp.float32) for v in (x, y, health, cooldown, *goal)]
    return state._replace(
        units=Units(*as_float[:4]),
        memory=enemy.Memory(jnp.asarray(target, jnp.int32), *as_float[4:]),
        actions=jnp.asarray(rng.integers(0, last, shape), jnp.int32),
        time=jnp.asarray(rng.integers(0, 50, count), jnp.int32),
    )


def differences(scenario: str, lethal_walls: bool, count: int, seed: int) -> dict[str, float]:
    """Worst absolute difference to JaxMARL by quantity, over `count` random states, random legal
    or illegal orders and the same random numbers; before and after one step."""
    env = Smax(scenario, walls="lethal" if lethal_walls else "safe")
    reference, rng = Reference(scenario, lethal_walls), np.random.default_rng(seed)
    state = random_states(env, rng, count)
    orders = rng.integers(0, env.spec.num_actions, (env.num_allies, count))
    orders = jnp.asarray(orders, jnp.int32)
    keys = jax.random.split(jax.random.PRNGKey(seed), count)

    def theirs(key: jax.Array, before: Any, orders: jax.Array):
        after, reward = reference.step(key, before, orders)
        return reference.observe(before), after, reward, reference.observe(after)

    def ours(keys: jax.Array, state: SmaxState, orders: jax.Array):
        noise = jax.vmap(reference.noise, out_axes=-1)(keys)
        after, step = env.step_with(noise, state, orders)
        return env.observe(state), after, step, env.observe(after)

    quick = {"xla_backend_optimization_level": 0}
    run = jax.jit(jax.vmap(theirs, in_axes=(0, 0, -1)), compiler_options=quick)
    seen, after, reward, seen_after = run(keys, reference.import_states(env, state), orders)
    mine = jax.jit(ours, compiler_options=quick)(keys, state, orders)
    return _compare(mine, (seen, after.state, after.enemy_policy_state, reward, seen_after))


def report(names: Iterable[str], states: int) -> Iterator[dict[str, Any]]:
    """The worst absolute difference of each quantity after one step from `states` random states,
    an environment at a time, for `smax/` ones or all of them.

    Walls are safe for those in even places of `SCENARIOS`, lethal in odd ones. Raises InputError:
    a name of none of these, `states` not above 0, or JaxMARL is not installed."""
    if states < 1:
        raise InputError(f"states = {states}: must be a whole number above 0")
    places = {f"smax/{scenario}": place for place, scenario in enumerate(SCENARIOS)}
    names = tuple(names) or tuple(places)
    for name in names:
        if name not in places:
            known = ", ".join(places)
            raise InputError(f"env = {name!r}: nothing to compare it with; known: {known}")
    for name in names:
        place = places[name]
        found = differences(name.removeprefix("smax/"), place % 2 == 1, states, seed=place)
        yield {"environment": name, "worst": max(found.values()), **found}


def _compare(
    mine: tuple[TeamView, SmaxState, Step, TeamView], theirs: tuple
) -> dict[str, float]:
    seen, state, step, seen_after = mine
    their_seen, inner, memory, reward, their_seen_after = theirs
    units, alive = state.units, state.units.alive
    allies = len(seen.alive)
    foes = alive[allies:]  # a dead enemy's orders and memory mean nothing
    moves = jnp.stack(directions(state.actions), axis=-1)
    attacks = jnp.where(state.actions >= MOVES, state.actions, 0)
    goals = jnp.stack([state.memory.goal_x, state.memory.goal_y], axis=-1)
    their_alive = inner.unit_alive.T
    won = their_alive[:allies].any(0) & ~their_alive[allies:].any(0)
    over = ~(their_alive[:allies].any(0) & their_alive[allies:].any(0))
    pairs = {
        "position": (jnp.stack([units.x, units.y], -1), jnp.swapaxes(inner.unit_positions, 0, 1)),
        "health": (units.health, inner.unit_health.T),
        "cooldown": (units.cooldown, inner.unit_weapon_cooldowns.T),
        "alive": (alive, their_alive),
        "move": (moves[alive], jnp.swapaxes(inner.prev_movement_actions, 0, 1)[alive]),
        "attack": (attacks[alive], inner.prev_attack_actions.T[alive]),
        "memory": (state.memory.target[foes], memory.last_attacked_enemy.T[foes]),
        "goal": (goals[foes], jnp.swapaxes(memory.default_target, 0, 1)[foes]),
        "reward": (step.reward, reward),
        "won": (step.won, won),
        "terminated": (step.terminated, over),
    }
    for name, a, b in (("", seen, their_seen), ("next ", seen_after, their_seen_after)):
        local, legal, alive_allies = (jnp.swapaxes(part, 0, 1) for part in b[:3])
        b = TeamView(local, legal, alive_allies, b.state)
        pairs |= {
            f"{name}observation": (a.observations, b.observations),
            f"{name}legal": (a.legal, b.legal),
            f"{name}alive allies": (a.alive, b.alive),
            f"{name}state": (a.state, b.state),
        }
    found = {}
    for name, (a, b) in pairs.items():
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        if a.shape != b.shape:
            raise ValueError(f"{name}: shapes {a.shape} and {b.shape}")
        found[name] = float(np.max(np.abs(a - b), initial=0.0))
    return found
