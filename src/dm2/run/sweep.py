"""Several seeds of one experiment: one after another, or in several processes side by side."""

import dataclasses
import functools
import warnings
from collections.abc import Sequence
from pathlib import Path

from dm2.config import Config
from dm2.demos import Demonstrations
from dm2.errors import DivergedError, InputError, Whole, as_path, as_seed, as_whole
from dm2.run.directory import CONFIG, RunDirectory
from dm2.run.loop import foresee, resume, train
from dm2.run.pool import fitting_jobs, run_together

__all__ = ["best_jobs", "seeds_of", "train_or_resume", "train_seeds"]


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
        config: The settings of the first seed.
        out: The folder of all runs.
        seeds: How many runs there are.
        jobs: How many processes train them; 1 trains one after another in this process.
        quiet: Whether to print no progress.

    Returns:
        The runs' directories.

    Raises:
        InputError: Before any training, if settings are unusable, or a folder is in use or holds a
            run with other settings.
        DivergedError: If seeds diverged; all were trained first.
        Exception: What `train` and `resume` raise; of several processes, all are waited for first.
    """
    processes = as_whole("jobs", jobs)
    foresee(config)
    tasks = seeds_of(config, out, seeds)
    processes = min(processes, len(tasks))
    if processes == 1:
        _train_all(tasks, quiet)
    else:
        calls = [functools.partial(train_or_resume, one, path, quiet) for one, path in tasks]
        run_together(calls, processes)
    return [RunDirectory.open(path) for _, path in tasks]


def seeds_of(config: Config, out: str | Path, seeds: Whole) -> list[tuple[Config, Path]]:
    """The settings of each seed, and where its run is or would be.

    Args:
        config: The settings of the first seed.
        out: The folder of all runs.
        seeds: How many runs there are.

    Raises:
        InputError: If there is no such number of seeds, or a folder is in use or holds a run with
            other settings.
    """
    count, folder = as_whole("seeds", seeds), Path(as_path("out", out))
    as_seed(config.seed + count - 1, "the last of the seeds")
    configs = [dataclasses.replace(config.settled, seed=config.seed + n) for n in range(count)]
    tasks = [(one, folder / f"seed_{one.seed}") for one in configs]
    for one, path in tasks:
        if not (path / CONFIG).exists():
            RunDirectory.check_unused(path)
        elif not _same(one, RunDirectory.open(path)):
            raise InputError(f"{path}: holds a run with other settings; choose another --out")
    return tasks


def _train_all(tasks: Sequence[tuple[Config, str | Path]], quiet: bool) -> None:
    """Trains runs one after another, or goes on with those that are there. Raises what `train` and
    `resume` raise: DivergedError at the end only, of all that diverged."""
    diverged = []
    for config, path in tasks:
        try:
            train_or_resume(config, path, quiet)
        except DivergedError as error:
            diverged.append(str(error))
    if diverged:
        raise DivergedError("; ".join(diverged))


def train_or_resume(config: Config, path: str | Path, quiet: bool) -> None:
    """Trains a run, or goes on with it if it is there, without warnings of its demonstrations.
    Raises what `train` and `resume` raise."""
    with warnings.catch_warnings():
        # What there is to say of demonstrations was said when all runs were checked.
        warnings.simplefilter("ignore", UserWarning)
        if (Path(path) / CONFIG).exists():
            resume(path, demos=config.demos, quiet=quiet)
        else:
            train(config, path, quiet=quiet)


def _same(config: Config, run: RunDirectory) -> bool:
    """Whether a run has these settings. Demonstrations are the same if their contents are,
    wherever the file lies."""
    if dataclasses.replace(run.config, demos=config.demos) != config:
        return False
    recorded = run.info.get("demonstrations", {}).get("sha256")
    return config.demos is None or Demonstrations.load(config.demos).sha256 == recorded


def best_jobs(config: Config, seeds: int) -> int:
    """How many processes train `seeds` fastest: as many as memory allows (by `dm2.run.costs`)."""
    return 1 if seeds < 2 else min(seeds, fitting_jobs(foresee(config)["memory_mib"]))
