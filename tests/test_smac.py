"""SMAC's battles: sizes as published, combat by hand, layout against a plain loop over units."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dm2.envs import TeamView, make
from dm2.envs.geometry import separate
from dm2.envs.smac import Smac, SmacState
from dm2.envs.smac.combat import Orders, Rules, fight
from dm2.envs.smac.scenarios import SCENARIOS, UNIT_TYPES
from dm2.envs.smac.units import Traits, Units
from dm2.errors import InputError
from toy_env import compiled

STOP, NORTH, SOUTH, EAST, WEST, ATTACK = 1, 2, 3, 4, 5, 6
# (speed, reach to a unit of radius 0) of marine, stalker, zealot per tick and in map units
MARINE, STALKER, ZEALOT = (0.1406, 5.375), (0.1846, 6.625), (0.1406, 0.6)


@functools.cache
def smac(name: str) -> Smac:
    env = make(f"smac/{name}")
    assert isinstance(env, Smac)
    return env


def begin(env: Smac, battles: int = 1, seed: int = 0) -> SmacState:
    return compiled(env).reset(jax.random.PRNGKey(seed), battles)


def act(env: Smac, state: SmacState, *actions: int, seed: int = 0):
    orders = np.array(actions, np.int32)[:, None]
    return compiled(env).step(jax.random.PRNGKey(seed), state, orders)


def observe(env: Smac, state: SmacState) -> TeamView:
    return compiled(env).observe(state)


def battle(name: str, **changes) -> tuple[Smac, SmacState]:
    """A fresh battle, its units changed: each of `changes` is one value per unit."""
    env = smac(name)
    state = begin(env)
    units = state.units
    for name, values in changes.items():
        dtype = getattr(units, name).dtype
        units = units._replace(**{name: np.asarray(values, dtype)[:, None]})
    return env, jax.device_put(state._replace(units=units))


def after_ticks(scenario: str, state: SmacState, ticks: int, *targets: int) -> Units:
    """The units after so many ticks in which each ally attacks one of `targets`, -1 for nobody, and
    shots vary by nothing."""
    layout = SCENARIOS[scenario]
    traits = Traits.of(UNIT_TYPES["void"], np.array(layout.allies + layout.enemies))
    still = jnp.asarray(np.zeros((len(targets), 1), np.float32))
    target = jnp.asarray(np.array(targets, np.int32)[:, None])
    exactly = jnp.asarray(np.zeros((ticks, *state.units.x.shape), np.float32))

    def fought(units: Units, orders: Orders, deviations: jax.Array) -> Units:
        return fight(Rules(), traits, units, orders, deviations, len(targets))

    return jax.jit(fought)(state.units, Orders(still, still, target), exactly)


@pytest.mark.parametrize(
    ("scenario", "observation", "actions", "state", "limit"),
    [  # as SMAC itself reports them
        ("3m", 30, 9, 48, 60),
        ("8m", 80, 14, 168, 120),
        ("5m_vs_6m", 55, 12, 98, 70),
        ("8m_vs_9m", 85, 15, 179, 120),
        ("10m_vs_11m", 105, 17, 243, 150),
        ("27m_vs_30m", 285, 36, 1170, 180),
        ("2s3z", 80, 11, 120, 120),
        ("3s5z", 128, 14, 216, 150),
        ("3s_vs_3z", 36, 9, 54, 150),
        ("3s_vs_4z", 42, 10, 61, 200),
        ("3s_vs_5z", 48, 11, 68, 250),
    ],
)
def test_sizes_are_those_of_smac(scenario, observation, actions, state, limit):
    env = smac(scenario)
    spec = env.spec
    sizes = (spec.observation_size, spec.num_actions, spec.state_size, spec.episode_limit)
    assert sizes == (observation, actions, state, limit)
    view = jax.eval_shape(lambda: env.observe(env.reset(jax.random.PRNGKey(0), 2)))
    shapes = (view.observations.shape[2], view.legal.shape[2], view.state.shape[1])
    assert shapes == (observation, actions, state)


def test_names_and_options():
    assert make("smac/3s_vs_4z").spec.name == "smac/3s_vs_4z"
    assert make("smac/3s_vs_4z?limit=30").spec.name == "smac/3s_vs_4z?limit=30"
    assert make("smac/3s_vs_4z?limit=200").spec.name == "smac/3s_vs_4z"
    name = "smac/3s_vs_4z?starts=order&numbers=liberty&reward=signed"
    assert make(name).spec.name == name
    assert make("smac/3s_vs_4z?starts=fixed&numbers=void").spec.name == "smac/3s_vs_4z"
    for wrong in ("starts=here", "numbers=swarm"):
        with pytest.raises(InputError, match=wrong.partition("=")[0] + " must be '"):
            make(f"smac/3s_vs_4z?{wrong}")
    with pytest.raises(InputError, match="no option 'walls'"):
        make("smac/3s_vs_4z?walls=lethal")


@pytest.mark.parametrize("scenario", ["5m_vs_6m", "3s_vs_4z", "2s3z"])
def test_layout_against_a_loop_over_units(scenario):
    """Every number of observation, legal actions and state, from SMAC's definition."""
    env = smac(scenario)
    allies, count = env.num_allies, env.num_allies + env.num_enemies
    low, high = (0, 32) if scenario == "3s_vs_4z" else (8, 24)
    rng = np.random.default_rng(1)
    battles = 40
    state = begin(env, battles)
    health = np.where(rng.random((count, battles)) < 0.2, 0, rng.uniform(1, 40, (count, battles)))
    full_shield = np.asarray(state.units.shield)
    units = state.units._replace(
        x=rng.uniform(0.5, 20, (count, battles)).astype(np.float32),
        y=rng.uniform(low + 0.5, low + 15.5, (count, battles)).astype(np.float32),
        health=health.astype(np.float32),
        shield=(full_shield * rng.random((count, battles))).astype(np.float32),
        cooldown=rng.uniform(0, 15, (count, battles)).astype(np.float32),
    )
    last = rng.integers(-1, env.spec.num_actions, (allies, battles))
    state = SmacState(units, jnp.asarray(last, jnp.int32), state.time)
    view = jax.tree.map(np.asarray, observe(env, jax.device_put(state)))

    names = "mmmmmmmmmmm" if scenario == "5m_vs_6m" else "ssszzzz"
    names = "sszzzsszzz" if scenario == "2s3z" else names
    most = {"m": (45, 0, 15), "s": (80, 80, 35), "z": (100, 50, 22)}
    x, y, hp, shield, cooldown = (np.asarray(v) for v in units[:5])

    def condition(unit: int, n: int) -> list[float]:
        points, shields, _ = most[names[unit]]
        values = [hp[unit, n] / points] + ([shield[unit, n] / shields] if shields else [])
        if scenario == "2s3z":
            order = "sz" if unit < allies else "zs"
            values += [float(names[unit] == kind) for kind in order]
        return values

    for n in range(battles):
        parts: list[float] = []
        for k in range(allies):
            width = len(condition(k, n))
            legal = np.zeros(env.spec.num_actions, bool)
            row: list[float] = []
            if hp[k, n] <= 0:
                legal[0] = True
                row = [0.0] * env.spec.observation_size
            else:
                legal[1] = True
                for move, (dx, dy) in enumerate([(0, 1), (0, -1), (1, 0), (-1, 0)]):
                    u, v = int(x[k, n] + dx), int(y[k, n] + dy)  # truncated, as SMAC does it
                    legal[2 + move] = 0 <= u < 32 and low <= v < high
                row += legal[2:6].astype(float).tolist()
                others = [*range(allies, count), *(i for i in range(allies) if i != k)]
                for i in others:
                    dx, dy = x[i, n] - x[k, n], y[i, n] - y[k, n]
                    distance = math.hypot(dx, dy)
                    if i >= allies:
                        legal[6 + i - allies] = hp[i, n] > 0 and distance <= 6
                    if hp[i, n] > 0 and distance < 9:
                        first = float(legal[6 + i - allies]) if i >= allies else 1.0
                        row += [first, distance / 9, dx / 9, dy / 9, *condition(i, n)]
                    else:
                        row += [0.0] * (4 + width)
                row += condition(k, n)
            np.testing.assert_allclose(view.observations[k, n], row, atol=1e-5)
            assert np.asarray(view.legal[k, n]).tolist() == legal.tolist()
        for i in range(count):
            where = [(x[i, n] - 16) / 32, (y[i, n] - 16) / 32]
            first, *rest = condition(i, n)
            cool = [cooldown[i, n] / most[names[i]][2]] if i < allies else []
            row = [first, *cool, *where, *rest]
            parts += row if hp[i, n] > 0 else [0.0] * len(row)
        parts += np.eye(env.spec.num_actions + 1)[last[:, n], :-1].ravel().tolist()
        np.testing.assert_allclose(view.state[n], parts, atol=1e-5)


