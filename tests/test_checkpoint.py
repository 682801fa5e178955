"""Checkpoints: identical bits back, and damage or a full disk never goes unnoticed."""

import errno
import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dm2.errors import InputError
from dm2.run import checkpoint
from dm2.run.checkpoint import CheckpointError, DamagedCheckpoint


class Pair(NamedTuple):
    left: object
    right: object


@flax.struct.dataclass
class State:
    params: dict
    key: jax.Array
    name: str = flax.struct.field(pytree_node=False, default="static")


def bits(leaf) -> tuple[bytes, np.dtype, tuple]:
    array = np.asarray(leaf)
    return array.tobytes(), array.dtype, array.shape


def assert_identical(restored, original) -> None:
    assert jax.tree.structure(restored) == jax.tree.structure(original)
    for back, leaf in zip(jax.tree.leaves(restored), jax.tree.leaves(original), strict=True):
        assert bits(back) == bits(leaf)


def example_tree() -> dict:
    payload_nans = np.array([0x7FC00001, 0xFFC12345, 0x7F800001, 0x80000000], np.uint32)
    params = {"kernel": jnp.arange(6.0).reshape(2, 3), "bias": jnp.zeros(3, jnp.bfloat16)}
    return {
        "agents": Pair(
            State(params, jax.random.PRNGKey(7)),
            optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3)).init(params),
        ),
        "agents_other": jnp.ones(2, jnp.int32),
        "nans": payload_nans.view(np.float32),
        "half": jnp.asarray([1.5, jnp.nan, -0.0], jnp.bfloat16),
        "transposed": np.arange(6.0).reshape(2, 3).T,
        "empty": [np.zeros((0, 4), np.float16), jnp.zeros((2, 0), bool)],
        "scalars": (np.float64(np.pi), jnp.uint32(2**32 - 1), np.bool_(True)),
        "numbers": [True, 2**40, 0.1],
        "small": (np.array([-128], np.int8), np.array([65535], np.uint16), np.array([2j], "c8")),
        "none": None,
    }


@pytest.fixture
def saved(tmp_path) -> Path:
    directory = tmp_path / "saved"
    checkpoint.save(directory, example_tree(), {"step": 3})
    return directory


def test_round_trip_is_bit_identical(saved):
    tree = example_tree()
    restored, extra = checkpoint.load(saved, tree)
    assert_identical(restored, tree)
    assert extra == {"step": 3}
    assert isinstance(restored["half"], jax.Array)
    assert type(restored["nans"]) is np.ndarray
    assert [type(number) for number in restored["numbers"]] == [bool, int, float]
    assert restored["numbers"] == [True, 2**40, 0.1]


def test_extra_comes_back_exactly(tmp_path):
    extra = {"b": [1, None, "ä"], "a": 0.1 + 0.2, "steps": {10: 1, 9: 2}}
    checkpoint.save(tmp_path / "c", {"x": np.zeros(1)}, extra)
    _, back = checkpoint.load(tmp_path / "c", {"x": np.zeros(1)})
    assert back == {**extra, "steps": {"10": 1, "9": 2}}


def test_structure_alone_is_enough(saved):
    tree = {name: leaf for name, leaf in example_tree().items() if name != "numbers"}
    tree["numbers"] = [np.zeros((), d) for d in (bool, np.int64, np.float64)]
    like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)
    restored, _ = checkpoint.load(saved, like)
    assert_identical(restored["agents"], tree["agents"])
    # Without x64 jax has no 64-bit numbers: those come back as numpy arrays, not shortened.
    assert bits(restored["numbers"][1]) == bits(np.int64(2**40))
    assert bits(restored["scalars"][0]) == bits(np.float64(np.pi))


def test_one_array_is_a_tree(tmp_path):
    checkpoint.save(tmp_path / "c", jnp.arange(3), {})
    assert_identical(checkpoint.load(tmp_path / "c", jnp.zeros(3, int))[0], jnp.arange(3))


def test_prefix_reads_part(saved):
    agents = example_tree()["agents"]
    assert_identical(checkpoint.load(saved, agents, prefix="agents")[0], agents)
    params = agents.left.params
    assert_identical(checkpoint.load(saved, params, prefix="agents/left/params")[0], params)
    other, _ = checkpoint.load(saved, jnp.zeros(2, jnp.int32), prefix="agents_other")
    assert bits(other) == bits(jnp.ones(2, jnp.int32))


def test_manifest_describes_the_leaves(saved):
    manifest = json.loads((saved / "manifest.json").read_text())
    assert manifest["format"] == 1
    assert manifest["leaves"]["agents/left/params/bias"] == {"shape": [3], "dtype": "bfloat16"}
    assert manifest["state"]["bytes"] == (saved / "state.safetensors").stat().st_size
    assert sorted(path.name for path in saved.iterdir()) == ["manifest.json", "state.safetensors"]


