"""SMAX's battles and the environment contract: by hand, and against JaxMARL's own."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dm2.envs import Environment, Renderable, Step, TeamView, list_environments, make
from dm2.envs.geometry import separate
from dm2.envs.smax import Smax
from dm2.envs.smax.combat import Rules, fight
from dm2.envs.smax.parity import Reference, differences, random_states
from dm2.envs.smax.scenarios import SCENARIOS, UNIT_TYPES, surround_or_reflect
from dm2.envs.smax.units import Traits, Units
from dm2.errors import InputError
from toy_env import ToyEnv, compiled

SAFE = "smax/3s_vs_4z"
LETHAL = "smax/3s_vs_5z?walls=lethal&limit=3"
DRAWN = "smax/smacv2_5_units"
# Battles that run side by side. All programs below are compiled for this number.
B = 4
NORTH, EAST, SOUTH, WEST, STOP, ATTACK = range(6)


class Battles(NamedTuple):
    """An environment and its programs over `B` battles at once."""

    env: Any
    reset: Any
    step: Any
    observe: Any


@functools.cache
def battles(name: str) -> Battles:
    env = ToyEnv() if name == "toy" else make(name)
    reset, step, observe = compiled(env)
    return Battles(env, lambda key: reset(key, B), step, observe)


def smax(name: str) -> Smax:
    env = make(name)
    assert isinstance(env, Smax)
    return env


def key(seed: int) -> jax.Array:
    return jax.random.PRNGKey(seed)


def all_do(env: Environment, action: int) -> jax.Array:
    return jnp.full((env.spec.num_agents, B), action, jnp.int32)


def same_bits(a: Any, b: Any) -> bool:
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.asarray(x).tobytes() == np.asarray(y).tobytes() for x, y in pairs)


def edit(state: Any, **fields: Any) -> Any:
    """The state with other units' positions, health or cooldowns."""
    return state._replace(units=state.units._replace(**fields))


# ---- names and options


SIZES = {  # observation, actions and limit of the paper's tasks
    "smax/3s_vs_3z": (75, 8, 150),
    "smax/3s_vs_4z": (88, 9, 200),
    "smax/3s_vs_5z": (101, 10, 250),
    "smax/5m_vs_6m": (140, 11, 70),
    "smax/8m_vs_9m": (218, 14, 120),
}
# JaxMARL 0.2.0's own scenarios: name -> allies, enemies.
OTHERS = {
    **{"3m": (3, 3), "8m": (8, 8), "25m": (25, 25), "10m_vs_11m": (10, 11)},
    **{"27m_vs_30m": (27, 30), "2s3z": (5, 5), "3s5z": (8, 8), "3s5z_vs_3s6z": (8, 9)},
    **{"6h_vs_8z": (6, 8), "smacv2_5_units": (5, 5), "smacv2_10_units": (10, 10)},
    "smacv2_20_units": (20, 20),
}


def test_every_scenario_is_listed_once():
    expected = [*SIZES, *(f"smax/{name}" for name in OTHERS)]
    listed = [name for name in list_environments() if name.startswith("smax/")]
    assert sorted(listed) == sorted(expected)
    assert len(listed) == 17


@pytest.mark.parametrize("name", SIZES)
def test_sizes_of_the_papers_tasks(name):
    observation, actions, limit = SIZES[name]
    spec = make(name).spec
    assert (spec.observation_size, spec.num_actions) == (observation, actions)
    assert spec.episode_limit == limit
    assert spec.num_agents == int(name[5])
    assert spec.name == name
    assert spec.version == "smax 0.2.0"


@pytest.mark.parametrize("name", OTHERS)
def test_sizes_of_the_other_scenarios(name):
    allies, enemies = OTHERS[name]
    spec = make(f"smax/{name}").spec
    assert spec.num_agents == allies
    assert spec.num_actions == 5 + enemies
    assert spec.observation_size == 13 * (allies + enemies - 1) + 10
    assert spec.state_size == 12 * (allies + enemies)
    assert spec.episode_limit == 100