def test_battles_with_fixed_starts_start_alike_and_apart():
    env = smac("27m_vs_30m?starts=fixed")
    units = jax.tree.map(np.asarray, begin(env, 2).units)
    np.testing.assert_array_equal(units.x[:, 0], begin(env, 1, seed=9).units.x[:, 0])
    places = np.stack([units.x[:, 0], units.y[:, 0]], axis=1)
    gaps = np.linalg.norm(places[:, None] - places[None], axis=2) + 9 * np.eye(57)
    assert gaps.min() >= 1.25
    np.testing.assert_allclose(
        [(side.max(axis=0) + side.min(axis=0)) / 2 for side in (places[:27], places[27:])],
        [[9, 16], [23, 16]],
    )


def starts_of(name: str, battles: int = 600) -> np.ndarray:
    """Where the units start, `[2, U, battles]`."""
    units = begin(smac(name), battles).units
    return np.stack([units.x, units.y])


def test_starts_in_which_the_enemies_order_is_drawn():
    drawn, fixed = starts_of("5m_vs_6m?starts=order"), starts_of("5m_vs_6m?starts=fixed")
    np.testing.assert_array_equal(drawn[:, :5], fixed[:, :5])
    same = np.all(drawn[:, 5:, None] == fixed[:, None, 5:], axis=0)  # [enemy, place, battle]
    assert np.all(same.sum(axis=0) == 1)
    assert np.all(same.sum(axis=1) == 1)
    # Each enemy is at each place in a sixth of 600 battles: 100, with a standard deviation of 9.
    assert np.all(np.abs(same.sum(axis=2) - 100) < 45)


