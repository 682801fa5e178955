"""The exception types that users are meant to read, and the checks of settings that raise them."""

import dataclasses
import math
import numbers
import os
import sys
import types
from collections.abc import Mapping
from typing import (
    Any,
    Literal,
    SupportsIndex,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    no_type_check,
)

__all__ = [
    "MOST",
    "DivergedError",
    "EnvError",
    "InputError",
    "Whole",
    "as_path",
    "as_seed",
    "as_whole",
    "check_choice",
    "check_finite",
    "check_flags",
    "check_positive",
    "check_setting",
    "checks_itself",
    "convert_fields",
    "one_line",
]


T = TypeVar("T")
MOST = 2**31 - 1
"""The largest count that 32 bits hold, in which arrays and the steps of an episode are counted."""
Whole = SupportsIndex | float
"""A whole number in any form that `as_whole` takes: 7, 7.0, `numpy.int64(7)`."""


class InputError(Exception):
    """Unusable input: names the field, the value that was given, and the remedy.

    The command line prints its message alone, without a traceback, and exits with 2. It is no
    ValueError, which the parser of the command line would catch and put into words of its own.
    """


class DivergedError(RuntimeError):
    """Training came to a number that is not finite: names the agent, the quantity, the step, and
    the checkpoint from before. The command line prints its message and exits with 1."""


class EnvError(RuntimeError):
    """An environment that is stepped in Python failed: names the environment, what went wrong, and
    the remedy. The command line prints its message and exits with 1."""


def check_setting(condition: bool, field: str, value: object, remedy: str) -> None:
    """Raises InputError `field = value: remedy` unless the condition holds."""
    if not condition:
        raise InputError(f"{field} = {value!r}: {remedy}")


def check_positive(settings: object, prefix: str, *names: str, high: int = MOST) -> None:
    """Raises InputError unless the fields called `names` hold whole numbers from 1 to `high`, by
    default the most that 32 bits count.

    `prefix` stands before a field's name in the message, for example `ppo.`.
    """
    for name in names:
        value = getattr(settings, name)
        bounds = "above 0" if value <= 0 else f"of at most {high}"
        check_setting(0 < value <= high, prefix + name, value, f"must be a whole number {bounds}")


def check_finite(
    settings: object, prefix: str, *names: str, low: float = 0.0, high: float = math.inf
) -> None:
    """Raises InputError unless the fields called `names` hold finite numbers from `low` to
    `high`."""
    for name in names:
        value = getattr(settings, name)
        ok = low <= value <= high and value <= sys.float_info.max
        bounds = f"from {low:g}" + (f" to {high:g}" if math.isfinite(high) else " up")
        check_setting(ok, prefix + name, value, f"must be a finite number {bounds}")


def check_choice(settings: object, prefix: str, name: str, options: Any) -> None:
    """Raises InputError unless the field called `name` holds one of the values of the `Literal`
    type `options`."""
    value, allowed = getattr(settings, name), get_args(options)
    check_setting(value in allowed, prefix + name, value, f"must be one of {', '.join(allowed)}")


def check_flags(**flags: Any) -> None:
    """Raises InputError unless all arguments, by their names, are truth values: of others, such as
    the text `no`, Python takes most for true."""
    for name, value in flags.items():
        check_setting(_boolean(value) is not None, name, value, "must be True or False")


def as_whole(field: str, value: Any, low: int = 1, high: int | None = None) -> int:
    """The whole number that `value` is, as an `int`: 7, 7.0, `numpy.int64(7)`.

    Args:
        field: What the message calls it.
        value: What was given.
        low: The least that is allowed.
        high: The most that is allowed; by default any.

    Raises:
        InputError: If it is no whole number, or lies outside of `low` to `high`.
    """
    number = _whole(value)
    bounds = f"from {low} up" if high is None else f"from {low} to {high}"
    bounds = "above 0" if (low, high) == (1, None) else bounds
    fits = number is not None and low <= number and (high is None or number <= high)
    if number is None or not fits:
        raise InputError(f"{field} = {value!r}: must be a whole number {bounds}")
    return number


def as_seed(value: Any, field: str = "seed") -> int:
    """The seed that `value` is; JAX's generators take 32 bits. Raises InputError otherwise."""
    return as_whole(field, value, 0, 2**32 - 1)


def as_path(field: str, value: Any) -> str:
    """The path that `value` is, as a string. Raises InputError if it is none."""
    try:
        path = os.fspath(value)
    except TypeError:
        path = None
    if not isinstance(path, str) or not path or "\0" in path:
        raise InputError(f"{field} = {value!r}: must be a path, a string or pathlib.Path")
    return path


