"""Environments that are stepped in Python, in processes of their own, behind the environment contract.

JAX calls back into this process, which tells the worker processes to step and hands on what they
wrote into memory that they share. So a rollout, an evaluation and a recording are the same programs
as in any other environment, and all agents of all environments act in one compiled call.

What cannot hold is this: such a world cannot go back to an earlier state. The contract's states
here hold what was perceived, not the worlds, and a run that goes on begins its episodes anew.
"""

import atexit
import multiprocessing
import os
import signal
import traceback
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.shared_memory import SharedMemory
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import io_callback
from jaxtyping import Array, Bool, Float, Int, UInt32

from dm2.envs.base import EnvSpec, Step, TeamView
from dm2.errors import InputError

__all__ = ["HostEnvironment", "Outcome", "Sizes", "Snapshot", "World", "WorldError"]


class WorldError(RuntimeError):
    """A world raised an error, or its process was killed."""


@dataclass(frozen=True)
class Sizes:
    """What never changes about a world."""

    num_agents: int
    observation_size: int
    num_actions: int
    state_size: int
    version: str
    """What made it, and which version, for example `pettingzoo 1.27.0`."""
    limit: int | None = None
    """Its own episode limit in environment steps, if it has one."""
    wins: bool = False
    """Whether it says who won."""


class Snapshot(NamedTuple):
    """What the agents of one world perceive at one instant."""

    observations: Float[np.ndarray, "K O"]
    legal: Bool[np.ndarray, "K A"]
    alive: Bool[np.ndarray, " K"]
    state: Float[np.ndarray, " S"]


class Outcome(NamedTuple):
    """What one joint action led to."""

    reward: float
    """The team's."""
    terminated: bool
    truncated: bool
    won: bool = False


class World(Protocol):
    """One world that is stepped in Python."""

    sizes: Sizes

    def reset(self, seed: int) -> Snapshot:
        """Begins an episode."""
        ...

    def step(self, actions: Int[np.ndarray, " K"]) -> tuple[Snapshot, Outcome]:
        """One environment step. Nobody calls it after an episode's end before `reset`."""
        ...

    def close(self) -> None:
        """Ends whatever the world holds."""
        ...


Recipe = Callable[[], World]
"""Makes a world, in whichever process it is called; it can be pickled."""


class HostState(NamedTuple):
    """What is perceived in `N` worlds; every leaf ends with their axis."""

    observations: Float[Array, "K O N"]
    legal: Bool[Array, "K A N"]
    alive: Bool[Array, "K N"]
    state: Float[Array, "S N"]
    time: Int[Array, " N"]
    """Environment steps taken."""