@pytest.mark.parametrize(("task", "allies", "least"), [("5m_vs_6m", 5, 0.75), ("2s3z", 5, 1.25)])
def test_starts_in_which_the_spacing_is_drawn(task, allies, least):
    """From where the largest units touch, twice their radius, to 1.65."""
    drawn, fixed = starts_of(f"{task}?starts=spacing"), starts_of(f"{task}?starts=fixed")
    spacings = []
    for side, point in ((slice(allies), 9), (slice(allies, None), 23)):
        centre = np.array([point, 16])[:, None, None]
        from_centre, usual = drawn[:, side] - centre, fixed[:, side] - centre
        spacings.append(1.5 * from_centre[1, 0] / usual[1, 0])
        np.testing.assert_allclose(from_centre, usual * spacings[-1] / 1.5, atol=1e-5)
        assert least <= spacings[-1].min() < least + 0.03
        assert 1.62 < spacings[-1].max() <= 1.65 + 1e-6
    assert abs(np.corrcoef(*spacings)[0, 1]) < 0.2


def test_starts_in_which_each_units_place_is_drawn():
    drawn, fixed = starts_of("5m_vs_6m?starts=jitter"), starts_of("5m_vs_6m?starts=fixed")
    off = (drawn - fixed).reshape(22, -1)
    assert np.all((off.min(axis=1) >= -0.3 - 1e-5) & (off.min(axis=1) < -0.29))
    assert np.all((off.max(axis=1) <= 0.3 + 1e-5) & (off.max(axis=1) > 0.29))
    # All of them apart from one another.
    assert np.abs(np.corrcoef(off) - np.eye(22)).max() < 0.2


def test_starts_in_which_all_is_drawn():
    """The block's own places, 5 * 2 + 6 * 2 numbers, are left by all three."""
    drawn = starts_of("5m_vs_6m?starts=varied")
    wide = np.abs(drawn[1, :5] - 16).max(axis=0)
    # Rows at -1, 0 and 1 spacings: between 0.75 - 0.3 and 1.65 + 0.3.
    assert 0.45 <= wide.min() < 0.75
    assert 1.65 < wide.max() <= 1.95 + 1e-5
    # The first enemy is in any column: at -1/2 or 1/2 a spacing.
    assert drawn[0, 5].min() < 22.6
    assert drawn[0, 5].max() > 23.4


def test_lone_stalkers_fight_in_the_open_all_others_between_cliffs():
    for name in SCENARIOS:
        rules = smac(name).rules
        open_ground = name in ("3s_vs_3z", "3s_vs_4z", "3s_vs_5z")
        assert (rules.bottom, rules.top) == ((0, 32) if open_ground else (8, 24))


