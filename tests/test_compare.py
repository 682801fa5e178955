"""Run directories on disk: read, grouped, compared, tabulated and drawn."""

import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from dm2.cli import main
from dm2.errors import InputError
from dm2.studies import plots
from dm2.studies.compare import compare, table
from dm2.studies.groups import read_comparison
from dm2.studies.plots import draw_learning_curves, save_learning_curves, title_of
from dm2.studies.records import find_runs

pytestmark = pytest.mark.filterwarnings("error")

ENV = "smax/3s_vs_4z"
HALF = (0.0, 0.0, 0.3, 0.6, 0.6)  # smoothed: 0, 0.1, 0.3, 0.5, 0.6
RISING = (0.0, 0.6, 0.9, 0.9, 0.9)  # smoothed: 0.3, 0.5, 0.8, 0.9, 0.9
DEMOS = {"sha256": "a" * 64, "win_rate": 0.52}


def write_run(
    root,
    name,
    win_rates,
    method="dm2",
    seed=0,
    env=ENV,
    every=100,
    demos=None,
    returns=None,
    diverged=None,
    info=None,
    **more,
):
    """A finished run's directory. `more` overrides settings, dotted names with `__` for the dot;
    `info` overrides the other entries of config.json."""
    config = {
        "method": method,
        "env": env,
        "seed": seed,
        "steps": (len(win_rates) - 1) * every,
        "demos": None if method == "ippo" else f"/somewhere/{name}.safetensors",
        "eval_every": every,
        "ppo": {"clip": 0.2, "learning_rate": 5e-4},
        "imitation": {"coefficient": 0.02, "reward": "logit", "learning_rate": 1e-3},
    }
    for key, value in more.items():
        *parents, last = key.split("__")
        target = config
        for parent in parents:
            target = target[parent]
        target[last] = value
    directory = root / name
    directory.mkdir(parents=True)
    content = {"dm2_version": "0.1.0", "config": config} | (info or {})
    if demos is not None:
        content["demonstrations"] = demos
    (directory / "config.json").write_text(json.dumps(content))
    lines = []
    for i, rate in enumerate(win_rates):
        lines.append({"kind": "train", "step": i * every, "train_win_rate": None})
        lines.append({"kind": "eval", "step": i * every, "win_rate": rate, "episodes": 32})
        if returns is not None:
            lines[-1]["mean_return"] = returns[i]
    if diverged is not None:
        line = {"kind": "diverged", "step": diverged, "agent": 1, "quantity": "policy_loss"}
        lines.append(line)
    (directory / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return directory


def labels_of(root: Path) -> list[str]:
    return list(read_comparison([root]).environments[ENV].groups)


def version(name: str | None) -> dict:
    """What config.json says of an environment of this version."""
    return {"environment": {"name": ENV, "version": name}}


# ---- reading


def test_runs_are_found_below_parents_and_once(tmp_path):
    write_run(tmp_path, "deep/er/a", RISING)
    b = write_run(tmp_path, "b", RISING, seed=1)
    runs, notes = find_runs([b, tmp_path])
    assert [run.path.name for run in runs] == ["b", "a"] and not notes
    assert runs[0].steps.tolist() == [0, 100, 200, 300, 400]
    assert runs[0].win_rates.tolist() == list(RISING)
    labels = [run.label for run in find_runs([b, tmp_path], ["one", "rest"])[0]]
    assert labels == ["one", "rest"]


def test_half_a_run_is_skipped_and_said(tmp_path):
    write_run(tmp_path, "a", RISING)
    (write_run(tmp_path, "b", RISING) / "metrics.jsonl").unlink()
    (write_run(tmp_path, "c", RISING) / "config.json").unlink()
    runs, notes = find_runs([tmp_path, tmp_path])
    assert [run.path.name for run in runs] == ["a"]
    assert notes == [
        f"{tmp_path}/b: skipped, it has config.json but no metrics.jsonl",
        f"{tmp_path}/c: skipped, it has metrics.jsonl but no config.json",
    ]


def test_links_are_followed_once_and_named_as_given(tmp_path, monkeypatch):
    write_run(tmp_path, "store/a", RISING)
    write_run(tmp_path, "store/b", RISING, seed=1)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "a").symlink_to(tmp_path / "store" / "a")
    (tmp_path / "runs" / "again").symlink_to(tmp_path / "runs")
    (tmp_path / "runs" / "half").mkdir()
    (tmp_path / "runs" / "half" / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    runs, notes = find_runs(["runs"])
    assert [str(run.path) for run in runs] == ["runs/a"]
    assert notes == ["runs/half: skipped, it has config.json but no metrics.jsonl"]
    # The same run by two paths is one.
    assert [str(run.path) for run in find_runs(["runs", "store"])[0]] == ["runs/a", "store/b"]


def test_a_path_without_runs_is_refused(tmp_path):
    write_run(tmp_path, "a", RISING)
    for path, made_by in ((tmp_path / "typo", "train"), (tmp_path / "a/config.json", "study run")):
        with pytest.raises(InputError, match=f"{path}.*dm2 {made_by}"):
            find_runs([tmp_path, path])
    with pytest.raises(InputError, match="list of paths"):
        find_runs(str(tmp_path))


def test_runs_without_a_curve_are_skipped_and_listed(tmp_path):
    write_run(tmp_path, "new", (0.0,), seed=1)
    with pytest.raises(InputError, match="train longer"):
        compare([tmp_path])
    write_run(tmp_path, "a", RISING)
    result = compare([tmp_path])
    assert result[ENV]["dm2"]["seeds"] == [0]
    assert len(result["warnings"]) == 1 and "new: skipped" in result["warnings"][0]


@pytest.mark.parametrize(
    "line",
    [
        '{"kind": "eval", "st',
        '{"kind": "eval", "step": 500}',
        '{"kind": "eval", "step": 500, "win_rate": 32}',
        '{"kind": "eval", "step": 500, "win_rate": NaN}',
        '{"kind": "eval", "step": 500, "win_rate": null, "mean_return": "high"}',
        '{"kind": "diverged"}',
        '{"kind": "eval", "step": -1, "win_rate": 0.5}',
        "[1]",
    ],
)
def test_a_malformed_line_is_named(tmp_path, line):
    metrics = write_run(tmp_path, "a", RISING) / "metrics.jsonl"
    with metrics.open("a") as file:
        file.write(line + "\n")
    with pytest.raises(InputError, match=f"{metrics}:11 = "):
        find_runs([tmp_path])


@pytest.mark.parametrize("torn", ['{"kind": "eval", "step": 500, "win', "\ufeff{", ""])
def test_a_torn_last_line_is_tolerated(tmp_path, torn):
    metrics = write_run(tmp_path, "a", RISING) / "metrics.jsonl"
    with metrics.open("a") as file:
        file.write(torn)
    (run,), _ = find_runs([tmp_path])
    assert run.end == 400


def test_a_whole_last_line_counts_and_a_repeated_step_replaces(tmp_path):
    metrics = write_run(tmp_path, "a", RISING) / "metrics.jsonl"
    again = '{"kind": "eval", "step": 300, "win_rate": 0.25}\n'
    last = '{"kind": "eval", "step": 50, "win_rate": 0.5}'  # out of order, not ended by a newline
    with metrics.open("a") as file:
        file.write(again + last)
    (run,), _ = find_runs([tmp_path])
    assert run.steps.tolist() == [0, 50, 100, 200, 300, 400]
    assert run.win_rates.tolist() == [0.0, 0.5, 0.6, 0.9, 0.25, 0.9]


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        '{"config": {"method": "ippo"}}',
        '{"config": {"method": "dm2", "env": "e", "seed": 0, "steps": 1},'
        ' "demonstrations": {"win_rate": 52}}',
        '{"config": {"method": "dm2", "env": "e", "seed": 0, "steps": "many"}}',
    ],
)
def test_a_malformed_config_is_named(tmp_path, content):
    config = write_run(tmp_path, "a", RISING) / "config.json"
    config.write_text(content)
    with pytest.raises(InputError, match=f"{config}: must be JSON"):
        find_runs([tmp_path])


