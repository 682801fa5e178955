"""What a trained team is said to be worth and to have done, by hand arithmetic."""

import dataclasses
import errno
import itertools
import json
import shutil
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tensorboardX.proto import event_pb2
from tensorboardX.record_writer import RecordWriter

from conftest import hashes, refuses
from dm2 import IPPO, Config, InputError, make, preset, record, record_style
from dm2.demos.experts import load_experts
from dm2.rollout import Outcome
from dm2.run import evaluate as evaluating
from dm2.run import log
from dm2.run import record as recording
from dm2.run.directory import RunDirectory
from dm2.run.log import Log
from dm2.run.team import load_team
from test_demos import episodes

Event: Any = event_pb2.__dict__["Event"]  # made at run time

OUTCOME = Outcome(
    won=jnp.array([True, False, False, False]),
    returns=jnp.array([2.0, 0.5, 0.0, -0.5]),
    length=jnp.array([3, 12, 12, 9]),
)


class KnownPrograms:
    """Programs whose battles are known, so that what is made of them can be worked out."""

    def __init__(self, wins=True):
        spec = dataclasses.replace(make("smax/3m").spec, wins=wins)
        self.env = SimpleNamespace(spec=spec)

    def evaluate(self, agents, seed, step, episodes, greedy=True):
        """One victory in four."""
        self.asked = (int(seed), int(step), episodes, greedy)
        return OUTCOME

    def close(self):
        """There are no environments."""


@pytest.mark.parametrize("greedy", [False, True])
def test_evaluation_by_hand(small_run, monkeypatch, greedy):
    known = KnownPrograms()
    monkeypatch.setattr(evaluating, "load_team", lambda run, at, env: (run, known, None, 512))
    result = evaluating.evaluate(small_run, episodes=4, greedy=greedy, seed=9)
    assert known.asked == (9, 512, 4, greedy)
    assert result == {
        "win_rate": 0.25,
        "win_rate_standard_error": pytest.approx((0.25 * 0.75 / 4) ** 0.5),
        "mean_return": 0.5,  # (2 + 0.5 + 0 - 0.5) / 4
        # Squares about 0.5: 2.25 + 0 + 0.25 + 1 = 3.5, over n - 1 = 3, over n = 4.
        "mean_return_standard_error": pytest.approx((3.5 / 3 / 4) ** 0.5),
        "mean_length": 9.0,  # (3 + 12 + 12 + 9) / 4
        "episodes": 4,
        "step": 512,
        "environment": "smax/3m",
    }


def test_where_nobody_can_win_there_is_no_win_rate(small_run, monkeypatch):
    loaded = (small_run, KnownPrograms(wins=False), None, 512)
    monkeypatch.setattr(evaluating, "load_team", lambda run, at, env: loaded)
    result = evaluating.evaluate(small_run, episodes=4)
    assert result["win_rate"] is None
    assert result["win_rate_standard_error"] is None
    assert result["mean_return"] == 0.5


def test_evaluating_is_the_same_anywhere(small_run, tmp_path):
    """In another process, with other programs, as often as one likes; and it changes no run."""
    before = hashes(small_run.path)
    here = [evaluating.evaluate(small_run, episodes=9, greedy=False, seed=5) for _ in range(2)]
    command = [sys.executable, "-m", "dm2", "evaluate", str(small_run.path), "--json"]
    command += ["--episodes", "9", "--no-greedy", "--seed", "5"]
    there = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert [json.loads(there)] * 2 == here
    assert evaluating.evaluate(small_run, episodes=9, greedy=False, seed=6) != here[0]
    assert hashes(small_run.path) == before


def test_a_team_plays_in_another_environment(small_run):
    own = evaluating.evaluate(small_run, episodes=9, seed=5)
    assert evaluating.evaluate(small_run, env="smax/3m?limit=12", episodes=9, seed=5) == own
    shorter = evaluating.evaluate(small_run, env="smax/3m?limit=5", episodes=9, seed=5)
    assert own["environment"] == "smax/3m?limit=12" and own["mean_length"] == 12
    assert shorter["environment"] == "smax/3m?limit=5" and shorter["mean_length"] == 5


def test_a_team_cannot_play_where_sizes_differ(small_run, tmp_path):
    film = tmp_path / "film.gif"
    for use in (
        lambda env: evaluating.evaluate(small_run, env=env),
        lambda env: evaluating.watch(small_run, film, env=env),
    ):
        with pytest.raises(
            InputError,
            match=r"env = 'smax/5m_vs_6m': unlike 'smax/3m\?limit=12', in which the team was "
            r"trained: num_agents is 5, there 3, observation_size is 140, there \d+, num_actions "
            r"is 11, there 8; choose one of the same sizes",
        ):
            use("smax/5m_vs_6m")
        with pytest.raises(InputError, match="env = 'smax/3n': no such environment"):
            use("smax/3n")
    assert not film.exists()


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize("name", [3, b"smax/3m", ["smax/3m"]])
def test_a_name_of_an_environment_is_a_text(small_run, name):
    for use in (
        make,
        lambda env: preset("tuned", "ippo", env),
        lambda env: preset("paper", "ippo", env),
        lambda env: evaluating.evaluate(small_run, env=env),
    ):
        refuses(lambda use=use: use(name), f"env = {name!r}: must be an environment's name, for")


