"""What a method needs to be: one that does next to nothing goes the whole way of the others."""

import dataclasses
import json
import subprocess
import sys
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dm2
from dm2.envs import EnvSpec
from dm2.errors import InputError
from dm2.methods import METHODS
from dm2.methods.base import Method, Settings
from test_cli import run, run_json

SMALL = ("--num-envs", 8, "--rollout-steps", 16, "--eval-every", 128, "--eval-episodes", 4)


class ActingAtRandom:
    """Agents that draw a legal action each, and count the rollouts that they have learnt from."""

    centralised = False
    shares_reward = False

    def __init__(self, num_agents: int, boldness: float) -> None:
        self.num_agents, self.boldness = num_agents, boldness

    def init(self, key):
        """A counter and a key."""
        agents = jnp.arange(self.num_agents)
        keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, agents)
        return {"key": keys, "rollouts": jnp.zeros(self.num_agents, jnp.int32)}

    def memory(self, num_envs):
        """They remember nothing."""
        return None

    def action_keys(self, state, steps):
        """From each agent's key and how far it is."""
        keys = jax.vmap(jax.random.fold_in)(state["key"], state["rollouts"])
        return jnp.moveaxis(jax.vmap(lambda key: jax.random.split(key, steps))(keys), 1, 0)

    def act(self, state, memory, keys, view, greedy):
        """The first legal action where greedy, else any."""
        noise = jax.vmap(lambda key, legal: jax.random.uniform(key, legal.shape))(keys, view.legal)
        score = -jnp.arange(view.legal.shape[-1]) if greedy else noise
        return memory, jnp.argmax(jnp.where(view.legal, score, -jnp.inf), axis=-1), None

    def bootstrap(self, state, memory, view):
        """Nothing is learnt of it."""
        return None

    def learn(self, state, trajectory, experts):
        """Counts."""
        rollouts = state["rollouts"] + 1
        return {**state, "rollouts": rollouts}, {"boldness": self.boldness * rollouts}

    def programs(self, state, trajectory, experts):
        """Nothing is compiled."""
        return []


@dataclasses.dataclass(frozen=True)
class Daring:
    """Some settings of their own."""

    boldness: float = 1.0
    """How bold they are."""


@dataclasses.dataclass(frozen=True)
class RandomTeam(Settings):
    """A team that acts at random."""

    name: ClassVar[str] = "random"

    daring: Daring = dataclasses.field(default_factory=Daring)

    def build(self, spec: EnvSpec, num_envs: int) -> Method:
        """The team."""
        return ActingAtRandom(spec.num_agents, self.daring.boldness)


@pytest.fixture
def known(monkeypatch):
    """The one line of the list."""
    monkeypatch.setitem(METHODS, "random", RandomTeam)


