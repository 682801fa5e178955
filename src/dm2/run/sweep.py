"""Several seeds of one experiment: one after another, or in several processes side by side."""

import dataclasses
import multiprocessing
import os
from collections.abc import Sequence
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

import jax

from dm2.config import Config
from dm2.errors import InputError
from dm2.run.directory import CONFIG, RunDirectory
from dm2.run.loop import foresee, resume, train
from dm2.run.process import stop_signal
from dm2.run.worker import work

__all__ = ["best_jobs", "train_or_resume", "train_seeds"]


def train_seeds(
    config: Config, out: str | Path, seeds: int, *, jobs: int = 1, quiet: bool = False
) -> list[RunDirectory]:
    """Trains the seeds `config.seed`, `config.seed + 1`, … into `out/seed_<n>`.

    Runs that are already there go on where they stopped, so a sweep that was cut short is
    finished by the same call. With several jobs each process has its share of the cores. How many
    cores a process has decides how XLA splits sums, hence the rounding: the same `jobs` on the
    same machine give the same bits. As always where Python starts processes, a script must then
    call this under `if __name__ == "__main__":`.

    Args:
        config: the settings of the first seed.
        out: the folder of all runs.
        seeds: how many runs there are.
        jobs: how many processes train them; 1 trains one after another in this process.
        quiet: whether to print no progress.

    Returns:
        The runs' directories.

    Raises:
        InputError: before any training, if settings are unusable or one of the runs has others.
        Exception: what `train` and `resume` raise; of several processes, all are waited for first.
    """
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
        for one, path in tasks:
            train_or_resume(one, path, quiet)
    else:
        foresee(config)
        _SideBySide(tasks, jobs, quiet).run()
    return [RunDirectory.open(path) for _, path in tasks]


def train_or_resume(config: Config, path: str | Path, quiet: bool) -> None:
    """Trains a run, or goes on with it if it is there; see `train` and `resume`."""
    if (Path(path) / CONFIG).exists():
        resume(path, quiet=quiet)
    else:
        train(config, path, quiet=quiet)


def best_jobs(config: Config, seeds: int) -> int:
    """How many processes train `seeds` fastest: one a core, as memory allows (by
    `dm2.run.costs`); on an accelerator one."""
    if seeds < 2 or jax.default_backend() != "cpu":
        return 1
    jobs = min(seeds, len(_cores()))
    free = _free_mib()
    if free is not None:
        jobs = min(jobs, int(free / foresee(config)["memory_mib"]))
    return max(jobs, 1)


def _cores() -> list[int]:
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def _free_mib() -> float | None:
    """Memory that can be had without swapping, where the system tells it."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    kib = [line.split()[1] for line in lines if line.startswith("MemAvailable")]
    return int(kib[0]) / 1024 if kib else None


class _SideBySide:
    """Processes that each train every `jobs`-th task, in a group of their own, so that Ctrl-C
    comes to this process alone, which tells them to stop and waits for their checkpoints."""

    def __init__(self, tasks: Sequence[tuple[Config, Path]], jobs: int, quiet: bool) -> None:
        context = multiprocessing.get_context("spawn")
        self._workers: list[tuple[SpawnProcess, Any]] = []
        cores = _cores()
        for worker in range(jobs):
            share = cores[worker % len(cores) :: jobs]
            mine = [(config.to_dict(), str(path)) for config, path in tasks[worker::jobs]]
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(target=work, args=(share, mine, quiet, theirs), daemon=True)
            self._workers.append((process, ours))

    def run(self) -> None:
        """Starts them and waits until all have ended. Raises the first one's error."""
        with stop_signal() as stop:
            try:
                for process, _ in self._workers:
                    process.start()
                stopping = False
                while any(process.is_alive() for process, _ in self._workers):
                    wait([p.sentinel for p, _ in self._workers if p.is_alive()], timeout=0.2)
                    if stop.is_set() and not stopping:
                        self._stop_all()
                        stopping = True
            except BaseException:  # a second Ctrl-C
                self._stop_all()
                raise
        for process, line in self._workers:
            if process.exitcode == 0:
                continue
            if line.poll():
                raise line.recv()
            remedy = "if it was memory, take fewer --jobs; the same command goes on"
            raise RuntimeError(f"a training process ended with code {process.exitcode}; {remedy}")

    def _stop_all(self) -> None:
        for process, _ in self._workers:
            if process.is_alive():
                process.terminate()
