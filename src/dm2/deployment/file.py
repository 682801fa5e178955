"""The file of one exported agent: a safetensors file that is read without safetensors.

This is the layout, format version 1. All tensors are float32 and have the names and shapes of
`shapes`. The metadata of the file has one entry, `dm2`, a JSON object, the agent's description:

    format               "dm2-agent"
    version              1
    dm2_version          of the dm2 that wrote it
    method, seed, step   the run's method and seed, and the environment steps of its training
    environment          the name that `dm2.make` takes
    environment_version  of its rules
    agent                the agent's number in the team, from 0
    observation_size     features of an observation
    actions              what each action means
    hidden               units of every layer and of the memory
    dense_layers         how many there are before the memory
    running              whether each feature is standardised by the file's moments, and clipped
    layer                whether each observation is then brought to mean 0 and variance 1
    last_action          whether the network also takes the agent's last action, one-hot
    agents               the size of the team, if the network also takes the agent's number, else 0
    outputs              "logits" of a policy, or "values" of actions
    greedy               "argmax": the legal action with the largest output, the first of several
    sampling             "softmax" of the legal outputs, or "epsilon-greedy"
    epsilon              the share of random actions in the latter, else null
    sha256               of the other entries (JSON, keys sorted) and of all tensors' bytes

Reading a file never executes code.
"""

# Annotations are not evaluated: importing jaxtyping takes as long as all the rest together. Where
# it was imported before, as in the tests, they are checked.
from __future__ import annotations

import hashlib
import json
import math
import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from dm2.errors import InputError, as_path

if TYPE_CHECKING or "jaxtyping" in sys.modules:
    from jaxtyping import Float

__all__ = ["FORMAT", "VERSION", "Arrays", "digest", "read", "shapes"]

FORMAT, VERSION = "dm2-agent", 1

Arrays = dict[str, np.ndarray]
"""The tensors by their names."""

_DAMAGED = "it is damaged; export the agent again"
_WRONG = "give a file that `dm2 export` wrote"
_TEXTS = ("dm2_version", "method", "environment", "environment_version")
_SIZES = ("observation_size", "hidden", "dense_layers")
_FLAGS = ("running", "layer", "last_action")
_SAMPLING = {"logits": "softmax", "values": "epsilon-greedy"}


def shapes(description: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """The tensors' shapes by their names. Kernels are `[inputs, outputs]`, the gates of the memory
    stand in the order reset, update, candidate (see `dm2.agent.gru`).

    Args:
        description: The agent's.
    """
    hidden, actions = description["hidden"], len(description["actions"])
    observation = description["observation_size"]
    size = observation + description["agents"] + actions * description["last_action"]
    found = {"dense_0/scale": (size,), "dense_0/shift": (size,)}
    dense = [f"dense_{layer}" for layer in range(description["dense_layers"])]
    rows = [size] + [hidden] * len(dense)
    columns = {**dict.fromkeys(dense, hidden), "gru_input": 3 * hidden}
    for (name, outputs), inputs in zip(columns.items(), rows, strict=True):
        found |= {f"{name}/kernel": (inputs, outputs), f"{name}/bias": (outputs,)}
    found |= {"gru_weight": (hidden, 3 * hidden), "gru_bias": (hidden,)}
    found |= {"head/kernel": (hidden, actions), "head/bias": (actions,)}
    if description["running"]:
        found |= {"moments/mean": (observation,), "moments/variance": (observation,)}
    return found


def digest(description: dict[str, Any], arrays: Arrays) -> str:
    """The sha256 of a description and of tensors, as hexadecimal text."""
    others = {name: value for name, value in description.items() if name != "sha256"}
    sha256 = hashlib.sha256(json.dumps(others, sort_keys=True).encode())
    for name in sorted(arrays):
        sha256.update(name.encode() + np.ascontiguousarray(arrays[name], "<f4").tobytes())
    return sha256.hexdigest()


def read(path: Any) -> tuple[dict[str, Any], Arrays]:
    """Reads the file of an agent.

    Args:
        path: The file.

    Returns:
        The agent's description and its tensors.

    Raises:
        InputError: If there is no such file, it is no agent's, it is damaged, or a newer dm2 wrote
            it.
    """
    path = as_path("file", path)
    try:
        with open(path, "rb") as file:
            data = file.read()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; make one with `dm2 export`") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}; {_WRONG}") from None
    try:
        return _parse(data)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _parse(data: bytes) -> tuple[dict[str, Any], Arrays]:
    """The contents of a file. Safetensors is a header's length, 8 bytes, the header, JSON, and the
    tensors' bytes."""
    start = 8 + int.from_bytes(data[:8], "little")
    is_safetensors = len(data) > 8 and data[8:9] == b"{"
    _check(is_safetensors, f"is no safetensors file; {_WRONG}")
    try:
        header = json.loads(data[8:start])
        text = header.pop("__metadata__", {}).get("dm2")
        description: Any = None if text is None else json.loads(text)
    except (ValueError, AttributeError, TypeError, RecursionError):
        raise InputError(f"its header cannot be read; {_DAMAGED}") from None
    is_agent = isinstance(description, dict) and description.get("format") == FORMAT
    _check(is_agent, f"holds something else than one agent; {_WRONG}")
    _check_description(description)
    others = f"has other tensors than those of an agent; {_DAMAGED}"
    _check(description["dense_layers"] < len(header), others)  # before so many are worked out
    wanted = shapes(description)
    _check(set(header) == set(wanted), others)
    content = memoryview(data)[start:]
    arrays = {name: _tensor(name, header[name], content, wanted[name]) for name in wanted}
    whole = sum(array.nbytes for array in arrays.values())
    _check(len(content) == whole, f"its tensors are {whole} bytes of {len(content)}; {_DAMAGED}")
    intact = description.get("sha256") == digest(description, arrays)
    _check(intact, f"its contents do not match their sha256; {_DAMAGED}")
    return description, arrays


