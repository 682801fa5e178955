"""What it takes to make studies, before anything starts, and how far they are."""

import statistics
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from dm2.config import Config, ProgramSettings
from dm2.cores import cores
from dm2.envs import EnvSpec, make
from dm2.errors import InputError
from dm2.run.costs import matmul_gflops, seconds_per_step
from dm2.run.directory import CONFIG, METRICS, RunDirectory
from dm2.run.programs import programs_for
from dm2.studies.products import Product, Recording, Training
from dm2.studies.results import known_results, missing, recorded, state_of
from dm2.studies.runner import processes_for
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


class _Rate(NamedTuple):
    """How fast runs of one method in one environment were."""

    speed: float
    """Environment steps a second: the median over runs of the median over their iterations."""
    settings: ProgramSettings
    """Of one of them."""
    spec: EnvSpec | None
    """Of its environment, as the run holds it; None if it does not."""


_Rates = dict[tuple[str, str], _Rate]
"""By method and environment."""


@dataclass(frozen=True)
class Progress:
    """How far a study is."""

    study: Study
    states: dict[str, str]
    """By the name of a product, its state; see `dm2.studies.results.STATES`."""

    @property
    def counts(self) -> Counter[str]:
        """How many products are in each state."""
        return Counter(self.states.values())


def plan(
    studies: Sequence[Study],
    root: Path,
    scale: str,
    jobs: int | None = None,
    *,
    same_experts: bool = False,
) -> Plan:
    """What it takes to make studies, without what is there.

    A run's hours are those of the steps it lacks, at the median speed of the runs in `root` of the
    same method and environment, else worked out from its arithmetic and from what large matrix
    products reach here (see `dm2.run.costs.seconds_per_step`), on cores that do nothing else. What
    is worked out is multiplied by how much longer the runs in `root` took than that, in the median
    over methods and environments.

    Args:
        studies: The studies.
        root: The folder of all products.
        scale: The name of their scale.
        jobs: The number of processes; by default as `make_studies` chooses.
        same_experts: See `missing`.
    """
    products = missing(studies, root, scale, same_experts=same_experts)
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
    records = recorded(study, known_results(root, scale))
    states = {one.name: str(state_of(one, root, records)) for one in study.products}
    return Progress(study, states)


def trained_steps(run: Training, root: Path) -> int:
    """The environment steps that a run has trained for, by its metrics. Raises InputError if there
    is no such run."""
    records = RunDirectory.open(run.path(root)).read_metrics()
    return records[-1]["step"] if records else 0


def _row(product: Product, root: Path, rates: _Rates, processes: int) -> PlanRow:
    run = product.needs[0] if not isinstance(product, Training) else product
    while not isinstance(run, Training):
        run = run.needs[0]
    config = run.config
    steps, hours, disk = 0, _START_S / 3600, 0.0
    if isinstance(product, Training):
        steps = config.iterations * config.iteration_steps - _done(product, root)
        hours += steps * _seconds(config, rates, processes) / 3600
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


def _measured(root: Path) -> _Rates:
    """The speeds of the runs that are there, by method and environment."""
    found: dict[tuple[str, str], list[float]] = {}
    runs = {}
    for file in sorted(root.glob(f"runs/*/{METRICS}")):
        try:
            run = RunDirectory.open(file.parent)
            lines = run.read_metrics()
            speeds = [line["steps_per_s"] for line in lines if line["kind"] == "train"]
        except (InputError, KeyError, TypeError):
            continue  # a run that is damaged says nothing of speed
        if speeds:
            key = run.config.method.name, run.config.env
            found.setdefault(key, []).append(statistics.median(speeds))
            runs[key] = run
    return {
        key: _Rate(statistics.median(each), runs[key].config.program, _spec_of(runs[key]))
        for key, each in found.items()
    }


def _spec_of(run: RunDirectory) -> EnvSpec | None:
    """A run's environment by what the run holds of it, so that none has to be made."""
    try:
        values = run.info["environment"]
        return EnvSpec(**{**values, "action_names": tuple(values.get("action_names", ()))})
    except (KeyError, TypeError, AttributeError, InputError):  # it is another version's
        return None


def _seconds(config: Config, rates: _Rates, processes: int) -> float:
    """For an environment step of a run."""
    rate = rates.get((config.method.name, config.env))
    if rate is not None:
        return 1 / rate.speed
    return _slowness(rates, processes) * _worked_out(config.program, processes)


def _slowness(rates: _Rates, processes: int) -> float:
    """How many times as long the runs that are there took as is worked out; 1 if there are none."""
    gflops = _gflops() / processes
    ratios = [
        1 / (rate.speed * seconds_per_step(rate.settings, rate.spec, gflops))
        for rate in rates.values()
        if rate.spec is not None
    ]
    return statistics.median(ratios) if ratios else 1.0


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
