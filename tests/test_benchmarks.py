"""That the benchmarks run, at a small size: what they report is not for a test to say."""

import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import growth
import scripted
from dm2 import Demonstrations
from dm2.agent.packing import Packing
from dm2.envs import make

ippo = pytest.importorskip("ippo", reason="jaxmarl is not installed")
racing = pytest.importorskip("racing")

ROOT = Path(__file__).parents[1]


@pytest.mark.learning
def test_the_peer_learns_from_what_it_collects(monkeypatch):
    for name, value in {"SCENARIO": "3m", "ENVS": 4, "STEPS": 8, "UNITS": 16}.items():
        monkeypatch.setattr(ippo, name, value)
    peer = ippo.Peer()
    agent = peer.init()
    before = jax.tree.map(np.array, agent[0])
    (after, *_), error = peer.iterate(agent, jax.random.PRNGKey(0))
    assert jnp.isfinite(error)
    pairs = zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)
    moved = [np.abs(a - b).max() for a, b in pairs]
    # Adam's first steps have the size of the learning rate, times minibatches and epochs.
    assert all(0 < most < 4e-3 * 16 * 2 for most in moved)


@pytest.mark.learning
def test_the_peer_with_a_central_critic_learns_from_what_it_collects(monkeypatch):
    mappo = pytest.importorskip("mappo")
    small = {"ENVS": 4, "STEPS": 8, "UNITS": 16}
    for name, value in small.items():
        monkeypatch.setattr(mappo, name, value)
    peer = mappo.MappoPeer("3m")
    agent = peer.init()
    before = jax.tree.map(np.array, agent[0])
    (after, _), error = peer.iterate(agent, jax.random.PRNGKey(0))
    assert jnp.isfinite(error)
    pairs = zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)
    moved = [np.abs(a - b).max() for a, b in pairs if a.shape]
    # As above. Only the actor's last bias of an action that was never legal does not move.
    assert all(0 < most < 2e-3 * 16 * 2 for most in moved)


@pytest.mark.learning
def test_the_peer_with_a_mixer_learns_from_what_it_collects(monkeypatch):
    qmix, winning = pytest.importorskip("qmix"), pytest.importorskip("winning")
    small = {"ENVS": 4, "STEPS": 8, "UNITS": 16, "HYPER": 8, "EMBED": 4, "KEPT": 8, "UPDATES": 3}
    for name, value in {**small, "RATE": 1e-3}.items():
        monkeypatch.setattr(qmix, name, value)
    monkeypatch.setattr(qmix.QmixPeer, "iteration_steps", 32)
    for name, value in {"LIMIT": 6, "BATTLES": 5}.items():
        monkeypatch.setattr(winning, name, value)
    peer = qmix.QmixPeer("3m", starts=40)
    agent = peer.init()
    first = jax.tree.map(np.array, agent[0])
    agent, error = peer.iterate(agent, jax.random.PRNGKey(0))
    assert error == 0.0  # 32 steps, of 40 with which it begins
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, first, agent[0])))
    rewards = np.asarray(agent[3].reward)
    assert rewards.shape == (2, 8, 4)
    assert (rewards[1] == 0).all()
    agent, error = peer.iterate(agent, jax.random.PRNGKey(1))
    assert jnp.isfinite(error)
    assert error > 0.0
    params, target, _, replay, count = agent
    for before, after in zip(first, params, strict=True):  # the agents move little at first
        assert not all(jax.tree.leaves(jax.tree.map(np.array_equal, before, after)))
    # The copy was made by the first iteration and will be by the eleventh.
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, first, target)))
    assert count == 2
    chosen = np.take_along_axis(np.asarray(replay.legal), np.asarray(replay.action)[..., None], -1)
    assert chosen.all()
    # Where all weights of the mixing network are those of the state, more of anybody is more.
    mixed = jax.grad(lambda v: peer.networks[1].apply(params[1], v, replay.state[0, :, :1]).sum())
    values = jnp.asarray(np.random.default_rng(0).normal(size=(8, 1, 3)), jnp.float32)
    assert (mixed(values) >= 0).all()
    assert winning.win_rate(peer, agent, jax.random.PRNGKey(2)) == 0.0  # six steps are too few


