"""That the benchmarks run, at a small size: what they report is not for a test to say."""

import json
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

training = pytest.importorskip("training", reason="jaxmarl is not installed")

ROOT = Path(__file__).parents[1]


def test_the_peer_learns_from_what_it_collects(monkeypatch):
    for name, value in {"SCENARIO": "3m", "ENVS": 4, "STEPS": 8, "UNITS": 16}.items():
        monkeypatch.setattr(training, name, value)
    peer = training.Peer()
    agent = peer.init()
    before = jax.tree.map(np.array, agent[0])
    (after, *_), error = peer.iterate(agent, jax.random.PRNGKey(0))
    assert jnp.isfinite(error)
    pairs = zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)
    moved = [np.abs(a - b).max() for a, b in pairs]
    # Adam's first steps have the size of the learning rate, times minibatches and epochs.
    assert all(0 < most < 4e-3 * 16 * 2 for most in moved)


def test_no_timed_iteration_compiles(monkeypatch):
    program = jax.jit(lambda x: x + 1)
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

    monkeypatch.setitem(training.MAKERS, "any", lambda: (iterate, 0.0))
    monkeypatch.setattr(training.jax.config, "update", lambda *_: None)
    training.serve("any", Line())
    assert sizes == [1, 2, 2, 2]


def test_growth_is_measured():
    command = [sys.executable, str(ROOT / "benchmarks" / "growth.py"), "3m:8", "3m:4"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    number = r"\s*([\d.]+)"
    pattern = re.compile(
        rf"(\S+){number} µs an agent-step {number} x \[{number},{number}\]"
        rf"{number} µs an environment step {number}% alive {number}% computed"
    )
    for line, name in zip(done.stdout.splitlines(), ("3m:8", "3m:4"), strict=True):
        found = pattern.fullmatch(line)
        assert found, line
        case, *numbers = found.groups()
        agent_step, ratio, low, high, whole, alive, computed = map(float, numbers)
        assert case == name
        assert whole == pytest.approx(3 * agent_step, abs=0.3)
        assert low <= ratio <= high
        assert ratio == 1 if name == "3m:8" else low < high
        # Few environments a minibatch: at least those alive are computed, in some whole.
        assert 50 < alive < computed <= 100


def test_the_profile_tells_the_loop_from_the_rest():
    # One block of four steps.
    found = [("dot.1", 1.0), ("tanh", 0.25)] * 4 + [("bitcast_dot", 3.0), ("gather", 5.0)]
    found += [("while.2", 90.0), ("$call", 90.0), ("end: dot.1", 90.0), ("Transpose", 90.0)]
    # In a process of its own: importing the profile takes a core away.
    program = f"import json, profile; print(json.dumps(profile.sort({found})))"
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


def test_the_profile_adds_up():
    command = [sys.executable, str(ROOT / "benchmarks" / "profile.py"), "3m", "8"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert "GFLOP/s" in lines[1]
    shares = {line.split("%  ")[1]: int(line.split("%")[0]) for line in lines[2:]}
    assert len(shares) == 4
    assert 97 <= sum(shares.values()) <= 103
