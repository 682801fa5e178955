"""Groups runs by what was run, and chooses those that a comparison can use."""

import dataclasses
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Float

from dm2.errors import InputError, Whole, as_whole
from dm2.studies import statistics
from dm2.studies.records import find_runs
from dm2.studies.runs import MEASURES, Measure, Run

__all__ = ["BASELINE", "Comparison", "Environment", "Group", "group_runs", "read_comparison"]

BASELINE = "ippo"
"""The method that the others are compared with."""

_FINAL = 5  # evaluations of the run that is evaluated most rarely
_SAME_RULES = {"jaxmarl 0.2.0": "smax 0.2.0"}
"""Versions of `smax/*` that count as one: runs were first made with JaxMARL's own SMAX, which the
engine of this library equals to rounding (docs/battles.md)."""


@dataclass(frozen=True)
class Group:
    """Runs that differ in nothing but seed, length and bookkeeping, sorted by seed."""

    runs: list[Run]
    """Those that numbers and mean curves are of."""
    left_out: list[Run]
    """Those that end too early, or diverged."""

    @property
    def end(self) -> float:
        """The step up to which all its runs go, apart from those left out."""
        return min(self.ends)

    @property
    def ends(self) -> list[float]:
        """The last step of each of its runs."""
        return [run.end for run in self.runs]


@dataclass(frozen=True)
class Environment:
    """The groups of one environment, by label, and what its numbers are taken over."""

    measure: Measure
    """What its runs are compared by."""
    groups: dict[str, Group]
    budget: float
    """The step at which areas and final values are taken."""

    @cached_property
    def runs(self) -> list[Run]:
        """All runs that numbers are of."""
        return [run for group in self.groups.values() for run in group.runs]

    @cached_property
    def interval(self) -> float:
        """Environment steps between the evaluations of the run that is evaluated most rarely."""
        return max(run.interval for run in self.runs)

    @cached_property
    def final_from(self) -> float:
        """The first step of the stretch, up to the budget, over which final values are averaged.

        It holds five evaluations of the run that is evaluated most rarely, and all that others
        have there.
        """
        return min(run.steps[run.steps <= self.budget][-_FINAL:][0] for run in self.runs)

    def only(self, *labels: str) -> "Environment":
        """These of its groups by themselves. The budget is the last step up to which all their runs
        go, however far those of others are."""
        groups = {label: self.groups[label] for label in labels}
        return Environment(self.measure, groups, min(group.end for group in groups.values()))

    def window(self, run: Run) -> int:
        """The number of evaluations that its curve is smoothed over, odd.

        Three for the run that is evaluated most rarely. Another's are as many as span about the
        same steps from the first to the last, so that no curve is smoothed more than others.
        """
        return 2 * round(self.interval / run.interval) + 1

    def areas(self, group: Group) -> Float[np.ndarray, " seeds"]:
        """The area under each run's curve, up to the budget."""
        areas = [
            statistics.area_under_curve(run.steps, run.values, self.budget) for run in group.runs
        ]
        return np.array(areas)

    def finals(self, group: Group) -> Float[np.ndarray, " seeds"]:
        """Each run's mean over the final stretch."""
        since, budget = self.final_from, self.budget
        finals = [statistics.final(run.steps, run.values, since, budget) for run in group.runs]
        return np.array(finals)

    def steps_to(self, group: Group, level: float) -> Float[np.ndarray, " seeds"]:
        """The step at which each run's smoothed curve comes to a level; inf where it never does."""
        steps = [
            statistics.steps_to_threshold(run.steps, run.values, level, self.window(run))
            for run in group.runs
        ]
        return np.array(steps)


@dataclass(frozen=True)
class Comparison:
    """Environments by title, and the notes on what was left out or is unlike."""

    environments: dict[str, Environment]
    notes: list[str]


def _stand_in(versions: Iterable[str | None]) -> str:
    """What to take for an unknown version: the only one known, if there is one."""
    known = {version for version in versions if version is not None}
    return known.pop() if len(known) == 1 else "unknown"