# ---- grouping


def test_seed_length_bookkeeping_and_paths_do_not_split_groups(tmp_path):
    write_run(tmp_path, "a", RISING, keep=3)
    more = {"checkpoint_every": 7, "eval_episodes": 64, "imitation__coefficient": 0.02}
    write_run(tmp_path, "b", RISING[:4], seed=1, keep=9, **more)
    assert labels_of(tmp_path) == ["dm2"]


def test_labels_show_only_what_differs_within_a_method(tmp_path):
    write_run(tmp_path, "a", RISING, "ippo", imitation__coefficient=0.3)
    write_run(tmp_path, "b", RISING, "ippo", seed=1)  # which ignores the coefficient
    write_run(tmp_path, "c", RISING, ppo__clip=0.1)
    write_run(tmp_path, "d", RISING, ppo__clip=0.1, imitation__coefficient=0.05)
    assert labels_of(tmp_path) == ["ippo", "dm2 (coefficient=0.02)", "dm2 (coefficient=0.05)"]


def test_a_coefficient_without_a_unit_is_one_of_reward(tmp_path):
    """It is what runs of development versions were made with, whatever the default is now."""
    write_run(tmp_path, "earlier", RISING, demos=DEMOS)
    write_run(tmp_path, "now", RISING, seed=1, demos=DEMOS, imitation__unit="reward")
    write_run(tmp_path, "other", RISING, seed=2, demos=DEMOS, imitation__unit="advantage")
    groups = compare([tmp_path])[ENV]
    assert {label: group["seeds"] for label, group in groups.items()} == {
        "dm2 (unit=reward)": [0, 1],
        "dm2 (unit=advantage)": [2],
    }


def test_ambiguous_and_missing_settings_are_spelt_out(tmp_path):
    write_run(tmp_path, "a", RISING, imitation__learning_rate=1)
    write_run(tmp_path, "b", RISING, imitation__learning_rate=1.0, seed=1)  # the same setting
    write_run(tmp_path, "c", RISING, imitation__learning_rate=1, num_envs=64)
    write_run(tmp_path, "d", RISING, imitation__learning_rate=2, num_envs=64)
    first = "dm2 (num_envs=32, imitation.learning_rate=1)"  # what a run had that says nothing
    assert labels_of(tmp_path)[0] == first
    assert len(labels_of(tmp_path)) == 3
    write_run(tmp_path, "e", RISING, imitation__learning_rate=1, extra=None)
    assert "dm2 (num_envs=32, imitation.learning_rate=1, extra=None)" in labels_of(tmp_path)


def test_demonstrations_are_told_apart_by_win_rate_then_hash(tmp_path):
    write_run(tmp_path, "a", RISING, demos={"sha256": "a" * 64, "win_rate": 0.521})
    write_run(tmp_path, "b", RISING, seed=1, demos={"sha256": "a" * 64, "win_rate": 0.521})
    assert labels_of(tmp_path) == ["dm2"]
    write_run(tmp_path, "c", RISING, demos={"sha256": "b" * 64, "win_rate": 0.97})
    assert labels_of(tmp_path) == ["dm2 (demos 52 %)", "dm2 (demos 97 %)"]
    write_run(tmp_path, "d", RISING, demos={"sha256": "c" * 64, "win_rate": 0.519})
    write_run(tmp_path, "e", RISING, demos={"sha256": "d" * 64})
    assert labels_of(tmp_path) == [
        "dm2 (demos 52 % aaaaaaa)",
        "dm2 (demos 97 %)",
        "dm2 (demos 52 % ccccccc)",
        "dm2 (demos ddddddd)",
    ]


