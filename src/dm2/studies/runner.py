"""Makes what studies need, in the order of dependence, in several processes, as far as it is not
there yet."""

import contextlib
import fcntl
import functools
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from dm2.errors import DivergedError, InputError, as_whole
from dm2.files import check_target, write_atomically
from dm2.run.costs import memory_mib
from dm2.run.pool import Ended, Task, fitting_jobs, run_side_by_side
from dm2.run.programs import programs_for
from dm2.studies.products import Product, Training
from dm2.studies.results import collect, failure_path, missing, state_of
from dm2.studies.study import Study

__all__ = ["make_studies", "processes_for"]


def make_studies(
    studies: Sequence[Study],
    root: Path,
    scale: str,
    jobs: int | None,
    *,
    same_experts: bool = False,
) -> list[str]:
    """Makes all that is missing, and the files of results.

    What stopped goes on. What fails is written down, and what needs it is left out; the rest is
    made all the same.

    Args:
        studies: The studies.
        root: The folder of all products, which is made.
        scale: The name of their scale.
        jobs: The number of processes; see `processes_for`.
        same_experts: See `missing`.

    Returns:
        What could not be made, a sentence each.

    Raises:
        InputError: If another process makes studies in this folder, it cannot be made, or `jobs` is
            no number above 0.
        KeyboardInterrupt: After Ctrl-C, when all runs have written a checkpoint.
    """
    check_target("out", root / "lock")
    root.mkdir(parents=True, exist_ok=True)
    with _lock(root):
        products = missing(studies, root, scale, same_experts=same_experts)
        processes, work = processes_for(products, jobs), _Work(products, root)
        try:
            for ended in run_side_by_side(work.tasks(), processes):
                work.note(ended)
        except KeyboardInterrupt:
            raise KeyboardInterrupt("stopped; the same command goes on") from None
        finally:
            collect(studies, root, scale, same_experts=same_experts)
        return work.failures()


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
            failure_path(ready, self._root).unlink(missing_ok=True)
            yield functools.partial(_make, ready, self._root)

    def note(self, ended: Ended) -> None:
        """Writes down how a task ended."""
        product, began = self._begun[ended.task]
        seconds = f"{time.monotonic() - began:.0f} s  "
        if ended.error is None:
            diverged = state_of(product, self._root) == "diverged"
            self._close(product, seconds + ("diverged" if diverged else "made"))
        elif not isinstance(ended.error, KeyboardInterrupt):
            self._fail(product, str(ended.error), seconds)

    def failures(self) -> list[str]:
        """What could not be made, a sentence each."""
        return [f"{name}: {why}" for name, why in self._failed.items()]

    def _can_be_made(self, product: Product) -> bool:
        return not any(part.name in self._open for part in product.needs)

    def _close(self, product: Product, said: str) -> None:
        """Counts a product as over, and says how."""
        self._open.discard(product.name)
        done = self._total - len(self._open)
        line = f"[{done}/{self._total}] {product.kind} {product.name}  {said}"
        print(line, file=sys.stderr, flush=True)

    def _fail(self, product: Product, why: str, seconds: str = "") -> None:
        """Writes down that a product cannot be made, nor all that needs it."""
        self._close(product, f"{seconds}failed: {why}")
        self._failed[product.name] = why
        path = failure_path(product, self._root)
        write_atomically(path, why.encode())
        for other in list(self._todo.values()):
            if any(part.name == product.name for part in other.needs):
                del self._todo[other.name]
                self._fail(other, f"needs {product.kind} {product.name}, which failed")


def _make(product: Product, root: Path) -> None:
    """In a process of the pool: makes a product. A run that diverges is settled by that."""
    product.check(root)
    with contextlib.suppress(DivergedError):
        product.make(root)


def processes_for(products: Sequence[Product], jobs: int | None = None) -> int:
    """How many processes make these products, never more than there are products.

    Args:
        products: What is to be made.
        jobs: How many were asked for; by default one a core, as memory allows, and on an
            accelerator one.

    Raises:
        InputError: `jobs` is no whole number above 0.
    """
    most = _best_jobs(products) if jobs is None else as_whole("jobs", jobs)
    return max(1, min(most, len(products)))


def _best_jobs(products: Sequence[Product]) -> int:
    """As many processes as the largest of the runs leaves memory for."""
    settings = {one.config.program for one in products if isinstance(one, Training)}
    most = max((memory_mib(each, programs_for(each).env.spec) for each in settings), default=1.0)
    return fitting_jobs(most)


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
