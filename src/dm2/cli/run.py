"""Commands on runs: resume, evaluate, record, export, watch."""

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import arg

from dm2.cli.output import (
    Actions,
    At,
    Dtype,
    Epsilon,
    Greedy,
    Json,
    OtherEnv,
    Out,
    Overwrite,
    RunPath,
    Seed,
    check_new,
    report,
    report_demos,
)

__all__ = ["evaluate", "export", "record", "resume", "watch"]

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
    env: OtherEnv = None,
    episodes: Annotated[int, arg(help="Test episodes to play.")] = 128,
    greedy: Greedy = True,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Play test episodes with a trained team."""
    from dm2.run.evaluate import evaluate as play

    options = {"at": at, "env": env, "greedy": greedy, "seed": seed}
    report(play(run, episodes=episodes, **options), json)


def record(
    run: RunPath,
    out: Out,
    at: At = None,
    episodes: Annotated[int, arg(help="Joint episodes to record.")] = 1000,
    greedy: Greedy = False,
    epsilon: Epsilon = None,
    actions: Actions = True,
    dtype: Dtype = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Record demonstrations of a trained team, which by default samples its actions."""
    from dm2.run.record import record as record_run

    check_new(out, overwrite)
    options = {"greedy": greedy, "epsilon": epsilon, "actions": actions, "dtype": dtype}
    demos = record_run(run, at=at, episodes=episodes, seed=seed, **options)
    report_demos(demos, out, demos.save(out, overwrite=overwrite), json)


def export(
    run: RunPath,
    agent: Annotated[int, arg(help="The agent's number in the team, from 0.")],
    out: Annotated[Path, arg(help="The file to write: .safetensors, or .onnx with that format.")],
    at: At = None,
    format: Annotated[
        Literal["safetensors", "onnx"],
        arg(help="What `dm2.Agent.load` reads, or a model for other runtimes."),
    ] = "safetensors",
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Write one agent of a trained team to a file, to act where there is neither team nor JAX."""
    from dm2.run.export import export as export_agent

    options = {"at": at, "format": format, "overwrite": overwrite}
    path = export_agent(run, agent=agent, out=out, **options)
    report({"file": str(path), "bytes": path.stat().st_size, "agent": agent}, json)


def watch(
    run: RunPath,
    out: Annotated[Path, arg(help="The film to write: .gif, or .mp4 with the video extra.")],
    at: At = None,
    env: OtherEnv = None,
    greedy: Greedy = True,
    seed: Seed = 0,
    ranges: Annotated[bool, arg(help="Draw how far the weapons reach.")] = False,
    json: Json = False,
) -> None:
    """Film one battle of a trained team."""
    from dm2.run.evaluate import watch as film

    options = {"at": at, "env": env, "greedy": greedy, "seed": seed}
    path = film(run, out, ranges=ranges, **options)
    report({"film": str(path)}, json)
