"""Many worlds that are stepped in Python, side by side: in processes of their own, or in this one.

The processes share memory with the one that started them, a file without a name, of which nothing
is left when they end. They are no `multiprocessing` processes: those run the user's script again,
and a process that trains one of several seeds may not start any.
"""

import contextlib
import io
import mmap
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import traceback
import weakref
from collections.abc import Iterator, Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np

from dm2.envs.world import Recipe, Sizes, World, checked_outcome, checked_snapshot
from dm2.errors import WorldError

__all__ = ["Group", "InProcesses", "InThisProcess", "quiet_output", "words_of"]

Order = Literal["reset", "step"]


@runtime_checkable
class Group(Protocol):
    """A group holds worlds that are stepped together."""

    arrays: dict[str, np.ndarray]
    """What goes to and comes from the worlds, a world a row; see `_fields`."""

    def tell(self, order: Order) -> None:
        """Lets all worlds do something and waits until it is done. Raises WorldError."""
        ...

    def close(self) -> None:
        """Ends the worlds."""
        ...


class Worlds:
    """Some of the worlds of a group, stepped one after another in the process that holds them."""

    def __init__(
        self, recipe: Recipe, sizes: Sizes, numbers: Sequence[int], arrays: dict[str, np.ndarray]
    ) -> None:
        self._recipe, self._sizes, self._arrays = recipe, sizes, arrays
        self._worlds: dict[int, World | None] = dict.fromkeys(numbers)

    def obey(self, order: Order) -> None:
        """Does to all worlds what is asked for. Raises WorldError, whatever they raise."""
        task = self._reset if order == "reset" else self._step
        for number in self._worlds:
            try:
                task(number)
            except WorldError as error:
                raise WorldError(f"after {order}, {error}") from None
            except Exception as error:  # whatever a world raises
                raise WorldError(f"{order} raised {words_of(error)}") from error

    def close(self) -> None:
        """Closes the worlds, whatever they say to it."""
        for world in self._worlds.values():
            with contextlib.suppress(Exception):
                if world is not None:
                    world.close()

    def _reset(self, number: int) -> None:
        if not self._arrays["which"][number]:
            return
        world = self._worlds[number] or self._recipe()
        self._worlds[number] = world
        self._show(world.reset(int(self._arrays["seeds"][number])), number)

    def _step(self, number: int) -> None:
        world, arrays = self._worlds[number], self._arrays
        assert world is not None, "a reset comes first"
        snapshot, outcome = world.step(arrays["actions"][number])
        self._show(snapshot, number)
        outcome = checked_outcome(outcome, self._sizes)
        arrays["rewards"][number] = outcome.rewards
        arrays["terminated"][number] = outcome.terminated
        arrays["truncated"][number] = outcome.truncated and not outcome.terminated
        arrays["won"][number] = outcome.won

    def _show(self, snapshot: Any, number: int) -> None:
        for name, value in checked_snapshot(snapshot, self._sizes)._asdict().items():
            self._arrays[name][number] = value


class InThisProcess:
    """Worlds that are stepped here, since what makes them has no name by which another process
    could find it."""

    def __init__(self, recipe: Recipe, sizes: Sizes, num_envs: int) -> None:
        fields = _fields(sizes, num_envs)
        self.arrays = {name: np.zeros(shape, kind) for name, (shape, kind) in fields.items()}
        self._worlds = Worlds(recipe, sizes, range(num_envs), self.arrays)

    def tell(self, order: Order) -> None:
        """See `Group`."""
        self._worlds.obey(order)

    def close(self) -> None:
        """See `Group`."""
        self._worlds.close()


class _Brief(NamedTuple):
    """What a process is told first."""

    path: list[str]
    """Where it finds modules."""
    recipe: Recipe
    sizes: Sizes
    num_envs: int
    numbers: Sequence[int]
    """The worlds that it steps."""


class InProcesses:
    """Worlds that are stepped in one process a core."""

    def __init__(self, recipe: Recipe, sizes: Sizes, num_envs: int) -> None:
        fields = _fields(sizes, num_envs)
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
        count = min(cores, num_envs)
        self._workers: list[tuple[subprocess.Popen[bytes], Connection]] = []
        folder = "/dev/shm" if os.path.isdir("/dev/shm") else None
        with tempfile.TemporaryFile(dir=folder) as file:
            file.truncate(_size(fields))
            self._memory = mmap.mmap(file.fileno(), 0)
            self.arrays = _views(self._memory, fields)
            self._end = weakref.finalize(self, _end, self._workers)
            for number in range(count):
                numbers = range(number, num_envs, count)
                brief = _Brief(sys.path, recipe, sizes, num_envs, numbers)
                self._workers.append(_start(brief, file.fileno()))

    def tell(self, order: Order) -> None:
        """See `Group`."""
        words: list[str] = []
        for _, line in self._workers:
            with contextlib.suppress(OSError):  # it was killed, and its silence says so
                line.send_bytes(order.encode())
        for process, line in self._workers:
            try:
                words.append(line.recv_bytes().decode())
            except (EOFError, OSError):
                words.append(_last_words(process))
        for problem in filter(None, words):
            raise WorldError(problem)

    def close(self) -> None:
        """See `Group`."""
        self._end()


