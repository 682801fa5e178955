"""One agent taken out of its team: it acts as in the run, without JAX, in any process."""

import dataclasses
import functools
import json
import math
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import onnxruntime
import pytest
import safetensors.numpy

import dm2
from conftest import SMALL
from dm2.agent.networks import RecurrentNet
from dm2.agent.types import View
from dm2.cli import main
from dm2.deployment import file as layout
from dm2.errors import InputError
from dm2.methods import METHODS
from dm2.methods.centralised.settings import Q
from dm2.run import export as exporting
from dm2.run.directory import RunDirectory
from dm2.run.programs import programs_for
from dm2.run.team import TrainedTeam, load_team
from test_readme import blocks
from toy_env import compiled

# Agents, steps, features and actions of the battle that the teams here play.
ENV, K, T, O, A = "smax/3m?limit=12", 3, 20, 75, 8  # noqa: E741
PPO = dm2.PPO(hidden=8, epochs=1, minibatches=2)
SMALL_Q = Q(hidden=8, capacity=32, batch=4)

CASES: dict[str, Any] = {
    "ippo": dm2.IPPO(PPO),
    "dm2": dm2.DM2(PPO, observations="running", last_action=True),
    "gail": dm2.GAIL(PPO, observations="both", agent_id=True),
    "sil": dm2.SIL(PPO, observations="none", last_action=True, agent_id=True),
    "bc": dm2.BC(PPO),
    "magail": dm2.MAGAIL(PPO, observations="running"),
    "rmappo": dm2.RMAPPO(PPO, observations="running", last_action=True),
    "qmix": dm2.QMIX(SMALL_Q),
    "vdn": dm2.VDN(dataclasses.replace(SMALL_Q, dense_layers=2), observations="running"),
    "iql": dm2.IQL(SMALL_Q, observations="both"),
}
INDEPENDENT = ("ippo", "dm2", "gail", "sil", "bc", "magail")
SHARED = ("rmappo", "qmix", "vdn", "iql")


def random_state(shapes: Any, seed: int) -> Any:
    """A team's state in the middle of training, every number random."""
    rng = np.random.default_rng(seed)

    def fill(path, leaf):
        name = jax.tree_util.keystr(path)
        if leaf.dtype == jnp.float32:
            values = rng.normal(0.0, 0.5, leaf.shape).astype(np.float32)
            return jnp.asarray(np.abs(values) + 0.1 if "variance" in name else values)
        return jnp.asarray(rng.integers(1, 1000, leaf.shape), leaf.dtype)

    return jax.tree_util.tree_map_with_path(fill, shapes)


@pytest.fixture(scope="session")
def run_of(tmp_path_factory):
    """A run of a method whose team was not trained but made up, with all agents' identities as the
    method makes them."""

    @functools.cache
    def make(name: str) -> RunDirectory:
        method = CASES[name]
        demos = "none.safetensors" if method.imitates else None
        config = dm2.Config(method, ENV, steps=128, demos=demos, **SMALL)
        folder = tmp_path_factory.mktemp("runs") / name
        run = RunDirectory.create(folder, config, {})
        state = random_state(programs_for(config.program).shapes().agents, 0)
        own = state.agents if name == "magail" else state
        if getattr(own, "identity", None) is not None:
            own = own._replace(identity=jnp.eye(K))
            state = state._replace(agents=own) if name == "magail" else own
        run.save_checkpoint(128, {"agents": state})
        return run

    return make


def exported(run: Any, folder: Path, seed: int | None = None) -> list[dm2.Agent]:
    """All agents of a run's team."""
    files = [folder / f"agent_{k}.safetensors" for k in range(K)]
    for k, file in enumerate(files):
        if not file.exists():
            dm2.export(run, agent=k, out=file)
    return [dm2.Agent.load(file, seed) for file in files]


