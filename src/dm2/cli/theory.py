"""Commands on the theory: small games, exactly."""

import json as jsonlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import arg, subcommand

from dm2.cli.output import Json, console, report
from dm2.figures import check_figure

__all__ = ["theory"]


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
            console().print(table, "")
    broken = [v.name for v in verdicts if v.enforced and v.violations]
    if broken:
        raise RuntimeError(f"violated: {', '.join(broken)}")


def _converge(options: _Converge) -> None:
    from dm2.theory import Algorithm, bound_top, converge, scenario, summary

    if options.out is not None:
        check_figure(options.out)
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
        report({"game": options.game, "eps_S_K": top, **result}, True)
        return
    for name, values in result.items():
        print(f"{name}  (ε S K = {top:.4g})")
        report({f"  {key}": value for key, value in values.items()}, False)
    if options.out is not None:
        print(f"figure  {options.out}")
