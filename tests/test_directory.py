"""The run directory: one writer, nothing half written, clear refusals."""

import dataclasses
import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from dm2 import IPPO, PPO, Config
from dm2.errors import InputError
from dm2.files import check_target, replacing, write_atomically
from dm2.run.checkpoint import CheckpointError
from dm2.run.directory import RunDirectory, load
from dm2.version import __version__, source_commit

CONFIG = Config(IPPO(PPO(clip=0.1)), env="smax/3s_vs_4z", seed=4)
LONGER = dataclasses.replace(CONFIG, steps=2_000_000)


@pytest.fixture
def run(tmp_path) -> RunDirectory:
    return RunDirectory.create(tmp_path / "run", CONFIG, {"command": "dm2 train"})


def tree(value: float) -> dict:
    return {"agents": {"w": jnp.full(3, value)}, "key": np.full(2, value, np.uint32)}


def fill(run: RunDirectory, *steps: int, permanent: tuple[int, ...] = ()) -> None:
    for step in steps:
        run.save_checkpoint(step, tree(step), step in permanent)


def damage(run: RunDirectory, step: int) -> None:
    path = run.checkpoint_path(step) / "state.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"?")


def edit_config(run: RunDirectory, **values) -> None:
    path = run.path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def start_python(code: str, *arguments: object) -> subprocess.Popen:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def next_line(process: subprocess.Popen) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def kill(process: subprocess.Popen) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()


