"""QMIX, VDN and IQL beside plain computations: mixing, targets, exploration, replay, updates."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dm2.agent.inputs import Inputs
from dm2.agent.types import View
from dm2.envs import EnvSpec
from dm2.errors import InputError
from dm2.methods.centralised.exploration import epsilon, exploring
from dm2.methods.centralised.mixing import Apart, Monotonic, Sum
from dm2.methods.centralised.qlearning import QLearning
from dm2.methods.centralised.qmix import IQL, QMIX, VDN
from dm2.methods.centralised.replay import TeamRow, rows_of, store
from dm2.methods.centralised.settings import Mixer, Q
from dm2.methods.centralised.targets import Targets, own_targets, td_targets, team_targets
from dm2.rollout import begin, collect
from test_cli import run
from toy_env import LENGTH, LIMIT, NAMES, ToyEnv

TINY = Q(hidden=4, updates=1, batch=5, capacity=16, learning_starts=3, target_every=2)
METHODS = {"qmix": QMIX(TINY, mixer=Mixer(embed=3, hidden=5)), "vdn": VDN(TINY), "iql": IQL(TINY)}


def build(name: str, num_envs: int = 4, **changes: Any) -> QLearning:
    settings = METHODS[name]
    settings = dataclasses.replace(settings, q=dataclasses.replace(settings.q, **changes))
    return settings.team(ToyEnv.spec, num_envs)


# ---- mixing


def random_mixer(seed: int) -> tuple[Monotonic, Any, Any]:
    """A mixer with large random parameters, and 50 states of either sign."""
    mixer, key = Monotonic(embed=6, hidden=7), jax.random.PRNGKey(seed)
    states = 3.0 * jax.random.normal(key, (50, 4))
    params = mixer.init(key, jnp.zeros((1, 3)), states[:1])
    shapes, tree = jax.tree.flatten(params)
    keys = jax.random.split(key, len(shapes))
    drawn = [jax.random.normal(k, x.shape) for k, x in zip(keys, shapes, strict=True)]
    return mixer, jax.tree.unflatten(tree, drawn), states


@pytest.mark.parametrize("seed", range(3))
def test_the_teams_value_rises_with_every_agents(seed):
    mixer, params, states = random_mixer(seed)
    values = jax.random.normal(jax.random.PRNGKey(9), (50, 3))
    apply: Any = mixer.apply
    of_one: Any = lambda q, s: apply(params, q[None], s[None])[0, 0]  # noqa: E731
    slopes = np.asarray(jax.vmap(jax.grad(of_one))(values, states))
    assert slopes.min() >= 0
    assert np.median(slopes) > 0.1


def mixed_by_hand(params: Any, values: Any, state: Any) -> Any:
    """QMIX's formula for one state, layer by layer."""
    layers = params["params"]

    def dense(name: str, x: Any) -> Any:
        return x @ layers[name]["kernel"] + layers[name]["bias"]

    hidden, embed = layers["w2"]["kernel"].shape
    first = dense("first", state)
    w1 = abs(dense("w1", jnp.maximum(first[:hidden], 0))).reshape(len(values), embed)
    w2 = abs(dense("w2", jnp.maximum(first[hidden : 2 * hidden], 0)))
    b2 = dense("b2", jnp.maximum(first[2 * hidden : 2 * hidden + embed], 0))
    x = values @ w1 + first[-embed:]
    elu = jnp.where(x > 0, x, jnp.exp(jnp.minimum(x, 0)) - 1)
    return elu @ w2 + b2


def test_mixing_by_hand():
    mixer, params, states = random_mixer(5)
    values = jax.random.normal(jax.random.PRNGKey(9), (50, 3))
    found: Any = mixer.apply(params, values, states)
    for i in range(50):
        expected = mixed_by_hand(params, values[i], states[i])
        np.testing.assert_allclose(found[i], expected, rtol=1e-4, atol=1e-4)
    three = jnp.array([[1.0, -2.0, 4.5]])
    assert Sum().apply({}, three, None) == jnp.array([[3.5]])
    assert jnp.array_equal(Apart().apply({}, three, None), three)  # pyright: ignore[reportArgumentType]


# ---- targets


