"""What a study needs on disk: training runs, recordings of their teams, matches between teams.

A *product* is described by everything that decides what it is, down to the products that it is made
of. Its name ends in a digest of that, so that studies which need the same product share it, and a
product that is there need not be made again.
"""

import dataclasses
import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float

from dm2.config import Config
from dm2.demos.dataset import Demonstrations
from dm2.errors import (
    InputError,
    as_seed,
    as_whole,
    check_choice,
    check_setting,
    checks_itself,
)
from dm2.files import write_atomically
from dm2.methods import Settings
from dm2.run.behaviour import as_chance
from dm2.run.combine import record_style
from dm2.run.directory import CONFIG, METRICS, RunDirectory
from dm2.run.evaluate import evaluate, exchange
from dm2.run.styles import MIXED, Style
from dm2.run.sweep import train_or_resume
from dm2.studies.records import as_exchange
from dm2.studies.runs import read_run

__all__ = ["Exchange", "Product", "Recording", "Training", "in_order", "training"]

_DIGITS = 10
"""Of a digest: two of a million products have the same one with a probability of 5e-7."""
_LATER = {"learning_rate_begin": 0.0, "entropy_begin": 0.0, "coefficient_begin": 0.0}
"""Settings that products did not have at first, and what all of them did then: left out of the
digest at these values, so that products made earlier are still known by their names."""


class Product(ABC):
    """A product, by what it is; it knows where it lies and how to make it."""

    kind: ClassVar[str]
    """What it is, in a word."""

    @cached_property
    def name(self) -> str:
        """A readable name with a digest of all that decides what it is."""
        readable, decides = self._identity()
        text = json.dumps(decides, sort_keys=True)
        return f"{readable}-{hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]}"

    @property
    @abstractmethod
    def needs(self) -> "tuple[Product, ...]":
        """The products that it is made of."""

    @abstractmethod
    def path(self, root: Path) -> Path:
        """Where it lies in the folder of all products."""

    def made(self, root: Path) -> bool:
        """Whether it is there, whole: by default a file that is written wholly or not at all."""
        return self.path(root).exists()

    def check(self, root: Path) -> None:  # noqa: B027  (most are files written whole)
        """Raises InputError, with the remedy, if what is there of it is damaged."""

    @abstractmethod
    def make(self, root: Path) -> None:
        """Makes it, or goes on where that stopped, once what it needs is there."""

    @abstractmethod
    def _identity(self) -> tuple[str, Any]:
        """The readable part of its name, and all that decides what it is, as JSON holds it."""


@dataclass(frozen=True)
class Training(Product):
    """A training run. See `training`."""

    kind: ClassVar[str] = "run"
    config: Config
    """Its settings; in place of a file, `demos` is the name of the recording."""
    demos: "Recording | None" = None
    """What its agents imitate."""

    @property
    def needs(self) -> tuple[Product, ...]:
        """The demonstrations."""
        return () if self.demos is None else (self.demos,)

    def path(self, root: Path) -> Path:
        """The run's directory."""
        return root / "runs" / self.name

    def made(self, root: Path) -> bool:
        """Whether its last checkpoint is there."""
        if not (self.path(root) / CONFIG).exists():
            return False
        steps = RunDirectory.open(self.path(root)).steps()
        return bool(steps) and steps[-1] >= self.config.iterations * self.config.iteration_steps

    def check(self, root: Path) -> None:
        """Raises InputError if one of its files holds what no run writes, or only its settings are
        gone."""
        path = self.path(root)
        try:
            if not (path / CONFIG).exists():
                RunDirectory.check_unused(path)
                return
            RunDirectory.open(path).read_metrics()
            if (path / METRICS).exists():
                read_run(path)
        except InputError as error:
            raise InputError(f"{error}; or delete {path}, and it is made again") from None

    def make(self, root: Path) -> None:
        """Trains, or goes on with the run that is there."""
        demos = None if self.demos is None else str(self.demos.path(root))
        config = dataclasses.replace(self.config, demos=demos)
        train_or_resume(config, self.path(root), quiet=True)

    def _identity(self) -> tuple[str, Any]:
        config = self.config
        readable = f"{config.method.name}-{_as_file_name(config.env)}-seed_{config.seed}"
        return readable, _without_later(config.settled.to_dict())


