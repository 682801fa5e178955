"""Studies: what they need, that it is made in order and survives whatever happens, and what becomes
of their claims."""

import dataclasses
import functools
import json
import math
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
from scipy import stats

import dm2
from conftest import hashes
from dm2.config import ProgramSettings
from dm2.cores import cores
from dm2.envs import EnvSpec
from dm2.errors import InputError
from dm2.files import write_atomically
from dm2.run.checkpoint import DamagedCheckpoint
from dm2.run.directory import RunDirectory
from dm2.run.evaluate import exchange
from dm2.run.pool import _error_of, fitting_jobs
from dm2.run.sweep import best_jobs
from dm2.run.team import load_team
from dm2.studies import planning, runner
from dm2.studies.compare import compare
from dm2.studies.groups import group_runs
from dm2.studies.products import Exchange, Product, Recording, in_order, training
from dm2.studies.records import Records
from dm2.studies.registry import STUDIES, find_study
from dm2.studies.results import (
    collect,
    failure_of,
    gather,
    known_results,
    missing,
    recorded,
    records_path,
    state_of,
)
from dm2.studies.runner import make_studies
from dm2.studies.runs import Run, read_run
from dm2.studies.scales import scale_named
from dm2.studies.study import DEMONSTRATORS, Claim, Curve, Kind, Study, needed
from dm2.studies.verdicts import judge, results_of, smallest
from test_cli import refused, run, run_json
from test_readme import blocks

ENV = "smax/3m?limit=12"
RESULTS = Path(__file__).parents[1] / "results"
PPO = dm2.PPO(hidden=8, epochs=1, minibatches=2)
SMALL: dict[str, Any] = {
    "num_envs": 8,
    "rollout_steps": 16,
    "eval_every": 128,
    "eval_episodes": 4,
    "steps": 256,
}


def ippo(seed: int = 0, **changes: Any):
    return training(dm2.IPPO(PPO), ENV, seed=seed, **{**SMALL, **changes})


def expert():
    """Three checkpoints of a team."""
    return ippo(100, checkpoint_steps=(128, 256), steps=384)


def taught(demos: Recording, seed: int = 0):
    method = dm2.DM2(PPO, dm2.Imitation(hidden=8, updates=2, batch=16))
    return training(method, ENV, seed=seed, demos=demos, **SMALL)


def tiny_study(seeds: int = 2) -> Study:
    demos = Recording((expert(),), episodes=6)
    alone = tuple(ippo(seed) for seed in range(seeds))
    ours = tuple(taught(demos, seed) for seed in range(seeds))
    return Study(
        "tiny",
        "A tiny study",
        "Does it run?",
        (Curve("IPPO", alone), Curve("DM²", ours)),
        (Claim("DM² learns faster.", "DM²", "IPPO"),),
        (("IPPO", Exchange(alone, 4)),),
    )


# ---- what a study needs


def test_a_product_is_named_by_all_that_decides_it():
    recording = Recording((ippo(),))
    assert ippo().name == ippo().name
    assert ippo().name.startswith("ippo-smax_3m_limit_12-seed_0-")
    others = [ippo(1), ippo(steps=384), training(dm2.IPPO(), ENV, **SMALL)]
    others += [dataclasses.replace(recording, **{k: v}) for k, v in {"at": 128, "seed": 1}.items()]
    others += [Recording((ippo(1),)), taught(recording), taught(Recording((ippo(1),)))]
    others += [Exchange((ippo(), ippo(1))), Exchange((ippo(), ippo(1)), episodes=4)]
    names = [product.name for product in (ippo(), recording, *others)]
    assert len(set(names)) == len(names)


def test_products_come_after_what_they_need_each_once():
    demos = Recording((ippo(100), ippo(101)), style="mixed-concurrent")
    order = in_order([taught(demos), taught(demos, 1), ippo(100), taught(demos)])
    assert [one.name for one in order] == [
        one.name for one in (ippo(100), ippo(101), demos, taught(demos), taught(demos, 1))
    ]


def test_a_study_refuses_what_does_not_fit():
    curve = Curve("IPPO", (ippo(),))
    with pytest.raises(InputError, match=r"claim of x = 'DM²': must be one of IPPO"):
        Study("x", "", "", (curve,), (Claim("", "DM²", "IPPO"),))
    apart = (curve, Curve("DM²", (training(dm2.IPPO(), "smax/3m"),)))
    with pytest.raises(InputError, match="its curves have no environment in common"):
        Study("x", "", "", apart, (Claim("", "DM²", "IPPO"),))
    with pytest.raises(InputError, match="there are two"):
        Study("x", "", "", (curve, curve))
    with pytest.raises(InputError, match="no curve has a level"):
        Study("x", "", "", (curve,), axis="episodes")
    with pytest.raises(InputError, match="must be of one environment"):
        Curve("IPPO", (ippo(), training(dm2.IPPO(), "smax/3m")))
    with pytest.raises(InputError, match="by = 'speed': must be one of area, final"):
        Claim("", "a", "b", "speed")  # pyright: ignore[reportArgumentType]
    for margin in (1.0, 1.5, math.nan):
        with pytest.raises(
            InputError, match=r"margin = .*: must be a number from 0 up, and below 1"
        ):
            Claim("", "a", "b", "steps_to_80", margin=margin)
    with pytest.raises(InputError, match="either at or quality"):
        Recording((ippo(),), at=128, quality=0.5)
    for quality in (80.0, -0.1, math.nan, NO_NUMBER):
        with pytest.raises(InputError, match=r"recording.quality = .*: must be a number from 0 to"):
            Recording((ippo(),), quality=quality)
    with pytest.raises(InputError, match=r"recording.seed = -1: must be a whole number from 0"):
        Recording((ippo(),), seed=-1)


NO_TEXT: Any = None
NO_NUMBER: Any = "much"


def study_of(name: Any = "x", curves: Any = None, claims: Any = (), exchanges: Any = ()) -> Study:
    """A study of two curves, `a` and `b`, with something changed."""
    two: Any = [Curve(label, (ippo(0), ippo(1))) for label in "ab"]
    return Study(name, "", "", two if curves is None else curves, claims, exchanges)


@pytest.mark.parametrize(
    ("declare", "said"),
    [
        (lambda: Claim(NO_TEXT, "a", "b"), "claim None, text = None: must be a text"),
        (lambda: Claim("It.", "a", "a"), "claim 'It.', than = 'a': must be another curve"),
        (lambda: Claim("It.", "a", "b", margin=NO_NUMBER), "claim 'It.', margin = 'much': must be"),
        (lambda: Curve("a", (ippo(0),), level=NO_NUMBER), "curve 'a', level = 'much': must be"),
        (
            lambda: Curve("a", (ippo(0), ippo(0, steps=128))),
            r"seeds of a = \[0, 0\]: must be a seed",
        ),
        (lambda: study_of(curves=()), r"curves of x = \(\): must be one at least"),
        (lambda: study_of(""), "study.name = '': must be up to 100 letters"),
        (lambda: study_of("../../x"), "study.name = '../../x': must be up to 100 letters"),
        (
            lambda: study_of(exchanges=[("c", Exchange((ippo(0), ippo(1))))]),
            "exchange of x = 'c': must be one of a, b",
        ),
        (
            lambda: study_of(claims=[Claim("", "a", "b", "kept")]),
            "claim of x = 'a': there is no exch",
        ),
        (lambda: study_of("x" * 101), "study.name = 'x+': must be up to 100 letters"),
        (lambda: Exchange((ippo(0),)), "teams of an exchange = 1: .*; ask for more --seeds"),
    ],
)
def test_what_makes_no_study_is_refused_in_a_sentence(declare, said):
    with pytest.raises(InputError, match=said):
        declare()


# ---- the studies that there are


@pytest.mark.parametrize("scale", ["quick", "paper"])
def test_every_study_can_be_declared(scale):
    for name in STUDIES:
        study = find_study(name, scale_named(scale))
        assert study.name == name
        assert study.claims
        curves = {curve.env for curve in study.curves}
        if name == "starts":
            assert all(env.startswith("smac/") and "starts=varied" in env for env in curves)
        elif name != "coefficient":
            prefix = "smax/" if scale == "quick" else "smac/"
            assert all(env.startswith(prefix) for env in curves)
        sizes = {len(curve.runs) for curve in study.curves}
        assert sizes == {3 if scale == "quick" else 5}
        for curve in study.curves:
            assert [run.config.seed for run in curve.runs] == [*range(len(curve.runs))]


def test_no_team_learns_from_its_own_seed():
    for name in STUDIES:
        for product in find_study(name, scale_named("paper")).products:
            if isinstance(product, Recording):
                assert all(run.config.seed >= 100 for run in product.runs)