def test_labels_of_the_users_replace_automatic_ones(tmp_path):
    a = write_run(tmp_path, "a", RISING)
    b = write_run(tmp_path, "b", HALF, imitation__coefficient=0.05)
    result = compare([a, b], labels=["low", "high"])
    assert list(result[ENV]) == ["low", "high"]
    with pytest.raises(InputError, match="one per path, here 2"):
        compare([a, b], labels=["low"])
    names = r"dm2 \(coefficient=0.02\), dm2 \(coefficient=0.05\)"
    with pytest.raises(InputError, match=f"label 'all': covers {names}"):
        compare([tmp_path], labels=["all"])


def test_a_repeated_seed_counts_once(tmp_path):
    write_run(tmp_path, "short", HALF[:3])
    write_run(tmp_path, "long", RISING)
    result = compare([tmp_path])
    assert result[ENV]["dm2"]["runs"] == 1 and result[ENV]["dm2"]["budget"] == 400
    assert "short: skipped, repeats seed 0" in result["warnings"][0]
    # A finished one before a longer one that diverged.
    write_run(tmp_path, "longest", (*RISING, 0.0), diverged=500)
    result = compare([tmp_path])
    assert result[ENV]["dm2"]["budget"] == 400
    assert f"{tmp_path}/longest: skipped, repeats seed 0 of {tmp_path}/long" in result["warnings"]


# ---- comparing


def test_comparison_by_hand(tmp_path):
    # DM2, seed 0: smoothed 0.3, 0.5, 0.8, 0.9, 0.9: 50 % at 100, 80 % at 200.
    # Seed 1, the same a hundred steps later: smoothed 0, 0.2, 0.5, 0.8, 0.9: 200 and 300.
    write_run(tmp_path, "dm2-0", RISING)
    write_run(tmp_path, "dm2-1", (0.0, *RISING[:4]), seed=1)
    # IPPO, both seeds: 50 % at 300, and 80 % never.
    write_run(tmp_path, "ippo-0", HALF, "ippo")
    write_run(tmp_path, "ippo-1", HALF, "ippo", seed=1)
    result = compare([tmp_path])
    assert list(result) == [ENV, "warnings"] and result["warnings"] == []
    dm2, ippo = result[ENV]["dm2"], result[ENV]["ippo"]
    assert (dm2["seeds"], dm2["runs"], dm2["budget"]) == ([0, 1], 2, 400)
    half = dm2["steps_to_50"]
    assert half["values"] == pytest.approx([100, 200])
    assert (half["mean"], half["iqm"], half["standard_error"]) == pytest.approx((150, 150, 50))
    assert half["interval"] == pytest.approx([100, 200])  # each end has probability 1/4
    assert (half["censored"], half["bound"]) == (0, None)
    # Areas: trapezoids of 100 over 400 steps: (0.3 + 0.75 + 0.9 + 0.9) / 4 and without the last.
    assert dm2["area"]["mean"] == pytest.approx((2.85 / 4 + 1.95 / 4) / 2)
    # All five evaluations: 3.3 / 5 and 2.4 / 5.
    assert dm2["final_win_rate"]["mean"] == pytest.approx((0.66 + 0.48) / 2)
    never = ippo["steps_to_80"]
    assert (never["mean"], never["censored"], never["bound"]) == (400, 2, "lower")
    assert never["values"] == [None, None] and never["interval"] == [400, 400]
    # (200 + 300) / 2 over at least 400: at most 0.625.
    ratio = dm2["ratio_steps_to_80"]
    assert ratio["value"] == pytest.approx(0.625) and ratio["interval"] == pytest.approx(
        [0.5, 0.75]
    )
    assert (ratio["bound"], ratio["baseline"]) == ("upper", "ippo")
    assert "ratio_steps_to_80" not in ippo
    json.dumps(result, allow_nan=False)


def test_which_way_censoring_bounds_the_ratio(tmp_path):
    write_run(tmp_path, "ippo", RISING, "ippo")
    write_run(tmp_path, "lower", HALF, ppo__clip=1)
    write_run(tmp_path, "exact", RISING, ppo__clip=2)
    groups = compare([tmp_path])[ENV]
    lower, exact = (groups[f"dm2 (clip={clip})"]["ratio_steps_to_80"] for clip in (1, 2))
    assert (lower["value"], lower["bound"]) == (pytest.approx(2.0), "lower")  # >= 400 / 200
    assert (exact["value"], exact["bound"], exact["interval"]) == (1.0, None, [None, None])


def test_ratio_of_two_censored_groups(tmp_path):
    write_run(tmp_path, "ippo", HALF, "ippo")
    write_run(tmp_path, "a", HALF)
    ratio = compare([tmp_path])[ENV]["dm2"]["ratio_steps_to_80"]
    assert (ratio["value"], ratio["bound"]) == (None, "unknown")
    write_run(tmp_path, "b", RISING, seed=1)  # at least (400 + 200) / 2 over at least 400
    ratio = compare([tmp_path])[ENV]["dm2"]["ratio_steps_to_80"]
    assert (ratio["value"], ratio["bound"]) == (None, "unknown")


def test_short_groups_shorten_the_common_budget_but_not_the_search(tmp_path):
    write_run(tmp_path, "ippo", HALF, "ippo")
    write_run(tmp_path, "dm2", RISING[:3])
    result = compare([tmp_path])
    groups = result[ENV]
    assert groups["ippo"]["budget"] == groups["dm2"]["budget"] == 200
    assert groups["ippo"]["area"]["mean"] == pytest.approx(0.15 / 2)  # (0 + 0.15) / 2
    assert groups["ippo"]["final_win_rate"]["mean"] == pytest.approx(0.1)  # (0 + 0 + 0.3) / 3
    assert groups["ippo"]["steps_to_50"]["values"] == pytest.approx([300])
    assert result["warnings"] == [
        f"{ENV}: runs end between step 200 ({tmp_path}/dm2) and 400; area and final test win rate"
        " are taken at step 200, steps to a level over the whole of each run"
    ]


# ---- which runs the numbers are of


