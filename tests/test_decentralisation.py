"""No agent's learning depends on anything that belongs to a teammate."""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dm2.agent.demonstrations import Expert
from dm2.agent.episodes import Ongoing
from dm2.agent.learner import Learner
from dm2.agent.self_imitation import OwnEpisodes
from dm2.agent.settings import PPO, Imitation, Matching, SelfImitation
from dm2.agent.state import AgentState, Extras, Memory
from dm2.agent.types import Trajectory, View
from dm2.compilation import compiler_options
from dm2.config import ProgramSettings
from dm2.envs import EnvSpec
from dm2.methods import DM2, GAIL, IPPO, SIL, Settings
from dm2.methods.independent import Independent
from dm2.rollout import begin
from dm2.run.programs import Programs, TrainState
from toy_env import ToyEnv, random_agents

# Agents, environments, steps, observation features, actions, hidden units, rows of an expert.
K, N, T, O, A, H, M = 3, 4, 5, 4, 4, 8, 24  # noqa: E741
LIMIT, EPISODES = 6, 3  # steps of an episode at most, and how many a self-imitator keeps
# Far below any gradient's norm here, so that clipping always acts.
CLIP_NORM = 1e-3


class Inputs(NamedTuple):
    """All that `Independent.learn` is given; every leaf leads with the agent axis."""

    agents: AgentState
    trajectory: Trajectory
    experts: Expert | None


def settings_of(method: str) -> IPPO:
    """Every part of learning takes part, also absorbing states, gradient clipping, schedules,
    moments of the observations, and what an agent knows of itself."""
    falling: Any = {"learning_rate_end": 1e-4, "entropy_end": 0.0}
    ppo = PPO(hidden=H, epochs=2, minibatches=2, max_grad_norm=CLIP_NORM, **falling)
    known: Any = {"observations": "running", "last_action": True, "agent_id": True}
    if method == "ippo":
        return IPPO(ppo, **known)
    small: Any = {"hidden": H, "updates": 3, "batch": 16}
    small |= {"reward": "softplus", "survival": "absorbing"}
    if method == "gail":
        return GAIL(ppo, Matching(**small), **known)
    mixed: Any = {"coefficient": 0.5, "coefficient_end": 0.0, "unit": "advantage", **small}
    if method == "sil":
        return SIL(ppo, Imitation(**mixed), SelfImitation(EPISODES, 1), **known)
    if method == "dm2, actions":
        mixed["inputs"] = "state-actions"
    return DM2(ppo, Imitation(**mixed), **known)


def learner_of(method: str, actions: int = A) -> Learner:
    team = settings_of(method).build(EnvSpec("toy", "1", K, O, actions, 1, LIMIT), N)
    assert isinstance(team, Independent)
    return team.learner


# ---- inputs, and what is compared


def random_trajectory(rng: np.random.Generator) -> Trajectory:
    """Every field different for every agent, also those that a real team shares."""
    shape = (K, T, N)

    def real(*more: int) -> jax.Array:
        return jnp.asarray(rng.normal(size=(*shape, *more)), jnp.float32)

    def coin(chance: float) -> jax.Array:
        return jnp.asarray(rng.random(shape) < chance)

    ended = coin(0.3)
    legal = rng.random((*shape, A)) < 0.7
    legal[..., 0] = True
    hidden = rng.normal(size=(2, K, N, H)).astype(np.float32)
    return Trajectory(
        legal=jnp.asarray(legal),
        alive=coin(0.8),
        starts=coin(0.3),
        actions=jnp.asarray(np.argmax(rng.random((*shape, A)) * legal, axis=-1), jnp.int32),
        next_alive=coin(0.8),
        rewards=real(),
        terminated=ended & coin(0.5),
        ended=ended,
        time_left=jnp.asarray(rng.integers(1, 9, shape, dtype=np.int32)),
        extras=Extras(-jnp.abs(real()), real(), real(O + A + K), real(O)),
        bootstrap=real(),
        memory=Memory(
            hidden[0],
            hidden[1],
            jnp.asarray(rng.normal(size=(K, N)), jnp.float32),
            jnp.asarray(rng.integers(A, size=(K, N)), jnp.int32),
        ),
        progress=jnp.full(K, 0.25),
    )


def random_inputs(team: Independent, seed: int) -> Inputs:
    rng = np.random.default_rng(seed)
    experts = None
    agents = random_agents(team, seed)
    if agents.best is not None:
        agents = agents._replace(best=best_episodes(agents.best, rng))
    elif team.learner.reward.imitator is not None:
        rows = jnp.asarray(rng.normal(size=(K, M, O)), jnp.float32)
        counts, shares = jnp.array([16, 18, 20], jnp.int32), jnp.array([0.1, 0.2, 0.3])
        experts = Expert(rows, counts, shares)
        if team.learner.reward.imitator.takes_actions:
            experts = experts._replace(actions=jnp.asarray(rng.random((K, M, A)) < 0.5))
    inputs = Inputs(agents, random_trajectory(rng), experts)
    return jax.tree.map(jnp.asarray, inputs)


