"""One copy of an environment, stepped from Python: what the interfaces to other tools share.

It is `dm2.envs.host` the other way round. A step is one call of one compiled program, whose results
come back as a single row of numbers. It runs on the CPU, where one copy is faster than on an
accelerator.
"""

import functools
import os
import secrets
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt32

from dm2.compilation import compiler_options
from dm2.envs.base import Environment, EnvSpec, Step
from dm2.envs.host import HostEnvironment, settled
from dm2.envs.python_env import Sizes, Snapshot, StepOutcome
from dm2.envs.registry import make
from dm2.errors import InputError, as_seed

__all__ = ["EpisodeByEpisode"]


class _Programs(NamedTuple):
    """An environment and the two compiled programs that play one episode of it at a time."""

    env: Environment
    begin: Any
    """Takes a seed and an episode's number."""
    advance: Any
    """Takes the state and the key that the last program returned, and the actions, `[K]`."""


_first_process: int | None = None
"""The process that made the first environment, known to those that are forked from it."""


def _refuse_forks() -> None:
    """Raises InputError in a process that was forked after one was made: JAX would hang."""
    global _first_process
    _first_process = _first_process or os.getpid()
    if _first_process != os.getpid():
        problem = (
            "env: this process was forked from one that had made an environment; JAX would hang"
        )
        remedy = 'start it by "spawn" or "forkserver", or make none before'
        raise InputError(f"{problem}; {remedy}")


class EpisodeByEpisode:
    """One copy of an environment (`dm2.envs.python_env.PythonEnv`), one episode after another.

    Seeds are reproducible. Episode `e` after `reset(seed)`, which itself begins number 0, has the
    key `fold_in(PRNGKey(seed), e)`. It is split into the key of the environment's `reset` and one
    for the steps, which every step splits into the one that remains and its own.
    """

    def __init__(self, env: Any) -> None:
        """Makes the environment; nothing is compiled before the first episode.

        Args:
            env: A `dm2.Environment` or its name. Copies of one name share what is compiled.

        Raises:
            InputError: `dm2.make` refuses the name, or the object is no environment; or, as in
                `reset` and `step`, the process was forked from one that had made an environment.
        """
        if not isinstance(env, str | Environment):
            remedy = "must be an environment's name, as dm2.make takes it, or a dm2.Environment"
            raise InputError(f"env = {env!r}: {remedy}")
        self._given = env
        self._load()
        self.seed = secrets.randbits(32)
        self._episodes = 0
        self._carried: Any = None
        """State and key, while an episode is in progress."""
        self.last: Snapshot | None = None
        """What the agents perceive now."""

    def __getstate__(self) -> dict[str, Any]:
        """Copies, also in other processes, go on with the same episode."""
        kept = {name: value for name, value in self.__dict__.items() if name != "_programs"}
        return kept | {"_carried": jax.device_get(self._carried)}

    def __setstate__(self, kept: dict[str, Any]) -> None:
        self.__dict__.update(kept)
        self._load()
        self._carried = jax.device_put(self._carried, _device())

    def _load(self) -> None:
        _refuse_forks()
        given = self._given
        programs = _programs_by_name(given) if isinstance(given, str) else _programs_of(given)
        self._programs = programs

    @property
    def spec(self) -> EnvSpec:
        """What never changes about the environment."""
        return self._programs.env.spec

    @property
    def sizes(self) -> Sizes:
        """The same, as `PythonEnv` says it."""
        spec = self.spec
        return Sizes(
            num_agents=spec.num_agents,
            observation_size=spec.observation_size,
            num_actions=spec.num_actions,
            state_size=spec.state_size,
            version=spec.version,
            limit=spec.episode_limit,
            wins=spec.wins,
        )

    def begin_at(self, seed: int | None) -> None:
        """Lets the next episode be the first of a seed; None changes nothing. Raises InputError
        unless the seed is a whole number from 0 to 2**32 - 1."""
        if seed is not None:
            self.seed, self._episodes = as_seed(seed), 0

    def reset(self, seed: int | None = None) -> Snapshot:
        """Begins an episode.

        Args:
            seed: Where the random numbers begin anew; by default they go on from the last seed,
                which at first is a random one.

        Raises:
            InputError: If the seed is no whole number from 0 to 2**32 - 1.
        """
        _refuse_forks()
        self.begin_at(seed)
        source = np.array([self.seed, self._episodes], np.uint32)
        begun = self._programs.begin(jax.device_put(source, _device()))
        state, key, row = settled(self._programs.env, begun)
        self._episodes += 1
        self._carried = state, key
        self.last, _ = self._unpacked(row)
        return self.last

    def step(self, actions: Int[np.ndarray, " K"]) -> tuple[Snapshot, StepOutcome]:
        """Takes one environment step.

        Args:
            actions: Numbers of actions that there are; whether they are legal is checked.

        Raises:
            InputError: If no episode is in progress, or an action is not legal.
        """
        _refuse_forks()
        if self._carried is None:
            raise InputError("step: no episode is in progress; call reset() first")
        self._check(actions)
        following = self._programs.advance(*self._carried, actions)
        state, key, row = settled(self._programs.env, following)
        self.last, (rewards, flags) = self._unpacked(row)
        terminated, truncated, won = flags.tolist()
        self._carried = None if terminated or truncated else (state, key)
        return self.last, StepOutcome(rewards, terminated, truncated, won)

    def close(self) -> None:
        """Ends the copies of an environment that is itself stepped in Python."""
        self._carried = None
        if isinstance(self._programs.env, HostEnvironment):
            self._programs.env.close()

    def _check(self, actions: Int[np.ndarray, " K"]) -> None:
        """Raises InputError unless every agent's action is legal, a dead one's too."""
        assert self.last is not None
        legal = self.last.legal
        fits = legal[np.arange(len(legal)), actions]
        if fits.all():
            return
        agent = int(fits.argmin())
        allowed = ", ".join(self._called(other) for other in np.flatnonzero(legal[agent]))
        problem = f"action of agent {agent} = {self._called(actions[agent])}: it is not legal now"
        raise InputError(f"{problem}; choose among {allowed}")

    def _called(self, action: int | np.integer) -> str:
        """An action's number, and its name where it has one."""
        names = self.spec.action_names
        return f"{action} ({names[action]})" if names else str(action)

    def _unpacked(self, row: Array) -> tuple[Snapshot, tuple[np.ndarray, np.ndarray]]:
        """What agents perceive, their rewards, and whether the episode was terminated, truncated
        and won, from the row that `_packed` made. The arrays are the caller's own."""
        spec, numbers = self.spec, np.array(row)
        agents = spec.num_agents
        sizes = (
            agents * spec.observation_size,
            agents * spec.num_actions,
            agents,
            spec.state_size,
            agents,
        )
        ends = np.cumsum(sizes).tolist()
        observations, legal, alive, state, rewards = (
            numbers[end - size : end] for end, size in zip(ends, sizes, strict=True)
        )
        snapshot = Snapshot(
            observations.reshape(agents, -1),
            legal.reshape(agents, -1) != 0,
            alive != 0,
            state,
        )
        return snapshot, (rewards, numbers[ends[-1] :] != 0)


