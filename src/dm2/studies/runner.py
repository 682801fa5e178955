"""Makes what studies need, in the order of dependence, in several processes, as far as it is not
there yet."""

import contextlib
import fcntl
import functools
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import jax

from dm2.errors import DivergedError, InputError
from dm2.files import write_atomically
from dm2.run.costs import memory_mib
from dm2.run.directory import CONFIG, METRICS, RunDirectory
from dm2.run.pool import Ended, Task, cores, free_mib, run_side_by_side
from dm2.run.programs import programs_for
from dm2.studies.products import Product, Training
from dm2.studies.records import Records
from dm2.studies.study import Study

__all__ = [
    "STATES",
    "State",
    "best_jobs",
    "collect",
    "failure_of",
    "make_studies",
    "missing",
    "records_path",
    "state_of",
]

State = Literal["made", "recorded", "running", "diverged", "failed", "stopped", "missing"]
STATES: dict[State, str] = {
    "made": "there",
    "recorded": "its results are there, itself it is not",
    "running": "a process is at it",
    "diverged": "it came to a number that is not finite, and stays as it is",
    "failed": "it could not be made, and will be tried again",
    "stopped": "begun, and will go on",
    "missing": "not begun",
}
"""What a product can be like, and what that means."""


def records_path(root: Path, study: Study, scale: str) -> Path:
    """The file of a study's results."""
    return root / "results" / f"{study.name}_{scale}.json"


def state_of(product: Product, root: Path, records: Records | None = None) -> State:
    """What a product is like, by what is on disk."""
    if product.made(root):
        return "made"
    if records is not None and records.settles(product.name):
        return "recorded"
    if isinstance(product, Training) and (product.path(root) / CONFIG).exists():
        run = RunDirectory.open(product.path(root))
        if run.is_locked():
            return "running"
        if any(line["kind"] == "diverged" for line in run.read_metrics()[-1:]):
            return "diverged"
        return "failed" if _failure(product, root).exists() else "stopped"
    return "failed" if _failure(product, root).exists() else "missing"


def failure_of(product: Product, root: Path) -> str:
    """Why a product could not be made. Raises OSError if that was not tried."""
    return _failure(product, root).read_text()


def missing(studies: Sequence[Study], root: Path, scale: str) -> list[Product]:
    """What has to be made, each after what it is made of: what is neither there nor in the files of
    results, and whatever that needs and is not there. What diverged is left as it is."""
    wanted: dict[str, Product] = {}

    def want(product: Product, records: Records | None) -> None:
        if product.name in wanted or state_of(product, root, records) in _SETTLED:
            return
        for part in product.needs:
            want(part, None)
        wanted[product.name] = product

    for study in studies:
        records = Records.read(records_path(root, study, scale))
        for product in (*study.runs, *(exchange for _, exchange in study.exchanges)):
            want(product, records)
    return list(wanted.values())


_SETTLED = ("made", "recorded", "diverged")


def make_studies(studies: Sequence[Study], root: Path, scale: str, jobs: int | None) -> list[str]:
    """Makes all that is missing, and the files of results.

    What stopped goes on. What fails is written down, and what needs it is left out; the rest is
    made all the same.

    Args:
        studies: the studies.
        root: the folder of all products, which is made.
        scale: the name of their scale.
        jobs: the number of processes; by default one a core, as memory allows, and on an
            accelerator one.

    Returns:
        What could not be made, a sentence each.

    Raises:
        InputError: another process makes studies in this folder.
        KeyboardInterrupt: after Ctrl-C, when all runs have written a checkpoint.
    """
    root.mkdir(parents=True, exist_ok=True)
    with _lock(root):
        products = missing(studies, root, scale)
        work = _Work(products, root)
        try:
            for ended in run_side_by_side(work.tasks(), jobs or best_jobs(products)):
                work.note(ended)
        except KeyboardInterrupt:
            raise KeyboardInterrupt("stopped; the same command goes on") from None
        finally:
            collect(studies, root, scale)
        return work.failures()


def collect(studies: Sequence[Study], root: Path, scale: str) -> None:
    """Writes the files of results: what they held already, and every run as far as it is. Raises
    InputError if one of them is damaged."""
    for study in studies:
        path = records_path(root, study, scale)
        records = Records.read(path)
        for training in study.runs:
            if (training.path(root) / METRICS).exists():
                records.add(training.name, training.path(root))
        for _, exchange in study.exchanges:
            if exchange.made(root):
                records.exchanges[exchange.name] = exchange.read(root)
        if records.runs:
            records.write(path)


class _Work:
    """What is to be made, and how far that is."""

    def __init__(self, products: list[Product], root: Path) -> None:
        self._root = root
        self._todo = {product.name: product for product in products}
        self._open = set(self._todo)
        """What is not made yet, and may still be."""
        self._begun: list[tuple[Product, float]] = []
        self._failed: dict[str, str] = {}
        self._total = len(products)

    def tasks(self) -> Iterator[Task | None]:
        """One after another what can be made; None where that has to wait for something else."""
        while self._todo:
            ready = next(filter(self._can_be_made, self._todo.values()), None)
            if ready is None:
                yield None
                continue
            del self._todo[ready.name]
            self._begun.append((ready, time.monotonic()))
            _failure(ready, self._root).unlink(missing_ok=True)
            yield functools.partial(_make, ready, self._root)

    def note(self, ended: Ended) -> None:
        """Writes down how a task ended."""
        product, began = self._begun[ended.task]
        self._open.discard(product.name)
        seconds = time.monotonic() - began
        if ended.error is None:
            said = "made"
        elif isinstance(ended.error, KeyboardInterrupt):
            return
        else:
            self._fail(product, str(ended.error))
            said = f"failed: {ended.error}"
        done = self._total - len(self._open)
        line = f"[{done}/{self._total}] {product.kind} {product.name}  {seconds:.0f} s  {said}"
        print(line, file=sys.stderr, flush=True)

    def failures(self) -> list[str]:
        """What could not be made, a sentence each."""
        return [f"{name}: {why}" for name, why in self._failed.items()]

    def _can_be_made(self, product: Product) -> bool:
        return not any(part.name in self._open for part in product.needs)

    def _fail(self, product: Product, why: str) -> None:
        """Writes down that a product cannot be made, nor all that needs it."""
        self._failed[product.name] = why
        path = _failure(product, self._root)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, why.encode())
        for other in list(self._todo.values()):
            if any(part.name == product.name for part in other.needs):
                del self._todo[other.name]
                self._open.discard(other.name)
                self._fail(other, f"needs {product.kind} {product.name}, which failed")


def _make(product: Product, root: Path) -> None:
    """In a process of the pool: makes a product. A run that diverges is settled by that."""
    with contextlib.suppress(DivergedError):
        product.make(root)


def best_jobs(products: Sequence[Product]) -> int:
    """As many processes as cores and memory allow; on an accelerator one."""
    if jax.default_backend() != "cpu":
        return 1
    settings = {one.config.program for one in products if isinstance(one, Training)}
    most = max((memory_mib(each, programs_for(each).env.spec) for each in settings), default=1.0)
    free = free_mib()
    return max(1, min(len(cores()), len(cores()) if free is None else int(free / most)))


def _failure(product: Product, root: Path) -> Path:
    return root / "failed" / f"{product.name}.txt"


@contextlib.contextmanager
def _lock(root: Path) -> Iterator[None]:
    """Holds the folder for this process; the kernel lets go when that dies."""
    with (root / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            remedy = "wait for it, or choose another --out"
            raise InputError(f"{root}: another process makes studies here; {remedy}") from None
        yield