class Steps:
    """What a team perceives and does at `T` steps of one environment; an episode begins at the
    steps of `starts`."""

    def __init__(self, team: TrainedTeam, greedy: bool = True) -> None:
        rng = np.random.default_rng(1)
        self.observations = rng.normal(size=(T, K, O)).astype(np.float32)
        self.legal = rng.random((T, K, A)) < 0.6
        self.legal[..., 4] = True
        self.starts = np.isin(np.arange(T), [0, 9])
        method, memory = team.programs.method, team.programs.method.memory(1)
        act = jax.jit(functools.partial(method.act, greedy=greedy))
        self.actions = np.zeros((T, K), int)
        for t in range(T):
            view = View(
                jnp.asarray(self.observations[t][:, None]),
                jnp.asarray(self.legal[t][:, None]),
                jnp.ones((K, 1), bool),
                jnp.full((K, 1), self.starts[t]),
            )
            keys = jax.random.split(jax.random.PRNGKey(t), K)
            memory, actions, _ = act(team.state, memory, keys, view)
            self.actions[t] = np.asarray(actions)[:, 0]


def reference(team: TrainedTeam, agent: int, steps: Any) -> np.ndarray:
    """The outputs `[T, A]` of an agent's network in JAX, all steps at once."""
    actor = exporting._actor_of(team, agent)
    layers = sum(name.startswith("dense_") for name in actor.params["params"])
    network: Any = RecurrentNet(8, A, 1.0, layers)
    starts = jnp.asarray(steps.starts)
    observations = actor.inputs.observations(
        actor.moments, jnp.asarray(steps.observations[:, agent])
    )
    last = jnp.concatenate([jnp.full(1, -1), jnp.asarray(steps.actions[:-1, agent])])
    known = (last if actor.inputs.last_action else None, starts, actor.identity, A)
    inputs = actor.inputs.append(observations, *known)[:, None]
    memory = network.initial_memory(1)
    return np.asarray(network.apply(actor.params, memory, inputs, starts[:, None])[1][:, 0])


# ---- acting as in the run


def test_every_method_is_tried():
    assert set(CASES) == set(METHODS)
    assert set(INDEPENDENT) | set(SHARED) == set(METHODS)


class OnnxAgent:
    """A copy of an agent that acts by its ONNX model."""

    def __init__(self, model: Path) -> None:
        self.session: Any = onnxruntime.InferenceSession(model)
        self.inputs = [put.name for put in self.session.get_inputs()]
        self.description = json.loads(self.session.get_modelmeta().custom_metadata_map["dm2"])
        self.reset()

    def reset(self):
        self.memory, self.last = np.zeros((1, 8), np.float32), -1

    def act(self, observation: np.ndarray, legal: np.ndarray) -> tuple[int, np.ndarray]:
        """The action, and the outputs."""
        fed = {"observation": observation[None], "memory": self.memory}
        fed["last_action"] = np.array([self.last])
        found = self.session.run(None, {name: fed[name] for name in self.inputs})
        (outputs,), self.memory = found
        self.last = int(np.argmax(np.where(legal, outputs, -np.inf)))
        return self.last, outputs


FEW = ("dm2", "rmappo", "qmix")
"""A method of each kind; the others compile for minutes."""


def slow_but(few: tuple[str, ...], names: Any) -> list[Any]:
    """The names, those that are not among the few for `make test-learning`."""
    return [n if n in few else pytest.param(n, marks=pytest.mark.learning) for n in names]


@pytest.mark.parametrize("name", slow_but(FEW, CASES))
def test_an_exported_agent_acts_as_in_the_run(run_of, tmp_path, name):
    """Same outputs, to 1e-5, and same actions, over two episodes, in NumPy and in ONNX."""
    team = load_team(run_of(name), None)
    steps = Steps(team)
    for k, agent in enumerate(exported(run_of(name), tmp_path)):
        expected = reference(team, k, steps)
        model = dm2.export(run_of(name), agent=k, out=tmp_path / f"{k}.onnx", format="onnx")
        other = OnnxAgent(model)
        for t in range(T):
            if steps.starts[t]:
                agent.reset()
                other.reset()
            observation, legal = steps.observations[t, k], steps.legal[t, k]
            np.testing.assert_allclose(agent.outputs(observation), expected[t], atol=1e-5)
            action, outputs = other.act(observation, legal)
            np.testing.assert_allclose(outputs, expected[t], atol=1e-5)
            assert agent.act(observation, legal) == action == steps.actions[t, k]
        # The model takes no more than it uses, and has the description with it.
        assert ("last_action" in other.inputs) == agent.description["last_action"]
        assert other.description == agent.description
        assert other.session.get_outputs()[0].name == other.description["outputs"]