def _check(condition: bool, problem: str) -> None:
    if not condition:
        raise InputError(problem)


def _check_description(description: dict[str, Any]) -> None:
    """Raises InputError unless an agent's description has all that acting needs."""
    version, writer = description.get("version"), description.get("dm2_version")
    newer = f"dm2 {writer} or newer" if isinstance(writer, str) else "a newer dm2"
    remedy = f"this dm2 reads {VERSION}; install {newer}"
    _check(version == VERSION, f"has format version {version}, {remedy}")

    def whole(name: str, low: int) -> bool:
        return type(description.get(name)) is int and description[name] >= low

    actions, outputs = description.get("actions"), description.get("outputs")
    number, epsilon = description.get("agent"), description.get("epsilon")
    named = isinstance(actions, list) and bool(actions) and all(isinstance(a, str) for a in actions)
    complete = (
        named
        and all(isinstance(description.get(name), str) for name in _TEXTS)
        and all(whole(name, 1) for name in _SIZES)
        and all(whole(name, 0) for name in ("agent", "agents", "step", "seed"))
        and all(isinstance(description.get(name), bool) for name in _FLAGS)
        and (description["agents"] == 0 or description["agents"] > number)
        and description.get("greedy") == "argmax"
        and isinstance(outputs, str)
        and outputs in _SAMPLING
        and description.get("sampling") == _SAMPLING[outputs]
        and (epsilon is None) == (outputs == "logits")
        and (epsilon is None or (isinstance(epsilon, float) and 0 <= epsilon <= 1))
    )
    _check(complete, f"its description lacks something; {_DAMAGED}")


def _tensor(
    name: str, entry: Any, content: memoryview, shape: tuple[int, ...]
) -> Float[np.ndarray, "*shape"]:
    """A tensor that the header says to lie somewhere in the content."""
    size = 4 * math.prod(shape)
    entry = entry if isinstance(entry, dict) else {}
    offsets = entry.get("data_offsets")
    begin, end = offsets if isinstance(offsets, list) and len(offsets) == 2 else (-1, -1)
    fits = (
        (entry.get("dtype"), entry.get("shape")) == ("F32", list(shape))
        and type(begin) is int
        and begin >= 0
        and end == begin + size <= len(content)
    )
    _check(fits, f"tensor {name!r} is cut off or has another shape than {shape}; {_DAMAGED}")
    return np.frombuffer(content, "<f4", math.prod(shape), begin).reshape(shape)