@pytest.mark.parametrize(
    ("name", "walls", "limit", "canonical"),
    [
        ("smax/3m?walls=lethal&limit=7", True, 7, "smax/3m?walls=lethal&limit=7"),
        ("smax/3m?limit=7&walls=lethal", True, 7, "smax/3m?walls=lethal&limit=7"),
        ("smax/3m?walls=safe", False, 100, "smax/3m"),
        ("smax/3m?limit=100", False, 100, "smax/3m"),
        ("smax/5m_vs_6m?limit=100", False, 100, "smax/5m_vs_6m?limit=100"),
    ],
)
def test_options(name, walls, limit, canonical):
    env = smax(name)
    assert env.rules.lethal_walls == walls
    assert env.spec.episode_limit == limit
    assert env.spec.name == canonical
    assert make(env.spec.name).spec == env.spec


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("smax/3s_vs_4zz", "did you mean 'smax/3s_vs_4z'"),
        ("smaxx/3s_vs_4z", "did you mean 'smax/3s_vs_4z'"),
        ("3s_vs_4z", "did you mean 'smax/3s_vs_4z'"),
        ("smax/5m_v_6m", "did you mean 'smax/5m_vs_6m'"),
        ("", "known: smax/5m_vs_6m"),
        ("smax/3m?wall=safe", "no option 'wall'; known: walls, reward, limit"),
        ("smax/3m?walls=soft", "walls must be 'safe' or 'lethal'"),
        ("smax/3m?walls", "walls must be 'safe' or 'lethal'"),
        ("smax/3m?limit=0", "limit must be a whole number from 1 to 2147483647"),
        ("smax/3m?limit=2147483648", "limit must be a whole number from 1 to 2147483647"),
        ("smax/3m?limit=-3", "limit must be a whole number from 1 to 2147483647"),
        ("smax/3m?limit=1.5", "limit must be a whole number from 1 to 2147483647"),
        ("smax/3m?limit=", "limit must be a whole number from 1 to 2147483647"),
    ],
)
def test_wrong_names_and_options_are_explained(name, message):
    with pytest.raises(InputError) as caught:
        make(name)
    assert message in str(caught.value)
    assert repr(name) in str(caught.value)


# ---- the contract, for any environment


def check_shapes(env: Environment, view: TeamView, step: Step | None = None) -> None:
    s = env.spec
    expected = {
        "observations": ((s.num_agents, B, s.observation_size), jnp.float32),
        "legal": ((s.num_agents, B, s.num_actions), bool),
        "alive": ((s.num_agents, B), bool),
        "state": ((B, s.state_size), jnp.float32),
    }
    for name, (shape, dtype) in expected.items():
        found = getattr(view, name)
        assert (found.shape, found.dtype) == (shape, dtype), name
    if step is not None:
        assert [x.shape for x in step] == [(B,)] * 4
        assert [x.dtype for x in step] == [jnp.float32, bool, bool, bool]


def check_step(step: Step, view: TeamView, steps: int, limit: int) -> None:
    """What is true of the outcome of every step of every environment: `steps` counts it in."""
    assert view.legal.any(axis=-1).all()  # the dead included
    assert np.isfinite(view.observations).all()
    assert np.isfinite(view.state).all()
    assert np.isfinite(step.reward).all()
    assert not (step.terminated & step.truncated).any()
    assert not (step.won & ~step.terminated).any()
    if steps < limit:
        assert not step.truncated.any()
    else:
        assert (step.terminated | step.truncated).all()


