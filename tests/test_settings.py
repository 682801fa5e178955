"""Settings as a user of the Python API gives them: what converts exactly is taken, anything else
is named, and nothing is left behind."""

import dataclasses
import fractions
import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import dm2
from dm2 import InputError
from dm2.errors import as_path, as_whole
from dm2.methods import METHODS
from dm2.run.directory import RunDirectory

# Their types say what they hold, and not all that they take.
Config: Any = dm2.Config
PPO: Any = dm2.PPO
Imitation: Any = dm2.Imitation
IPPO: Any = dm2.IPPO
DM2: Any = dm2.DM2
GAIL: Any = dm2.GAIL

SPEC = {"env": "smax/3m?limit=12", "num_envs": 8, "rollout_steps": 16}


def test_what_converts_exactly_is_taken():
    given = Config(
        DM2(
            {"clip": np.float32(0.25), "hidden": 8.0, "epochs": np.array(2)},
            imitation={"coefficient": 1, "reward": np.str_("log")},
        ),
        np.str_("smax/3m"),
        steps=1e6,
        seed=np.uint32(7),
        demos=Path("team.safetensors"),
        num_envs=jnp.int32(8),
        checkpoint_steps=np.array([500, 1000]),
    )
    same = Config(
        DM2(PPO(clip=0.25, hidden=8, epochs=2), Imitation(coefficient=1.0, reward="log")),
        "smax/3m",
        steps=1_000_000,
        seed=7,
        demos="team.safetensors",
        num_envs=8,
        checkpoint_steps=(500, 1000),
    )
    assert given == same
    assert hash(given) == hash(same)  # programs are found by it
    text = json.dumps(given.to_dict())
    assert Config.from_dict(json.loads(text)) == same
    kinds = [type(value) for value in (given.env, given.steps, given.seed, given.num_envs)]
    assert kinds == [str, int, int, int]
    assert [type(step) for step in given.checkpoint_steps] == [int, int]
    assert type(given.method.ppo.clip) is float


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PPO(hidden=True), "ppo.hidden = True: must be a whole number"),
        (lambda: PPO(hidden=2.5), "ppo.hidden = 2.5: must be a whole number"),
        (lambda: PPO(hidden=float("inf")), "ppo.hidden = inf: must be a whole number"),
        (lambda: PPO(hidden=0), "ppo.hidden = 0: must be a whole number above 0"),
        (
            lambda: PPO(hidden=10**11),
            "ppo.hidden = 1.*: must be a whole number of at most 2147483647",
        ),
        (lambda: PPO(epochs=10**400), "ppo.epochs = 1.*: must be a whole number of at most"),
        (lambda: Config(IPPO(), "e", num_envs=10**12), "num_envs = 1.*: must be a whole number of"),
        (lambda: Config(IPPO(), "e", steps=10**400), "steps = 1.*: must be a whole number of at"),
        (
            lambda: Config(IPPO(), "e", num_envs=2**20, rollout_steps=2**20),
            "num_envs = 1048576: x rollout_steps = 1048576 must be at most 2147483647",
        ),
        (lambda: PPO(clip="0.2"), "ppo.clip = '0.2': must be a number"),
        (lambda: PPO(clip=fractions.Fraction(1, 3)), "ppo.clip = .*: must be a number"),
        (lambda: PPO(clip=10**400), "ppo.clip = 1000.*: must be a finite number"),
        (lambda: PPO(clip=np.array([0.1, 0.2])), "ppo.clip = .*: must be a number"),
        (lambda: PPO(clip=float("nan")), "ppo.clip = nan: must be a finite number"),
        (lambda: IPPO({"clipp": 1}), "ppo: there is no setting 'clipp'; known: hidden, "),
        (lambda: IPPO({"clip": 0}), "ppo.clip = 0: must be a finite number from 1e-12"),
        (lambda: IPPO(3), "ppo = 3: must be a PPO or a dictionary of its settings"),
        (lambda: GAIL(imitation=Imitation()), "imitation = Imitation.*: must be a Matching or a"),
        (lambda: DM2(imitation={"reward": "x"}), "imitation.reward = 'x': must be one of logit"),
        (lambda: Config("ippo", "smax/3m"), "method = 'ippo': must be a method's settings"),
        (lambda: Config(IPPO, "smax/3m"), "method = .*: must be a method's settings"),
        (lambda: Config(IPPO(), 3), "env = 3: must be a text"),
        (lambda: Config(IPPO(), "e", steps="9"), "steps = '9': must be a whole number"),
        (lambda: Config(IPPO(), "e", steps=np.nan), "steps = nan: must be a whole number"),
        (lambda: Config(IPPO(), "e", seed=2**32), "seed = 4294967296: .*from 0 to 4294967295"),
        (lambda: Config(IPPO(), "e", seed=10**400), "seed = 1000.*from 0 to 4294967295"),
        (lambda: Config(IPPO(), "e", checkpoint_steps=5), "checkpoint_steps = 5: must be a list"),
        (lambda: Config(IPPO(), "e", checkpoint_steps=[0]), "checkpoint_steps = 0: must be"),
        (lambda: Config(DM2(), "e", demos=5), "demos = 5: must be a text"),
    ],
)
def test_what_does_not_convert_is_named(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_arguments_of_functions(tmp_path):
    config = Config(IPPO(), steps=128, **SPEC)
    for call, message in (
        (lambda: dm2.train_seeds(config, tmp_path / "x", 1.5), "seeds = 1.5: must be a whole"),
        (lambda: dm2.train_seeds(config, tmp_path / "x", 0), "seeds = 0: must be a whole number"),
        (
            lambda: dm2.train_seeds(dataclasses.replace(config, seed=2**32 - 1), tmp_path / "x", 2),
            "the last of the seeds = 4294967296",
        ),
    ):
        with pytest.raises(InputError, match=message):
            call()
    for value in (7, None, b"name", "", "a\0b"):
        with pytest.raises(InputError, match=r"out = .*: must be a path"):
            as_path("out", value)
    assert as_path("out", tmp_path) == str(tmp_path)
    assert as_whole("n", np.float64(3.0)) == 3
    assert not (tmp_path / "x").exists()


def test_settings_that_json_cannot_hold_leave_no_folder(tmp_path, monkeypatch):
    @dataclasses.dataclass(frozen=True)
    class Odd(dm2.IPPO):
        name = "odd"
        shape: complex = 1j

    monkeypatch.setitem(METHODS, "odd", Odd)
    with pytest.raises(InputError, match=r"config.json: .*complex.*plain values that JSON"):
        dm2.train(Config(Odd(), steps=128, **SPEC), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_settings_that_cannot_be_read_back_leave_no_folder(tmp_path):
    class Unknown(dm2.IPPO):
        name = "unknown"

    with pytest.raises(InputError, match=r"unknown"):
        RunDirectory.create(tmp_path / "run", Config(Unknown(), steps=128, **SPEC), {})
    assert not (tmp_path / "run").exists()