def _by_environment(runs: Iterable[Run], notes: list[str]) -> dict[str, list[Run]]:
    """Runs by the environment's name, followed by its version if there are several; baselines
    first, and others by their method, or those that have a label as they came.

    Names whose options stand in another order, or repeat a default, are of one environment. A run
    that does not say which version it is of counts as one of the others', unless they have several.
    """
    result: dict[str, list[Run]] = {}

    def place(run: Run) -> tuple[bool, str]:
        method = run.config["method"]
        return method != BASELINE, method if run.label is None else ""

    runs = sorted(runs, key=place)
    known = [run for run in runs if run.environment.get("name")]
    names = {run.config["env"]: run.environment["name"] for run in known}
    by_name: dict[str, list[Run]] = {}
    for run in runs:
        env = run.config["env"]
        by_name.setdefault(names.get(env, env), []).append(run)
    # By a name as it was written, by which a study knows its curves.
    written = {min(run.config["env"] for run in inside): inside for inside in by_name.values()}
    for env, inside in sorted(written.items()):
        made = [run.environment.get("version") for run in inside]
        same = _SAME_RULES if env.startswith("smax/") else {}
        versions = [version if version is None else same.get(version, version) for version in made]
        stand_in = _stand_in(versions)
        versions = [version or stand_in for version in versions]
        for version in sorted(set(versions)):
            title = env if len(set(versions)) == 1 else f"{env} ({version})"
            pairs = zip(inside, versions, strict=True)
            result[title] = [run for run, own in pairs if own == version]
            names = sorted({own for own in made if own and same.get(own, own) == version})
            if len(names) > 1:
                notes.append(f"{title}: made with {' and '.join(names)}, which have the same rules")
        if None in made and stand_in != "unknown":
            notes.append(
                f"{env}: {made.count(None)} of {len(made)} runs do not say which version of the"
                f" environment they are of; taken for {stand_in}"
            )
    return result


def _measure(env: str, runs: Sequence[Run]) -> Measure:
    """By return if nobody can win: so says config.json, or no evaluation has a win rate.

    Runs of earlier versions in JaxMARL's environments, which know no victory, have win rates of
    0 throughout.
    """
    says = [run.environment.get("wins") for run in runs]
    rates = np.concatenate([run.win_rates for run in runs])
    earlier = env.startswith("jaxmarl/") and True not in says and not np.nansum(rates)
    return "return" if False in says or np.isnan(rates).all() or earlier else "win_rate"


def _curves(title: str, runs: Sequence[Run], notes: list[str]) -> list[Run]:
    """The runs with a curve of what the environment is compared by.

    A run that does not say which dm2 made it counts as made by that of the others, unless they
    have several.
    """
    measure = _measure(title, runs)
    curves = []
    for run in (dataclasses.replace(run, measure=measure) for run in runs):
        known = np.isfinite(run.values)
        if known.sum() < 2:
            notes.append(f"{run.path}: skipped, fewer than two evaluations so far")
            continue
        if not known.all():
            count = f"{(~known).sum()} of {len(known)} evaluations"
            notes.append(f"{run.path}: {count} left out, which have no {MEASURES[measure]}")
        kept = {name: getattr(run, name)[known] for name in ("steps", "win_rates", "returns")}
        curves.append(dataclasses.replace(run, **kept))
    versions = [run.info.get("dm2_version") for run in curves]
    stand_in = _stand_in(versions)
    if None in versions and stand_in != "unknown":
        count = f"{versions.count(None)} of {len(versions)} runs"
        notes.append(f"{title}: {count} do not say which dm2 made them; taken for {stand_in}")
    return [
        dataclasses.replace(run, info=run.info | {"dm2_version": version or stand_in})
        for run, version in zip(curves, versions, strict=True)
    ]


def _demos_name(run: Run, rivals: Iterable[Run]) -> str:
    """`demos 52 %`; the hash's first digits tell apart sources of the same rounded win rate."""

    def name(of: Run) -> str:
        if of.demo_value is None:
            return f"demos {(of.demo_source or 'unknown')[:7]}"
        if of.measure == "return":
            return f"demos {of.demo_value:.4g}"
        return f"demos {100 * of.demo_value:.0f} %"

    alike = {rival.demo_source for rival in rivals if name(rival) == name(run)}
    return name(run) + (f" {str(run.demo_source)[:7]}" if len(alike) > 1 else "")


def _short(key: str, keys: Iterable[str]) -> str:
    """`imitation.coefficient` as `coefficient`, unless another setting ends likewise."""
    name = key.rsplit(".", 1)[-1]
    return key if sum(other.rsplit(".", 1)[-1] == name for other in keys) > 1 else name


