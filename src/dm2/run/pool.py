"""Processes side by side that take one task after another, each on its share of the cores.

Nothing here imports JAX at the top: JAX counts the cores when it is imported, and a process is
given its share of them first.
"""

import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any, NamedTuple

from dm2.cores import cores
from dm2.errors import DivergedError
from dm2.run.process import plain_warnings, set_up_process, stop_signal

__all__ = ["Ended", "Task", "fitting_jobs", "run_side_by_side", "run_together"]

Task = Callable[[], object]
"""Something to do. It is pickled: a function of a module, or a `functools.partial` of one."""


class Ended(NamedTuple):
    """A task that is over."""

    task: int
    """Its number, in the order in which tasks were given."""
    error: BaseException | None
    """What it raised, or that its process was killed; None if it went well."""


def _free_mib() -> float | None:
    """Memory in MiB that can be had without swapping; None where the system does not say."""
    try:
        with open("/proc/meminfo") as file:
            lines = file.read().splitlines()
    except OSError:
        return None
    kib = [line.split()[1] for line in lines if line.startswith("MemAvailable")]
    return int(kib[0]) / 1024 if kib else None


def fitting_jobs(mib: float) -> int:
    """How many processes of `mib` MiB each run here: one a core, as memory allows; one on an
    accelerator."""
    import jax  # not by the processes that this one starts, before they are set up

    if jax.default_backend() != "cpu":
        return 1
    free = _free_mib()
    return max(1, min(len(cores()), len(cores()) if free is None else int(free / mib)))


def run_side_by_side(tasks: Iterable[Task | None], jobs: int) -> Iterator[Ended]:
    """Runs tasks in `jobs` processes and yields each when it is over.

    Every process has as many cores as the others. They are in a group of their own, so that Ctrl-C
    comes to this process alone, which tells them to stop and waits until training has written its
    checkpoints. They stop in the same manner when this process dies.

    Args:
        tasks: The tasks. One is taken when a process is free for it; None stands for one that has
            to wait until something else is over, and ends the tasks if nothing is running.
        jobs: The number of processes.

    Raises:
        KeyboardInterrupt: After Ctrl-C, when all processes have stopped.
    """
    pool = _Pool(jobs)
    try:
        yield from pool.run(iter(tasks))
    finally:
        pool.close()


def run_together(tasks: Sequence[Task], jobs: int) -> None:
    """Runs tasks in `jobs` processes, all of them even if some fail.

    Raises:
        Exception: The first error of a task that is no DivergedError and no killed process, else
            the first of those; of all that diverged in one.
        KeyboardInterrupt: As `run_side_by_side`.
    """
    ended = sorted(run_side_by_side(tasks, jobs), key=lambda one: one.task)
    errors = [one.error for one in ended if one.error is not None]
    for error in sorted(errors, key=lambda error: isinstance(error, DivergedError | Killed)):
        if isinstance(error, DivergedError):
            raise DivergedError("; ".join(str(e) for e in errors if isinstance(e, DivergedError)))
        raise error


class Killed(RuntimeError):
    """A process that ended without a word."""


class _Worker:
    """One process, and the line to it."""

    def __init__(self, share: list[int]) -> None:
        context = multiprocessing.get_context("spawn")
        self.line, theirs = context.Pipe()
        self.process: SpawnProcess = context.Process(
            target=_work, args=(share, theirs), daemon=True
        )
        self.process.start()
        theirs.close()
        self.task: int | None = None

    def ended(self) -> Ended | None:
        """The task that is over, if it is."""
        assert self.task is not None
        error: BaseException | None
        try:
            if self.line.poll():
                error = self.line.recv()
            elif self.process.is_alive():
                return None
            else:
                raise EOFError
        except Exception:  # it was killed while it spoke, or what it said cannot be read
            self.process.join(1)
            remedy = "if it was memory, take fewer --jobs; the same command goes on"
            code = self.process.exitcode
            error = Killed(f"a training process ended with code {code}; {remedy}")
        task, self.task = self.task, None
        return Ended(task, error)


class _Pool:
    """The processes of `run_side_by_side`."""

    def __init__(self, jobs: int) -> None:
        own, each = cores(), max(1, len(cores()) // jobs)
        self._shares = [
            [own[(job * each + n) % len(own)] for n in range(each)] for job in range(jobs)
        ]
        self._workers: list[_Worker | None] = [None] * jobs

    def run(self, tasks: Iterator[Task | None]) -> Iterator[Ended]:
        """See `run_side_by_side`."""
        count = 0
        with stop_signal() as stop:
            while not stop.is_set():
                while (free := self._free()) is not None:
                    task = next(tasks, None)
                    if task is None:
                        break
                    self._give(free, count, task)
                    count += 1
                busy = [worker for worker in self._workers if worker and worker.task is not None]
                if not busy:
                    return
                wait([worker.line for worker in busy], timeout=0.2)
                for worker in busy:
                    if (ended := worker.ended()) is not None:
                        yield ended
            yield from self._stop()

    def _free(self) -> int | None:
        """The number of a process that has nothing to do."""
        return next(
            (n for n, worker in enumerate(self._workers) if not worker or worker.task is None), None
        )

    def _give(self, number: int, count: int, task: Any) -> None:
        worker = self._workers[number]
        if worker is None or not worker.process.is_alive():
            worker = self._workers[number] = _Worker(self._shares[number])
        worker.task = count
        worker.line.send(task)

    def _stop(self) -> Iterator[Ended]:
        """Tells all processes to stop, waits for them, and raises KeyboardInterrupt."""
        said = "stopped; the same command goes on"
        self.terminate()
        for worker in self._workers:
            if worker is None:
                continue
            worker.process.join()
            if worker.task is not None:
                ended = worker.ended()
                if ended is not None and isinstance(ended.error, KeyboardInterrupt):
                    said = str(ended.error)
                elif ended is not None and not isinstance(ended.error, Killed):
                    yield ended
        raise KeyboardInterrupt(said)

    def terminate(self) -> None:
        """Tells the processes that are there to stop."""
        for worker in self._workers:
            if worker is not None and worker.process.is_alive():
                worker.process.terminate()

    def close(self) -> None:
        """Ends the processes."""
        self.terminate()
        for worker in self._workers:
            if worker is not None:
                worker.process.join()
                worker.line.close()


def _work(share: Sequence[int], line: Connection) -> None:
    """The process: does what comes through the line, and answers with the error, or None.

    It stops, a run with a checkpoint, when the process that started it ends.
    """
    os.setpgrp()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, share)
    os.environ["TTY_COMPATIBLE"] = "0"  # rich: lines, not bars that overwrite one another
    set_up_process()
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=follow, daemon=True).start()
    with plain_warnings():
        while True:
            try:
                task = line.recv()
                error = _error_of(task)
                line.send(error)
            except (EOFError, ConnectionError):  # nobody is there any more
                return
            if isinstance(error, KeyboardInterrupt):
                raise SystemExit(1)


def _error_of(task: Task) -> BaseException | None:
    try:
        task()
    except (Exception, KeyboardInterrupt) as error:
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:  # it would not come through the line
            return RuntimeError(f"{type(error).__name__}: {error}")
        return error
    except SystemExit as stop:  # raised anew, it would end the command without a word
        return RuntimeError(f"SystemExit: {stop}")
    return None
