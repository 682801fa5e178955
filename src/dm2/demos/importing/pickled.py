"""Pickles as plain data: a parser that builds lists, dictionaries and texts, and calls nothing.

A pickle is a program for a small machine with a stack. One of its instructions looks a function up
by its name, and another one calls it, which is how a pickle can run anything. This parser knows the
instructions that build plain values. Where a pickle would call a function, it only writes down
which one and with what (`Call`), and it refuses every name that it was not told to expect.
"""

import io
import pickletools
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from dm2.errors import InputError

__all__ = ["Call", "Global", "Persistent", "parse"]


@dataclass(frozen=True)
class Global:
    """A function or class that a pickle names, as `module.name`. Nothing is looked up."""

    name: str


@dataclass(eq=False)
class Call:
    """A call that a pickle asks for, and which is not made."""

    name: str
    """The function, as `module.name`."""
    args: tuple
    state: Any = None
    """What the pickle would hand to the `__setstate__` of the result."""


@dataclass(frozen=True)
class Persistent:
    """A reference to something outside of the pickle."""

    key: Any


_MARK = object()
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY: dict[str, Callable[[], Any]] = {
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_TUPLE": tuple,
}
_LITERALS = (
    *("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
)
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def parse(stream: io.BytesIO, allowed: Collection[str]) -> Any:
    """Reads one pickle, and leaves the stream at its end.

    Args:
        stream: The pickle.
        allowed: The functions and classes that it may name, as `module.name`.

    Returns:
        The value that it stands for, in which `Call`, `Global` and `Persistent` stand for what a
        pickle can do beyond plain values.

    Raises:
        InputError: If it names anything else, has an instruction that plain values do not need, or
            is damaged.
    """
    machine = _Machine(allowed)
    try:
        for opcode, argument, _ in pickletools.genops(stream):
            if opcode.name == "STOP":
                return machine.stack[-1]
            machine.run(opcode.name, argument)
    except (ValueError, IndexError, KeyError, TypeError, AttributeError) as error:
        problem = f"the pickle cannot be read ({type(error).__name__}: {error})"
        raise InputError(
            f"{' '.join(problem.split())}; the file is damaged: copy it again"
        ) from None
    raise InputError("the pickle has no end; the file is damaged: copy it again")


class _Machine:
    """The stack and the memory of the machine."""

    def __init__(self, allowed: Collection[str]) -> None:
        self.allowed = allowed
        self.stack: list[Any] = []
        self.memory: dict[int, Any] = {}

    def run(self, name: str, argument: Any) -> None:
        """Executes one instruction. Raises InputError if it is not one of those that it may be."""
        if name in _LITERALS:
            self.stack.append(argument)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            self.stack.append(_EMPTY[name]())
        elif name in _TUPLES:
            self.stack.append(tuple(self._take(_TUPLES[name])))
        elif name in _INSTRUCTIONS:
            _INSTRUCTIONS[name](self, argument)
        elif name not in ("PROTO", "FRAME"):
            problem = f"the pickle has the instruction {name}, which plain values do not need"
            raise InputError(f"{problem}, and is not read; get the file from whom you trust")

    def _take(self, count: int) -> list[Any]:
        if len(self.stack) < count:
            raise IndexError("the stack is too short")
        taken = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return taken

    def _since_mark(self) -> list[Any]:
        taken: list[Any] = []
        while (top := self.stack.pop()) is not _MARK:
            taken.append(top)
        return taken[::-1]

    def _name(self, module: Any, name: Any) -> None:
        if not (isinstance(module, str) and isinstance(name, str)):
            raise TypeError("what is named is no text")
        full = f"{module}.{name}"
        if full not in self.allowed:
            problem = f"the pickle names {full}, which is no part of an array"
            raise InputError(f"{problem} and could run code, so nothing of it is read or run")
        self.stack.append(Global(full))

    def _call(self) -> None:
        function, args = self._take(2)
        if not isinstance(function, Global) or not isinstance(args, tuple):
            raise TypeError("what is called is no function")
        self.stack.append(Call(function.name, args))

    def _build(self) -> None:
        call, state = self._take(2)
        if not isinstance(call, Call):
            raise TypeError("what gets a state is no result of a call")
        call.state = state
        self.stack.append(call)

    def _append(self, values: list[Any]) -> None:
        if type(self.stack[-1]) is not list:
            raise TypeError("what is appended to is no list")
        self.stack[-1].extend(values)

    def _set(self, values: list[Any]) -> None:
        if type(self.stack[-1]) is not dict:
            raise TypeError("what gets an item is no dictionary")
        if not all(type(key) in (str, int) for key in values[::2]):
            # The hash of a deeply nested tuple would overflow the stack of the process.
            raise TypeError("a key is neither a text nor a whole number")
        self.stack[-1].update(zip(values[::2], values[1::2], strict=True))


_INSTRUCTIONS: dict[str, Callable[[_Machine, Any], None]] = {
    "MARK": lambda machine, _: machine.stack.append(_MARK),
    "TUPLE": lambda machine, _: machine.stack.append(tuple(machine._since_mark())),
    "APPEND": lambda machine, _: machine._append(machine._take(1)),
    "APPENDS": lambda machine, _: machine._append(machine._since_mark()),
    "SETITEM": lambda machine, _: machine._set(machine._take(2)),
    "SETITEMS": lambda machine, _: machine._set(machine._since_mark()),
    "BINPUT": lambda machine, i: machine.memory.__setitem__(i, machine.stack[-1]),
    "LONG_BINPUT": lambda machine, i: machine.memory.__setitem__(i, machine.stack[-1]),
    "MEMOIZE": lambda machine, _: machine.memory.__setitem__(
        len(machine.memory), machine.stack[-1]
    ),
    "BINGET": lambda machine, i: machine.stack.append(machine.memory[i]),
    "LONG_BINGET": lambda machine, i: machine.stack.append(machine.memory[i]),
    "GLOBAL": lambda machine, words: machine._name(*words.split(" ", 1)),
    "STACK_GLOBAL": lambda machine, _: machine._name(*machine._take(2)),
    "REDUCE": lambda machine, _: machine._call(),
    "BUILD": lambda machine, _: machine._build(),
    "BINPERSID": lambda machine, _: machine.stack.append(Persistent(machine._take(1)[0])),
}