def test_a_move_covers_eight_ticks_and_ends_at_the_edge():
    env, state = battle("3s_vs_3z", x=[5, 10, 15, 30, 30, 30], y=[5, 31, 5, 20, 25, 30])
    state, _ = act(env, state, EAST, NORTH, STOP)
    np.testing.assert_allclose(state.units.x[:3, 0], [5 + 8 * STALKER[0], 10, 15], atol=1e-5)
    np.testing.assert_allclose(state.units.y[:3, 0], [5, 32 - 0.625, 5], atol=1e-5)
    state, _ = act(env, state, SOUTH, WEST, STOP)
    np.testing.assert_allclose(state.units.y[0, 0], 5 - 8 * STALKER[0], atol=1e-5)
    np.testing.assert_allclose(state.units.x[1, 0], 10 - 8 * STALKER[0], atol=1e-5)


def test_enemies_out_of_sight_of_everybody_march_on_the_allies_start():
    env, state = battle("3s_vs_3z", x=[1, 1, 1, 25, 9, 30], y=[31, 29, 27, 16, 26, 1])
    after, _ = act(env, state, STOP, STOP, STOP)
    step = 8 * ZEALOT[0]
    np.testing.assert_allclose(after.units.x[3:5, 0], [25 - step, 9], atol=1e-4)
    np.testing.assert_allclose(after.units.y[3:5, 0], [16, 26 - step], atol=1e-4)
    assert np.all(after.units.target == -1)


def test_a_stalker_shoots_shields_first_then_health_less_armour():
    # In reach (surface to surface 6) at 6 + 0.625 + 0.5 = 7.125; the zealot has 5 points of shield.
    places = {"x": [5, 1, 1, 11, 30, 31], "y": [16, 1, 30, 16, 1, 30]}
    env, state = battle("3s_vs_3z", **places, shield=[80, 80, 80, 5, 50, 50])
    after, step = act(env, state, ATTACK, STOP, STOP)
    # 13 points: 5 on the shield, 8 - 1 on health.
    assert after.units.shield[3, 0] == 0
    assert after.units.health[3, 0] == 100 - 7
    assert 30 - 1 - 8 + 1 <= after.units.cooldown[0, 0] <= 30 + 2 - 8 + 1
    # SMAC's reward: 12 points, 20 / (3 * 10 + 200 + 3 * 150) each.
    np.testing.assert_allclose(step.reward, [12 * 20 / 680], rtol=1e-5)
    again, _ = act(env, after, ATTACK, STOP, STOP)
    assert again.units.health[3, 0] == 93  # the weapon cools
    assert again.units.cooldown[1, 0] == 0  # and stays ready once it is
    # Since the hit; the others have never been hit.
    assert 0 < again.units.calm[3, 0] < 16
    assert again.units.calm[4, 0] == 16


@pytest.mark.parametrize(
    ("ticks", "shield", "health"),
    [  # 8 points a blow; the second comes 4.48 ticks after the first: with the sixth tick.
        (1, 10 - 8, 80),
        (5, 10 - 8, 80),
        (6, 0, 80 - (6 - 1)),  # 2 are left to the shield, and 6 less the armour go to health
        (20, 0, 75),
        (21, 0, 75 - (8 - 1)),  # 19.3 after the first blow: the next attack
    ],
)
def test_a_zealot_strikes_twice_and_armour_counts_twice(ticks, shield, health):
    # Weapons reach 0.1 + 0.5 + 0.625 = 1.225.
    places = {"x": [9, 1, 1, 10.2, 30, 31], "y": [16, 1, 30, 16, 1, 30]}
    _, state = battle("3s_vs_3z", **places, shield=[10, 80, 80, 50, 50, 50])
    units = after_ticks("3s_vs_3z", state, ticks, -1, -1, -1)
    assert (units.shield[0, 0], units.health[0, 0]) == (shield, health)
    assert units.target[3, 0] == 0


def test_the_second_blow_falls_on_whom_the_first_struck():
    """The first stalker walks away, out of reach; the zealot turns to the second."""
    places = {"x": [9, 11.42, 1, 10.2, 30, 31], "y": [16, 16, 30, 16, 1, 30]}
    env, state = battle("3s_vs_3z", **places, shield=[10, 80, 80, 50, 50, 50])
    after, _ = act(env, state, WEST, STOP, STOP)
    assert after.units.target[3, 0] == 1
    assert after.units.health[0, 0] == 75
    assert after.units.shield[1, 0] == 80