def test_an_unfinished_run_is_left_out_of_its_group(tmp_path):
    write_run(tmp_path, "ippo", HALF, "ippo")
    for seed in range(2):
        write_run(tmp_path, f"dm2{seed}", RISING, seed=seed)
    short = write_run(tmp_path, "dm22", (0.5, 0.5), seed=2, steps=400)
    result = compare([tmp_path])
    group = result[ENV]["dm2"]
    assert (group["seeds"], group["runs"], group["budget"]) == ([0, 1], 2, 400)
    assert group["left_out"] == [
        {"path": str(short), "seed": 2, "last_step": 100, "steps": 400, "diverged": False}
    ]
    assert group["final_win_rate"]["mean"] == pytest.approx(0.66)  # 3.3 / 5: of RISING alone
    assert result["warnings"] == [
        f"{short}: left out of all numbers and of the mean curve, ended at step 100 of 400"
    ]
    # Longer than the finished ones, though unfinished: it cuts nothing and is used.
    long = (*RISING, 0.9, 0.9)
    write_run(tmp_path, "dm23", long, seed=3, steps=10_000)
    assert compare([tmp_path])[ENV]["dm2"]["seeds"] == [0, 1, 3]


def test_while_no_run_is_finished_all_are_used(tmp_path):
    write_run(tmp_path, "a", RISING, steps=1000)
    write_run(tmp_path, "b", RISING[:3], seed=1, steps=1000)
    result = compare([tmp_path])
    group = result[ENV]["dm2"]
    assert (group["seeds"], group["left_out"], group["budget"]) == ([0, 1], [], 200)
    note = "no run is finished; they are used up to step 200, where the shortest ends"
    assert result["warnings"][0] == f"{ENV}, dm2: {note}"


def test_a_run_that_diverged_is_left_out_by_that_word(tmp_path):
    write_run(tmp_path, "a", RISING)
    gone = write_run(tmp_path, "b", RISING, seed=1, diverged=400)
    write_run(tmp_path, "c", RISING, seed=2, diverged=300)  # training went on
    result = compare([tmp_path])
    group = result[ENV]["dm2"]
    assert group["seeds"] == [0, 2] and group["left_out"][0]["diverged"]
    assert result["warnings"] == [
        f"{gone}: left out of all numbers and of the mean curve, diverged, and ended at step 400"
        " of 400"
    ]
    # While others still train, it does not hold them back either.
    more = tmp_path / "more"
    write_run(more, "a", RISING, steps=1000)
    write_run(more, "b", RISING[:2], seed=1, steps=1000, diverged=110)
    assert compare([more])[ENV]["dm2"]["budget"] == 400
    # Where all diverged, they are what there is.
    write_run(tmp_path / "all", "b", RISING[:3], steps=1000, diverged=210)
    result = compare([tmp_path / "all"])
    assert result[ENV]["dm2"]["seeds"] == [0] and "all diverged" in result["warnings"][0]


def test_a_budget_of_the_users(tmp_path):
    write_run(tmp_path, "ippo", HALF, "ippo")
    write_run(tmp_path, "a", RISING)
    write_run(tmp_path, "b", RISING[:4], seed=1, steps=900)
    short = write_run(tmp_path, "c", RISING[:3], seed=2)
    result = compare([tmp_path], budget=250)
    group = result[ENV]["dm2"]
    assert (group["seeds"], group["budget"], group["final_from"]) == ([0, 1], 250, 0)
    # To 200: 0.3 + 0.75; from 0.9 on to 0.9: 0.5 * 0.9; over 2.5.
    assert group["area"]["mean"] == pytest.approx(1.5 / 2.5)
    assert group["final_win_rate"]["mean"] == pytest.approx(0.5)  # (0 + 0.6 + 0.9) / 3
    where = "ended at step 200 of 200, before the budget of 250"
    note = f"{short}: left out of all numbers and of the mean curve, {where}"
    assert result["warnings"] == [note]
    # A group of which nothing is left is named.
    write_run(tmp_path, "d", RISING[:3], imitation__coefficient=0.1)
    result = compare([tmp_path], budget=250)
    assert list(result[ENV]) == ["ippo", "dm2 (coefficient=0.02)"]
    gone = f"{ENV}, dm2 (coefficient=0.1): left out, since none of its runs reaches the budget"
    assert gone in result["warnings"]
    with pytest.raises(InputError, match=f"budget = 401: no run goes .* {ENV}; choose at most 400"):
        compare([tmp_path], budget=401)
    for budget in (-1, 0, 2.5):
        with pytest.raises(InputError, match=f"budget = {budget}: must be a whole number above 0"):
            compare([tmp_path], budget=budget)


def test_one_stretch_of_steps_whatever_the_interval(tmp_path):
    # Every 100 steps, and every 50, of the same curve with a wave on it.
    write_run(tmp_path, "ippo", (0, 0, 0, 0, 0, 0.3, 0.6, 0.9), "ippo")
    fine = (0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0.3, 0.6, 0.6, 0.6, 0.9)
    write_run(tmp_path, "dm2", fine, every=50)
    result = compare([tmp_path])
    ippo, dm2 = result[ENV]["ippo"], result[ENV]["dm2"]
    assert ippo["final_from"] == dm2["final_from"] == 300
    assert ippo["final_win_rate"]["mean"] == pytest.approx(1.8 / 5)
    assert dm2["final_win_rate"]["mean"] == pytest.approx(3.0 / 9)  # 300, 350, ..., 700
    # Smoothed over three: 0.1, 0.3, 0.6, 0.75 at 400 to 700; over five, which span as much:
    # 0.06, 0.18, 0.3, 0.42, 0.6, 0.675, 0.7 at 400 to 700. Half-way: 2 / 3 of 500 to 600, and of
    # 0.42 to 0.6, which are at 550 and 600, 8 / 18.
    assert ippo["steps_to_50"]["values"] == pytest.approx([500 + 200 / 3])
    assert dm2["steps_to_50"]["values"] == pytest.approx([550 + 50 * 8 / 18])
    assert result["warnings"] == [
        f"{ENV}: runs are evaluated every 50 to 100 steps; smoothing and final values span the"
        " same steps for all"
    ]
    # The fifth-last evaluation up to 500.
    assert compare([tmp_path], budget=500)[ENV]["dm2"]["final_from"] == 100