@pytest.mark.parametrize("name", STUDIES)
def test_the_committed_results_are_those_of_the_studies_as_they_are(name):
    """A setting that is added must not give other names to what was made before it."""
    study = find_study(name, scale_named("quick"))
    records = Records.read(RESULTS / "studies" / f"{name}_quick.json")
    assert all(records.settles(run.name) for run in study.runs)


@pytest.mark.parametrize("file", sorted(RESULTS.glob("**/*.json")), ids=lambda file: file.stem)
def test_the_committed_results_name_no_folder_of_the_machine_that_made_them(file):
    assert not re.search(r'"(/|[A-Z]:)', file.read_text())


def test_studies_share_runs_and_experts():
    scale = scale_named("quick")
    each = [find_study(name, scale) for name in ("fig2", "fig6")]
    shared = {run.name for run in each[0].runs} & {run.name for run in each[1].runs}
    assert len(shared) == 9  # IPPO and DM² from two qualities on one task
    assert len(needed(each)) < len(each[0].products) + len(each[1].products)


def test_no_expert_learns_for_longer_than_its_task_says():
    for name in ("quick", "paper"):
        scale = scale_named(name)
        for task in (*scale.main, *scale.more, *scale.unlike, scale.varied):
            assert task.expert().config.steps == task.expert_steps
            of_qmix = task.expert("qmix").config.steps
            assert of_qmix == min(task.steps * 3 // 2, task.expert_steps)
    assert scale_named("quick").one.expert("qmix").config.steps == 375_000
    assert scale_named("paper").one.expert("qmix").config.steps == 3_000_000


def test_the_styles_of_figure_3_take_each_agent_from_its_own_team():
    study = find_study("fig3", scale_named("paper"))
    mixed = [p for p in study.products if isinstance(p, Recording) and p.style.startswith("mixed")]
    assert mixed
    for recording in mixed:
        assert [run.config.seed for run in recording.runs] == [100, 101, 102, 103, 104]


NAMED_AS_OURS = """
import dataclasses
from dm2.studies.registry.paper import fig8
def study(scale):
    return dataclasses.replace(fig8(scale), title="mine")
"""


def test_unknown_studies_and_scales_are_refused(capsys, tmp_path):
    assert "study = 'fig9': must be one of fig2," in refused(capsys, "study", "plan", "fig9")
    assert "scale = 'huge'" in refused(capsys, "study", "plan", "fig2", "--scale", "huge")
    assert "seeds = 0" in refused(capsys, "study", "plan", "fig2", "--seeds", 0)
    for text, said in (
        ("x = 1", "AttributeError"),
        ("def study(scale): return 3", "must be a Study"),
        ("1 / 0", "ZeroDivisionError"),
        ("import sys; sys.exit(0)", "SystemExit"),
        (NAMED_AS_OURS, "name = 'fig8': is a study of the library's"),
    ):
        file = tmp_path / "mine.py"
        file.write_text(text)
        assert said in refused(capsys, "study", "plan", file)
    assert "no such file" in refused(capsys, "study", "plan", tmp_path / "none.py")


# ---- claims


def made_up(seed: int, height: float, label: str, steps: int = 1000, env: str = "smax/3m") -> Run:
    """A run whose win rate is `height` from its first evaluation on."""
    info = {"config": {"method": "ippo", "env": env, "seed": seed, "steps": steps}}
    at = np.arange(0, steps + 1, 100.0)
    values = np.full(len(at), height)
    return Run(Path(label) / str(seed), info, at, values, values, label=label)


def taught_by(source: str, rate: float, seed: int, label: str) -> Run:
    """A run from a recording called `demos`, by the hash and the win rate of what was recorded."""
    run = made_up(seed, 0.5, label)
    made = {"sha256": source * 64, "win_rate": rate}
    return dataclasses.replace(
        run, info={"config": {**run.config, "demos": "demos"}, "demonstrations": made}
    )


def test_recordings_of_one_name_that_were_made_apart_are_noted():
    alike = [taught_by("a", 0.9, 0, "x"), taught_by("a", 0.9, 1, "x"), taught_by("a", 0.9, 0, "y")]
    alone = made_up(0, 0.5, "z")
    assert not group_runs([*alike, alone], same=True).notes
    (note,) = group_runs([*alike, alone, taught_by("b", 0.7, 1, "y")], same=True).notes
    assert note.startswith(
        "smax/3m: x (0.9) and y (0.7) learnt from recordings of one name, demos,"
    )
    # Runs that are compared by their directories name a file, which may be any.
    assert not group_runs([*alike, taught_by("b", 0.7, 1, "w")]).notes


def verdict(better: list[float], than: list[float], **claim: Any):
    """The verdict on two curves of so many seeds each."""
    runs = [made_up(n, height, "a") for n, height in enumerate(better)]
    runs += [made_up(n, height, "b") for n, height in enumerate(than)]
    ((title, environment),) = group_runs(runs, same=True).environments.items()
    found = judge(Claim("", "a", "b", **claim), title, environment, {})
    assert found is not None
    return found


def test_an_interval_is_welchs():
    found = verdict([0.5, 0.7, 0.9], [0.1, 0.2, 0.3])
    theirs = stats.ttest_ind([0.5, 0.7, 0.9], [0.1, 0.2, 0.3], equal_var=False)
    interval = theirs.confidence_interval(0.95)
    assert found.value == pytest.approx(0.5)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert found.improvement == 1.0
    assert found.seeds == (3, 3)
    assert found.outcome == "holds"


@pytest.mark.parametrize("measure", ["win_rate", "return"])
def test_a_curve_is_compared_with_its_demonstrators(measure):
    """By Student's interval for the mean of one sample; with other numbers for wins and returns."""

    def beside(known: Sequence[dict[str, float]], kind: Kind = "ahead"):
        runs = [made_up(n, height, "a") for n, height in enumerate(finals)]
        for one, demonstrations in zip(runs, known, strict=True):
            one.info["demonstrations"] = demonstrations
            one.info["environment"] = {"wins": measure == "win_rate"}
        ((title, environment),) = group_runs(runs, same=True).environments.items()
        found = judge(Claim("", "a", DEMONSTRATORS, "final", kind), title, environment, {})
        assert found is not None
        return found

    finals, theirs = [0.9, 0.7, 0.8], {"win_rate": 0.6, "mean_return": 0.75}
    found = beside([theirs] * 3)
    reached = theirs["win_rate" if measure == "win_rate" else "mean_return"]
    interval = stats.ttest_1samp(finals, reached).confidence_interval(0.95)
    assert found.value == pytest.approx(0.8 - reached)
    assert (found.low, found.high) == pytest.approx(
        (interval.low - reached, interval.high - reached)
    )
    if measure == "win_rate":
        best = [{"win_rate": 0.96}] * 3
        assert beside(best).note == "its demonstrators win too often to be surpassed"
        assert beside(best, "no worse").note == ""
    unknown = beside([theirs, {}, theirs])
    assert unknown.outcome == "not decided"
    assert unknown.note == "what its demonstrators reach is not known"


def test_a_claim_about_demonstrators_is_of_final_values():
    with pytest.raises(InputError, match="by = 'area': must be final"):
        Claim("", "a", DEMONSTRATORS)
    with pytest.raises(InputError, match="label = 'its demonstrators'"):
        Curve(DEMONSTRATORS, (ippo(),))
    with pytest.raises(InputError, match="claim of x = 'c': must be one of a"):
        Study("x", "", "", (Curve("a", (ippo(),)),), (Claim("", "c", DEMONSTRATORS, "final"),))


@pytest.mark.parametrize(
    ("better", "than", "kind", "outcome"),
    [
        ([0.8, 0.9], [0.1, 0.2], "ahead", "holds"),
        ([0.1, 0.2], [0.8, 0.9], "ahead", "does not hold"),
        ([0.1, 0.9], [0.2, 0.8], "ahead", "not decided"),
        ([0.50, 0.51, 0.50], [0.50, 0.51, 0.50], "ahead", "does not hold"),  # within 0.05
        ([0.50, 0.51, 0.50], [0.50, 0.51, 0.50], "alike", "holds"),
        ([0.8, 0.81, 0.8], [0.1, 0.11, 0.1], "alike", "does not hold"),
        ([0.1, 0.11, 0.1], [0.8, 0.81, 0.8], "alike", "does not hold"),
        ([0.1, 0.9], [0.2, 0.8], "alike", "not decided"),
        ([0.9], [0.1], "ahead", "not decided"),  # one seed says nothing
        ([0.5, 0.5], [0.5, 0.5], "alike", "holds"),  # no spread at all
        ([0.52, 0.52], [0.5, 0.5], "ahead", "does not hold"),  # ahead by less than matters
        ([0.56, 0.56], [0.5, 0.5], "ahead", "holds"),
        ([0.8, 0.9], [0.0, 0.0], "ahead", "holds"),  # spread on one side alone
        ([0.56, 0.56], [0.5, 0.5], "far ahead", "holds"),
        ([0.56, 0.58], [0.5, 0.5], "far ahead", "not decided"),  # 0.07, give or take 0.13
        ([0.52, 0.52], [0.5, 0.5], "far ahead", "does not hold"),
        ([0.47, 0.47], [0.5, 0.5], "no worse", "holds"),
        ([0.9, 0.9], [0.5, 0.5], "no worse", "holds"),  # better is no worse
        ([0.44, 0.44], [0.5, 0.5], "no worse", "does not hold"),
        ([0.46, 0.48], [0.5, 0.5], "no worse", "not decided"),
        ([0.0, 0.0], [0.0, 0.0], "alike", "not decided"),  # nobody wins
    ],
)
def test_what_becomes_of_a_claim(better, than, kind, outcome):
    assert verdict(better, than, kind=kind).outcome == outcome


def test_the_margin_decides_between_not_holding_and_not_decided():
    better, than = [0.53, 0.54, 0.53, 0.54], [0.48, 0.55, 0.48, 0.55]
    assert verdict(better, than).outcome == "not decided"
    assert verdict(better, than, margin=0.2).outcome == "does not hold"


def judged(runs: Sequence[Run], **claim: Any):
    """The verdict on a claim about the curves `a` and `b` of some runs."""
    ((title, environment),) = group_runs(runs, same=True).environments.items()
    found = judge(Claim("", "a", "b", **claim), title, environment, {})
    assert found is not None
    return found


def test_runs_that_are_not_finished_decide_nothing():
    """However clear the numbers are so far."""
    runs = [made_up(n, height, label) for n in (0, 1) for label, height in (("a", 0.9), ("b", 0.1))]
    assert judged(runs).outcome == "holds"
    for one in runs[:3:2]:
        one.info["config"]["steps"] = 2000
    found = judged(runs)
    assert (found.outcome, found.note) == ("not decided", "not all runs are finished")
    assert found.value == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("label", "kind", "outcome"),
    [
        ("a", "ahead", "not decided"),  # who diverges is not ahead by what is left
        ("b", "ahead", "holds"),
        ("a", "no worse", "not decided"),
        ("b", "alike", "not decided"),
    ],
)
def test_a_run_that_diverged_cannot_make_a_claim_hold(label, kind, outcome):
    runs = [made_up(n, height, name) for n in (0, 1) for name, height in (("a", 0.9), ("b", 0.1))]
    diverged = dataclasses.replace(made_up(2, 0.1, label), diverged_at=1000.0)
    found = judged([*runs, diverged], kind=kind)
    assert (found.outcome, found.note) == (outcome, f"1 of {label} diverged")
    assert found.seeds == (2, 2)