def test_several_copies_act_at_once_in_onnx(run_of, tmp_path):
    model = dm2.export(run_of("dm2"), agent=1, out=tmp_path / "a.onnx", format="onnx")
    session: Any = OnnxAgent(model).session
    rng = np.random.default_rng(0)
    fed = {
        "observation": rng.normal(size=(3, O)).astype(np.float32),
        "memory": rng.normal(size=(3, 8)).astype(np.float32),
        "last_action": np.array([-1, 0, 7]),
    }
    together = session.run(None, fed)
    for n in range(3):
        alone = session.run(None, {name: value[n : n + 1] for name, value in fed.items()})
        for whole, part in zip(together, alone, strict=True):
            np.testing.assert_allclose(whole[n], part[0], atol=1e-6)


@dataclasses.dataclass
class Episode:
    """One recorded episode, in the form of `Steps`."""

    observations: np.ndarray
    legal: np.ndarray
    starts: np.ndarray
    actions: np.ndarray


@pytest.mark.learning  # for its time
def test_whole_episodes_of_a_trained_team(small_run, tmp_path):
    """The battles that the run itself plays, observation by observation."""
    team = load_team(small_run, None)
    outcome, kept = team.programs.record(team.state, jax.random.PRNGKey(3), 4, True)
    agents = exported(small_run, tmp_path)
    models = [
        OnnxAgent(dm2.export(small_run, agent=k, out=tmp_path / f"{k}.onnx", format="onnx"))
        for k in range(K)
    ]
    for n, length in enumerate(outcome.length.tolist()):
        rows = [np.asarray(field)[:length, :, n] for field in kept[:4]]
        observations, legal, _, actions = rows
        episode = Episode(observations, legal, np.arange(length) == 0, actions)
        for k, agent in enumerate(agents):
            agent.reset()
            models[k].reset()
            expected = reference(team, k, episode)
            for t in range(length):
                perceived = observations[t, k], legal[t, k]
                np.testing.assert_allclose(agent.outputs(perceived[0]), expected[t], atol=1e-5)
                action, outputs = models[k].act(*perceived)
                np.testing.assert_allclose(outputs, expected[t], atol=1e-5)
                assert agent.act(*perceived) == action == actions[t, k]


