"""Copies of an environment that are stepped in Python, side by side: in processes or in this one.

The processes share memory with the one that started them, a file without a name, of which nothing
is left when they end. They are no `multiprocessing` processes: those run the user's script again,
and a process that trains one of several seeds may not start any. Each is in a process group of its
own, with the games that its copies start: Ctrl-C does not reach them, and they end together.

Nothing here imports JAX, so that the processes begin soon.
"""

import contextlib
import io
import mmap
import os
import pickle
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import warnings
import weakref
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np

from dm2.cores import cores
from dm2.envs.python_env import (
    PythonEnv,
    Recipe,
    Sizes,
    Snapshot,
    StepOutcome,
    check_rewards,
    check_shapes,
    settle_shown,
)
from dm2.errors import EnvError, one_line

__all__ = [
    "Group",
    "InProcesses",
    "InThisProcess",
    "fields",
    "quiet_output",
    "words_of",
]

Order = Literal["reset", "step"]


@runtime_checkable
class Group(Protocol):
    """A group holds copies that are stepped together."""

    arrays: dict[str, np.ndarray]
    """What goes to and comes from the copies; see `fields`."""

    def tell(self, order: Order) -> None:
        """Lets all copies do something and waits until it is done. Raises EnvError."""
        ...

    def close(self) -> None:
        """Ends the copies."""
        ...


class Copies:
    """Some of the copies of a group, stepped one after another in the process that holds them."""

    def __init__(
        self,
        recipe: Recipe,
        sizes: Sizes,
        numbers: range,
        arrays: dict[str, np.ndarray],
        raised: tuple[type[BaseException], ...] = (Exception, SystemExit),
    ) -> None:
        self._recipe, self._sizes, self._arrays = recipe, sizes, arrays
        self._raised = raised
        """What a copy may raise; by default KeyboardInterrupt is Ctrl-C's."""
        self._copies: dict[int, PythonEnv | None] = dict.fromkeys(numbers)
        self._places = {
            number: (*(arrays[name][:, number] for name in _OF_AGENTS), arrays["state"][number])
            for number in numbers
        }
        """Where a copy's snapshot goes, in the order of its fields."""
        own = slice(numbers.start, numbers.stop, numbers.step)
        self._shown = {name: arrays[name][:, own] for name in (*_OF_AGENTS, "rewards")}
        self._shown["state"] = arrays["state"][own]

    def obey(self, order: Order) -> None:
        """Does to all copies what is asked for. Raises EnvError, whatever they raise."""
        try:
            for number in self._copies:
                if order == "step":
                    self._step(number)
                elif self._arrays["which"][number]:
                    self._reset(number)
            settle_shown(**self._shown)
        except EnvError as error:
            raise EnvError(f"after {order}, {error}") from None
        except self._raised as error:
            raise EnvError(f"{order} raised {words_of(error)}") from error

    def close(self) -> None:
        """Closes the copies, whatever they say to it."""
        for env in self._copies.values():
            with contextlib.suppress(*self._raised):
                if env is not None:
                    env.close()

    def _reset(self, number: int) -> None:
        env = self._copies[number] or self._recipe()
        self._copies[number] = env
        self._show(env.reset(int(self._arrays["seeds"][number])), number)

    def _step(self, number: int) -> None:
        env, arrays = self._copies[number], self._arrays
        if env is None:  # it went with its process, and its episode is cut where it was
            outcome = StepOutcome(np.zeros(self._sizes.num_agents, np.float32), False, True)
        else:
            snapshot, outcome = env.step(arrays["actions"][:, number])
            self._show(snapshot, number)
        check_rewards(outcome.rewards, self._sizes)
        arrays["rewards"][:, number] = outcome.rewards
        arrays["terminated"][number] = outcome.terminated
        arrays["truncated"][number] = outcome.truncated and not outcome.terminated
        arrays["won"][number] = outcome.won

    def _show(self, snapshot: Snapshot, number: int) -> None:
        check_shapes(snapshot, self._sizes)
        for place, shown in zip(self._places[number], snapshot, strict=True):
            place[...] = shown


_OF_AGENTS = ("observations", "legal", "alive")


class InThisProcess:
    """Copies that are stepped here, since what makes them has no name by which another process
    could find it."""

    def __init__(self, recipe: Recipe, sizes: Sizes, num_envs: int) -> None:
        shapes = fields(sizes, num_envs)
        self.arrays = {name: np.zeros(shape, kind) for name, (shape, kind) in shapes.items()}
        self._copies = Copies(recipe, sizes, range(num_envs), self.arrays)

    def tell(self, order: Order) -> None:
        """See `Group`."""
        with quiet_output():
            self._copies.obey(order)

    def close(self) -> None:
        """See `Group`."""
        with quiet_output():
            self._copies.close()


