"""What dm2 asks of its process, in processes of their own: JAX can be told only once."""

import gc
import json
import os
import subprocess
import sys

import pytest

from dm2.compilation import Program, compile_ahead, compiler_options

LOOK = """
import json, sys
{first}
import dm2
dm2.set_up_process()
import jax, jax.numpy as jnp
from dm2.run.process import CACHE_BYTES
init = jax.nn.initializers.orthogonal()
jax.block_until_ready(jax.jit(lambda k: [init(k, (n, 2 * n)) for n in range(8, 16)])(
    jax.random.PRNGKey(0)))
print(json.dumps([jax.config.jax_compilation_cache_dir, len(jax.devices()), CACHE_BYTES,
    jax.config.jax_compilation_cache_max_size]))
"""


def fresh(tmp_path, program, **environment):
    """What a process of its own prints, and its errors."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "TF_CPP", "XLA_"))}
    env = {**kept, "XDG_CACHE_HOME": str(tmp_path)} | environment
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    return done.stdout, done.stderr


def look(tmp_path, first="", **environment):
    """Cache folder, number of devices and the bound, as a fresh process sees them; its errors."""
    printed, errors = fresh(tmp_path, LOOK.format(first=first), **environment)
    return json.loads(printed.splitlines()[-1]), errors


def test_programs_are_kept_within_a_bound_and_loaded_in_silence(tmp_path):
    (folder, _, bound, asked), first = look(tmp_path)
    assert folder.startswith(str(tmp_path / "dm2"))
    assert asked == bound
    kept = sorted(os.listdir(folder))
    assert any(name.endswith("-cache") for name in kept)
    _, again = look(tmp_path)
    assert sorted(os.listdir(folder)) == kept
    assert first == again == ""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cores are chosen on Linux")
@pytest.mark.learning  # for its time
def test_two_devices_where_there_are_two_cores(tmp_path):
    cores = os.sched_getaffinity(0)
    assert look(tmp_path)[0][1] == min(2, len(cores))
    one = f"import os; os.sched_setaffinity(0, {{{min(cores)}}})"
    assert look(tmp_path, one)[0][1] == 1


ON_ONE_CORE = """
import os
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
import dm2
dm2.set_up_process()
from dm2.envs import make
from dm2.run.check import check_quickly
env = make("dm2.envs:SmacEnv?env=smac/3m")
for _ in range(12):  # with one thread it hangs by the third
    check_quickly(env)
"""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cores are chosen on Linux")
@pytest.mark.learning  # for its time
def test_environments_that_compute_by_jax_are_stepped_on_one_core():
    subprocess.run([sys.executable, "-c", ON_ONE_CORE], timeout=200, check=True)


def test_no_place_for_programs_is_no_error(tmp_path):
    (tmp_path / "file").touch()
    (folder, *_), errors = look(tmp_path, XDG_CACHE_HOME=str(tmp_path / "file"))
    assert folder is None
    assert errors == ""


def test_the_users_own_settings_go_first(tmp_path):
    mine = str(tmp_path / "mine")
    assert look(tmp_path, JAX_COMPILATION_CACHE_DIR=mine)[0][0] == mine
    # Too late to be silent: no cache. And too late for two devices, which is no error.
    late = "import jax; jax.devices()"
    (folder, devices, *_), _ = look(tmp_path, late)
    assert (folder, devices) == (None, 1)


FRESH = """
import os, sys
import dm2
dm2.set_up_process()
import jax, jax.numpy as jnp
from dm2.compilation import nothing_kept
def kept():
    return sum(name.endswith("-cache") for name in os.listdir(jax.config.jax_compilation_cache_dir))
def compiled(size):
    init = jax.nn.initializers.orthogonal()
    start = lambda k: [init(k, (n, 2 * n)) for n in range(size, size + 8)]
    jax.jit(start).lower(jax.random.PRNGKey(0)).compile()
    return kept()