@functools.lru_cache(maxsize=16)
def _shared_programs(name: str) -> _Programs:
    return _programs_of(make(name))


def _programs_by_name(name: str) -> _Programs:
    """The programs of an environment by its name: the same for all its copies, unless it is stepped
    in Python and so holds copies itself."""
    programs = _shared_programs(name)
    env = programs.env
    return _programs_of(env.twin()) if isinstance(env, HostEnvironment) else programs


def _programs_of(env: Environment) -> _Programs:
    def begin(source: UInt32[Array, "2"]) -> tuple[Any, ...]:
        key = jax.random.fold_in(jax.random.PRNGKey(source[0]), source[1])
        reset_key, key = jax.random.split(key)
        state = env.reset(reset_key, 1)
        no = jnp.zeros(1, bool)
        return state, key, _packed(env, state, Step(jnp.zeros(1), no, no, no))

    def advance(state: Any, key: UInt32[Array, "2"], actions: Int[Array, " K"]) -> tuple[Any, ...]:
        key, step_key = jax.random.split(key)
        state, step = env.step(step_key, state, actions[:, None])
        return state, key, _packed(env, state, step)

    once, play = compiler_options("once"), compiler_options("play")
    begun = jax.jit(begin, compiler_options=once)
    return _Programs(env, begun, jax.jit(advance, compiler_options=play))


def _packed(env: Environment, state: Any, step: Step) -> Float[Array, " F"]:
    """What one copy shows after a step, as one row: the parts of a team view, each agent's reward,
    and the three flags."""
    view = env.observe(state)
    rewards = jnp.broadcast_to(step.reward, (env.spec.num_agents, 1))
    parts = (view.observations, view.legal, view.alive, view.state, rewards)
    parts = (*parts, step.terminated, step.truncated, step.won)
    return jnp.concatenate([part.astype(jnp.float32).ravel() for part in parts])


def _device() -> Any:
    return jax.local_devices(backend="cpu")[0]
