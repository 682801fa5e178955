"""Recording demonstrations in the styles of the paper's Figure 3, from one run or from several."""

import contextlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from dm2.demos import Demonstrations, combine
from dm2.demos.fields import Dtype, settled_dtype
from dm2.demos.provenance import as_ranges, per_agent
from dm2.errors import InputError, Whole, as_seed, as_whole, check_flags, check_setting
from dm2.rollout import MixedTeam
from dm2.run.behaviour import Behaviour, Epsilon, choose_behaviour
from dm2.run.directory import RunDirectory
from dm2.run.programs import programs_for
from dm2.run.record import record_episodes, record_team
from dm2.run.styles import DISJOINT, MIXED, STYLES
from dm2.run.team import TrainedTeam, load_team, open_run

__all__ = ["record_style"]


def record_style(
    runs: Sequence[RunDirectory | str | Path],
    style: str,
    *,
    at: Whole | Sequence[Whole | None] | None = None,
    episodes: Whole = 1000,
    greedy: bool = False,
    epsilon: Epsilon = None,
    actions: bool = True,
    dtype: str | None = None,
    seed: Whole = 0,
) -> Demonstrations:
    """Records demonstrations whose agents come from one team or several, together or apart.

    With `K` agents and `N` episodes each, the episodes are those of the recordings that `record`
    makes with the same `seed`: of `N` episodes, or of `K N` where agents come from disjoint ones,
    of which agent `k` has those from `k N` to `(k + 1) N - 1`. Episodes of equal indices begin in
    the same state of the environment, whichever team plays them.

    Args:
        runs: The run of which all agents are taken, or in mixed styles a run for each agent, in the
            agents' order and trained with different seeds.
        style: One of `dm2.run.styles.STYLES`, which says what each is.
        at: A step of a checkpoint that all runs have, or one for each run; the newest by default.
        episodes: The number of episodes for each agent.
        greedy: Whether agents take their most likely actions.
        epsilon: The probability of a random action, see `record`. `auto` finds one for each run, as
            its own team plays.
        actions: Whether actions and legal actions are kept.
        dtype: The type in which observations are stored, see `record`.
        seed: The seed of all that is random.

    Returns:
        The demonstrations. Their provenance says the style, and of every agent its run, that run's
        seed and step of training, and the indices of its episodes.

    Raises:
        InputError: If the style is unknown or made from another number of runs, if the runs differ
            in environment, version of its rules or episode limit, if one of them is there
            twice, or two have both seed and method in common, or for the reasons of `record`.
        EnvError: If an environment that is stepped in Python failed.
    """
    known = isinstance(style, str) and style in STYLES
    check_setting(known, "style", style, f"must be one of {', '.join(STYLES)}")
    several = isinstance(runs, Iterable) and not isinstance(runs, str | bytes)
    check_setting(several, "runs", runs, "must be a list of runs; put a single one into brackets")
    check_flags(greedy=greedy, actions=actions)
    episodes, seed = as_whole("episodes", episodes), as_seed(seed)
    opened = [open_run(run) for run in runs]
    _check_runs(opened, style)
    steps = at if isinstance(at, Sequence) else [at] * len(opened)
    if len(steps) != len(opened):
        raise InputError(f"at = {list(steps)!r}: there are {len(opened)} runs; give as many steps")
    teams = [load_team(run, step) for run, step in zip(opened, steps, strict=True)]
    dtype = settled_dtype(dtype, teams[0].programs.env.spec.name)
    with contextlib.ExitStack() as stack:
        for team in teams:
            stack.enter_context(contextlib.closing(team.programs))
        behaviours = choose_behaviour(greedy, epsilon, teams, seed)
        return _record(teams, behaviours, style, seed, episodes, actions, dtype)