def _start(brief: _Brief, memory: int) -> tuple[subprocess.Popen[bytes], Connection]:
    ours, theirs = Pipe()
    descriptors = (theirs.fileno(), memory)
    code = "import sys; from dm2.envs.workers import work; work(*map(int, sys.argv[1:]))"
    command = [sys.executable, "-c", code, *map(str, descriptors)]
    where = [path for path in sys.path if path]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(where)}
    process = subprocess.Popen(
        command, pass_fds=descriptors, env=environment, stdin=subprocess.DEVNULL
    )
    theirs.close()
    ours.send_bytes(pickle.dumps(brief))
    return process, ours


def _last_words(process: subprocess.Popen[bytes]) -> str:
    """What to say of a process that says no more."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(2)
    code = process.returncode
    if code is not None and code < 0:
        return f"a process that steps it was killed by signal {-code}"
    return f"a process that steps it ended by itself, with code {code}"


def _end(workers: Sequence[tuple[subprocess.Popen[bytes], Connection]]) -> None:
    """Lets all processes end by themselves, and kills those that do not within two seconds."""
    for _, line in workers:
        line.close()
    for process, _ in workers:
        try:
            process.wait(2)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def work(line: int, memory: int) -> None:
    """Steps worlds in this process until nobody talks to it; `InProcesses` starts it.

    Args:
        line: The descriptor of the line to the process that started this one.
        memory: The descriptor of the memory that both share.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever trains decides when it is over
    os.dup2(2, 1)  # standard output belongs to whoever trains
    talk = Connection(line)
    worlds = None
    with contextlib.suppress(EOFError, OSError):  # nobody is there any more
        try:
            brief = pickle.loads(talk.recv_bytes())
            sys.path[:] = brief.path
            fields = _fields(brief.sizes, brief.num_envs)
            arrays = _views(mmap.mmap(memory, 0), fields)
            worlds = Worlds(brief.recipe, brief.sizes, brief.numbers, arrays)
            while True:
                order: Any = talk.recv_bytes().decode()
                worlds.obey(order)
                talk.send_bytes(b"")
        except WorldError as error:
            talk.send_bytes(str(error).encode())
    if worlds is not None:
        worlds.close()


def words_of(error: BaseException) -> str:
    """An exception in one line: its type, what it says, and where it was raised."""
    said = " ".join(str(error).split())
    frames = traceback.extract_tb(error.__traceback__)
    where = (
        f" ({os.path.basename(frames[-1].filename)}, line {frames[-1].lineno})" if frames else ""
    )
    return f"{type(error).__name__}: {said}{where}" if said else f"{type(error).__name__}{where}"


@contextlib.contextmanager
def quiet_output() -> Iterator[None]:
    """A context in which what Python prints on standard output is lost: that belongs to results,
    and many packages greet whoever imports them."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield


def _fields(sizes: Sizes, num_envs: int) -> dict[str, tuple[tuple[int, ...], Any]]:
    """Shapes and types of what goes to the worlds and comes from them, a world a row."""
    agents, flag = sizes.num_agents, (num_envs,)
    return {
        "observations": ((num_envs, agents, sizes.observation_size), np.float32),
        "legal": ((num_envs, agents, sizes.num_actions), np.bool_),
        "alive": ((num_envs, agents), np.bool_),
        "state": ((num_envs, sizes.state_size), np.float32),
        "actions": ((num_envs, agents), np.int32),
        "rewards": ((num_envs, agents), np.float32),
        "terminated": (flag, np.bool_),
        "truncated": (flag, np.bool_),
        "won": (flag, np.bool_),
        "which": (flag, np.bool_),
        "seeds": (flag, np.int64),
    }


_LINE = 64
"""Bytes at whose multiples arrays begin, so that processes do not share a line of the cache."""


def _views(memory: mmap.mmap, fields: dict[str, Any]) -> dict[str, np.ndarray]:
    """The arrays in shared memory, one behind another."""
    views, offset = {}, 0
    for name, (shape, kind) in fields.items():
        views[name] = np.ndarray(shape, kind, buffer=memory, offset=offset)
        offset += -(-views[name].nbytes // _LINE) * _LINE
    return views


def _size(fields: dict[str, Any]) -> int:
    sizes = (int(np.prod(shape)) * np.dtype(kind).itemsize for shape, kind in fields.values())
    return sum(-(-size // _LINE) * _LINE for size in sizes)