@pytest.mark.learning  # for its time: that of the docs goes the same way
def test_a_new_method_goes_all_the_way(known, capsys, tmp_path):
    """Trained, resumed, evaluated, recorded, filmed, compared, and its costs foretold."""
    common = ("random", "--env", "smax/3m?limit=12", *SMALL, "--daring.boldness", 0.5)
    said = run_json(capsys, "train", *common, "--steps", 256, "--out", tmp_path / "x", "--dry-run")
    assert said["mflop_per_step"] == 0
    out = tmp_path / "runs" / "random"
    run_json(capsys, "train", *common, "--steps", 256, "--out", out, "--seeds", 2, "--jobs", 1)
    one = dm2.load(out / "seed_0")
    assert one.config.method == RandomTeam(Daring(0.5))
    assert json.loads((out / "seed_0" / "config.json").read_text())["config"]["method"] == "random"
    trained = [r for r in one.read_metrics() if r["kind"] == "train"]
    assert [r["boldness"] for r in trained] == [[0.5] * 3, [1.0] * 3]

    run_json(capsys, "resume", out / "seed_0", "--steps", 512)
    whole = dm2.train(dataclasses.replace(one.config, steps=512), tmp_path / "whole", quiet=True)
    states = [r.checkpoint_path(512) / "state.safetensors" for r in (dm2.load(one.path), whole)]
    assert states[0].read_bytes() == states[1].read_bytes()

    greedy, sampled = (
        run_json(capsys, "evaluate", out / "seed_0", "--episodes", 20, *more)
        for more in ((), ("--no-greedy",))
    )
    # Walking north for ever nobody is hurt; at random some damage is done in twelve steps.
    assert greedy["mean_return"] == 0 < sampled["mean_return"]
    file = tmp_path / "team.safetensors"
    run_json(capsys, "record", out / "seed_0", "--episodes", 30, "--out", file)
    demos = dm2.Demonstrations.load(file)
    assert demos.provenance["method"] == "random"
    for agent in demos.agents:
        assert agent.actions is not None
        chosen = np.bincount(agent.actions[agent.alive], minlength=5)
        assert chosen[:5].min() > 0.5 * chosen[:5].max()  # always legal, so equally often
    run_json(capsys, "watch", out / "seed_0", "--out", tmp_path / "battle.gif")

    # Its demonstrations are anybody's, and so is the comparison.
    taught = ("dm2", "--env", "smax/3m?limit=12", *SMALL, "--steps", 256, "--demos", file)
    taught += ("--ppo.hidden", 8, "--ppo.epochs", 1, "--imitation.updates", 1)
    run_json(capsys, "train", *taught, "--out", tmp_path / "runs" / "dm2")
    compared = run_json(capsys, "compare", tmp_path / "runs", "--out", tmp_path / "figure.png")
    assert {name: group["runs"] for name, group in compared["smax/3m?limit=12"].items()} == {
        "random": 2,
        "dm2": 1,
    }


def tiny(name: str) -> tuple[object, ...]:
    """Flags that make a method's networks and updates small."""
    words: list[object] = ["--steps", 384, "--checkpoint-every", 128]
    fields = {field.name for field in dataclasses.fields(METHODS[name])}
    if "ppo" in fields:
        words += ["--ppo.hidden", 8, "--ppo.epochs", 1, "--ppo.minibatches", 2]
    if "imitation" in fields:
        words += ["--imitation.updates", 1, "--imitation.hidden", 8, "--imitation.batch", 16]
    if "cloning" in fields:
        words += ["--cloning.epochs", 1, "--cloning.batch", 4]
    if "best" in fields:
        words += ["--best.episodes", 4, "--best.least", 2]
    if "q" in fields:
        words += ["--q.hidden", 8, "--q.updates", 1, "--q.batch", 4, "--q.capacity", 20]
        words += ["--q.learning-starts", 4, "--observations", "running"]
    return tuple(words)


COMMANDS = """
import json, shutil, sys
from dm2.cli import main

for words in json.loads(sys.argv[1]):
    if words[0] == "cut":  # as if the run had been killed before its last checkpoint
        shutil.copytree(words[1], words[2])
        shutil.rmtree(f"{words[2]}/checkpoints/{words[3]}")
    elif code := main([str(word) for word in words]):
        raise SystemExit(f"{words}: {code}")
"""


# Of the others, those of commands, of directories and of training do most of it too.
WALKS = [
    name if name == "qmix" else pytest.param(name, marks=pytest.mark.learning) for name in METHODS
]


