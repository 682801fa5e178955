"""What dm2 asks of the process it runs in. Nothing here happens by importing `dm2`: the command
line and worker processes call `set_up_process`, and so may anybody else.
"""

import contextlib
import ctypes
import hashlib
import os
import platform
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from dm2.cores import cores

__all__ = ["plain_warnings", "set_up_process", "stop_signal"]

CACHE_BYTES = 512 * 2**20
"""Most that compiled programs take on disk; the least recently used go first."""

_LOG_LEVEL = "TF_CPP_MIN_LOG_LEVEL"
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4


def set_up_process() -> None:
    """Sets this process up for fast training on a CPU. Call it before anything imports JAX.

    Training is right without it, only slower. What it does, and what turns it off:

    - glibc's allocator keeps freed memory instead of giving it back to the kernel. Where you set
      `MALLOC_*` yourself, or there is no glibc, nothing is done.
    - JAX gets two CPU devices, on which policies and value functions learn side by side, unless
      you set its number of devices, JAX has begun already, or there is one core only. There it
      gets two threads (`PJRT_NPROC`): with one, an environment that computes by JAX itself would
      wait for ever for the thread that steps it.
    - Compiled programs are kept on disk, in `$XDG_CACHE_HOME/dm2` (`~/.cache/dm2`), at most
      512 MiB, in a folder for each kind of processor. `JAX_ENABLE_COMPILATION_CACHE=false` turns
      that off, and a cache that you configured in JAX goes first. It is also off if JAX was
      imported before this call, which is too late to silence XLA (see the next item), and where
      the folder cannot be made.
    - XLA's log level, the environment variable `TF_CPP_MIN_LOG_LEVEL`, is set to 3 unless it is
      set: XLA takes two of its own settings for features that the processor lacks and reports so
      for every program that it loads from disk. What goes wrong raises, whatever is logged.

    Calling it again changes nothing.
    """
    in_time = "jax" not in sys.modules or os.environ.get(_LOG_LEVEL) == "3"
    if in_time:
        os.environ.setdefault(_LOG_LEVEL, "3")
    _keep_memory()
    _two_at_once()
    if os.environ.get(_LOG_LEVEL) == "3":
        _keep_programs()


def _keep_memory() -> None:
    """By default every large array goes back to the kernel, and the next one pays for fresh pages:
    element-wise passes of learning are then several times as slow."""
    if not sys.platform.startswith("linux") or any(k.startswith("MALLOC_") for k in os.environ):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(_M_TOP_PAD, 2**26)


def _two_at_once() -> None:
    import jax

    settings: Any = jax.config  # its settings are attributes that no stub knows
    if len(cores()) < 2:
        os.environ.setdefault("PJRT_NPROC", "2")
        return
    if settings.jax_num_cpu_devices != -1:
        return
    with contextlib.suppress(RuntimeError):  # JAX has begun; it works with one, too
        settings.update("jax_num_cpu_devices", 2)


def _keep_programs() -> None:
    import jax

    settings: Any = jax.config
    if settings.jax_compilation_cache_dir is not None:
        return
    try:
        root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        folder = root / "dm2" / f"programs-{_processor()}"
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # RuntimeError: there is no home
        return
    settings.update("jax_compilation_cache_dir", str(folder))
    settings.update("jax_compilation_cache_max_size", CACHE_BYTES)
    settings.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def _processor() -> str:
    """A short name for the processor and what it can do: machine code for another may not run."""
    about = platform.machine() + platform.processor()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        names = ("model name", "flags", "Features")
        about += "".join(sorted({line for line in lines if line.startswith(names)}))
    return hashlib.sha256(about.encode()).hexdigest()[:12]


@contextlib.contextmanager
def plain_warnings() -> Iterator[None]:
    """A context in which every warning is one line on standard error, without a place in the
    source."""

    def show(message: Warning | str, *_: object) -> None:
        print(f"dm2: warning: {message}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.showwarning = show
        for category in (UserWarning, RuntimeWarning):
            warnings.simplefilter("always", category)
        yield


@contextlib.contextmanager
def stop_signal() -> Iterator[threading.Event]:
    """A context with an event that the first Ctrl-C or SIGTERM sets; the second acts at once."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    old = {number: signal.getsignal(number) for number in numbers}

    def restore() -> None:
        for number, handler in old.items():
            signal.signal(number, handler)

    def handle(_number: int, _frame: FrameType | None) -> None:
        stop.set()
        restore()

    for number in numbers:
        signal.signal(number, handle)
    try:
        yield stop
    finally:
        restore()
