"""Several seeds of one experiment: one after another, or in several processes side by side."""

import dataclasses
import multiprocessing
import os
import signal
import threading
from collections.abc import Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dm2.config import Config
from dm2.errors import InputError

if TYPE_CHECKING:
    from dm2.runs import RunDirectory

# The runs' own modules are imported where they are used: JAX counts the cores when it is
# imported, and a process below is given its share of them first.

__all__ = ["side_by_side", "train_seeds"]

_Task = tuple[Config, Path]


def train_seeds(
    config: Config, out: str | Path, seeds: int, *, jobs: int = 1, quiet: bool = False
) -> "list[RunDirectory]":
    """Train `seeds` runs, seeds `config.seed`, `config.seed + 1`, …, into `out/seed_<n>`.

    One after another, compiling once; or in `jobs` processes side by side, each on its share of
    the cores. How many cores a process has decides how XLA splits sums, hence the rounding: the
    same `jobs` on the same machine give the same bits. As always where Python starts processes, a
    script must then call this under `if __name__ == "__main__":`.

    Runs that are already there go on where they stopped, so a sweep that was cut short is
    finished by the same call. Raises InputError, before any training, for unusable settings or if
    one of the runs has other settings, and otherwise what `train` and `resume` raise; of several
    processes, all are waited for first.
    """
    from dm2.runs import CONFIG, RunDirectory
    from dm2.training import foresee

    for name, value in {"seeds": seeds, "jobs": jobs}.items():
        if value < 1:
            raise InputError(f"{name} = {value}: must be a whole number above 0")
    configs = [dataclasses.replace(config, seed=config.seed + n) for n in range(seeds)]
    tasks = [(one, Path(out) / f"seed_{one.seed}") for one in configs]
    for one, path in tasks:
        if (path / CONFIG).exists() and RunDirectory.open(path).config != one:
            raise InputError(f"{path}: holds a run with other settings; choose another --out")
    jobs = min(jobs, seeds)
    if jobs == 1:
        _train_all(tasks, quiet)
    else:
        foresee(config)
        _Lanes(tasks, jobs, quiet).run()
    return [RunDirectory.open(path) for _, path in tasks]


def side_by_side(config: Config, seeds: int) -> int:
    """How many processes train `seeds` fastest: one a core, as memory allows (by
    `dm2.costs.memory_mib`); on an accelerator one."""
    import jax

    from dm2.training import foresee

    if seeds < 2 or jax.default_backend() != "cpu":
        return 1
    jobs = min(seeds, len(_cores()))
    free = _free_mib()
    if free is not None:
        jobs = min(jobs, int(free / foresee(config)["memory_mib"]))
    return max(jobs, 1)


def _train_all(tasks: Sequence[_Task], quiet: bool) -> None:
    from dm2.runs import CONFIG
    from dm2.training import resume, train

    for config, path in tasks:
        if (path / CONFIG).exists():
            resume(path, quiet=quiet)
        else:
            train(config, path, quiet=quiet)


def _cores() -> list[int]:
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def _free_mib() -> float | None:
    """Memory that can be had without swapping, where the system says so."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    kib = [line.split()[1] for line in lines if line.startswith("MemAvailable")]
    return int(kib[0]) / 1024 if kib else None


class _Lanes:
    """Processes that each train every `jobs`-th task, in a group of their own, so that Ctrl-C
    comes to this process alone, which tells them to stop and waits for their checkpoints."""

    def __init__(self, tasks: Sequence[_Task], jobs: int, quiet: bool) -> None:
        self._context = multiprocessing.get_context("spawn")
        self._lanes: list[tuple[SpawnProcess, Any]] = []
        cores = _cores()
        for lane in range(jobs):
            share = cores[lane % len(cores) :: jobs]
            ours, theirs = self._context.Pipe(duplex=False)
            arguments = (share, tasks[lane::jobs], quiet, theirs)
            process = self._context.Process(target=_lane, args=arguments, daemon=True)
            self._lanes.append((process, ours))

    def run(self) -> None:
        from dm2.training import stop_signal

        with stop_signal() as stop:
            try:
                for process, _ in self._lanes:
                    process.start()
                told = False
                while any(process.is_alive() for process, _ in self._lanes):
                    wait([p.sentinel for p, _ in self._lanes if p.is_alive()], timeout=0.2)
                    if stop.is_set() and not told:
                        self._tell_all()
                        told = True
            except BaseException:  # a second Ctrl-C
                self._tell_all()
                raise
        for process, line in self._lanes:
            if process.exitcode == 0:
                continue
            if line.poll():
                raise line.recv()
            remedy = "if it was memory, take fewer --jobs; the same command goes on"
            raise RuntimeError(f"a training process ended with code {process.exitcode}; {remedy}")

    def _tell_all(self) -> None:
        for process, _ in self._lanes:
            if process.is_alive():
                process.terminate()


def _lane(cores: Sequence[int], tasks: Sequence[_Task], quiet: bool, line: Connection) -> None:
    """What one of the processes does. An error goes back through `line`."""
    os.setpgrp()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)
    os.environ["TTY_COMPATIBLE"] = "0"  # rich: lines, not bars that overwrite one another
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=follow, daemon=True).start()
    try:
        _train_all(tasks, quiet)
    except (Exception, KeyboardInterrupt) as error:
        line.send(error)
        raise SystemExit(1) from None
