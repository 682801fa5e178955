"""Runs on disk: what they write, that a killed one resumes bit-identically, that bad input stops
before anything is touched."""

import dataclasses
import gc
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import weakref
from typing import Any

import jax
import numpy as np
import pytest

from conftest import SMALL, hashes
from dm2 import (
    DM2,
    IPPO,
    PPO,
    Config,
    Demonstrations,
    DivergedError,
    Imitation,
    InputError,
    evaluate,
    record,
    train,
)
from dm2.demos.experts import load_experts
from dm2.methods.independent import Independent
from dm2.run import loop
from dm2.run.directory import RunDirectory
from dm2.run.loop import resume
from dm2.run.programs import Programs
from dm2.run.sweep import train_seeds

ENV = "smax/3m?limit=12"
TINY = PPO(hidden=8, epochs=1, minibatches=2)


def dm2_config(demos, steps=1280, **changes):
    imitation = Imitation(hidden=8, updates=2, batch=16)
    settings = {**SMALL, **changes}
    return Config(DM2(TINY, imitation), ENV, steps=steps, demos=str(demos), **settings)


def metrics_of(run):
    """All records but for what a clock measured."""
    return [{k: v for k, v in r.items() if k != "steps_per_s"} for r in run.read_metrics()]


def arrays_of(run, step):
    path = run.checkpoint_path(step) / "state.safetensors"
    return path.read_bytes()


def test_a_run_writes_what_it_promises(small_run):
    assert small_run.steps() == [256, 512]
    assert small_run.info["environment"]["name"] == ENV
    assert small_run.info["dm2_version"]
    records = small_run.read_metrics()
    evaluated = [r["step"] for r in records if r["kind"] == "eval"]
    assert evaluated == [0, 256, 512]
    trained = [r for r in records if r["kind"] == "train"]
    assert [r["step"] for r in trained] == [128, 256, 384, 512]
    assert all(len(r["policy_loss"]) == 3 for r in trained)
    assert list((small_run.path / "tensorboard").iterdir())


def test_chosen_checkpoints_outlive_the_newest_few(small_demos, tmp_path):
    config = dm2_config(small_demos, keep=1, checkpoint_steps=(100, 300))
    run = train(config, tmp_path / "run", quiet=True)
    assert run.steps() == [128, 384, 1280]


def test_training_twice_gives_the_same_bits(small_demos, tmp_path):
    config = dm2_config(small_demos, steps=256)
    one = train(config, tmp_path / "one", quiet=True)
    two = train(config, tmp_path / "two", quiet=True)
    other = train(dataclasses.replace(config, seed=1), tmp_path / "three", quiet=True)
    assert arrays_of(one, 256) == arrays_of(two, 256)
    assert metrics_of(one) == metrics_of(two)
    assert arrays_of(one, 256) != arrays_of(other, 256)


def test_programs_go_with_their_owner():
    # Else a long sweep in one process runs out of memory maps and crashes.
    programs = Programs(Config(IPPO(TINY), ENV, **SMALL).program)
    programs.init(jax.numpy.uint32(0))
    gone = weakref.ref(programs)
    del programs
    gc.collect()
    assert gone() is None


def test_iterating_compiles_once(small_demos):
    # What comes back from the second device is bound to a place; that must not make new programs.
    config = dm2_config(small_demos)
    programs = Programs(config.program)
    seed, experts = jax.numpy.uint32(0), load_experts(Demonstrations.load(small_demos))
    state = jax.tree.map(np.asarray, programs.init(seed))  # as a checkpoint gives it
    for _ in range(3):
        state, _ = programs.iterate(state, seed, experts)
        programs.evaluate(state.agents, seed, jax.numpy.uint32(0), 4)
    method = programs.method
    assert isinstance(method, Independent)
    compiled: list[Any] = [programs.collect, programs.evaluate, method.prepare]
    compiled += [method.improve_actor, method.improve_critic]
    assert [program._cache_size() for program in compiled] == [1] * 5