def test_nor_can_one_make_a_claim_fail():
    runs = [made_up(n, height, name) for n in (0, 1) for name, height in (("a", 0.1), ("b", 0.9))]
    assert judged(runs).outcome == "does not hold"
    diverged = dataclasses.replace(made_up(2, 0.1, "b"), diverged_at=1000.0)
    assert judged([*runs, diverged]).outcome == "not decided"


def outcomes(study: Study, runs: dict[str, Run], exchanges: dict[str, Any] | None = None):
    """By claim and environment, what becomes of it and why not."""
    found = results_of(study, Records(runs, exchanges or {})).verdicts
    return [(one.outcome, one.note) for one in found]


def test_curves_stand_in_the_order_of_their_study():
    """Whatever their methods are called, and however results lie in a file; baselines go first."""
    labels = {"vdn": "dm2", "ippo": "dm2", "a": "bc", "other": "ippo"}
    curves = [Curve(label, (ippo(n), ippo(n + 10))) for n, label in enumerate(labels)]
    study = study_of(curves=tuple(curves), claims=())
    runs = {}
    for curve in reversed(curves):
        for each in curve.runs:
            one = made_up(each.config.seed, 0.5, "", env=ENV)
            config = one.config | {"method": labels[curve.label]}
            runs[each.name] = dataclasses.replace(one, info=one.info | {"config": config})
    ((_, environment),) = results_of(study, Records(runs)).comparison.environments.items()
    assert list(environment.groups) == ["other", "vdn", "ippo", "a"]


def test_a_curve_whose_runs_all_diverged_decides_nothing_and_shortens_no_other():
    claims = (Claim("", "b", "a", "final"), Claim("", "a", "b"))
    curves = (Curve("a", (ippo(0), ippo(1))), Curve("b", (ippo(2), ippo(3))))
    study = study_of(curves=curves, claims=claims)
    runs = {run.name: made_up(run.config.seed, 0.5, "", env=ENV) for run in study.runs}
    for gone in curves[0].runs:
        short = made_up(gone.config.seed, 0.1, "", 200, env=ENV)
        runs[gone.name] = dataclasses.replace(short, diverged_at=200.0)
    assert outcomes(study, runs) == [("not decided", "all runs of a diverged")] * 2
    ((_, environment),) = results_of(study, Records(runs)).comparison.environments.items()
    assert environment.budget == 1000 and environment.groups.keys() == {"b"}
    notes = results_of(study, Records(runs)).comparison.notes
    assert f"{ENV}, a: left out, since all of its runs diverged" in notes


def test_exchanges_decide_nothing_where_nobody_wins_or_runs_are_not_settled():
    played = [("a", Exchange((ippo(0), ippo(1)))), ("b", Exchange((ippo(2), ippo(3))))]
    curves = tuple(Curve(label, exchange_.runs) for label, exchange_ in played)
    study = study_of(curves=curves, claims=(Claim("", "a", "b", "kept"),), exchanges=played)
    runs = {run.name: made_up(run.config.seed, 0.5, "", env=ENV) for run in study.runs}
    names = [exchange_.name for _, exchange_ in played]
    loses = np.array([[1.0, 0.2], [0.2, 1.0]])
    rates = dict(zip(names, (np.ones((2, 2)), loses), strict=True))
    assert outcomes(study, runs, rates) == [("holds", "")]
    nobody = dict.fromkeys(names, np.zeros((2, 2)))
    assert outcomes(study, runs, nobody) == [("not decided", "nobody wins")]
    last = study.runs[-1].name
    part = dataclasses.replace(runs[last], info=made_up(3, 0.5, "", 2000, env=ENV).info)
    said = [("not decided", "not all runs are finished")]
    assert outcomes(study, runs | {last: part}, rates) == said
    diverged = {run.name: dataclasses.replace(runs[run.name], diverged_at=1000.0)
                for run in curves[0].runs}  # fmt: skip
    said = [("not decided", "all runs of a diverged")]
    assert outcomes(study, runs | diverged, rates) == said


def test_who_is_ahead_is_not_known_beyond_where_a_run_ends_that_never_gets_there():
    never, late = rising(0, None, "a"), rising(0, 1500, "b")
    assert judged([never, late], by="steps_to_80").improvement == 0
    short = made_up(0, 0.0, "a", steps=1000)
    assert np.isnan(judged([short, late], by="steps_to_80").improvement)


def rising(seed: int, reaches: float | None, label: str) -> Run:
    """A run that wins everything from the step `reaches` on, before that nothing; ends at 2000."""
    run = made_up(seed, 0.0, label, steps=2000)
    values = np.where(run.steps >= (np.inf if reaches is None else reaches), 1.0, 0.0)
    return dataclasses.replace(run, win_rates=values)


def speed(better: Sequence[float | None], than: Sequence[float | None], kind: Kind = "ahead"):
    runs = [rising(n, at, "a") for n, at in enumerate(better)]
    runs += [rising(n, at, "b") for n, at in enumerate(than)]
    return judged(runs, by="steps_to_80", kind=kind)


def test_steps_are_compared_by_their_ratio():
    """Smoothed over three evaluations a curve reaches 80 % between the second and the third."""
    found = speed([400, 400], [1600, 1600])
    late = [400 + 40, 1600 + 40]  # 2/3 at the step itself, 1 at the next: 0.8 lies 0.4 on the way
    assert found.value == pytest.approx(late[0] / late[1])
    assert found.outcome == "holds"
    assert speed([1600, 1500], [400, 500]).outcome == "does not hold"