def _label(run: Run, among: Sequence[Run]) -> str:
    """The method, and its settings that differ among the runs of the same method.

    The version of dm2 is named wherever it differs among all.
    """
    rivals = [rival for rival in among if rival.config["method"] == run.config["method"]]
    every, own = [rival.settings() for rival in rivals], run.settings()
    keys = {key: None for settings in every for key in settings}
    parts = []
    for key in keys:
        others = [other.settings() for other in among] if key == "dm2_version" else every
        if len({str(settings.get(key, "unset")) for settings in others}) == 1:
            continue
        if key == "demonstrations":
            parts.append(_demos_name(run, rivals))
        else:
            parts.append(f"{_short(key, keys)}={own.get(key, 'unset')}")
    return run.config["method"] + (f" ({', '.join(parts)})" if parts else "")


def _key(run: Run) -> str:
    return run.config["method"] + json.dumps(run.settings(), sort_keys=True)


def _one_per_seed(runs: Iterable[Run], notes: list[str]) -> list[Run]:
    """The longest run of each seed, a finished one if there is: a repetition of a seed is no
    independent sample."""
    chosen: dict[int, Run] = {}
    for run in sorted(runs, key=lambda run: (not run.finished, -run.end)):
        seed = run.config["seed"]
        if seed in chosen:
            kept = chosen[seed].path
            notes.append(f"{run.path}: skipped, repeats seed {seed} of {kept}")
        else:
            chosen[seed] = run
    return [chosen[seed] for seed in sorted(chosen)]


def _labelled(
    title: str, runs: Sequence[Run], notes: list[str], same: bool
) -> dict[str, list[Run]]:
    """The runs by label, one for each seed."""
    collected: dict[str, list[Run]] = {}
    for run in runs:
        label = _label(run, runs) if run.label is None else run.label
        collected.setdefault(label, []).append(run)
    for label, members in collected.items():
        if not same and len({_key(run) for run in members}) > 1:
            names = sorted({_label(run, runs) for run in members})
            remedy = "give each its own path and label, or leave labels out"
            raise InputError(f"label {label!r}: covers {', '.join(names)} in {title}; {remedy}")
    return {label: _one_per_seed(members, notes) for label, members in collected.items()}


def _choose(name: str, runs: list[Run], budget: int | None, notes: list[str]) -> Group:
    """Leaves out runs that end before the budget or, without one, before the group's finished runs.

    Without a budget, runs that diverged are left out too, unless all of the environment did; if
    none is finished, the others are used as far as they are.
    """
    if budget is not None:
        used = [run for run in runs if run.end >= budget]
    else:
        sound = [run for run in runs if not run.diverged] or runs
        finished = [run for run in sound if run.finished]
        end = min(run.end for run in finished or sound)
        used = [run for run in sound if run.end >= end]
        if not finished:
            all_diverged = ", and all diverged" if sound[0].diverged else ""
            where = f"step {end:,.0f}, where the shortest ends"
            notes.append(f"{name}: no run is finished{all_diverged}; they are used up to {where}")
    left_out = [run for run in runs if run not in used]
    for run in left_out:
        how = "diverged, and ended" if run.diverged else "ended"
        before = "" if budget is None else f", before the budget of {budget:,}"
        where = f"at step {run.end:,.0f} of {run.planned:,}{before}"
        notes.append(f"{run.path}: left out of all numbers and of the mean curve, {how} {where}")
    return Group(used, left_out)


def _note_lengths(title: str, environment: Environment, notes: list[str]) -> None:
    ends = {run.end: run.path for run in environment.runs}
    first, last = min(ends), max(ends)
    if last - first >= environment.interval:  # less may come of whole iterations
        where = f"between step {first:,.0f} ({ends[first]}) and {last:,.0f}"
        notes.append(
            f"{title}: runs end {where}; area and final {MEASURES[environment.measure]} are taken"
            f" at step {environment.budget:,.0f}, steps to a level over the whole of each run"
        )


def _note_evaluations(title: str, environment: Environment, notes: list[str]) -> None:
    shortest = min(run.interval for run in environment.runs)
    if environment.interval > 1.25 * shortest:  # less may come of whole iterations
        notes.append(
            f"{title}: runs are evaluated every {shortest:,.0f} to {environment.interval:,.0f}"
            " steps; smoothing and final values span the same steps for all"
        )
    every = [run.config.get("eval_episodes") for run in environment.runs]
    episodes = sorted({count for count in every if count is not None})
    if len(episodes) > 1:
        counts = " and ".join(f"{count:,}" for count in episodes)
        notes.append(f"{title}: evaluations are of {counts} episodes; the fewer, the noisier")