def test_compiled_ahead_is_what_a_run_needs(small_demos):
    programs = Programs(dm2_config(small_demos).program)
    seed, experts = jax.numpy.uint32(0), load_experts(Demonstrations.load(small_demos))
    programs.compile(experts, 4)
    made = []

    def refuse(event: str, duration_secs: float, **about: str | int) -> None:
        if event.endswith("backend_compile_duration"):
            made.append(about.get("fun_name"))

    jax.monitoring.register_event_duration_secs_listener(refuse)
    try:
        jax.numpy.zeros(17).sum()  # the listener hears
        assert made
        made.clear()
        state = programs.init(seed)
        state, _ = programs.iterate(state, seed, experts)
        programs.iterate(state, seed, experts)
        programs.evaluate(state.agents, seed, jax.numpy.uint32(0), 4)
    finally:
        jax.monitoring.unregister_event_duration_listener(refuse)
    assert made == []


def test_seeds_equal_runs_of_their_own(small_demos, tmp_path):
    config = dm2_config(small_demos, steps=256, seed=3)
    runs = train_seeds(config, tmp_path / "many", 2, quiet=True)
    assert [run.path.name for run in runs] == ["seed_3", "seed_4"]
    alone = train(dataclasses.replace(config, seed=4), tmp_path / "alone", quiet=True)
    assert arrays_of(runs[1], 256) == arrays_of(alone, 256)


def test_side_by_side_gives_the_same_runs(small_demos, tmp_path):
    config = dm2_config(small_demos, steps=256, seed=3)
    beside = train_seeds(config, tmp_path / "beside", 3, jobs=2, quiet=True)
    assert [run.path.name for run in beside] == ["seed_3", "seed_4", "seed_5"]
    for run in train_seeds(config, tmp_path / "in_turn", 2, quiet=True):
        other = beside[run.config.seed - 3]
        assert arrays_of(other, 256) == arrays_of(run, 256)
        assert metrics_of(other) == metrics_of(run)


def test_how_often_a_team_is_evaluated_changes_nothing(small_demos, tmp_path):
    config = dm2_config(small_demos, steps=512)
    usual = train(config, tmp_path / "usual", quiet=True)
    often = dataclasses.replace(config, eval_every=128, eval_episodes=7)
    assert arrays_of(train(often, tmp_path / "often", quiet=True), 512) == arrays_of(usual, 512)


@pytest.fixture
def spoiled(monkeypatch):
    """A function after which the third iteration of every run of a seed leaves agent 1 with a
    number that is not finite, in its losses or in its parameters."""
    iterate = Programs.iterate

    def arrange(where: str, seed: int = 0) -> None:
        def spoil(programs, state, own_seed, experts, horizon):
            state, metrics = iterate(programs, state, own_seed, experts, horizon)
            if int(state.iteration) == 3 and int(own_seed) == seed:
                if where == "loss":
                    loss = metrics["agents"]["value_loss"].at[1].set(np.inf)
                    metrics["agents"]["value_loss"] = loss
                else:
                    scale = state.agents.scale
                    scale = scale._replace(second=scale.second.at[1].set(np.nan))
                    state = state._replace(agents=state.agents._replace(scale=scale))
            return state, metrics

        monkeypatch.setattr(Programs, "iterate", spoil)

    return arrange


@pytest.mark.parametrize(
    ("where", "quantity"), [("loss", "value_loss"), ("state", "agents/scale/second")]
)
def test_a_run_that_diverges_stops_there(small_demos, tmp_path, spoiled, where, quantity):
    config = dm2_config(small_demos, checkpoint_every=128, eval_every=128, keep=1)
    spoiled(where)
    said = rf"{quantity} of agent 1 is not finite at step 384; the checkpoint of step 256 is kept"
    with pytest.raises(DivergedError, match=said):
        train(config, tmp_path / "run", quiet=True)
    run = RunDirectory.open(tmp_path / "run")
    assert run.steps() == [256]
    assert evaluate(run, episodes=2)["step"] == 256
    *earlier, last = run.read_metrics()
    assert last == {"kind": "diverged", "step": 384, "agent": 1, "quantity": quantity}
    # The team was not evaluated after that.
    assert [r["step"] for r in earlier if r["kind"] == "eval"] == [0, 128, 256]
    with pytest.raises(DivergedError, match="step 384"):
        resume(run.path, quiet=True)  # the same bits again


