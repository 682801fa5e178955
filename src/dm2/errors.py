"""The one exception type that users are meant to read, and the checks of settings that raise it."""

import math
from typing import Any, get_args

__all__ = ["InputError", "check_choice", "check_finite", "check_positive", "check_setting"]


class InputError(Exception):
    """Unusable input: names the field, the value that was given, and the remedy.

    The command line prints its message alone, without a traceback, and exits with 2. It is no
    ValueError, which the parser of the command line would catch and put into words of its own.
    """


def check_setting(condition: bool, field: str, value: object, remedy: str) -> None:
    """Raises InputError `field = value: remedy` unless the condition holds."""
    if not condition:
        raise InputError(f"{field} = {value!r}: {remedy}")


def check_positive(settings: object, prefix: str, *names: str) -> None:
    """Raises InputError unless the fields called `names` hold whole numbers above 0.

    `prefix` stands before a field's name in the message, for example `ppo.`.
    """
    for name in names:
        value = getattr(settings, name)
        ok = isinstance(value, int) and not isinstance(value, bool) and value > 0
        check_setting(ok, prefix + name, value, "must be a whole number above 0")


def check_finite(
    settings: object, prefix: str, *names: str, low: float = 0.0, high: float = math.inf
) -> None:
    """Raises InputError unless the fields called `names` hold finite numbers from `low` to
    `high`."""
    for name in names:
        value = getattr(settings, name)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        ok = number and math.isfinite(value) and low <= value <= high
        bounds = f"from {low:g}" + (f" to {high:g}" if math.isfinite(high) else " up")
        check_setting(ok, prefix + name, value, f"must be a finite number {bounds}")


def check_choice(settings: object, prefix: str, name: str, options: Any) -> None:
    """Raises InputError unless the field called `name` holds one of the values of the `Literal`
    type `options`."""
    value, allowed = getattr(settings, name), get_args(options)
    check_setting(value in allowed, prefix + name, value, f"must be one of {', '.join(allowed)}")