class HostEnvironment:
    """Worlds stepped in Python, behind the environment contract."""

    def __init__(self, recipe: Recipe, name: str, limit: int | None, sizes: Sizes | None = None):
        """Makes one world, to know its sizes.

        Args:
            recipe: makes a world.
            name: the environment's name.
            limit: episode limit in environment steps; by default the world's own.
            sizes: of the world, if they are known.

        Raises:
            InputError: the world has no limit of its own and none is given.
        """
        self._recipe = recipe
        if sizes is None:
            world = recipe()
            sizes = world.sizes
            world.close()
        self.sizes = sizes
        episode_limit = limit or sizes.limit
        if episode_limit is None:
            raise InputError(f"env = {name!r}: it states no episode limit; add limit=STEPS")
        self.spec = EnvSpec(
            name=name,
            version=sizes.version,
            num_agents=sizes.num_agents,
            observation_size=sizes.observation_size,
            num_actions=sizes.num_actions,
            state_size=sizes.state_size,
            episode_limit=episode_limit,
            wins=sizes.wins,
        )
        self._groups: dict[int, _Group] = {}
        """By the number of worlds."""

    def twin(self) -> "HostEnvironment":
        """The same environment with worlds of its own, for episodes beside those of training."""
        return HostEnvironment(self._recipe, self.spec.name, self.spec.episode_limit, self.sizes)

    def reset(self, key: UInt32[Array, "2"], num_envs: int) -> HostState:
        """Starts an episode in each of `num_envs` worlds."""
        every = jnp.ones(num_envs, bool)
        return self._begin(key, every, jnp.zeros(num_envs, jnp.int32))

    def restart(
        self, key: UInt32[Array, "2"], state: HostState, ended: Bool[Array, " N"]
    ) -> HostState:
        """Starts an episode in those worlds whose episode ended; the others go on."""
        return self._begin(key, ended, jnp.where(ended, 0, state.time))

    def step(
        self, key: UInt32[Array, "2"], state: HostState, actions: Int[Array, "K N"]
    ) -> tuple[HostState, Step]:
        """One environment step of every world."""
        num_envs = actions.shape[1]
        one = jax.ShapeDtypeStruct((num_envs,), jnp.bool_)
        reward = jax.ShapeDtypeStruct((num_envs,), jnp.float32)
        shapes = (*self._shapes(num_envs), reward, one, one, one)
        *perceived, reward, terminated, cut, won = io_callback(
            self._step_worlds, shapes, actions, ordered=True
        )
        time = state.time + 1
        truncated = (cut | (time >= self.spec.episode_limit)) & ~terminated
        step = Step(reward=reward, terminated=terminated, truncated=truncated, won=won)
        return HostState(*perceived, time), step

    def observe(self, state: HostState) -> TeamView:
        """What the teams perceive."""
        observations, legal = (jnp.moveaxis(x, 1, 2) for x in (state.observations, state.legal))
        return TeamView(observations, legal, state.alive, state.state.T)

    def close(self) -> None:
        """Ends the worlds' processes."""
        for group in self._groups.values():
            group.close()
        self._groups.clear()

    def _begin(
        self, key: UInt32[Array, "2"], which: Bool[Array, " N"], time: Int[Array, " N"]
    ) -> HostState:
        num_envs = which.shape[0]
        seeds = jax.random.randint(key, (num_envs,), 0, 2**31 - 1)
        shapes = self._shapes(num_envs)
        return HostState(*io_callback(self._reset_worlds, shapes, which, seeds, ordered=True), time)

    def _shapes(self, num_envs: int) -> tuple[jax.ShapeDtypeStruct, ...]:
        spec = self.spec
        agents, actions = spec.num_agents, spec.num_actions
        return (
            jax.ShapeDtypeStruct((agents, spec.observation_size, num_envs), jnp.float32),
            jax.ShapeDtypeStruct((agents, actions, num_envs), jnp.bool_),
            jax.ShapeDtypeStruct((agents, num_envs), jnp.bool_),
            jax.ShapeDtypeStruct((spec.state_size, num_envs), jnp.float32),
        )

    def _group(self, num_envs: int) -> "_Group":
        if num_envs not in self._groups:
            self._groups[num_envs] = _Group(self._recipe, self.sizes, num_envs)
        return self._groups[num_envs]

    def _reset_worlds(self, which: Any, seeds: Any) -> Any:
        group = self._group(len(which))
        group.arrays["which"][:], group.arrays["seeds"][:] = which, seeds
        group.tell(b"reset")
        return group.perceived()

    def _step_worlds(self, actions: Any) -> Any:
        group = self._group(actions.shape[1])
        group.arrays["actions"][:] = np.asarray(actions).T
        group.tell(b"step")
        outcome = [group.arrays[name].copy() for name in ("reward", "terminated", "cut", "won")]
        return (*group.perceived(), *outcome)


def _fields(sizes: Sizes, num_envs: int) -> dict[str, tuple[tuple[int, ...], Any]]:
    """Shapes and types of what is shared with the processes, a world a row."""
    agents, flag = sizes.num_agents, (num_envs,)
    return {
        "observations": ((num_envs, agents, sizes.observation_size), np.float32),
        "legal": ((num_envs, agents, sizes.num_actions), np.bool_),
        "alive": ((num_envs, agents), np.bool_),
        "state": ((num_envs, sizes.state_size), np.float32),
        "actions": ((num_envs, agents), np.int32),
        "reward": (flag, np.float32),
        "terminated": (flag, np.bool_),
        "cut": (flag, np.bool_),
        "won": (flag, np.bool_),
        "which": (flag, np.bool_),
        "seeds": (flag, np.int64),
    }