def test_saving_again_replaces(saved):
    checkpoint.save(saved, {"x": np.ones(2)}, {"step": 4})
    restored, extra = checkpoint.load(saved, {"x": np.zeros(2)})
    assert extra == {"step": 4} and restored["x"].tolist() == [1, 1]
    assert [path.name for path in saved.parent.iterdir()] == ["saved"]


@pytest.mark.parametrize("name", ["state.safetensors", "manifest.json"])
def test_any_altered_byte_is_noticed(saved, name):
    path = saved / name
    good = path.read_bytes()
    for position in np.linspace(0, len(good) - 1, 97).astype(int):
        path.write_bytes(good[:position] + bytes([good[position] ^ 1]) + good[position + 1 :])
        try:
            restored, extra = checkpoint.load(saved, example_tree())
        except DamagedCheckpoint as error:
            assert str(path) in str(error) and "earlier checkpoint" in str(error)
        else:  # only white space between JSON tokens may change unnoticed
            assert name == "manifest.json" and good[position : position + 1].isspace()
            assert_identical(restored, example_tree())
            assert extra == {"step": 3}


@pytest.mark.parametrize("name", ["state.safetensors", "manifest.json"])
@pytest.mark.parametrize("length", [0, 1, 0.5, -1, None])
def test_short_and_missing_files_are_noticed(saved, name, length):
    path = saved / name
    if length is None:
        path.unlink()
    else:
        size = path.stat().st_size
        os.truncate(path, int(size * length) if length == 0.5 else length % size)
    with pytest.raises(DamagedCheckpoint, match=f"{path}.*earlier checkpoint"):
        checkpoint.load(saved, example_tree())
    if name == "state.safetensors" or length is None:
        assert not checkpoint.is_complete(saved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": np.zeros((3, 2), np.float32)}, r"x is float32\[2, 3\], expected float32\[3, 2\]"),
        ({"x": np.zeros((2, 3), np.float16)}, r"x is float32\[2, 3\], expected float16\[2, 3\]"),
        ({"x": np.zeros((2, 3), np.int32)}, r"x is float32\[2, 3\], expected int32\[2, 3\]"),
        ({"z": np.zeros(1)}, "z is missing"),
        ({"y": None}, "y is not expected"),
    ],
)
def test_other_settings_are_named(tmp_path, change, message):
    tree = {"x": np.zeros((2, 3), np.float32), "y": np.zeros(1)}
    checkpoint.save(tmp_path / "c", tree, {})
    with pytest.raises(InputError, match=f"{tmp_path / 'c'}.*{message}.*other settings") as caught:
        checkpoint.load(tmp_path / "c", {**tree, **change})
    assert not isinstance(caught.value, DamagedCheckpoint)


def test_newer_format_is_refused(saved, monkeypatch):
    monkeypatch.setattr(checkpoint, "FORMAT", 2)
    checkpoint.save(saved, {}, {})
    monkeypatch.undo()
    with pytest.raises(InputError, match="format 2") as caught:
        checkpoint.load(saved, {})
    assert not isinstance(caught.value, DamagedCheckpoint)


@pytest.mark.parametrize(
    ("tree", "error"),
    [
        ({"x": "text"}, TypeError),
        ({"x": np.zeros(1, object)}, TypeError),
        ({"x": np.zeros(1, np.complex128)}, TypeError),
        ({"x": jax.random.key(0)}, TypeError),
        ({"a/b": 1, "a": {"b": 2}}, ValueError),
    ],
)
def test_what_cannot_be_stored_is_refused_before_writing(tmp_path, tree, error):
    with pytest.raises(error):
        checkpoint.save(tmp_path / "c", tree, {})
    assert list(tmp_path.iterdir()) == []


def fail_after(monkeypatch, module, name: str, calls: int) -> None:
    """From its call number `calls` on, `module.name` fails as on a full disk."""
    real, count = getattr(module, name), iter(range(10**6))

    def failing(*args, **kwargs):
        if next(count) >= calls:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(*args, **kwargs)

    monkeypatch.setattr(module, name, failing)


@pytest.mark.parametrize("calls", range(3))
@pytest.mark.parametrize("existing", [False, True])
def test_full_disk_leaves_what_was_there(saved, monkeypatch, calls, existing):
    target = saved if existing else saved.with_name("new")
    fail_after(monkeypatch, os, "fsync", calls)
    with pytest.raises(CheckpointError, match=f"{target}.*No space left.*intact"):
        checkpoint.save(target, {"x": np.ones(9)}, {})
    monkeypatch.undo()
    assert [path.name for path in saved.parent.iterdir()] == ["saved"]
    assert_identical(checkpoint.load(saved, example_tree())[0], example_tree())