def test_whole_iterations_are_no_other_interval(tmp_path):
    # Evaluations every 100 steps in iterations of 40 and of 60, ended at 400 by the last one.
    curves = {"ippo": (0, 120, 200, 320, 400), "dm2": (0, 120, 240, 300, 420)}
    for method, steps in curves.items():
        directory = write_run(tmp_path, method, RISING, method, steps=400)
        lines = [
            {"kind": "eval", "step": step, "win_rate": rate}
            for step, rate in zip(steps, RISING, strict=True)
        ]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (directory / "metrics.jsonl").write_text(text)
    result = compare([tmp_path])
    assert result["warnings"] == []
    # Smoothed over three: 0.5 at the second evaluation.
    assert result[ENV]["dm2"]["steps_to_50"]["values"] == pytest.approx([120])
    # At 400 the second has four evaluations so far; both begin at 0.
    assert result[ENV]["dm2"]["final_win_rate"]["mean"] == pytest.approx(2.4 / 4)
    assert result[ENV]["ippo"]["final_win_rate"]["mean"] == pytest.approx(3.3 / 5)


def test_a_last_interval_that_is_cut_short_is_no_other_interval(tmp_path):
    for method, steps in (("ippo", (0, 100, 200, 300)), ("dm2", (0, 100, 200, 205))):
        directory = write_run(tmp_path, method, RISING, method, steps=205)
        lines = [{"kind": "eval", "step": step, "win_rate": 0.5} for step in steps]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (directory / "metrics.jsonl").write_text(text)
    assert compare([tmp_path])["warnings"] == []


def test_numbers_of_test_episodes_that_differ_are_said(tmp_path):
    write_run(tmp_path, "a", RISING, eval_episodes=32)
    write_run(tmp_path, "b", RISING, "ippo", eval_episodes=8)
    assert compare([tmp_path])["warnings"] == [
        f"{ENV}: evaluations are of 8 and 32 episodes; the fewer, the noisier"
    ]


# ---- versions


def test_versions_of_an_environment_are_compared_apart(tmp_path):
    write_run(tmp_path, "a", RISING, info=version("smax 1"))
    write_run(tmp_path, "b", RISING, seed=1)  # which does not say
    result = compare([tmp_path])
    assert result[ENV]["dm2"]["seeds"] == [0, 1]
    note = f"{ENV}: 1 of 2 runs do not say which version of the environment they are of"
    assert result["warnings"] == [f"{note}; taken for smax 1"]
    write_run(tmp_path, "c", RISING, seed=1, info=version("smax 2"))
    result = compare([tmp_path])
    titles = [f"{ENV} (smax 1)", f"{ENV} (smax 2)", f"{ENV} (unknown)"]
    assert list(result) == [*titles, "warnings"]
    assert [result[title]["dm2"]["runs"] for title in titles] == [1, 1, 1]


def test_an_environment_is_the_same_however_its_options_are_written(tmp_path):
    name = f"{ENV}?limit=50&walls=lethal"
    info = {"environment": {"name": name, "version": "smax 1"}}
    write_run(tmp_path, "a", RISING, "ippo", env=f"{ENV}?walls=lethal&limit=50", info=info)
    write_run(tmp_path, "b", RISING, env=name, info=info)
    write_run(tmp_path, "c", RISING, seed=1, env=name)  # which does not say
    (groups, _) = compare([tmp_path]).values()
    assert {label: group["runs"] for label, group in groups.items()} == {"ippo": 1, "dm2": 2}


def test_jaxmarls_smax_and_ours_have_the_same_rules(tmp_path):
    write_run(tmp_path, "a", RISING, info=version("jaxmarl 0.2.0"))
    write_run(tmp_path, "b", RISING, seed=1, info=version("smax 0.2.0"))
    result = compare([tmp_path])
    assert result[ENV]["dm2"]["seeds"] == [0, 1]
    assert result["warnings"] == [
        f"{ENV}: made with jaxmarl 0.2.0 and smax 0.2.0, which have the same rules"
    ]


def test_another_version_of_dm2_makes_another_group(tmp_path):
    write_run(tmp_path, "a", RISING)
    write_run(tmp_path, "b", RISING, seed=1, info={"dm2_version": None})
    result = compare([tmp_path])
    assert result[ENV]["dm2"]["seeds"] == [0, 1]
    note = f"{ENV}: 1 of 2 runs do not say which dm2 made them; taken for 0.1.0"
    assert result["warnings"] == [note]
    write_run(tmp_path, "c", RISING, "ippo", seed=1, info={"dm2_version": "0.2.0"})
    assert labels_of(tmp_path) == [
        "ippo (dm2_version=0.2.0)",
        "dm2 (dm2_version=0.1.0)",
        "dm2 (dm2_version=unknown)",
    ]
    with pytest.raises(InputError, match="label 'all': covers"):
        compare([tmp_path], ["all"])


def test_jax_and_commits_that_differ_within_a_group_are_said(tmp_path):
    write_run(tmp_path, "a", RISING, info={"jax": "0.9.1", "commit": "abc"})
    write_run(tmp_path, "b", RISING, seed=1, info={"jax": "0.9.2", "commit": "abc-dirty"})
    write_run(tmp_path, "c", RISING, "ippo", info={"jax": "0.9.3", "commit": None})
    assert compare([tmp_path])["warnings"] == [
        f"{ENV}, dm2: its runs were made with several versions of jax: 0.9.1, 0.9.2",
        f"{ENV}, dm2: its runs were made with several commits of dm2's source: abc, abc-dirty",
    ]


# ---- returns