def test_a_seed_that_diverges_leaves_the_others_to_train(small_demos, tmp_path, spoiled):
    spoiled("loss", seed=3)
    config = dm2_config(small_demos, steps=512, seed=3)
    with pytest.raises(DivergedError, match=r"seed_3: .*; there is no checkpoint;") as caught:
        train_seeds(dataclasses.replace(config, checkpoint_every=512), tmp_path, 2, quiet=True)
    assert "seed_4" not in str(caught.value)
    assert RunDirectory.open(tmp_path / "seed_4").steps() == [512]


def test_a_learning_rate_that_is_far_too_high_is_found_out(tmp_path):
    ppo = dataclasses.replace(TINY, learning_rate=1e25)
    with pytest.raises(DivergedError, match="lower learning rate"):
        train(Config(IPPO(ppo), ENV, steps=12800, **SMALL), tmp_path / "run", quiet=True)


def test_a_checkpoint_of_a_team_that_diverged_is_not_used(small_run, tmp_path):
    """Development versions trained on, and wrote such checkpoints."""
    copy = tmp_path / "run"
    shutil.copytree(small_run.path, copy)
    run = RunDirectory.open(copy)
    state, _ = run.load_checkpoint(Programs(run.config.program).shapes(), 512)
    scale = state.agents.scale._replace(first=jax.numpy.full(3, np.nan))
    agents = state.agents._replace(scale=scale)
    run.save_checkpoint(512, state._replace(agents=agents))
    problem = r"the team of step 512 diverged: agents/scale/first .*complete ones: 256"
    for use in (evaluate, record, lambda run: resume(run, 1024, quiet=True)):
        with pytest.raises(InputError, match=problem):
            use(copy)
    assert RunDirectory.open(copy).config.steps == 512
    assert evaluate(copy, at=256, episodes=2)["step"] == 256


def test_checkpoints_that_could_not_come_are_refused(small_demos, tmp_path):
    # The run of 300 steps goes to the end of its iteration, 384.
    config = dm2_config(small_demos, steps=300, checkpoint_steps=(384,))
    assert train(config, tmp_path / "run", quiet=True).steps() == [256, 384]
    beyond = dataclasses.replace(config, checkpoint_steps=(128, 385))
    with pytest.raises(InputError, match="checkpoint_steps = 385: the run ends at 384"):
        train(beyond, tmp_path / "other", quiet=True)
    assert not (tmp_path / "other").exists()


def test_side_by_side_an_error_is_the_error(small_demos, tmp_path):
    (tmp_path / "seed_1").mkdir()
    (tmp_path / "seed_1" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="seed_1"):
        train_seeds(dm2_config(small_demos, steps=256), tmp_path, 2, jobs=2, quiet=True)
    with pytest.raises(InputError, match="jobs = 0"):
        train_seeds(dm2_config(small_demos, steps=256), tmp_path, 2, jobs=0, quiet=True)


def test_an_interrupted_sweep_goes_on(small_demos, tmp_path):
    config = dm2_config(small_demos, steps=256, seed=3)
    train(config, tmp_path / "seed_3", quiet=True)
    made = (tmp_path / "seed_3" / "config.json").read_bytes()
    runs = train_seeds(config, tmp_path, 2, quiet=True)
    assert [run.steps()[-1] for run in runs] == [256, 256]
    assert (tmp_path / "seed_3" / "config.json").read_bytes() == made

    other = dataclasses.replace(config, steps=512)
    with pytest.raises(InputError, match="seed_3: holds a run with other settings"):
        train_seeds(dataclasses.replace(other, seed=2), tmp_path, 2, quiet=True)
    assert not (tmp_path / "seed_2").exists()