def test_a_team_of_processes_plays_as_the_run_does(small_run, tmp_path):
    """The script of the docs: same actions, hence same rewards, to the battle's end."""
    exported(small_run, tmp_path)
    (tmp_path / "team.py").write_text(blocks("python", "docs/deployment.md")[1])
    command = [sys.executable, "team.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    played = [[float(x) for x in line.split()] for line in done.stdout.splitlines()]

    team, key = load_team(small_run, None), jax.random.PRNGKey(0)
    env, method = team.programs.env, team.programs.method
    act, (reset, step, observe) = jax.jit(functools.partial(method.act, greedy=True)), compiled(env)
    state, memory, expected, over = reset(key, 1), method.memory(1), [], False
    while not over:
        time, view = len(expected), observe(state)
        starts = jnp.asarray(np.full((K, 1), time == 0))
        view = View(view.observations, view.legal, view.alive, starts)
        memory, actions, _ = act(team.state, memory, jax.random.split(key, K), view)
        state, outcome = step(jax.random.fold_in(key, time), state, actions)
        expected.append([*actions[:, 0].tolist(), float(outcome.reward[0])])
        over = bool(outcome.terminated[0] | outcome.truncated[0])
    np.testing.assert_allclose(played, expected, rtol=1e-5, atol=1e-6)
    assert len({row[0] for row in played}) > 1  # not one action throughout


def test_the_docs_first_example(small_run, tmp_path, monkeypatch, capsys):
    exported(small_run, tmp_path)
    monkeypatch.chdir(tmp_path)
    exec(compile(blocks("python", "docs/deployment.md")[0], "docs", "exec"), {})
    names, action, _ = capsys.readouterr().out.split("\n", 2)
    assert action in names
    for example in blocks("python", "docs/deployment.md"):
        assert len([line for line in example.splitlines() if line.strip()]) <= 20


# ---- sampling


def test_a_policy_is_sampled_by_the_softmax_of_the_legal(run_of, tmp_path):
    agent = exported(run_of("ippo"), tmp_path, seed=5)[0]
    rng = np.random.default_rng(0)
    observation = rng.normal(size=O)
    legal = np.arange(A) % 3 != 0
    outputs = agent.outputs(observation)
    weights = [math.exp(x) if ok else 0.0 for x, ok in zip(outputs, legal, strict=True)]
    expected = np.array(weights) / sum(weights)
    np.testing.assert_allclose(agent.probabilities(observation, legal), expected, rtol=1e-5)
    assert np.array_equal(agent.outputs(observation), outputs)  # nothing was remembered
    draws = []
    for _ in range(4000):
        agent.reset()
        draws.append(agent.act(observation, legal, greedy=False))
    share = np.bincount(draws, minlength=A) / len(draws)
    assert share[~legal].max() == 0
    assert np.abs(share - expected).max() < 4 * 0.5 / 4000**0.5  # four standard errors
    same = exported(run_of("ippo"), tmp_path, seed=5)[0]
    again = []
    for _ in range(50):
        same.reset()
        again.append(same.act(observation, legal, greedy=False))
    assert again == draws[:50]


@pytest.mark.parametrize("name", slow_but(FEW, ["qmix", "vdn", "iql"]))
def test_values_are_explored_as_in_the_run(run_of, tmp_path, name):
    team = load_team(run_of(name), None)
    agent, steps = exported(run_of(name), tmp_path)[1], int(team.state.steps)
    settings = team.run.config.method.q  # pyright: ignore[reportAttributeAccessIssue]
    share = 1.0 + (settings.epsilon_end - 1.0) * steps / settings.epsilon_steps
    assert 0.9 < share < 1.0
    assert agent.description["epsilon"] == pytest.approx(share)
    observation, legal = np.linspace(-1, 1, O), np.arange(A) < 4
    best = int(np.argmax(agent.outputs(observation)[:4]))
    expected = np.where(legal, share / 4, 0.0)
    expected[best] += 1 - share
    np.testing.assert_allclose(agent.probabilities(observation, legal), expected, rtol=1e-4)
    assert agent.act(observation, legal) == best


# ---- what the file holds


@pytest.mark.parametrize("name", slow_but(FEW, INDEPENDENT))
def test_the_file_holds_nothing_of_other_agents(run_of, tmp_path, name):
    """Whatever becomes of the others, the file is the same to the bit; it is another if the agent
    itself is."""
    run = run_of(name)
    team = load_team(run, None)
    own = safetensors.numpy.load_file(dm2.export(run, agent=1, out=tmp_path / "a.safetensors"))
    for changed in range(K):

        def disturb(x: Any, changed: int = changed) -> Any:
            own = x.shape[:1] == (K,) and x.dtype == jnp.float32
            return x.at[changed].add(1.0) if own else x

        disturbed = team._replace(state=jax.tree.map(disturb, team.state))
        found = exporting._arrays(jax.device_get(exporting._actor_of(disturbed, 1)))
        same = [np.array_equal(found[tensor], own[tensor]) for tensor in own]
        assert found.keys() == own.keys()
        assert all(same) if changed != 1 else not any(same)


def test_one_file_for_each_agent(run_of, tmp_path):
    """Agents that share a network differ in their number alone; others in all that they learnt."""
    for name in ("qmix", "ippo"):
        (folder := tmp_path / name).mkdir()
        first, second, _ = exported(run_of(name), folder)
        said, others = first.description, second.description
        differ = {key for key in said if said[key] != others[key]}
        assert differ == {"agent", "sha256"}
        tensors = [layout.read(folder / f"agent_{k}.safetensors")[1] for k in range(2)]
        equal = [np.array_equal(tensors[0][tensor], tensors[1][tensor]) for tensor in tensors[0]]
        assert all(equal) if name == "qmix" else not any(equal)
        observation = np.linspace(-1, 1, O)
        assert not np.array_equal(first.outputs(observation), second.outputs(observation))


def test_the_description_says_where_the_agent_comes_from(small_run, tmp_path):
    agent = dm2.Agent.load(dm2.export(small_run, agent=2, at=200, out=tmp_path / "a.safetensors"))
    said = dict(agent.description)
    assert re.fullmatch("[0-9a-f]{64}", said.pop("sha256"))
    directions = ["move north", "move east", "move south", "move west", "stop"]
    assert said == {
        "format": "dm2-agent",
        "version": 1,
        "dm2_version": dm2.__version__,
        "method": "ippo",
        "seed": 0,
        "step": 256,
        "environment": ENV,
        "environment_version": "smax 0.2.0",
        "agent": 2,
        "observation_size": O,
        "actions": [*directions, *(f"attack enemy {k}" for k in range(3))],
        "hidden": 8,
        "dense_layers": 2,
        "running": False,
        "layer": True,
        "last_action": False,
        "agents": 0,
        "outputs": "logits",
        "greedy": "argmax",
        "sampling": "softmax",
        "epsilon": None,
    }
    # What is read by hand is what safetensors reads.
    theirs = safetensors.numpy.load_file(tmp_path / "a.safetensors")
    ours = layout.read(tmp_path / "a.safetensors")[1]
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)


