"""How far our SMAX is from JaxMARL's (0.2.0): both take one step from the same states, with the
same actions and the same random numbers.

JaxMARL is needed: `pip install 'dm2[jaxmarl]'`. It is untyped, so what it makes is `Any` here.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt32

from dm2.envs.adapters.jaxmarl import quiet_import
from dm2.envs.base import Step, TeamView
from dm2.envs.smax import enemy
from dm2.envs.smax.combat import ATTACK, directions
from dm2.envs.smax.environment import Noise, Smax, SmaxState
from dm2.envs.smax.scenarios import SCENARIOS
from dm2.envs.smax.units import Units
from dm2.errors import InputError

__all__ = ["TOLERANCE", "Reference", "differences", "random_states", "report"]

TOLERANCE = 1e-5
"""The largest difference that rounding explains; positions are up to 32."""


class Reference:
    """A reference is JaxMARL's environment of a scenario, which takes our states and numbers."""

    def __init__(self, scenario: str, lethal_walls: bool, limit: int = 2**30) -> None:
        """Make JaxMARL's environment.

        Args:
            scenario: A key of `SCENARIOS`.
            lethal_walls: Whether a unit dies on the map's edge.
            limit: Steps after which a battle ends; by default it is never reached.

        Raises:
            InputError: If JaxMARL is not installed.
        """
        try:
            with quiet_import():
                from jaxmarl.environments.smax import HeuristicEnemySMAX
                from jaxmarl.environments.smax.smax_env import Scenario
        except ImportError as error:
            raise InputError("comparing needs JaxMARL: pip install 'dm2[jaxmarl]'") from error
        layout = SCENARIOS[scenario]
        self.num_allies, self.num_enemies = len(layout.allies), len(layout.enemies)
        kinds = jnp.array(layout.allies + layout.enemies, jnp.uint8)
        theirs = Scenario(kinds, self.num_allies, self.num_enemies, layout.random, layout.random)
        self.env: Any = HeuristicEnemySMAX(
            scenario=theirs, walls_cause_death=lethal_walls, max_steps=limit
        )

    def noise(self, key: UInt32[Array, "2"]) -> Noise:
        """The numbers that JaxMARL draws from `key` in one step of one battle."""
        tick, units = self.env.time_per_step, self.num_allies + self.num_enemies
        key, action_key = jax.random.split(key)

        def draw(key: Array) -> Array:  # as `jax.random.choice` does
            return jax.random.uniform(jax.random.split(key)[0])

        def deviate(key: Array, _: None) -> tuple[Array, Array]:
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

    def _import(self, state: SmaxState, moves: Float[Array, "2 U"]) -> Any:
        """One of our battles as JaxMARL's state; `state` has no battle axis."""
        assert state.kinds is not None
        _, blank = self.env.reset(jax.random.PRNGKey(0))
        inner = blank.state.replace(
            unit_positions=jnp.stack([state.units.x, state.units.y], axis=-1),
            unit_alive=state.units.health > 0,
            unit_health=state.units.health,
            unit_types=state.kinds.astype(blank.state.unit_types.dtype),
            unit_weapon_cooldowns=state.units.cooldown,
            prev_movement_actions=moves.T,
            prev_attack_actions=jnp.where(state.actions >= ATTACK, state.actions, 0),
            step=state.time,
        )
        memory = blank.enemy_policy_state.replace(
            default_target=jnp.stack([state.memory.goal_x, state.memory.goal_y], axis=-1),
            last_attacked_enemy=state.memory.target,
        )
        return blank.replace(state=inner, enemy_policy_state=memory)

    def step(
        self, key: UInt32[Array, "2"], state: Any, actions: Int[Array, " K"]
    ) -> tuple[Any, Float[Array, ""]]:
        """One step of one battle: the state that follows and the reward."""
        chosen = {name: actions[i] for i, name in enumerate(self.env.agents)}
        _, state, rewards, _, _ = self.env.step_env(key, state, chosen)
        return state, rewards[self.env.agents[0]]

    def observe(self, state: Any) -> TeamView:
        """What the allies of one battle perceive; the arrays have no environment axis."""
        observations, legal = self.env.get_obs(state), self.env.get_avail_actions(state)
        names = self.env.agents
        return TeamView(
            jnp.stack([observations[name] for name in names]),
            jnp.stack([legal[name] for name in names]).astype(bool),
            state.state.unit_alive[: self.num_allies],
            self.env.get_world_state(state),
        )


