"""What dm2 asks of the process it runs in, before JAX starts computing: two CPU devices, memory
that is kept, and programs that are kept on disk."""

import contextlib
import ctypes
import gc
import hashlib
import os
import platform
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import jax
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import SingleDeviceSharding

from dm2 import JAX_CAME_FIRST

__all__ = ["Ahead", "Now", "compiler_options", "nothing_kept", "prepare"]

_JAX: Any = jax.config  # its settings are attributes that no stub knows

CACHE_BYTES = 512 * 2**20
"""Most that compiled programs take on disk; the least recently used go first."""

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4


def prepare() -> None:
    """Called when `dm2.trainer` is imported; harmless when called again, or too late."""
    _keep_memory()
    _two_devices()
    _keep_programs()


def compiler_options(use: Literal["play", "learn", "once"]) -> dict[str, Any] | None:
    """How hard XLA works on a program for a CPU, measured (docs/performance.md).

    At LLVM's level 1 programs compile in three quarters of the time and run as fast as at its
    default; at 0, for what runs once, in less than half. Without the newer generator of fused
    loops they compile in two thirds; learning runs as fast, but playing at half the speed.
    """
    if jax.default_backend() != "cpu":
        return None
    return {
        "xla_backend_optimization_level": 0 if use == "once" else 1,
        "xla_cpu_use_fusion_emitters": use == "play",
    }


@contextlib.contextmanager
def nothing_kept() -> Iterator[None]:
    """Within it programs are neither loaded from disk nor stored there."""
    enabled = _JAX.jax_enable_compilation_cache
    try:
        _JAX.update("jax_enable_compilation_cache", False)
        compilation_cache.reset_cache()  # JAX asks for the setting once
        yield
    finally:
        _JAX.update("jax_enable_compilation_cache", enabled)
        compilation_cache.reset_cache()


class Now:
    """Runs compiled programs, and moves arrays."""

    @staticmethod
    def run(program: Callable, *args: Any) -> Any:
        """What the program makes of `args`, or will have made: JAX does not wait."""
        return program(*args)

    @staticmethod
    def put(values: Any, device: Any) -> Any:
        """The arrays, bound to the device."""
        return jax.device_put(values, device)


class Ahead:
    """Goes the way that `Now` will go with shapes in place of arrays, and compiles all programs on
    it side by side. When they are then called, JAX finds them made.

    Used as a context, which ends when all are compiled and raises what a compiler raised. Python's
    garbage collector rests meanwhile: tracing makes many objects that stay, and going through them
    again and again takes a fifth of the time.
    """

    def __init__(self, home: Any) -> None:
        """`home`: the device that programs run on unless their arguments are put elsewhere."""
        self._home = home
        self._pool = ThreadPoolExecutor()
        self._made: list[Future] = []
        self._collects = gc.isenabled()

    def __enter__(self) -> "Ahead":
        gc.disable()
        return self

    def __exit__(self, *_: object) -> None:
        if self._collects:
            gc.enable()
        self._pool.shutdown()
        for made in self._made:
            made.result()

    def run(self, program: Any, *args: Any) -> Any:
        """Trace the jitted program and leave it to a thread to compile (or to load from disk);
        returns the shapes of its results."""
        traced = program.trace(*args)
        self._made.append(self._pool.submit(traced.lower().compile))
        return self.put(traced.out_info, self._home)

    @staticmethod
    def put(values: Any, device: Any) -> Any:
        """The shapes of the arrays, bound to the device."""
        place = SingleDeviceSharding(device)

        def bound(x: Any) -> jax.ShapeDtypeStruct:
            weak = getattr(x, "weak_type", False)
            return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place, weak_type=weak)

        return jax.tree.map(bound, values)


def _keep_memory() -> None:
    """Tell glibc's allocator to keep freed memory.

    By default every large array goes back to the kernel, and the next one pays for fresh pages:
    element-wise passes of learning are several times as slow. Elsewhere than on Linux with glibc,
    or where the user has set `MALLOC_*` himself, nothing is done.
    """
    if not sys.platform.startswith("linux") or any(k.startswith("MALLOC_") for k in os.environ):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(_M_TOP_PAD, 2**26)


def _two_devices() -> None:
    """Two CPU devices, on which policies and value functions learn side by side (`dm2.team`)."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if (cores or 1) < 2 or _JAX.jax_num_cpu_devices != -1:
        return
    with contextlib.suppress(RuntimeError):  # JAX has begun; it works with one, too
        _JAX.update("jax_num_cpu_devices", 2)


def _keep_programs() -> None:
    """Keep compiled programs on disk, so that only the first run of a kind waits for them.

    In `$XDG_CACHE_HOME/dm2` (`~/.cache/dm2`), a folder for each kind of processor: machine code
    for another one may not run. A cache that the user has configured in JAX is left alone, and
    `JAX_ENABLE_COMPILATION_CACHE=false` turns it off. It is also off if JAX was imported before
    dm2, too late to silence XLA's false alarm about every program that it loads, and where the
    folder cannot be made.
    """
    loud = os.environ.get("TF_CPP_MIN_LOG_LEVEL") != "3" or JAX_CAME_FIRST
    if _JAX.jax_compilation_cache_dir is not None or loud:
        return
    try:
        root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        folder = root / "dm2" / f"programs-{_processor()}"
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # RuntimeError: there is no home
        return
    _JAX.update("jax_compilation_cache_dir", str(folder))
    _JAX.update("jax_compilation_cache_max_size", CACHE_BYTES)
    _JAX.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def _processor() -> str:
    """A short name for the processor and what it can do."""
    told = platform.machine() + platform.processor()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        names = ("model name", "flags", "Features")
        told += "".join(sorted({line for line in lines if line.startswith(names)}))
    return hashlib.sha256(told.encode()).hexdigest()[:12]
