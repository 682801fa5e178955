"""What training takes, said beforehand."""

import subprocess
import sys

import pytest

from dm2 import IPPO, Demonstrations, make
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


@pytest.mark.learning
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
    # An iteration is 32 x 128 = 4096 steps. Of 3 agents, 75 numbers observed, 8 actions.
    rollout = 3.5 * 3 * 4096 * (4 * 75 + 8 + 40)
    # Actor and critic, 4 bytes each of 20 numbers a unit, 64 units, a quarter of the steps.
    minibatch = 2 * 4 * 20 * 64 * 4096 / 4
    # As above, of one step.
    first, rest = 75 * 64, 64 * 64 + 3 * (64 * 64 + 64 * 64)
    update = 2 * (2 * 2 * first + 3 * (rest + 64 * 8 + rest + 64)) * 4 * 3
    assert run_json(capsys, *arguments, "--dry-run") == {
        "environment": "smax/3m",
        "steps": 3 * 4096,
        "iterations": 3,
        "memory_mib": pytest.approx(900 + (rollout + minibatch) / 2**20),
        "mflop_per_step": pytest.approx(update / 1e6),
    }
    assert not out.exists()


def test_demonstrations_take_memory_twice(capsys, tmp_path, small_demos):
    common = ("--env", "smax/3m?limit=12", "--out", tmp_path / "run", "--dry-run")
    without = run_json(capsys, "train", "ippo", *common)["memory_mib"]
    taken = run_json(capsys, "train", "dm2", *common, "--demos", small_demos)["memory_mib"]
    demos = Demonstrations.load(small_demos)
    longest = max(len(demos.alive_observations(k)) for k in range(3))
    # Of each agent 75 numbers of 2 bytes a step, their count and the share of absorbing states.
    held = 3 * (longest * 75 * 2 + 4 + 4)
    assert (taken - without) * 2**20 == pytest.approx(2 * held, abs=1e-3)


def test_dry_run_finds_what_is_wrong(capsys, tmp_path, small_demos):
    other = ("train", "dm2", "--env", "smax/8m", "--demos", small_demos, "--out", tmp_path / "run")
    error = refused(capsys, *other, "--dry-run")
    assert "environment is smax/3m, must be smax/8m" in error
