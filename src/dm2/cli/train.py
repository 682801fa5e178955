"""The command `train`, with a subcommand for every method and a flag for every setting of it."""

import dataclasses
import inspect
import itertools
from pathlib import Path
from typing import Annotated, Any, Union

from tyro.conf import arg, subcommand

from dm2.agent.settings import Imitation
from dm2.cli.output import Json, report
from dm2.config import Config
from dm2.errors import InputError, as_whole
from dm2.files import check_target
from dm2.methods import METHODS, Settings
from dm2.methods.bc import BC
from dm2.methods.presets import PresetName, preset
from dm2.run.directory import CONFIG, RunDirectory
from dm2.run.loop import foresee
from dm2.run.loop import train as train_one
from dm2.run.sweep import best_jobs, seeds_of, train_seeds

__all__ = ["train_command"]


_COUNTS = ("num_envs", "rollout_steps", "steps")
"""What a preset sets beside the method."""


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
    preset: Annotated[
        PresetName,
        arg(
            help="Where the defaults of all settings come from: `tuned`, what was measured here, "
            "or `paper`, the paper's and its references' own, for smac's five tasks."
        ),
    ] = "tuned"
    json: Json = False


def train_command(argv: list[str]) -> Any:
    """The function behind `dm2 train`, whose subcommands are the methods that there are now.

    Args:
        argv: The words after `train`. The preset and the environment that they name decide the
            defaults of the other flags. Raises InputError if they do not go together.
    """

    def train(call: Any) -> None:
        """Train a team by one of the methods, and write a run directory."""
        names = [field.name for field in dataclasses.fields(Config)]
        _train(Config(**{name: getattr(call.config, name) for name in names}), call.options)

    chosen = argv[0] if argv else ""
    words = argv[1:] if chosen in METHODS else []
    name, env = (_value_of(flag, words) for flag in ("preset", "env"))
    methods: Any = Union[  # noqa: UP007
        tuple(
            _subcommand(settings, _defaults(settings, name or "tuned", env or "", words))
            if settings.name == chosen
            else _subcommand(settings, {})
            for settings in METHODS.values()
        )
    ]
    train.__annotations__["call"] = Annotated[methods, arg(name="")]
    return train


def _defaults(settings: type[Settings], name: str, env: str, words: list[str]) -> dict[str, Any]:
    """A preset's, without its settings of imitation where cloning is followed by none."""
    defaults = preset(name, settings.name, env)
    if settings is BC and _value_of("cloning.then", words) not in (None, "mixed"):
        defaults["method"] = dataclasses.replace(defaults["method"], imitation=Imitation())
    return defaults


def _value_of(flag: str, words: list[str]) -> str | None:
    """The word after `--flag`, or after `--flag=`; None if there is none."""
    for word, following in itertools.pairwise([*words, None]):
        name, equals, value = str(word).partition("=")
        if name == f"--{flag}":
            return value if equals else following
    return None


def _subcommand(settings: type[Settings], defaults: dict[str, Any]) -> Any:
    """The arguments of `dm2 train METHOD`: the run's settings, the method's own, the options.
    `defaults` are of a preset."""
    kind: Any = Annotated[settings, arg(name="")]
    own: list[Any] = [("method", kind, defaults.get("method", settings()))]
    own += [(name, int, defaults[name]) for name in _COUNTS if name in defaults]
    keywords: dict[str, Any] = {"frozen": True, "kw_only": True}
    config = dataclasses.make_dataclass("_Config", own, bases=(Config,), **keywords)
    fields: list[Any] = [
        ("config", Annotated[config, arg(name="")]),
        ("options", Annotated[_Options, arg(name="")]),
    ]
    call = dataclasses.make_dataclass("_Call", fields, frozen=True)
    return Annotated[call, subcommand(settings.name, description=inspect.getdoc(settings))]


def _check_out(config: Config, options: _Options) -> None:
    """Raises InputError if the runs could not be written."""
    check_target("out", options.out / CONFIG)
    if options.seeds is None:
        RunDirectory.check_unused(options.out)
    else:
        seeds_of(config, options.out, options.seeds)
    if options.jobs is not None:
        as_whole("jobs", options.jobs)


def _train(config: Config, options: _Options) -> None:
    if options.jobs is not None and options.seeds is None:
        raise InputError(f"jobs = {options.jobs}: is for several seeds; give --seeds too")
    if options.dry_run:
        _check_out(config, options)
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