MPE = "jaxmarl/MPE_simple_spread_v3"
RETURNS = (-40.0, -30.0, -20.0, -20.0, -20.0)  # smoothed: -35, -30, -70/3, -20, -20
NEVER = (None,) * 5
NO_WINS = {"environment": {"name": MPE, "version": "jaxmarl 0.2.0", "wins": False}}


@pytest.mark.parametrize(
    ("env", "rates", "info"),
    [
        (ENV, NEVER, {}),  # no evaluation has a win rate
        (ENV, (0.0,) * 5, NO_WINS),  # config.json says so
        (MPE, (0.0,) * 5, {}),  # a run of an earlier version
    ],
)
def test_environments_without_wins_are_compared_by_return(tmp_path, env, rates, info):
    write_run(tmp_path, "a", rates, env=env, returns=RETURNS, info=info)
    result = compare([tmp_path])
    group = result[env]["dm2"]
    assert group["measure"] == "return"
    assert group["final_return"]["mean"] == pytest.approx(-26)  # -130 / 5
    assert group["area"]["mean"] == pytest.approx((-35 - 25 - 20 - 20) / 4)
    assert not [name for name in group if "steps_to" in name or "win_rate" in name]
    json.dumps(result, allow_nan=False)


@pytest.mark.parametrize("info", [{}, {"environment": {"wins": True}}])
def test_environments_with_wins_are_compared_by_win_rate(tmp_path, info):
    rates = (0.0,) * 5 if info else (0.0, 0.0, 0.0, 0.0, 0.1)
    write_run(tmp_path, "a", rates, env=MPE, returns=RETURNS, info=info)
    assert compare([tmp_path])[MPE]["dm2"]["measure"] == "win_rate"


def test_levels_of_the_users(tmp_path):
    write_run(tmp_path, "a", NEVER, env=MPE, returns=RETURNS, info=NO_WINS)
    slow = (-40.0, -40.0, -30.0, -20.0, -20.0)  # smoothed: -40, -110/3, -30, -70/3, -20
    write_run(tmp_path, "b", NEVER, "ippo", env=MPE, returns=slow, info=NO_WINS)
    group = compare([tmp_path], levels=[-20, -30])[MPE]["dm2"]
    assert group["steps_to_return_-30"]["values"] == pytest.approx([100])
    assert group["steps_to_return_-20"]["mean"] == pytest.approx(300)
    # The highest level: 300 over 400.
    assert group["ratio_steps_to_return_-20"]["value"] == pytest.approx(0.75)
    wins = tmp_path / "wins"
    write_run(wins, "a", RISING)
    write_run(wins, "b", HALF, "ippo")
    group = compare([wins], levels=[0.3, 0.55])[ENV]["dm2"]
    assert [name for name in group if "steps_to" in name] == [
        "steps_to_30",
        "steps_to_55",
        "ratio_steps_to_55",
    ]
    assert group["steps_to_30"]["values"] == pytest.approx([0])
    for level in (-20.0, 0.0, 1.5, math.nan):
        with pytest.raises(InputError, match=f"levels = {level:g}: must be above 0"):
            compare([wins], levels=[level])
    with pytest.raises(InputError, match=r"levels = .*: must be a list of numbers"):
        compare([wins], levels=[np.zeros(2)])
    with pytest.raises(InputError, match="levels = inf: must be finite"):
        compare([tmp_path / "a"], levels=[math.inf])


def test_evaluations_without_a_value_are_left_out_and_said(tmp_path):
    write_run(tmp_path, "a", NEVER, env=MPE, returns=RETURNS, info=NO_WINS)
    lost = (-40.0, -30.0, -20.0, None, None)
    b = write_run(tmp_path, "b", NEVER, seed=1, env=MPE, returns=lost, info=NO_WINS, diverged=250)
    c = write_run(tmp_path, "c", NEVER, seed=2, env=MPE, returns=NEVER, info=NO_WINS)
    result = compare([tmp_path])
    assert result[MPE]["dm2"]["seeds"] == [0]
    assert result["warnings"] == [
        f"{b}: 2 of 5 evaluations left out, which have no test return",
        f"{c}: skipped, fewer than two evaluations so far",
        f"{b}: left out of all numbers and of the mean curve, diverged, and ended at step 200"
        " of 400",
    ]


def test_demonstrations_are_named_by_their_return(tmp_path):
    known = {"env": MPE, "returns": RETURNS, "info": NO_WINS}
    write_run(tmp_path, "a", NEVER, demos={"sha256": "a" * 64, "mean_return": -17.54}, **known)
    write_run(tmp_path, "b", NEVER, demos={"sha256": "b" * 64, "mean_return": -25.0}, **known)
    labels = list(read_comparison([tmp_path]).environments[MPE].groups)
    assert labels == ["dm2 (demos -17.54)", "dm2 (demos -25)"]


def shown(tables) -> str:
    console = Console(width=80, record=True, file=io.StringIO())
    for one in tables:
        console.print(one)
    return console.export_text()


def test_an_ambiguous_baseline_is_none(tmp_path):
    write_run(tmp_path, "a", RISING, "ippo")
    write_run(tmp_path, "b", RISING)
    assert "ratio_steps_to_80" in compare([tmp_path])[ENV]["dm2"]
    write_run(tmp_path, "c", RISING, "ippo", ppo__clip=0.1)
    result = compare([tmp_path])
    assert "ratio_steps_to_80" not in result[ENV]["dm2"]
    assert "ippo (clip=0.2), ippo (clip=0.1)" in result["warnings"][0]


def test_environments_are_compared_apart(tmp_path):
    write_run(tmp_path, "a", RISING, imitation__coefficient=0.1)
    write_run(tmp_path, "b", HALF, env="smax/5m_vs_6m")
    result = compare([tmp_path])
    assert list(result) == [ENV, "smax/5m_vs_6m", "warnings"]
    assert list(result[ENV]) == list(result["smax/5m_vs_6m"]) == ["dm2"]