def test_a_run_that_never_gets_there_is_a_bound():
    fast, slow = [400, 410], [1500, None]
    assert speed(fast, slow).outcome == "holds"  # the ratio is smaller still
    assert speed(fast, slow).censored == (0, 1)
    assert speed(slow, fast).outcome != "holds"
    # 2000 is all that is known of either: nothing can be said.
    assert speed([None, None], [None, None]).outcome == "not decided"
    assert speed([None, None], [None, None]).value_text(2) == "—"
    assert speed([None, None], [None, None], "alike").outcome == "not decided"
    # Nor if some of either get there: two lower bounds bound their ratio neither way.
    assert speed([400, None], [1500, None]).value_text(2) == "—"


def test_what_a_stranger_costs_is_judged_by_team():
    runs = [made_up(n, 1.0, label) for label in "ab" for n in range(3)]
    ((title, environment),) = group_runs(runs, same=True).environments.items()
    kept = np.array([[1.0, 0.9, 0.9], [0.8, 1.0, 1.0], [1.0, 0.9, 1.0]])  # -0.1, -0.1, -0.05
    lost = np.array([[1.0, 0.1, 0.3], [0.2, 0.9, 0.2], [0.1, 0.2, 1.0]])  # -0.8, -0.7, -0.85
    played = {("smax/3m", "a"): kept, ("smax/3m", "b"): lost}
    found = judge(Claim("", "a", "b", "kept"), title, environment, played)
    assert found is not None
    assert found.value == pytest.approx(-0.25 / 3 + 2.35 / 3)
    assert found.outcome == "holds"
    assert judge(Claim("", "a", "b", "kept"), title, environment, {}) is None


def three_curves(**claim: Any):
    """A study of IPPO with other clips, by label, two seeds each, and a claim about `a` and `b`."""
    curves = [
        Curve(
            label, tuple(training(dm2.IPPO(dm2.PPO(clip=clip)), "smax/3m", seed=n) for n in (0, 1))
        )
        for label, clip in (("a", 0.1), ("b", 0.2), ("c", 0.3))
    ]
    return Study("three", "", "", tuple(curves), (Claim("", "a", "b", **claim),))


def test_a_claim_is_judged_by_its_own_curves_alone():
    """`a` begins ahead of `b` and ends behind it; a run of `c` that has only begun changes nothing,
    and is said."""
    study = three_curves()
    early, late = (np.where(np.arange(11) < 4, high, 1 - high) for high in (0.9, 0.1))
    runs = {}
    for curve, values in zip(study.curves, (early, late, early), strict=True):
        for n, training_ in enumerate(curve.runs):
            run = made_up(n, 0.0, "")
            runs[training_.name] = dataclasses.replace(run, win_rates=values + n / 100)
    c, _ = study.curves[2].runs
    cut = {name: getattr(runs[c.name], name)[:3] for name in ("steps", "win_rates", "returns")}
    begun = {c.name: dataclasses.replace(runs[c.name], **cut)}
    whole = {run.name: runs[run.name] for curve in study.curves[:2] for run in curve.runs}
    without, beside = (results_of(study, Records(known)) for known in (whole, whole | begun))
    assert without.verdicts == beside.verdicts
    assert beside.verdicts[0].outcome == "does not hold"
    said = "c in smax/3m: 0 of 2 runs are finished"
    assert without.unfinished == [said]
    assert beside.unfinished == [f"{said}; the others are used up to step 200"]


@pytest.mark.parametrize(
    ("by", "outcome", "statistic", "note"),
    [
        ("area", "holds", "area under the test return", ""),
        ("final", "holds", "final test return", ""),
        ("steps_to_80", "not decided", "environment steps to a test win rate of 80 %", "nobody"),
    ],
)
def test_where_nobody_can_win_claims_are_about_returns(by, outcome, statistic, note):
    runs = [made_up(n, height, label) for n in (0, 1) for label, height in (("a", 2), ("b", 1))]
    for one in runs:
        one.info["environment"] = {"wins": False}
    ((title, environment),) = group_runs(runs, same=True).environments.items()
    found = judge(Claim("", "a", "b", by), title, environment, {})
    assert found is not None
    assert (found.outcome, found.statistic) == (outcome, statistic)
    assert found.note.startswith(note) and bool(found.note) == bool(note)
    # Returns are of any scale: none is too small to matter unless a claim says so.
    assert smallest(found.claim, "return") == 0.0
    assert smallest(Claim("", "a", "b", margin=3.0), "return") == 3.0


@pytest.mark.parametrize(
    ("better", "than", "text"),
    [
        ([400, 400], [1600, 1600], "× 0.27\n0.27 to 0.27"),  # 440 / 1640
        ([400, 400], [None, None], "≤ × 0.22\n0.22 to 0.22"),  # 440 / 2000
        ([None, None], [400, 400], "≥ × 4.55\n4.55 to 4.55"),
    ],
)
def test_a_value_says_where_it_is_a_bound(better, than, text):
    assert speed(better, than).value_text(2) == text


# ---- results in one file


def test_results_come_back_as_they_were(tmp_path):
    first, _, second, _ = (run.name for run in tiny_study().runs)
    run = made_up(0, 0.5, "")
    broken = dataclasses.replace(made_up(1, 0.25, ""), diverged_at=300.0)
    broken.config["demos"] = "/somewhere/demos/good.safetensors"
    records = Records({first: run, second: broken}, {"x": np.eye(2)})
    records.write(tmp_path / "deep" / "r.json")
    again = Records.read(tmp_path / "deep" / "r.json")
    assert again.runs.keys() == {first, second}
    np.testing.assert_array_equal(again.runs[first].win_rates, run.win_rates)
    np.testing.assert_array_equal(again.runs[first].steps, run.steps)
    assert again.runs[second].diverged_at == 300.0
    assert again.runs[second].config["demos"] == "good"
    assert again.runs[first].config == run.config
    np.testing.assert_array_equal(again.exchanges["x"], np.eye(2))
    assert Records.read(tmp_path / "absent.json").runs == {}


def row(**changes: Any) -> dict[str, Any]:
    """A run in a file of results, with something changed; `config` by what it is to hold."""
    config = {"method": "ippo", "env": "smax/3m", "seed": 0, "steps": 100}
    info = {"config": config | changes.pop("config", {})}
    info |= {
        name: changes.pop(name) for name in ("environment", "demonstrations") if name in changes
    }
    whole = {"name": "x", "label": None, "steps": [0, 100], "win_rates": [0.5, None]}
    return whole | {"returns": [1.0, 2.0], "diverged_at": None, "info": info} | changes


def test_two_runs_of_one_name_are_no_results(tmp_path):
    held = {"format": 1, "runs": [row(), row()], "exchanges": {}}
    (tmp_path / "x.json").write_text(json.dumps(held))
    with pytest.raises(InputError, match=r"no results of a study \(two runs of one name\)"):
        Records.read(tmp_path / "x.json")


@pytest.mark.parametrize(
    ("whole", "values"),
    [
        (True, row()),
        *(
            (False, row(**changes))
            for changes in (
                {"config": {"steps": "many"}},
                {"config": {"seed": "0"}},
                {"config": {"seed": True}},
                {"environment": [1]},
                {"environment": {"version": 5}},
                {"demonstrations": {"mean_return": 10**400}},
                {"label": 5},
                {"steps": [0, 10**400]},
                {"diverged_at": 10**400},
                {"diverged_at": math.nan},
                {"demonstrations": "x"},
                {"diverged_at": "soon"},
                {"win_rates": [5.0, 0.5]},
                {"win_rates": [-0.1, 0.5]},
                {"steps": [0, None]},
                {"steps": [], "win_rates": [], "returns": []},
            )
        ),
        (True, [[1, 0], [0, 1]]),
        *((False, rates) for rates in ([[1]], [0.5, 0.5], [[1, 0]], [[1, 2], [0, 1]], "x")),
    ],
)
def test_results_that_cannot_be_are_refused(tmp_path, unchecked_types, whole, values):
    is_run = isinstance(values, dict)
    held = {"runs": [values] if is_run else [], "exchanges": {} if is_run else {"x": values}}
    (tmp_path / "r.json").write_text(json.dumps({"format": 1, **held}))
    if whole:
        assert Records.read(tmp_path / "r.json") != Records()
    else:
        with pytest.raises(InputError, match=r"r.json: holds no results of a study"):
            Records.read(tmp_path / "r.json")


@pytest.mark.parametrize(
    "text",
    ["", "[]", '{"format": 2, "runs": [], "exchanges": {}}', '{"format": 1, "runs": [{}]}', "nul"],
)
def test_a_damaged_file_of_results_is_refused(tmp_path, text):
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(InputError, match=r"r.json: holds no results of a study"):
        Records.read(tmp_path / "r.json")