class Lottery:
    """A game of three steps in JaxMARL's form, which begins anew by itself: an agent that takes
    action 1 at the end wins if the first draw said so, and in later games always."""

    def reset(self, key):
        lucky = jax.random.bernoulli(key)
        return {"a": jnp.zeros(1)}, (jnp.int32(0), lucky)

    def get_avail_actions(self, state):
        return {"a": jnp.ones(2)}

    def step(self, key, state, actions):
        time, lucky = state
        over = time == 2
        reward = jnp.where(over & (actions["a"] == 1), 0.5 + lucky, 0.5)
        state = (jnp.where(over, 0, time + 1), lucky | over)
        return {"a": jnp.zeros(1)}, state, {"a": reward}, {"a": over, "__all__": over}, {}


@pytest.mark.parametrize("action", [0, 1])
def test_only_the_first_game_of_each_battle_counts(action):
    winning = pytest.importorskip("winning")

    def greedy(agent, memory, seen, starts, legal):
        return memory, jnp.full(starts.shape, action)

    peer = SimpleNamespace(env=Lottery(), names=["a"], memory=lambda envs: None, greedy=greedy)
    key = jax.random.PRNGKey(5)
    lucky = jax.vmap(jax.random.bernoulli)(jax.random.split(key, winning.BATTLES))
    assert 0.3 < lucky.mean() < 0.7
    assert winning.win_rate(peer, None, key) == (lucky.mean() if action else 0.0)


def test_no_timed_iteration_compiles(monkeypatch):
    program: Any = jax.jit(lambda x: x + 1)  # its stub does not know the size of its cache
    value, sizes = jnp.zeros((), jnp.int8), []

    def iterate():
        nonlocal value
        value = program(value).astype(jnp.float32)  # another type than at first, then the same
        sizes.append(program._cache_size())
        return value

    class Line:
        asked = iter([True, True, False])

        def send(self, _):
            pass

        def recv(self):
            return next(self.asked)

    monkeypatch.setattr(racing.jax.config, "update", lambda *_: None)
    racing.serve(lambda: racing.Work(iterate, 0.0), Line())
    assert sizes == [1, 2, 2, 2]


def test_races_and_contests_are_chosen_by_name(monkeypatch, capsys):
    training = pytest.importorskip("training")
    # A second of ours, 2 and 4 of the peer's, for 100 and 50 steps.
    seconds = {"a": iter([1.0, 1.0, 1.0]), "b": iter([2.0, 4.0, 2.0])}

    class Process:
        def __init__(self, target, args, daemon):
            make, self.far = args
            self.far.send((3.0, 5e8, {"a": 100, "b": 50}[make]))

        def start(self):
            pass

    class Line:
        def __init__(self):
            self.sent = []

        def send(self, value):
            self.sent.append(value)

        def recv(self):
            if isinstance(self.sent[0], tuple) and len(self.sent) == 1:
                return self.sent[0]
            return next(seconds["a" if self.sent[0][2] == 100 else "b"])

    def pipe():
        line = Line()
        return line, line

    context = SimpleNamespace(Pipe=pipe, Process=Process)
    monkeypatch.setattr(racing.multiprocessing, "get_context", lambda kind: context)
    monkeypatch.setattr(training, "peak_gflops", lambda repeats: 80.0)
    learns = {"a": lambda seed, steps, every: iter([(every, 0.25 * seed), (steps, 1.0)])}
    races = {
        "first": racing.Race("3m", {"a": "a", "b": "b"}, "b", learns),
        "second": racing.Race("8m", {}, "b"),
    }
    monkeypatch.setattr(training, "RACES", races)
    monkeypatch.setattr(sys, "argv", ["training.py", "first", "--rounds", "3"])
    training.main()
    # 100 a second against 25, 12.5 and 25.
    assert capsys.readouterr().out.splitlines() == [
        "first, smax/3m; matrix peak 80 GFLOP/s",
        "a                                100 steps/s  4.00 x [4.00, 8.00]"
        "  first iteration after 3.0 s, 5.0 MFLOP a step",
        "b                                 25 steps/s  1.00 x [1.00, 1.00]"
        "  first iteration after 3.0 s, 10.0 MFLOP a step",
    ]
    words = ["training.py", "--learn", "9000", "--every", "4000", "--seeds", "2", "--json"]
    monkeypatch.setattr(sys, "argv", words)
    training.main()  # of the second, nobody learns
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["seed"], row["step"], row["win_rate"]) for row in rows] == [
        (0, 4000, 0.0),
        (0, 9000, 1.0),
        (1, 4000, 0.25),
        (1, 9000, 1.0),
    ]
    monkeypatch.setattr(sys, "argv", ["training.py", "second", "--learn", "9000"])
    with pytest.raises(SystemExit):
        training.main()
    assert "re-created for speed alone" in capsys.readouterr().err


