"""What a trained team is worth and does: evaluate and watch."""

import contextlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt32

from dm2.envs import Renderable
from dm2.errors import InputError, Whole, as_seed, as_whole, check_flags
from dm2.rollout import MixedTeam
from dm2.run.directory import RunDirectory
from dm2.run.film import check_film, render
from dm2.run.team import TrainedTeam, load_team

__all__ = ["evaluate", "exchange", "watch"]


def evaluate(
    run: RunDirectory | str | Path,
    *,
    at: Whole | None = None,
    env: str | None = None,
    episodes: Whole = 128,
    greedy: bool = True,
    seed: Whole = 0,
) -> dict[str, Any]:
    """Plays test episodes with a run's team.

    Args:
        run: The run or its directory.
        at: A checkpoint's step, or one of `checkpoint_steps`; the newest by default.
        env: The name of another environment to play in, of as many agents, observed numbers and
            actions; by default the run's. Which of them mean the same cannot be checked.
        episodes: How many episodes are played.
        greedy: Whether agents take their most likely actions; otherwise they sample.
        seed: Decides all that is random.

    Returns:
        `win_rate` and its binomial standard error (None where nobody can win), `mean_return` and
        its standard error (None for one episode), `mean_length` (environment steps), `episodes`,
        `step`, `environment` (its name).

    Raises:
        InputError: If there is no such run, checkpoint or environment, the team diverged, `env` has
            other sizes, or an argument is unusable.
        EnvError: If an environment that is stepped in Python failed.
    """
    check_flags(greedy=greedy)
    episodes, seed = as_whole("episodes", episodes), as_seed(seed)
    _, programs, team, step = load_team(run, at, env)
    with contextlib.closing(programs):
        outcome = jax.device_get(
            programs.evaluate(team, jnp.uint32(seed), jnp.uint32(step % 2**32), episodes, greedy)
        )
    means = outcome.means(programs.env.spec.wins)
    rate = means["win_rate"]
    of_rate = None if rate is None else math.sqrt(rate * (1.0 - rate) / episodes)
    spread = float(np.std(outcome.returns, ddof=1)) if episodes > 1 else None
    of_return = None if spread is None else spread / math.sqrt(episodes)
    return {
        **means,
        "win_rate_standard_error": of_rate,
        "mean_return_standard_error": of_return,
        "episodes": episodes,
        "step": step,
        "environment": programs.env.spec.name,
    }


def exchange(
    runs: Sequence[RunDirectory | str | Path], *, episodes: Whole = 128, seed: Whole = 0
) -> Float[np.ndarray, "S S"]:
    """Puts agents of different teams together: are agents that were trained apart interchangeable?

    Args:
        runs: The runs or their directories, of one environment. Their newest checkpoints play.
        episodes: Greedy episodes of every team that is put together. All begin alike.
        seed: Decides all that is random.

    Returns:
        Win rates: `[i, j]` is that of team `i` with one agent of team `j` in place of its own, in
        the mean over which agent that is; `[i, i]` that of team `i` by itself.

    Raises:
        InputError: If there are fewer than two runs, they are of several environments, nobody can
            win there, or there is no such run or checkpoint.
        EnvError: If an environment that is stepped in Python failed.
    """
    episodes, seed = as_whole("episodes", episodes), as_seed(seed)
    teams = [load_team(run, None) for run in runs]
    if len(teams) < 2:
        raise InputError(f"runs: there are {len(teams)}; agents are exchanged between two or more")
    env = teams[0].programs.env
    for team in teams:
        name = team.programs.env.spec.name
        if name != env.spec.name:
            problem = f"is of {name}, {teams[0].run.path} of {env.spec.name}"
            raise InputError(f"{team.run.path}: {problem}; give runs of one environment")
    if not env.spec.wins:
        raise InputError(f"runs: nobody can win in {env.spec.name}; give runs of a battle")
    with contextlib.closing(teams[0].programs):
        return _exchanged(teams, episodes, jax.random.PRNGKey(seed))


def _exchanged(
    teams: Sequence[TrainedTeam], episodes: int, key: UInt32[Array, "2"]
) -> Float[np.ndarray, "S S"]:
    """The win rates of `exchange`."""
    env = teams[0].programs.env
    rates = np.zeros((len(teams), len(teams)))
    mixtures: dict[Any, MixedTeam] = {}
    for i, own in enumerate(teams):
        for j, other in enumerate(teams):
            agents = range(env.spec.num_agents) if i != j else [None]
            won = []
            for agent in agents:
                methods = own.programs.method, other.programs.method
                if (mixture := mixtures.get((*methods, agent))) is None:
                    origins = [int(k == agent) for k in range(env.spec.num_agents)]
                    mixture = mixtures[*methods, agent] = MixedTeam(methods, origins)
                state = own.state, other.state
                outcome, _ = teams[0].programs.play(mixture, state, key, episodes, greedy=True)
                won.append(np.mean(outcome.won))
            rates[i, j] = np.mean(won)
    return rates


def watch(
    run: RunDirectory | str | Path,
    out: str | Path,
    *,
    at: Whole | None = None,
    env: str | None = None,
    greedy: bool = True,
    seed: Whole = 0,
    ranges: bool = False,
) -> Path:
    """Films one battle of a run's team.

    Args:
        run: The run or its directory.
        out: The film, a name that ends in `.gif` or `.mp4`.
        at: A checkpoint's step, or one of `checkpoint_steps`; the newest by default.
        env: The name of another environment to play in, as for `evaluate`; by default the run's.
        greedy: Whether agents take their most likely actions; otherwise they sample.
        seed: Decides all that is random.
        ranges: Whether to draw how far the weapons reach.

    Returns:
        The path of the film.

    Raises:
        InputError: If there is no such run, checkpoint or environment, the team diverged, `env` has
            other sizes, the environment cannot be drawn, `out` cannot be written or has another
            suffix, or another argument is unusable.
        EnvError: If an environment that is stepped in Python failed.
        OSError: If the disk fails.
    """
    check_flags(greedy=greedy, ranges=ranges)
    seed, path = as_seed(seed), check_film(out)
    run, programs, team, step = load_team(run, at, env)
    stage = programs.env
    if not isinstance(stage, Renderable):
        raise InputError(
            f"env = {stage.spec.name!r}: cannot be drawn; choose a smax or smac environment"
        )
    key = jax.random.PRNGKey(seed)
    with contextlib.closing(programs):
        outcome, kept = programs.record(team, key, 1, greedy, record_env=True)
    first, rest = stage.frame(kept.first), jax.vmap(stage.frame)(kept.env)
    frames = jax.tree.map(lambda a, b: np.concatenate([a[None], b])[..., 0], first, rest)
    frames = [jax.tree.map(lambda x, t=t: x[t], frames) for t in range(int(outcome.length[0]) + 1)]
    won = "won" if outcome.won[0] else "not won"
    title = f"{run.config.method.name} {stage.spec.name}, {step:,} steps"
    scores = np.concatenate([[0.0], np.asarray(kept.returns)[:, 0]])[: len(frames)].tolist()
    options = {"title": title, "outcome": won, "scores": scores, "ranges": ranges}
    return render(frames, stage, path, **options)