def test_a_result_leaves_out_what_is_missing():
    study = tiny_study(2)
    runs = {run.name: made_up(run.config.seed, 0.5, "", env=ENV) for run in study.runs[:3]}
    result = results_of(study, Records(runs))
    (environment,) = result.comparison.environments.values()
    assert {label: len(group.runs) for label, group in environment.groups.items()} == {
        "IPPO": 2,
        "DM²": 1,
    }
    (found,) = result.verdicts
    assert found.outcome == "not decided"
    assert result.unfinished == [f"DM² in {ENV}: 1 of 2 runs are finished"]
    (found,) = results_of(study, Records()).verdicts
    assert (found.env, found.outcome, found.note) == (ENV, "not decided", "no runs yet")


# ---- making things


@dataclass(frozen=True)
class Note(Product):
    """A product that is made in no time, or not at all."""

    kind: ClassVar[str] = "note"
    text: str
    of: tuple["Note", ...] = ()
    fails: bool = False

    @property
    def needs(self) -> tuple[Product, ...]:
        return self.of

    def path(self, root: Path) -> Path:
        return root / "notes" / self.name

    def make(self, root: Path) -> None:
        assert all(note.made(root) for note in self.of)
        if self.text == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.fails:
            raise InputError(f"{self.text} cannot be made")
        self.path(root).parent.mkdir(exist_ok=True)
        write_atomically(self.path(root), str(time.time()).encode())

    def _identity(self) -> tuple[str, Any]:
        return self.text, [self.text, [note.name for note in self.of]]


def make_notes(monkeypatch, root: Path, *notes: Note, jobs: int = 2) -> list[str]:
    lacking = [note for note in in_order(notes) if not note.made(root)]
    monkeypatch.setattr(runner, "missing", lambda *_, **__: lacking)
    return make_studies([], root, "quick", jobs)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"style": "foo"}, "recording.style = 'foo': must be one of co-trained-concurrent"),
        ({"style": "mixed-disjoint"}, "takes a run for each agent, here are 1"),
        ({"runs": (ippo(), ippo(1))}, "takes one run, here are 2"),
        ({"runs": ()}, "must be one at least"),
        ({"episodes": 0}, "recording.episodes = 0: must be a whole number above 0"),
        ({"first": 2000}, "recording.first = 2000: must be a whole number from 1 to 1000"),
        ({"epsilon": 2.0}, "epsilon = 2.0: must be a number from 0 to 1"),
        ({"at": 1000}, "recording.at = 1000: must be a whole number from 1 to 256"),
    ],
)
def test_a_recording_is_checked_before_its_experts_are_trained(values, message):
    with pytest.raises(InputError, match=message):
        Recording(**({"runs": (ippo(),)} | values))


def test_what_is_needed_is_made_first_and_nothing_twice(monkeypatch, tmp_path):
    a, b = Note("a"), Note("b")
    c = Note("c", (a, b))
    d = Note("d", (c, a))
    assert make_notes(monkeypatch, tmp_path, d) == []
    at = {note.text: float(note.path(tmp_path).read_text()) for note in (a, b, c, d)}
    assert max(at["a"], at["b"]) < at["c"] < at["d"]
    assert make_notes(monkeypatch, tmp_path, d) == []
    assert {n.text: float(n.path(tmp_path).read_text()) for n in (a, b, c, d)} == at


@pytest.mark.parametrize(("text", "said"), [("bad", "bad cannot be made"), ("killed", "code -9")])
def test_a_failure_stops_only_what_needs_it(monkeypatch, tmp_path, capsys, text, said):
    bad = Note(text, fails=True)
    after, good = Note("after", (bad,)), Note("good", (Note("fine"),))
    failures = make_notes(monkeypatch, tmp_path, after, good)
    assert [said in failures[0], "needs note" in failures[1], len(failures)] == [True, True, 2]
    lines = capsys.readouterr().err.splitlines()
    assert [line[:5] for line in lines if line.startswith("[")] == [
        f"[{n}/4]" for n in (1, 2, 3, 4)
    ]
    assert good.made(tmp_path)
    assert state_of(bad, tmp_path) == state_of(after, tmp_path) == "failed"
    assert said in failure_of(bad, tmp_path)
    assert any("failed" in line for line in lines)
    # What is mended is made, and what needs it.
    mended = Note(text if text == "bad" else "mended")
    assert make_notes(monkeypatch, tmp_path, Note("after", (mended,))) == []
    assert state_of(mended, tmp_path) == "made"


STOPS_AS_TRAINING_DOES = """
import signal, time
def stop(*_):
    raise KeyboardInterrupt("stopped")
signal.signal(signal.SIGTERM, stop)
print("ready", flush=True)
time.sleep(60)
"""
KILLED = f"""
import functools
from dm2.run.pool import run_side_by_side
list(run_side_by_side([functools.partial(exec, {STOPS_AS_TRAINING_DOES!r}, {{}})], 1))
"""


def test_processes_say_nothing_when_the_one_that_started_them_is_killed():
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, "-c", KILLED], **pipes)
    assert process.stdout is not None and process.stderr is not None
    assert process.stdout.readline() == "ready\n"
    process.kill()
    process.wait()
    assert process.stderr.read() == ""  # ends when the process beside it has ended
    process.stdout.close()
    process.stderr.close()


class Odd(Exception):
    """An error that does not come through a line between processes."""

    def __init__(self, where: str, why: str) -> None:
        super().__init__(f"the disk at {where} {why}")


def test_a_tasks_error_that_would_not_come_through_is_told_in_its_words():
    def fail() -> None:
        raise Odd("home", "is full")

    assert str(_error_of(fail)) == "Odd: the disk at home is full"
    left = _error_of(functools.partial(sys.exit, 3))
    assert (type(left), str(left)) == (RuntimeError, "SystemExit: 3")
    damaged = pickle.dumps(DamagedCheckpoint("cut off"))
    assert isinstance(pickle.loads(damaged), DamagedCheckpoint)


def test_one_process_at_a_time_makes_studies_in_a_folder(tmp_path):
    with runner._lock(tmp_path), pytest.raises(InputError, match="another process makes studies"):
        make_studies([], tmp_path, "quick", 1)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder in which the tiny study was made, by one process, which compiles everything once."""
    root = tmp_path_factory.mktemp("studies")
    assert make_studies([tiny_study()], root, "quick", 1) == []
    return root


def test_a_study_is_made_whole(made):
    study = tiny_study()
    assert missing([study], made, "quick") == []
    assert {state_of(product, made) for product in study.products} == {"made"}
    records = Records.read(records_path(made, study, "quick"))
    assert records.runs.keys() == {run.name for run in study.runs}
    own = RunDirectory.open(study.runs[-1].path(made))
    rates = [line["win_rate"] for line in own.read_metrics() if line["kind"] == "eval"]
    np.testing.assert_allclose(records.runs[study.runs[-1].name].win_rates, rates, atol=1e-4)
    assert own.config.demos == str(study.runs[-1].needs[0].path(made).absolute())
    ((_, played),) = study.exchanges
    np.testing.assert_allclose(records.exchanges[played.name], played.read(made))


def test_results_stand_for_runs_that_are_not_there(made, tmp_path):
    """One seed more: its runs and, for DM²'s, the expert and its recording."""
    path = records_path(tmp_path, tiny_study(), "quick")
    path.parent.mkdir()
    path.write_bytes(records_path(made, tiny_study(), "quick").read_bytes())
    assert missing([tiny_study()], tmp_path, "quick") == []
    larger = tiny_study(3)
    lacking = [product.name for product in missing([larger], tmp_path, "quick")]
    alone, ours = larger.runs[:3], larger.runs[3:]
    expected = [alone[2].name, expert().name, ours[2].needs[0].name, ours[2].name]
    # The exchange of three needs the teams themselves.
    expected = [*expected, alone[0].name, alone[1].name, larger.exchanges[0][1].name]
    assert sorted(lacking) == sorted(expected)
    assert lacking.index(expected[2]) < lacking.index(expected[3])
    assert {state_of(run, tmp_path, Records.read(path)) for run in alone[:2]} == {"recorded"}