def test_targets_of_a_team_by_hand():
    rewards, length = jnp.array([1.0, 2.0, 4.0, 99.0]), jnp.int32(3)
    for truncated in (False, True):
        parts = team_targets(rewards, length, jnp.asarray(truncated))
        assert parts.rewards.tolist() == [1, 2, 4, 0]
        assert parts.counts.tolist() == [1, 1, 1, 0]
        assert parts.continues.tolist() == [1, 1, truncated, 0]
        # The last value is that of the final observation.
        values = jnp.array([50.0, 10.0, 20.0, 40.0])
        last = 4 + 0.5 * 40 if truncated else 4
        one_step = td_targets(parts, values, 0.5, 0.0)
        assert one_step[:3].tolist() == [1 + 0.5 * 10, 2 + 0.5 * 20, last]
        all_steps = td_targets(parts, values, 0.5, 1.0)
        assert all_steps[:3].tolist() == [1 + 0.5 * (2 + 0.5 * last), 2 + 0.5 * last, last]
        half = td_targets(parts, values, 0.5, 0.5)
        second = 2 + 0.5 * (0.5 * 20 + 0.5 * last)
        assert half[:3].tolist() == [1 + 0.5 * (0.5 * 10 + 0.5 * second), second, last]


def test_targets_of_one_agent_by_hand():
    rewards = jnp.array([1.0, 2.0, 4.0, 8.0, 0.0])
    alive = jnp.array([True, True, False, False, False])
    parts = own_targets(rewards, alive, jnp.int32(4), jnp.asarray(True), 0.5)
    # It dies with its second step: the rest of the episode, and no value.
    assert parts.rewards[:2].tolist() == [1, 2 + 0.5 * (4 + 0.5 * 8)]
    assert parts.continues[:2].tolist() == [1, 0]
    assert parts.counts.tolist() == [1, 1, 0, 0, 0]
    survives = own_targets(rewards, jnp.ones(5, bool), jnp.int32(4), jnp.asarray(True), 0.5)
    team = team_targets(rewards, jnp.int32(4), jnp.asarray(True))
    assert jax.tree.all(jax.tree.map(jnp.array_equal, survives, team))
    # A termination decides by itself, whatever stands behind it.
    for last in (True, False):
        alive = jnp.ones(5, bool).at[4].set(last)
        ends = own_targets(rewards, alive, jnp.int32(4), jnp.asarray(False), 0.5)
        assert ends.rewards.tolist() == [1, 2, 4, 8, 0]
        assert ends.continues.tolist() == [1, 1, 1, 0, 0]


# ---- exploring


def test_exploration_falls_linearly_and_stays():
    settings = Q(epsilon_start=0.9, epsilon_end=0.1, epsilon_steps=1000)
    for steps, share in ((0, 0.9), (250, 0.7), (500, 0.5), (1000, 0.1), (5000, 0.1)):
        assert epsilon(settings, jnp.int32(steps)) == pytest.approx(share, abs=1e-6)


def test_probabilities_of_exploring_by_hand():
    values = jnp.array([[5.0, 1.0, 2.0, 9.0], [0.0, -1.0, 0.0, 0.0]])
    legal = jnp.array([[True, True, True, False], [False, True, False, False]])
    found = jnp.exp(exploring(values, legal, jnp.float32(0.3)))
    expected = [[0.7 + 0.1, 0.1, 0.1, 0.0], [0.0, 1.0, 0.0, 0.0]]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert jnp.exp(exploring(values, legal, jnp.float32(0.0))).tolist()[0] == [1, 0, 0, 0]


def view(num_envs: int, seed: int = 0) -> View:
    rng = np.random.default_rng(seed)
    legal = rng.random((3, num_envs, 3)) < 0.5
    legal[np.arange(3)[:, None], np.arange(num_envs), rng.integers(0, 3, (3, num_envs))] = True
    observations = rng.normal(size=(3, num_envs, 4)).astype(np.float32)
    alive = jnp.ones((3, num_envs), bool)
    return View(jnp.asarray(observations), jnp.asarray(legal), alive, ~alive)


