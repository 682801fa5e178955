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

from conftest import SMALL
from dm2 import (
    DM2,
    IPPO,
    PPO,
    Config,
    Demonstrations,
    Imitation,
    InputError,
    evaluate,
    record,
    train,
)
from dm2.demos.experts import load_experts
from dm2.methods.independent import Independent
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
    seed, experts = jax.numpy.uint32(0), load_experts(Demonstrations.load(small_demos), 12)
    state = jax.tree.map(np.asarray, programs.init(seed))  # as a checkpoint gives it
    for _ in range(3):
        state, _ = programs.iterate(state, seed, experts)
        programs.evaluate(state.agents, seed, jax.numpy.int32(0), 4)
    method = programs.method
    assert isinstance(method, Independent)
    compiled: list[Any] = [programs.collect, programs.evaluate, method.prepare]
    compiled += [method.improve_actor, method.improve_critic]
    assert [program._cache_size() for program in compiled] == [1] * 5


def test_compiled_ahead_is_what_a_run_needs(small_demos):
    programs = Programs(dm2_config(small_demos).program)
    seed, experts = jax.numpy.uint32(0), load_experts(Demonstrations.load(small_demos), 12)
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
        programs.evaluate(state.agents, seed, jax.numpy.int32(0), 4)
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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_side_by_side_processes_end_with_the_first(tmp_path, number):
    arguments = ["--env", ENV, "--steps", "1000000", "--num-envs", "8", "--rollout-steps", "16"]
    arguments += ["--ppo.hidden", "8", "--ppo.epochs", "1", "--ppo.minibatches", "2"]
    arguments += ["--seeds", "2", "--jobs", "2", "--out", str(tmp_path)]
    process = start_process(["train", "ippo", *arguments])
    runs = [tmp_path / f"seed_{seed}" for seed in (0, 1)]
    for path in runs:
        wait_for_metrics(process, path / "metrics.jsonl", 3)
    process.send_signal(number)
    if number == signal.SIGINT:
        assert process.wait() == 1
        message = process.stderr.read().decode()
        assert "dm2 resume" in message
        assert "Traceback" not in message
    else:
        assert process.wait() == -number
        process.stderr.read()  # ends when all who could write are gone
    process.stderr.close()
    for path in map(RunDirectory.open, runs):
        with path.lock():
            assert path.steps()[-1] == path.read_metrics()[-1]["step"]


def test_ctrl_c_leaves_a_checkpoint_to_resume_from(small_demos, tmp_path):
    path = tmp_path / "run"
    arguments = ["--env", ENV, "--steps", "1000000", "--num-envs", "8", "--rollout-steps", "16"]
    arguments += ["--ppo.hidden", "8", "--ppo.epochs", "1", "--ppo.minibatches", "2"]
    process = start_process(["train", "ippo", *arguments, "--out", str(path)])
    wait_for_metrics(process, path / "metrics.jsonl", 3)
    process.send_signal(signal.SIGINT)
    assert process.wait() == 1
    message = process.stderr.read().decode()
    process.stderr.close()
    assert "dm2 resume" in message
    assert "Traceback" not in message
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


def test_demonstrations_that_changed_are_refused(small_run, tmp_path):
    path = tmp_path / "team.safetensors"
    record(small_run, episodes=4).save(path)
    run = train(dm2_config(path, steps=256), tmp_path / "run", quiet=True)
    record(small_run, episodes=4, seed=1).save(path)
    with pytest.raises(InputError, match="contents changed"):
        resume(run.path, 512, quiet=True)


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