class _Brief(NamedTuple):
    """What a process is told first."""

    path: list[str]
    """Where it finds modules."""
    recipe: Recipe
    sizes: Sizes
    num_envs: int
    numbers: range
    """The copies that it steps."""


class InProcesses:
    """Copies that are stepped in one process a core.

    A process that dies, because a game crashed it or somebody killed it, is replaced. Its episodes
    are cut where they were, and a warning says so. A process that dies `MOST_DEATHS` times before
    an episode of its copies ends by itself is given up.
    """

    def __init__(
        self, recipe: Recipe, sizes: Sizes, num_envs: int, processes: int | None = None
    ) -> None:
        """Starts the processes; they make their copies when these are first reset.

        Args:
            recipe: Makes a copy; it is pickled.
            sizes: The sizes of the copies.
            num_envs: How many copies there are.
            processes: How many processes step them; by default one a core.
        """
        shapes = fields(sizes, num_envs)
        count = min(processes or len(cores()), num_envs)
        self._workers: list[_Worker] = []
        folder = "/dev/shm" if os.path.isdir("/dev/shm") else None
        with tempfile.TemporaryFile(dir=folder) as file:
            file.truncate(_size(shapes))
            self._memory = mmap.mmap(file.fileno(), 0)
            descriptor = os.dup(file.fileno())
        self.arrays = _views(self._memory, shapes)
        self._end = weakref.finalize(self, _end, self._workers, descriptor)
        for number in range(count):
            numbers = range(number, num_envs, count)
            brief = _Brief(sys.path, recipe, sizes, num_envs, numbers)
            self._workers.append(_Worker(brief, descriptor))

    def tell(self, order: Order) -> None:
        """See `Group`."""
        for worker in self._workers:
            worker.send(order)
        problems = [worker.answer(order) for worker in self._workers]
        for worker, problem in zip(self._workers, problems, strict=True):
            if problem is None:
                problem = self._replaced(worker, order)
            elif worker.deaths and order == "step" and self._any_ended(worker):
                worker.deaths = 0
            if problem:
                raise EnvError(problem)

    def close(self) -> None:
        """See `Group`."""
        self._end()

    def _replaced(self, worker: "_Worker", order: Order) -> str | None:
        """Replaces a process that died and repeats the order; what the new one answers. It has no
        copies yet, so that a step cuts their episodes."""
        words = worker.last_words()
        worker.deaths += 1
        if worker.deaths == MOST_DEATHS:
            return f"{words}, {MOST_DEATHS} times before an episode ended; mend what kills it"
        warnings.warn(f"{words}: its episodes are cut", RuntimeWarning, stacklevel=2)
        worker.start()
        worker.send(order)
        answer = worker.answer(order)
        return self._replaced(worker, order) if answer is None else answer

    def _any_ended(self, worker: "_Worker") -> bool:
        ended = self.arrays["terminated"] | self.arrays["truncated"]
        return bool(ended[list(worker.brief.numbers)].any())


MOST_DEATHS = 3
PATIENCE_S = 600.0
"""Seconds that a process may take for an order, in which a game may have to start."""


_GRACE_S = 2.0
"""Seconds in which a process that nobody talks to may close its copies."""


