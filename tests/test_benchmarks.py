"""That the benchmarks run, at a small size: what they report is not for a test to say."""

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


def test_the_profile_adds_up():
    command = [sys.executable, str(ROOT / "benchmarks" / "profile.py"), "3m", "8"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert "GFLOP/s" in lines[1]
    shares = {line.split("%  ")[1]: int(line.split("%")[0]) for line in lines[2:]}
    assert len(shares) == 4
    assert 97 <= sum(shares.values()) <= 103
