"""What it takes to make studies, before anything starts, and how far they are."""

import json
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import jax
import numpy as np

from dm2.config import ProgramSettings
from dm2.cores import cores
from dm2.envs import make
from dm2.errors import InputError
from dm2.run.costs import matmul_gflops, seconds_per_step
from dm2.run.directory import CONFIG, METRICS, RunDirectory
from dm2.run.programs import programs_for
from dm2.studies.products import Product, Recording, Training
from dm2.studies.runner import known_results, missing, processes_for, state_of
from dm2.studies.study import Study, needed

__all__ = ["Plan", "PlanRow", "Progress", "plan", "progress", "trained_steps"]

_START_S = 10.0
"""Seconds that a product takes beside its environment steps."""
_MIB = 2**20
_METRICS_BYTES = 3000
"""Of an iteration: its line of metrics and its TensorBoard events."""


@dataclass(frozen=True)
class PlanRow:
    """Products of one kind that are to be made."""

    kind: str
    env: str
    method: str
    count: int
    steps: int
    """Environment steps of all of them."""
    hours: float
    """Of one process."""
    disk_mib: float


@dataclass(frozen=True)
class Plan:
    """What is to be made."""

    there: int
    """Products that need not be made: they are there, their results are, or nothing that is missing
    needs them."""
    rows: list[PlanRow]
    jobs: int
    """Processes."""

    @property
    def count(self) -> int:
        """Products that are to be made."""
        return sum(row.count for row in self.rows)

    @property
    def steps(self) -> int:
        """Environment steps that are to be made."""
        return sum(row.steps for row in self.rows)

    @property
    def hours(self) -> float:
        """How long it takes, all processes at work."""
        return sum((row.hours for row in self.rows), 0.0) / self.jobs

    @property
    def disk_mib(self) -> float:
        """What it takes on disk."""
        return sum((row.disk_mib for row in self.rows), 0.0)


@dataclass(frozen=True)
class Progress:
    """How far a study is."""

    study: Study
    states: dict[str, str]
    """By the name of a product, what it is like; see `dm2.studies.runner.STATES`."""

    @property
    def counts(self) -> Counter[str]:
        """How many products are like what."""
        return Counter(self.states.values())


def plan(studies: Sequence[Study], root: Path, scale: str, jobs: int | None = None) -> Plan:
    """What it takes to make studies, without what is there.

    A run's hours are those of the steps it lacks, at the median speed of the runs in `root` of the
    same method and environment, else worked out from its arithmetic and from what large matrix
    products reach here (see `dm2.run.costs.seconds_per_step`), on cores that do nothing else.

    Args:
        studies: the studies.
        root: the folder of all products.
        scale: the name of their scale.
        jobs: the number of processes; by default as `make_studies` chooses.
    """
    products = missing(studies, root, scale)
    processes = processes_for(products, jobs)
    rates = _measured(root)
    rows: dict[tuple[str, str, str], list[PlanRow]] = {}
    for product in products:
        row = _row(product, root, rates, processes)
        rows.setdefault((row.kind, row.env, row.method), []).append(row)
    merged = [
        PlanRow(
            *key,
            count=len(each),
            steps=sum(row.steps for row in each),
            hours=sum(row.hours for row in each),
            disk_mib=sum(row.disk_mib for row in each),
        )
        for key, each in rows.items()
    ]
    return Plan(len(needed(studies)) - len(products), merged, processes)


def progress(study: Study, root: Path, scale: str) -> Progress:
    """How far a study is, by what is on disk."""
    records = known_results(root, scale)
    states = {one.name: str(state_of(one, root, records)) for one in study.products}
    return Progress(study, states)


def trained_steps(run: Training, root: Path) -> int:
    """The environment steps that a run has trained for, by its metrics. Raises InputError if there
    is no such run."""
    records = RunDirectory.open(run.path(root)).read_metrics()
    return records[-1]["step"] if records else 0


def _row(
    product: Product, root: Path, rates: dict[tuple[str, str], float], processes: int
) -> PlanRow:
    run = product.needs[0] if not isinstance(product, Training) else product
    while not isinstance(run, Training):
        run = run.needs[0]
    config = run.config
    steps, hours, disk = 0, _START_S / 3600, 0.0
    if isinstance(product, Training):
        steps = config.iterations * config.iteration_steps - _done(product, root)
        rate = rates.get((config.method.name, config.env))
        each = _worked_out(config.program, processes) if rate is None else 1 / rate
        hours += steps * each / 3600
        kept = config.keep + len(config.checkpoint_steps)
        disk = (kept * _state_bytes(config.program) + config.iterations * _METRICS_BYTES) / _MIB
    elif isinstance(product, Recording):
        spec = make(config.env).spec
        size = product.episodes * spec.episode_limit / 3 * spec.num_agents
        disk = size * 4 * spec.observation_size / _MIB
    method = config.method.name
    return PlanRow(product.kind, config.env, method, 1, steps, hours, disk)


def _done(run: Training, root: Path) -> int:
    if not (run.path(root) / CONFIG).exists():
        return 0
    try:
        return max(RunDirectory.open(run.path(root)).steps(), default=0)
    except InputError:  # it is damaged
        return 0


def _measured(root: Path) -> dict[tuple[str, str], float]:
    """Steps a second by method and environment: the median over the iterations of the runs that
    are there."""
    found: dict[tuple[str, str], list[float]] = {}
    for file in sorted(root.glob(f"runs/*/{METRICS}")):
        try:
            config = json.loads((file.parent / CONFIG).read_text())["config"]
            lines = [json.loads(line) for line in file.read_text().splitlines()]
            key = config["method"], config["env"]
            speeds = [line["steps_per_s"] for line in lines if line["kind"] == "train"]
        except (OSError, ValueError, KeyError, TypeError):
            continue  # a run that is damaged says nothing of speed
        if speeds:
            found.setdefault(key, []).append(statistics.median(speeds))
    return {key: statistics.median(speeds) for key, speeds in found.items()}


@cache
def _worked_out(settings: ProgramSettings, processes: int) -> float:
    """Seconds for an environment step."""
    spec = programs_for(settings).env.spec
    return seconds_per_step(settings, spec, _gflops() / processes)


@cache
def _gflops() -> float:
    """Of all cores, or of the accelerator."""
    if jax.default_backend() != "cpu":
        return matmul_gflops(3)
    return matmul_gflops(3, time.process_time) * len(cores())


@cache
def _state_bytes(settings: ProgramSettings) -> int:
    """The size of a checkpoint."""
    shapes = jax.tree.leaves(programs_for(settings).shapes())
    return sum(int(np.prod(x.shape)) * x.dtype.itemsize for x in shapes)
