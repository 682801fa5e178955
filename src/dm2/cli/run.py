"""Commands on runs: train, resume, evaluate, record, inspect, watch."""

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from dm2.cli.output import At, Json, RunPath, Seed, Stochastic, console, report
from dm2.errors import InputError
from dm2.files import check_target

__all__ = ["evaluate", "inspect", "record", "resume", "watch"]

# Heavy modules are imported where they are used, so that `--help` is instant.


def resume(
    run: RunPath,
    steps: Annotated[int | None, arg(help="Train to this many steps instead.")] = None,
    demos: Annotated[
        Path | None, arg(help="Where the file of demonstrations is now, if it was moved.")
    ] = None,
    json: Json = False,
) -> None:
    """Go on with a stopped or killed run, bit-identically; or train a finished one for longer."""
    from dm2.run.loop import resume as resume_run

    done = resume_run(run, steps, demos=demos, quiet=json)
    report({"run": str(done.path), "steps": done.steps()[-1]}, json)


def evaluate(
    run: RunPath,
    at: At = None,
    episodes: Annotated[int, arg(help="Test episodes to play.")] = 128,
    stochastic: Stochastic = False,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Play test episodes with a trained team."""
    from dm2.run.evaluate import evaluate as play

    report(play(run, at=at, episodes=episodes, stochastic=stochastic, seed=seed), json)


def record(
    run: RunPath,
    out: Annotated[Path, arg(help="The file to write, usually *.safetensors.")],
    at: At = None,
    episodes: Annotated[int, arg(help="Joint episodes to record.")] = 1000,
    greedy: Annotated[bool, arg(help="Take the most likely actions instead of sampling.")] = False,
    seed: Seed = 0,
    overwrite: Annotated[bool, arg(help="Replace a file that is there.")] = False,
    json: Json = False,
) -> None:
    """Record demonstrations of a trained team."""
    from dm2.demos.dataset import EXISTS
    from dm2.run.evaluate import record as record_run

    if check_target("out", out).exists() and not overwrite:
        raise InputError(f"out = {str(out)!r}: {EXISTS}")
    demos = record_run(run, at=at, episodes=episodes, greedy=greedy, seed=seed)
    size = demos.save(out, overwrite=overwrite)
    scores = {"win_rate": demos.provenance["win_rate"], "mean_return": demos.mean_return}
    report({"file": str(out), "bytes": size, "episodes": episodes, **scores}, json)


def inspect(
    demos: Annotated[Positional[Path], arg(help="A demonstration file.")], json: Json = False
) -> None:
    """Check a demonstration file and say what is in it."""
    from dm2.demos import Demonstrations, describe

    summary = Demonstrations.load(demos).summary()
    if json:
        report(summary, json)
    else:
        console().print(describe(summary))


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
    from dm2.run.evaluate import watch as film

    path = film(run, out, at=at, stochastic=stochastic, seed=seed, ranges=ranges)
    report({"film": str(path)}, json)
