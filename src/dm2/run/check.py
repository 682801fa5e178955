"""Whether an environment keeps its contract: what `dm2 check` says, and `train` asks first."""

import contextlib
import functools
import math
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, Shaped, UInt32

from dm2.compilation import compiler_options
from dm2.envs import Environment, EnvSpec, HostEnvironment, Step, TeamView, make
from dm2.envs.base import AnyArray
from dm2.envs.factories import name_of
from dm2.envs.host import settled
from dm2.errors import MOST, EnvError, InputError, Whole, as_seed, as_whole, one_line
from dm2.rollout.stepping import Episodes, advance, random_legal, reset, team_reward

__all__ = ["check", "check_quickly"]


class Rows(NamedTuple):
    """Rows are what happened in `T` steps of `N` environments whose agents act at random."""

    time: Int[Array, "T N"]
    """Environment steps taken before."""
    view: TeamView
    """What the agents acted on."""
    step: Step
    after: TeamView
    """What they perceive after the step, before any reset."""
    returns: Shaped[Array, "T N"]
    """Undiscounted return up to and with the step."""


def check(
    env: Any, *, num_envs: Whole = 4, seconds: float = 3.0, seed: Whole = 0
) -> dict[str, Any]:
    """Plays an environment at random and compares what it does with the environment contract.

    Args:
        env: An environment's name, an environment, or the function or class that makes one.
        num_envs: How many are played side by side.
        seconds: For how long they are played at least. Each is played beyond its episode limit.
        seed: Decides all that is random.

    Returns:
        `problems`, sentences that name what is wrong and the remedy, and facts: sizes, `episodes`
        that ended and their `mean_length` and `mean_return`, the share of them that was
        `terminated`, whether the environment is `deterministic` (the same seed and actions lead to
        the same bits), `steps_per_second` of all environments together, and `padding`, what of the
        agents' observations and actions was never used.

    Raises:
        InputError: If there is no such environment, or an argument is unusable.
    """
    count, seed = as_whole("num_envs", num_envs), as_seed(seed)
    if not isinstance(seconds, int | float) or not 0 < seconds < math.inf:
        raise InputError(f"seconds = {seconds!r}: must be a number above 0")
    made = make(env if isinstance(env, str) else name_of(env, "own"))
    try:
        spec, problems, facts = made.spec, list(_wrong_shapes(made)), {}
        if not problems:
            problems, facts = _played(made, count, seconds, seed)
    finally:
        if isinstance(made, HostEnvironment):
            made.close()
    return {
        "environment": spec.name,
        "version": spec.version,
        "agents": spec.num_agents,
        "observation_size": spec.observation_size,
        "actions": spec.num_actions,
        "state_size": spec.state_size,
        "episode_limit": spec.episode_limit,
        "can_be_won": spec.wins,
        **facts,
        "problems": [f"env = {spec.name!r}: {problem}" for problem in problems],
    }


def check_quickly(env: Environment) -> None:
    """Raises InputError if an environment breaks its contract within its first episodes.

    Args:
        env: The environment. It is played until all episodes had to end, and no longer than a
            second after its first steps if it is stepped in Python, ten seconds if it is in JAX.
            Environments in Python are stepped where they are in training, so that one that crashes,
            or that starts a game, does so in a process of its own wherever that can be.
    """
    problems = list(_wrong_shapes(env))
    if not problems:
        host = isinstance(env, HostEnvironment)
        stage = env.twin() if isinstance(env, HostEnvironment) else env
        how = compiler_options("once")
        player = _Player(stage, 1 if host else 2, jax.random.PRNGKey(0), 16 if host else 64, how)
        with contextlib.closing(player):
            problems = list(player.play_on(1.0 if host else 10.0))
    if problems:
        raise InputError(f"env = {env.spec.name!r}: {problems[0]}")


def _played(
    env: Environment, num_envs: int, seconds: float, seed: int
) -> tuple[list[str], dict[str, Any]]:
    """What is wrong with an environment when it is played, and what was measured."""
    key = jax.random.PRNGKey(seed)
    steps = 16 if isinstance(env, HostEnvironment) else 64
    player = _Player(env, num_envs, key, steps, compiler_options("play"))
    problems = list(player.play_on(seconds, at_least=True))
    if problems:
        return problems, {}
    try:
        same = player.repeats()
    except EnvError as error:
        return [f"as the same was played once more, {_own_words(env, error)}"], player.facts()
    if not isinstance(env, HostEnvironment):
        if not same:
            problems.append(
                "the same key and actions led elsewhere; reset and step must be functions of their "
                "arguments alone"
            )
        problems += _mixing(env, key)
    return problems, {**player.facts(), "deterministic": same}