def random_states(env: Smax, rng: np.random.Generator, count: int) -> SmaxState:
    """`count` battles in any state: crowded and scattered, at and beyond walls, units dead, out of
    sight and exactly in line, weapons ready and cooling.

    Large teams are spread over more of the map. Where many units stand nearly on one spot, the
    direction of a push hangs on the last bit, and the order of a sum decides who goes where.
    """
    state = env.reset(jax.random.PRNGKey(rng.integers(2**31)), count)
    units, num_allies = len(state.actions), env.num_allies
    shape = (units, count)
    scale = max(units / 11, 1)
    crowd = rng.choice([1.5 * scale, 4.0 * scale, 16.0], count)  # half of the width of the crowd
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
    ally = np.arange(units)[:, None] < num_allies
    num_actions = ATTACK + np.where(ally, units - num_allies, num_allies)
    target = rng.integers(-1, num_allies, (units - num_allies, count))
    goal = rng.uniform(0, 32, (2, units - num_allies, count))
    as_float = [jnp.asarray(v, jnp.float32) for v in (x, y, health, cooldown, *goal)]
    return state._replace(
        units=Units(*as_float[:4]),
        memory=enemy.Memory(jnp.asarray(target, jnp.int32), *as_float[4:]),
        actions=jnp.asarray(rng.integers(0, num_actions, shape), jnp.int32),
        time=jnp.asarray(rng.integers(0, 50, count), jnp.int32),
    )


def differences(scenario: str, lethal_walls: bool, count: int, seed: int) -> dict[str, float]:
    """The worst absolute difference to JaxMARL of each quantity, before and after one step.

    Args:
        scenario: A key of `SCENARIOS`.
        lethal_walls: Whether a unit dies on the map's edge.
        count: The number of random states, each with random legal or illegal actions.
        seed: The seed of the states, the actions and the step's randomness.

    Returns:
        The difference by the quantity's name.

    Raises:
        InputError: If JaxMARL is not installed.
    """
    env = Smax(scenario, walls="lethal" if lethal_walls else "safe")
    reference, rng = Reference(scenario, lethal_walls), np.random.default_rng(seed)
    state = random_states(env, rng, count)
    actions = rng.integers(0, env.spec.num_actions, (env.num_allies, count))
    actions = jnp.asarray(actions, jnp.int32)
    keys = jax.random.split(jax.random.PRNGKey(seed), count)

    def theirs(key: Array, before: Any, actions: Array):
        after, reward = reference.step(key, before, actions)
        return reference.observe(before), after, reward, reference.observe(after)

    def ours(keys: Array, state: SmaxState, actions: Array):
        noise = jax.vmap(reference.noise, out_axes=-1)(keys)
        after, step = env.step_with(noise, state, actions)
        return env.observe(state), after, step, env.observe(after)

    quick = {"xla_backend_optimization_level": 0}
    run = jax.jit(jax.vmap(theirs, in_axes=(0, 0, -1)), compiler_options=quick)
    view, after, reward, next_view = run(keys, reference.import_states(env, state), actions)
    mine = jax.jit(ours, compiler_options=quick)(keys, state, actions)
    return _compare(mine, (view, after.state, after.enemy_policy_state, reward, next_view))


def report(names: Iterable[str], states: int) -> Iterator[dict[str, Any]]:
    """Compares environments with JaxMARL's, one at a time.

    Walls are safe for the scenarios in even places of `SCENARIOS`, lethal for those in odd ones.

    Args:
        names: Environments, `smax/` and a scenario; none stands for all of them.
        states: The number of random states that each is compared in.

    Yields:
        The environment's name, the worst absolute difference of all and that of each quantity.

    Raises:
        InputError: If a name is none of these, `states` is not above 0, or JaxMARL is not
            installed.
    """
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
    mine: tuple[TeamView, SmaxState, Step, TeamView],
    theirs: tuple[TeamView, Any, Any, Any, TeamView],
) -> dict[str, float]:
    """The worst absolute difference of each quantity.

    Args:
        mine: What our allies perceive, the state after the step, the outcome, what they perceive
            then.
        theirs: The same of JaxMARL: view, state, the enemies' memory, reward, next view; the
            battle axis is the first.
    """
    view, state, step, next_view = mine
    their_view, inner, memory, reward, their_next_view = theirs
    units, alive = state.units, state.units.alive
    allies = len(view.alive)
    foes = alive[allies:]  # a dead enemy's actions and memory mean nothing
    moves = jnp.stack(directions(state.actions), axis=-1)
    attacks = jnp.where(state.actions >= ATTACK, state.actions, 0)
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
    views = (("", view, their_view), ("next ", next_view, their_next_view))
    for prefix, a, b in views:
        pairs |= {
            f"{prefix}observation": (a.observations, jnp.swapaxes(b.observations, 0, 1)),
            f"{prefix}legal": (a.legal, jnp.swapaxes(b.legal, 0, 1)),
            f"{prefix}alive allies": (a.alive, jnp.swapaxes(b.alive, 0, 1)),
            f"{prefix}state": (a.state, b.state),
        }
    found = {}
    for name, (a, b) in pairs.items():
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        if a.shape != b.shape:
            raise ValueError(f"{name}: shapes {a.shape} and {b.shape}")
        found[name] = float(np.max(np.abs(a - b), initial=0.0))
    return found
