"""StarCraft-like battles behind the environment contract, against JaxMARL's own."""

import functools
import sys
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dm2.envs import Environment, Observation, Renderable, Step, list_environments, make
from dm2.envs.smax import _quiet_import
from dm2.errors import InputError
from toy_env import ToyEnv, quick_jit

SAFE = "smax/3s_vs_4z"
LETHAL = "smax/3s_vs_5z?walls=lethal&limit=3"
LARGE = "smax/smacv2_20_units"
# Battles that run side by side. All programs below are compiled for this number.
B = 4
NORTH, EAST, SOUTH, WEST, STOP, ATTACK = range(6)


class Battles(NamedTuple):
    """An environment and its programs over `B` battles at once."""

    env: Any
    reset: Any
    step: Any


@functools.cache
def battles(name: str) -> Battles:
    env = ToyEnv() if name == "toy" else make(name)
    return Battles(env, quick_jit(jax.vmap(env.reset)), quick_jit(jax.vmap(env.step)))


def keys(seed: int) -> jax.Array:
    return jax.random.split(jax.random.PRNGKey(seed), B)


def all_do(env: Environment, action: int) -> jax.Array:
    return jnp.full((B, env.spec.num_agents), action, jnp.int32)


def same_bits(a: Any, b: Any) -> bool:
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.asarray(x).tobytes() == np.asarray(y).tobytes() for x, y in pairs)


def edit(state: Any, **fields: Any) -> Any:
    """JaxMARL's states with other values of what it calls the unit fields."""
    return state.replace(state=state.state.replace(**fields))


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
    assert sorted(list_environments()) == sorted(expected)
    assert len(list_environments()) == 17


@pytest.mark.parametrize("name", SIZES)
def test_sizes_of_the_papers_tasks(name):
    observation, actions, limit = SIZES[name]
    spec = make(name).spec
    assert (spec.observation_size, spec.num_actions) == (observation, actions)
    assert spec.episode_limit == limit
    assert spec.num_agents == int(name[5])
    assert spec.name == name
    assert spec.version == "jaxmarl 0.2.0"


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
    env = make(name)
    assert env._env.walls_cause_death == walls
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
        ("smax/3m?wall=safe", "no option 'wall'; known: walls, limit"),
        ("smax/3m?walls=soft", "walls must be 'safe' or 'lethal'"),
        ("smax/3m?walls", "walls must be 'safe' or 'lethal'"),
        ("smax/3m?limit=0", "limit must be a whole number above 0"),
        ("smax/3m?limit=-3", "limit must be a whole number above 0"),
        ("smax/3m?limit=1.5", "limit must be a whole number above 0"),
        ("smax/3m?limit=", "limit must be a whole number above 0"),
    ],
)
def test_wrong_names_and_options_are_explained(name, message):
    with pytest.raises(InputError) as caught:
        make(name)
    assert message in str(caught.value)
    assert repr(name) in str(caught.value)


def test_importing_jaxmarl_is_silent_and_leaves_the_streams_alone(capsys):
    before = (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__)
    with _quiet_import():
        print("noise")
        sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__  # as JaxMARL's import does
        print("more noise", file=sys.stderr)
    assert (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__) == before
    assert capsys.readouterr() == ("", "")


# ---- the contract, for any environment


def expected_shapes(env: Environment) -> tuple[Observation, Step]:
    """Shape and type of everything, with a leading axis of battles."""
    s = env.spec
    shape = jax.ShapeDtypeStruct
    observation = Observation(
        local=shape((B, s.num_agents, s.observation_size), jnp.float32),
        legal=shape((B, s.num_agents, s.num_actions), bool),
        alive=shape((B, s.num_agents), bool),
        state=shape((B, s.state_size), jnp.float32),
    )
    flag = shape((B,), bool)
    return observation, Step(observation, shape((B,), jnp.float32), flag, flag, flag)


def check_shapes(found: Any, expected: Any) -> None:
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)


def check_step(step: Step, steps: int, limit: int) -> None:
    """What holds for every step of every environment."""
    seen = step.observation
    assert seen.legal.any(axis=-1).all()  # the dead included
    assert np.isfinite(seen.local).all()
    assert np.isfinite(seen.state).all()
    assert np.isfinite(step.reward).all()
    assert not (step.terminated & step.truncated).any()
    assert not (step.won & ~step.terminated).any()
    if steps < limit:
        assert not step.truncated.any()