def _record(
    teams: list[TrainedTeam],
    behaviours: list[Behaviour],
    style: str,
    seed: int,
    episodes: int,
    actions: bool,
    dtype: Dtype,
) -> Demonstrations:
    """Records teams in a style that is made from so many; see `record_style`."""
    size, added = teams[0].programs.env.spec.num_agents, {"style": style}
    if style == "mixed-concurrent":
        return _record_together(teams, behaviours, seed, episodes, actions, dtype, added)
    if style == "co-trained-concurrent":
        (team,), (behaviour,), indices = teams, behaviours, range(episodes)
        one = record_team(team, behaviour, seed, indices, episodes, actions, dtype)
        return combine([one] * size, _origin(team, indices) | added)
    mixed, disjoint = style in MIXED, style in DISJOINT
    total = size * episodes if disjoint else episodes
    parts = []
    for k in range(size):
        team, behaviour = (teams[k], behaviours[k]) if mixed else (teams[0], behaviours[0])
        first = k * episodes if disjoint else 0
        indices = range(first, first + episodes)
        part = record_team(team, behaviour, seed, indices, total, actions, dtype)
        part.provenance.update(_origin(team, indices))
        parts.append(part)
    return combine(parts, added)


def _record_together(
    teams: list[TrainedTeam],
    behaviours: list[Behaviour],
    seed: int,
    episodes: int,
    actions: bool,
    dtype: Dtype,
    added: dict[str, Any],
) -> Demonstrations:
    """Records agent `k` of team `k`, for all `k`, in the same joint episodes."""
    mixed = MixedTeam([team.programs.method for team in teams], range(len(teams)))
    state, greedy = tuple(team.state for team in teams), behaviours[0].greedy
    chances = [behaviour.epsilon for behaviour in behaviours]
    epsilon = None if chances[0] is None else jnp.array(chances, jnp.float32)

    def play(key: Any, count: int) -> Any:
        how = {"greedy": greedy, "epsilon": epsilon, "record": True}
        return teams[0].programs.play(mixed, state, key, count, **how)

    indices = range(episodes)
    sources = [
        {
            "method": team.run.config.method.name,
            "seed": team.run.config.seed,
            "training_step": team.step,
            **behaviour.provenance,
            **_origin(team, indices),
        }
        for team, behaviour in zip(teams, behaviours, strict=True)
    ]
    source = {name: per_agent(one[name] for one in sources) for name in sources[0]}
    return record_episodes(
        play,
        teams[0].programs.env.spec,
        seed,
        indices,
        episodes,
        actions,
        dtype,
        source | added,
    )


def _origin(team: TrainedTeam, indices: range) -> dict[str, Any]:
    """What the provenance says of the run and of the episodes of its recording."""
    return {"run": str(team.run.path), "episode_indices": as_ranges(indices)}


def _check_runs(runs: list[RunDirectory], style: str) -> None:
    """Raises InputError if a style is not made from these runs."""
    if not runs:
        raise InputError("runs: there are none; give their directories")
    first = programs_for(runs[0].config.program).env.spec
    wanted, why = 1, "all agents come from one run"
    if style in MIXED:
        wanted, why = first.num_agents, f"every agent of {first.name} comes from a run of its own"
    if len(runs) != wanted:
        problem = f"runs: there are {len(runs)}, for style {style!r} there must be {wanted}"
        raise InputError(f"{problem}, as {why}; give as many, or choose another style")
    for i, run in enumerate(runs):
        for j, earlier in enumerate(runs[:i]):
            _check_apart(run, i, earlier, j)
        spec = programs_for(run.config.program).env.spec
        for name, have, want in (
            ("environment", spec.name, first.name),
            ("episode limit", spec.episode_limit, first.episode_limit),
            ("version", _version(run), _version(runs[0])),
        ):
            problem = (
                f"runs[{i}] = {str(run.path)!r}: {name} is {have!r}, of runs[0] it is {want!r}"
            )
            if have != want:
                raise InputError(f"{problem}; give runs of one environment and version")


def _check_apart(run: RunDirectory, i: int, earlier: RunDirectory, j: int) -> None:
    """Raises InputError if two runs are not of different teams."""
    same = run.path.resolve() == earlier.path.resolve()
    seed, method = run.config.seed, run.config.method.name
    if same or (seed, method) == (earlier.config.seed, earlier.config.method.name):
        what = "is the same run as" if same else f"has seed {seed}, as has"
        problem = f"runs[{i}] = {str(run.path)!r}: {what} runs[{j}]"
        raise InputError(f"{problem}; give runs that were trained with different seeds")


def _version(run: RunDirectory) -> str | None:
    """The version of the environment's rules by which a run was trained; None if unknown."""
    return run.info.get("environment", {}).get("version")