def best_episodes(own: OwnEpisodes, rng: np.random.Generator) -> OwnEpisodes:
    """As many as there may be, and one under way in every environment. Of each agent's, the last
    is better than any that a rollout brings, and the others worse."""
    returns = rng.normal(-30.0, 0.1, size=own.returns.shape)
    returns[:, -1] += 60.0
    alive = jnp.asarray(rng.random(own.alive.shape) < 0.8).at[..., 0].set(True)
    rows = {
        "observations": jnp.asarray(rng.normal(size=(K, LIMIT, N, O)), jnp.float32),
        "alive": jnp.asarray(rng.random((K, LIMIT, N)) < 0.8),
        "rewards": jnp.asarray(rng.normal(size=(K, LIMIT, N)), jnp.float32),
    }
    return OwnEpisodes(
        jnp.asarray(rng.normal(size=own.observations.shape), jnp.float32),
        alive,
        None,
        jnp.asarray(returns, jnp.float32),
        jnp.asarray(rng.integers(1, LIMIT + 1, size=own.steps.shape), jnp.int32),
        jnp.full(K, EPISODES, jnp.int32),
        Ongoing(rows, jnp.ones((K, N), jnp.int32)),
    )


def row(tree: Any, k: int) -> Any:
    """Agent k's part of team-stacked arrays."""
    return jax.tree.map(lambda x: np.asarray(x)[k], tree)


def identical(a: Any, b: Any) -> bool:
    """The same bits in the same places; also NaN equals itself."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.asarray(x).tobytes() == np.asarray(y).tobytes() for x, y in pairs)


def assert_close(a: Any, b: Any, tolerance: float) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance)


def other_value(x: jax.Array) -> jax.Array:
    """Different everywhere, and still of a legal kind."""
    if x.dtype == bool:
        return ~x
    return 1.5 * x + 0.25 if jnp.issubdtype(x.dtype, jnp.floating) else x ^ 1


def not_a_number(x: jax.Array) -> jax.Array:
    return jnp.full_like(x, jnp.nan) if jnp.issubdtype(x.dtype, jnp.floating) else x


def change_agent(tree: Any, j: int, change=other_value) -> Any:
    """The tree with agent j's part changed."""
    return jax.tree.map(lambda x: x.at[j].set(change(x[j])), tree)


def change_part(inputs: Any, part: str, j: int) -> Any:
    """`part` is for example `trajectory.extras.values`."""
    group, _, rest = part.partition(".")
    whole = getattr(inputs, group)
    if whole is None:
        return inputs
    changed = change_part(whole, rest, j) if rest else change_agent(whole, j)
    return inputs._replace(**{group: changed})


def only_agent_changed(before: Any, after: Any, j: int) -> bool:
    """Agent j's results moved and nobody else's did, by a single bit."""
    others = [k for k in range(K) if k != j]
    untouched = all(identical(row(before, k), row(after, k)) for k in others)
    return untouched and not identical(row(before, j), row(after, j))


class Case:
    """One compiled team update, its inputs and its results."""

    def __init__(self, method: str, mapping: str) -> None:
        self.method = method
        self.team = Independent(learner_of(method), K, mapping)
        self.update = self.team.learn
        self.inputs = random_inputs(self.team, 0)
        self.results = self.update(*self.inputs)


# For their time, `make test-learning` looks at those that are parts of others.
PARTS = [("ippo", "loop"), ("ippo", "vmap"), ("gail", "loop")]
CASES = [("dm2", "loop"), ("dm2", "vmap"), ("sil", "loop"), ("dm2, actions", "loop")]
CASES += [pytest.param(part, marks=pytest.mark.learning) for part in PARTS]


@functools.cache
def case_of(method: str, mapping: str) -> Case:
    return Case(method, mapping)


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def case(request: pytest.FixtureRequest) -> Case:
    return case_of(*request.param)


@functools.cache
def plain_loop(method: str) -> Any:
    """The same results from one agent's update alone, called for each in turn."""
    update = learner_of(method).learn
    one = jax.jit(update, compiler_options=compiler_options("learn"))
    inputs = case_of(method, "loop").inputs
    results = [one(*row(inputs, k)) for k in range(K)]
    return jax.tree.map(lambda *xs: np.stack(xs), *results)


def parts() -> list[str]:
    groups = {"agents": AgentState, "trajectory": Trajectory, "experts": Expert}
    groups |= {"trajectory.extras": Extras, "trajectory.memory": Memory}
    groups |= {"agents.best": OwnEpisodes}
    names = [f"{group}.{field}" for group, kind in groups.items() for field in kind._fields]
    # What acting alone reads: the last value of the dead, the last action, the agent's number.
    acting = {"trajectory.memory.value", "trajectory.memory.action", "agents.identity"}
    return [name for name in names if name not in {*groups, *acting}]


