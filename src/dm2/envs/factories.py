"""What makes environments of people's own: by name, or as objects.

Nothing here imports JAX, so that the processes that step environments in Python begin soon.
"""

import contextlib
import functools
import importlib
import inspect
import itertools
import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from dm2.envs.adapters.gymnasium import GymnasiumAdapter, is_team_env
from dm2.envs.adapters.pettingzoo import PettingZooAdapter, is_parallel
from dm2.envs.adapters.smac import SmacAdapter, is_smac
from dm2.envs.python_env import PythonEnv, check_limit
from dm2.envs.workers import quiet_output, words_of
from dm2.errors import InputError

__all__ = [
    "LIBRARIES",
    "OBJECT",
    "Call",
    "adapted",
    "guarded",
    "is_stepped_in_python",
    "lacking",
    "made_by",
    "make_python_env",
    "name_of",
    "options_of",
    "parse",
    "takes",
    "written_options",
]

LIBRARIES = ("pettingzoo", "mpe2", "gymnasium")
OBJECT = "object:"
"""How the names begin of objects that no other process can find."""

_KINDS: tuple[tuple[Callable[[Any], bool], Any], ...] = (
    (is_parallel, PettingZooAdapter),
    (is_smac, SmacAdapter),
    (is_team_env, GymnasiumAdapter),
)
_EPISODE = ("num_agents", "num_actions", "reset", "step", "observe")
_objects: dict[str, Any] = {}
"""What `name_of` was given that has no name in another process."""


class Call(NamedTuple):
    """A name, taken apart."""

    factory: Any
    options: dict[str, Any]
    limit: int | None
    individual: bool
    wins: bool
    """Whether the name says that the environment tells who won."""


def name_of(env: Any, label: str) -> str:
    """The name by which `make_custom` knows an object.

    Args:
        env: A function or class that makes an environment, or an environment.
        label: What an object is called that no other process can find.

    Returns:
        `module:factory` for a function or a class that can be imported, else `object:label`.
    """
    module, attribute = getattr(env, "__module__", None), getattr(env, "__qualname__", None)
    named = callable(env) and module != "__main__"
    if named and isinstance(attribute, str) and "<" not in attribute:
        found = functools.reduce(
            lambda part, name: getattr(part, name, None),
            attribute.split("."),
            sys.modules.get(str(module)),
        )
        if found is env:
            return f"{module}:{attribute}"
    for name, known in _objects.items():
        if known is env:
            return name
    label = label.removeprefix(OBJECT).partition("?")[0]
    numbers = itertools.count(2)
    name = f"{OBJECT}{label}"
    while name in _objects:
        name = f"{OBJECT}{label}-{next(numbers)}"
    _objects[name] = env
    return name


def make_python_env(name: str, call: Call | None = None) -> PythonEnv:
    """One copy of an environment that is stepped in Python.

    Args:
        name: The environment's name.
        call: What `parse` makes of the name; by default it is asked.

    Raises:
        InputError: If the factory cannot be found or raises, or what it returns is none.
    """
    field = f"env = {name!r}"
    return adapted(made_by(call or parse(name), field), field)


def adapted(made: Any, field: str) -> PythonEnv:
    """What a factory returned, behind an adapter. Raises InputError if it has none of the
    interfaces, or its sizes cannot be read."""
    with guarded(field, "reading its sizes", "mend what it says of itself"):
        return _adapter_of(made, field)(made, field)


@contextlib.contextmanager
def guarded(field: str, doing: str, remedy: str = "") -> Iterator[None]:
    """A context for other people's code, in which whatever it raises becomes an InputError and what
    it prints is lost.

    Args:
        field: What the message calls the environment.
        doing: What raises, for example `making it`.
        remedy: What to do about it, if that can be said.
    """
    try:
        with quiet_output():
            yield
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        problem = f"{field}: {doing} raised {words_of(error)}"
        raise InputError(f"{problem}; {remedy}" if remedy else problem) from error


def is_stepped_in_python(made: Any) -> bool:
    """Whether an object has one of the interfaces of environments that are stepped in Python.
    Raises whatever an attribute of the object raises."""
    return any(fits(made) for fits, _ in _KINDS)


def lacking(made: Any) -> list[str]:
    """What an object lacks to be an episode in JAX (`dm2.envs.SingleEnvironment`), apart from the
    limit, which an option may say."""
    return [name for name in _EPISODE if not hasattr(made, name)]


def _adapter_of(made: Any, field: str) -> Any:
    """The adapter for what a factory returned. Raises InputError if there is none."""
    for fits, kind in _KINDS:
        if fits(made):
            return kind
    problem = f"{made!r} is no environment"
    remedy = "it needs dm2's contract, PettingZoo's parallel interface, Gymnasium's with tuples or"
    remedy = f"{remedy} SMAC's methods (docs/environments.md)"
    if hasattr(made, "agent_iter"):
        problem = "its agents act by turns"
        remedy = "convert it with pettingzoo.utils.aec_to_parallel"
    elif hasattr(made, "observation_space") and hasattr(made, "action_space"):
        problem = f"it is for one agent: its action space is {made.action_space}"
        remedy = "for several, observation and action space are Tuples, a part for each agent"
    elif callable(getattr(made, "reset", None)) and callable(getattr(made, "step", None)):
        problem = f"it has reset and step, and lacks {', '.join(lacking(made))}"
        remedy = "an episode in JAX needs them, other interfaces others (docs/environments.md)"
    raise InputError(f"{field}: {problem}; {remedy}")