def test_a_run_of_more_steps_than_31_bits_count(small_run, tmp_path):
    run = RunDirectory.open(shutil.copytree(small_run.path, tmp_path / "run"))
    state, _ = run.load_checkpoint(load_team(run, None).programs.shapes())
    run.save_checkpoint(2**31, state)
    assert evaluating.evaluate(run, episodes=4)["step"] == 2**31


@pytest.mark.parametrize("seed", [-1, 2**32, 0.5, float("nan")])
def test_a_seed_that_is_none(small_run, tmp_path, seed):
    for use in (evaluating.evaluate, record):
        with pytest.raises(InputError, match=r"seed = .*: must be a whole number from 0 to"):
            use(small_run, episodes=1, seed=seed)
    with pytest.raises(InputError, match="seed = "):
        evaluating.watch(small_run, tmp_path / "x.gif", seed=seed)


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize("value", ["no", 0, None])
def test_a_flag_is_true_or_false(small_run, tmp_path, value):
    runs, film = [small_run], tmp_path / "x.gif"
    for use, names in (
        (lambda **flag: evaluating.evaluate(small_run, **flag), ["greedy"]),
        (lambda **flag: evaluating.watch(small_run, film, **flag), ["greedy", "ranges"]),
        (lambda **flag: record(small_run, **flag), ["greedy", "actions"]),
        (lambda **flag: record_style(runs, "co-trained-disjoint", **flag), ["greedy", "actions"]),
    ):
        for name in names:
            said = f"{name} = {value!r}: must be True or False"
            refuses(lambda use=use, name=name: use(**{name: value}), said)
    numpys: Any = np.False_
    assert evaluating.evaluate(small_run, episodes=3, greedy=numpys)["episodes"] == 3


def test_numbers_of_other_types_will_do(small_run):
    numbers = {"episodes": np.int64(3), "seed": np.uint32(7), "at": 512.0}
    assert evaluating.evaluate(str(small_run.path), **numbers) == evaluating.evaluate(
        small_run.path, episodes=3, seed=7, at=512
    )
    with pytest.raises(InputError, match="episodes = 0: must be a whole number above 0"):
        evaluating.evaluate(small_run, episodes=0)
    with pytest.raises(InputError, match="at = -1: must be a whole number from 0 up"):
        evaluating.evaluate(small_run, at=-1)


def test_what_a_run_writes_by_hand(tmp_path):
    run = RunDirectory.create(tmp_path / "run", Config(IPPO(), "smax/3m", eval_episodes=4), {})
    totals = {"ended": 4, "won": 1, "returns": 6.0, "length": 40}
    with Log(run) as writer:
        metrics = {"episodes": totals, "agents": {"x": np.array([1.0, 2.0])}}
        assert writer.iteration(128, metrics, 7.0) == 0.25
        nothing = {"episodes": dict.fromkeys(totals, 0), "agents": {}}
        assert writer.iteration(256, nothing, 7.0) is None
        assert writer.evaluation(256, OUTCOME) == 0.25
    first, second, third = run.read_metrics()
    assert first == {
        "kind": "train",
        "step": 128,
        "episodes": 4,
        "train_win_rate": 0.25,
        "mean_return": 1.5,
        "mean_length": 10.0,
        "steps_per_s": 7.0,
        "x": [1.0, 2.0],
    }
    assert (second["train_win_rate"], second["mean_return"], second["mean_length"]) == (None,) * 3
    means = {"win_rate": 0.25, "mean_return": 0.5, "mean_length": 9.0}
    assert third == {"kind": "eval", "step": 256, "episodes": 4, **means}
    assert events_of(run) == [
        ("train/episodes", 128, 4.0),
        ("train/train_win_rate", 128, 0.25),
        ("train/mean_return", 128, 1.5),
        ("train/mean_length", 128, 10.0),
        ("train/steps_per_s", 128, 7.0),
        ("train/x", 128, 1.5),
        ("train/episodes", 256, 0.0),
        ("train/steps_per_s", 256, 7.0),
        ("eval/win_rate", 256, 0.25),
        ("eval/mean_return", 256, 0.5),
        ("eval/mean_length", 256, 9.0),
        ("eval/episodes", 256, 4.0),
    ]


