"""Run directories on disk: read, grouped, compared, tabulated and drawn."""

import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from dm2.errors import InputError
from dm2.studies.compare import compare, find_runs, group_runs, table
from dm2.studies.plots import draw_learning_curves, learning_curves

pytestmark = pytest.mark.filterwarnings("error")

ENV = "smax/3s_vs_4z"
HALF = (0.0, 0.0, 0.3, 0.6, 0.6)  # smoothed: 0, 0.1, 0.3, 0.5, 0.6
RISING = (0.0, 0.6, 0.9, 0.9, 0.9)  # smoothed: 0.3, 0.5, 0.8, 0.9, 0.9
DEMOS = {"sha256": "a" * 64, "win_rate": 0.52}


def write_run(root, name, win_rates, method="dm2", seed=0, env=ENV, every=100, demos=None, **more):
    """A run directory; `more` overrides settings, dotted names with `__` for the dot."""
    config = {
        "method": method,
        "env": env,
        "seed": seed,
        "steps": 400,
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
    content = {"dm2_version": "0.1.0", "config": config}
    if demos is not None:
        content["demonstrations"] = demos
    (directory / "config.json").write_text(json.dumps(content))
    lines = []
    for i, rate in enumerate(win_rates):
        lines.append({"kind": "train", "step": i * every, "train_win_rate": None})
        lines.append({"kind": "eval", "step": i * every, "win_rate": rate, "episodes": 32})
    (directory / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return directory


def labels_of(root: Path) -> list[str]:
    return list(group_runs(find_runs([root])[0])[0][ENV])


# ---- reading


def test_runs_are_found_below_parents_and_once(tmp_path):
    write_run(tmp_path, "deep/er/a", RISING)
    b = write_run(tmp_path, "b", RISING, seed=1)
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "config.json").write_text("no run: no metrics")
    runs, warnings = find_runs([b, tmp_path])
    assert [run.path.name for run in runs] == ["b", "a"] and not warnings
    assert runs[0].steps.tolist() == [0, 100, 200, 300, 400]
    assert runs[0].win_rates.tolist() == list(RISING)
    labels = [run.label for run in find_runs([b, tmp_path], ["one", "rest"])[0]]
    assert labels == ["one", "rest"]


def test_a_path_without_runs_is_refused(tmp_path):
    write_run(tmp_path, "a", RISING)
    for path in (tmp_path / "typo", tmp_path / "a" / "config.json"):
        with pytest.raises(InputError, match=f"{path}.*dm2 train"):
            find_runs([tmp_path, path])
    with pytest.raises(InputError, match="list of paths"):
        find_runs(str(tmp_path))


def test_runs_without_a_curve_are_skipped_and_listed(tmp_path):
    write_run(tmp_path, "new", (0.0,), seed=1)
    with pytest.raises(InputError, match="train longer"):
        find_runs([tmp_path])
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
    assert run.budget == 400


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
        '{"config": {"method": "dm2", "env": "e", "seed": 0}, "demonstrations": {"win_rate": 52}}',
    ],
)
def test_a_malformed_config_is_named(tmp_path, content):
    config = write_run(tmp_path, "a", RISING) / "config.json"
    config.write_text(content)
    with pytest.raises(InputError, match=f"{config}: must be JSON"):
        find_runs([tmp_path])


# ---- grouping


def test_seed_length_bookkeeping_and_paths_do_not_split_groups(tmp_path):
    write_run(tmp_path, "a", RISING, steps=400, keep=3)
    more = {"checkpoint_every": 7, "eval_episodes": 64, "imitation__coefficient": 0.02}
    write_run(tmp_path, "b", RISING, seed=1, steps=900, keep=9, **more)
    assert labels_of(tmp_path) == ["dm2"]


def test_labels_show_only_what_differs_within_a_method(tmp_path):
    write_run(tmp_path, "a", RISING, "ippo", imitation__coefficient=0.3)
    write_run(tmp_path, "b", RISING, "ippo", seed=1)  # which ignores the coefficient
    write_run(tmp_path, "c", RISING, ppo__clip=0.1)
    write_run(tmp_path, "d", RISING, ppo__clip=0.1, imitation__coefficient=0.05)
    assert labels_of(tmp_path) == ["ippo", "dm2 (coefficient=0.02)", "dm2 (coefficient=0.05)"]