def random_legal(legal: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.argmax(rng.random(legal.shape) * legal, axis=-1).astype(np.int32)


def check_environment(name: str, steps: int) -> None:
    """Random legal battles obey the contract; `reset` and `step` are functions of the key."""
    env, reset, step = battles(name)
    observation_shape, step_shape = expected_shapes(env)
    rng = np.random.default_rng(0)
    state, observation = reset(keys(0))
    check_shapes(observation, observation_shape)
    assert same_bits(reset(keys(0)), (state, observation))
    assert not same_bits(reset(keys(1)), (state, observation))
    assert observation.legal.any(axis=-1).all()
    assert observation.alive.all()
    for t in range(1, steps + 1):
        actions = random_legal(np.asarray(observation.legal), rng)
        following, result = step(keys(t), state, actions)
        check_shapes(result, step_shape)
        check_step(jax.tree.map(np.asarray, result), t, env.spec.episode_limit)
        assert jax.tree.structure(following) == jax.tree.structure(state)
        if t % 10 == 1:
            assert same_bits(step(keys(t), state, actions), (following, result))
        state, observation = following, result.observation


@pytest.mark.parametrize(("name", "steps"), [("toy", 2), (SAFE, 40), (LETHAL, 30), (LARGE, 25)])
def test_contract(name, steps):
    check_environment(name, steps)


def test_battles_side_by_side_do_not_touch():
    env, reset, step = battles(SAFE)
    state, _ = reset(keys(0))
    hurt = edit(state, unit_health=state.state.unit_health.at[2].multiply(0.5))
    _, before = step(keys(1), state, all_do(env, EAST))
    _, after = step(keys(1), hurt, all_do(env, EAST))
    for b in range(B):
        rows = [jax.tree.map(lambda x, b=b: x[b], tree) for tree in (before, after)]
        assert same_bits(*rows) == (b != 2)


# Two pairs of a stalker and a zealot far apart; one stalker and two zealots alone.
DUELS = [[5, 5], [5, 16], [5, 27], [6.3, 5], [6.3, 27], [28, 16], [28, 20]]


def duels(state: Any) -> Any:
    return edit(state, unit_positions=jnp.tile(jnp.array(DUELS, jnp.float32), (B, 1, 1)))


def test_outcome_depends_on_the_key_and_on_the_actions():
    env, reset, step = battles(SAFE)
    state = duels(reset(keys(0))[0])
    reference = step(keys(1), state, all_do(env, ATTACK))
    assert not same_bits(step(keys(2), state, all_do(env, ATTACK)), reference)
    assert not same_bits(step(keys(1), state, all_do(env, STOP)), reference)


def test_a_dead_agents_action_is_ignored():
    env, reset, step = battles(SAFE)
    state, _ = reset(keys(0))
    inner = state.state
    dead = edit(
        state,
        unit_health=inner.unit_health.at[:, 1].set(0.0),
        unit_alive=inner.unit_alive.at[:, 1].set(False),
    )
    moving = all_do(env, STOP).at[:, 1].set(EAST)
    idle_state, idle = step(keys(1), dead, all_do(env, STOP))
    moved_state, moved = step(keys(1), dead, moving)
    assert not idle.observation.alive[:, 1].any()
    for field in ("unit_positions", "unit_health", "unit_alive"):
        a, b = getattr(idle_state.state, field), getattr(moved_state.state, field)
        assert same_bits(a, b), field
    assert (idle.observation.legal[:, 1] == (jnp.arange(env.spec.num_actions) == STOP)).all()
    assert same_bits(idle.reward, moved.reward)


# ---- time limits


def test_truncated_exactly_at_the_limit_and_not_terminated():
    env, reset, step = battles(LETHAL)
    assert env.spec.episode_limit == 3
    state, _ = reset(keys(0))
    for t in (1, 2, 3):
        state, result = step(keys(t), state, all_do(env, STOP))
        assert (result.truncated == (t == 3)).all()
        assert not result.terminated.any()
        assert not result.won.any()
        assert result.observation.alive.all()


def test_default_limit_is_the_tasks_own_and_jaxmarls_never_fires():
    env, reset, step = battles(SAFE)
    state, _ = reset(keys(0))
    for done, truncated in ((98, False), (99, False), (198, False), (199, True)):
        late = edit(state, step=state.state.step + done)
        following, result = step(keys(1), late, all_do(env, STOP))
        assert (result.truncated == truncated).all()
        assert not result.terminated.any()
        assert not following.state.done.any()


def test_a_battle_that_ends_at_the_limit_is_terminated_only():
    env, reset, step = battles(SAFE)
    state, _ = reset(keys(0))
    late = edit(almost_won(state), step=state.state.step + 199)
    _, result = step(keys(1), late, all_do(env, STOP))
    assert result.terminated.all()
    assert not result.truncated.any()


# ---- winning, losing and the last observation


def with_dead(state: Any, units: slice) -> Any:
    inner = state.state
    return edit(
        state,
        unit_health=inner.unit_health.at[:, units].set(0.0),
        unit_alive=inner.unit_alive.at[:, units].set(False),
    )


def almost_won(state: Any) -> Any:
    """No health left in any enemy; the next step buries them."""
    return edit(state, unit_health=state.state.unit_health.at[:, 3:].set(0.0))


def test_won_only_if_every_enemy_is_dead_and_an_ally_lives():
    env, reset, step = battles(SAFE)
    state, _ = reset(keys(0))
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
        following, result = step(keys(1), with_dead(state, dead), all_do(env, STOP))
        alive = np.asarray(following.state.unit_alive)
        assert (alive[:, :3].any(1) & ~alive[:, 3:].any(1) == won).all()
        assert (result.won == won).all()
        assert (result.terminated == terminated).all()
        assert ((result.reward >= 1.0) == won).all()


def test_the_last_observation_of_a_battle_is_not_a_reset_one():
    env, reset, step = battles(SAFE)
    state, first = reset(keys(0))
    hurt = almost_won(edit(state, unit_health=state.state.unit_health.at[:, :3].multiply(0.25)))
    following, result = step(keys(1), hurt, all_do(env, EAST))
    assert result.terminated.all()
    seen = np.asarray(result.observation.local)
    own = seen[..., -10:]  # health, position, cooldown, type
    assert (own[..., 0] == 0.25).all()
    moved = own[..., 1:3] * 32.0 - np.asarray(first.local[..., -9:-7]) * 32.0
    assert (moved[..., 0] > 1.5).all()  # 2.065 east, less what crowding takes
    assert (seen[:, :, 2 * 13 : 6 * 13] == 0).all()  # no enemy is seen any more
    assert not following.state.unit_alive[:, 3:].any()
    assert (following.state.step == 1).all()


# ---- walls


def at_the_walls(state: Any) -> Any:
    """Battle b has ally 0 half a step from wall b: north, east, south, west."""
    spots = jnp.array([[16.0, 31.0], [31.0, 16.0], [16.0, 1.0], [1.0, 16.0]])
    return edit(state, unit_positions=state.state.unit_positions.at[:, 0].set(spots))


TOWARDS = jnp.array([NORTH, EAST, SOUTH, WEST])


@pytest.mark.parametrize(("name", "survives"), [(SAFE, True), (LETHAL, False)])
def test_walking_into_a_wall(name, survives):
    env, reset, step = battles(name)
    state, _ = reset(keys(0))
    state = at_the_walls(state)
    actions = all_do(env, STOP).at[:, 0].set(TOWARDS)
    for t in range(2):
        state, result = step(keys(t + 1), state, actions)
        assert (result.observation.alive[:, 0] == survives).all()
        assert result.observation.alive[:, 1:].all()
    spots = np.asarray(state.state.unit_positions[:, 0])
    edges = spots[np.arange(B), [1, 0, 1, 0]]
    assert edges.tolist() == [32.0, 32.0, 0.0, 0.0]
    full = np.asarray(state.state.unit_health[:, 0]) == 160.0
    assert (full == survives).all()


# ---- agreement with JaxMARL


@functools.cache
def plain_jaxmarl() -> Any:
    from jaxmarl.environments.smax import HeuristicEnemySMAX, map_name_to_scenario

    return HeuristicEnemySMAX(scenario=map_name_to_scenario("3s_vs_5z"))


def check_equal_to_jaxmarl(observation: Observation, theirs: dict, legal: dict) -> None:
    for k in range(3):
        np.testing.assert_allclose(observation.local[:, k], theirs[f"ally_{k}"], atol=1e-6)
        assert (observation.legal[:, k] == legal[f"ally_{k}"].astype(bool)).all()
    np.testing.assert_allclose(observation.state, theirs["world_state"], atol=1e-5)


def test_equals_plain_jaxmarl_with_lethal_walls():
    plain, (_, reset, step) = plain_jaxmarl(), battles(LETHAL)
    plain_step = quick_jit(jax.vmap(plain.step_env))
    plain_legal = quick_jit(jax.vmap(plain.get_avail_actions))
    rng = np.random.default_rng(1)
    state, observation = reset(keys(0))
    theirs, plain_state = quick_jit(jax.vmap(plain.reset))(keys(0))
    rewards, rewarded = 0.0, 0
    for t in range(1, 16):
        check_equal_to_jaxmarl(observation, theirs, plain_legal(plain_state))
        # Towards the enemy at first, so that there is a fight.
        actions = random_legal(np.asarray(observation.legal), rng)
        actions = np.where(t < 5, EAST, actions).astype(np.int32)
        joint = {f"ally_{k}": actions[:, k] for k in range(3)}
        theirs, plain_state, plain_rewards, _, _ = plain_step(keys(t), plain_state, joint)
        state, result = step(keys(t), state, actions)
        np.testing.assert_allclose(result.reward, plain_rewards["ally_0"], atol=1e-6)
        rewards, rewarded = rewards + result.reward.sum(), rewarded + (result.reward > 0).sum()
        observation, alive = result.observation, plain_state.state.unit_alive
        assert (observation.alive == alive[:, :3]).all()
        assert (result.terminated == ~(alive[:, :3].any(1) & alive[:, 3:].any(1))).all()
    assert rewards > 0.3
    assert rewarded > 5


def test_agents_are_in_the_order_of_units_beyond_ten():
    """Sorted as text, ally_10 would come before ally_2."""
    _, reset, step = battles(LARGE)
    state, observation = reset(keys(0))
    attacks = jnp.broadcast_to(ATTACK + jnp.arange(20, dtype=jnp.int32), (B, 20))
    for t in range(2):
        own = np.asarray(observation.local[..., -10:])  # health, position, cooldown, type
        places = np.asarray(state.state.unit_positions[:, :20])
        np.testing.assert_allclose(own[..., 1:3] * 32.0, places, atol=1e-5)
        kinds = np.asarray(state.state.unit_types[:, :20])
        assert (own[..., 4:].argmax(-1) == kinds).all()
        state, result = step(keys(t + 1), state, attacks)
        observation = result.observation
        assert (state.state.prev_attack_actions[:, :20] == attacks).all()
    assert len(np.unique(kinds)) > 2


# ---- what is drawn


def test_a_battle_can_be_drawn():
    env, reset, _ = battles(SAFE)
    assert isinstance(env, Renderable)
    assert env.map_size == (32.0, 32.0)
    assert env.num_allies == 3
    state, _ = reset(keys(0))
    frame = env.frame(jax.tree.map(lambda x: x[0], state))
    assert frame.position.shape == (7, 2)
    assert (frame.position == state.state.unit_positions[0]).all()
    assert frame.health.tolist() == [1.0] * 7
    assert frame.alive.all()
    assert frame.target.tolist() == [-1] * 7
    assert [env.unit_names[k] for k in frame.kind] == ["stalker"] * 3 + ["zealot"] * 4
    assert [env.unit_radii[k] for k in frame.kind] == [0.625] * 3 + [0.5] * 4


def test_a_drawn_unit_points_at_the_unit_that_it_hurts():
    env, reset, step = battles(SAFE)
    state = duels(reset(keys(0))[0])
    # Stalker 1 shoots at a zealot that is far out of range.
    actions = jnp.tile(jnp.array([ATTACK, ATTACK, ATTACK + 1], jnp.int32), (B, 1))
    state, _ = step(keys(1), state, actions)
    frame = env.frame(jax.tree.map(lambda x: x[0], state))
    # Zealots number their targets backwards: unit 3 calls stalker 0 its third.
    assert frame.target.tolist() == [3, -1, 4, 0, 2, -1, -1]
    lost = np.array([160.0] * 3 + [150.0] * 4) - np.asarray(state.state.unit_health[0])
    assert lost.tolist() == [8, 0, 8, 13, 13, 0, 0]
    health = [152 / 160, 1, 152 / 160, 137 / 150, 137 / 150, 1, 1]
    np.testing.assert_allclose(frame.health, health, rtol=1e-6)
    fallen = env.frame(jax.tree.map(lambda x: x[0], with_dead(state, slice(2, 4))))
    assert fallen.target.tolist() == [3, -1, -1, -1, 2, -1, -1]
    assert fallen.alive.tolist() == [True, True, False, False, True, True, True]