def events_of(run):
    """Every scalar in a run's events: tag, step, value. The file is read as TensorBoard reads it:
    length, checksum, an event, checksum."""
    (file,) = (run.path / "tensorboard").iterdir()
    data, found = file.read_bytes(), []
    while data:
        size = int.from_bytes(data[:8], "little")
        event = Event.FromString(data[12 : 12 + size])
        found += [(v.tag, event.step, v.simple_value) for v in event.summary.value]
        data = data[16 + size :]
    return found


def test_where_nobody_can_win_returns_are_written(tmp_path):
    run = RunDirectory.create(tmp_path / "run", Config(IPPO(), "smax/3m", eval_episodes=4), {})
    totals = {"ended": 4, "won": 0, "returns": 6.0, "length": 40}
    with Log(run, wins=False) as writer:
        assert writer.iteration(128, {"episodes": totals, "agents": {}}, 7.0) == 1.5
        assert writer.evaluation(128, OUTCOME) == 0.5
    first, second = run.read_metrics()
    assert (first["train_win_rate"], first["mean_return"]) == (None, 1.5)
    assert (second["win_rate"], second["mean_return"]) == (None, 0.5)


def test_events_are_the_record_also_after_a_kill(tmp_path, monkeypatch):
    clock = itertools.count(1000.0)  # a file is called by the second in which it was begun
    monkeypatch.setattr(log, "time", SimpleNamespace(time=lambda: next(clock)))
    run = RunDirectory.create(tmp_path / "run", Config(IPPO(), "smax/3m", eval_episodes=4), {})
    totals = {"ended": 4, "won": 1, "returns": 6.0, "length": 40}

    def write(*steps):
        with Log(run) as writer:
            for step in steps:
                writer.iteration(step, {"episodes": totals, "agents": {}}, 7.0)

    write(128, 256, 384)
    with next((run.path / "tensorboard").iterdir()).open("ab") as file:
        file.write(b"half an ev")  # what a kill leaves
    run.truncate_metrics(256)  # as `resume` does, to the checkpoint of step 256
    write(384, 512)
    returns = [(step, value) for tag, step, value in events_of(run) if tag == "train/mean_return"]
    assert returns == [(128, 1.5), (256, 1.5), (384, 1.5), (512, 1.5)]


@pytest.mark.parametrize("fails", ["write", "flush", "close", "__init__"])
def test_without_events_training_is_written_down_all_the_same(tmp_path, monkeypatch, fails):
    close = RecordWriter.close

    def full(writer, *_):
        if fails == "close":
            close(writer)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(RecordWriter, fails, full)
    run = RunDirectory.create(tmp_path / "run", Config(IPPO(), "smax/3m", eval_episodes=4), {})
    totals = {"ended": 4, "won": 1, "returns": 6.0, "length": 40}

    def write():
        with Log(run) as writer:
            for step in range(1, 40):
                writer.iteration(step, {"episodes": totals, "agents": {}}, 7.0)
                writer.evaluation(step, OUTCOME)

    problem = "tensorboard: no more events are written: No space left"
    with pytest.warns(RuntimeWarning, match=problem) as caught:
        write()
    assert len(caught) == 1
    assert [record["step"] for record in run.read_metrics()] == [n // 2 for n in range(2, 80)]


def test_a_recording_goes_on_where_a_batch_ends(small_run, monkeypatch):
    monkeypatch.setattr(recording, "BATCH", 2)
    demos = record(small_run, episodes=5, seed=3)
    one = demos[0]
    assert one.num_episodes == 5
    assert one.won is not None
    assert demos.provenance["win_rate"] == np.mean(one.won)
    # Every episode is drawn anew, also those of later batches.
    openings = [one.observations[i].tobytes() for i in one.offsets[:-1]]
    assert len(set(openings)) == 5


def test_a_recording_is_sampled_unless_greedy_is_asked_for(small_run, monkeypatch):
    programs = load_team(small_run, None).programs
    original, asked = programs.record, []

    def spy(agents, key, episodes, greedy, *more):
        asked.append(greedy)
        return original(agents, key, episodes, greedy, *more)

    monkeypatch.setattr(programs, "record", spy)
    for greedy, policy in ((False, "stochastic"), (True, "greedy")):
        demos = record(small_run, episodes=2, greedy=greedy)
        assert demos.provenance["policy"] == policy
    assert asked == [False, True]


def test_every_agent_is_given_its_own_expert():
    demos = episodes()
    experts = load_experts(demos)
    for k, agent in enumerate(demos.agents):
        mine = jax.tree.map(lambda x, k=k: np.asarray(x[k]), experts)
        rows = agent.observations[agent.alive]
        assert mine.size == len(rows)
        np.testing.assert_array_equal(mine.observations[: len(rows)], rows)
    # Two episodes of at most 4 steps; agent 0 was alive at 3 of those 8 steps, agent 1 at 2.
    assert experts.size.tolist() == [3, 2]
    np.testing.assert_allclose(experts.absorbing, [5 / 8, 6 / 8])
