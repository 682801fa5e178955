"""What a trained team is worth and does: evaluate, record, watch."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dm2.agent.state import AgentState
from dm2.demos import Demonstrations
from dm2.envs import Renderable
from dm2.errors import InputError
from dm2.runs import RunDirectory
from dm2.trainer import Trainer, trainer_for

__all__ = ["evaluate", "record", "watch"]

_RECORD_BATCH = 100


def _load(run: RunDirectory | str | Path, at: int | None) -> tuple[Trainer, AgentState, int]:
    """A run's programs, its team at a checkpoint (the newest if None) and that step."""
    run = run if isinstance(run, RunDirectory) else RunDirectory.open(run)
    trainer = trainer_for(run.config)
    like = trainer.abstract_state().agents
    if at is not None and at not in run.steps():
        # A checkpoint asked for at `at` was written when its iteration ended.
        at = -(-at // run.config.iteration_steps) * run.config.iteration_steps
    agents, extra = run.load_checkpoint(like, at, prefix="agents")
    return trainer, agents, extra["step"]


def _check_episodes(episodes: int) -> None:
    if episodes < 1:
        raise InputError(f"episodes = {episodes}: must be a whole number above 0")


def evaluate(
    run: RunDirectory | str | Path,
    *,
    at: int | None = None,
    episodes: int = 128,
    stochastic: bool = False,
    seed: int = 0,
) -> dict[str, Any]:
    """Play test episodes with a run's team.

    `at`: a checkpoint's step (the newest by default), or one of `checkpoint_steps`.
    Returns `win_rate` and its binomial standard error, `mean_return`, `mean_length`
    (environment steps), `episodes`, `step`.
    """
    _check_episodes(episodes)
    trainer, agents, step = _load(run, at)
    outcome = jax.device_get(
        trainer.evaluate(agents, jnp.uint32(seed), jnp.int32(step), episodes, not stochastic)
    )
    win_rate = float(np.mean(outcome.won))
    return {
        "win_rate": win_rate,
        "win_rate_standard_error": float(np.sqrt(win_rate * (1.0 - win_rate) / episodes)),
        "mean_return": float(np.mean(outcome.returns)),
        "mean_length": float(np.mean(outcome.length)),
        "episodes": episodes,
        "step": step,
    }


def record(
    run: RunDirectory | str | Path,
    *,
    at: int | None = None,
    episodes: int = 1000,
    greedy: bool = False,
    seed: int = 0,
) -> Demonstrations:
    """Demonstrations of a run's team: `episodes` joint episodes, all agents concurrently.

    Stochastic by default, as the paper samples its experts.
    """
    _check_episodes(episodes)
    run = run if isinstance(run, RunDirectory) else RunDirectory.open(run)
    trainer, agents, step = _load(run, at)
    batch = min(_RECORD_BATCH, episodes)
    parts = []
    for index in range(-(-episodes // batch)):
        key = jax.random.fold_in(jax.random.PRNGKey(seed), index)
        parts.append(jax.device_get(trainer.record(agents, key, batch, greedy)))
    outcome = jax.tree.map(lambda *x: np.concatenate(x)[:episodes], *[p[0] for p in parts])
    # Recorded [time, agent, episode], kept [episode, time, agent].
    local, legal, alive, actions = (
        np.concatenate([np.moveaxis(part, 2, 0) for part in field])[:episodes]
        for field in zip(*[kept[:4] for _, kept in parts], strict=True)
    )
    spec = trainer.env.spec
    return Demonstrations.from_episodes(
        local,
        alive,
        outcome.length,
        {
            "environment": spec.name,
            "environment_version": spec.version,
            "num_actions": spec.num_actions,
            "episode_limit": spec.episode_limit,
            "method": run.config.method,
            "seed": run.config.seed,
            "training_step": step,
            "policy": "greedy" if greedy else "stochastic",
            "win_rate": float(np.mean(outcome.won)),
            "episodes": episodes,
        },
        actions=actions,
        legal=legal,
        returns=outcome.returns,
        won=outcome.won,
    )


def watch(
    run: RunDirectory | str | Path,
    out: str | Path,
    *,
    at: int | None = None,
    stochastic: bool = False,
    seed: int = 0,
    ranges: bool = False,
) -> Path:
    """Film one battle of a run's team as a `.gif` or `.mp4`; `ranges` draws the weapons' reach."""
    from dm2.studies.replay import render

    run = run if isinstance(run, RunDirectory) else RunDirectory.open(run)
    trainer, agents, step = _load(run, at)
    env = trainer.env
    if not isinstance(env, Renderable):
        raise InputError(
            f"env = {env.spec.name!r}: cannot be drawn; choose a smax or smac environment"
        )
    key = jax.random.PRNGKey(seed)
    outcome, kept = trainer.record(agents, key, 1, not stochastic, True)
    first, rest = env.frame(kept.first), jax.vmap(env.frame)(kept.env)
    frames = jax.tree.map(lambda a, b: np.concatenate([a[None], b])[..., 0], first, rest)
    frames = [jax.tree.map(lambda x, t=t: x[t], frames) for t in range(int(outcome.length[0]) + 1)]
    won = "won" if outcome.won[0] else "not won"
    title = f"{run.config.method} {env.spec.name}, {step:,} steps"
    scores = np.concatenate([[0.0], np.asarray(kept.returns)[:, 0]])[: len(frames)].tolist()
    options = {"title": title, "outcome": won, "scores": scores, "ranges": ranges}
    return render(frames, env, Path(out), **options)