def test_runs_of_other_experts_are_made_again_if_one_asks(made, tmp_path, capsys):
    """Results of runs that learnt from a recording that is not the one of its name that is here."""
    study, path = tiny_study(), records_path(tmp_path, tiny_study(), "quick")
    path.parent.mkdir()
    path.write_bytes(records_path(made, study, "quick").read_bytes())
    ours = tuple(study.runs[2:])
    (recording,) = ours[0].needs

    def lacking(of: Study = study) -> list[Product]:
        return missing([of], tmp_path, "quick", same_experts=True)

    assert lacking() == []  # nobody needs the recording
    third = tiny_study(3).runs[-1]
    assert lacking(study_of(curves=(Curve("DM²", (*ours, third)),))) == [
        expert(), recording, third, *ours,
    ]  # fmt: skip
    recording.path(tmp_path).parent.mkdir()
    recording.path(tmp_path).write_bytes(recording.path(made).read_bytes())
    assert lacking() == []  # it is the one that they learnt from
    demos = dm2.Demonstrations.load(recording.path(made)).subset(episodes=5)
    demos.save(recording.path(tmp_path), overwrite=True)
    assert lacking() == list(ours)
    assert missing([study], tmp_path, "quick") == []
    together = Exchange(ours, 4)
    records = Records.read(path)
    records.exchanges[together.name] = np.eye(2)
    records.write(path)
    exchanged = study_of(curves=study.curves, exchanges=[("DM²", together)])
    assert lacking(exchanged) == [*ours, together]
    command = (tiny_file(tmp_path), "--seeds", 2, "--out", tmp_path, "--jobs", 1, "--same-experts")
    assert run_json(capsys, "study", "plan", *command)["products_to_make"] == 2
    run_json(capsys, "study", "run", *command)
    found = Records.read(path).runs
    assert {found[run.name].demo_source for run in ours} == {demos.sha256}
    assert lacking() == []


def test_results_of_one_study_stand_for_another_s_runs(made, tmp_path):
    """They are found by their settings, and called by the curves of the study that is made."""
    theirs = records_path(tmp_path, tiny_study(), "quick")
    theirs.parent.mkdir()
    theirs.write_bytes(records_path(made, tiny_study(), "quick").read_bytes())
    first, *_, last = tiny_study().runs
    curves = (Curve("IPPO", (first, ippo(7))), Curve("other", (last,)))
    study = Study("y", "", "", curves, (), exchanges=tiny_study().exchanges)
    assert missing([study], tmp_path, "quick") == [ippo(7)]
    states = planning.progress(study, tmp_path, "quick").states
    assert states[first.name] == states[last.name] == "recorded"
    collect([study], tmp_path, "quick")
    found, known = (Records.read(path) for path in (tmp_path / "results/y_quick.json", theirs))
    assert {name: run.label for name, run in found.runs.items()} == {
        first.name: "IPPO",
        last.name: "other",
    }
    np.testing.assert_array_equal(found.runs[last.name].returns, known.runs[last.name].returns)
    assert found.exchanges.keys() == known.exchanges.keys()
    # What is damaged is named, whoever's it is.
    theirs.write_text("{")
    with pytest.raises(InputError, match=r"tiny_quick\.json: holds no results of a study"):
        missing([study], tmp_path, "quick")


def test_a_run_that_was_stopped_goes_on_though_a_part_of_it_is_in_the_results(made, tmp_path):
    study, path = tiny_study(), records_path(tmp_path, tiny_study(), "quick")
    records = Records.read(records_path(made, study, "quick"))
    stopped = study.runs[0]
    run = records.runs[stopped.name]
    part = dataclasses.replace(
        run, steps=run.steps[:1], win_rates=run.win_rates[:1], returns=run.returns[:1]
    )
    records.runs[stopped.name] = part
    records.write(path)
    assert missing([study], tmp_path, "quick") == [stopped]
    # One that diverged would do so again.
    diverged = dataclasses.replace(part, diverged_at=part.end)
    records.runs[stopped.name] = diverged
    records.write(path)
    assert missing([study], tmp_path, "quick") == []


def test_collecting_drops_other_settings_when_all_of_ones_own_are_there(tmp_path):
    """A run of other settings stays until then, one of a further seed for good."""
    study, path = study_of(), tmp_path / "results" / "x_quick.json"
    others = (ippo(1, steps=128), ippo(2))
    products = {one.name: one.config.seed for one in (*study.runs, *others)}
    whole = {name: made_up(seed, 0.5, "", steps=200) for name, seed in products.items()}
    part = {name: run for name, run in whole.items() if name != study.runs[0].name}
    for held in (part, whole):
        Records(dict(held)).write(path)
        collect([study], tmp_path, "quick")
        kept = {one.name for one in (*study.runs, ippo(2))} if held is whole else part.keys()
        assert Records.read(path).runs.keys() == kept


def test_a_study_s_own_results_go_before_those_of_others(tmp_path):
    """Runs of one name that learnt from other experts, as those trained on another machine are."""
    study = study_of()
    path = records_path(tmp_path, study, "quick")
    one, two = (run.name for run in study.runs)
    own = {one: taught_by("a", 0.9, 0, ""), two: taught_by("a", 0.9, 1, "")}
    other = {name: taught_by("b", 0.7, seed, "") for seed, name in enumerate((one, two))}

    def sources(runs: dict[str, Run]) -> dict[str, str]:
        return {name: str(run.demo_source)[0] for name, run in runs.items()}

    for before, after in (("a_quick.json", "z_quick.json"), ("z_quick.json", "a_quick.json")):
        (path.parent / after).unlink(missing_ok=True)
        Records(dict(other)).write(path.parent / before)
        Records(dict(own)).write(path)
        collect([study], tmp_path, "quick")
        assert sources(Records.read(path).runs) == {one: "a", two: "a"}
    # What it lacks it takes from others, and so what goes farther.
    part = dataclasses.replace(
        own[two], steps=np.zeros(1), win_rates=np.zeros(1), returns=np.zeros(1)
    )
    for held in ({one: own[one]}, {one: own[one], two: part}):
        Records(dict(held)).write(path)
        known = known_results(tmp_path, "quick")
        assert sources(recorded(study, known).runs) == {one: "a", two: "b"}
        assert sources(gather(study, tmp_path, known)[0].runs) == {one: "a", two: "b"}


def test_what_was_made_again_goes_before_results_only_if_one_asks(made, tmp_path):
    study = tiny_study()
    path = records_path(made, study, "quick")
    true, name = Records.read(path).runs, study.runs[-1].name
    info = {**true[name].info, "demonstrations": {"sha256": "other"}}
    known = {"tiny": Records(true | {name: dataclasses.replace(true[name], info=info)})}
    assert gather(study, made, known)[0].runs[name].demo_source == "other"
    found = gather(study, made, known, same_experts=True)[0].runs
    assert found[name].demo_source == true[name].demo_source != "other"


def test_exchanges_of_further_seeds_stay_and_those_of_other_settings_until_all_are_there(tmp_path):
    exchange_ = Exchange((ippo(0), ippo(1)))
    study = study_of(exchanges=[("a", exchange_)])
    path = records_path(tmp_path, study, "quick")
    whole = {run.name: made_up(run.config.seed, 0.5, "", steps=200) for run in study.runs}
    further, earlier = {"further": np.full((3, 3), 0.5)}, {"earlier": np.full((2, 2), 0.5)}
    for own in ({}, {exchange_.name: np.full((2, 2), 0.5)}):
        Records(dict(whole), further | earlier | own).write(path)
        collect([study], tmp_path, "quick")
        kept = {*further, *own} if own else {*further, *earlier}
        assert Records.read(path).exchanges.keys() == kept


def test_a_run_is_called_by_its_curve_unless_it_is_in_two(tmp_path):
    one, two, three = (ippo(seed) for seed in range(3))
    curves = (Curve("a", (one, two)), Curve("b", (two, three)))
    study, path = Study("x", "", "", curves, ()), tmp_path / "results" / "x_quick.json"
    further = ippo(3).name
    runs = {run.name: made_up(run.config.seed, 0.5, "earlier") for run in (one, two, three)}
    Records(runs | {further: made_up(3, 0.5, "a")}).write(path)
    collect([study], tmp_path, "quick")
    labels = {name: run.label for name, run in Records.read(path).runs.items()}
    assert labels == {one.name: "a", two.name: None, three.name: "b", further: "a"}


def begun(product: Any, root: Path) -> Path:
    """The directory of a run that was evaluated at its beginning and half-way."""
    run = RunDirectory.create(product.path(root), product.config, {})
    for step in (0, 128):
        run.append({"kind": "eval", "step": step, "win_rate": 0.5, "mean_return": 1.0})
    return run.path


@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl", "config.json deleted"])
def test_a_damaged_run_fails_by_itself(tmp_path, name):
    study = Study("x", "", "", (Curve("a", (ippo(0), ippo(1))),))
    paths = [begun(run, tmp_path) for run in study.runs]
    name, _, deleted = name.partition(" ")
    (paths[0] / name).write_text('{"kind": "ev\n')
    if deleted:
        (paths[0] / name).unlink()
    assert [state_of(run, tmp_path) for run in study.runs] == ["failed", "stopped"]
    assert planning.plan([study], tmp_path, "quick").count == 2
    _, (said,) = gather(study, tmp_path, {})
    assert ("is in use" if deleted else name) in said
    assert said.endswith(f"or delete {paths[0]}, and it is made again")
    assert failure_of(study.runs[0], tmp_path) in said
    collect([study], tmp_path, "quick")
    assert [*Records.read(records_path(tmp_path, study, "quick")).runs] == [study.runs[1].name]
    with pytest.raises(InputError, match=f"delete {paths[0]}"):
        runner._make(study.runs[0], tmp_path)