def random_legal(legal: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.argmax(rng.random(legal.shape) * legal, axis=-1).astype(np.int32)


@pytest.mark.parametrize(("name", "steps"), [("toy", 2), (SAFE, 40), (LETHAL, 30), (DRAWN, 25)])
def test_contract(name, steps):
    """Random legal battles; `reset` and `step` are functions of the key."""
    env, reset, step, observe = battles(name)
    rng = np.random.default_rng(0)
    state = reset(key(0))
    view = observe(state)
    check_shapes(env, view)
    assert all(leaf.shape[-1] == B for leaf in jax.tree.leaves(state))
    assert same_bits(reset(key(0)), state)
    assert not same_bits(reset(key(1)), state)
    assert view.alive.all()
    for t in range(1, steps + 1):
        actions = random_legal(np.asarray(view.legal), rng)
        following, result = step(key(t), state, actions)
        view = observe(following)
        check_shapes(env, view, result)
        told, seen = jax.tree.map(np.asarray, (result, view))
        check_step(told, seen, t, env.spec.episode_limit)
        assert jax.tree.structure(following) == jax.tree.structure(state)
        if t % 10 == 1:
            assert same_bits(step(key(t), state, actions), (following, result))
        state = following


def test_battles_side_by_side_do_not_touch():
    env, reset, step, observe = battles(SAFE)
    state = reset(key(0))
    hurt = edit(state, health=state.units.health.at[:, 2].multiply(0.5))
    before, after = (step(key(1), s, all_do(env, EAST)) for s in (state, hurt))
    for b in range(B):
        rows = [jax.tree.map(lambda x, b=b: x[..., b], tree) for tree in (before, after)]
        assert same_bits(*rows) == (b != 2)
    views = [observe(pair[0]) for pair in (before, after)]
    for b in range(B):
        rows = [
            jax.tree.map(lambda x, b=b: x[:, b], view._replace(state=view.state[None]))
            for view in views
        ]
        assert same_bits(*rows) == (b != 2)


# Two pairs of a stalker and a zealot far apart; one stalker and two zealots alone.
DUELS = [[5, 5], [5, 16], [5, 27], [6.3, 5], [6.3, 27], [28, 16], [28, 20]]


def placed(state: Any, places: list) -> Any:
    x, y = (jnp.tile(jnp.array(v, jnp.float32)[:, None], (1, B)) for v in zip(*places, strict=True))
    return edit(state, x=x, y=y)


def test_outcome_depends_on_the_key_and_on_the_actions():
    env, reset, step, _ = battles(SAFE)
    state = placed(reset(key(0)), DUELS)
    reference = step(key(1), state, all_do(env, ATTACK))
    assert not same_bits(step(key(2), state, all_do(env, ATTACK)), reference)
    assert not same_bits(step(key(1), state, all_do(env, STOP)), reference)


def test_a_dead_agents_action_is_ignored():
    env, reset, step, observe = battles(SAFE)
    state = reset(key(0))
    dead = edit(state, health=state.units.health.at[1].set(0.0))
    moving = all_do(env, STOP).at[1].set(EAST)
    idle_state, idle = step(key(1), dead, all_do(env, STOP))
    moved_state, moved = step(key(1), dead, moving)
    assert same_bits(idle_state.units, moved_state.units)
    assert same_bits(idle, moved)
    view = observe(idle_state)
    assert not view.alive[1].any()
    assert (view.observations[1] == 0).all()
    assert (view.legal[1] == (jnp.arange(env.spec.num_actions) == STOP)).all()


# ---- time limits


def test_truncated_exactly_at_the_limit_and_not_terminated():
    env, reset, step, observe = battles(LETHAL)
    assert env.spec.episode_limit == 3
    state = reset(key(0))
    for t in (1, 2, 3):
        state, result = step(key(t), state, all_do(env, STOP))
        assert (result.truncated == (t == 3)).all()
        assert not result.terminated.any()
        assert not result.won.any()
        assert observe(state).alive.all()


def test_default_limit_is_the_tasks_own():
    env, reset, step, _ = battles(SAFE)
    state = reset(key(0))
    for done, truncated in ((98, False), (99, False), (198, False), (199, True)):
        late = state._replace(time=state.time + done)
        _, result = step(key(1), late, all_do(env, STOP))
        assert (result.truncated == truncated).all()
        assert not result.terminated.any()


def test_a_battle_that_ends_at_the_limit_is_terminated_only():
    env, reset, step, _ = battles(SAFE)
    state = reset(key(0))
    late = with_dead(state, slice(3, 7))._replace(time=state.time + 199)
    _, result = step(key(1), late, all_do(env, STOP))
    assert result.terminated.all()
    assert not result.truncated.any()


# ---- winning and losing


def with_dead(state: Any, units: slice) -> Any:
    return edit(state, health=state.units.health.at[units].set(0.0))


def test_won_only_if_every_enemy_is_dead_and_an_ally_is_alive():
    env, reset, step, _ = battles(SAFE)
    state = reset(key(0))
    cases = [  # dead, won, terminated
        (slice(3, 7), True, True),
        (slice(1, 7), True, True),
        (slice(0, 3), False, True),
        (slice(0, 7), False, True),
        (slice(0, 6), False, True),
        (slice(3, 4), False, False),
        (slice(1, 6), False, False),
        (slice(0, 0), False, False),
    ]
    for dead, won, terminated in cases:
        _, result = step(key(1), with_dead(state, dead), all_do(env, STOP))
        assert (result.won == won).all()
        assert (result.terminated == terminated).all()
        assert (result.reward == float(won)).all()  # too far apart to hurt anyone


# ---- moving, walls and collisions


def test_moves():
    env, reset, step, _ = battles(SAFE)
    apart = [[5, 5], [15, 5], [25, 5], [5, 28], [12, 28], [20, 28], [28, 28]]
    state = placed(reset(key(0)), apart)
    for action, (east, north) in enumerate([(0, 1), (1, 0), (0, -1), (-1, 0), (0, 0)]):
        following, _ = step(key(1), state, all_do(env, action))
        stride = 8 * 4.13 / 16  # eight ticks of 1/16 s at the stalker's speed
        moved = (following.units.x - state.units.x)[:3], (following.units.y - state.units.y)[:3]
        np.testing.assert_allclose(moved[0], east * stride, atol=1e-5)
        np.testing.assert_allclose(moved[1], north * stride, atol=1e-5)


@pytest.mark.parametrize(("name", "survives"), [(SAFE, True), (LETHAL, False)])
def test_walking_into_a_wall(name, survives):
    """Battle b has ally 0 half a step from wall b: north, east, south, west."""
    env, reset, step, observe = battles(name)
    state = reset(key(0))
    x, y = jnp.array([16.0, 31.0, 16.0, 1.0]), jnp.array([31.0, 16.0, 1.0, 16.0])
    state = edit(state, x=state.units.x.at[0].set(x), y=state.units.y.at[0].set(y))
    actions = all_do(env, STOP).at[0].set(jnp.array([NORTH, EAST, SOUTH, WEST]))
    for t in range(2):
        state, _ = step(key(t + 1), state, actions)
        alive = observe(state).alive
        assert (alive[0] == survives).all()
        assert alive[1:].all()
    places = np.stack([state.units.x[0], state.units.y[0]])
    assert places[[1, 0, 1, 0], np.arange(B)].tolist() == [32.0, 32.0, 0.0, 0.0]
    assert ((state.units.health[0] == 160.0) == survives).all()


def marines(places: list, health: list) -> tuple[Traits, Units]:
    """One battle of marines."""
    x, y = (jnp.array(v, jnp.float32)[:, None] for v in zip(*places, strict=True))
    traits = Traits.of(UNIT_TYPES, np.zeros(len(places), np.int32))
    return traits, Units(x, y, jnp.array(health, jnp.float32)[:, None], jnp.zeros_like(x))


def test_overlapping_units_are_pushed_apart_by_half_each():
    # Marines of radius 0.375 half a unit apart: 0.25 too close. A dead one in between pushes
    # nobody, and one far away stays.
    traits, units = marines([[1, 1], [1.5, 1], [1.25, 1], [9, 9]], [45, 45, 0, 45])
    x, y = separate(units.x, units.y, traits.radius, units.alive)
    np.testing.assert_allclose(x[:, 0], [0.875, 1.625, 1.25, 9], atol=1e-5)
    np.testing.assert_allclose(y[:, 0], [1, 1, 1, 9], atol=1e-6)


def test_attacks_are_simultaneous_and_take_time():
    """Two marines at one: 9 points a hit, ready again after 0.61 s plus the deviation."""
    traits, units = marines([[1, 1], [1, 3], [4, 1]], [45, 45, 18])
    attack = jnp.array([[ATTACK], [ATTACK], [ATTACK + 1]], jnp.int32)  # the enemy: at unit 0
    deviations = jnp.full((1, 3, 1), 0.01)
    after = fight(Rules(ticks=1), traits, units, attack, deviations, 2)
    assert after.health[:, 0].tolist() == [36, 45, 0]
    np.testing.assert_allclose(after.cooldown[:, 0], [0.62] * 3, atol=1e-6)
    # At 0.61 s a weapon fires once in eight ticks, so that the second hit needs a second step.
    deviations = jnp.zeros((8, 3, 1))
    traits, units = marines([[1, 1], [20, 20], [4, 1]], [45, 45, 45])
    after = fight(Rules(), traits, units, attack, deviations, 2)
    assert after.health[:, 0].tolist() == [36, 45, 36]
    cooling = 0.61 - 7 / 16
    np.testing.assert_allclose(after.cooldown[:, 0], [cooling, -0.5, cooling], atol=1e-5)


def test_exactly_at_its_range_a_weapon_does_not_reach():
    traits, units = marines([[1, 1], [6, 1]], [45, 45])  # marines reach less than 5
    attack = jnp.full((2, 1), ATTACK, jnp.int32)
    after = fight(Rules(ticks=1), traits, units, attack, jnp.zeros((1, 2, 1)), 1)
    assert after.health[:, 0].tolist() == [45, 45]
    assert after.cooldown[:, 0].tolist() == [-1 / 16] * 2


def test_cooldowns_vary_by_minus_one_to_two_ticks():
    noise = smax("smax/3m").noise(key(0), 2000)
    assert noise.deviations.shape == (8, 6, 2000)
    low, high, mean = (float(f(noise.deviations)) for f in (jnp.min, jnp.max, jnp.mean))
    np.testing.assert_allclose([low, high, mean], [-1 / 16, 2 / 16, 0.5 / 16], atol=2e-3)
    assert (noise.draws.min() >= 0) and (noise.draws.max() < 1)


# ---- agreement with JaxMARL

QUANTITIES = 19


@pytest.mark.parametrize(
    ("scenario", "lethal"),
    [
        ("3s_vs_4z", False),
        pytest.param("3s5z", True, marks=pytest.mark.learning),
        pytest.param("smacv2_5_units", False, marks=pytest.mark.learning),
    ],
)
def test_equals_jaxmarl_from_any_state(scenario, lethal):
    found = differences(scenario, lethal, 500, seed=0)
    assert len(found) == QUANTITIES
    assert {name: worst for name, worst in found.items() if not worst <= 1e-5} == {}


def test_the_random_states_are_of_every_kind():
    env = smax("smax/3s_vs_4z")
    state = random_states(env, np.random.default_rng(0), 500)
    units, allies = jax.tree.map(np.asarray, state.units), env.num_allies
    actions = np.random.default_rng(1).integers(0, env.spec.num_actions, (allies, 500))
    after, step = jax.jit(env.step)(key(0), state, jnp.asarray(actions, jnp.int32))
    hurt = np.asarray(after.units.health) < units.health
    killed = hurt & (np.asarray(after.units.health) == 0)
    assert hurt[:allies].any() and hurt[allies:].any()
    assert killed[:allies].any() and killed[allies:].any()
    assert step.won.any() and (step.terminated & ~step.won).any()
    assert (units.x < 0).any() and (units.x == 32).any()
    dx, dy = (v[:allies, None] - v[allies:] for v in (units.x, units.y))
    distances = np.hypot(dx, dy)
    assert (distances == 0).any() and (distances == 6).any()
    assert (np.asarray(after.actions)[allies:] >= ATTACK).any()
    assert (np.asarray(after.actions)[allies:] < STOP).any()


@pytest.mark.learning
def test_whole_battles_are_as_jaxmarls():
    """Battles of a policy that walks east and then attacks what it can: share that ended, mean
    reward and length, within four standard errors."""
    env, theirs, battles_ = make("smax/3m?walls=lethal"), Reference("3m", True), 256
    steps = 40

    # By preference: attacking the last, …, the first enemy, walking east, stopping.
    rank = jnp.array([0, 2, 0, 0, 1, 3, 4, 5])

    def preferred(legal: jax.Array) -> jax.Array:
        return jnp.argmax(jnp.where(legal, rank, -1), axis=-1)

    def our_step(carry, step_key):
        state, over, total, length = carry
        state, result = env.step(step_key, state, preferred(env.observe(state).legal))
        total += jnp.where(over, 0.0, result.reward)
        length += ~over
        return (state, over | result.terminated, total, length), None

    def their_battle(seed):
        reset_key, step_key = jax.random.split(seed)
        _, state = theirs.env.reset(reset_key)

        def their_step(carry, step_key):
            state, over, total, length = carry
            state, reward = theirs.step(step_key, state, preferred(theirs.observe(state).legal))
            total += jnp.where(over, 0.0, reward)
            length += ~over
            alive = state.state.unit_alive
            return (state, over | ~(alive[:3].any() & alive[3:].any()), total, length), None

        carry = (state, jnp.array(False), jnp.array(0.0), jnp.array(0))
        return jax.lax.scan(their_step, carry, jax.random.split(step_key, steps))[0][1:]

    zeros = jnp.zeros(battles_)
    carry = (env.reset(key(0), battles_), zeros > 0, zeros, zeros.astype(int))
    run = jax.jit(lambda carry: jax.lax.scan(our_step, carry, jax.random.split(key(1), steps))[0])
    ours = run(carry)[1:]
    others = jax.jit(jax.vmap(their_battle))(jax.random.split(key(2), battles_))
    assert ours[0].mean() > 0.5  # most battles are over
    for a, b in zip(ours, others, strict=True):
        a, b = np.asarray(a, float), np.asarray(b, float)
        error = np.sqrt((a.var() + b.var()) / battles_)
        assert abs(a.mean() - b.mean()) < 4 * error + 1e-9, (a.mean(), b.mean(), error)


@pytest.mark.learning
def test_drawn_units_and_places_are_those_of_smacv2():
    env = smax("smax/smacv2_5_units")
    state = jax.jit(env.reset, static_argnums=1)(key(0), 4000)
    kinds = np.asarray(state.kinds)
    assert (kinds[:5] == kinds[5:]).all()
    assert np.bincount(kinds[0], minlength=6).min() > 500  # 667 each, 24 standard deviation
    reference = Reference("smacv2_5_units", False)
    places = jax.vmap(reference.env.position_generator.generate)(jax.random.split(key(1), 4000))
    x, y = surround_or_reflect(key(2), SCENARIOS["smacv2_5_units"], env.map_size, 4000)
    for unit in (0, 3, 7):
        mine = np.stack([x[unit], y[unit]])
        other = np.asarray(places[:, unit]).T
        # Along the axes and, for the corners, along a diagonal.
        for direction in ([1, 0], [0, 1], [1, -1]):
            a, b = (np.sort(np.array(direction) @ where) for where in (mine, other))
            # Kolmogorov and Smirnov's statistic of two samples of 4000: 0.044 at one in a thousand.
            grid = np.concatenate([a, b])
            gap = np.searchsorted(a, grid, "right") - np.searchsorted(b, grid, "right")
            assert np.abs(gap).max() / 4000 < 0.044


# ---- what is drawn


def test_a_battle_can_be_drawn():
    env, reset, _, _ = battles(SAFE)
    assert isinstance(env, Renderable)
    assert env.map_size == (32.0, 32.0)
    assert env.num_allies == 3
    state = reset(key(0))
    frame = jax.tree.map(lambda x: x[..., 0], env.frame(state))
    assert frame.position.shape == (7, 2)
    assert (frame.position[:, 0] == state.units.x[:, 0]).all()
    assert (frame.position[:, 1] == state.units.y[:, 0]).all()
    assert frame.health.tolist() == [1.0] * 7
    assert frame.alive.all()
    assert frame.target.tolist() == [-1] * 7
    assert [env.unit_names[k] for k in frame.kind] == ["stalker"] * 3 + ["zealot"] * 4
    assert [env.unit_radii[k] for k in frame.kind] == [0.625] * 3 + [0.5] * 4


def test_a_drawn_unit_points_at_the_unit_that_it_hurts():
    env, reset, step, _ = battles(SAFE)
    state = placed(reset(key(0)), DUELS)
    # Stalker 1 shoots at a zealot that is far out of range.
    actions = jnp.tile(jnp.array([[ATTACK], [ATTACK], [ATTACK + 1]], jnp.int32), (1, B))
    state, _ = step(key(1), state, actions)
    frame = jax.tree.map(lambda x: x[..., 0], env.frame(state))
    # Zealots number their targets backwards: unit 3 calls stalker 0 its third.
    assert frame.target.tolist() == [3, -1, 4, 0, 2, -1, -1]
    lost = np.array([160.0] * 3 + [150.0] * 4) - np.asarray(state.units.health[:, 0])
    assert lost.tolist() == [8, 0, 8, 13, 13, 0, 0]
    health = [152 / 160, 1, 152 / 160, 137 / 150, 137 / 150, 1, 1]
    np.testing.assert_allclose(frame.health, health, rtol=1e-6)
    fallen = jax.tree.map(lambda x: x[..., 0], env.frame(with_dead(state, slice(2, 4))))
    assert fallen.target.tolist() == [3, -1, -1, -1, 2, -1, -1]
    assert fallen.alive.tolist() == [True, True, False, False, True, True, True]


def test_other_rewards_of_smax_are_shares_of_health():
    """Of the first step in which anybody is hurt, long before anybody wins."""
    rewards = {}
    for name in ("smax", "damage", "safety"):
        env, reset, step, _ = battles(f"smax/3s_vs_3z?reward={name}")
        state = reset(key(0))
        full = np.asarray(state.units.health)
        for number in range(40):
            before = np.asarray(state.units.health)
            state, told = step(key(number), state, all_do(env, ATTACK))
            lost = (before - np.asarray(state.units.health)) / full
            if lost.sum() > 0:
                rewards[name] = np.asarray(told.reward), lost
                break
    lost = rewards["smax"][1]
    np.testing.assert_allclose(rewards["smax"][0], lost[3:].mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(rewards["damage"][0], lost[3:].mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(rewards["safety"][0], -lost[:3].mean(axis=0), rtol=1e-5)
