"""What `dm2 check` says of sound and of malformed environments, and that none is trained on."""

import itertools
import json
import types

import numpy as np
import pytest

import dm2
from conftest import SMALL
from dm2.cli import main
from dm2.envs import make, workers
from dm2.errors import InputError
from dm2.run import check as run_check
from dm2.run.check import check, check_quickly
from stand_ins_jax import Walk

MALFORMED = [
    ("limit", "spec.episode_limit = 0; must be a whole number above 0"),
    ("clock", "spec.episode_limit = 2147483648; must be at most 2147483647"),
    ("reset", "reset raised ValueError: there is no map"),
    ("exit", "step raised SystemExit: 5"),
    ("axis", "reset returned ['at'] of shape (3, 2) for 3 environments; the last axis must be"),
    ("key", "reset returned a typed key as ['key']; checkpoints hold plain numbers, so keep its"),
    ("result", "step returned no state and dm2.envs.Step; return a pair of them"),
    ("state", "step returned ['at'] as float32(2, 3), reset as int32(2, 3); return the same"),
    ("reward", "step returned reward as float32(3, 1); return float32(3,) or float32(2, 3)"),
    ("own", "step returned reward of shape (2, 3), spec.own_rewards = False; say there whether"),
    ("flags", "step returned won as int32(3,); return bool(3,)"),
    ("observations", "observe returned observations as float32(3, 2, 2); return float32(2, 3, 2)"),
    ("legal", "observe returned legal as bool(2, 3, 4); return bool(2, 3, 3)"),
    ("endless", "episode_limit = 5: an episode goes on at step 4; truncate it at its limit"),
    ("both", "an episode at step 4 is both terminated and truncated; say one of them"),
    ("won", "an episode at step 4 is won and goes on; terminate an episode that is won"),
    ("paid nan", "the reward at step 0 is not a finite number; mend step"),
    ("shown nan", "observes a number that is not finite; mend observe"),
    ("central nan", "the global state at step 3 holds a number that is not finite; mend observe"),
    ("stuck", "agent 1 at step 1 has no legal action; give it one, a dead one too"),
    ("nobody", "nobody is alive at step 0; let an episode begin with living agents"),
    ("revived", "agent 1 at step 3 was dead and lives again; who died stays dead until a reset"),
]


@pytest.mark.parametrize(("fault", "sentence"), MALFORMED, ids=[fault for fault, _ in MALFORMED])
def test_a_malformed_environment_is_refused_in_one_sentence(fault, sentence):
    with pytest.raises(InputError) as caught:
        check_quickly(Walk(fault))
    said = str(caught.value)
    assert said.startswith("env = 'walk': ")
    assert sentence in said
    assert "\n" not in said


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("stand_ins_jax:Walk?fault=revived", "was dead and lives again"),
        ("stand_ins:Meet?fault=reward", "the reward of agent 0 is nan"),
        ("stand_ins:Meet?fault=exit", "step raised SystemExit: 3 (stand_ins.py, line "),
    ],
)
def test_the_first_steps_are_looked_at_however_slow_the_machine_is(name, sentence, monkeypatch):
    env = make(name)
    slow = types.SimpleNamespace(monotonic=itertools.count(0, 100).__next__)
    monkeypatch.setattr(run_check, "time", slow)
    with pytest.raises(InputError) as caught:
        check_quickly(env)
    assert sentence in str(caught.value)


def test_an_environment_that_crashes_when_it_is_looked_at_leaves_the_trainer_alone():
    remedy = "ended by itself, with code 7, 3 times before an episode ended; mend what kills it"
    with (
        pytest.warns(RuntimeWarning, match="code 7: its episodes are cut"),
        pytest.raises(InputError, match=remedy),
    ):
        check_quickly(make("stand_ins:Meet?fault=crash"))


def test_an_environment_that_hangs_when_it_is_looked_at_is_said(monkeypatch):
    monkeypatch.setattr(workers, "PATIENCE_S", 5.0)
    with pytest.raises(InputError, match=r"was not done after 5 s; mend what waits for ever in it"):
        check_quickly(make("stand_ins:Meet?fault=endless"))