class TestConfig:
    def test_open_restores_what_create_wrote(self, run):
        opened = RunDirectory.open(run.path)
        assert opened.config == CONFIG
        assert opened.info == run.info
        assert opened.info["command"] == "dm2 train"
        assert opened.info["dm2_version"] == __version__
        assert {"format", "python", "jax", "commit", "created"} <= opened.info.keys()
        assert sorted(path.name for path in run.path.iterdir()) == ["config.json", "lock"]

    def test_used_directory_is_refused(self, run):
        before = (run.path / "config.json").read_bytes()
        with pytest.raises(InputError, match=r"run: is in use.*dm2 resume .*another --out"):
            RunDirectory.create(run.path, CONFIG, {})
        assert (run.path / "config.json").read_bytes() == before

    def test_foreign_directory_and_file_are_refused_and_untouched(self, tmp_path):
        (tmp_path / "note.txt").write_text("mine")
        with pytest.raises(InputError, match="in use; choose another --out"):
            RunDirectory.create(tmp_path, CONFIG, {})
        with pytest.raises(InputError, match=r"Not a directory; choose another --out"):
            RunDirectory.create(tmp_path / "note.txt", CONFIG, {})
        assert [path.name for path in tmp_path.iterdir()] == ["note.txt"]

    def test_path_that_cannot_be_made_is_the_users_error(self, tmp_path, monkeypatch):
        def refuse(*args, **kwargs):
            raise PermissionError(errno.EACCES, "Permission denied")

        monkeypatch.setattr(Path, "mkdir", refuse)
        with pytest.raises(InputError, match=r"Permission denied.*another --out"):
            RunDirectory.create(tmp_path / "run", CONFIG, {})

    def test_the_quicker_of_two_keeps_the_directory(self, tmp_path, monkeypatch):
        make = Path.mkdir

        def make_late(self, *args, **kwargs):
            make(self, *args, **kwargs)
            (self / "config.json").write_text("the other's")

        monkeypatch.setattr(Path, "mkdir", make_late)
        with pytest.raises(InputError, match="is in use"):
            RunDirectory.create(tmp_path / "run", CONFIG, {})
        assert (tmp_path / "run" / "config.json").read_text() == "the other's"

    def test_empty_directory_and_leftovers_of_a_killed_create_will_do(self, tmp_path):
        (tmp_path / "lock").touch()
        (tmp_path / ".tmp-1-config.json").write_text("{")
        RunDirectory.create(tmp_path, CONFIG, {})
        assert RunDirectory.open(tmp_path).config == CONFIG
        assert not (tmp_path / ".tmp-1-config.json").exists()

    def test_two_processes_write_a_file_each_wholly(self, tmp_path, monkeypatch):
        path = tmp_path / "file"
        with replacing(path) as temporary:
            temporary.write_text("ours")
            monkeypatch.setattr(os, "getpid", lambda: 1)
            write_atomically(check_target("out", path), b"theirs")
            assert path.read_text() == "theirs"
            monkeypatch.undo()
        assert path.read_text() == "ours" and list(tmp_path.iterdir()) == [path]

    def test_what_a_killed_process_had_written_goes_with_the_next_write(self, tmp_path):
        ended = subprocess.Popen([sys.executable, "-c", ""])
        ended.wait()
        dead, alive = f".tmp-{ended.pid}-file", f".tmp-{os.getppid()}-file"
        others = {alive, f".tmp-{ended.pid}-another", ".tmp-x-file", f".tmp-{10**30}-file"}
        for name in (dead, *others):
            (tmp_path / name).touch()
        write_atomically(tmp_path / "file", b"")
        assert {path.name for path in tmp_path.iterdir()} == {"file", *others}

    def test_not_a_run(self, tmp_path):
        with pytest.raises(InputError, match="path = '': must be a path"):
            load("")
        for path in (tmp_path, tmp_path / "absent"):
            with pytest.raises(InputError, match=r"not a run, it has no config.json"):
                RunDirectory.open(path)

    @pytest.mark.parametrize(
        "content", ["", "{", "[]", "7", '{"format": 1}', "\xff", "[" * 100_000]
    )
    def test_unreadable_config(self, run, content):
        (run.path / "config.json").write_bytes(content.encode("latin1"))
        with pytest.raises(InputError, match=r"config.json: not a run's configuration"):
            RunDirectory.open(run.path)

    @pytest.mark.parametrize("name", ["environment", "demonstrations"])
    def test_what_a_run_was_made_with_is_a_mapping_or_nothing(self, run, name):
        for value in ([1], "x", 7):
            edit_config(run, **{name: value})
            with pytest.raises(InputError, match=r"config.json: not a run's configuration"):
                RunDirectory.open(run.path)
        edit_config(run, **{name: None})
        assert RunDirectory.open(run.path).changed_rules("1") is None

    @pytest.mark.parametrize("name", ["env", "steps", "seed"])
    def test_a_setting_that_decides_the_run_is_not_made_up(self, run, name):
        edit_config(run, config={k: v for k, v in CONFIG.to_dict().items() if k != name})
        with pytest.raises(InputError, match=f"config.json: config has no {name}; restore"):
            RunDirectory.open(run.path)

    def test_bad_setting_names_the_file(self, run):
        edit_config(run, config={**CONFIG.to_dict(), "seed": -1})
        with pytest.raises(InputError, match=r"config.json: seed = -1"):
            RunDirectory.open(run.path)

    def test_other_versions(self, run):
        major, minor, _ = __version__.split(".")
        edit_config(run, dm2_version=f"{major}.{minor}.99")
        assert RunDirectory.open(run.path).config == CONFIG
        newer = f"{major}.{int(minor) + 1}.0"
        edit_config(run, dm2_version=newer)
        with pytest.raises(InputError, match=f"made by dm2 {newer}, this is {__version__}; instal"):
            RunDirectory.open(run.path)
        edit_config(run, format=2)
        with pytest.raises(
            InputError, match=r"config.json: format = 2, must be 1; install the dm2"
        ):
            RunDirectory.open(run.path)

    def test_update(self, run):
        run.update(LONGER)
        assert run.config.steps == 2_000_000
        opened = RunDirectory.open(run.path)
        assert opened.config == run.config
        assert opened.info["command"] == "dm2 train"

    def test_full_disk_while_updating_keeps_the_old_config(self, run, monkeypatch):
        def full(descriptor):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(CheckpointError, match=r"config.json.*No space left"):
            run.update(LONGER)
        assert run.config == RunDirectory.open(run.path).config == CONFIG
        assert sorted(path.name for path in run.path.iterdir()) == ["config.json", "lock"]

    def test_commit_is_that_of_the_tree_which_tracks_the_source(self, tmp_path):
        def git(*arguments: str) -> str:
            identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
            command = ["git", "-C", str(tmp_path), *identity, *arguments]
            return subprocess.run(command, capture_output=True, check=True, text=True).stdout

        source = tmp_path / "version.py"
        source.write_text("1")
        assert source_commit(source) is None
        git("init")
        assert source_commit(source) is None
        (tmp_path / "other.txt").touch()
        git("add", "other.txt")
        git("commit", "-m", "somebody else's")
        assert source_commit(source) is None
        git("add", ".")
        git("commit", "-m", "ours")
        git("tag", "-a", "v1", "-m", "v1")
        assert source_commit(source) == git("rev-parse", "HEAD").strip()
        source.write_text("2")
        assert source_commit(source) == git("rev-parse", "HEAD").strip() + "-dirty"