def test_actions_have_names():
    smac = dm2.make("smac/5m_vs_6m").spec
    plain = ("nothing", "stop", "move north", "move south", "move east", "move west")
    assert smac.action_names == (*plain, *(f"attack enemy {k}" for k in range(6)))
    assert len(dm2.make("smax/3s_vs_4z").spec.action_names) == 9
    with pytest.raises(InputError, match=r"env = '.*': names 1 actions and has 12; name all"):
        dataclasses.replace(smac, action_names=("stop",))


def test_actions_without_names_are_numbered(small_run, tmp_path, monkeypatch):
    team = load_team(small_run, None)
    spec = dataclasses.replace(team.programs.env.spec, action_names=())
    monkeypatch.setattr(team.programs.env, "spec", spec)
    agent = dm2.Agent.load(dm2.export(small_run, agent=0, out=tmp_path / "a.safetensors"))
    assert agent.action_names == tuple(f"action {k}" for k in range(A))


# ---- without JAX

ALONE = """
import sys
import dm2
agent = dm2.Agent.load(sys.argv[1])
agent.act([0.5] * 75)
agent.act([0.5] * 75, greedy=False)
heavy = {"jax", "flax", "jaxtyping", "safetensors", "scipy", "onnx"}
print(sorted(heavy & set(sys.modules)))
"""