def test_failing_rename_puts_the_old_one_back(saved, monkeypatch):
    real = Path.rename

    def failing(self, target):
        if self.name.startswith(".tmp-"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(CheckpointError, match="Input/output error"):
        checkpoint.save(saved, {"x": np.ones(9)}, {})
    monkeypatch.undo()
    assert [path.name for path in saved.parent.iterdir()] == ["saved"]
    assert_identical(checkpoint.load(saved, example_tree())[0], example_tree())


def test_write_that_stops_half_way(saved):
    """A real one, by the limit on a file's size: the kernel writes a part and then refuses."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        with pytest.raises(CheckpointError, match="File too large"):
            checkpoint.save(saved.with_name("new"), {"x": np.zeros(2 << 20, np.uint8)}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in saved.parent.iterdir()] == ["saved"]


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="reads open files from /proc")
def test_all_is_on_disk_before_the_name_and_the_name_before_the_return(tmp_path, monkeypatch):
    events, sync, rename = [], os.fsync, Path.rename

    def logged_sync(descriptor):
        events.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        sync(descriptor)

    def logged_rename(self, target):
        events.append(f"{self.name} -> {target.name}")
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", logged_sync)
    monkeypatch.setattr(Path, "rename", logged_rename)
    checkpoint.save(tmp_path / "parent" / "c", {"x": np.ones(3)}, {})
    temporary = f".tmp-c-{os.getpid()}"
    files = ["state.safetensors", "manifest.json"]
    assert events == [*files, temporary, f"{temporary} -> c", "parent"]


def test_leftover_of_a_killed_process_with_the_same_id(tmp_path):
    stale = tmp_path / f".tmp-c-{os.getpid()}"
    stale.mkdir()
    (stale / "state.safetensors").write_text("half")
    checkpoint.save(tmp_path / "c", {"x": np.ones(3)}, {})
    assert checkpoint.load(tmp_path / "c", {"x": np.ones(3)})[0]["x"].tolist() == [1, 1, 1]
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


def test_unreadable_is_not_taken_for_damage(saved):
    (saved / "state.safetensors").unlink()
    (saved / "state.safetensors").mkdir()
    with pytest.raises(InputError, match=r"state.safetensors: cannot be read: Is a dir") as caught:
        checkpoint.load(saved, example_tree())
    assert not isinstance(caught.value, DamagedCheckpoint)


KILL_AT_EVERY_CALL = """
import os, signal, sys, warnings
from pathlib import Path
import numpy as np
from dm2.run import checkpoint
warnings.simplefilter("ignore")
old, new = {"x": np.zeros(5)}, {"x": np.ones(5)}

def save_and_die(parent, calls):
    left = [calls]
    def deadly(real):
        def call(*args, **kwargs):
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= 1
            return real(*args, **kwargs)
        return call
    for module, name in ((os, "fsync"), (os, "mkdir"), (os, "rename"), (os, "rmdir")):
        setattr(module, name, deadly(getattr(module, name)))
    checkpoint.save(parent / "5", new, {"step": 1})
    os._exit(0)

for calls in range(100):
    parent = Path(sys.argv[1]) / str(calls)
    checkpoint.save(parent / "4", old, {})
    checkpoint.save(parent / "5", old, {"step": 0})
    child = os.fork()
    if not child:
        save_and_die(parent, calls)
    died = os.waitpid(child, 0)[1] != 0
    checkpoint.clear_leftovers(parent)
    assert sorted(p.name for p in parent.iterdir()) == ["4", "5"], list(parent.iterdir())
    checkpoint.load(parent / "4", old)
    tree, extra = checkpoint.load(parent / "5", old)
    assert (tree["x"] == extra["step"]).all()
    print(extra["step"], end="")
    if not died:
        break
"""


def test_killed_at_any_call_leaves_old_or_new(tmp_path):
    command = [sys.executable, "-c", KILL_AT_EVERY_CALL, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    # Killed before it is in place: the old one. From then on: the new one.
    assert done.stdout == "0" * done.stdout.count("0") + "1" * done.stdout.count("1")
    assert done.stdout.count("0") >= 5 and done.stdout.count("1") >= 2


def test_sweep_leaves_checkpoints_alone(saved):
    shutil.copytree(saved, saved.with_name(".tmp-x-1"))
    checkpoint.clear_leftovers(saved.parent)
    assert [path.name for path in saved.parent.iterdir()] == ["saved"]
    checkpoint.clear_leftovers(saved.parent / "absent")
