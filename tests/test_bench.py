"""`dm2 bench`: its figures are of this machine, its arithmetic is right."""

import functools
import resource
import time
from pathlib import Path

import jax
import pytest

import dm2
from dm2 import bench
from dm2.cli import main
from dm2.envs.smax import parity
from dm2.run import costs
from test_cli import refused, run_json


@pytest.mark.learning
def test_bench_divides_work_by_time(capsys, monkeypatch):
    """With a clock by which an iteration of IPPO takes a quarter of a second, one of DM² a second
    and everything else half a second."""
    iterated = []
    iterate = bench.Programs.iterate

    def noted(programs, *arguments):
        iterated.append(programs.settings.method.name)
        return iterate(programs, *arguments)

    def by_our_clock(function, repeats, clock=time.perf_counter):
        assert repeats == 2
        iterated.clear()
        jax.block_until_ready(function())
        return {"ippo": 0.25, "dm2": 1.0}[iterated[0]] if iterated else 0.5

    monkeypatch.setattr(bench.Programs, "iterate", noted)
    monkeypatch.setattr(bench, "best_seconds", by_our_clock)
    monkeypatch.setattr(costs, "best_seconds", by_our_clock)
    began = time.monotonic()
    monkeypatch.setattr(bench, "_BEGUN", began - 1000)  # as if it had been imported then
    name = "smax/3m?limit=12"
    small = ("--env", name, "--num-envs", 8, "--rollout-steps", 16)
    result = run_json(capsys, "bench", *small, "--iterations", 2)
    assert 1000 < result.pop("first_update_s") < 1000 + time.monotonic() - began
    peak = result.pop("peak_rss_mib")
    steps = 8 * 16
    assert result == pytest.approx(
        {
            "environment": name,
            "simulator_steps_per_s": 512 * 64 / 0.5,
            "ippo_steps_per_s": steps / 0.25,
            "dm2_steps_per_s": steps / 1.0,
            "update_gflops": dm2.IPPO().update_flops(dm2.make(name).spec, steps) / 0.5 / 1e9,
            "matmul_peak_gflops": 2 * 2048**3 / 0.5 / 1e9,
        }
    )
    # Half of what the process holds now is surely less than its peak, and a unit's slip more.
    held = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20
    assert 0.5 * held < peak < 10 * held


def test_the_shortest_run_counts():
    naps = iter([0.05, 0.01, 0.05])
    assert 0.01 <= costs.best_seconds(lambda: time.sleep(next(naps)), 3) < 0.05


def test_a_clock_of_the_process_does_not_count_what_others_do():
    assert costs.best_seconds(lambda: time.sleep(0.1), 1, time.process_time) < 0.05


@pytest.mark.parametrize("flag", ["--iterations", "--num-envs", "--rollout-steps"])
def test_counts_must_be_positive(capsys, flag):
    error = refused(capsys, "bench", "--env", "smax/3m", flag, 0)
    assert f"{flag[2:].replace('-', '_')} = 0" in error


def test_simulators_race(capsys, monkeypatch):
    """By given times: of two compilations and of two runs the faster counts."""
    compiled = {"ours": iter([4.0, 3.0, 7.0, 8.0]), "theirs": iter([5.0, 6.0])}
    taken = {"ours": iter([0.75, 0.5, 0.25, 1.0]), "theirs": iter([2.0, 2.5])}

    def trace(program):
        jax.eval_shape(program, jax.random.PRNGKey(0))  # it is a program
        who = "ours" if isinstance(program, functools.partial) else "theirs"
        return next(compiled[who]), lambda key: who

    monkeypatch.setattr(bench, "_compiled", trace)
    monkeypatch.setattr(bench, "best_seconds", lambda start, repeats: next(taken[start()]))
    names, steps = ("smax/3m", "smac/3m"), 512 * 64
    race = ("bench", "simulator", "--env", *names, "--iterations", 2)
    assert run_json(capsys, *race)["rows"] == [
        {
            "environment": "smax/3m",
            "steps_per_s": steps / 0.5,
            "compile_s": 3.0,
            "pair_ns": pytest.approx(0.5e9 / steps / 36),  # 6 units, 36 pairs
            "jaxmarl_steps_per_s": steps / 2.0,
            "jaxmarl_compile_s": 5.0,
            "ratio": 4.0,
        },
        {
            "environment": "smac/3m",
            "steps_per_s": steps / 0.25,
            "compile_s": 7.0,
            "pair_ns": pytest.approx(0.25e9 / steps / 36),
        },
    ]


@pytest.mark.learning
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
