"""What training takes, said beforehand."""

import json
import subprocess
import sys

import pytest

from dm2 import IPPO, make
from dm2.config import ProgramSettings
from dm2.run.costs import memory_mib
from test_cli import refused, run_json


def test_operations_of_an_update():
    # 3m: 75 numbers observed, 8 actions. Multiply-adds of one state through one network:
    # dense 75 x 64 + 64 x 64, GRU 3 gates x (64 x 64 of input + 64 x 64 of state), head.
    first, rest = 75 * 64, 64 * 64 + 3 * (64 * 64 + 64 * 64)
    actor, critic = rest + 64 * 8, rest + 64 * 1
    spec = make("smax/3m").spec
    assert (spec.observation_size, spec.num_actions) == (75, 8)
    # Forward once and backward twice that, but for the gradient of what was observed; 2 operations
    # each, 4 epochs, 3 agents.
    expected = 2 * (2 * 2 * first + 3 * (actor + critic)) * 4 * 3 * 128 * 128
    assert IPPO().update_flops(spec, 128 * 128) == expected


MEASURE = """
import sys
from pathlib import Path
import dm2
dm2.set_up_process()
import jax, jax.numpy as jnp
from dm2.config import ProgramSettings
from dm2.run.programs import Programs
jax.config.update("jax_enable_compilation_cache", False)
programs = Programs(ProgramSettings(dm2.IPPO(), sys.argv[1], int(sys.argv[2]), 128))
programs.compile(None, 32)
state = programs.init(jnp.uint32(0))
for _ in range(2):
    state, _ = programs.iterate(state, jnp.uint32(0), None)
jax.block_until_ready(state)
# Not `ru_maxrss`, which a process inherits from the one that started it.
peak = next(x for x in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in x)
print(int(peak.split()[1]) / 2**10)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
def test_memory_is_predicted():
    """A rollout of 200 MB, which nobody would miss in the sum."""
    name, envs = "smax/5m_vs_6m", 512
    command = [sys.executable, "-c", MEASURE, name, str(envs)]
    peak = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    spec = make(name).spec
    predicted = memory_mib(ProgramSettings(IPPO(), name, envs, 128), spec)
    assert predicted == pytest.approx(peak, rel=0.25)
    assert memory_mib(ProgramSettings(IPPO(), name, 32, 128), spec) < 0.75 * peak


def test_dry_run_says_what_a_run_takes_and_makes_none(capsys, tmp_path):
    out = tmp_path / "run"
    arguments = ("train", "ippo", "--env", "smax/3m", "--steps", 10_000, "--out", out)
    said = run_json(capsys, *arguments, "--dry-run")
    assert said["iterations"] == 3  # of 32 x 128 steps
    assert said["steps"] == 3 * 4096
    settings = ProgramSettings(IPPO(), "smax/3m", 32, 128)
    assert said["memory_mib"] == pytest.approx(memory_mib(settings, make("smax/3m").spec))
    assert not out.exists()
    assert json.dumps(said)


def test_dry_run_finds_what_is_wrong(capsys, tmp_path, small_demos):
    other = ("train", "dm2", "--env", "smax/8m", "--demos", small_demos, "--out", tmp_path / "run")
    assert "smax/8m" in refused(capsys, *other, "--dry-run")
