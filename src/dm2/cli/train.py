"""The command `train`, with a subcommand for every method and a flag for every setting of it."""

import dataclasses
import functools
import inspect
from pathlib import Path
from typing import Annotated, Any, Union

from tyro.conf import arg, subcommand

from dm2.cli.output import Json, report
from dm2.config import Config
from dm2.errors import InputError
from dm2.methods import METHODS, Settings
from dm2.run.loop import foresee
from dm2.run.loop import train as train_one
from dm2.run.sweep import best_jobs, train_seeds

__all__ = ["train_command"]


@dataclasses.dataclass(frozen=True)
class _Options:
    """What one call of `train` is asked for beside the settings of a run."""

    out: Annotated[Path, arg(help="Directory of the run, new; with --seeds, of all of them.")]
    seeds: Annotated[
        int | None,
        arg(
            help="Train this many seeds, from --seed on, into OUT/seed_<n>; those already there "
            "go on where they stopped."
        ),
    ] = None
    jobs: Annotated[
        int | None,
        arg(
            help="With --seeds: processes side by side, each on its share of the cores. By "
            "default one a core, as memory allows; on an accelerator one in all."
        ),
    ] = None
    dry_run: Annotated[
        bool, arg(help="Check everything and say what a run takes, in memory too; train nothing.")
    ] = False
    json: Json = False


def train_command() -> Any:
    """The function behind `dm2 train`, whose subcommands are the methods that there are now."""
    methods: Any = Union[tuple(_subcommand(settings) for settings in METHODS.values())]  # noqa: UP007

    def train(call: Annotated[methods, arg(name="")]) -> None:
        _train(_checked(call.config), call.options)

    train.__doc__ = "Train a team by one of the methods, and write a run directory."
    return train


def _subcommand(settings: type[Settings]) -> Any:
    """The arguments of `dm2 train METHOD`: the run's settings, the method's own, the options."""
    groups: list[Any] = []
    for f in dataclasses.fields(settings):
        if isinstance(f.default_factory, type) and dataclasses.is_dataclass(f.default_factory):
            group = _unchecked(f.default_factory, [])
            default = functools.partial(group, **vars(f.default_factory()))
            groups.append((f.name, group, dataclasses.field(default_factory=default)))
    own = [("method", Annotated[_unchecked(settings, groups), arg(name="")])]
    config = _unchecked(Config, own)
    fields: list[Any] = [
        ("config", Annotated[config, arg(name="")]),
        ("options", Annotated[_Options, arg(name="")]),
    ]
    call = dataclasses.make_dataclass("_Call", fields, frozen=True)
    return Annotated[call, subcommand(settings.name, description=inspect.getdoc(settings))]


class _Unchecked:
    """Values as tyro makes them, which any will do for. tyro would catch what a check raises and
    put it into words of its own."""

    def __post_init__(self) -> None:
        pass


def _unchecked(settings: type, fields: list[Any]) -> type:
    """Settings without their checks, with some of their fields redefined."""
    bases, doc = (_Unchecked, settings), {"__doc__": settings.__doc__}
    name = settings.__name__
    return dataclasses.make_dataclass(name, fields, bases=bases, namespace=doc, frozen=True)


def _checked(made: Any) -> Any:
    """The settings proper. Raises InputError for an unusable value."""
    if not isinstance(made, _Unchecked):
        return made
    _, settings = type(made).__bases__
    return settings(
        **{f.name: _checked(getattr(made, f.name)) for f in dataclasses.fields(settings)}
    )


def _train(config: Config, options: _Options) -> None:
    if options.jobs is not None and options.seeds is None:
        raise InputError(f"jobs = {options.jobs}: is for several seeds; give --seeds too")
    if options.dry_run:
        report(foresee(config), options.json)
        return
    quiet, seeds = options.json, options.seeds
    if seeds is None:
        runs = [train_one(config, options.out, quiet=quiet)]
    else:
        jobs = best_jobs(config, seeds) if options.jobs is None else options.jobs
        runs = train_seeds(config, options.out, seeds, jobs=jobs, quiet=quiet)
    result = {"runs": [str(run.path) for run in runs], "steps": runs[0].steps()[-1]}
    report(result, options.json)