HOLD = """
import sys, time
from dm2.run.directory import RunDirectory, load
with RunDirectory.open(sys.argv[1]).lock():
    print("held", flush=True)
    time.sleep(60)
"""


class TestLock:
    def test_second_process_is_refused_until_the_first_is_killed(self, run):
        holder = start_python(HOLD, run.path)
        try:
            assert next_line(holder) == "held\n"
            refused = pytest.raises(InputError, match=f"process {holder.pid} is training here")
            with refused, run.lock():
                pytest.fail("two processes hold the lock")
        finally:
            kill(holder)
        with run.lock():
            assert (run.path / "lock").read_text() == str(os.getpid())

    def test_released_after_an_exception(self, run):
        with pytest.raises(KeyboardInterrupt), run.lock():
            raise KeyboardInterrupt
        with run.lock():
            pass


class TestMetrics:
    def test_records_come_back_with_nan_as_null(self, run):
        assert run.read_metrics() == []
        run.append({"kind": "x", "step": np.int64(1), "loss": float("nan"), "each": [1.5, -np.inf]})
        run.append(
            {"kind": "x", "step": 2, "loss": jnp.float32(np.inf), "per_agent": np.array([1, 2])}
        )
        assert run.read_metrics() == [
            {"kind": "x", "step": 1, "loss": None, "each": [1.5, None]},
            {"kind": "x", "step": 2, "loss": None, "per_agent": [1, 2]},
        ]
        assert "NaN" not in (run.path / "metrics.jsonl").read_text()

    @pytest.mark.parametrize(
        "record",
        [
            {},
            {"kind": "x"},
            {"step": 1},
            *({"kind": "x", "step": step} for step in (1.5, None, True, -1, 2**63)),
        ],
    )
    def test_record_without_whole_step_is_refused(self, run, record):
        with pytest.raises(ValueError, match="whole 'step'"):
            run.append(record)
        assert run.read_metrics() == []

    @pytest.mark.parametrize(
        "torn", [b"{", b'{"kind": "x", "step": 3, "x": 1', b'{"kind": "x", "step": 3}', b"\x00" * 9]
    )
    def test_torn_last_line_is_left_out_and_cut_off(self, run, torn):
        run.append({"kind": "x", "step": 1})
        with (run.path / "metrics.jsonl").open("ab") as file:
            file.write(torn)
        assert run.read_metrics() == [{"kind": "x", "step": 1}]
        run.append({"kind": "x", "step": 2})
        assert run.read_metrics() == [{"kind": "x", "step": 1}, {"kind": "x", "step": 2}]

    def test_torn_only_line(self, run):
        (run.path / "metrics.jsonl").write_bytes(b'{"ste')
        run.append({"kind": "x", "step": 2})
        assert run.read_metrics() == [{"kind": "x", "step": 2}]

    @pytest.mark.parametrize("line", ["{oops", "7", '{"loss": 1}', '{"step": 1}', "[" * 100_000])
    def test_bad_line_in_the_middle_is_named(self, run, line):
        (run.path / "metrics.jsonl").write_text(
            f'{{"kind": "x", "step": 1}}\n{line}\n{{"kind": "x", "step": 2}}\n'
        )
        with pytest.raises(InputError, match=r"metrics.jsonl: line 2 is no record"):
            run.read_metrics()

    def test_truncate(self, run):
        for step in (10, 20, 20, 30):
            run.append({"kind": "x", "step": step, "x": 0.1})
        before = (run.path / "metrics.jsonl").read_bytes()
        with (run.path / "metrics.jsonl").open("ab") as file:
            file.write(b'{"kind": "x", "step": 15')
        run.truncate_metrics(20)
        assert [record["step"] for record in run.read_metrics()] == [10, 20, 20]
        assert before.startswith((run.path / "metrics.jsonl").read_bytes())
        run.truncate_metrics(0)
        assert run.read_metrics() == []

    def test_full_disk_while_truncating_keeps_all(self, run, monkeypatch):
        run.append({"kind": "x", "step": 1})

        def full(descriptor):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(CheckpointError, match=r"metrics.jsonl.*No space left"):
            run.truncate_metrics(0)
        assert run.read_metrics() == [{"kind": "x", "step": 1}]


