"""Several seeds of one experiment: one after another, or in several processes side by side."""

import dataclasses
import multiprocessing
import os
import warnings
from collections.abc import Sequence
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

import jax

from dm2.config import Config
from dm2.demos import Demonstrations
from dm2.errors import DivergedError, InputError, Whole, as_path, as_seed, as_whole
from dm2.run.directory import CONFIG, RunDirectory
from dm2.run.loop import foresee, resume, train
from dm2.run.process import stop_signal
from dm2.run.worker import work

__all__ = ["best_jobs", "train_all", "train_seeds"]


def train_seeds(
    config: Config, out: str | Path, seeds: Whole, *, jobs: Whole = 1, quiet: bool = False
) -> list[RunDirectory]:
    """Trains the seeds `config.seed`, `config.seed + 1`, … into `out/seed_<n>`.

    Runs that are already there go on where they stopped, so a sweep that was cut short is
    finished by the same call. A seed that diverges does not keep the others from training. With
    several jobs each process has its share of the cores. How many cores a process has decides how
    XLA splits sums, hence the rounding: the same `jobs` on the same machine give the same bits. As
    always where Python starts processes, a script must then call this under
    `if __name__ == "__main__":`.

    Args:
        config: the settings of the first seed.
        out: the folder of all runs.
        seeds: how many runs there are.
        jobs: how many processes train them; 1 trains one after another in this process.
        quiet: whether to print no progress.

    Returns:
        The runs' directories.

    Raises:
        InputError: before any training, if settings are unusable, or a folder is in use or holds a
            run with other settings.
        DivergedError: seeds diverged; all were trained first.
        Exception: what `train` and `resume` raise; of several processes, all are waited for first.
    """
    count, processes, folder = as_whole("seeds", seeds), as_whole("jobs", jobs), as_path("out", out)
    foresee(config)
    as_seed(config.seed + count - 1, "the last of the seeds")
    configs = [dataclasses.replace(config, seed=config.seed + n) for n in range(count)]
    tasks = [(one, Path(folder) / f"seed_{one.seed}") for one in configs]
    for one, path in tasks:
        if not (path / CONFIG).exists():
            RunDirectory.check_unused(path)
        elif not _same(one, RunDirectory.open(path)):
            raise InputError(f"{path}: holds a run with other settings; choose another --out")
    processes = min(processes, count)
    if processes == 1:
        train_all(tasks, quiet)
    else:
        _SideBySide(tasks, processes, quiet).run()
    return [RunDirectory.open(path) for _, path in tasks]


def train_all(tasks: Sequence[tuple[Config, str | Path]], quiet: bool) -> None:
    """Trains runs one after another, or goes on with those that are there. Raises what `train` and
    `resume` raise: DivergedError at the end only, of all that diverged."""
    diverged = []
    with warnings.catch_warnings():
        # What there is to say of demonstrations was said when all runs were checked.
        warnings.simplefilter("ignore", UserWarning)
        for config, path in tasks:
            try:
                if (Path(path) / CONFIG).exists():
                    resume(path, demos=config.demos, quiet=quiet)
                else:
                    train(config, path, quiet=quiet)
            except DivergedError as error:
                diverged.append(str(error))
    if diverged:
        raise DivergedError("; ".join(diverged))


def _same(config: Config, run: RunDirectory) -> bool:
    """Whether a run has these settings. Demonstrations are the same if their contents are,
    wherever the file lies."""
    if dataclasses.replace(run.config, demos=config.demos) != config:
        return False
    recorded = run.info.get("demonstrations", {}).get("sha256")
    return config.demos is None or Demonstrations.load(config.demos).sha256 == recorded


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


def _error_of(process: SpawnProcess, line: Any) -> BaseException:
    """What a process that failed said, or, if it was killed, that it was."""
    try:
        if line.poll():
            return line.recv()
    except Exception:  # it was killed while it spoke, or before, or cannot be put into bytes
        pass
    remedy = "if it was memory, take fewer --jobs; the same command goes on"
    return RuntimeError(f"a training process ended with code {process.exitcode}; {remedy}")


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
        errors = [_error_of(process, line) for process, line in self._workers if process.exitcode]
        if stop.is_set() and errors:
            said = [error for error in errors if isinstance(error, KeyboardInterrupt)]
            raise said[0] if said else KeyboardInterrupt("stopped; the same command goes on")
        # What says most goes first: a process that another one's end took along says nothing.
        for error in sorted(errors, key=lambda error: type(error) is RuntimeError):
            raise error

    def _stop_all(self) -> None:
        for process, _ in self._workers:
            if process.is_alive():
                process.terminate()
