"""The provenance of demonstrations: the dictionary that says where their episodes come from."""

import json
import re
from collections.abc import Callable, Iterable
from typing import Any

from dm2.demos.fields import check
from dm2.errors import InputError

__all__ = ["PER_AGENT", "as_ranges", "complete", "from_ranges", "of_agent", "per_agent"]

PER_AGENT = (
    "method",
    "run",
    "seed",
    "training_step",
    "policy",
    "epsilon",
    "epsilon_search",
    "episode_indices",
    "rounding_error",
)
"""The entries that are a list, with one value for each agent, if the agents differ."""

_RANGES = re.compile(r"\d{1,15}(-\d{1,15})?(,\d{1,15}(-\d{1,15})?)*")


def _each(accepts: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """Whether every agent's value is accepted, or the one value that all share."""
    return lambda v: all(map(accepts, v)) if isinstance(v, list) else accepts(v)


def _is_share(value: Any) -> bool:
    return value is None or (type(value) in (int, float) and 0 <= value <= 1)


def _is_ranges(value: Any) -> bool:
    return value is None or (isinstance(value, str) and _RANGES.fullmatch(value) is not None)


_POLICIES = (None, "stochastic", "greedy", "epsilon-greedy")

# what provenance must hold -> whether a value is accepted, what is
_ENTRIES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "environment": (lambda v: isinstance(v, str) and v != "", "a name"),
    "environment_version": (lambda v: isinstance(v, str), "a text"),
    "num_actions": (lambda v: type(v) is int and v > 0, "a whole number above 0"),
    "episode_limit": (lambda v: type(v) is int and v > 0, "a whole number of steps above 0"),
    "concurrency": (
        lambda v: isinstance(v, list) and all(type(label) in (str, int) for label in v),
        "a list with a label, text or number, for each agent",
    ),
    "policy": (_each(lambda v: v in _POLICIES), "'stochastic', 'greedy' or 'epsilon-greedy'"),
    "epsilon": (_each(_is_share), "from 0 to 1"),
    "episode_indices": (_each(_is_ranges), "ranges such as '0-99,200-299'"),
    "win_rate": (_is_share, "from 0 to 1"),
}


def complete(given: Any, num_agents: int) -> dict[str, Any]:
    """Checks a provenance and fills in what may be left out.

    Args:
        given: The provenance (see `Demonstrations`).
        num_agents: The number of agents.

    Returns:
        A copy as it is read from the file, in which optional entries that were left out are None.

    Raises:
        InputError: If an entry is missing or unusable.
    """
    try:
        source = json.loads(json.dumps(given, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"provenance: {error}; use plain values that JSON can hold") from None
    check(isinstance(source, dict), f"provenance = {source!r}", "must be a dictionary")
    optional = ("method", "seed", "training_step", "policy", "win_rate")
    source = dict.fromkeys(optional) | source
    for name, (accepts, remedy) in _ENTRIES.items():
        value = source.get(name)
        problem = f"= {value!r}" if name in source else "is missing"
        check(accepts(value), f"provenance.{name} {problem}", f"must be {remedy}")
    for name in PER_AGENT:
        value = source.get(name)
        fits = not isinstance(value, list) or len(value) == num_agents
        remedy = f"must be one value, or a list with one for each of the {num_agents} agents"
        check(fits, f"provenance.{name} = {value!r}", remedy)
    return source


def of_agent(provenance: dict[str, Any], name: str, k: int) -> Any:
    """Returns an entry of `PER_AGENT` as it concerns one agent.

    Args:
        provenance: A complete provenance.
        name: The name of the entry.
        k: The index of the agent.

    Returns:
        The value; None if there is none.
    """
    value = provenance.get(name)
    return value[k] if isinstance(value, list) else value


def per_agent(values: Iterable[Any]) -> Any:
    """Writes the values of the agents as an entry of `PER_AGENT`.

    Args:
        values: The value of each agent.

    Returns:
        The value that all agents share, or the list of them.
    """
    values = list(values)
    return values[0] if all(value == values[0] for value in values) else values


def as_ranges(indices: Iterable[int]) -> str:
    """Writes indices as ranges, for example `0-2,5`.

    Args:
        indices: The indices, from 0.

    Returns:
        The text.
    """
    spans: list[list[int]] = []
    for index in map(int, indices):
        if spans and index == spans[-1][1] + 1:
            spans[-1][1] = index
        else:
            spans.append([index, index])
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in spans)


def from_ranges(text: str, count: int) -> list[int] | None:
    """Reads what `as_ranges` wrote.

    Args:
        text: The ranges.
        count: How many indices there must be.

    Returns:
        The indices; None if there is another number of them, or a range ends before it begins.
    """
    ends = [[int(end) for end in span.split("-")] for span in text.split(",")]
    spans = [range(span[0], span[-1] + 1) for span in ends]
    # Counted first, for a file may declare more of them than fit into memory.
    sizes = [span.stop - span.start for span in spans]
    if min(sizes) < 1 or sum(sizes) != count:
        return None
    return [index for span in spans for index in span]