class TestCheckpoints:
    def test_newest_by_default_or_the_one_asked_for(self, run):
        fill(run, 9, 100, 20)
        assert run.steps() == [9, 20, 100]
        assert run.checkpoint_path(9).name == "000000000009"
        newest, extra = run.load_checkpoint(tree(0))
        assert newest["agents"]["w"].tolist() == [100] * 3
        assert extra == {"step": 100, "permanent": False}
        assert run.load_checkpoint(tree(0), step=20)[1]["step"] == 20
        agents, _ = run.load_checkpoint(tree(0)["agents"], step=9, prefix="agents")
        assert agents["w"].tolist() == [9] * 3

    def test_metrics_reach_the_disk_before_the_checkpoint(self, run, monkeypatch):
        synced, sync = [], os.fsync

        def logged_sync(descriptor):
            synced.append(os.fstat(descriptor).st_ino)
            sync(descriptor)

        run.append({"kind": "x", "step": 10})
        monkeypatch.setattr(os, "fsync", logged_sync)
        fill(run, 10)
        state = run.checkpoint_path(10) / "state.safetensors"
        assert synced[:2] == [(run.path / "metrics.jsonl").stat().st_ino, state.stat().st_ino]

    def test_absent_step_lists_the_others(self, run):
        with pytest.raises(InputError, match="no checkpoint yet"):
            run.load_checkpoint(tree(0))
        fill(run, 10, 20)
        with pytest.raises(InputError, match="no checkpoint of step 15; choose one of 10, 20"):
            run.load_checkpoint(tree(0), step=15)

    def test_prune_spares_the_newest_and_the_permanent(self, run):
        fill(run, 10, 20, 30, 40, 50, permanent=(20,))
        run.prune(2)
        assert run.steps() == [20, 40, 50]
        for keep in (4, 9):
            run.prune(keep)
            assert run.steps() == [20, 40, 50]
        names = sorted(path.name for path in (run.path / "checkpoints").iterdir())
        assert names == ["000000000020", "000000000040", "000000000050"]

    def test_save_sweeps_what_a_killed_process_left(self, run):
        fill(run, 10)
        stale = run.path / "checkpoints" / ".tmp-000000000020-999"
        stale.mkdir()
        (stale / "state.safetensors").write_text("half")
        fill(run, 30)
        assert not stale.exists()
        assert run.steps() == [10, 30]

    def test_damaged_newest_is_refused_with_a_remedy(self, run):
        fill(run, 10, 20)
        damage(run, 20)
        with pytest.raises(InputError, match=r"000020.*earlier checkpoint \(complete ones: 10\)"):
            run.load_checkpoint(tree(0))
        os.truncate(run.checkpoint_path(20) / "state.safetensors", 5)
        assert run.steps() == [10]
        with pytest.raises(InputError, match="5 of"):
            run.load_checkpoint(tree(0))

    def test_resume_falls_back_and_the_damaged_one_counts_no_more(self, run):
        fill(run, 10, 20, 30)
        damage(run, 20)
        (run.checkpoint_path(30) / "manifest.json").unlink()
        with pytest.warns(RuntimeWarning, match=r"0000(20|30).*resuming at step 10") as warned:
            restored, extra = run.load_newest_valid(tree(0))
        assert len(warned) == 2
        assert extra["step"] == 10 and restored["key"].tolist() == [10, 10]
        fill(run, 20)
        run.prune(1)
        assert run.steps() == [20]
        assert (run.path / "checkpoints" / "000000000030.damaged").is_dir()
        assert run.load_newest_valid(tree(0))[1]["step"] == 20

    def test_resume_finds_one_that_was_being_replaced(self, run):
        fill(run, 10, 20)
        newest = run.checkpoint_path(20)
        newest.rename(newest.with_name(".old-" + newest.name))
        assert run.load_newest_valid(tree(0))[1]["step"] == 20
        assert run.steps() == [10, 20]

    def test_nothing_left_to_resume_from(self, run):
        with pytest.raises(InputError, match="nothing to resume from: has no checkpoint yet"):
            run.load_newest_valid(tree(0))
        fill(run, 10)
        damage(run, 10)
        with pytest.raises(InputError, match=r"nothing to resume from.*000010.*damaged"):
            run.load_newest_valid(tree(0))
        assert run.checkpoint_path(10).exists()

    def test_other_settings_are_not_taken_for_damage(self, run):
        fill(run, 10, 20)
        with pytest.raises(InputError, match="other settings") as caught:
            run.load_newest_valid({"agents": {"w": jnp.zeros(4)}})
        assert "000000000020" in str(caught.value) and "nothing to resume" not in str(caught.value)
        assert run.steps() == [10, 20]

    def test_full_disk_keeps_the_earlier_ones(self, run, monkeypatch):
        fill(run, 10, 20)

        def full(descriptor):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(CheckpointError, match=r"000030: .*No space left.*intact.*dm2 resume"):
            fill(run, 30)
        names = sorted(path.name for path in (run.path / "checkpoints").iterdir())
        assert names == ["000000000010", "000000000020"]
        assert run.load_checkpoint(tree(0))[1]["step"] == 20