def test_agents_act_on_their_own_part_with_their_own_key_and_legally():
    method, num_envs = build("qmix"), 400
    state, memory = method.init(jax.random.PRNGKey(0)), method.memory(num_envs)
    seen, keys = view(num_envs), jax.random.split(jax.random.PRNGKey(1), 3)
    act: Any = jax.jit(method.act, static_argnames="greedy")

    def chosen(state=state, keys=keys, seen=seen, greedy=False):
        return np.asarray(act(state, memory, keys, seen, greedy=greedy)[1])

    def is_legal(actions):
        return np.take_along_axis(np.asarray(seen.legal), actions[..., None], -1).all()

    greedy, wild = chosen(greedy=True), chosen()
    assert is_legal(greedy)
    assert is_legal(wild)
    assert (greedy != wild).mean() > 0.2
    settled = state._replace(steps=jnp.int32(10**6))
    assert 0 < (chosen(settled) != greedy).mean() < 0.05
    # The policy that is played greedily explores no more, whatever the keys.
    assert np.array_equal(greedy, chosen(keys=keys[::-1], greedy=True))
    # Another key or another observation of the first agent's changes what it does, and it alone.
    for changed in (
        chosen(keys=keys.at[0].set(jnp.uint32(7))),
        chosen(seen=seen._replace(observations=seen.observations.at[0].multiply(-1)), greedy=True),
    ):
        reference = greedy if np.array_equal(changed[1:], greedy[1:]) else wild
        assert np.array_equal(changed[1:], reference[1:])
        assert not np.array_equal(changed[0], reference[0])
    order = np.random.default_rng(0).permutation(num_envs)
    permuted = jax.tree.map(lambda x: x[:, order], seen)
    assert np.array_equal(chosen(seen=permuted, greedy=True), greedy[:, order])


# ---- the replay and the updates


def trained(method: QLearning, rollouts: int, steps: int = 5, num_envs: int = 4) -> list[Any]:
    """The states after each rollout, copied, as learning uses them up, and the metrics."""
    env = ToyEnv()
    state = method.init(jax.random.PRNGKey(0))
    rollout = begin(env, method, jax.random.PRNGKey(1), num_envs)
    gather = jax.jit(lambda state, rollout, key: collect(env, method, state, rollout, key, steps))
    found = []
    for index in range(rollouts):
        rollout, trajectory, _ = gather(state, rollout, jax.random.PRNGKey(index + 2))
        state, metrics = method.learn(state, trajectory, None)
        found.append((jax.tree.map(np.array, state), jax.device_get(metrics)))
    return found


SLOWLY = [pytest.param(name, marks=pytest.mark.learning) for name in METHODS if name != "qmix"]


@pytest.fixture(scope="module", params=["qmix", *SLOWLY])
def taught(request):
    """A method and what it came to in eight rollouts, the first of which is too short to learn."""
    method = build(request.param)
    return method, trained(method, 8)


def test_the_replay_holds_what_happened(taught):
    """The toy's observations say who, when, which episode, and what the team did before."""
    method, states = taught
    state, metrics = states[-1]
    assert state.replay.inserted > len(state.replay.length)  # it went round
    assert metrics["episodes_stored"] == [16]
    check_episodes(method, state)


def test_an_episode_that_was_given_up_is_not_the_beginning_of_the_next():
    """A run stops with episodes under way, and the environment begins anew, twice."""
    env, method, num_envs = ToyEnv(), build("qmix"), 4
    state = method.init(jax.random.PRNGKey(0))
    gather = jax.jit(lambda rollout, key: collect(env, method, state, rollout, key, 5)[:2])
    keep: Any = jax.jit(lambda kept, path: store(kept[0], kept[1], rows_of(path), path))
    kept: Any = (state.replay, state.ongoing)
    under_way = []
    for begun in range(3):
        rollout = begin(env, method, jax.random.PRNGKey(begun), num_envs)
        for index in range(2):
            rollout, path = gather(rollout, jax.random.PRNGKey(10 * begun + index))
            kept = keep(kept, path)
        under_way.append(kept[1].time.tolist())
    assert all(map(any, under_way))
    check_episodes(method, state._replace(replay=kept[0], ongoing=kept[1]))