USAGE = {
    "scripted": ["[SCENARIO ...]", "record SCRIPT ENV FILE", "kite"],
    "starts": ["{fixed,order,spacing,jitter,varied}", "options"],
    "operations": ["[scenario]", "[num_envs]"],
    "growth": ["SCENARIO:ENVIRONMENTS"],
    "interfaces": ["[NAME ...]"],
}


@pytest.mark.parametrize("name", USAGE)
def test_benchmarks_say_how_they_are_used(name):
    command = [sys.executable, str(ROOT / "benchmarks" / f"{name}.py"), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert done.stdout.startswith("usage: ")
    for words in USAGE[name]:
        assert words in done.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["3m", "4m"], "SCENARIO = '4m': must be one of 5m_vs_6m, "),
        (["record", "kite", "smax/3m"], "record: needs SCRIPT, ENV and FILE"),
        (["record", "kiet", "smax/3m", "x.csv"], "'kiet': must begin with one of closest, focus"),
        (["record", "kite:x", "smax/3m", "x.csv"], "what follows the colon must be from 0 to 1"),
        (["record", "kite:1.5", "smax/3m", "x.csv"], "what follows the colon must be from 0 to 1"),
        (["record", "kite", "smax/4m", "x.csv"], "smax/4m"),
    ],
)
def test_scripts_refuse_words_that_they_do_not_know(monkeypatch, capsys, words, message):
    monkeypatch.setattr(sys, "argv", ["scripted.py", *words])
    with pytest.raises(SystemExit) as left:
        scripted.main()
    assert left.value.code == 2
    assert message in capsys.readouterr().err


def test_a_script_is_recorded_by_the_documented_command(monkeypatch, tmp_path):
    monkeypatch.setattr(scripted, "BATTLES", 2)
    files = [tmp_path / name for name in ("film.csv", "kite.safetensors")]
    for file in files:
        words = ["scripted.py", "record", "kite:0.3", "smax/3m?limit=4", str(file)]
        monkeypatch.setattr(sys, "argv", words)
        scripted.main()
    plain = Demonstrations.load(files[1])
    filmed = Demonstrations.from_csv(files[0], make("smax/3m?limit=4"))
    for mine, its in zip(plain.agents, filmed.agents, strict=True):
        np.testing.assert_array_equal(mine.observations, its.observations)


def test_cases_of_growth_have_environments(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["growth.py", "3m"])
    with pytest.raises(SystemExit):
        growth.main()
    assert "'3m' must look like 3s_vs_4z:32" in capsys.readouterr().err