def _note_versions(name: str, group: Group, notes: list[str]) -> None:
    for kind, words in (("jax", "versions of jax"), ("commit", "commits of dm2's source")):
        found = sorted({str(run.info[kind]) for run in group.runs if run.info.get(kind)})
        if len(found) > 1:
            notes.append(f"{name}: its runs were made with several {words}: {', '.join(found)}")


def _note_recordings(title: str, environment: Environment, notes: list[str]) -> None:
    """Of studies, whose recordings are named by all that decides them: experts that were trained
    anew on another machine, where arithmetic rounds otherwise, are other teams."""
    taught: dict[str, dict[str | None, str]] = {}
    for label, group in environment.groups.items():
        for run in group.runs:
            if name := run.config.get("demos"):
                value = "" if run.demo_value is None else f" ({run.demo_value:.3g})"
                taught.setdefault(name, {}).setdefault(run.demo_source, label + value)
    for name, labels in taught.items():
        if len(labels) > 1:
            notes.append(
                f"{title}: {' and '.join(labels.values())} learnt from recordings of one name,"
                f" {name}, that were made apart; where their experts were trained on several"
                " machines, which round otherwise, these are unlike teams;"
                " `dm2 study run --same-experts` makes runs of the other teams again"
            )


def _environment(
    title: str, runs: Sequence[Run], budget: int | None, notes: list[str], same: bool
) -> Environment:
    """The groups of one environment.

    Raises InputError if no run reaches the budget, or one is evaluated for the first time after it.
    """
    longest = max(run.end for run in runs)
    if budget is not None and longest < budget:
        remedy = f"no run goes that far in {title}; choose at most {longest:.0f}, or compare"
        raise InputError(f"budget = {budget}: {remedy} its runs apart")
    labelled = _labelled(title, runs, notes, same)
    gone = [label for label, members in labelled.items() if all(run.diverged for run in members)]
    if budget is None and len(gone) < len(labelled):
        for label in gone:
            notes.append(f"{title}, {label}: left out, since all of its runs diverged")
            del labelled[label]
    groups = {
        label: _choose(f"{title}, {label}", members, budget, notes)
        for label, members in labelled.items()
    }
    for label in [label for label, group in groups.items() if not group.runs]:
        notes.append(f"{title}, {label}: left out, since none of its runs reaches the budget")
        del groups[label]
    shortest = min(group.end for group in groups.values())
    environment = Environment(
        runs[0].measure, groups, shortest if budget is None else float(budget)
    )
    late = max(environment.runs, key=lambda run: run.steps[0])
    if late.steps[0] >= environment.budget:
        remedy = f"must be above {late.steps[0]:.0f}, the first evaluation of {late.path}"
        raise InputError(f"budget = {environment.budget:.0f}: {remedy}; or leave that run out")
    if budget is None:
        _note_lengths(title, environment, notes)
    _note_evaluations(title, environment, notes)
    if same:
        _note_recordings(title, environment, notes)
    for label, group in groups.items():
        _note_versions(f"{title}, {label}", group, notes)
    return environment


def group_runs(
    runs: Iterable[Run], notes: Sequence[str] = (), budget: int | None = None, *, same: bool = False
) -> Comparison:
    """Groups runs that differ in nothing but seed, length and bookkeeping.

    Args:
        runs: The runs.
        notes: What there is to say of them already.
        budget: The environment step at which numbers are taken; see `dm2.compare`.
        same: Whether runs of one label are taken for a group, whatever their settings.

    Returns:
        The groups; of runs that were not evaluated yet there are none.

    Raises:
        InputError: What `dm2.compare` raises of labels and budgets.
    """
    said, environments = list(notes), {}
    for title, inside in _by_environment(runs, said).items():
        if curves := _curves(title, inside, said):
            environments[title] = _environment(title, curves, budget, said, same)
    return Comparison(environments, said)


def read_comparison(
    paths: Sequence[str | Path], labels: Sequence[str] | None = None, budget: Whole | None = None
) -> Comparison:
    """Reads runs and groups those that differ in nothing but seed, length and bookkeeping.

    See `dm2.compare` for the arguments and for what raises.
    """
    budget = None if budget is None else as_whole("budget", budget)
    runs, notes = find_runs(paths, labels)
    comparison = group_runs(runs, notes, budget)
    if not comparison.environments:
        raise InputError(
            f"{', '.join(map(str, paths))}: no run has been evaluated yet; train longer"
        )
    return comparison
