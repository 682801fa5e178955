"""`dm2 bench`: its figures are of this machine, its arithmetic is right."""

import time

import pytest

from dm2.bench import _best_seconds
from dm2.cli import main
from dm2.envs.smax import parity
from test_cli import refused, run_json

KEYS = {
    "environment",
    "simulator_steps_per_s",
    "ippo_steps_per_s",
    "dm2_steps_per_s",
    "first_update_s",
    "update_gflops",
    "matmul_peak_gflops",
    "peak_rss_mib",
}


def test_bench_measures(capsys):
    small = ("--env", "smax/3m?limit=12", "--num-envs", 8, "--rollout-steps", 16)
    result = run_json(capsys, "bench", *small, "--iterations", 2)
    assert set(result) == KEYS
    assert result.pop("environment") == "smax/3m?limit=12"
    assert all(value > 0 for value in result.values())
    assert result["update_gflops"] < result["matmul_peak_gflops"]
    assert result["simulator_steps_per_s"] > result["ippo_steps_per_s"]
    assert 100 < result["peak_rss_mib"] < 32_000


def test_the_shortest_run_counts():
    naps = iter([0.05, 0.01, 0.05])
    assert 0.01 <= _best_seconds(lambda: time.sleep(next(naps)), 3) < 0.05


@pytest.mark.parametrize("flag", ["--iterations", "--num-envs", "--rollout-steps"])
def test_counts_must_be_positive(capsys, flag):
    error = refused(capsys, "bench", "--env", "smax/3m", flag, 0)
    assert f"{flag[2:].replace('-', '_')} = 0" in error


def test_simulators_race(capsys):
    names = ("smax/3m", "smac/3m")
    rows = run_json(capsys, "bench", "simulator", "--env", *names, "--iterations", 1)["rows"]
    assert [row["environment"] for row in rows] == list(names)
    for row in rows:
        # 6 units, 36 pairs
        assert row["pair_ns"] * 36 * row["steps_per_s"] == pytest.approx(1e9)
    ours, alone = rows
    assert ours["ratio"] == ours["steps_per_s"] / ours["jaxmarl_steps_per_s"]
    assert ours["ratio"] > 1
    assert "ratio" not in alone


def test_parity_is_reported(capsys):
    (row,) = run_json(capsys, "bench", "parity", "--env", "smax/3m", "--states", 20)["rows"]
    assert row["environment"] == "smax/3m"
    assert row["worst"] == max(value for name, value in row.items() if name != "environment")
    assert {"position", "health", "reward", "observation", "legal"} <= set(row)
    assert 0 < row["worst"] <= 1e-5


def test_battles_that_differ_fail(capsys, monkeypatch):
    rows = [{"environment": "smax/3m", "worst": worst} for worst in (1e-6, 2e-5)]
    monkeypatch.setattr(parity, "report", lambda env, states: rows)
    assert main(["bench", "parity"]) == 1
    assert "worst difference 2.0e-05" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("training", "--env", "smax/3m", "smax/8m"), "one environment"),
        (("simulator", "--env", "smax/4m"), "no such environment"),
        (("simulator", "--iterations", 0), "iterations = 0"),
        (("parity", "--env", "smac/3m"), "nothing to compare it with"),
        (("parity", "--states", 0), "states = 0"),
    ],
)
def test_unusable_comparisons(capsys, words, message):
    assert message in refused(capsys, "bench", *words)