def test_table_shows_bounds_and_fits_80_columns(tmp_path):
    for seed, rates in enumerate([RISING, HALF]):
        settings = {"seed": seed, "every": 100_000, "demos": DEMOS}
        write_run(tmp_path, f"dm2{seed}", rates, **settings)
        write_run(tmp_path, f"more{seed}", rates, imitation__coefficient=0.05, **settings)
        write_run(tmp_path, f"ippo{seed}", HALF, "ippo", seed=seed, every=100_000)
    text = shown(table(compare([tmp_path])))
    assert "…" not in text and "smax/3s_vs_4z" in text
    # DM2 to 80 %: seed 0 at 0.2 M, seed 1 beyond 0.4 M; IPPO: none of two.
    for words in ("≥ 0.30", "0.20–0.40", "1 of 2", "0 of 2", "(coefficient=0.05)"):
        assert words in text
    assert "0.75" not in text  # 0.30 over 0.40, of which both are bounds


def test_table_says_what_its_numbers_are_of(tmp_path):
    write_run(tmp_path, "a", RISING)
    write_run(tmp_path, "b", RISING[:2], seed=1, steps=400)
    write_run(tmp_path, "c", NEVER, "ippo", env=MPE, returns=RETURNS, info=NO_WINS)
    words = " ".join(shown(table(compare([tmp_path]))).split())
    assert "1 of 2 seeds" in words and "1 seed " in words
    assert "area: mean test win rate up to step 400; final: mean from step 0 to 400" in words
    assert "area: mean test return up to step 400" in words
    words = " ".join(shown(table(compare([tmp_path / "c"], levels=[-21.5]))).split())
    assert "to -21.5" in words and "-26.00" in words


def test_intervals_below_0_are_legible(tmp_path):
    for seed, last in enumerate((-20.0, -10.0)):
        returns = (-40.0, last)
        write_run(tmp_path, f"{seed}", (None,) * 2, env=MPE, seed=seed, returns=returns)
    assert "-30.00 to -25.00" in shown(table(compare([tmp_path])))


# ---- the command


def test_the_command_prints_notes_apart_from_results(tmp_path, capsys):
    write_run(tmp_path, "a", RISING)
    short = write_run(tmp_path, "b", RISING[:2], seed=1, steps=400)
    note = f"{short}: left out of all numbers and of the mean curve, ended at step 100 of 400"
    for option in ([], ["--json"]):
        figure = tmp_path / "figure.png"
        assert main(["compare", str(tmp_path), "--out", str(figure), *option]) == 0
        out, err = capsys.readouterr()
        assert err == f"dm2: note: {note}\n" and figure.stat().st_size > 5_000
    assert json.loads(out)["warnings"] == [note]
    assert main(["compare", str(tmp_path), "--budget", "100", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[ENV]["dm2"]["seeds"] == [0, 1]


def test_the_command_takes_levels_below_0(tmp_path, capsys):
    write_run(tmp_path, "a", NEVER, env=MPE, returns=RETURNS)
    assert main(["compare", str(tmp_path), "--levels", "-30", "-21.5", "--json"]) == 0
    group = json.loads(capsys.readouterr().out)[MPE]["dm2"]
    assert {"steps_to_return_-30", "steps_to_return_-21.5"} <= group.keys()


# ---- drawing


@pytest.fixture
def runs(tmp_path):
    for seed in range(3):
        shift = seed / 40
        write_run(tmp_path, f"dm2{seed}", np.array(RISING) + shift, seed=seed, demos=DEMOS)
        write_run(tmp_path, f"ippo{seed}", np.array(HALF) + shift, "ippo", seed=seed)
    write_run(tmp_path, "other", HALF, env="smax/5m_vs_6m")
    return tmp_path


def test_figure_holds_means_bands_seeds_and_demonstrators(runs):
    figure = draw_learning_curves(read_comparison([runs]))
    upper, alone, lower, _ = figure.axes
    assert upper.get_title() == ENV and upper.get_ylabel() == "test win rate"
    assert lower.get_xlabel() == "environment steps (millions)"
    heights = [np.asarray(line.get_ydata()) for line in upper.lines]
    # Three seeds and a mean for each of two groups, and the demonstrators.
    assert len(heights) == 9 and len(upper.collections) == 2
    assert any(np.allclose(y, 0.52) for y in heights)
    # Standard error of 0, 1, 2 fortieths: 1 / 40 / sqrt(3), about a mean of 0.9 + 1 / 40.
    tops = [np.asarray(band.get_paths()[0].vertices)[:, 1].max() for band in upper.collections]
    assert max(tops) == pytest.approx(0.9 + (1 + 1 / math.sqrt(3)) / 40)
    assert len(lower.lines) == 3 and len(alone.lines) == 1
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    assert words == ["ippo, 3 seeds", "dm2, 1–3 seeds", "demonstrators"]


def test_the_thick_line_is_the_mean(tmp_path):
    curves = [(0.0, 0.1, 0.2), (0.0, 0.2, 0.4), (0.3, 0.9, 0.9)]
    for seed, curve in enumerate(curves):
        write_run(tmp_path, f"dm2{seed}", curve, seed=seed)
    upper = draw_learning_curves(read_comparison([tmp_path])).axes[0]
    *thin, thick = sorted(upper.lines, key=lambda line: line.get_linewidth())
    assert [tuple(np.asarray(line.get_ydata())) for line in thin] == curves
    # 0.3 / 3, 1.2 / 3 and 1.5 / 3: nobody's curve, nor the median.
    assert np.asarray(thick.get_ydata()).tolist() == pytest.approx([0.1, 0.4, 0.5])


def test_a_run_that_is_left_out_is_dotted_and_the_mean_is_of_the_others(tmp_path):
    for seed in range(2):
        write_run(tmp_path, f"{seed}", (0.0, 0.2 * seed, 0.4), seed=seed)
    write_run(tmp_path, "2", (0.9, 0.9), seed=2, steps=200)
    figure = draw_learning_curves(read_comparison([tmp_path]))
    upper, lower = figure.axes
    dotted = [line for line in upper.lines if line.is_dashed()]
    assert [np.asarray(line.get_ydata()).tolist() for line in dotted] == [[0.9, 0.9]]
    thick = max(upper.lines, key=lambda line: line.get_linewidth())
    assert np.asarray(thick.get_xdata()).tolist() == pytest.approx([0, 1e-4, 2e-4])
    assert np.asarray(thick.get_ydata()).tolist() == pytest.approx([0, 0.1, 0.4])
    assert len(lower.lines) == 1
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    assert words == ["dm2, 2 of 3 seeds", "left out of the mean"]


def test_returns_have_an_axis_of_their_own(tmp_path):
    demos = {"sha256": "a" * 64, "mean_return": -10.0}
    write_run(tmp_path, "a", NEVER, env=MPE, returns=RETURNS, info=NO_WINS, demos=demos)
    write_run(tmp_path, "b", RISING, seed=1)
    write_run(tmp_path, "c", RISING, env="smax/5m_vs_6m")
    upper = draw_learning_curves(read_comparison([tmp_path])).axes[:3]
    lower = draw_learning_curves(read_comparison([tmp_path])).axes[3]
    assert [axes.get_ylabel() for axes in upper] == ["test return", "test win rate", ""]
    low, high = upper[0].get_ylim()
    assert -45 < low < -40 and -10 < high < -5 and lower.get_ylim() == (low, high)
    assert upper[1].get_ylim() == (-0.02, 1.02)
    assert any((np.asarray(line.get_ydata()) == -10).all() for line in upper[0].lines)


def saved(paths: Any, out: Path, labels: Any = None) -> Path:
    return save_learning_curves(read_comparison(paths, labels), out)


def test_a_users_matplotlib_settings_change_nothing(runs, tmp_path):
    import matplotlib as mpl

    labels = ["$a_{b$", "_c$^"]  # the first would be a formula, and a broken one
    paths = [runs / "dm20", runs / "ippo0"]
    plain = saved(paths, tmp_path / "plain.png", labels).read_bytes()
    odd: dict[Any, Any] = {
        "text.usetex": True,
        "savefig.bbox": "tight",
        "lines.marker": "o",
        "font.size": 30,
    }
    with mpl.rc_context(odd):
        before = dict(mpl.rcParams)
        assert saved(paths, tmp_path / "odd.png", labels).read_bytes() == plain
        assert dict(mpl.rcParams) == before
    study = read_comparison(paths, labels)
    words = [text.get_text() for text in draw_learning_curves(study).legends[0].get_texts()]
    assert words[:2] == ["_c$^, 1 seed", "$a_{b$, 1 seed"]


def test_colours_are_the_methods_own(runs):
    legend = draw_learning_curves(read_comparison([runs])).legends[0]
    both = [line.get_color() for line in legend.get_lines()][:2]
    alone = (
        draw_learning_curves(read_comparison([runs / "dm20"])).legends[0].get_lines()[0].get_color()
    )
    assert both[0] != both[1] and alone == both[1]


def test_as_many_methods_as_there_are_look_different(tmp_path):
    names = [write_run(tmp_path, f"run{n}", RISING, seed=n) for n in range(12)]
    looks = plots.looks(read_comparison(names, [f"{n}" for n in range(12)]))
    assert len(set(looks.values())) == len(looks) == 12


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"paths": 3}, "paths = 3: must be a list of paths"),
        ({"paths": "runs"}, "paths = 'runs': must be a list of paths"),
        ({"paths": [3]}, "paths = 3: must be a path"),
        ({"paths": []}, r"paths = \[\]: name run directories"),
        ({"labels": "x"}, "labels = 'x': must be a list of labels"),
        ({"levels": [10**400]}, "levels = .*: must be a list of numbers"),
    ],
)
def test_what_is_no_list_is_refused(runs, unchecked_types, arguments, message):
    with pytest.raises(InputError, match=message):
        compare(**({"paths": [runs]} | arguments))