def test_who_dies_between_two_blows_strikes_no_second():
    places = {"x": [9, 1, 1, 10.2, 30, 31], "y": [16, 1, 30, 16, 1, 30]}
    changes = {"health": [80, 80, 80, 1, 100, 100], "shield": [10, 80, 80, 0, 50, 50]}
    env, state = battle("3s_vs_3z", **places, **changes, cooldown=[3, 0, 0, 0, 0, 0])
    after, _ = act(env, state, ATTACK, STOP, STOP)
    assert after.units.health[3, 0] == 0
    assert (after.units.shield[0, 0], after.units.health[0, 0]) == (2, 80)


def test_two_attacks_are_a_cooldown_apart():
    """13.7 ticks, so in the first tick and in the fifteenth."""
    places = {"x": [10, 1, 1, 14, 31, 31], "y": [16, 9, 23, 16, 9, 23]}
    _, state = battle("3m", **places, health=[45, 45, 45, 45, 0, 0])
    for ticks, left in ((14, 45 - 6), (15, 45 - 12)):
        assert after_ticks("3m", state, ticks, 3, -1, -1).health[3, 0] == left


def test_a_blow_does_half_a_point_at_least():
    # 13 points on a shield of 12: the one left over is no more than the armour.
    places = {"x": [5, 1, 1, 11, 30, 31], "y": [16, 1, 30, 16, 1, 30]}
    env, state = battle("3s_vs_3z", **places, shield=[80, 80, 80, 12, 50, 50])
    after, _ = act(env, state, ATTACK, STOP, STOP)
    assert after.units.health[3, 0] == 99.5


def test_overlapping_units_are_pushed_apart():
    env, state = battle("3s_vs_3z", x=[9, 9.5, 1, 31, 31, 31], y=[16, 16, 1, 1, 15, 31])
    after, _ = act(env, state, STOP, STOP, STOP)
    np.testing.assert_allclose(after.units.x[:2, 0], [9.25 - 0.625, 9.25 + 0.625], atol=1e-4)


def test_zealots_stand_closer_than_their_weapons_surfaces():
    """Two of them march in line, 0.5 apart; their separation radius is 0.375."""
    env, state = battle("3s_vs_3z", x=[1, 1, 1, 25, 25.5, 31], y=[1, 30, 31, 16, 16, 31])
    after, _ = act(env, state, STOP, STOP, STOP)
    np.testing.assert_allclose(after.units.x[4, 0] - after.units.x[3, 0], 0.75, atol=1e-4)


def test_who_walks_does_not_shove_who_stands_and_shoots():
    places = {"x": [5, 3.8, 1, 11, 31, 31], "y": [16, 16, 30, 16, 1, 30]}
    env, state = battle("3s_vs_3z", **places)
    after, _ = act(env, state, ATTACK, EAST, STOP)
    # Stalkers touch at 1.25.
    np.testing.assert_allclose(after.units.x[:2, 0], [5, 3.75], atol=1e-4)
    # One that stands without shooting is shoved: each takes half of an overlap in every tick.
    after, _ = act(env, state, STOP, EAST, STOP)
    assert after.units.x[0, 0] > 5.5


def test_an_overlap_is_shared_unless_one_of_two_is_firm():
    """Circles of radius 0.5 at 0 and 0.5 overlap by 0.5."""
    x, y = np.array([[0], [0.5]], np.float32), np.zeros((2, 1), np.float32)
    pushed = jax.jit(separate)
    for firm, expected in (
        ([0, 0], [-0.25, 0.75]),
        ([1, 0], [0, 1]),
        ([0, 1], [-0.5, 0.5]),
        ([1, 1], [-0.25, 0.75]),
    ):
        flags = np.array(firm, bool)[:, None]
        moved, _ = pushed(x, y, np.full_like(x, 0.5), np.ones((2, 1), bool), flags)
        np.testing.assert_allclose(moved[:, 0], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("numbers", "damage", "armoured", "cooldown"), [("void", 13, 18, 30), ("liberty", 10, 14, 23)]
)
def test_the_stalkers_numbers(numbers, damage, armoured, cooldown):
    """The first stalker shoots a stalker, the second a zealot; blows are all on the shield."""
    far = [1, 31, 1, 31, 1, 31, 3, 29]
    places = {"x": [5, 5, *far], "y": [9, 23, 9, 9, 11, 11, 13, 13, 22, 22]}
    places["x"][5], places["y"][5] = 10, 9
    places["x"][7], places["y"][7] = 10, 23
    # The enemy's weapons cool, so that nobody else shoots.
    env, state = battle(f"2s3z?numbers={numbers}", **places, cooldown=[0] * 5 + [100] * 5)
    after, _ = act(env, state, ATTACK, ATTACK + 2, STOP, STOP, STOP)
    assert after.units.shield[5, 0] == 80 - armoured
    assert after.units.shield[7, 0] == 50 - damage
    assert cooldown - 1 - 7 <= after.units.cooldown[0, 0] <= cooldown + 2 - 7