def test_an_agent_loads_no_jax(small_run, tmp_path):
    file = dm2.export(small_run, agent=0, out=tmp_path / "a.safetensors")
    command = [sys.executable, "-c", ALONE, str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# ---- what is refused


@pytest.fixture(scope="module")
def file(small_run, tmp_path_factory):
    return dm2.export(small_run, agent=0, out=tmp_path_factory.mktemp("agent") / "a.safetensors")


@pytest.fixture
def agent(file):
    return dm2.Agent.load(file)


@pytest.mark.parametrize(
    ("observation", "message"),
    [
        (np.zeros(74), r"observation: has shape \(74,\); must be the 75 numbers that the agent"),
        (np.zeros((1, 75)), r"observation: has shape \(1, 75\); must be the 75 numbers"),
        ([0.0] * 74 + [math.nan], "observation: feature 74 is nan as a 32-bit float; must be"),
        ([1e300] + [0.0] * 74, "observation: feature 0 is inf as a 32-bit float; must be finite"),
        (["a"] * 75, "observation: is of type <U1; must be an array of numbers"),
        ([[0.0], [0.0, 1.0]], "observation: is a ragged list; must be an array of numbers"),
        (None, "observation: is of type object; must be an array of numbers"),
    ],
)
def test_an_observation_that_is_none(agent, observation, message):
    for use in (agent.act, agent.outputs, agent.probabilities):
        with pytest.raises(InputError, match=message):
            use(observation)
    assert agent._last_action == -1


@pytest.mark.parametrize(
    ("legal", "message"),
    [
        ([True] * 7, r"legal: has shape \(7,\); must be one truth value for each of the 8 actions"),
        ([False] * 8, "legal: no action is legal; a dead agent need not act"),
        ([0, 1, 2, 0, 0, 0, 0, 0], r"legal = \[0, 1, 2, .*\]: must be truth values, or 0 and 1"),
        ([math.nan] + [1.0] * 7, "legal = .*: must be truth values, or 0 and 1"),
        (["yes"] * 8, "legal: is of type <U3; must be an array of numbers"),
    ],
)
def test_a_mask_that_is_none(agent, legal, message):
    for use in (agent.act, agent.probabilities):
        with pytest.raises(InputError, match=message):
            use(np.zeros(75), legal)


def test_observations_and_masks_of_other_types_will_do(agent):
    observation = np.linspace(-1, 1, 75)
    outputs = agent.outputs(observation.astype(np.float32))
    for same in (observation, observation.tolist(), jnp.asarray(observation, jnp.float32)):
        np.testing.assert_array_equal(agent.outputs(same), outputs)
    only = np.arange(8) == 3
    for mask in (only, only.tolist(), only.astype(int).tolist(), only.astype(np.float32)):
        assert agent.act(observation, mask) == 3


def changed(file: Path, out: Path, resigned: bool = False, **values: Any) -> Path:
    """A copy of an agent's file with another description."""
    description, arrays = layout.read(file)
    description = {**description, **values}
    if resigned:
        description["sha256"] = layout.digest(description, arrays)
    out.write_bytes(safetensors.numpy.save(arrays, {"dm2": json.dumps(description)}))
    return out


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"version": 2, "dm2_version": "9.1.0"}, "version 2, this dm2 reads 1; install dm2 9.1.0"),
        ({"seed": 1}, "its contents do not match their sha256; it is damaged; export the agent"),
        ({"hidden": 9}, r"tensor '.*' is cut off or has another shape than \(.*\); it is damaged"),
        ({"running": True}, "has other tensors than those of an agent; it is damaged"),
        ({"dense_layers": 10**9}, "has other tensors than those of an agent; it is damaged"),
        ({"outputs": ["logits"]}, "its description lacks something; it is damaged"),
        ({"version": 2, "dm2_version": None}, "this dm2 reads 1; install a newer dm2"),
        ({"hidden": "8"}, "its description lacks something; it is damaged"),
        ({"actions": []}, "its description lacks something; it is damaged"),
        ({"sampling": "epsilon-greedy"}, "its description lacks something; it is damaged"),
        ({"epsilon": 2.0}, "its description lacks something; it is damaged"),
        ({"agents": 2, "agent": 2}, "its description lacks something; it is damaged"),
        ({"format": "other"}, "holds something else than one agent; give a file that `dm2 export`"),
    ],
)
def test_a_description_that_is_none(file, tmp_path, values, message):
    wrong = changed(file, tmp_path / "wrong.safetensors", **values)
    with pytest.raises(InputError, match=f"wrong.safetensors: .*{message}"):
        dm2.Agent.load(wrong)


@pytest.mark.parametrize(
    "offsets", [5, None, "x", "ab", [], [0], [0, 1, 2], {}, ["0", 4], [0, "4"]]
)
def test_offsets_that_are_none(file, tmp_path, offsets):
    data, wrong = file.read_bytes(), tmp_path / "wrong.safetensors"
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    header["head/bias"]["data_offsets"] = offsets
    text = json.dumps(header).encode()
    wrong.write_bytes(len(text).to_bytes(8, "little") + text + data[start:])
    with pytest.raises(InputError, match=f"^{wrong}: tensor 'head/bias' is cut off or .*; it is"):
        dm2.Agent.load(wrong)


def test_every_flipped_byte_is_noticed(file, tmp_path):
    data, wrong = file.read_bytes(), tmp_path / "wrong.safetensors"
    for place in range(0, len(data), 97):
        flipped = bytearray(data)
        flipped[place] ^= 1
        wrong.write_bytes(flipped)
        with pytest.raises(InputError, match=f"^{wrong}: "):
            dm2.Agent.load(wrong)