@pytest.mark.parametrize("text", ["{", '{"win_rates": [0.5, 0.5]}', "[]"])
def test_a_damaged_exchange_names_its_file(tmp_path, text):
    played = Exchange((ippo(0), ippo(1)))
    played.path(tmp_path).parent.mkdir()
    played.path(tmp_path).write_text(text)
    with pytest.raises(InputError, match=rf"{played.name}.json: holds no exchange .*; delete it"):
        played.read(tmp_path)
    assert state_of(played, tmp_path) == "failed"


@pytest.mark.parametrize(("jobs", "processes"), [(1, 1), (2, 2), (1_000_000, 3)])
def test_there_are_no_more_processes_than_products(jobs, processes):
    assert runner.processes_for([Note(text) for text in "abc"], jobs) == processes


@pytest.mark.parametrize(
    ("cores", "free", "jobs"),
    [(4, None, 4), (4, 5000.0, 4), (4, 2999.0, 2), (4, 500.0, 1)],  # of 1000 MiB each
)
def test_a_process_a_core_as_memory_allows(monkeypatch, cores, free, jobs):
    monkeypatch.setattr("dm2.run.pool.cores", lambda: list(range(cores)))
    monkeypatch.setattr("dm2.run.pool._free_mib", lambda: free)
    assert fitting_jobs(1000.0) == jobs
    config = dm2.Config(dm2.IPPO(), ENV)
    monkeypatch.setattr("dm2.run.sweep.foresee", lambda config: {"memory_mib": 1000.0})
    assert [best_jobs(config, seeds) for seeds in (1, 2)] == [1, min(2, jobs)]
    monkeypatch.setattr("jax.default_backend", lambda: "gpu")
    assert fitting_jobs(1000.0) == 1


@pytest.mark.parametrize("jobs", [0, -1])
@pytest.mark.parametrize("command", ["plan", "run"])
def test_jobs_that_do_nothing_are_refused(capsys, tmp_path, command, jobs):
    said = refused(capsys, "study", command, "fig8", "--out", tmp_path, "--jobs", jobs)
    assert f"jobs = {jobs}: must be a whole number above 0" in said


def test_a_folder_that_is_a_file_is_refused(capsys, tmp_path):
    (tmp_path / "file").write_text("")
    said = refused(capsys, "study", "run", "fig8", "--out", tmp_path / "file")
    assert "file/lock': cannot be written: " in said


def test_collecting_keeps_what_is_not_there_any_more(made, tmp_path):
    study = tiny_study()
    path = records_path(tmp_path, study, "quick")
    path.parent.mkdir()
    path.write_bytes(records_path(made, study, "quick").read_bytes())
    before = path.read_bytes()
    collect([study], tmp_path, "quick")
    assert path.read_bytes() == before


def test_what_is_known_of_a_run_is_not_lost_when_it_begins_anew(made, tmp_path):
    training_ = tiny_study().runs[0]
    records = Records()
    records.add("x", read_run(training_.path(made)))
    whole = records.runs["x"]
    begun = tmp_path / "begun"
    shutil.copytree(training_.path(made), begun)
    lines = (begun / "metrics.jsonl").read_text().splitlines(keepends=True)
    (begun / "metrics.jsonl").write_text("".join(lines[:-1]))
    records.add("x", read_run(begun))
    assert records.runs["x"] is whole
    again = Records()
    again.add("x", read_run(begun))
    assert again.runs["x"].end < whole.end


def test_compare_takes_results(made):
    path = records_path(made, tiny_study(), "quick")
    found = compare([path])
    (env, groups) = next(iter(found.items()))
    assert env == ENV
    assert {len(group["seeds"]) for group in groups.values()} == {2}


TINY_FILE = """
import sys
sys.path.insert(0, {tests!r})
from test_studies import tiny_study

def study(scale):
    return tiny_study(scale.seeds)
"""


def tiny_file(folder: Path) -> Path:
    file = folder / "tiny.py"
    file.write_text(TINY_FILE.format(tests=str(Path(__file__).parent)))
    return file


@pytest.mark.learning  # for its time
def test_killed_at_any_moment_it_is_made_to_the_same_bits(made, tmp_path):
    out = tmp_path / "killed"
    command = [
        sys.executable,
        "-m",
        "dm2",
        "study",
        "run",
        str(tiny_file(tmp_path)),
        "--seeds",
        "2",
    ]
    command += ["--out", str(out), "--jobs", "2"]
    kills = 0
    for seconds in (6.0, 12.0, 20.0):
        process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            kills += process.wait() == -signal.SIGKILL
        assert process.stderr is not None
        process.stderr.read()  # ends when the processes beside it have ended
        process.stderr.close()
    assert kills
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    study = tiny_study()
    for training_ in study.runs:
        ends = [training_.path(root) for root in (made, out)]
        ends = [run / "checkpoints" / f"{256:012d}" / "state.safetensors" for run in ends]
        assert ends[0].read_bytes() == ends[1].read_bytes()
    for product in study.products:
        if not isinstance(product, type(study.runs[0])):
            assert product.path(made).read_bytes() == product.path(out).read_bytes()


# ---- the command line


def test_a_study_s_file_may_print_and_is_named_where_it_fails(tmp_path, capsys):
    file = tiny_file(tmp_path)
    file.write_text('print("hello")\n' + file.read_text())
    plan = run_json(capsys, "study", "plan", file, "--out", tmp_path / "out")
    assert plan["products_to_make"] > 0
    file.write_text(file.read_text().replace("tiny_study(scale.seeds)", "tiny_study(0)"))
    said = refused(capsys, "study", "plan", file, "--out", tmp_path / "out")
    assert f"study = '{file}': runs of IPPO" in said


def test_two_studies_of_one_name_would_share_their_files(tmp_path, capsys):
    one, other = tiny_file(tmp_path), tmp_path / "other.py"
    other.write_text(one.read_text())
    for command in ("plan", "run", "status", "draw", "report"):
        said = refused(capsys, "study", command, one, other, "--out", tmp_path / "out")
        assert f"name = 'tiny': is that of {one} and of {other}; give each a name of its" in said
    twice = run_json(capsys, "study", "plan", one, one, "--out", tmp_path / "out")
    assert twice == run_json(capsys, "study", "plan", one, "--out", tmp_path / "out")


def test_the_commands_on_a_study_of_ones_own(made, tmp_path, capsys):
    tiny, out = tiny_file(tmp_path), ("--seeds", 2, "--out", made)
    before = hashes(made / "runs")
    plan = run_json(capsys, "study", "plan", tiny, *out)
    assert (plan["products_there"], plan["products_to_make"], plan["hours"]) == (7, 0, 0)
    status = run_json(capsys, "study", "status", tiny, *out)
    assert set(status["tiny"].values()) == {"made"}
    drawn = run_json(capsys, "study", "draw", tiny, *out)["tiny"]
    assert {Path(path).suffix for path in drawn["figures"]} == {".png", ".pdf"}
    assert all(Path(path).stat().st_size > 1000 for path in drawn["figures"])
    assert len(drawn["figures"]) == 4  # the curves and the exchange
    (claim,) = drawn["claims"]
    assert claim["verdict"] in ("holds", "does not hold", "not decided")
    page = Path(run_json(capsys, "study", "report", tiny, *out)["report"]).read_text()
    assert f"dm2 study run {tiny} --scale quick --seeds 2 --out {made}</code>" in page
    assert run_json(capsys, "study", "run", tiny, *out)["tiny"]["claims"] == [claim]
    code, text, _ = run(capsys, "study", "status", tiny, *out)
    assert code == 0
    assert re.search(r"tiny +7\b", text)
    assert hashes(made / "runs") == before
    # Drawing writes no results, and says which are of other settings.
    (kept,) = made.glob("results/*")
    whole = kept.read_bytes()
    kept.write_bytes(whole.replace(b"-seed_", b"-side_"))
    again = run_json(capsys, "study", "draw", tiny, *out)["tiny"]
    assert (again["claims"], kept.read_bytes() == whole) == ([claim], False)
    said = refused(capsys, "study", "draw", tiny, "--results", kept.parent, "--out", tmp_path / "x")
    kept.write_bytes(whole)
    assert "only 4 runs of other settings" in said
    elsewhere = tmp_path / "elsewhere"
    again = ("study", "draw", tiny, "--seeds", 2, "--out", elsewhere)
    assert "holds no results" in refused(capsys, *again)
    found = run_json(capsys, *again, "--results", made / "results")["tiny"]
    assert found["claims"] == [claim]
    for ours, theirs in zip(found["figures"], drawn["figures"], strict=True):
        assert Path(ours).read_bytes() == Path(theirs).read_bytes()