def test_an_attack_order_walks_into_reach_first():
    # Marines reach 5.75; SMAC allows the order from 6 on. The enemy's weapons cool.
    places = {"x": [5] * 5 + [10.95] + [31] * 5, "y": [16, 9, 10, 22, 23, 16, 9, 11, 13, 20, 22]}
    env, state = battle("5m_vs_6m", **places, cooldown=[0] * 5 + [100] * 6)
    assert observe(env, state).legal[0, 0, ATTACK]
    after, _ = act(env, state, ATTACK, STOP, STOP, STOP, STOP)
    assert after.units.health[5, 0] == 45 - 6
    assert after.units.x[0, 0] > 5


def test_who_has_its_target_in_reach_stands():
    # Stalkers reach 6.625 + 0.5 to a zealot's centre; the zealots' weapons cool, and reach nobody.
    places = {"x": [5, 1, 1, 10.5, 31, 31], "y": [16, 1, 30, 16, 1, 30]}
    env, state = battle("3s_vs_3z", **places)
    after, _ = act(env, state, ATTACK, STOP, STOP)
    assert after.units.shield[3, 0] < 50
    assert after.units.x[0, 0] == 5


def legal_moves(name: str, x: list[float], y: list[float]) -> list[list[int]]:
    """Whether each ally may move north, south, east, west."""
    env, state = battle(name, x=x, y=y)
    return np.asarray(observe(env, state).legal)[:, 0, 2:6].astype(int).tolist()


def test_no_order_leads_over_an_edge():
    y = [16, 31.1, 16, 1, 2.5, 4]
    assert legal_moves("3s_vs_3z", [31.1, 16, 16, 30, 30, 30], y) == [
        [1, 1, 0, 1],
        [0, 1, 1, 1],
        [1, 1, 1, 1],
    ]
    # SMAC truncates: 0.9 - 1 = -0.1 counts as 0, which is on the map; 8.9 - 1 is on the cliff.
    y = [16, 0.9, 0.7, 9, 9, 9]
    moves = legal_moves("3s_vs_3z", [0.9, 16, 0.7, 30, 30, 30], y)
    assert moves == [[1, 1, 1, 1]] * 3
    assert legal_moves("3m", [0.9, 16, 16, 30, 30, 30], [8.9, 9.0, 23.1, 9, 9, 9]) == [
        [1, 0, 1, 1],
        [1, 1, 1, 1],
        [0, 1, 1, 1],
    ]


def test_shields_regenerate_after_ten_seconds_without_a_hit():
    places = {"x": [1, 1, 1, 31, 31, 31], "y": [1, 16, 31, 1, 16, 31]}
    env, state = battle(
        "3s_vs_3z", **places, shield=[10, 80, 0, 50, 50, 50], calm=[156, 500, 100, 0, 0, 0]
    )
    after, step = act(env, state, STOP, STOP, STOP)
    # Ticks 157 to 164: the last four are past 160.
    np.testing.assert_allclose(after.units.shield[:3, 0], [10 + 4 * 2 / 16, 80, 0])
    env, state = battle("3s_vs_3z", **places, shield=[80, 80, 80, 40, 50, 50], calm=[500] * 6)
    after, step = act(env, state, STOP, STOP, STOP)
    # The enemy's regeneration is paid too: SMAC takes the absolute value.
    np.testing.assert_allclose(step.reward, [8 * 2 / 16 * 20 / 680], rtol=1e-4)