def test_every_cut_file_is_noticed_and_one_that_goes_on(file, tmp_path):
    data, wrong = file.read_bytes(), tmp_path / "wrong.safetensors"
    lengths = (0, 4, 8, 9, 100, 1000, len(data) // 2, len(data) - 1)
    for content in (*(data[:length] for length in lengths), data + b"x"):
        wrong.write_bytes(content)
        with pytest.raises(InputError, match=f"^{wrong}: "):
            dm2.Agent.load(wrong)


def test_files_that_are_no_agents(small_demos, small_run, tmp_path):
    refused = {
        tmp_path / "none.safetensors": "no such file; make one with `dm2 export`",
        tmp_path: "cannot be read: Is a directory; give a file that `dm2 export` wrote",
        small_demos: "holds something else than one agent; give a file that `dm2 export` wrote",
        small_run.path / "config.json": "is no safetensors file; give a file that `dm2 export`",
    }
    for path, message in refused.items():
        with pytest.raises(InputError, match=f"^{path}: {message}"):
            dm2.Agent.load(path)
    with pytest.raises(InputError, match="seed = -1: must be a whole number from 0 up"):
        dm2.Agent.load(small_demos, seed=-1)


def test_an_export_that_cannot_be(small_run, tmp_path, monkeypatch):
    out = tmp_path / "a.safetensors"
    refused = {
        "agent = 3: must be a whole number from 0 to 2": {"agent": 3},
        "out = '.*a.onnx': must end in .safetensors": {"out": tmp_path / "a.onnx"},
        "out = '.*a.safetensors': must end in .onnx": {"format": "onnx"},
        "has no checkpoint of step 7; choose one of": {"at": 7},
    }
    for message, options in refused.items():
        with pytest.raises(InputError, match=message):
            dm2.export(small_run, **{"agent": 0, "out": out, **options})
    assert not any(tmp_path.iterdir())
    out.write_text("precious")
    with pytest.raises(InputError, match="exists; choose another file, or say overwrite"):
        dm2.export(small_run, agent=0, out=out)
    assert out.read_text() == "precious"
    monkeypatch.setitem(sys.modules, "onnx", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"format = 'onnx': needs onnx: pip install 'dm2\[onnx\]'"):
        dm2.export(small_run, agent=0, out=tmp_path / "a.onnx", format="onnx")


def test_a_text_does_not_say_whether_a_file_may_be_replaced(small_run, tmp_path, unchecked_types):
    out = tmp_path / "a.safetensors"
    out.write_text("precious")
    with pytest.raises(InputError, match="overwrite = 'no': must be True or False"):
        dm2.export(small_run, agent=0, out=out, overwrite="no")  # pyright: ignore
    assert out.read_text() == "precious"


def test_a_refused_export_leaves_no_folder(small_run, tmp_path):
    out = tmp_path / "x" / "y.safetensors"
    for agent, at in ((0, 7), (3, None)):
        with pytest.raises(InputError):
            dm2.export(small_run, agent=agent, at=at, out=out)
        assert not any(tmp_path.iterdir())
    assert dm2.export(small_run, agent=0, out=out).exists()


def test_a_method_that_gives_no_agents(small_run):
    team = load_team(small_run, None)
    closed: Any = SimpleNamespace(method=object())
    with pytest.raises(InputError, match=r"agents of ippo cannot be taken out; give their method"):
        exporting._actor_of(team._replace(programs=closed), 0)


def test_a_file_is_written_wholly_or_not_at_all(small_run, tmp_path, monkeypatch):
    out = tmp_path / "a.safetensors"
    dm2.export(small_run, agent=0, out=out)
    before = out.read_bytes()

    def fail(self, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(OSError, match="No space left"):
        dm2.export(small_run, agent=1, out=out, overwrite=True)
    assert out.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [out.name]


def test_the_command(small_run, tmp_path, capsys):
    out = tmp_path / "a.safetensors"
    words = ["export", str(small_run.path), "--agent", "1", "--out", str(out)]
    assert main([*words, "--json"]) == 0
    size = out.stat().st_size
    assert json.loads(capsys.readouterr().out) == {"file": str(out), "bytes": size, "agent": 1}
    assert dm2.Agent.load(out).description["agent"] == 1
    assert main(words) == 2
    assert "exists; choose another file" in capsys.readouterr().err
    assert main([*words, "--overwrite", "--at", "256"]) == 0
    assert dm2.Agent.load(out).description["step"] == 256