print(compiled(8))
with nothing_kept():
    print(compiled(24))
print(compiled(40))
"""


def test_fresh_programs_leave_the_disk_alone(tmp_path):
    before, within, after = map(int, fresh(tmp_path, FRESH)[0].split())
    assert within == before > 0
    assert after > before


IMPORTING = """
import ctypes, json, os, pkgutil, importlib, sys
class Info(ctypes.Structure):
    _fields_ = [(n, ctypes.c_size_t) for n in (
        "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks",
        "fordblks", "keepcost")]
def mapped():
    # By default glibc maps a large block by itself; told to keep memory, it does not.
    libc = ctypes.CDLL(None)
    libc.mallinfo2.restype, libc.malloc.restype = Info, ctypes.c_void_p
    before = libc.mallinfo2().hblks
    libc.malloc(ctypes.c_size_t(64 * 2**20))
    return libc.mallinfo2().hblks - before
{imports}
import jax
settings = {{name: str(value) for name, value in jax.config.values.items()}}
level = os.environ.get("TF_CPP_MIN_LOG_LEVEL")
print(json.dumps([dict(os.environ), settings, mapped(), len(jax.devices()), level]))
"""

# PettingZoo sets variables for pygame, whoever imports it.
EVERYTHING = """
import dm2
for module in pkgutil.walk_packages(dm2.__path__, "dm2."):
    if not module.name.endswith(("__main__", "interfaces.pettingzoo")):
        importlib.import_module(module.name)
assert "dm2.methods.independent" in sys.modules
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc tells what it maps")
@pytest.mark.parametrize("imports", ["import dm2", EVERYTHING], ids=["dm2", "everything"])
def test_importing_changes_nothing_in_the_process(tmp_path, imports):
    """Environment, JAX's settings, allocator, devices, log level: as if only JAX were imported."""
    plain, _ = fresh(tmp_path, IMPORTING.format(imports=""))
    ours, _ = fresh(tmp_path, IMPORTING.format(imports=imports))
    assert json.loads(ours.splitlines()[-1]) == json.loads(plain.splitlines()[-1])
    # Asked to, all of it changes, so this test would notice.
    asked, _ = fresh(tmp_path, IMPORTING.format(imports="import dm2; dm2.set_up_process()"))
    pairs = zip(json.loads(asked.splitlines()[-1]), json.loads(plain.splitlines()[-1]), strict=True)
    several = len(os.sched_getaffinity(0)) > 1
    assert [a != b for a, b in pairs] == [True, True, True, several, True]


@pytest.mark.parametrize("collects", [True, False])
def test_the_collector_rests_only_while_compiling_ahead(collects):
    class Failing:
        def trace(self):
            states.append(gc.isenabled())
            raise KeyError

    was, states = gc.isenabled(), []
    try:
        (gc.enable if collects else gc.disable)()
        with pytest.raises(KeyError):
            compile_ahead([Program(Failing(), ())])
        states.append(gc.isenabled())
    finally:
        (gc.enable if was else gc.disable)()
    assert states == [False, collects]


@pytest.mark.parametrize("use", ["play", "learn", "once"])
def test_what_is_asked_of_xla_goes_first(monkeypatch, use):
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    level, fusion = "xla_backend_optimization_level", "xla_cpu_use_fusion_emitters"
    ours = {level: 0 if use == "once" else 1, fusion: use == "play"}
    assert compiler_options(use) == ours
    monkeypatch.setenv("XLA_FLAGS", f"--xla_dump_to=here --{level}=3")
    assert compiler_options(use) == {fusion: ours[fusion]}


def test_a_compilers_error_is_raised():
    class Broken:
        def trace(self):
            return self

        def lower(self):
            return self

        def compile(self):
            raise KeyError("no such instruction")

    with pytest.raises(KeyError, match="no such instruction"):
        compile_ahead([Program(Broken(), ())])
