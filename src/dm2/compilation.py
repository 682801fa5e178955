"""How programs are compiled: XLA's options, and programs made ahead of their first call."""

import contextlib
import gc
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Literal, NamedTuple

import jax
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import SingleDeviceSharding

__all__ = [
    "Program",
    "SideBySide",
    "compile_ahead",
    "compiler_options",
    "nothing_kept",
    "on_device",
]

_JAX: Any = jax.config  # its settings are attributes that no stub knows


class Program(NamedTuple):
    """A jitted function and the arguments that it will be called with."""

    function: Any
    """What `jax.jit` returned."""
    arguments: tuple[Any, ...]
    """Arrays, or their shapes bound to a device (see `on_device`), or static values."""

    def results(self, device: Any) -> Any:
        """The shapes of the program's results, bound to the device; nothing is run."""
        return on_device(self.function.trace(*self.arguments).out_info, device)


def on_device(values: Any, device: Any) -> Any:
    """The shapes of a pytree of arrays, bound to the device. JAX makes different programs for
    arguments that are bound to a device and for those that are not."""
    place = SingleDeviceSharding(device)

    def bound(x: Any) -> jax.ShapeDtypeStruct:
        weak = getattr(x, "weak_type", False)
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place, weak_type=weak)

    return jax.tree.map(bound, values)


class SideBySide:
    """Two jitted functions that do not need each other, as an actor's learning and a critic's. On a
    CPU where JAX has two devices (`dm2.set_up_process` asks for them), they run side by side, the
    first where its arguments lie, the second on the last of these devices."""

    def __init__(self, first: Any, second: Any) -> None:
        """Takes what `jax.jit` returned, twice."""
        self.first = first
        self.second = second
        devices = jax.local_devices()[: 2 if jax.default_backend() == "cpu" else 1]
        self.home, self._away = devices[0], devices[-1]

    def __call__(self, of_first: tuple[Any, ...], of_second: tuple[Any, ...]) -> tuple[Any, Any]:
        """The results of both, from the arguments of each, on the first device. Both are started
        and not waited for."""
        second = self.second(*jax.device_put(of_second, self._away))
        return self.first(*of_first), jax.device_put(second, self.home)

    def programs(self, of_first: tuple[Any, ...], of_second: tuple[Any, ...]) -> list[Program]:
        """Both programs, from the shapes of their arguments on the first device."""
        second = Program(self.second, on_device(of_second, self._away))
        return [second, Program(self.first, of_first)]


def compile_ahead(programs: Iterable[Program]) -> None:
    """Compiles programs side by side, or loads them from disk. When they are called later with
    arguments of the same shapes, JAX finds them made.

    While Python traces a program, threads compile the ones before it. Python's garbage collector
    rests meanwhile: tracing makes many objects that stay, and going through them again and again
    takes a fifth of the time.

    Raises what a compiler raised.
    """
    collects = gc.isenabled()
    gc.disable()
    made: list[Future] = []
    try:
        with ThreadPoolExecutor() as pool:
            for program in programs:
                traced = program.function.trace(*program.arguments)
                made.append(pool.submit(traced.lower().compile))
    finally:
        if collects:
            gc.enable()
    for future in made:
        future.result()


def compiler_options(use: Literal["play", "learn", "once"]) -> dict[str, Any] | None:
    """How hard XLA works on a program for a CPU, measured (docs/performance.md).

    At LLVM's level 1 programs compile in three quarters of the time and run as fast as at its
    default; at 0, for what runs once, in less than half. Without the newer generator of fused
    loops they compile in two thirds; learning runs as fast, but playing at half the speed. What
    somebody asks for in `XLA_FLAGS` goes first.
    """
    if jax.default_backend() != "cpu":
        return None
    ours = {
        "xla_backend_optimization_level": 0 if use == "once" else 1,
        "xla_cpu_use_fusion_emitters": use == "play",
    }
    asked = os.environ.get("XLA_FLAGS", "")
    return {name: value for name, value in ours.items() if name not in asked}


@contextlib.contextmanager
def nothing_kept() -> Iterator[None]:
    """Within this context programs are neither loaded from disk nor stored there."""
    enabled = _JAX.jax_enable_compilation_cache
    try:
        _JAX.update("jax_enable_compilation_cache", False)
        compilation_cache.reset_cache()  # JAX asks for the setting once
        yield
    finally:
        _JAX.update("jax_enable_compilation_cache", enabled)
        compilation_cache.reset_cache()