# What a method does not use: changing it changes nothing at all.
_BEST = {f"agents.best.{field}" for field in OwnEpisodes._fields}
_EXPERTS = {f"experts.{field}" for field in Expert._fields}
UNUSED = {
    "ippo": {"agents.discriminator", "agents.balance", "trajectory.time_left"} | _EXPERTS | _BEST,
    "dm2": {"experts.actions", "experts.episodes"} | _BEST,
    "dm2, actions": {"experts.episodes"} | _BEST,
    "gail": {"agents.balance", "trajectory.rewards", "experts.actions", "experts.episodes"} | _BEST,
    "sil": {"agents.best.actions"} | _EXPERTS,
}


# ---- learning


@pytest.mark.parametrize("part", parts())
def test_whatever_belongs_to_one_agent_changes_only_that_agent(case, part):
    for j in range(K):
        after = case.update(*change_part(case.inputs, part, j))
        if part in UNUSED[case.method]:
            assert identical(case.results, after)
        else:
            assert only_agent_changed(case.results, after, j), f"agent {j}"


@pytest.mark.parametrize("j", range(K))
def test_an_agent_full_of_nan_spoils_nobody_else(case, j):
    after = case.update(*change_agent(case.inputs, j, not_a_number))
    assert only_agent_changed(case.results, after, j)
    assert all(np.isnan(x).all() for x in jax.tree.leaves(row(after[0].actor, j)))
    finite = [np.isfinite(x).all() for x in jax.tree.leaves(row(case.results, j))]
    assert all(finite)


def test_gradient_clipping_is_per_agent(case):
    norms = np.asarray(case.results[1]["actor_grad_norm"])
    assert (norms > 10 * CLIP_NORM).all()  # so clipping acts
    for j in range(K):
        extras = case.inputs.trajectory.extras
        extras = extras._replace(values=extras.values.at[j].multiply(1000.0))
        trajectory = case.inputs.trajectory._replace(extras=extras)
        after = case.update(*case.inputs._replace(trajectory=trajectory))
        assert only_agent_changed(case.results, after, j)
        assert after[1]["actor_grad_norm"][j] != norms[j]


def test_clipping_acts():
    gradient = {"w": jnp.array([30.0, 40.0])}  # of norm 50
    optimiser = learner_of("ippo").optimiser
    state = optimiser.update(gradient, optimiser.init(gradient), gradient)[1]
    leaves = jax.tree.leaves_with_path(state)
    (mean,) = (leaf for path, leaf in leaves if ".mu" in jax.tree_util.keystr(path))
    # Adam's running mean takes in a tenth of the clipped gradient.
    np.testing.assert_allclose(mean, 0.1 * CLIP_NORM * np.array([0.6, 0.8]), rtol=1e-5)


def test_permuting_the_agents_permutes_the_results(case):
    for order in ([2, 0, 1], [1, 0, 2]):
        permuted = jax.tree.map(lambda x, order=order: x[jnp.array(order)], case.inputs)
        after = case.update(*permuted)
        for place, agent in enumerate(order):
            assert identical(row(after, place), row(case.results, agent))


def test_mapping_equals_a_plain_python_loop(case):
    # Sums may be taken in another order; nothing else may differ.
    assert_close(case.results, plain_loop(case.method), 1e-5)


LOOPS = ["dm2", "sil", "dm2, actions"]
LOOPS += [pytest.param(part, marks=pytest.mark.learning) for part in ("ippo", "gail")]


@pytest.mark.parametrize("method", LOOPS)
def test_a_loop_over_agents_has_the_bits_of_each_alone(monkeypatch, method):
    monkeypatch.delenv("XLA_FLAGS", raising=False)  # compiled as in training
    assert identical(Case(method, "loop").results, plain_loop.__wrapped__(method))


def test_every_leaf_leads_with_the_agent_axis(case):
    for tree in case.results:
        assert jax.tree.leaves(tree)
        for path, leaf in jax.tree.leaves_with_path(tree):
            assert leaf.shape[:1] == (K,), jax.tree_util.keystr(path)
    assert all(metric.shape == (K,) for metric in case.results[1].values())


def test_learning_spends_the_agents_key(case):
    before, after = np.asarray(case.inputs.agents.key), np.asarray(case.results[0].key)
    assert len({key.tobytes() for key in (*before, *after)}) == 2 * K
    keys = np.asarray(case.team.action_keys(case.inputs.agents, T)).reshape(-1, 2)
    later = np.asarray(case.team.action_keys(case.results[0], T)).reshape(-1, 2)
    assert len({key.tobytes() for key in (*keys, *later)}) == 2 * K * T