class _Player:
    """A player plays an environment at random, some steps at a time, and watches it."""

    def __init__(
        self, env: Environment, num_envs: int, key: UInt32[Array, "2"], steps: int, how: Any
    ) -> None:
        self._env, self._key, self._steps = env, key, min(steps, env.spec.episode_limit + 1)
        self._num_envs = num_envs
        jit = functools.partial(jax.jit, compiler_options=how)
        self._reset = jit(lambda key: reset(env, key, num_envs))
        self._play = jit(self._some_steps)
        self._first: Rows | None = None
        self._parts, self._timed, self._seconds = 0, 0, 0.0
        self._ended: list[Any] = []
        spec = env.spec
        self._used = np.zeros((spec.num_agents, spec.observation_size), bool)
        self._legal = np.zeros((spec.num_agents, spec.num_actions), bool)

    def play_on(self, seconds: float, *, at_least: bool = False) -> Iterator[str]:
        """Plays until every episode had to end; yields what is wrong with the first steps that are.

        Args:
            seconds: After so many seconds it stops in any case. They count from the end of the
                first part, before which the program is compiled and environments are made: that
                part is played on the slowest machine, too.
            at_least: Whether it goes on for so long, however soon episodes end, instead.
        """
        until = math.inf
        try:
            episodes = settled(self._env, self._reset(self._key))
            while self._unfinished(until, at_least):
                began = time.monotonic()
                episodes, rows = self._part(episodes, self._parts)
                if self._parts:  # the first part is compiled
                    self._timed += self._steps * self._num_envs
                    self._seconds += time.monotonic() - began
                else:
                    until = time.monotonic() + seconds
                self._first = self._first or rows
                self._parts += 1
                problems = list(_broken(self._env.spec, rows))
                yield from problems
                if problems:
                    return
                self._note(rows)
        except EnvError as error:
            yield _own_words(self._env, error)

    def repeats(self) -> bool:
        """Whether the first steps are the same once more, bit by bit."""
        _, again = self._part(settled(self._env, self._reset(self._key)), 0)
        pairs = zip(jax.tree.leaves(self._first), jax.tree.leaves(again), strict=True)
        return all(one.tobytes() == other.tobytes() for one, other in pairs)

    def facts(self) -> dict[str, Any]:
        """What was measured."""
        rows = np.concatenate(self._ended, axis=1) if self._ended else np.zeros((3, 0))
        lengths, returns, terminated = rows
        means = {"mean_length": lengths, "mean_return": returns, "terminated": terminated}
        facts = {name: float(x.mean()) if len(x) else None for name, x in means.items()}
        speed = self._timed / self._seconds if self._seconds else None
        padding = [*_unused(self._used, "features differ from 0")]
        padding += _unused(self._legal, "actions are ever legal")
        return {"episodes": len(lengths), **facts, "steps_per_second": speed, "padding": padding}

    def close(self) -> None:
        """Ends the environments, if there are any."""
        if isinstance(self._env, HostEnvironment):
            self._env.close()

    def _unfinished(self, until: float, at_least: bool) -> bool:
        if at_least:
            late = time.monotonic() >= until and self._parts > 1
            return not late or self._parts * self._steps <= self._env.spec.episode_limit
        return time.monotonic() < until and (
            self._parts * self._steps <= self._env.spec.episode_limit
        )

    def _part(self, episodes: Episodes, number: int) -> tuple[Episodes, Rows]:
        key = jax.random.fold_in(jax.random.fold_in(self._key, 1), number)
        episodes, rows = settled(self._env, self._play(episodes, key))
        return episodes, jax.device_get(rows)

    def _some_steps(self, episodes: Episodes, key: UInt32[Array, "2"]) -> tuple[Episodes, Rows]:
        env = self._env

        def one(episodes: Episodes, key: UInt32[Array, "2"]) -> tuple[Episodes, Rows]:
            act_key, env_key = jax.random.split(key)
            view = env.observe(episodes.env)
            actions = random_legal(act_key, view.legal)
            following, step, reached = advance(env, episodes, actions, env_key)
            returns = episodes.returns + team_reward(step)
            return following, Rows(episodes.time, view, step, env.observe(reached), returns)

        return jax.lax.scan(one, episodes, jax.random.split(key, self._steps))

    def _note(self, rows: Rows) -> None:
        ended = rows.step.terminated | rows.step.truncated
        columns = (rows.time + 1, rows.returns, rows.step.terminated)
        self._ended.append(np.stack([np.asarray(x)[ended] for x in columns]))
        alive = np.asarray(rows.view.alive)[..., None]
        self._used |= np.any((np.asarray(rows.view.observations) != 0) & alive, axis=(0, 2))
        self._legal |= np.any(np.asarray(rows.view.legal) & alive, axis=(0, 2))