@pytest.mark.parametrize(
    ("suffix", "start"), [(".png", b"\x89PNG"), (".pdf", b"%PDF"), (".SVG", b"<?xml")]
)
def test_figure_is_written_by_suffix(runs, tmp_path, suffix, start):
    out = tmp_path / "figures" / f"curves{suffix}"
    assert saved([runs], out) == out
    assert out.read_bytes().startswith(start) and out.stat().st_size > 5_000
    assert [path.name for path in out.parent.iterdir()] == [out.name]


def test_png_is_not_blank(runs, tmp_path):
    from matplotlib.image import imread

    pixels = imread(saved([runs], tmp_path / "curves.png"))[..., :3]
    # The background is white; curves, grid and text take more than 1 % of the area.
    assert min(pixels.shape[:2]) > 500 and 0.01 < (pixels.min(axis=-1) < 0.9).mean() < 0.5


def test_a_failed_save_leaves_the_old_figure(runs, tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    out = tmp_path / "curves.png"
    out.write_bytes(b"old")

    def fail(self, file, **settings):
        Path(file).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(Figure, "savefig", fail)
    with pytest.raises(OSError, match="disk full"):
        saved([runs], out)
    assert out.read_bytes() == b"old"
    assert [path.name for path in tmp_path.glob("*curves*")] == ["curves.png"]


def test_long_names_of_environments_take_several_lines():
    assert title_of("smac/3s_vs_4z?reward=signed") == "smac/3s_vs_4z?reward=signed"
    long = "gymnasium/lbforaging:Foraging-5x5-2p-1f-coop-v3?limit=20"
    assert title_of(long) == "gymnasium/lbforaging:\nForaging-5x5-2p-1f-coop-v3?\nlimit=20"


@pytest.mark.parametrize("name", ["curves", "curves.jpg"])
def test_an_unknown_suffix_is_refused(runs, tmp_path, name):
    with pytest.raises(InputError, match=f"{name}'.*must end in .png, .pdf, .svg"):
        saved([runs], tmp_path / name)