def parse(name: str) -> Call:
    """Takes a name apart. Raises InputError if it names nothing, or an option is unusable."""
    field = f"env = {name!r}"
    base, _, query = name.partition("?")
    options = options_of(query, field)
    base, fixed = _written_out(base, field)
    factory = _objects[base] if base in _objects else _find(base, field)
    limit = options.get("limit")
    if not takes(factory, "limit"):
        options.pop("limit", None)
    rewards = "shared" if takes(factory, "rewards") else options.pop("rewards", "shared")
    if rewards not in ("shared", "individual"):
        raise InputError(f"{field}: rewards must be 'shared' or 'individual'")
    wins = False if takes(factory, "wins") else options.pop("wins", False)
    if not isinstance(wins, bool):
        raise InputError(f"{field}: wins must be true or false")
    return Call(factory, {**fixed, **options}, limit, rewards == "individual", wins)


def options_of(query: str, field: str) -> dict[str, Any]:
    """The options of a name: numbers, truth values, `none` and JSON's lists as such, all else as
    text; what stands in quotes is text, too.

    Args:
        query: What follows the question mark, `option=value&…`.
        field: What messages call the environment.

    Raises:
        InputError: If an option has no value or two, or the limit is unusable.
    """
    options = {}
    for key, value in written_options(query, field).items():
        if value is None:
            raise InputError(f"{field}: option {key!r} has no value; write {key}=VALUE")
        options[key] = _value(value)
    if options.get("limit") is not None:
        check_limit(options["limit"], field)
    return options


def written_options(query: str, field: str) -> dict[str, str | None]:
    """The options of a name as they are written, None for one without a value. Raises InputError
    if one has two."""
    options: dict[str, str | None] = {}
    for part in filter(None, query.split("&")):
        key, equals, value = part.partition("=")
        if key in options:
            raise InputError(f"{field}: option {key!r} is there twice; leave one of them out")
        options[key] = value if equals else None
    return options


def _written_out(base: str, field: str) -> tuple[str, dict[str, Any]]:
    """`module:factory` and the arguments for what stands before a name's question mark."""
    library, _, rest = base.partition("/")
    if library not in LIBRARIES:
        return base, {}
    try:
        importlib.import_module(library)
    except ImportError:
        extra = f"dm2[{library}]" if library != "mpe2" else "mpe2"
        raise InputError(f"{field}: needs {library}: pip install '{extra}'") from None
    if library == "gymnasium":
        return "gymnasium:make", {"id": rest, "disable_env_checker": True}
    module = rest.replace("/", ".").replace("-", "_")
    return f"{library}.{module}:parallel_env", {}


def made_by(call: Call, field: str) -> Any:
    """What a factory returns; an object that is no factory itself. Raises InputError, whatever the
    factory raises."""
    made = call.factory
    with guarded(field, "reading its attributes"):
        if not callable(made) or (not inspect.isclass(made) and _is_environment(made)):
            return made
    with guarded(field, "making it"):
        made = made(**call.options)
    if inspect.isclass(made):
        name = made.__name__
        raise InputError(f"{field}: it returned the class {name}; return an object, {name}()")
    return made


def _is_environment(made: Any) -> bool:
    """Whether an object is an environment itself, of whichever kind, in Python or in JAX."""
    in_jax = all(callable(getattr(made, name, None)) for name in ("reset", "step", "observe"))
    return in_jax or is_stepped_in_python(made)


_NO_NAME = (
    "names no module and what is in it; write module:factory, as in an import: no path and no .py"
)


def _find(base: str, field: str) -> Any:
    """The factory. Modules in the current folder are found, too."""
    module_name, _, attribute = base.partition(":")
    if base.startswith(OBJECT):
        problem = "it was an object of the process that trained it, which has no name in this one"
        remedy = "put what makes it into a module and train with env=module:factory"
        raise InputError(f"{field}: {problem}; {remedy}")
    if not all(part.isidentifier() for part in (*module_name.split("."), *attribute.split("."))):
        raise InputError(f"{field}: {base!r} {_NO_NAME}")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    with guarded(field, f"importing {module_name!r}"):
        try:
            found: Any = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if module_name.endswith(".py") and module_name.startswith(str(error.name)):
                raise InputError(f"{field}: {base!r} {_NO_NAME}") from None
            remedy = "install it, or start where it lies"
            raise InputError(f"{field}: there is no module {error.name!r} here; {remedy}") from None
        for part in attribute.split("."):
            found = getattr(found, part, None)
    if found is None:
        # Other folders go before the current one: of two modules it may be the wrong one.
        file = getattr(sys.modules[module_name], "__file__", None)
        problem = f"module {module_name!r}{f' ({file})' if file else ''} has no {attribute!r}"
        remedy = "write module:factory, and rename your module if this is not it"
        raise InputError(f"{field}: {problem}; {remedy}")
    if not callable(found):
        remedy = "name what makes it; an object itself is for env=… in Python"
        raise InputError(f"{field}: {attribute!r} is no function or class; {remedy}")
    return found


def takes(factory: Any, name: str) -> bool:
    """Whether a factory has an argument of this name."""
    try:
        return name in inspect.signature(factory).parameters
    except (TypeError, ValueError):
        return False


def _value(text: str) -> Any:
    """What an option says; see `options_of`."""
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        return text[1:-1]
    words = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    with contextlib.suppress(ValueError, RecursionError):  # no list, or too deep or long a one
        if text.startswith("["):
            return json.loads(text)
        if _NUMBER.fullmatch(text):
            return int(text) if _WHOLE.fullmatch(text) else float(text)
    return text


_WHOLE = re.compile(r"[+-]?(0|[1-9]\d*)")
_NUMBER = re.compile(r"[+-]?(?=\.?\d)(0|[1-9]\d*)?(\.\d*)?([eE][+-]?\d+)?")
"""Nothing that begins with a needless 0: that is a name of digits."""