class _Worker:
    """One process that steps copies, and the line to it."""

    def __init__(self, brief: _Brief, memory: int) -> None:
        self.brief, self._memory = brief, memory
        self.deaths = 0
        """Since an episode ended by itself."""
        self.start()

    def start(self) -> None:
        """Starts the process, or another one in place of the one that died."""
        ours, theirs = socket.socketpair()
        descriptors = (theirs.fileno(), self._memory)
        code = "import sys; from dm2.envs.workers import work; work(*map(int, sys.argv[1:]))"
        command = [sys.executable, "-c", code, *map(str, descriptors)]
        where = [path for path in sys.path if path]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(where)}
        self.process = subprocess.Popen(
            command,
            pass_fds=descriptors,
            env=environment,
            stdin=subprocess.DEVNULL,
            process_group=0,
        )
        theirs.close()
        self._line = Connection(ours.detach())
        self._line.send_bytes(pickle.dumps(self.brief))

    def send(self, order: Order) -> None:
        """Sends an order; to a process that died, nothing."""
        with contextlib.suppress(OSError):
            self._line.send_bytes(order.encode())

    def answer(self, order: Order) -> str | None:
        """What is wrong with a copy, nothing if all went well, None if the process died."""
        try:
            if not self._line.poll(PATIENCE_S):
                return (
                    f"{order} was not done after {PATIENCE_S:g} s; mend what waits for ever in it"
                )
            return self._line.recv_bytes().decode()
        except (EOFError, OSError):
            return None

    def last_words(self) -> str:
        """What to say of a process that says no more."""
        self.hang_up()
        self.wait()
        code = self.process.returncode
        if code < 0:
            return f"a process that steps it was killed by signal {-code}"
        return f"a process that steps it ended by itself, with code {code}"

    def hang_up(self) -> None:
        """Lets the process end by itself."""
        self._line.close()

    def wait(self) -> None:
        """Waits for the process's end, not for long, and ends what it left behind."""
        try:
            self.process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
        with contextlib.suppress(OSError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def _end(workers: Sequence[_Worker], memory: int) -> None:
    """Lets all processes end by themselves, and kills those that do not."""
    for worker in workers:
        worker.hang_up()
    for worker in workers:
        worker.wait()
    os.close(memory)


def work(line: int, memory: int) -> None:
    """Steps copies in this process until nobody talks to it; `InProcesses` starts it.

    Args:
        line: The descriptor of the line to the process that started this one.
        memory: The descriptor of the memory that both share.
    """
    os.dup2(2, 1)  # standard output belongs to whoever trains
    # A signal ends this process, so that KeyboardInterrupt is a copy's own.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    talk = Connection(line)
    threading.Thread(target=_end_if_alone, args=(line,), daemon=True).start()
    copies = None
    with contextlib.suppress(EOFError, OSError):  # nobody is there any more
        try:
            brief = pickle.loads(talk.recv_bytes())
            sys.path[:] = brief.path
            arrays = _views(mmap.mmap(memory, 0), fields(brief.sizes, brief.num_envs))
            copies = Copies(brief.recipe, brief.sizes, brief.numbers, arrays, (BaseException,))
            while True:
                order: Any = talk.recv_bytes().decode()
                copies.obey(order)
                talk.send_bytes(b"")
        except EnvError as error:
            talk.send_bytes(str(error).encode())
    if copies is not None:
        copies.close()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.killpg(0, signal.SIGTERM)  # games that outlive their copies


def _end_if_alone(line: int) -> None:
    """Ends this process and what it started some time after nobody talks to it any more, whatever a
    copy does then, such as a step that never ends."""
    alone = select.poll()
    alone.register(line, select.POLLHUP)
    while not alone.poll():
        pass
    time.sleep(_GRACE_S)
    os.killpg(0, signal.SIGKILL)


def words_of(error: BaseException) -> str:
    """An exception in one line: its type, what it says, and where it was raised."""
    said = one_line(str(error), 300)
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


def fields(sizes: Sizes, num_envs: int) -> dict[str, tuple[tuple[int, ...], Any]]:
    """Shapes and types of what goes to the copies and comes from them, with the axes of the
    environment contract."""
    agents, flag = sizes.num_agents, (num_envs,)
    return {
        "observations": ((agents, num_envs, sizes.observation_size), np.float32),
        "legal": ((agents, num_envs, sizes.num_actions), np.bool_),
        "alive": ((agents, num_envs), np.bool_),
        "state": ((num_envs, sizes.state_size), np.float32),
        "actions": ((agents, num_envs), np.int32),
        "rewards": ((agents, num_envs), np.float32),
        "terminated": (flag, np.bool_),
        "truncated": (flag, np.bool_),
        "won": (flag, np.bool_),
        "which": (flag, np.bool_),
        "seeds": (flag, np.int64),
    }


_LINE = 64
"""Bytes at whose multiples arrays begin, so that processes do not share a line of the cache."""


def _views(memory: mmap.mmap, shapes: dict[str, Any]) -> dict[str, np.ndarray]:
    """The arrays in shared memory, one behind another."""
    views, offset = {}, 0
    for name, (shape, kind) in shapes.items():
        views[name] = np.ndarray(shape, kind, buffer=memory, offset=offset)
        offset += -(-views[name].nbytes // _LINE) * _LINE
    return views


def _size(shapes: dict[str, Any]) -> int:
    sizes = (int(np.prod(shape)) * np.dtype(kind).itemsize for shape, kind in shapes.values())
    return sum(-(-size // _LINE) * _LINE for size in sizes)
