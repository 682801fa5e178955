"""No agent's learning depends on anything that belongs to a teammate."""

import ast
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dm2
from dm2.agent.imitation import Expert
from dm2.agent.learner import Learner
from dm2.agent.state import AgentState, Carry, Trajectory
from dm2.config import PPO, Config, Imitation
from dm2.rollout import start
from dm2.runtime import compiler_options
from dm2.team import Team
from dm2.trainer import Trainer, TrainState
from toy_env import ToyEnv, quick_jit, random_agents

# Agents, environments, steps, observation features, actions, hidden units, rows of an expert.
K, N, T, O, A, H, M = 3, 4, 5, 4, 4, 8, 24  # noqa: E741
# Far below any gradient's norm here, so that clipping always acts.
CLIP_NORM = 1e-3


class Inputs(NamedTuple):
    """All that `Team.update` is given; every leaf leads with the agent axis."""

    agents: AgentState
    trajectory: Trajectory
    carry: Carry
    experts: Expert | None


def config(method: str) -> Config:
    """Every part of learning takes part, also absorbing states and gradient clipping."""
    ppo = PPO(hidden=H, epochs=2, minibatches=2, max_grad_norm=CLIP_NORM)
    sizes = {"num_envs": N, "rollout_steps": T, "ppo": ppo}
    if method == "ippo":
        return Config("ippo", "toy", **sizes)
    small = {"hidden": H, "updates": 3, "batch": 16}
    imitation = Imitation(coefficient=0.5, reward="softplus", survival="absorbing", **small)
    return Config("dm2", "toy", demos="unused", imitation=imitation, **sizes)


# ---- inputs, and what is compared


def random_trajectory(rng: np.random.Generator) -> Trajectory:
    """Every field different for every agent, also those that a real team shares."""
    shape = (K, T, N)

    def real(*more: int) -> np.ndarray:
        return rng.normal(size=(*shape, *more)).astype(np.float32)

    def coin(chance: float) -> np.ndarray:
        return rng.random(shape) < chance

    ended = coin(0.3)
    legal = rng.random((*shape, A)) < 0.7
    legal[..., 0] = True
    return Trajectory(
        observations=real(O),
        inputs=real(O),
        legal=legal,
        alive=coin(0.8),
        starts=coin(0.3),
        actions=np.argmax(rng.random((*shape, A)) * legal, axis=-1).astype(np.int32),
        log_probs=-np.abs(real()),
        values=real(),
        next_values=real(),
        next_alive=coin(0.8),
        rewards=real(),
        terminated=ended & coin(0.5),
        ended=ended,
        time_left=rng.integers(1, 9, shape, dtype=np.int32),
    )


def random_inputs(team: Team, seed: int) -> Inputs:
    rng = np.random.default_rng(seed)
    hidden = rng.normal(size=(2, K, N, H)).astype(np.float32)
    carry = Carry(hidden[0], hidden[1], rng.normal(size=(K, N)).astype(np.float32))
    experts = None
    if team.learner.imitator:
        rows = rng.normal(size=(K, M, O)).astype(np.float32)
        counts, shares = np.array([16, 18, 20], np.int32), np.array([0.1, 0.2, 0.3], np.float32)
        experts = Expert(rows, counts, shares)
    inputs = Inputs(random_agents(team, seed), random_trajectory(rng), carry, experts)
    return jax.tree.map(jnp.asarray, inputs)


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


def change_part(inputs: Inputs, part: str, j: int) -> Inputs:
    """`part` is for example `trajectory.rewards`."""
    group, _, field = part.partition(".")
    whole = getattr(inputs, group)
    if whole is None:
        return inputs
    changed = whole._replace(**{field: change_agent(getattr(whole, field), j)})
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
        self.learner = Learner(config(method), O, A)
        self.team = Team(self.learner, K, mapping)
        self.update = self.team.update
        self.inputs = random_inputs(self.team, 0)
        self.results = self.update(*self.inputs)


CASES = [(method, mapping) for mapping in ("loop", "vmap") for method in ("ippo", "dm2")]


@functools.cache
def case_of(method: str, mapping: str) -> Case:
    return Case(method, mapping)


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def case(request: pytest.FixtureRequest) -> Case:
    return case_of(*request.param)