def test_a_signed_reward_takes_regeneration_off():
    env = smac("3s_vs_3z?reward=signed&limit=40")
    assert env.spec.name == "smac/3s_vs_3z?reward=signed&limit=40"
    assert make(env.spec.name).spec == env.spec
    places = {"x": [1, 1, 1, 31, 31, 31], "y": [1, 16, 31, 1, 16, 31]}
    _, state = battle("3s_vs_3z", **places, shield=[80] * 3 + [40, 50, 50], calm=[500] * 6)
    _, step = act(env, state, STOP, STOP, STOP)
    np.testing.assert_allclose(step.reward, [-8 * 2 / 16 * 20 / 680], rtol=1e-4)
    with pytest.raises(InputError, match="reward must be 'smac' or 'signed' or 'damage' or"):
        make("smac/3s_vs_3z?reward=mine")


def test_rewards_of_damage_and_of_safety():
    """A stalker's shot takes 13 off a zealot's shield, a zealot's two blows 16 off a stalker's."""
    places = {"x": [1, 1, 16, 31, 31, 17], "y": [1, 31, 16, 1, 31, 16]}
    rewards = {}
    for name in ("signed", "damage", "safety"):
        env = smac(f"3s_vs_3z?reward={name}")
        _, state = battle("3s_vs_3z", **places, cooldown=[0, 0, 0, 0, 0, 0])
        after, step = act(env, state, STOP, STOP, ATTACK + 2)
        rewards[name] = float(step.reward[0])
        lost = state.units.shield + state.units.health - after.units.shield - after.units.health
        suffered, dealt = (float(np.sum(side)) for side in (lost[:3], lost[3:]))
    assert suffered > 0
    assert dealt > 0
    # Three stalkers have 480 points, three zealots 450.
    np.testing.assert_allclose(rewards["damage"], dealt * 20 / 450, rtol=1e-5)
    np.testing.assert_allclose(rewards["safety"], -suffered * 20 / 480, rtol=1e-5)
    np.testing.assert_allclose(rewards["signed"], dealt * 20 / 680, rtol=1e-5)


def enemy_target(x: list[float], y: list[float], before: int, order: int = STOP) -> int:
    """Whom the first zealot attacks after one step of allies who stand, the first under `order`."""
    env, state = battle("3s_vs_3z", x=x, y=y, target=[-1, -1, -1, before, -1, -1])
    after, _ = act(env, state, order, STOP, STOP)
    return int(after.units.target[3, 0])


def test_whom_an_enemy_attacks():
    y = [16.0, 16, 30, 16, 1, 31]
    # 5 from the zealot's surface, so 5.5 from its centre; it walks 1.125 a step towards (9, 16).
    assert enemy_target([20, 1, 1, 20 + 5.4, 31, 31], y, -1) == 0
    assert enemy_target([20, 1, 1, 20 + 6.9, 31, 31], y, -1) == -1
    # Shot at from outside that, it goes for the shooter.
    assert enemy_target([20, 1, 1, 20 + 6.9, 31, 31], y, -1, ATTACK) == 0
    # The closest of two; and it leaves a target out of reach for a closer one,
    assert enemy_target([20, 18, 1, 16, 31, 31], y, -1) == 1
    assert enemy_target([20, 18, 1, 16, 31, 31], y, 0) == 1
    # but not one that shoots at it,
    assert enemy_target([20, 18, 1, 16, 31, 31], y, 0, ATTACK) == 0
    # nor one within reach.
    assert enemy_target([17.2, 15.0, 1, 16, 31, 31], y, 0) == 0


def test_the_end_of_a_battle():
    places = {"x": [5, 1, 1, 10, 30, 31], "y": [16, 1, 30, 16, 1, 30]}
    env, state = battle(
        "3s_vs_3z", **places, health=[80, 0, 0, 5, 0, 0], shield=[80, 0, 0, 0, 0, 0]
    )
    after, step = act(env, state, ATTACK, 0, 0)
    assert bool(step.won[0])
    assert bool(step.terminated[0])
    assert not bool(step.truncated[0])
    np.testing.assert_allclose(step.reward, [(5 + 10 + 200) * 20 / 680], rtol=1e-5)
    view = observe(env, after)
    assert np.asarray(view.alive[:, 0]).tolist() == [True, False, False]
    assert not np.any(view.observations[1:])
    # The limit cuts a battle that nobody has won.
    env, state = battle("3s_vs_3z")
    _, step = act(env, state._replace(time=jnp.array([149], jnp.int32)), STOP, STOP, STOP)
    assert bool(step.truncated[0])
    assert not bool(step.terminated[0])


