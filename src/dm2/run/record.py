"""Recording demonstrations: the joint episodes of a run's team."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, UInt32

from dm2.demos import Demonstrations
from dm2.demos.fields import Dtype, settled_dtype
from dm2.envs import EnvSpec
from dm2.errors import Whole, as_seed, as_whole, check_flags
from dm2.rollout import Outcome, Recording
from dm2.run.behaviour import Behaviour, Epsilon, choose_behaviour
from dm2.run.directory import RunDirectory
from dm2.run.team import TrainedTeam, load_team

__all__ = ["record", "record_episodes", "record_team"]

BATCH = 100
"""The most episodes that are played side by side."""

Player = Callable[[UInt32[Array, "2"], int], tuple[Outcome, Recording]]
"""Plays and records as many episodes as it is told, from a key."""


def record(
    run: RunDirectory | str | Path,
    *,
    at: Whole | None = None,
    episodes: Whole = 1000,
    greedy: bool = False,
    epsilon: Epsilon = None,
    actions: bool = True,
    dtype: str | None = None,
    seed: Whole = 0,
) -> Demonstrations:
    """Records demonstrations of a run's team: joint episodes, all agents concurrently.

    By default actions are sampled, as the paper samples its experts of IPPO.

    Args:
        run: The run or its directory.
        at: A checkpoint's step, or one of `checkpoint_steps`; the newest by default.
        episodes: The number of joint episodes.
        greedy: Whether agents take their most likely actions.
        epsilon: The probability with which each agent by itself, at each step, takes a uniformly
            random legal action in place of its most likely one, as in the paper's recordings of
            QMIX. `auto` is the largest one, in steps of 0.01, that costs the team at most 10 points
            of its win rate (see `dm2.run.behaviour.largest_epsilon`).
        actions: Whether actions and legal actions are kept. Only behavioural cloning needs them.
        dtype: The type in which observations are stored; by default `float16` on battles (smax and
            smac) and `float32` elsewhere, where features may be large.
        seed: The seed of all that is random.

    Returns:
        The demonstrations, which `Demonstrations.save` writes to a file.

    Raises:
        InputError: If there is no such run or checkpoint, if its team diverged, if `auto` finds
            nothing, if an argument is unusable, or if an observation overflows `dtype`.
        EnvError: If an environment that is stepped in Python failed.
    """
    check_flags(greedy=greedy, actions=actions)
    episodes, seed = as_whole("episodes", episodes), as_seed(seed)
    team = load_team(run, at)
    dtype = settled_dtype(dtype, team.programs.env.spec.name)
    with contextlib.closing(team.programs):
        (behaviour,) = choose_behaviour(greedy, epsilon, [team], seed)
        return record_team(team, behaviour, seed, range(episodes), episodes, actions, dtype)


def record_team(
    team: TrainedTeam,
    behaviour: Behaviour,
    seed: int,
    indices: range,
    total: int,
    actions: bool,
    dtype: Dtype,
) -> Demonstrations:
    """Records some of the joint episodes that a longer recording of a team has.

    Args:
        team: The team.
        behaviour: How it acts.
        seed: The seed of the recording.
        indices: Which of its episodes are recorded.
        total: The number of episodes that the recording has.
        actions: Whether actions and legal actions are kept.
        dtype: The type in which observations are stored.

    Returns:
        The demonstrations.
    """
    chance = None if behaviour.epsilon is None else jnp.float32(behaviour.epsilon)

    def play(key: UInt32[Array, "2"], count: int) -> tuple[Outcome, Recording]:
        how = {"epsilon": chance} if chance is not None else {}
        return team.programs.record(team.state, key, count, behaviour.greedy, **how)

    source = {
        "method": team.run.config.method.name,
        "seed": team.run.config.seed,
        "training_step": team.step,
        **behaviour.provenance,
    }
    return record_episodes(
        play, team.programs.env.spec, seed, indices, total, actions, dtype, source
    )


def record_episodes(
    play: Player,
    spec: EnvSpec,
    seed: int,
    indices: range,
    total: int,
    actions: bool,
    dtype: Dtype,
    source: dict[str, Any],
) -> Demonstrations:
    """Records some of the joint episodes that a longer recording has.

    Args:
        play: Plays and records episodes.
        spec: The specification of the environment.
        seed: The seed of the recording.
        indices: Which of its episodes are recorded.
        total: The number of episodes that the recording has.
        actions: Whether actions and legal actions are kept.
        dtype: The type in which observations are stored.
        source: The provenance, but for what the environment's specification says.

    Returns:
        The demonstrations.
    """
    outcome, kept = _play(play, seed, indices, total)
    # Recorded [time, agent, episode], kept [episode, time, agent].
    observations, legal, alive, done = (np.moveaxis(field, 2, 0) for field in kept)
    facts = {
        "environment": spec.name,
        "environment_version": spec.version,
        "num_actions": spec.num_actions,
        "episode_limit": spec.episode_limit,
        "win_rate": outcome.means(spec.wins)["win_rate"],
    }
    return Demonstrations.from_episodes(
        observations,
        alive,
        outcome.length,
        facts | source,
        actions=done if actions else None,
        legal=legal if actions else None,
        returns=outcome.returns,
        won=outcome.won if spec.wins else None,
        dtype=dtype,
    )


def _play(
    play: Player, seed: int, indices: range, total: int
) -> tuple[Outcome, tuple[np.ndarray, ...]]:
    """The outcome, and the observations, legal actions, lives and actions, of the episodes."""
    size = min(BATCH, total)
    outcomes, recordings = [], []
    for batch in range(indices.start // size, -(-indices.stop // size)):
        key = jax.random.fold_in(jax.random.PRNGKey(seed), batch)
        outcome, kept = jax.device_get(play(key, size))
        begin = batch * size
        wanted = slice(max(indices.start - begin, 0), indices.stop - begin)
        outcomes.append(jax.tree.map(lambda x, part=wanted: x[part], outcome))
        recordings.append([field[:, :, wanted] for field in kept[:4]])
    outcome = jax.tree.map(lambda *parts: np.concatenate(parts), *outcomes)
    fields = zip(*recordings, strict=True)
    return outcome, tuple(np.concatenate(field, axis=2) for field in fields)
