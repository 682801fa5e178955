"""The command line: thin, one function a command, the same words as the Python API.

Results go to standard output, progress and messages to standard error. Exit codes: 0 done,
1 failed or stopped, 2 unusable arguments or input.
"""

import json as jsonlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import Positional, arg, subcommand

from dm2.config import Config
from dm2.errors import InputError

__all__ = ["main"]

Json = Annotated[bool, arg(help="Print one JSON object on standard output and nothing else.")]
RunPath = Annotated[Positional[Path], arg(help="A run's directory.")]
At = Annotated[int | None, arg(help="A checkpoint's step; the newest if left out.")]
Stochastic = Annotated[bool, arg(help="Sample actions instead of taking the most likely.")]
Seed = Annotated[int, arg(help="Seed of the episodes played.")]


def _console(stderr: bool = False) -> Any:
    from rich.console import Console

    return Console(stderr=stderr, width=None if sys.stdout.isatty() else 110)


def _report(result: dict[str, Any], json: bool) -> None:
    """One JSON object, or one `name  value` line each."""
    if json:
        print(jsonlib.dumps(result, allow_nan=False))
        return
    width = max(map(len, result))
    for name, value in result.items():
        text = f"{value:.4g}" if isinstance(value, float) else str(value)
        print(f"{name:<{width}}  {text}")


def train(
    config: Annotated[Config, arg(name="")],
    out: Annotated[Path, arg(help="Directory of the run, new; with --seeds, of all of them.")],
    seeds: Annotated[
        int | None,
        arg(
            help="Train this many seeds, from --seed on, into OUT/seed_<n>; those already there "
            "go on where they stopped."
        ),
    ] = None,
    jobs: Annotated[
        int | None,
        arg(
            help="With --seeds: processes side by side, each on its share of the cores. By "
            "default one a core, as memory allows; on an accelerator one in all."
        ),
    ] = None,
    dry_run: Annotated[
        bool, arg(help="Check everything and say what a run takes, in memory too; train nothing.")
    ] = False,
    json: Json = False,
) -> None:
    """Train a team, each agent on its own, and write a run directory."""
    from dm2.seeds import side_by_side, train_seeds
    from dm2.training import foresee
    from dm2.training import train as train_one

    if jobs is not None and seeds is None:
        raise InputError(f"jobs = {jobs}: is for several seeds; give --seeds too")
    if dry_run:
        _report(foresee(config), json)
        return
    if seeds is None:
        runs = [train_one(config, out, quiet=json)]
    else:
        jobs = side_by_side(config, seeds) if jobs is None else jobs
        runs = train_seeds(config, out, seeds, jobs=jobs, quiet=json)
    _report({"runs": [str(run.path) for run in runs], "steps": runs[0].steps()[-1]}, json)


def resume(
    run: RunPath,
    steps: Annotated[int | None, arg(help="Train to this many steps instead.")] = None,
    json: Json = False,
) -> None:
    """Go on with a stopped or killed run, bit-identically; or train a finished one for longer."""
    from dm2.training import resume as resume_run

    done = resume_run(run, steps, quiet=json)
    _report({"run": str(done.path), "steps": done.steps()[-1]}, json)