def test_marines_keep_to_their_corridor():
    x, y = [5, 10, 15, 20, 25, *range(26, 32)], [8.4, 23.6, 16, 9, 22, *range(9, 15)]
    env, state = battle("5m_vs_6m", x=x, y=y, health=[45] * 5 + [0] * 6)
    after, _ = act(env, state, SOUTH, NORTH, STOP, STOP, STOP)
    np.testing.assert_allclose(after.units.y[:2, 0], [8.375, 23.625])


def test_who_dies_within_a_step_shoots_no_more():
    # The zealot kills in the first tick; the stalker's weapon would be ready in the fourth.
    places = {"x": [9, 1, 1, 10.2, 30, 31], "y": [16, 1, 30, 16, 1, 30]}
    changes = {"health": [1, 80, 80, 100, 100, 100], "shield": [0, 80, 80, 50, 50, 50]}
    env, state = battle("3s_vs_3z", **places, **changes, cooldown=[3, 0, 0, 0, 0, 0])
    after, _ = act(env, state, ATTACK, STOP, STOP)
    assert after.units.health[0, 0] == 0
    assert after.units.shield[3, 0] == 50


def test_the_dead_stay_where_they_are():
    places = {"x": [5, 1, 1, 10, 30, 31], "y": [16, 1, 30, 16, 1, 30]}
    env, state = battle("3s_vs_3z", **places, health=[80, 80, 80, 0, 100, 100])
    after, _ = act(env, state, STOP, STOP, STOP)
    assert after.units.x[3, 0] == 10
    assert after.units.x[4, 0] < 30


def test_dead_allies_orders_are_ignored():
    env, state = battle("3s_vs_3z", health=[80, 0, 80, 100, 100, 100])
    one, _ = act(env, state, STOP, NORTH, STOP)
    other, _ = act(env, state, STOP, ATTACK, STOP)
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_a_draw_is_no_win():
    """A marine each, both with a shot's worth of health: they shoot in the same tick."""
    health = [6, 0, 0, 6, 0, 0]
    env, state = battle("3m", x=[10, 1, 1, 14, 1, 1], y=[16, 9, 23, 16, 9, 23], health=health)
    after, step = act(env, state, ATTACK, 0, 0)
    assert not np.any(after.units.alive)
    assert bool(step.terminated[0])
    assert not bool(step.won[0])


def test_a_win_with_the_last_step_is_no_truncation():
    health = [45, 0, 0, 6, 0, 0]
    env, state = battle("3m", x=[10, 1, 1, 14, 1, 1], y=[16, 9, 23, 16, 9, 23], health=health)
    _, step = act(env, state._replace(time=jnp.array([59])), ATTACK, 0, 0)
    assert bool(step.won[0])
    assert not bool(step.truncated[0])


def test_shots_are_delayed_at_random():
    env, state = battle("3m", x=[10, 1, 1, 14, 1, 1], y=[16, 9, 23, 16, 9, 23])
    delays = [
        float(act(env, state, ATTACK, STOP, STOP, seed=seed)[0].units.cooldown[0, 0])
        for seed in range(20)
    ]
    assert len(set(delays)) == 20
    assert 13.7 - 7 - 1 <= min(delays) < 13.7 - 7 - 0.5
    assert 13.7 - 7 + 1.5 < max(delays) <= 13.7 - 7 + 2


def test_frames_show_shields_and_shots_within_reach():
    places = {"x": [5, 1, 1, 11, 30, 31], "y": [16, 1, 30, 16, 1, 30]}
    env, state = battle("3s_vs_3z", **places, shield=[40, 80, 80, 25, 50, 50])
    after, _ = act(env, state, STOP, STOP, STOP)
    shown = jax.jit(env.frame)
    frame = shown(after)
    # The zealot walks to the stalker without reaching it.
    assert after.units.target[3, 0] == 0
    assert frame.target[3, 0] == -1
    np.testing.assert_allclose(frame.shield[[0, 3], 0], [0.5, 0.5])
    np.testing.assert_array_equal(frame.kind[:, 0], [1, 1, 1, 2, 2, 2])
    frame = shown(act(env, state, ATTACK, STOP, STOP)[0])
    assert frame.target[0, 0] == 3
    marines, state = battle("3m")
    assert not np.any(jax.jit(marines.frame)(state).shield)
