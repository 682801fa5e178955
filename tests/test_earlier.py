"""Runs and demonstrations of the development version before 0.1.0's layout are still read.

`data/earlier` was written by commit e2561c0: `dm2 train ippo --env 'smax/3m?limit=12' --steps 256`
with 8 environments of 16 steps and networks of 8 units, its recording of four episodes, and
`dm2 train dm2` on that. The numbers below were printed by that commit.
"""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy

import dm2
from dm2.run.programs import Programs

EARLIER = Path(__file__).parent / "data" / "earlier"


@pytest.fixture
def earlier(tmp_path, monkeypatch):
    """A copy, in the folder from which its demonstrations were named."""
    shutil.copytree(EARLIER, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("method", "expected"), [("ippo", 0.10833334), ("dm2", 0.11666667)])
def test_a_team_plays_as_it_did(earlier, method, expected):
    result = dm2.evaluate(earlier / method, episodes=8)
    assert result["mean_return"] == pytest.approx(expected, rel=1e-5)
    assert result["mean_length"] == 12
    assert result["step"] == 256


@pytest.mark.parametrize("method", ["dm2", pytest.param("ippo", marks=pytest.mark.learning)])
def test_a_run_goes_on(earlier, method):
    run = dm2.load(earlier / method)
    assert run.config.method.name == method
    assert isinstance(run.config.method, dm2.IPPO)
    assert run.config.method.ppo == dm2.PPO(hidden=8, epochs=1, minibatches=2)
    if isinstance(run.config.method, dm2.DM2):  # the unit that there was
        assert run.config.method.imitation.unit == "reward"
    # Every array is where it was, bit by bit: the tree's order is that of the file's manifest.
    state, _ = run.load_newest_valid(Programs(run.config.program).shapes())
    folder = run.checkpoint_path(256)
    names = json.loads((folder / "manifest.json").read_text())["leaves"]
    stored = safetensors.numpy.load_file(folder / "state.safetensors")
    for name, leaf in zip(names, jax.tree.leaves(state), strict=True):
        assert np.asarray(leaf).tobytes() == stored[name].tobytes(), name
    longer = dm2.resume(run.path, 512, quiet=True)
    assert longer.steps()[-1] == 512


def test_its_demonstrations_are_read():
    demos = dm2.Demonstrations.load(EARLIER / "team.safetensors")
    assert demos.sha256 == "6e1b98ec0b254b57f75eeb5dd3bc533042e949e3e268f9edd8ec8cbf6158bdd3"
    assert [agent.num_episodes for agent in demos.agents] == [4, 4, 4]


def test_both_are_compared(earlier):
    result = dm2.compare([earlier])["smax/3m?limit=12"]
    assert set(result) == {"ippo", "dm2"}