def evaluate(
    run: RunPath,
    at: At = None,
    episodes: Annotated[int, arg(help="Test episodes to play.")] = 128,
    stochastic: Stochastic = False,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Play test episodes with a trained team."""
    from dm2.evaluation import evaluate as play

    _report(play(run, at=at, episodes=episodes, stochastic=stochastic, seed=seed), json)


def record(
    run: RunPath,
    out: Annotated[Path, arg(help="The file to write, usually *.safetensors.")],
    at: At = None,
    episodes: Annotated[int, arg(help="Joint episodes to record.")] = 1000,
    greedy: Annotated[bool, arg(help="Take the most likely actions instead of sampling.")] = False,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Record demonstrations of a trained team."""
    from dm2.evaluation import record as record_run

    demos = record_run(run, at=at, episodes=episodes, greedy=greedy, seed=seed)
    size = demos.save(out)
    won = demos.provenance["win_rate"]
    _report({"file": str(out), "bytes": size, "episodes": episodes, "win_rate": won}, json)


def inspect(
    demos: Annotated[Positional[Path], arg(help="A demonstration file.")], json: Json = False
) -> None:
    """Check a demonstration file and say what is in it."""
    from dm2.demos import Demonstrations, describe

    summary = Demonstrations.load(demos).summary()
    if json:
        _report(summary, json)
    else:
        _console().print(describe(summary))


def compare(
    runs: Annotated[Positional[tuple[Path, ...]], arg(help="Run directories, or parents of them.")],
    out: Annotated[Path | None, arg(help="Draw the learning curves: .png, .pdf or .svg.")] = None,
    labels: Annotated[
        tuple[str, ...],
        arg(help="Names of the groups, one for each of RUNS; by default method and settings."),
    ] = (),
    json: Json = False,
) -> None:
    """Compare methods over seeds: learning curves, steps to 50 % and 80 %, area, final win rate."""
    from dm2.studies.compare import compare as compare_runs
    from dm2.studies.compare import table

    if not runs:
        raise InputError("runs: none given; name run directories, or parents of them")
    result = compare_runs(runs, labels or None)
    if out is not None:
        from dm2.studies.plots import learning_curves

        learning_curves(runs, out, labels or None)
    if json:
        _report(result, json)
        return
    for part in table(result):
        _console().print(part)
    if out is not None:
        print(f"figure  {out}")


def watch(
    run: RunPath,
    out: Annotated[Path, arg(help="The film to write: .gif, or .mp4 with the video extra.")],
    at: At = None,
    stochastic: Stochastic = False,
    seed: Seed = 0,
    ranges: Annotated[bool, arg(help="Draw how far the weapons reach.")] = False,
    json: Json = False,
) -> None:
    """Film one battle of a trained team."""
    from dm2.evaluation import watch as film

    path = film(run, out, at=at, stochastic=stochastic, seed=seed, ranges=ranges)
    _report({"film": str(path)}, json)


def doctor(json: Json = False) -> None:
    """Check the installation and list versions, devices and environments."""
    from dm2.doctor import examine

    _report(examine(), json)


def bench(
    what: Annotated[
        Positional[Literal["training", "simulator", "parity"]],
        arg(
            help="`training`: simulator, IPPO and DM² in environment steps a second; `simulator`: "
            "the environments alone, smax/ beside JaxMARL's where it is installed; `parity`: how "
            "far smax/ is from JaxMARL's (needs the jaxmarl extra)."
        ),
    ] = "training",
    env: Annotated[
        tuple[str, ...],
        arg(help="Environments; by default smax/5m_vs_6m for training, else all battles."),
    ] = (),
    iterations: Annotated[int, arg(help="Timed iterations of each program.")] = 3,
    num_envs: Annotated[int, arg(help="Parallel environments in training.")] = 128,
    rollout_steps: Annotated[int, arg(help="Steps per environment between updates.")] = 128,
    states: Annotated[int, arg(help="Random states to compare, for parity.")] = 500,
    json: Json = False,
) -> None:
    """Measure this machine, or compare the battles with JaxMARL's."""
    from dm2 import bench as benchmarks
    from dm2.envs import list_environments

    if what == "training":
        name, *more = env or ("smax/5m_vs_6m",)
        if more:
            raise InputError(f"env = {' '.join(env)}: training is measured on one environment")
        _report(benchmarks.measure(name, iterations, num_envs, rollout_steps), json)
        return
    if what == "simulator":
        rows = benchmarks.race(env or list_environments(), iterations)
    else:
        from dm2.studies.parity import report

        rows = report(env, states)
    shown = []
    for row in rows:
        shown.append(row)
        if not json:
            # Of a comparison, what is equal need not be said.
            figures = (f"{k} {v:.4g}" for k, v in list(row.items())[1:] if v)
            print(f"{row['environment']:<22} {'  '.join(figures)}", flush=True)
    if json:
        print(jsonlib.dumps({"rows": shown}))
    if what == "parity":
        from dm2.studies.parity import TOLERANCE

        worst = max(row["worst"] for row in shown)
        if worst > TOLERANCE:
            raise RuntimeError(f"worst difference {worst:.1e}, more than {TOLERANCE:g}")


@dataclass(frozen=True)
class _Verify:
    """Check the paper's claims on random games; exit with 1 if a theorem, lemma or corollary fails.

    What the paper assumes is measured, not enforced.
    """

    games: Annotated[int, arg(help="Random games, an equal share of each size.")] = 1000
    seed: Annotated[int, arg(help="Seed of the games, experts and policies.")] = 0
    json: Json = False


@dataclass(frozen=True)
class _Converge:
    """Run Algorithm 2 on one game, turn by turn and simultaneously, and draw it."""

    game: Annotated[str, arg(help="four-tile, handshake, lift, stag-hunt or random.")] = "four-tile"
    seed: Annotated[int, arg(help="Seed of the game and the start, for `random`.")] = 0
    form: Annotated[str, arg(help="logit, softplus, log, paper or quadratic.")] = "softplus"
    smoothing: Annotated[float, arg(help="Of the discriminator; above 0 for logit, log.")] = 0.0
    kl: Annotated[float, arg(help="Bound on the divergence of a first step.")] = 0.02
    myopic: Annotated[bool, arg(help="Steps on the immediate imitation reward alone.")] = False
    states_only: Annotated[bool, arg(help="Targets without actions.")] = False
    sweeps: Annotated[int, arg(help="The most steps of every agent.")] = 200
    out: Annotated[Path | None, arg(help="Draw the run: .png, .pdf or .svg.")] = None
    json: Json = False


def theory(
    command: Annotated[
        Annotated[_Verify, subcommand("verify")] | Annotated[_Converge, subcommand("converge")],
        arg(name=""),
    ],
) -> None:
    """Small games, exactly: check the paper's claims, watch its algorithm converge or not."""
    if isinstance(command, _Verify):
        _verify(command)
    else:
        _converge(command)


def _verify(options: _Verify) -> None:
    from dm2.theory.report import tables
    from dm2.theory.verification import verify

    def progress(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    verdicts = verify(options.games, options.seed, None if options.json else progress)
    if options.json:
        print(jsonlib.dumps({"verdicts": [v.to_dict() for v in verdicts]}, allow_nan=False))
    else:
        for table in tables(verdicts):
            _console().print(table, "")
    broken = [v.name for v in verdicts if v.enforced and v.violations]
    if broken:
        raise RuntimeError(f"violated: {', '.join(broken)}")


def _converge(options: _Converge) -> None:
    from dm2.theory import Algorithm, bound_top, converge, scenario, summary

    found = scenario(options.game, options.seed)
    settings = Algorithm(
        options.form,
        options.smoothing,
        kl=options.kl,
        sweeps=options.sweeps,
        myopic=options.myopic,
        states_only=options.states_only,
    )
    histories = converge(found, settings)
    top = bound_top(found)
    result = {name: summary(history) for name, history in histories.items()}
    if options.out is not None:
        from dm2.theory.plots import convergence

        kind = ", states only" if options.states_only else ", myopic" if options.myopic else ""
        title = f"{options.game}, {options.form} reward{kind}"
        convergence(histories, found.game.agents, top, title, options.out)
    if options.json:
        _report({"game": options.game, "eps_S_K": top, **result}, True)
        return
    for name, values in result.items():
        print(f"{name}  (ε S K = {top:.4g})")
        _report({f"  {key}": value for key, value in values.items()}, False)
    if options.out is not None:
        print(f"figure  {options.out}")


_COMMANDS = {
    f.__name__: f
    for f in (train, resume, evaluate, record, inspect, compare, watch, doctor, bench, theory)
}


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    if argv == ["--version"]:
        from dm2.version import __version__

        print(f"dm2 {__version__}")
        return 0
    try:
        tyro.extras.subcommand_cli_from_dict(
            _COMMANDS, prog="dm2", args=argv, description="Decentralised multi-agent learning."
        )
    except SystemExit as stop:
        # tyro's own: 0 after --help, 2 for arguments it cannot use.
        return stop.code if isinstance(stop.code, int) else 1
    except InputError as error:
        print(f"dm2: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        print(f"dm2: {stop or 'stopped'}", file=sys.stderr)
        return 1
    except (RuntimeError, OSError) as error:
        print(f"dm2: failed: {error}", file=sys.stderr)
        return 1
    return 0