def one_line(text: str, most: int) -> str:
    """A text in one line; of more than `most` characters, the first `most` and an ellipsis."""
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[:most]} …"


def checks_itself(cls: type[T]) -> type[T]:
    """A class decorator for a dataclass that checks its own arguments, as by `convert_fields`:
    tools that check types at run time, such as beartype, leave its constructor alone."""
    no_type_check(cls.__init__)
    return cls


def convert_fields(settings: Any, prefix: str = "") -> None:
    """Gives the fields of a frozen dataclass the types that they are annotated with, where what
    was given converts exactly: NumPy's numbers, a float that is whole, a list for a tuple, a path
    for a string, a dictionary for a dataclass of settings.

    Call it first in `__post_init__`. `prefix` stands before a field's name in messages.

    Raises:
        InputError: If a field's value does not convert.
    """
    kinds = get_type_hints(type(settings))
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        converted = _convert(prefix + field.name, value, kinds[field.name])
        object.__setattr__(settings, field.name, converted)


def _convert(field: str, value: Any, kind: Any) -> Any:
    if get_origin(kind) in (Union, types.UnionType):
        others = [one for one in get_args(kind) if one is not type(None)]
        missing = value is None and len(others) < len(get_args(kind))
        return None if missing else _convert(field, value, others[0])
    if get_origin(kind) is tuple and get_args(kind)[-1] is Ellipsis:
        return _convert_all(field, value, get_args(kind)[0])
    if isinstance(kind, type) and dataclasses.is_dataclass(kind) and isinstance(value, Mapping):
        return _from_mapping(field, value, kind)
    remedy, convert = _CONVERSIONS.get(_plain_type(kind), ("", None))
    if convert is None:
        is_wrong = isinstance(kind, type) and not isinstance(value, kind)
        if dataclasses.is_dataclass(kind) and dataclasses.fields(kind):
            is_wrong = type(value) is not kind  # a file would not say which subclass it is
        remedy = f"must be a {getattr(kind, '__name__', kind)} or a dictionary of its settings"
        check_setting(not is_wrong, field, value, remedy)
        return value
    converted = convert(value)
    check_setting(converted is not None, field, value, remedy)
    return converted


def _plain_type(kind: Any) -> Any:
    """The type of a `Literal`'s values, else `kind`."""
    return type(get_args(kind)[0]) if get_origin(kind) is Literal else kind


def _convert_all(field: str, values: Any, kind: Any) -> tuple[Any, ...]:
    try:
        given = tuple(values) if not isinstance(values, str | bytes | Mapping) else None
    except TypeError:
        given = None
    if given is None:
        raise InputError(f"{field} = {values!r}: must be a list")
    return tuple(_convert(field, value, kind) for value in given)


def _from_mapping(field: str, values: Mapping[Any, Any], kind: type) -> Any:
    known = [one.name for one in dataclasses.fields(kind)]
    for name in values:
        problem = f"{field}: there is no setting {name!r}; known: {', '.join(known)}"
        if name not in known:
            raise InputError(f"{problem}; was it written by another version of dm2?")
    return kind(**values)


def _scalar(value: Any) -> Any:
    """The number in an array without axes, NumPy's, JAX's or another's."""
    return value.item() if getattr(value, "shape", None) == () else value


def _whole(value: Any) -> int | None:
    number = _number(value)
    if isinstance(number, float) and not number.is_integer():  # infinities are none, too
        return None
    return None if number is None else int(number)


def _number(value: Any) -> float | int | None:
    """A whole number stays one: settings that a file holds as 1 are read as 1."""
    value = _scalar(value)
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return None
    if isinstance(value, numbers.Integral):
        return int(value)
    number = float(value)
    return number if number == value or math.isnan(number) else None


def _boolean(value: Any) -> bool | None:
    value = _scalar(value)
    return value if isinstance(value, bool) else None


def _text(value: Any) -> str | None:
    if isinstance(value, str):
        return str(value)
    return os.fspath(value) if isinstance(value, os.PathLike) else None


_CONVERSIONS: dict[Any, tuple[str, Any]] = {
    int: ("must be a whole number", _whole),
    float: ("must be a number", _number),
    bool: ("must be True or False", _boolean),
    str: ("must be a text", _text),
}
"""By annotated type: what a value must be, and what converts it, or gives None."""