def check_episodes(method: QLearning, state: Any) -> None:
    """Every episode that is stored is one of the toy's, whole, and all three fates are there."""
    fates = set()
    for rows, length, truncated in episodes_of(state):
        names = np.round(rows.observations[: length + truncated, :, 2] * NAMES)
        assert np.all(names == names[0, 0])
        fate = int(names[0, 0]) % 3
        fates.add(fate)
        assert (length, truncated) == (LENGTH[fate], fate == 2)
        for t in range(length + truncated):
            assert rows.observations[t, :, 0].tolist() == [0, 1, 2]
            assert np.all(rows.observations[t, :, 1] == t)
        counted = np.where(rows.alive, rows.actions, 0)[:length] @ [1, 3, 9]
        np.testing.assert_array_equal(rows.rewards[:length], 27 * np.arange(length) + counted)
        codes = rows.observations[1 : length + truncated, 0, 3] * 32
        np.testing.assert_array_equal(codes, counted[: len(codes)])
        legal, actions = np.asarray(rows.legal[:length]), np.asarray(rows.actions[:length])
        assert np.take_along_axis(legal, actions[..., None], -1).all()
        if method.settings == TINY and rows.states is not None:
            shown = rows.observations[: length + truncated, 0, 1:]
            np.testing.assert_array_equal(rows.states[: length + truncated], shown)
    assert fates == {0, 1, 2}


def episodes_of(state: Any) -> list[tuple[TeamRow, int, bool]]:
    """The stored episodes."""
    replay = state.replay
    stored = min(int(replay.inserted), len(replay.length))
    return [
        (
            jax.tree.map(lambda x, i=i: np.asarray(x[i]), replay.rows),
            int(replay.length[i]),
            bool(replay.truncated[i]),
        )
        for i in range(stored)
    ]


def test_nothing_is_learnt_before_there_are_enough_episodes_and_then_the_copy_follows(taught):
    method, states = taught
    before = jax.tree.map(np.array, method.init(jax.random.PRNGKey(0)).params)
    learnt = 0
    target = before
    for index, (state, metrics) in enumerate(states):
        assert metrics["epsilon"] == [pytest.approx(1 - 0.95 * 20 * index / 50_000)]
        if metrics["episodes_stored"] < TINY.learning_starts:
            assert metrics["q_loss"] == metrics["gradient_norm"] == [0]
            assert jax.tree.all(jax.tree.map(np.array_equal, state.params, before))
        else:
            learnt += 1
            assert metrics["gradient_norm"] > 0
            assert not jax.tree.all(jax.tree.map(np.array_equal, state.params, before))
        # An update a rollout, and a copy after every second.
        if learnt and learnt % 2 == 0:
            target = state.params
        assert state.since_copy == learnt % 2
        assert jax.tree.all(jax.tree.map(np.array_equal, state.target, target))
        before = state.params
    assert 0 < learnt < 8


def loss_by_hand(method: QLearning, state: Any, params: Any, chosen: Any, best_of: str) -> Any:
    """The loss of an update, episode by episode and step by step. `best_of`: whose values choose
    the actions that targets take, and among which."""
    q, agents = method.settings, method.num_agents
    errors = []
    for rows, length, truncated in chosen:
        perceived = length + truncated
        inputs = []
        for t in range(perceived):
            last = np.eye(3)[rows.actions[t - 1]] if t else np.zeros((3, 3))
            scaled = np.clip(
                (rows.observations[t] - state.moments.mean)
                / np.sqrt(state.moments.variance + (1e-6 * state.moments.mean) ** 2 + 1e-12),
                -10,
                10,
            )
            inputs.append(np.concatenate([scaled, last, np.eye(agents)], axis=1))
        x, blank = jnp.asarray(np.stack(inputs), jnp.float32), jnp.zeros((agents, q.hidden))
        starts = jnp.zeros((perceived, agents), bool)
        mine = method.network.apply(params["agent"], blank, x, starts)[1]
        copied = method.network.apply(state.target["agent"], blank, x, starts)[1]
        chooser = np.array(jax.lax.stop_gradient({"mine": mine}.get(best_of, copied)))
        if best_of == "any":
            chooser = np.array(jax.lax.stop_gradient(mine))
        else:
            chooser[~rows.legal[:perceived]] = -np.inf
        best = chooser.argmax(-1)

        def mix(params: Any, values: Any, t: int, rows: Any = rows) -> Any:
            if method.mixer == Sum():
                return [sum(values)]
            if method.mixer == Apart():
                return list(values)
            moments = state.state_moments
            scaled = (rows.states[t] - moments.mean) / np.sqrt(moments.variance + 1e-12)
            return [mixed_by_hand(params["mixer"], values, np.clip(scaled, -10, 10))[0]]

        row = jnp.arange(agents)
        values = [mix(params, mine[t, row, rows.actions[t]], t) for t in range(length)]
        following = [mix(state.target, copied[t, row, best[t]], t) for t in range(perceived)]
        target: list[Any] = [None] * (length + 1)
        for t in reversed(range(length)):
            target[t] = []
            for m in range(len(values[t])):
                reward = rows.rewards[t] * method.reward_scale
                own = method.mixer == Apart()
                if own and not rows.alive[t + 1, m]:
                    rest = rows.rewards[t:length] * method.reward_scale
                    target[t].append(sum(q.discount**i * r for i, r in enumerate(rest)))
                elif t + 1 < length:
                    mixed = (1 - q.td_lambda) * following[t + 1][m] + q.td_lambda * target[t + 1][m]
                    target[t].append(reward + q.discount * mixed)
                elif truncated:
                    target[t].append(reward + q.discount * following[t + 1][m])
                else:
                    target[t].append(reward)
                if not own or rows.alive[t, m]:
                    errors.append(values[t][m] - jax.lax.stop_gradient(target[t][m]))
    return jnp.mean(jnp.square(jnp.stack(errors)))