def test_a_plan_says_what_it_takes(capsys, tmp_path):
    options = ("--seeds", 2, "--jobs", 2, "--out", tmp_path / "out")
    plan = run_json(capsys, "study", "plan", "fig8", *options)
    assert plan["products_to_make"] == 4
    iteration = 32 * 128
    each = -(-250_000 // iteration) * iteration
    assert plan["steps"] == 4 * each
    assert 0.001 < plan["hours"] < 2
    assert plan["hours"] == pytest.approx(sum(row["hours"] for row in plan["rows"]))
    assert plan["disk_mib"] > 4
    assert not (tmp_path / "out").exists()


def test_a_plan_goes_by_the_speed_of_runs_that_are_there(made, monkeypatch):
    rates = {("ippo", ENV): planning._Rate(64.0, ippo(0).config.program, None)}
    monkeypatch.setattr(planning, "_measured", lambda root: rates)
    study = Study("more", "", "", (Curve("IPPO", (ippo(5), ippo(6))),))
    found = planning.plan([study], made, "quick", 2)
    assert (found.count, found.steps) == (2, 512)
    assert found.hours == pytest.approx((2 * 10 + 512 / 64) / 2 / 3600)


def test_a_plan_corrects_what_it_works_out_by_the_runs_that_are_there(monkeypatch, tmp_path):
    """IPPO took four times as long as is worked out, so RMAPPO is taken to need four times as long
    as that, too. A run that does not hold what its environment was says nothing, and one in an
    environment that is no more says as much as others: none is made for that."""
    program, spec = ippo(0).config.program, dm2.make(ENV).spec
    gone = dataclasses.replace(program, env="gone:World")
    rates = {
        ("ippo", "gone:World"): planning._Rate(25.0, gone, spec),
        ("ippo", ENV): planning._Rate(0.1, program, None),
    }

    def seconds(settings: ProgramSettings, spec: EnvSpec, gflops: float) -> float:
        return {"ippo": 0.01, "rmappo": 0.02}[settings.method.name]

    monkeypatch.setattr(planning, "_measured", lambda root: rates)
    monkeypatch.setattr(planning, "_gflops", lambda: 1.0)
    monkeypatch.setattr(planning, "seconds_per_step", seconds)
    monkeypatch.setattr(planning, "_worked_out", planning._worked_out.__wrapped__)  # without cache
    study = Study("more", "", "", (Curve("RMAPPO", (training(dm2.RMAPPO(), ENV, **SMALL),)),))
    assert planning.plan([study], tmp_path, "quick", 1).hours * 3600 == pytest.approx(
        10 + 256 * 0.08
    )
    monkeypatch.setattr(planning, "_measured", lambda root: {})
    assert planning.plan([study], tmp_path, "quick", 1).hours * 3600 == pytest.approx(
        10 + 256 * 0.02
    )


def test_a_plan_does_not_count_what_else_the_machine_does(monkeypatch):
    def busy(repeats, clock=time.perf_counter):
        return 50.0 if clock is time.process_time else 5.0

    monkeypatch.setattr(planning, "matmul_gflops", busy)
    assert planning._gflops.__wrapped__() == 50.0 * len(cores())


def test_the_speed_of_runs_is_their_median(made):
    rates = planning._measured(made)
    run = RunDirectory.open(ippo(0).path(made))
    speeds = [line["steps_per_s"] for line in run.read_metrics() if line["kind"] == "train"]
    assert min(speeds) / 50 < rates["ippo", ENV].speed < 50 * max(speeds)
    assert rates["ippo", ENV].settings == ippo(0).config.program
    assert rates["ippo", ENV].spec == dm2.make(ENV).spec
    assert rates.keys() == {("ippo", ENV), ("dm2", ENV)}


def test_a_foreign_run_says_nothing_of_speed(tmp_path):
    run = tmp_path / "runs" / "x"
    run.mkdir(parents=True)
    (run / "config.json").write_text('{"config": {}}')
    (run / "metrics.jsonl").write_text('{"kind": "train", "steps_per_s": 9}\n')
    assert planning._measured(tmp_path) == {}


def test_list_says_what_there_is(capsys):
    assert [one["name"] for one in run_json(capsys, "study", "list")["studies"]] == [*STUDIES]


# ---- exchanges and recordings


@pytest.mark.learning
def test_an_exchange_of_equal_teams_changes_nothing(made, tmp_path):
    one = ippo(0).path(made)
    rates = exchange([one, one], episodes=6)
    assert np.ptp(rates) == 0
    with pytest.raises(InputError, match="runs: there are 1"):
        exchange([one])


def test_an_exchange_replaces_one_agent_at_a_time(made, monkeypatch):
    """A game that agent 0 alone decides: it is won where agent 0 comes from the second team."""

    def play(team, states, key, episodes, **how):
        return SimpleNamespace(won=np.full(episodes, team._origins[0] == 1)), None

    programs = load_team(ippo(0).path(made), None).programs
    monkeypatch.setattr(programs, "play", play)
    rates = exchange([ippo(seed).path(made) for seed in (0, 1)], episodes=3)
    np.testing.assert_allclose(rates, [[0, 1 / 3], [1 / 3, 0]])


def test_a_recording_takes_the_first_checkpoint_that_is_good_enough(made, monkeypatch, tmp_path):
    team = (expert(),)
    rates = {128: 0.2, 256: 0.6, 384: 0.9}
    monkeypatch.setattr(
        "dm2.studies.products.evaluate", lambda run, at, **_: {"win_rate": rates[at]}
    )
    for quality, step in ((0.1, 128), (0.5, 256), (0.6, 256), (0.7, 384)):
        recording = Recording(team, quality=quality, episodes=2)
        recording.make(made)
        demos = dm2.Demonstrations.load(recording.path(made))
        assert demos.provenance["training_step"] == step
    with pytest.raises(InputError, match=r"quality = 0.95: .* wins 0.90 at best"):
        Recording(team, quality=0.95).make(made)
    with pytest.raises(InputError, match=r"quality = 0.5: .* has no checkpoint; train it anew"):
        Recording(team, quality=0.5)._checkpoint(begun(ippo(7), tmp_path))
    monkeypatch.setattr("dm2.studies.products.evaluate", lambda *_, **__: {"win_rate": None})
    with pytest.raises(InputError, match=r"quality = 0.5: nobody can win in .*; leave quality out"):
        Recording(team, quality=0.5).make(made)
    few = Recording(team, episodes=5, first=2)
    few.make(made)
    assert dm2.Demonstrations.load(few.path(made)).agents[0].num_episodes == 2


# ---- the docs


@pytest.mark.learning  # for its time
def test_the_example_of_the_docs_is_a_study(tmp_path, capsys):
    (example,) = blocks("python", "docs/studies.md")
    example = example.replace("smax/3s_vs_3z", ENV)  # of which programs are compiled already
    small = example.replace("400_000", "256").replace("150_000", "256").replace("10_000", "128")
    small = small.replace("episodes=1000", "episodes=4")
    shape = "num_envs=8, rollout_steps=16, eval_episodes=2, "
    small = small.replace("steps=", shape + "steps=")
    small = small.replace("dm2.IPPO(", "dm2.IPPO(dm2.PPO(hidden=8, epochs=1)")
    small = small.replace("dm2.DM2(", "dm2.DM2(dm2.PPO(hidden=8, epochs=1), ")
    file = tmp_path / "weaker.py"
    file.write_text(small)
    arguments = (file, "--seeds", 2, "--out", tmp_path / "out")
    result = run_json(capsys, "study", "run", *arguments)["weaker"]
    (text,) = (claim["claim"] for claim in result["claims"])
    assert text == "A fifth of the coefficient does as well."
    commands = [line for block in blocks("bash", "docs/studies.md") for line in block.splitlines()]
    assert all(line.startswith("dm2 study ") for line in commands)
    names = {line.split()[3] for line in commands if not line.split()[3].startswith("-")}
    assert names <= {*STUDIES, "weaker.py", "#"}
    page = Path(__file__).parent.parent / "docs" / "studies.md"
    named = re.findall(r"^\| `([a-z0-9-]+)` \|", page.read_text(), re.MULTILINE)
    assert named == [*STUDIES]