@functools.cache
def plain_loop(method: str) -> Any:
    """The same results from one agent's update alone, called for each in turn."""
    update = Learner(config(method), O, A).update
    one = jax.jit(update, compiler_options=compiler_options("learn"))
    inputs = case_of(method, "loop").inputs
    results = [one(*row(inputs, k)) for k in range(K)]
    return jax.tree.map(lambda *xs: np.stack(xs), *results)


def parts() -> list[str]:
    groups = {"agents": AgentState, "trajectory": Trajectory, "carry": Carry, "experts": Expert}
    names = [f"{group}.{field}" for group, kind in groups.items() for field in kind._fields]
    # The last value is for the next rollout's dead agents; learning does not read it.
    return [name for name in names if name != "carry.value"]


# What a method does not use: changing it changes nothing at all.
UNUSED = {
    "ippo": {"agents.discriminator", "trajectory.time_left", "trajectory.observations"}
    | {f"experts.{field}" for field in Expert._fields},
    "dm2": set(),
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
        rewards = case.inputs.trajectory.rewards.at[j].multiply(1000.0)
        trajectory = case.inputs.trajectory._replace(rewards=rewards)
        after = case.update(*case.inputs._replace(trajectory=trajectory))
        assert only_agent_changed(case.results, after, j)
        assert after[1]["actor_grad_norm"][j] != norms[j]


def test_permuting_the_agents_permutes_the_results(case):
    for order in ([2, 0, 1], [1, 0, 2]):
        permuted = jax.tree.map(lambda x, order=order: x[jnp.array(order)], case.inputs)
        after = case.update(*permuted)
        for place, agent in enumerate(order):
            assert identical(row(after, place), row(case.results, agent))


def test_mapping_equals_a_plain_python_loop(case):
    if case.team.mapping == "loop":
        assert identical(case.results, plain_loop(case.method))
    else:  # batched products may be summed in another order; nothing else may differ
        assert_close(case.results, plain_loop(case.method), 1e-5)


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
    agents, one = quick_jit(team.init)(key), quick_jit(team.learner.init)
    assert len(random_parts(agents)) == 1 + 5 + 5 + 3
    for leaf in random_parts(agents):
        assert len({np.asarray(leaf[k]).tobytes() for k in range(K)}) == K
    for k in range(K):
        assert_close(row(agents, k), one(jax.random.fold_in(key, k)), 1e-6)
    assert all(leaf.shape[:1] == (K,) for leaf in jax.tree.leaves(agents))
    assert all(leaf.shape[:1] == (K,) for leaf in jax.tree.leaves(team.initial_carry(N)))


# ---- acting


class Acting(NamedTuple):
    """All that `Team.act` is given."""

    agents: AgentState
    keys: jax.Array
    carry: Carry
    observations: jax.Array
    legal: jax.Array
    alive: jax.Array
    starts: jax.Array


def act_policy_value(of: Team | Learner, given: Acting) -> tuple:
    rest = (given.observations, given.starts)
    policy = of.policy(given.agents, given.carry.actor, *rest)
    return of.act(*given), policy, of.value(given.agents, given.carry.critic, *rest)


@functools.cache
def acting() -> tuple[Any, Acting, Any]:
    """The three functions of a team as one program, their arguments and results."""
    case = case_of("ippo", "loop")
    agents, trajectory, carry, _ = case.inputs
    keys = case.team.action_keys(agents, T)[:, 0]
    fields = ("observations", "legal", "alive", "starts")
    given = Acting(agents, keys, carry, *(getattr(trajectory, name)[:, 0] for name in fields))
    together = quick_jit(functools.partial(act_policy_value, case.team))
    return together, given, together(given)


def test_acting_equals_one_agent_at_a_time():
    _, given, results = acting()
    alone = quick_jit(functools.partial(act_policy_value, case_of("ippo", "loop").learner))
    for k in range(K):
        assert_close(row(results, k), alone(row(given, k)), 1e-6)


@pytest.mark.parametrize("field", Acting._fields)
def test_acting_on_one_agents_part_changes_only_that_agent(field):
    together, given, results = acting()
    for j in range(K):
        changed = given._replace(**{field: change_agent(getattr(given, field), j)})
        assert only_agent_changed(results, together(changed), j), f"agent {j}"


# ---- a whole iteration, the world included


def differently_minded(agents: AgentState, j: int) -> AgentState:
    """Agent j with other values of everything that does not decide how it acts now."""
    hidden = ("critic", "critic_opt", "actor_opt", "discriminator", "scale")
    changed = {name: change_agent(getattr(agents, name), j) for name in hidden}
    return agents._replace(**changed)


def test_an_iteration_lets_nothing_but_behaviour_reach_the_others():
    settings, env, seed = config("dm2"), ToyEnv(), jnp.uint32(3)
    team = Team(Learner(settings, O, env.spec.num_actions), K)
    worlds = quick_jit(lambda key: start(env, team, key, N))(jax.random.PRNGKey(0))
    state = TrainState(random_agents(team, 0), worlds, jnp.int32(0))
    changed = state._replace(agents=differently_minded(state.agents, 1))
    experts = case_of("dm2", "loop").inputs.experts
    iterate, copy = Trainer(settings, env).iterate, jnp.copy  # a rollout's state is used up
    before, metrics = iterate(jax.tree.map(copy, state), seed, experts)
    after, metrics_after = iterate(changed, seed, change_agent(experts, 1))
    results = (before.agents, before.rollout.carry, metrics["agents"])
    results_after = (after.agents, after.rollout.carry, metrics_after["agents"])
    assert only_agent_changed(results, results_after, 1)
    assert identical(before.rollout.worlds, after.rollout.worlds)
    assert identical(metrics["episodes"], metrics_after["episodes"])


# ---- imports

PACKAGE = Path(dm2.__file__).parent
# What a part of the package may import from the rest of it.
LAYERS = {
    "errors": (),
    "config": ("errors",),
    "runtime": ("JAX_CAME_FIRST",),
    "agent": ("config", "errors"),
    "team": ("agent", "config", "errors", "runtime"),
    "envs": ("errors",),
    "rollout": ("team", "agent", "envs", "config", "errors"),
    "trainer": ("rollout", "team", "agent", "envs", "demos", "config", "errors", "runtime"),
}


def module_name(path: Path) -> str:
    parts = ("dm2", *path.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> Iterator[str]:
    """Dotted names that a file imports, wherever in it, relative ones made absolute."""
    package = module_name(path).split(".")
    package = package if path.name == "__init__.py" else package[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = [*base, node.module] if node.module else base
            yield from (".".join([*base, alias.name]) for alias in node.names)


def files_of(part: str) -> list[Path]:
    single = PACKAGE / f"{part}.py"
    return [single] if single.exists() else sorted((PACKAGE / part).rglob("*.py"))


def within(name: str, part: str) -> bool:
    return f"{name}.".startswith(f"dm2.{part}.")


@pytest.mark.parametrize("part", LAYERS)
def test_imports_point_downwards(part):
    assert files_of(part)
    for path in files_of(part):
        for name in imports(path):
            allowed = any(within(name, other) for other in (part, *LAYERS[part]))
            assert allowed or name.split(".")[0] != "dm2", f"{path.name} imports {name}"


def test_one_agents_code_imports_nothing_by_name_at_run_time():
    for path in files_of("agent"):
        assert not any(name.startswith(("importlib", "sys.")) for name in imports(path)), path
        called = {n.id for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Name)}
        assert not called & {"__import__", "eval", "exec"}, path


def reachable(*roots: str) -> set[str]:
    """Modules of the package that these import, directly or not."""
    files = {module_name(path): path for path in PACKAGE.rglob("*.py")}
    found, todo = set(), list(roots)
    while todo:
        name = todo.pop()
        while name not in files and "." in name:  # a name inside a module
            name = name.rpartition(".")[0]
        if name in files and name not in found:
            found.add(name)
            todo += imports(files[name])
    return found


def test_nothing_centralised_is_reachable_from_decentralised_learning():
    found = reachable("dm2.trainer")
    assert {"dm2.agent.gru", "dm2.team", "dm2.rollout", "dm2.envs.battle.smax"} <= found
    assert not [name for name in found if within(name, "centralised")]
    above = {"dm2.team", "dm2.rollout", "dm2.trainer", "dm2.envs", "dm2.demos"}
    assert not reachable("dm2.agent.learner") & above