def test_more_steps_equal_a_longer_run(small_demos, tmp_path):
    whole = train(dm2_config(small_demos), tmp_path / "whole", quiet=True)
    part = train(dm2_config(small_demos, steps=512), tmp_path / "part", quiet=True)
    longer = resume(part.path, 1280, quiet=True)
    assert arrays_of(longer, 1280) == arrays_of(whole, 1280)
    # The shorter run also evaluated and saved at its own end, which here fell on a regular step.
    assert metrics_of(longer) == metrics_of(whole)


def start_process(arguments) -> Any:  # Popen's type does not know that `stderr` is there
    return subprocess.Popen(
        [sys.executable, "-m", "dm2", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
    )


def wait_for_metrics(process, path, lines):
    """Until the run has written so many lines, or has ended."""
    while process.poll() is None:
        if path.exists() and path.read_bytes().count(b"\n") >= lines:
            return
        time.sleep(0.01)


def interrupt(process):
    """Ctrl-C: training says how it goes on, and nothing of Python's."""
    process.send_signal(signal.SIGINT)
    assert process.wait() == 1
    message = process.stderr.read().decode()
    process.stderr.close()
    assert "dm2 resume" in message
    assert "Traceback" not in message


def test_killed_at_any_moment_a_run_resumes_to_the_same_bits(small_demos, tmp_path):
    steps = 6400
    whole = train(dm2_config(small_demos, steps), tmp_path / "whole", quiet=True)
    config = ["--env", ENV, "--demos", str(small_demos), "--steps", str(steps)]
    config += ["--num-envs", "8", "--rollout-steps", "16", "--eval-every", "256"]
    config += ["--eval-episodes", "4", "--checkpoint-every", "256", "--ppo.hidden", "8"]
    config += ["--ppo.epochs", "1", "--ppo.minibatches", "2", "--imitation.hidden", "8"]
    config += ["--imitation.updates", "2", "--imitation.batch", "16"]
    path = tmp_path / "killed"
    chance = random.Random(0)
    process = start_process(["train", "dm2", *config, "--out", str(path)])
    kills = 0
    for lines in (chance.randint(2, 12), chance.randint(20, 40), chance.randint(45, 65)):
        wait_for_metrics(process, path / "metrics.jsonl", lines)
        time.sleep(chance.uniform(0, 0.03))
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
        process.stderr.close()
        process = start_process(["resume", str(path)])
    assert process.wait() == 0, process.stderr.read()
    process.stderr.close()
    assert kills >= 2
    resumed = type(whole).open(path)
    assert resumed.steps() == whole.steps()
    for step in whole.steps():
        assert arrays_of(resumed, step) == arrays_of(whole, step)
    assert metrics_of(resumed) == metrics_of(whole)


@pytest.mark.learning  # for its time
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_side_by_side_processes_end_with_the_first(tmp_path, number):
    arguments = ["--env", ENV, "--steps", "1000000", "--num-envs", "8", "--rollout-steps", "16"]
    arguments += ["--ppo.hidden", "8", "--ppo.epochs", "1", "--ppo.minibatches", "2"]
    arguments += ["--seeds", "2", "--jobs", "2", "--out", str(tmp_path)]
    process = start_process(["train", "ippo", *arguments])
    runs = [tmp_path / f"seed_{seed}" for seed in (0, 1)]
    for path in runs:
        wait_for_metrics(process, path / "metrics.jsonl", 3)
    if number == signal.SIGINT:
        interrupt(process)
    else:
        process.send_signal(number)
        assert process.wait() == -number
        process.stderr.read()  # ends when all who could write are gone
        process.stderr.close()
    for path in map(RunDirectory.open, runs):
        with path.lock():
            assert path.steps()[-1] == path.read_metrics()[-1]["step"]


def test_a_process_that_is_killed_is_said_to_be(tmp_path):
    arguments = ["--env", ENV, "--steps", "1000000", "--num-envs", "8", "--rollout-steps", "16"]
    arguments += ["--ppo.hidden", "8", "--ppo.epochs", "1", "--ppo.minibatches", "2"]
    arguments += ["--seeds", "2", "--jobs", "2", "--out", str(tmp_path)]
    process = start_process(["train", "ippo", *arguments])
    for seed in (0, 1):
        path = tmp_path / f"seed_{seed}"
        wait_for_metrics(process, path / "metrics.jsonl", 1)
        os.kill(int((path / "lock").read_text()), signal.SIGKILL)  # as the kernel does
    assert process.wait() == 1
    message = process.stderr.read().decode()
    process.stderr.close()
    assert "dm2: failed: a training process ended with code -9; if it was memory, " in message
    assert "Traceback" not in message


@pytest.mark.parametrize("jobs", [1, 2])
def test_ctrl_c_before_anything_is_trained(tmp_path, jobs):
    """While programs are compiled, or processes are only beginning."""
    arguments = ["--env", "smax/3s5z", "--seeds", "2", "--jobs", str(jobs), "--out", str(tmp_path)]
    process = start_process(["train", "ippo", *arguments, "--ppo.hidden", "57"])
    lock = tmp_path / "seed_0" / "lock"
    while process.poll() is None and not lock.exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert process.wait() == 1
    message = process.stderr.read().decode()
    process.stderr.close()
    assert message.startswith("dm2: stopped")
    assert "; the same command " in message or "; go on: dm2 resume " in message
    assert message.count("\n") == 1


def test_ctrl_c_leaves_a_checkpoint_to_resume_from(small_demos, tmp_path):
    path = tmp_path / "run"
    arguments = ["--env", ENV, "--steps", "1000000", "--num-envs", "8", "--rollout-steps", "16"]
    arguments += ["--ppo.hidden", "8", "--ppo.epochs", "1", "--ppo.minibatches", "2"]
    process = start_process(["train", "ippo", *arguments, "--out", str(path)])
    wait_for_metrics(process, path / "metrics.jsonl", 3)
    interrupt(process)
    from dm2 import load

    run = load(path)
    assert run.steps()[-1] == run.read_metrics()[-1]["step"]


def test_evaluate_reports_every_episode(small_run):
    result = evaluate(small_run.path, episodes=7)
    assert result["episodes"] == 7
    assert result["step"] == 512
    assert 0 <= result["win_rate"] <= 1
    assert 0 < result["mean_length"] <= 12
    assert evaluate(small_run, at=200, episodes=2)["step"] == 256
    again = evaluate(small_run.path, episodes=7)
    assert again == result


def test_record_keeps_what_happened(small_run):
    demos = record(small_run, episodes=5)
    assert len(demos) == 3
    assert demos.provenance["training_step"] == 512
    for k in range(3):
        part = demos[k]
        assert part.num_episodes == 5
        assert part.lengths.max() <= 12
        assert part.actions is not None
        chosen = np.take_along_axis(part.legal, part.actions[:, None].astype(int), axis=1)
        assert chosen[part.alive].all()
    # Episodes are joint: the same lengths and outcomes for every agent.
    assert all((demos[k].offsets == demos[0].offsets).all() for k in range(3))


def test_a_run_in_use_is_refused(small_run):
    with pytest.raises(InputError, match="in use"):
        train(small_run.config, small_run.path, quiet=True)


def test_a_run_by_earlier_rules_is_played_with_a_warning_and_does_not_go_on(small_run, tmp_path):
    path = shutil.copytree(small_run.path, tmp_path / "run")
    config = path / "config.json"
    info = json.loads(config.read_bytes())
    assert info["environment"]["version"] == "smax 0.2.0"
    info["environment"]["version"] = "smax 0.1.0"
    config.write_text(json.dumps(info))
    changed = "by the rules of 'smax 0.1.0', these are 'smax 0.2.0'"
    with pytest.raises(InputError, match=changed + "; install what it began with .dm2 0"):
        resume(path, 1024, quiet=True)
    assert RunDirectory.open(path).config.steps == 512
    for play in (evaluate, record):
        with pytest.warns(RuntimeWarning, match=changed):
            play(path, episodes=4)
    # Of a run that does not hold which rules it had, nothing can be said.
    del info["environment"]
    config.write_text(json.dumps(info))
    assert resume(path, 1024, quiet=True).steps()[-1] == 1024


def test_a_run_whose_checkpoints_are_all_damaged_does_not_begin_again(small_run, tmp_path):
    path = shutil.copytree(small_run.path, tmp_path / "run")
    for file in path.glob("checkpoints/*/manifest.json"):
        os.truncate(file, 100)
    before = hashes(path)
    with pytest.raises(InputError, match=r"nothing to resume from: .* damaged"):
        resume(path, quiet=True)
    assert hashes(path) == before


def test_a_run_whose_checkpoints_are_gone_does_not_begin_again(small_run, tmp_path):
    path = shutil.copytree(small_run.path, tmp_path / "run")
    shutil.rmtree(path / "checkpoints")
    before = hashes(path)
    with pytest.raises(
        InputError, match=r"are gone, though it was trained to step 512; bring them"
    ):
        resume(path, quiet=True)
    assert hashes(path) == before
    # One that was killed before its first begins anew, and says so.
    RunDirectory.open(path).truncate_metrics(128)
    with pytest.warns(RuntimeWarning, match="has no checkpoint yet, so it begins anew"):
        again = resume(path, quiet=True)
    assert metrics_of(again) == metrics_of(small_run)


def test_damaged_metrics_are_told_before_a_resume_changes_anything(small_run, tmp_path):
    path = shutil.copytree(small_run.path, tmp_path / "run")
    lines = (path / "metrics.jsonl").read_text()
    (path / "metrics.jsonl").write_text('{"step": 0}\n' + lines)
    before = hashes(path)
    with pytest.raises(InputError, match=r"metrics.jsonl: line 1 is no record"):
        resume(path, 1024, quiet=True)
    assert hashes(path) == before


@pytest.mark.parametrize("where", ["_compile", "_loop"])
def test_what_fails_before_anything_is_trained_leaves_no_folder(tmp_path, monkeypatch, where):
    def too_large(*_: Any) -> None:
        raise RuntimeError("RESOURCE_EXHAUSTED")

    monkeypatch.setattr(loop, where, too_large)
    config = Config(IPPO(TINY), ENV, steps=256, **SMALL)
    (tmp_path / "empty").mkdir()
    for name, kept in (("new", where == "_loop"), ("empty", True)):
        with pytest.raises(RuntimeError, match="RESOURCE_EXHAUSTED"):
            train(config, tmp_path / name, quiet=True)
        assert (tmp_path / name).exists() == kept
        assert (tmp_path / name / "config.json").exists() == (where == "_loop")


def test_demonstrations_that_changed_are_refused(small_run, tmp_path):
    path = tmp_path / "team.safetensors"
    record(small_run, episodes=4).save(path)
    run = train(dm2_config(path, steps=256), tmp_path / "run", quiet=True)
    record(small_run, episodes=4, seed=1).save(path)
    with pytest.raises(InputError, match="contents changed"):
        resume(run.path, 512, quiet=True)


def test_a_resume_that_fails_changes_nothing(small_run, tmp_path):
    path = tmp_path / "team.safetensors"
    record(small_run, episodes=4).save(path)
    run = train(dm2_config(path, steps=256), tmp_path / "run", quiet=True)
    before = hashes(run.path)
    record(small_run, episodes=4, seed=1).save(path)
    with pytest.raises(InputError, match="contents changed"):
        resume(run.path, 512, quiet=True)
    with pytest.raises(InputError, match="steps = 128: the run already goes to 256"):
        resume(run.path, 128, quiet=True)
    path.unlink()
    with pytest.raises(InputError, match=r"no such file; if it was moved, .* --demos FILE"):
        resume(run.path, 512, quiet=True)
    assert hashes(run.path) == before


def test_demonstrations_are_found_from_anywhere_and_where_they_went(
    small_run, tmp_path, monkeypatch
):
    record(small_run, episodes=4).save(tmp_path / "team.safetensors")
    monkeypatch.chdir(tmp_path)
    config = dm2_config("team.safetensors", steps=256)
    run = train(config, "run", quiet=True)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    resume(tmp_path / "run", 384, quiet=True)

    moved = (tmp_path / "team.safetensors").rename(tmp_path / "elsewhere" / "moved.safetensors")
    resume(tmp_path / "run", 512, demos="moved.safetensors", quiet=True)
    again = RunDirectory.open(tmp_path / "run")
    assert again.config.demos == str(moved)
    assert again.config.steps == 512
    other = dm2_config(moved, steps=512)
    record(small_run, episodes=3).save(tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="contents changed"):
        resume(tmp_path / "run", 640, demos=tmp_path / "other.safetensors", quiet=True)
    whole = train(other, tmp_path / "whole", quiet=True)
    assert arrays_of(again, 512) == arrays_of(whole, 512)
    assert run.info["demonstrations"]["mean_return"] == pytest.approx(
        Demonstrations.load(moved).mean_return
    )


def test_a_sweep_knows_its_demonstrations_by_their_contents(small_run, tmp_path):
    paths = [tmp_path / name for name in ("one.safetensors", "two.safetensors")]
    for path in paths:
        record(small_run, episodes=4).save(path)
    train_seeds(dm2_config(paths[0], steps=128), tmp_path / "runs", 1, quiet=True)
    paths[0].unlink()
    runs = train_seeds(dm2_config(paths[1], steps=128), tmp_path / "runs", 2, quiet=True)
    assert [run.config.demos for run in runs] == [str(paths[1])] * 2
    record(small_run, episodes=5).save(paths[1])
    with pytest.raises(InputError, match="seed_0: holds a run with other settings"):
        train_seeds(dm2_config(paths[1], steps=128), tmp_path / "runs", 2, quiet=True)


def test_a_folder_in_use_is_found_before_any_seed_is_trained(small_demos, tmp_path):
    (tmp_path / "seed_1").mkdir()
    (tmp_path / "seed_1" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="seed_1: is in use"):
        train_seeds(dm2_config(small_demos, steps=128), tmp_path, 2, quiet=True)
    assert not (tmp_path / "seed_0").exists()


def test_demonstrations_of_another_task_are_refused_before_anything_is_written(
    small_demos, tmp_path
):
    config = dataclasses.replace(dm2_config(small_demos), env="smax/8m")
    with pytest.raises(InputError, match="smax/8m"):
        train(config, tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_a_full_disk_while_checkpointing_keeps_the_earlier_checkpoints(
    small_demos, tmp_path, monkeypatch
):
    from dm2 import files
    from dm2.run import checkpoint

    written = files.write_synced
    calls = []

    def fill_up(path, data):
        calls.append(path)
        if len(calls) > 6:
            raise OSError(28, "No space left on device")
        written(path, data)

    monkeypatch.setattr(files, "write_synced", fill_up)
    with pytest.raises(checkpoint.CheckpointError, match="No space left"):
        train(dm2_config(small_demos), tmp_path / "run", quiet=True)
    monkeypatch.undo()
    whole = train(dm2_config(small_demos), tmp_path / "whole", quiet=True)
    resumed = resume(tmp_path / "run", quiet=True)
    assert arrays_of(resumed, 1280) == arrays_of(whole, 1280)


def test_no_array_of_the_state_is_left_out_of_a_checkpoint(small_run):
    like = Programs(small_run.config.program).shapes()
    manifest = json.loads((small_run.checkpoint_path(512) / "manifest.json").read_text())
    assert len(jax.tree.leaves(like)) == len(manifest["leaves"])


def test_demonstrations_survive_the_disk(small_demos):
    assert Demonstrations.load(small_demos).provenance["environment"] == ENV