def _without_later(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings, and those of their groups, without later ones at their first values."""
    kept = {}
    for name, value in settings.items():
        if name not in _LATER or value != _LATER[name]:
            kept[name] = _without_later(value) if isinstance(value, dict) else value
    return kept


def training(
    method: Settings, env: str, *, demos: "Recording | None" = None, **settings: Any
) -> Training:
    """A training run.

    Args:
        method: The method's settings.
        env: The environment's name.
        demos: What its agents imitate, for a method that imitates.
        settings: Further settings of `dm2.Config`, such as `steps` and `seed`.

    Raises:
        InputError: If the settings are unusable.
    """
    name = None if demos is None else demos.name
    return Training(Config(method, env, demos=name, **settings), demos)


@checks_itself
@dataclass(frozen=True)
class Recording(Product):
    """Demonstrations of a run's team or, in mixed styles, of an agent from each of several.

    Raises InputError if both `at` and `quality` are given, or a value is out of its range.
    """

    kind: ClassVar[str] = "recording"
    runs: tuple[Training, ...]
    """One run, or in mixed styles one for each agent."""
    at: int | None = None
    """A checkpoint's step, of all runs; the last of each by default."""
    quality: float | None = None
    """In place of `at`: of each run the first checkpoint whose team wins this share of the
    `_TRIALS` episodes that it samples."""
    episodes: int = 1000
    """Joint episodes for each agent."""
    style: Style = "co-trained-concurrent"
    epsilon: float | str | None = None
    """The probability of a random action, or `auto`; by default actions are sampled."""
    actions: bool = False
    """Whether actions and legal actions are kept, which cloning needs."""
    first: int | None = None
    """Only so many of the episodes are kept, the first."""
    seed: int = 0

    def __post_init__(self) -> None:
        prefix = "recording."
        if self.at is not None and self.quality is not None:
            raise InputError(f"quality = {self.quality:g}: give either at or quality, not both")
        check_setting(bool(self.runs), f"{prefix}runs", self.runs, "must be one at least")
        check_choice(self, prefix, "style", Style)
        remedy = "takes a run for each agent" if self.style in MIXED else "takes one run"
        fits = (len(self.runs) > 1) == (self.style in MIXED)
        check_setting(fits, f"{prefix}style", self.style, f"{remedy}, here are {len(self.runs)}")
        if self.quality is not None:
            ok = isinstance(self.quality, int | float) and 0 <= self.quality <= 1
            check_setting(ok, f"{prefix}quality", self.quality, "must be a number from 0 to 1")
        if self.epsilon is not None:
            as_chance(self.epsilon)
        as_whole(f"{prefix}episodes", self.episodes)
        if self.first is not None:
            as_whole(f"{prefix}first", self.first, 1, self.episodes)
        if self.at is not None:
            as_whole(f"{prefix}at", self.at, 1, min(run.config.steps for run in self.runs))
        as_seed(self.seed, f"{prefix}seed")

    @property
    def needs(self) -> tuple[Product, ...]:
        """The runs."""
        return self.runs

    def path(self, root: Path) -> Path:
        """The file of demonstrations."""
        return root / "demos" / f"{self.name}.safetensors"

    def make(self, root: Path) -> None:
        """Records."""
        runs = [run.path(root) for run in self.runs]
        at = [self._checkpoint(run) for run in runs]
        demos = record_style(
            runs,
            self.style,
            at=at,
            episodes=self.episodes,
            epsilon=self.epsilon,
            actions=self.actions,
            seed=self.seed,
        )
        # Names, not paths: what is recorded is the same wherever the folder lies.
        names = [run.name for run in self.runs]
        demos.provenance["run"] = names[0] if len(names) == 1 else names
        if self.first is not None:
            demos = demos.subset(episodes=self.first)
        demos.save(self.path(root), overwrite=True)

    def sha256(self, root: Path) -> str:
        """The digest of the demonstrations in its file. Raises InputError if that is damaged, or
        not there."""
        return Demonstrations.load(self.path(root)).sha256

    def _identity(self) -> tuple[str, Any]:
        run = self.runs[0].config
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        values["runs"] = [one.name for one in self.runs]
        return f"{_as_file_name(run.env)}-seed_{run.seed}", values

    def _checkpoint(self, path: Path) -> int | None:
        """The step of the checkpoint that is recorded. Raises InputError if none is good enough."""
        if self.quality is None:
            return self.at
        rates = {}
        for step in RunDirectory.open(path).steps():
            rates[step] = evaluate(path, at=step, episodes=_TRIALS, greedy=False)["win_rate"]
            if rates[step] is None:
                problem = f"quality = {self.quality:g}: nobody can win in {self.runs[0].config.env}"
                raise InputError(f"{problem}; leave quality out, or give at")
            if rates[step] >= self.quality:
                return step
        if not rates:
            problem, remedy = "has no checkpoint", "train it anew with a lower learning rate"
            raise InputError(f"quality = {self.quality:g}: {path} {problem}; {remedy}")
        best = max(rates.values())
        remedy = "train the demonstrators longer, or ask for less"
        raise InputError(f"quality = {self.quality:g}: {path} wins {best:.2f} at best; {remedy}")


_TRIALS = 512
"""Episodes by which the quality of a checkpoint is judged; the standard error is at most 0.022."""


@dataclass(frozen=True)
class Exchange(Product):
    """Agents of several teams put together: how often each team wins, and each with one agent of
    another team in place of its own. Raises InputError if there are fewer than two."""

    kind: ClassVar[str] = "exchange"
    runs: tuple[Training, ...]
    """The teams, in one environment."""
    episodes: int = 128
    """Greedy episodes of every team that is put together."""

    def __post_init__(self) -> None:
        remedy = "agents are exchanged between two or more; ask for more --seeds"
        check_setting(len(self.runs) >= 2, "teams of an exchange", len(self.runs), remedy)

    @property
    def needs(self) -> tuple[Product, ...]:
        """The runs."""
        return self.runs

    def path(self, root: Path) -> Path:
        """The file of win rates."""
        return root / "exchanges" / f"{self.name}.json"

    def make(self, root: Path) -> None:
        """Plays, and writes `win_rates`, `[S, S]`: of team i with one agent of team j, in the mean
        over which agent that is, and on the diagonal of team i by itself."""
        rates = exchange([run.path(root) for run in self.runs], episodes=self.episodes)
        text = json.dumps({"win_rates": np.round(rates, 4).tolist()})
        write_atomically(self.path(root), text.encode())

    def _identity(self) -> tuple[str, Any]:
        config = self.runs[0].config
        readable = f"{_as_file_name(config.env)}-{config.method.name}"
        return readable, [[run.name for run in self.runs], self.episodes]

    def check(self, root: Path) -> None:
        """Raises InputError if its file is damaged."""
        if self.made(root):
            self.read(root)

    def read(self, root: Path) -> Float[np.ndarray, "S S"]:
        """The win rates. Raises OSError if they were not made yet, InputError if the file is
        damaged."""
        path = self.path(root)
        try:
            return as_exchange(json.loads(path.read_text())["win_rates"])
        except (ValueError, KeyError, TypeError) as error:
            remedy = "delete it, and it is made again"
            raise InputError(f"{path}: holds no exchange ({error}); {remedy}") from None


def in_order(products: Iterable[Product]) -> list[Product]:
    """The products and all that they need, each once, and after what it needs."""
    found: dict[str, Product] = {}

    def add(product: Product) -> None:
        if product.name not in found:
            for needed in product.needs:
                add(needed)
            found[product.name] = product

    for product in products:
        add(product)
    return list(found.values())


def _as_file_name(env: str) -> str:
    """An environment's name in letters that every file system takes."""
    return "".join(letter if letter.isalnum() or letter in "_-" else "_" for letter in env)