def wild(params: Any, seed: int) -> Any:
    """Parameters of the same shapes, large and random."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(0, 0.7, x.shape), jnp.float32), params)


@pytest.mark.parametrize("td_lambda", [0.0, 0.6])
def test_an_update_is_that_of_a_plain_computation(taught, td_lambda):
    learnt, states = taught
    name = next(n for n, made in METHODS.items() if made.mixing(ToyEnv.spec) == learnt.mixer)
    method = build(name, td_lambda=td_lambda)
    method.reward_scale = 0.02  # rewards of the size of the values
    state = jax.tree.map(jnp.asarray, states[-1][0])
    state = state._replace(params=wild(state.params, 1), target=wild(state.target, 2))
    key = jax.random.PRNGKey(3)
    numbers = np.ravel(state.replay.draw(key, (1, 5)))
    chosen = [episodes_of(state)[i] for i in numbers]
    assert {cut for _, _, cut in chosen} == {False, True}

    def by_hand(best_of: str = "mine") -> Any:
        return lambda params: loss_by_hand(method, state, params, chosen, best_of)

    expected, gradient = jax.value_and_grad(by_hand())(state.params)
    found, metrics = jax.jit(method._fit)(state.replay, key, state)
    assert metrics["q_loss"] == pytest.approx(float(expected), rel=1e-4)
    assert metrics["gradient_norm"] == pytest.approx(float(optax.tree.norm(gradient)), rel=1e-3)
    updates, _ = method.optimiser.update(gradient, state.optimiser, state.params)
    expected_params = optax.apply_updates(state.params, updates)
    for a, b in zip(*map(jax.tree.leaves, (found.params, expected_params)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-5)
    # The copy's own favourites, or those that are not legal, would make another target.
    if td_lambda == 0.0:
        for other in ("copy", "any"):
            assert abs(by_hand(other)(state.params) - expected) > 1e-3 * expected


def test_layer_norm_is_done_before_storing_and_running_moments_after():
    layered = QLearning(TINY, Inputs(last_action=True, agents=3), Sum(), 1.0, ToyEnv.spec, 2)
    assert layered._row().observations.dtype == jnp.float16
    assert build("vdn")._row().observations.dtype == jnp.float32
    seen = view(1)._replace(observations=jnp.array([[[1e3, 2e3, 3e3, 6e3]]] * 3))
    state, memory = layered.init(jax.random.PRNGKey(0)), layered.memory(1)
    kept = layered.bootstrap(state, memory, seen).observations
    assert build("vdn").bootstrap(state, memory, seen).observations.tolist()[2] == [
        [1e3, 2e3, 3e3, 6e3]
    ]
    # Mean 3000, deviations -2000, -1000, 0, 3000, root mean square 1870.8.
    np.testing.assert_allclose(kept[0, 0], [-1.069, -0.5345, 0, 1.6036], atol=1e-3)


# ---- as methods


def test_only_qmix_has_flags_of_a_mixer(capsys):
    for name in METHODS:
        flags = run(capsys, "train", name, "--help")[1]
        assert "--q.hidden" in flags
        assert ("--mixer.embed" in flags) == (name == "qmix")


def test_rewards_have_the_scale_of_smac_on_smax():
    for env, scale in (("smax/3m", 10), ("smac/3m", 1), ("jaxmarl/any", 1)):
        assert QMIX().settled(env).reward_scale == scale
        assert QMIX(reward_scale=3).settled(env).reward_scale == 3


def test_settings_say_what_is_wrong():
    for make, message in (
        (lambda: Q(td_lambda=1.5), "q.td_lambda = 1.5: must be a finite number from 0 to 1"),
        (lambda: Q(batch=0), "q.batch = 0: must be a whole number above 0"),
        (lambda: Q(capacity=10), "q.learning_starts = 32: there is room for q.capacity = 10"),
        (lambda: Q(optimiser="sgd"), "q.optimiser = 'sgd': must be one of adam, rmsprop"),  # pyright: ignore[reportArgumentType]
        (lambda: Mixer(embed=0), "mixer.embed = 0"),
        (lambda: QMIX(reward_scale=0.0), "reward_scale = 0"),
        (lambda: QMIX(observations="layer").build(ONE, 1), "state is; choose running"),
    ):
        with pytest.raises(InputError, match=message):
            make()


ONE = EnvSpec("toy", "1", 2, 3, 2, 1, 5)


def test_operations_and_memory_of_an_update():
    settings, spec = METHODS["qmix"], ToyEnv.spec
    # Observed 4, last action 3, number 3; 4 units, 3 actions; a GRU has six products.
    first, rest = 10 * 4, 6 * 16 + 4 * 3
    # A state of 3; 5 + 5 + 3 + 3 units; 5 x 9 and 5 x 3 mixing weights, 3 x 1 for a bias.
    state, mixing = 3 * 16, 5 * 9 + 5 * 3 + 3
    # The network forward once and backward twice, but for what goes in; its copy forward.
    row = 2 * (3 * (3 * first + 4 * rest) + 3 * state + 4 * mixing)
    assert settings.update_flops(spec, 640) == 5 * (LIMIT + 1) * row
    method = build("qmix")
    rows = method.init(jax.random.PRNGKey(0)).replay
    assert rows is not None
    assert method.replay_bytes() == sum(x.nbytes for x in jax.tree.leaves(rows.rows))
    batch = 4 * 20 * 4 * 5 * (LIMIT + 1) * 3
    assert settings.update_bytes(spec, 640, 2) == 3 * method.replay_bytes() + batch


def test_both_optimisers_step_downhill():
    for name in ("adam", "rmsprop"):
        optimiser = Q(optimiser=name, learning_rate=0.1, max_grad_norm=1.0).transformation()
        params: Any = jnp.array([3.0, -2.0])
        state = optimiser.init(params)
        for _ in range(100):
            updates, state = optimiser.update(2 * params, state, params)
            params = optax.apply_updates(params, updates)
        assert jnp.abs(params).max() < 0.2


def test_two_steps_of_rmsprop_by_hand():
    """As torch's: `v = 0.99 v + 0.01 g^2`, a step of `-0.1 g / (sqrt(v) + 1e-5)`. Of the small
    gradient `v` is 1e-10, then 0.99e-10 + 4e-10; under the root epsilon would make a step of
    -0.1 x 1e-4 / sqrt(1e-10 + 1e-5), 158 times smaller."""
    optimiser: Any = Q(optimiser="rmsprop", learning_rate=0.1).transformation()
    gradients: Any = jnp.array([[1e-4, 3.0], [2e-4, -4.0]])
    state = optimiser.init(gradients[0])
    first, state = optimiser.update(gradients[0], state)
    second, _ = optimiser.update(gradients[1], state)
    expected = [-0.1 * 1e-4 / (1e-5 + 1e-5), -0.1 * 3.0 / (0.3 + 1e-5)]
    np.testing.assert_allclose(first, expected, rtol=1e-4)
    # sqrt(4.99e-10) = 2.2338e-5, sqrt(0.99 x 0.09 + 0.16) = sqrt(0.2491) = 0.49910.
    expected = [-0.1 * 2e-4 / (2.2338e-5 + 1e-5), 0.1 * 4.0 / (0.49910 + 1e-5)]
    np.testing.assert_allclose(second, expected, rtol=1e-4)


def test_targets_are_of_the_same_shape_for_teams_and_agents():
    for name, width in (("qmix", 1), ("vdn", 1), ("iql", 3)):
        method = build(name)
        state = jax.eval_shape(method.init, jax.random.PRNGKey(0))
        parts = jax.eval_shape(method.targets, state.replay, jax.ShapeDtypeStruct((5,), jnp.int32))
        assert isinstance(parts, Targets)
        assert {x.shape for x in parts} == {(LIMIT + 1, 5, width)}