def test_ambiguous_and_missing_settings_are_spelt_out(tmp_path):
    write_run(tmp_path, "a", RISING, imitation__learning_rate=1)
    write_run(tmp_path, "b", RISING, imitation__learning_rate=1.0, seed=1)  # the same setting
    write_run(tmp_path, "c", RISING, imitation__learning_rate=1, num_envs=64)
    write_run(tmp_path, "d", RISING, imitation__learning_rate=2, num_envs=64)
    first = "dm2 (imitation.learning_rate=1, num_envs=unset)"
    assert labels_of(tmp_path)[0] == first
    assert len(labels_of(tmp_path)) == 3
    write_run(tmp_path, "e", RISING, imitation__learning_rate=1, extra=None)
    assert "dm2 (imitation.learning_rate=1, num_envs=unset, extra=None)" in labels_of(tmp_path)


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
    write_run(tmp_path, "b", RISING, seed=1)  # (400 + 200) / 2 over 400
    ratio = compare([tmp_path])[ENV]["dm2"]["ratio_steps_to_80"]
    assert (ratio["value"], ratio["bound"]) == (pytest.approx(0.75), "unknown")


def test_short_runs_shorten_the_common_budget_but_not_the_search(tmp_path):
    write_run(tmp_path, "ippo", HALF, "ippo")
    write_run(tmp_path, "dm2", RISING[:3])
    result = compare([tmp_path])
    groups = result[ENV]
    assert groups["ippo"]["budget"] == groups["dm2"]["budget"] == 200
    assert groups["ippo"]["area"]["mean"] == pytest.approx(0.15 / 2)  # (0 + 0.15) / 2
    assert groups["ippo"]["final_win_rate"]["mean"] == pytest.approx(0.1)  # (0 + 0 + 0.3) / 3
    assert groups["ippo"]["steps_to_50"]["values"] == pytest.approx([300])
    assert "between 200 and 400 steps" in result["warnings"][0]


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
    (shown,) = table(compare([tmp_path]))
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(shown)
    text = console.export_text()
    assert "…" not in text and "smax/3s_vs_4z" in text
    # DM2 to 80 %: seed 0 at 0.2 M, seed 1 beyond 0.4 M; IPPO: none of two.
    for words in ("≥ 0.30", "0.20–0.40", "1 of 2", "0 of 2", "~ 0.75", "(coefficient=0.05)"):
        assert words in text


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
    groups, _ = group_runs(find_runs([runs])[0])
    figure = draw_learning_curves(groups)
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
    upper = draw_learning_curves(group_runs(find_runs([tmp_path])[0])[0]).axes[0]
    *thin, thick = sorted(upper.lines, key=lambda line: line.get_linewidth())
    assert [tuple(np.asarray(line.get_ydata())) for line in thin] == curves
    # 0.3 / 3, 1.2 / 3 and 1.5 / 3: nobody's curve, nor the median.
    assert np.asarray(thick.get_ydata()).tolist() == pytest.approx([0.1, 0.4, 0.5])


def test_colours_are_the_methods_own(runs):
    groups, _ = group_runs(find_runs([runs])[0])
    legend = draw_learning_curves(groups).legends[0]
    both = [line.get_color() for line in legend.get_lines()][:2]
    only, _ = group_runs(find_runs([runs / "dm20"])[0])
    alone = draw_learning_curves(only).legends[0].get_lines()[0].get_color()
    assert both[0] != both[1] and alone == both[1]


@pytest.mark.parametrize(
    ("suffix", "start"), [(".png", b"\x89PNG"), (".pdf", b"%PDF"), (".SVG", b"<?xml")]
)
def test_figure_is_written_by_suffix(runs, tmp_path, suffix, start):
    out = tmp_path / "figures" / f"curves{suffix}"
    assert learning_curves([runs], out) == out
    assert out.read_bytes().startswith(start) and out.stat().st_size > 5_000
    assert [path.name for path in out.parent.iterdir()] == [out.name]


def test_png_is_not_blank(runs, tmp_path):
    from matplotlib.image import imread

    pixels = imread(learning_curves([runs], tmp_path / "curves.png"))[..., :3]
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
        learning_curves([runs], out)
    assert out.read_bytes() == b"old"
    assert [path.name for path in tmp_path.glob("*curves*")] == ["curves.png"]


@pytest.mark.parametrize("name", ["curves", "curves.jpg"])
def test_an_unknown_suffix_is_refused(runs, tmp_path, name):
    with pytest.raises(InputError, match=f"{name}'.*must end in .png, .pdf, .svg"):
        learning_curves([runs], tmp_path / name)