def _views(memory: SharedMemory, fields: dict[str, Any]) -> dict[str, np.ndarray]:
    """The arrays in shared memory, one behind another."""
    views, offset = {}, 0
    for name, (shape, kind) in fields.items():
        views[name] = np.ndarray(shape, kind, buffer=memory.buf, offset=offset)
        offset += -(-views[name].nbytes // 64) * 64
    return views


def _bytes(fields: dict[str, Any]) -> int:
    sizes = (int(np.prod(shape)) * np.dtype(kind).itemsize for shape, kind in fields.values())
    return max(64, sum(-(-size // 64) * 64 for size in sizes))


class _Group:
    """Worlds that are stepped together, in processes that share memory with this one."""

    def __init__(self, recipe: Recipe, sizes: Sizes, num_envs: int) -> None:
        fields = _fields(sizes, num_envs)
        self._memory = SharedMemory(create=True, size=_bytes(fields))
        self.arrays = _views(self._memory, fields)
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
        count = max(1, min(cores, num_envs))
        context = multiprocessing.get_context("spawn")
        self._workers = []
        for number in range(count):
            ours, theirs = context.Pipe()
            mine = range(number, num_envs, count)
            arguments = (recipe, self._memory.name, fields, mine, theirs)
            process = context.Process(target=_work, args=arguments, daemon=True)
            process.start()
            theirs.close()
            self._workers.append((process, ours))
        self._end = weakref.finalize(self, _close, self._workers, self._memory)
        atexit.register(self._end)

    def tell(self, what: bytes) -> None:
        """Tells all processes what to do and waits until it is done. Raises WorldError."""
        for _, line in self._workers:
            line.send_bytes(what)
        for process, line in self._workers:
            try:
                said = line.recv_bytes()
            except (EOFError, OSError):
                process.join(1)
                raise WorldError(f"a world's process ended with code {process.exitcode}") from None
            if said:
                raise WorldError(said.decode())

    def perceived(self) -> tuple[np.ndarray, ...]:
        """What the teams perceive, the worlds' axis last."""
        names = ("observations", "legal", "alive", "state")
        return tuple(np.ascontiguousarray(np.moveaxis(self.arrays[name], 0, -1)) for name in names)

    def close(self) -> None:
        """Ends the processes."""
        self._end()


def _close(workers: Sequence[tuple[Any, Connection]], memory: SharedMemory) -> None:
    for process, line in workers:
        line.close()
        process.join(2)
        if process.is_alive():
            process.terminate()
    memory.close()
    memory.unlink()


def _work(
    recipe: Recipe, name: str, fields: dict[str, Any], mine: Sequence[int], line: Connection
) -> None:
    """A process that steps some of the worlds, until nobody talks to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever trains decides when it is over
    memory = SharedMemory(name=name)
    arrays = _views(memory, fields)
    worlds: dict[int, World] = {}
    tasks = {b"reset": _reset, b"step": _step}
    while True:
        try:
            what = line.recv_bytes()
        except (EOFError, OSError):
            break
        try:
            for number in mine:
                if number not in worlds:
                    worlds[number] = recipe()
                tasks[what](worlds[number], number, arrays)
            line.send_bytes(b"")
        except BaseException as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            said = f"{type(error).__name__}: {error} ({where.filename}, line {where.lineno})"
            line.send_bytes(said.encode())
            break
    for world in worlds.values():
        world.close()
    memory.close()


def _reset(world: World, number: int, arrays: dict[str, np.ndarray]) -> None:
    if arrays["which"][number]:
        _write(world.reset(int(arrays["seeds"][number])), number, arrays)


def _step(world: World, number: int, arrays: dict[str, np.ndarray]) -> None:
    snapshot, outcome = world.step(arrays["actions"][number])
    _write(snapshot, number, arrays)
    arrays["reward"][number] = outcome.reward
    arrays["terminated"][number] = outcome.terminated
    arrays["cut"][number] = outcome.truncated and not outcome.terminated
    arrays["won"][number] = outcome.won


def _write(snapshot: Snapshot, number: int, arrays: dict[str, np.ndarray]) -> None:
    for name, value in snapshot._asdict().items():
        arrays[name][number] = value
