"""What a trained team is worth and does: evaluate and watch."""

import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dm2.envs import Renderable
from dm2.errors import InputError, Whole, as_seed, as_whole
from dm2.run.directory import RunDirectory
from dm2.run.film import check_film, render
from dm2.run.team import load_team

__all__ = ["evaluate", "watch"]


def evaluate(
    run: RunDirectory | str | Path,
    *,
    at: Whole | None = None,
    episodes: Whole = 128,
    stochastic: bool = False,
    seed: Whole = 0,
) -> dict[str, Any]:
    """Plays test episodes with a run's team.

    Args:
        run: the run or its directory.
        at: a checkpoint's step, or one of `checkpoint_steps`; the newest by default.
        episodes: how many episodes are played.
        stochastic: whether actions are sampled; otherwise agents take the most likely ones.
        seed: decides all that is random.

    Returns:
        `win_rate` and its binomial standard error (None where nobody can win), `mean_return` and
        its standard error (None for one episode), `mean_length` (environment steps), `episodes`,
        `step`.

    Raises:
        InputError: there is no such run or checkpoint, its team diverged, or an argument is
            unusable.
    """
    episodes, seed = as_whole("episodes", episodes), as_seed(seed)
    _, programs, team, step = load_team(run, at)
    outcome = jax.device_get(
        programs.evaluate(team, jnp.uint32(seed), jnp.int32(step), episodes, not stochastic)
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
    }


def watch(
    run: RunDirectory | str | Path,
    out: str | Path,
    *,
    at: Whole | None = None,
    stochastic: bool = False,
    seed: Whole = 0,
    ranges: bool = False,
) -> Path:
    """Films one battle of a run's team.

    Args:
        run: the run or its directory.
        out: the film, a name that ends in `.gif` or `.mp4`.
        at: a checkpoint's step, or one of `checkpoint_steps`; the newest by default.
        stochastic: whether actions are sampled; otherwise agents take the most likely ones.
        seed: decides all that is random.
        ranges: whether to draw how far the weapons reach.

    Returns:
        The path of the film.

    Raises:
        InputError: there is no such run or checkpoint, its team diverged, the environment cannot
            be drawn, `out` cannot be written or has another suffix, or `seed` is unusable.
    """
    seed, path = as_seed(seed), check_film(out)
    run, programs, team, step = load_team(run, at)
    env = programs.env
    if not isinstance(env, Renderable):
        raise InputError(
            f"env = {env.spec.name!r}: cannot be drawn; choose a smax or smac environment"
        )
    outcome, kept = programs.record(team, jax.random.PRNGKey(seed), 1, not stochastic, True)
    first, rest = env.frame(kept.first), jax.vmap(env.frame)(kept.env)
    frames = jax.tree.map(lambda a, b: np.concatenate([a[None], b])[..., 0], first, rest)
    frames = [jax.tree.map(lambda x, t=t: x[t], frames) for t in range(int(outcome.length[0]) + 1)]
    won = "won" if outcome.won[0] else "not won"
    title = f"{run.config.method.name} {env.spec.name}, {step:,} steps"
    scores = np.concatenate([[0.0], np.asarray(kept.returns)[:, 0]])[: len(frames)].tolist()
    options = {"title": title, "outcome": won, "scores": scores, "ranges": ranges}
    return render(frames, env, path, **options)