def test_a_sound_one_is_not_refused_and_measured():
    found = check("stand_ins_jax:Walk", seconds=0.1)
    assert found["problems"] == []
    assert found["environment"] == "stand_ins_jax:Walk"
    assert (found["mean_length"], found["terminated"], found["deterministic"]) == (5, 0, True)
    assert found["episodes"] > 0 and found["steps_per_second"] > 0
    assert found["padding"] == []


def test_environments_that_mix_are_found():
    (problem,) = check("stand_ins_jax:Walk?fault=mixing", seconds=0.1)["problems"]
    assert "an action in one environment changed another; no environment may read" in problem


def test_environments_that_are_no_functions_of_their_arguments_are_found():
    found = check("stand_ins_jax:Walk?fault=impure", seconds=0.1)
    assert not found["deterministic"]
    assert "the same key and actions led elsewhere; reset and step must be" in found["problems"][0]


def test_an_environment_in_python_is_checked_and_what_is_padded_is_said():
    found = check("stand_ins:Meet?max_cycles=4&dies=9", num_envs=2, seconds=0.1)
    assert found["problems"] == []
    assert (found["mean_length"], found["deterministic"]) == (4, True)
    assert found["padding"] == [
        "agent 0: 2 of 3 features differ from 0",
        "agent 0: 3 of 4 actions are ever legal",
        "agent 1: 3 of 4 actions are ever legal",
    ]
    assert not check("stand_ins:Unseeded", num_envs=2, seconds=0.1)["deterministic"]


def test_an_environment_that_fails_when_the_same_is_played_again_is_found():
    found = check("stand_ins:Meet?fault=seed", num_envs=2, seconds=0.1)
    (problem,) = found["problems"]
    assert "as the same was played once more, " in problem
    assert "there was an episode of seed" in problem and found["episodes"] > 0


def test_the_command_prints_facts_and_a_line_for_each_problem(capfd):
    assert main(["check", "stand_ins:Meet?fault=observation", "--seconds", "0.1", "--json"]) == 1
    out, err = capfd.readouterr()
    problem = "env = 'stand_ins:Meet?fault=observation': after reset, agent 0 observes a number "
    problem += "that is not finite; mend the observation"
    assert json.loads(out)["problems"] == [problem]
    assert err.splitlines()[-1] == f"dm2: {problem}"


@pytest.mark.parametrize(
    ("name", "code", "said"),
    [
        ("stand_ins:Battle?fault=exit", 2, "reading its sizes raised SystemExit: 0 (stand_ins.py,"),
        ("stand_ins_jax:Walk?fault=late exit", 1, "failed: SystemExit: 5 (stand_ins_jax.py, line "),
    ],
)
def test_an_environment_that_ends_python_does_not_end_the_command_silently(name, code, said, capfd):
    assert main(["check", name, "--seconds", "0.1"]) == code
    assert said in capfd.readouterr().err.splitlines()[-1]


def test_the_command_says_what_is_padded_in_words(capfd):
    assert main(["check", "stand_ins:Meet", "--seconds", "0.1"]) == 0
    lines = dict(line.split(maxsplit=1) for line in capfd.readouterr().out.splitlines())
    assert lines["padding"].startswith("agent 0: 2 of 3 features differ from 0; agent 0: ")
    assert float(lines["terminated"]) == 0


@pytest.mark.parametrize("name", ["stand_ins_jax:Walk?fault=revived", "stand_ins:Meet?fault=mask"])
def test_nobody_trains_on_what_is_malformed(name, tmp_path):
    config = dm2.Config(dm2.IPPO(dm2.PPO(hidden=8)), name, steps=256, **SMALL)
    with pytest.raises(InputError, match=r"lives again|has no legal action"):
        dm2.train(config, tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [({"num_envs": 0}, "num_envs = 0"), ({"seconds": np.inf}, "seconds = inf: must be a number")],
)
def test_unusable_arguments(options, message):
    with pytest.raises(InputError, match=message):
        check("stand_ins_jax:Walk", **options)