@pytest.mark.learning
def test_growth_is_measured():
    command = [sys.executable, str(ROOT / "benchmarks" / "growth.py"), "3m:4"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    (line,) = done.stdout.splitlines()
    found = re.fullmatch(r"3m:4 .* (\d+)% alive +(\d+)% computed", line)
    assert found, line
    # Few environments a minibatch: at least those alive are computed, in some whole.
    assert 50 < int(found[1]) < int(found[2]) <= 100


class Known:
    """Programs whose iteration of 512 steps by 4 agents takes so many microseconds a step and
    agent, by the clock `now`, and a rollout in which an agent is alive in 10, 20, 30 and 40 % of
    its steps."""

    now = 0.0
    env = SimpleNamespace(spec=SimpleNamespace(num_agents=4))
    settings = SimpleNamespace(iteration_steps=512)

    def __init__(self, *microseconds):
        self.left = iter(microseconds)
        self.method = self

    def init(self, seed):
        return SimpleNamespace(agents=None, rollout=None, iteration=0)

    def iterate(self, state, seed, experts):
        Known.now += next(self.left) * 512 * 4 / 1e6
        return state, None

    def collect(self, agents, rollout, iteration, seed):
        alive = np.arange(100)[None, :, None] < np.array([10, 20, 30, 40])[:, None, None]
        return None, None, SimpleNamespace(alive=alive)

    def prepare(self, agents, trajectory, experts):
        # Four agents, a minibatch of two sequences: of 128 steps, the longer ones' 16, 32, 48 and
        # 64 are computed.
        length = jnp.array([[[16, 1]], [[32, 2]], [[3, 48]], [[4, 64]]])
        nothing = jnp.zeros((4, 1, 128, 2), jnp.int32)
        return None, SimpleNamespace(packing=Packing(nothing, length, length)), None


def test_growth_by_hand(monkeypatch, capsys):
    """The first iteration, which compiles, does not count."""
    made = {
        "smax/a": Known(9e9, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0),
        "smax/b": Known(9e9, 3.0, 4.0, 9.0, 2.0, 10.0, 24.0, 7.0),
    }
    monkeypatch.setattr(growth, "Programs", lambda settings: made[settings.env])
    monkeypatch.setattr(growth, "time", SimpleNamespace(process_time=lambda: Known.now))
    monkeypatch.setattr(sys, "argv", ["growth.py", "a:32", "b:32"])
    growth.main()
    # Medians 4 and 7; ratios 3, 2, 3, 0.5, 2, 4, 1; four agents; (10 + 20 + 30 + 40) / 4 % of steps
    # alive and (16 + 32 + 48 + 64) / 4 / 128 computed.
    shares = "   25% alive   31% computed"
    assert capsys.readouterr().out.splitlines() == [
        f"{'a:32':<16}    4.0 µs an agent-step   1.00 x [1.00, 1.00]"
        f"     16.0 µs an environment step{shares}",
        f"{'b:32':<16}    7.0 µs an agent-step   2.00 x [0.50, 4.00]"
        f"     28.0 µs an environment step{shares}",
    ]


def test_the_profile_tells_the_loop_from_the_rest():
    # One block of four steps.
    found = [("dot.1", 1.0), ("tanh", 0.25)] * 4 + [("bitcast_dot", 3.0), ("gather", 5.0)]
    found += [("while.2", 90.0), ("$call", 90.0), ("end: dot.1", 90.0), ("Transpose", 90.0)]
    # In a process of its own: importing the profile takes a core away.
    program = f"import json, operations; print(json.dumps(operations.sort({found})))"
    command = [sys.executable, "-c", program]
    done = subprocess.run(
        command, cwd=ROOT / "benchmarks", capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == {
        "products, in the GRU's loop": 4.0,
        "everything else, in the GRU's loop": 1.0,
        "products, outside the GRU's loop": 3.0,
        "everything else, outside the GRU's loop": 5.0,
    }


PROFILE = """
import operations

measured = operations.events
known = iter([
    [("dot.1", 10.0), ("tanh", 5.0)] * 4 + [("gather", 20.0)],
    [("dot.1", 10.0)] * 4 + [("dot.2", 30.0), ("gather", 50.0)],
])

def events(program, arguments):
    found = measured(program, arguments)
    assert any(name.startswith("dot") and milliseconds > 0 for name, milliseconds in found)
    return next(known)

operations.events, operations.matmul_gflops = events, lambda repeats: 80.0
operations.main()
"""


@pytest.mark.learning
def test_the_profile_adds_up():
    """Both programs run, and stand for others whose milliseconds are known."""
    command = [sys.executable, "-c", PROFILE, "3m", "8"]
    done = subprocess.run(
        command, cwd=ROOT / "benchmarks", capture_output=True, text=True, check=True
    )
    # Products 40 + 40 ms in the loop and 30 outside, else 20 in it and 20 + 50 outside: 200. In
    # test_costs.py's way 2 x (4 x 4800 + 3 x (28672 + 512 + 28672 + 64)) operations a step, times
    # 4 epochs, 3 agents and 8 x 128 steps: 4.74e9, in 0.2 s.
    assert done.stdout.splitlines() == [
        "200 ms of one core at a peak of 80 GFLOP/s; 5 GFLOP, ",
        "hence 24 GFLOP/s",
        "  40%  products, in the GRU's loop",
        "  35%  everything else, outside the GRU's loop",
        "  15%  products, outside the GRU's loop",
        "  10%  everything else, in the GRU's loop",
    ]


@pytest.mark.learning
def test_a_team_is_tested_on_every_kind_of_starts(monkeypatch):
    import starts

    monkeypatch.setattr(starts, "_EVERY", 512)
    trained = list(starts.measure("3m", "fixed", 0, 1024, 512, 4, "limit=4"))
    assert [row["step"] for row in trained] == [512, 1024, *[1024] * 5]
    kinds = ["", "starts=order&", "starts=spacing&", "starts=jitter&", "starts=varied&"]
    own = ["smac/3m?limit=4"] * 2
    assert [row["env"] for row in trained] == own + [f"smac/3m?{kind}limit=4" for kind in kinds]
    # In four steps nobody comes into reach.
    assert all((row["greedy"], row["sampled"]) == (0, 0) for row in trained)


@pytest.mark.learning  # for its time: it starts processes
def test_the_cost_of_stepping_copies_adds_up(monkeypatch):
    environments = pytest.importorskip("environments")
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    row = environments.measure(0.0, num_envs=2, steps=20, rounds=2)
    assert row["cores"] <= 2
    for name in ("plain_ms", "batched_ms", "callback_ms", "share"):
        assert 0 < row[name].low <= row[name].median <= row[name].high
    slow = environments.measure(2.0, num_envs=2, steps=20, rounds=1)
    assert slow["plain_ms"].median > 2.0 and slow["batched_ms"].median > 2.0


@pytest.mark.learning  # for its time
def test_a_scripted_teams_film_is_its_recording(tmp_path, monkeypatch):
    """The table, imported, holds what the demonstrations hold; random actions are legal."""
    monkeypatch.setattr(scripted, "BATTLES", 4)
    env = make("smax/3m?limit=20")
    plain = scripted.demonstrations("kite", env)
    scripted.film("kite", env, str(tmp_path / "film.csv"))
    film = Demonstrations.from_csv(tmp_path / "film.csv", env, dtype="float16")
    for agent, seen in zip(plain.agents, film.agents, strict=True):
        for field in ("observations", "alive", "offsets"):
            np.testing.assert_array_equal(getattr(seen, field), getattr(agent, field))
        assert seen.actions is None
    noisy = scripted.play("kite:1", env)
    chosen = np.take_along_axis(np.asarray(noisy.legal), np.asarray(noisy.actions)[..., None], -1)
    assert chosen.all()
    assert np.mean(noisy.returns) < np.mean(scripted.play("kite", env).returns)