# ---- beginning


def random_parts(agents: AgentState) -> list[jax.Array]:
    """The leaves of fresh agents that initialisation draws at random."""
    parameters = (agents.actor, agents.critic, agents.discriminator and agents.discriminator.params)
    leaves = [
        leaf
        for path, leaf in jax.tree.leaves_with_path(parameters)
        if jax.tree_util.keystr(path).endswith(("kernel']", "gru_weight']"))
    ]
    return [agents.key, *leaves]


def test_agents_begin_different_and_each_from_its_own_key():
    team, key = case_of("dm2", "loop").team, jax.random.PRNGKey(0)
    agents, one = jax.jit(team.init)(key), jax.jit(team.learner.init)
    assert len(random_parts(agents)) == 1 + 5 + 5 + 3
    for leaf in random_parts(agents):
        assert len({np.asarray(leaf[k]).tobytes() for k in range(K)}) == K
    for k in range(K):
        assert_close(row(agents, k), one(jax.random.fold_in(key, k), k), 1e-6)
    assert all(leaf.shape[:1] == (K,) for leaf in jax.tree.leaves(agents))
    assert all(leaf.shape[:1] == (K,) for leaf in jax.tree.leaves(team.memory(N)))


# ---- acting


class Acting(NamedTuple):
    """All that `Independent.act` is given."""

    agents: AgentState
    memory: Memory
    keys: jax.Array
    view: View


def act_and_bootstrap(of: Independent | Learner, given: Acting) -> tuple:
    """What the agents do, sampled and greedy, and their values."""
    agents, memory, _, view = given
    sampled, greedy = of.act(*given, greedy=False), of.act(*given, greedy=True)
    return sampled, greedy, of.bootstrap(agents, memory, view)


@functools.cache
def acting() -> tuple[Any, Acting, Any]:
    """Acting as one program, its arguments and results."""
    case = case_of("dm2", "loop")
    agents, trajectory, _ = case.inputs
    keys = case.team.action_keys(agents, T)[0]
    facts = (getattr(trajectory, name)[:, 0] for name in ("legal", "alive", "starts"))
    view = View(trajectory.extras.observations[:, 0], *facts)
    given = Acting(agents, trajectory.memory, keys, view)
    together = jax.jit(functools.partial(act_and_bootstrap, case.team))
    return together, given, together(given)


def test_acting_equals_one_agent_at_a_time():
    _, given, results = acting()
    alone = jax.jit(functools.partial(act_and_bootstrap, learner_of("dm2")))
    for k in range(K):
        assert_close(row(results, k), alone(row(given, k)), 1e-6)


ACTING = ["agents", "memory", "keys", *(f"view.{field}" for field in View._fields)]


@pytest.mark.parametrize("part", ACTING)
def test_acting_on_one_agents_part_changes_only_that_agent(part):
    together, given, results = acting()
    for j in range(K):
        assert only_agent_changed(results, together(change_part(given, part, j)), j), f"agent {j}"


# ---- a whole iteration, the environment included


@dataclasses.dataclass(frozen=True)
class Toy(Settings):
    """DM² on three actions, at the sizes above."""

    name = "toy"

    def build(self, spec: EnvSpec, num_envs: int) -> Independent:
        """The team."""
        return Independent(learner_of("dm2", spec.num_actions), K)


def differently_minded(agents: AgentState, j: int) -> AgentState:
    """Agent j with other values of everything that does not decide how it acts now."""
    hidden = ("critic", "critic_opt", "actor_opt", "discriminator", "scale")
    changed = {name: change_agent(getattr(agents, name), j) for name in hidden}
    return agents._replace(**changed)


def test_an_iteration_lets_nothing_but_behaviour_reach_the_others():
    env, seed = ToyEnv(), jnp.uint32(3)
    programs = Programs(ProgramSettings(Toy(), "toy", N, T), env)
    team = programs.method
    assert isinstance(team, Independent)
    rollout = jax.jit(lambda key: begin(env, team, key, N))(jax.random.PRNGKey(0))
    state = TrainState(random_agents(team, 0), rollout, jnp.int32(0))
    changed = state._replace(agents=differently_minded(state.agents, 1))
    experts = case_of("dm2", "loop").inputs.experts
    iterate, copy = programs.iterate, jnp.copy  # a rollout's state is used up
    before, metrics = iterate(jax.tree.map(copy, state), seed, experts)
    after, metrics_after = iterate(changed, seed, change_agent(experts, 1))
    results = (before.agents, before.rollout.memory, metrics["agents"])
    results_after = (after.agents, after.rollout.memory, metrics_after["agents"])
    assert only_agent_changed(results, results_after, 1)
    assert identical(before.rollout.episodes, after.rollout.episodes)
    assert identical(metrics["episodes"], metrics_after["episodes"])