SAVE_FOR_EVER = """
import itertools, sys
import numpy as np
from dm2.run.directory import RunDirectory, load
run = RunDirectory.open(sys.argv[1])
with run.lock():
    for step in itertools.count(int(sys.argv[2])):
        run.append({"kind": "x", "step": step})
        run.save_checkpoint(step, {"x": np.full(500_000, step)})
        run.prune(2)
        print(step, flush=True)
"""


def test_kill_in_the_middle_of_saving(run):
    like, step = {"x": np.zeros(500_000, np.int64)}, 1
    for pause in (0.0, 0.003):
        trainer = start_python(SAVE_FOR_EVER, run.path, step)
        announced = [int(next_line(trainer)) for _ in range(3)][-1]
        time.sleep(pause)
        kill(trainer)
        with run.lock():
            restored, extra = run.load_newest_valid(like)
            assert extra["step"] >= announced
            assert (restored["x"] == extra["step"]).all()
            assert run.load_checkpoint(like, step=extra["step"] - 1)[1]["step"] < extra["step"]
            run.truncate_metrics(extra["step"])
            assert run.read_metrics()[-1] == {"kind": "x", "step": extra["step"]}
        step = extra["step"] + 1
    with run.lock():
        run.save_checkpoint(step, like)
    assert not list((run.path / "checkpoints").glob(".*"))
