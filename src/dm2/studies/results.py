"""What is there of studies: of their products themselves, and in files of results."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from dm2.errors import InputError
from dm2.run.directory import CONFIG, METRICS, RunDirectory
from dm2.studies.products import Product, Training
from dm2.studies.records import Records
from dm2.studies.runs import read_run
from dm2.studies.study import Study

__all__ = [
    "STATES",
    "KnownResults",
    "State",
    "collect",
    "failure_of",
    "failure_path",
    "gather",
    "known_results",
    "missing",
    "recorded",
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
"""The states of a product, and what each means."""
KnownResults = Mapping[str, Records]
"""What files of results hold, by the names of the studies whose they are."""


def records_path(root: Path, study: Study, scale: str) -> Path:
    """The file of a study's results."""
    return root / "results" / f"{study.name}_{scale}.json"


def known_results(root: Path, scale: str) -> KnownResults:
    """What the files of results of all studies hold; studies share runs. Raises InputError if one
    of them is damaged."""
    end = f"_{scale}.json"
    paths = sorted((root / "results").glob(f"*{end}"))
    return {path.name.removesuffix(end): Records.read(path) for path in paths}


def recorded(study: Study, known: KnownResults) -> Records:
    """What files of results say of a study's runs and exchanges: its own, and others' what that
    lacks."""
    own, others = _own_and_others(study, known)
    return _merged(study, [own, *others])


def _own_and_others(study: Study, known: KnownResults) -> tuple[Records, list[Records]]:
    others = [records for name, records in known.items() if name != study.name]
    return known.get(study.name, Records()), others


def _merged(study: Study, sources: Iterable[Records]) -> Records:
    """What is known of a study's runs and exchanges by several sources: of each run what goes
    farthest and, among equals, what stands first. Results of one name may be of other experts."""
    merged = Records()
    for source in sources:
        for run in study.runs:
            if run.name in source.runs:
                merged.add(run.name, source.runs[run.name])
        for _, exchange in study.exchanges:
            if exchange.name in source.exchanges:
                merged.exchanges.setdefault(exchange.name, source.exchanges[exchange.name])
    return merged


def state_of(product: Product, root: Path, records: Records | None = None) -> State:
    """The state of a product, by what is on disk."""
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
        return "failed" if failure_path(product, root).exists() else "stopped"
    return "failed" if failure_path(product, root).exists() else "missing"


def failure_path(product: Product, root: Path) -> Path:
    """The file that says why a product could not be made."""
    return root / "failed" / f"{product.name}.txt"


def failure_of(product: Product, root: Path) -> str:
    """Why a product could not be made, or is damaged. Raises OSError if neither is so."""
    return _damage(product, root) or failure_path(product, root).read_text()


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
        studies: The studies.
        root: The folder of all products.
        scale: The name of their scale.
        same_experts: Whether runs of which there are results alone are made again where they learnt
            from another recording than the one of its name that is in the folder, or will be; and
            the exchanges of such runs.

    Raises:
        InputError: If a file of results is damaged, or a recording that `same_experts` compares.
    """
    known = known_results(root, scale)
    wanted: dict[str, Product] = {}

    def want(product: Product, records: Records | None) -> None:
        if product.name in wanted or state_of(product, root, records) in _SETTLED:
            return
        for part in product.needs:
            want(part, None)
        wanted[product.name] = product

    for study in studies:
        records = recorded(study, known)
        for product in (*study.runs, *(exchange for _, exchange in study.exchanges)):
            want(product, records)
    for study in studies if same_experts else ():
        records = recorded(study, known)
        for run in study.runs:
            if _has_other_experts(run, root, records, wanted):
                wanted.setdefault(run.name, run)
        for _, exchange in study.exchanges:
            if any(run.name in wanted for run in exchange.needs):
                want(exchange, None)
    return list(wanted.values())


def _has_other_experts(
    run: Training, root: Path, records: Records, wanted: Mapping[str, Product]
) -> bool:
    """Whether a run of which there are results alone learnt from another recording than the one of
    its name that is there, or that is to be made."""
    if run.demos is None or run.name not in records.runs or run.made(root):
        return False
    if run.demos.made(root):
        return records.runs[run.name].demo_source != run.demos.sha256(root)
    return run.demos.name in wanted


_SETTLED = ("made", "recorded", "diverged")


def gather(
    study: Study, root: Path, known: KnownResults, *, same_experts: bool = False
) -> tuple[Records, list[str]]:
    """What is known of a study's runs and exchanges: by its own file of results, by what is there
    of the runs themselves, as far as they are, and by other studies' files. Each run has the name
    of its curve, unless it is in several.

    Args:
        study: The study.
        root: The folder of all products.
        known: What files of results hold; see `known_results`.
        same_experts: Whether what is there goes before the study's own file, which may be of other
            experts.

    Returns:
        What is known, and what is damaged and therefore left out, a sentence each.
    """
    (there, damaged), (own, others) = _there(study, root), _own_and_others(study, known)
    first = [there, own] if same_experts else [own, there]
    records = _merged(study, [*first, *others])
    _label(records, study)
    return records, damaged


def _there(study: Study, root: Path) -> tuple[Records, list[str]]:
    """What a study's runs and exchanges themselves say, and which of them are damaged."""
    records, damaged = Records(), []
    for training in study.runs:
        if why := _damage(training, root):
            damaged.append(f"{training.name}: left out: {why}")
        elif (training.path(root) / METRICS).exists():
            records.add(training.name, read_run(training.path(root)))
    for _, exchange in study.exchanges:
        if why := _damage(exchange, root):
            damaged.append(f"{exchange.name}: left out: {why}")
        elif exchange.made(root):
            records.exchanges[exchange.name] = exchange.read(root)
    return records, damaged


def collect(
    studies: Sequence[Study], root: Path, scale: str, *, same_experts: bool = False
) -> None:
    """Writes the files of results: what is known of the studies' runs, see `gather`.

    A run that the file holds and the study does not ask for stays if it is of a further seed:
    whoever asks for fewer `--seeds` once may ask for all again. One of other settings stays until
    all of the study's own are there, and is then dropped. An exchange likewise, which is of further
    seeds if it is between more teams than the study asks for.

    Raises InputError if a file of results is damaged.
    """
    known = known_results(root, scale)
    for study in studies:
        records, _ = gather(study, root, known, same_experts=same_experts)
        before, seeds = known.get(study.name, Records()), {run.config.seed for run in study.runs}
        complete = all(records.settles(run.name) for run in study.runs)
        for name, run in before.runs.items():
            if name not in records.runs and not (complete and run.config["seed"] in seeds):
                records.runs[name] = run
        complete &= all(records.settles(exchange.name) for _, exchange in study.exchanges)
        teams = max((len(exchange.runs) for _, exchange in study.exchanges), default=math.inf)
        for name, rates in before.exchanges.items():
            if not complete or len(rates) > teams:
                records.exchanges.setdefault(name, rates)
        if records.runs:
            records.write(records_path(root, study, scale))


def _label(records: Records, study: Study) -> None:
    """Calls each run by the name of its curve, or by none where it is in several."""
    curves: dict[str, set[str]] = {}
    for curve in study.curves:
        for run in curve.runs:
            curves.setdefault(run.name, set()).add(curve.label)
    for name in curves.keys() & records.runs.keys():
        label, *others = curves[name]
        records.runs[name] = records.labelled(name, None if others else label)