@pytest.mark.parametrize("name", WALKS)
def test_every_command_works_on_every_methods_run(name, small_demos, tmp_path):
    """Trained, killed and resumed to the same bits, evaluated, recorded, filmed, compared; an agent
    taken out."""
    train = ["train", name, "--env", "smax/3m?limit=12", *SMALL, *tiny(name), "--seeds", 1]
    if METHODS[name].imitates:
        train += ["--demos", str(small_demos)]
    run, cut, file = (str(tmp_path / x) for x in ("runs/seed_0", "cut", "team.safetensors"))
    last = f"{384:012d}"
    commands = [
        [*train, "--out", str(tmp_path / "x"), "--dry-run"],
        [*train, "--out", str(tmp_path / "runs")],
        ["cut", run, cut, last],
        ["resume", cut],
        ["evaluate", run, "--episodes", 4, "--no-greedy"],
        ["record", run, "--episodes", 4, "--epsilon", 0.2, "--out", file],
        ["export", run, "--agent", 2, "--out", str(tmp_path / "agent.safetensors")],
        ["watch", run, "--out", str(tmp_path / "battle.gif")],
        ["compare", str(tmp_path / "runs"), "--json"],
    ]
    # In a process of its own, without the tests' type checks, which take most of the time.
    words = [sys.executable, "-c", COMMANDS, json.dumps(commands)]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    compared = json.loads(done.stdout.splitlines()[-1])
    assert compared["smax/3m?limit=12"][name]["runs"] == 1
    runs = [dm2.load(path) for path in (run, cut)]
    assert runs[0].config.method.name == name
    states = [(one.checkpoint_path(384) / "state.safetensors").read_bytes() for one in runs]
    assert states[0] == states[1]
    kept = [[{**r, "steps_per_s": 0} for r in one.read_metrics()] for one in runs]
    assert kept[0] == kept[1]
    assert [r["step"] for r in kept[0] if r["kind"] == "eval"] == [0, 128, 256, 384]
    assert dm2.Demonstrations.load(file).provenance["method"] == name
    assert dm2.Agent.load(tmp_path / "agent.safetensors").description["method"] == name
    assert (tmp_path / "battle.gif").stat().st_size > 0


def test_each_setting_is_a_flag_of_the_methods_that_have_it(known, capsys):
    def flags(method: str) -> str:
        return run(capsys, "train", method, "--help")[1]

    assert "--daring.boldness" in flags("random")
    assert "--ppo." not in flags("random")
    assert "--imitation." in flags("dm2")
    assert "--imitation." not in flags("ippo")
    code, out, err = run(
        capsys, "train", "ippo", "--env", "smax/3m", "--out", "x", "--imitation.updates", 3
    )
    assert code == 2
    assert "imitation.updates" in out + err


def test_settings_survive_json_and_name_what_is_wrong(known):
    methods = (dm2.IPPO(dm2.PPO(clip=0.1)), dm2.DM2(), dm2.RMAPPO(), RandomTeam(Daring(0.25)))
    for method in methods:
        demos = "team.safetensors" if method.imitates else None
        config = dm2.Config(method, "smax/3m", demos=demos, checkpoint_steps=(5,))
        again = dm2.Config.from_dict(json.loads(json.dumps(config.to_dict())))
        assert again == config
        assert hash(again.program) == hash(config.program)
    values = dm2.Config(dm2.IPPO(), "smax/3m").to_dict()
    for wrong, message in (
        ({"method": "ipo"}, "method = 'ipo': must be one of ippo, dm2, .*, random"),
        ({"ppo": {"clip": -1.0}}, "ppo.clip = -1.0"),
        ({"ppo": {"klip": 1.0}}, "klip"),
        ({"pqo": {}}, "pqo: method ippo has no such setting; known: ppo"),
    ):
        with pytest.raises(InputError, match=message):
            dm2.Config.from_dict({**values, **wrong})
    # In a process without the tests' type checks, which would be first to complain.
    program = "import dm2; dm2.Config('ippo', 'smax/3m')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    said = "method = 'ippo': must be a method's settings, for example dm2.IPPO()"
    assert done.stderr.strip().endswith(said)


def test_runs_that_differ_in_nothing_compiled_share_their_programs():
    from dm2.run.programs import programs_for

    config = dm2.Config(dm2.IPPO(), "smax/3m", seed=1)
    same = dataclasses.replace(config, seed=2, steps=7, eval_every=3, keep=9, checkpoint_steps=(1,))
    assert programs_for(same.program) is programs_for(config.program)
    for change in ({"num_envs": 64}, {"env": "smax/8m"}, {"method": dm2.IPPO(dm2.PPO(clip=0.1))}):
        other = dataclasses.replace(config, **change)
        assert programs_for(other.program) is not programs_for(config.program)