def _own_words(env: Environment, error: EnvError) -> str:
    """What an environment's error says, without its name."""
    return str(error).removeprefix(f"env = {env.spec.name!r}: ")


def _broken(spec: EnvSpec, rows: Rows) -> Iterator[str]:
    """What is wrong with some steps, one sentence for each kind of thing."""
    rows = jax.tree.map(np.asarray, rows)
    step, begins = rows.step, rows.time == 0
    views = ((rows.view, np.ones_like(begins)), (rows.after, ~step.terminated))
    for view, acted_on in views:
        for where in _where(~np.isfinite(view.observations).all(-1) & acted_on[:, None], rows):
            yield f"agent {where} observes a number that is not finite; mend observe"
        for where in _where(~view.legal.any(-1) & acted_on[:, None], rows):
            yield f"agent {where} has no legal action; give it one, a dead one too"
        for where in _where(~np.isfinite(view.state).all(-1) & acted_on, rows):
            yield f"the global state {where} holds a number that is not finite; mend observe"
    for where in _where(begins & ~rows.view.alive.any(1), rows):
        yield f"nobody is alive {where}; let an episode begin with living agents"
    revived = rows.after.alive & ~rows.view.alive
    for where in _where(revived & ~step.terminated[:, None], rows):
        yield f"agent {where} was dead and lives again; who died stays dead until a reset"
    wrong = ~np.isfinite(step.reward)
    for where in _where(wrong.any(1) if wrong.ndim == 3 else wrong, rows):
        yield f"the reward {where} is not a finite number; mend step"
    for where in _where(step.terminated & step.truncated, rows):
        yield f"an episode {where} is both terminated and truncated; say one of them"
    for where in _where(step.won & ~step.terminated, rows):
        yield f"an episode {where} is won and goes on; terminate an episode that is won"
    late = (rows.time + 1 >= spec.episode_limit) & ~step.terminated & ~step.truncated
    for where in _where(late, rows):
        problem = f"episode_limit = {spec.episode_limit}: an episode goes on {where}"
        yield f"{problem}; truncate it at its limit"


def _where(wrong: Bool[AnyArray, "T *K N"] | Any, rows: Rows) -> Iterator[str]:
    """Where something is wrong for the first time, if it is: the agent, if there is an axis of
    agents, and the step of the episode."""
    for found in np.argwhere(wrong)[:1]:
        step = int(rows.time[found[0], found[-1]])
        yield f"{found[1]} at step {step}" if len(found) == 3 else f"at step {step}"


def _unused(used: Bool[np.ndarray, "K n"], what: str) -> Iterator[str]:
    """A sentence for each agent that does not use all of what the widest agent has."""
    size = used.shape[1]
    for agent, row in enumerate(used):
        if not row.all():
            yield f"agent {agent}: {int(row.sum())} of {size} {what}"


