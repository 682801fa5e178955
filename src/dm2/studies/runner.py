"""Makes what studies need, in the order of dependence, in several processes, as far as it is not
there yet."""

import contextlib
import fcntl
import functools
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import jax

from dm2.cores import cores
from dm2.errors import DivergedError, InputError, as_whole
from dm2.files import check_target, write_atomically
from dm2.run.costs import memory_mib
from dm2.run.directory import CONFIG, METRICS, RunDirectory
from dm2.run.pool import Ended, Task, free_mib, run_side_by_side
from dm2.run.programs import programs_for
from dm2.studies.products import Product, Training
from dm2.studies.records import Records
from dm2.studies.runs import read_run
from dm2.studies.study import Study

__all__ = [
    "STATES",
    "State",
    "collect",
    "failure_of",
    "gather",
    "known_results",
    "make_studies",
    "missing",
    "processes_for",
    "records_path",
    "state_of",
]

State = Literal["made", "recorded", "running", "diverged", "failed", "stopped", "missing"]
STATES: dict[State, str] = {
    "made": "there",
    "recorded": "its results are there, itself it is not",
    "running": "a process is at it",
    "diverged": "it came to a number that is not finite, and stays as it is",
    "failed": "it could not be made, and will be tried again; or what is there of it is damaged",
    "stopped": "begun, and will go on",
    "missing": "not begun; or a recording or an exchange that a process is at",
}
"""What a product can be like, and what that means."""


def records_path(root: Path, study: Study, scale: str) -> Path:
    """The file of a study's results."""
    return root / "results" / f"{study.name}_{scale}.json"


def known_results(root: Path, scale: str) -> Records:
    """What the files of results of all studies hold; studies share runs. Raises InputError if one
    of them is damaged."""
    known = Records()
    for path in sorted((root / "results").glob(f"*_{scale}.json")):
        read = Records.read(path)
        for name, run in read.runs.items():
            known.add(name, run)
        known.exchanges |= read.exchanges
    return known


def state_of(product: Product, root: Path, records: Records | None = None) -> State:
    """What a product is like, by what is on disk."""
    if _damage(product, root):
        return "failed"
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
    """Why a product could not be made, or is damaged. Raises OSError if neither is so."""
    return _damage(product, root) or _failure(product, root).read_text()


def _damage(product: Product, root: Path) -> str:
    """What is wrong with what is there of a product, and the remedy; nothing if all is well."""
    try:
        product.check(root)
    except InputError as error:
        return str(error)
    return ""


def missing(
    studies: Sequence[Study], root: Path, scale: str, *, same_experts: bool = False
) -> list[Product]:
    """What has to be made, each after what it is made of: what is neither there nor in a file of
    results, and whatever that needs and is not there. What diverged is left as it is.

    Args:
        studies: the studies.
        root: the folder of all products.
        scale: the name of their scale.
        same_experts: whether runs of which there are results alone are made again where they learnt
            from another recording than the one of its name that is in the folder, or will be; and
            the exchanges of such runs.

    Raises:
        InputError: a file of results is damaged, or a recording that `same_experts` compares.
    """
    known = known_results(root, scale)
    wanted: dict[str, Product] = {}

    def want(product: Product, records: Records | None) -> None:
        if product.name in wanted or state_of(product, root, records) in _SETTLED:
            return
        for part in product.needs:
            want(part, None)
        wanted[product.name] = product

    runs = [run for study in studies for run in study.runs]
    exchanges = [exchange for study in studies for _, exchange in study.exchanges]
    for product in (*runs, *exchanges):
        want(product, known)
    if same_experts:
        for run in runs:
            if _has_other_experts(run, root, known, wanted):
                wanted.setdefault(run.name, run)
        for exchange in exchanges:
            if any(run.name in wanted for run in exchange.needs):
                want(exchange, None)
    return list(wanted.values())


def _has_other_experts(
    run: Training, root: Path, known: Records, wanted: Mapping[str, Product]
) -> bool:
    """Whether a run of which there are results alone learnt from another recording than the one of
    its name that is there, or that is to be made."""
    if run.demos is None or run.name not in known.runs or run.made(root):
        return False
    if run.demos.made(root):
        return known.runs[run.name].demo_source != run.demos.sha256(root)
    return run.demos.name in wanted


_SETTLED = ("made", "recorded", "diverged")


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
        studies: the studies.
        root: the folder of all products, which is made.
        scale: the name of their scale.
        jobs: the number of processes; see `processes_for`.
        same_experts: see `missing`.

    Returns:
        What could not be made, a sentence each.

    Raises:
        InputError: another process makes studies in this folder, it cannot be made, or `jobs` is
            no number above 0.
        KeyboardInterrupt: after Ctrl-C, when all runs have written a checkpoint.
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
            collect(studies, root, scale)
        return work.failures()


def gather(study: Study, root: Path, known: Records) -> tuple[Records, list[str]]:
    """What is known of a study's runs and exchanges: by files of results, and by what is there of
    the runs themselves, as far as they are. Each run has the name of its curve, unless it is in
    several.

    Args:
        study: the study.
        root: the folder of all products.
        known: what files of results hold; see `known_results`.

    Returns:
        What is known, and what is damaged and therefore left out, a sentence each.
    """
    records, damaged = Records(), []
    for training in study.runs:
        if training.name in known.runs:
            records.add(training.name, known.runs[training.name])
        if why := _damage(training, root):
            damaged.append(f"{training.name}: left out: {why}")
        elif (training.path(root) / METRICS).exists():
            records.add(training.name, read_run(training.path(root)))
    for _, exchange in study.exchanges:
        if exchange.name in known.exchanges:
            records.exchanges[exchange.name] = known.exchanges[exchange.name]
        if why := _damage(exchange, root):
            damaged.append(f"{exchange.name}: left out: {why}")
        elif exchange.made(root):
            records.exchanges[exchange.name] = exchange.read(root)
    _label(records, study)
    return records, damaged


def collect(studies: Sequence[Study], root: Path, scale: str) -> None:
    """Writes the files of results: what is known of the studies' runs, see `gather`.

    A run that the file holds and the study does not ask for stays if it is of a further seed:
    whoever asks for fewer `--seeds` once may ask for all again. One of other settings stays until
    all of the study's own are there, and is then dropped.

    Raises InputError if a file of results is damaged.
    """
    known = known_results(root, scale)
    for study in studies:
        path = records_path(root, study, scale)
        records, _ = gather(study, root, known)
        seeds = {run.config.seed for run in study.runs}
        complete = all(records.settles(run.name) for run in study.runs)
        for name, run in Records.read(path).runs.items():
            if name not in records.runs and not (complete and run.config["seed"] in seeds):
                records.runs[name] = run
        if records.runs:
            records.write(path)


def _label(records: Records, study: Study) -> None:
    """Calls each run by the name of its curve, or by none where it is in several."""
    curves: dict[str, set[str]] = {}
    for curve in study.curves:
        for run in curve.runs:
            curves.setdefault(run.name, set()).add(curve.label)
    for name in curves.keys() & records.runs.keys():
        label, *others = curves[name]
        records.runs[name] = records.labelled(name, None if others else label)


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
        path = _failure(product, self._root)
        path.parent.mkdir(parents=True, exist_ok=True)
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
        products: what is to be made.
        jobs: how many were asked for; by default one a core, as memory allows, and on an
            accelerator one.

    Raises:
        InputError: `jobs` is no whole number above 0.
    """
    most = _best_jobs(products) if jobs is None else as_whole("jobs", jobs)
    return max(1, min(most, len(products)))


def _best_jobs(products: Sequence[Product]) -> int:
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