def _wrong_shapes(env: Environment) -> Iterator[str]:
    """What is wrong with the shapes and types of what an environment returns. Nothing is run."""
    spec, many = env.spec, 3
    for name in ("num_agents", "observation_size", "num_actions", "episode_limit"):
        value = getattr(spec, name)
        if not isinstance(value, int | np.integer) or value < 1:
            yield f"spec.{name} = {value!r}; must be a whole number above 0"
            return
    if spec.episode_limit > MOST:
        yield f"spec.episode_limit = {spec.episode_limit}; must be at most {MOST}"
        return
    agents, key = spec.num_agents, jax.ShapeDtypeStruct((2,), jnp.uint32)
    actions = jax.ShapeDtypeStruct((agents, many), jnp.int32)
    what = "reset"
    try:
        state = jax.eval_shape(lambda key: env.reset(key, many), key)
        misplaced = () if isinstance(env, HostEnvironment) else tuple(_wrong_states(state, many))
        if misplaced:
            yield from misplaced
            return
        what = "step"
        result = jax.eval_shape(env.step, key, state, actions)
        what = "observe"
        view = jax.eval_shape(env.observe, state)
    except (Exception, SystemExit) as error:  # whatever a user's function raises
        yield f"{what} raised {type(error).__name__}: {one_line(str(error), 200)}"
        return
    if not isinstance(result, tuple) or len(result) != 2 or not isinstance(result[1], Step):
        yield "step returned no state and dm2.envs.Step; return a pair of them"
        return
    yield from _unlike(state, result[0])
    flags = dict.fromkeys(("terminated", "truncated", "won"), (((many,),), jnp.bool_))
    wanted = {"reward": (((many,), (agents, many)), jnp.float32), **flags}
    yield from _wrong_fields("step", result[1], wanted)
    shape = np.shape(result[1].reward)
    if shape in wanted["reward"][0] and (shape != (many,)) != spec.own_rewards:
        problem = f"step returned reward of shape {shape}, spec.own_rewards = {spec.own_rewards}"
        yield f"{problem}; say there whether each agent is paid its own"
    if not isinstance(view, TeamView):
        yield "observe returned no dm2.envs.TeamView; return one"
        return
    wanted = {
        "observations": (((agents, many, spec.observation_size),), jnp.float32),
        "legal": (((agents, many, spec.num_actions),), jnp.bool_),
        "alive": (((agents, many),), jnp.bool_),
        "state": (((many, spec.state_size),), jnp.float32),
    }
    yield from _wrong_fields("observe", view, wanted)


def _wrong_states(state: Any, many: int) -> Iterator[str]:
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        if leaf.shape[-1:] != (many,):
            part = jax.tree_util.keystr(path) or "state"
            problem = f"reset returned {part} of shape {leaf.shape} for {many} environments"
            yield f"{problem}; the last axis must be theirs"
        elif jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            part = jax.tree_util.keystr(path) or "state"
            remedy = "checkpoints hold plain numbers, so keep its jax.random.key_data"
            yield f"reset returned a typed key as {part}; {remedy}"


def _unlike(state: Any, following: Any) -> Iterator[str]:
    """What differs between the states that `reset` and `step` return."""
    if jax.tree.structure(state) != jax.tree.structure(following):
        yield "step returned a state of another structure than reset; return the same"
        return
    pairs = zip(jax.tree_util.tree_leaves_with_path(state), jax.tree.leaves(following), strict=True)
    for (path, one), other in pairs:
        if (one.shape, one.dtype) != (other.shape, other.dtype):
            part = jax.tree_util.keystr(path) or "state"
            what = f"step returned {part} as {other.dtype}{other.shape}"
            yield f"{what}, reset as {one.dtype}{one.shape}; return the same"


def _wrong_fields(function: str, values: Any, wanted: dict[str, Any]) -> Iterator[str]:
    for name, (shapes, kind) in wanted.items():
        value = getattr(values, name)
        shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", type(value).__name__)
        if shape not in shapes or dtype != kind:
            right = " or ".join(f"{jnp.dtype(kind).name}{shape}" for shape in shapes)
            yield f"{function} returned {name} as {dtype}{shape}; return {right}"


def _mixing(env: Environment, key: UInt32[Array, "2"]) -> Iterator[str]:
    """A sentence if what one environment does changes another."""
    many = 3
    state = env.reset(key, many)
    actions = random_legal(key, env.observe(state).legal)
    others = actions.at[:, 0].set((actions[:, 0] + 1) % env.spec.num_actions)
    step = jax.jit(env.step)
    pairs = (jax.tree.leaves(step(key, state, chosen)) for chosen in (actions, others))
    for one, other in zip(*pairs, strict=True):
        if np.asarray(one)[..., 1:].tobytes() != np.asarray(other)[..., 1:].tobytes():
            remedy = "no environment may read another's part of the state"
            yield f"an action in one environment changed another; {remedy}"
            return
