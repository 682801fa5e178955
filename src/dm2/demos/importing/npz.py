"""NumPy's files, `.npz` and `.npy`, as arrays. Objects in them, which are pickles, are refused.

The keys of an `.npz` are the fields that `arrays` lists. A field may also be several keys, one for
each episode: `alive_0`, `alive_1` …; for observations also `episode_0`, `episode_1` …. A `.npy`
holds observations alone. What `dm2 demos export` wrote says in the key `provenance` where its
episodes come from.
"""

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from dm2.demos.fields import about
from dm2.demos.importing.arrays import ARRAYS, Each, join_files, split
from dm2.demos.importing.checks import STEP_FIELDS, Fields, Labels
from dm2.demos.importing.layout import NameMap, check_names, numbered
from dm2.demos.importing.origin import agent_order, merged
from dm2.demos.provenance import complete
from dm2.envs import EnvSpec
from dm2.errors import InputError

__all__ = ["PROVENANCE", "read"]

PROVENANCE = "provenance"
"""The key of the provenance, a text that holds JSON."""

_SAVE_EACH = "save one array an episode, `numpy.savez(file, episode_0=…, episode_1=…)`"


def read(
    paths: list[Path], mapping: NameMap, each: Each, spec: EnvSpec
) -> tuple[list[Fields], Labels, dict[str, Any]]:
    """Reads files of arrays.

    Args:
        paths: The files.
        mapping: The keys of fields that are called otherwise; a `*` in a key stands for the number
            of the episode, one key for each.
        each: What each of the files holds.
        spec: The environment.

    Returns:
        The episodes, what messages call them, and the provenance that the files tell.

    Raises:
        InputError: If a file cannot be read, holds Python objects, or does not fit.
    """
    check_names(mapping, ARRAYS)
    files, told = [], []
    for path in paths:
        with about(path):
            arrays = _load(path)
            told.append(_provenance(arrays.pop(PROVENANCE, None), spec))
            if each == "agent" and "agent" in told[-1]:
                arrays = {name: _own_part(name, array) for name, array in arrays.items()}
            files.append(split(_fields(arrays, mapping), each, spec))
    names = [str(path) for path in paths]
    if each == "agent":
        order = agent_order(told, names)
        files, names = [files[i] for i in order], [names[i] for i in order]
    episodes, labels = join_files(files, names, each, spec)
    return episodes, labels, merged(told, episodes, parts=each == "agent")


def _own_part(name: str, array: np.ndarray) -> np.ndarray:
    """A field of `dm2 demos subset --agent`'s, without the axis of the one agent that it has."""
    alone = name in STEP_FIELDS and array.ndim > 2 and array.shape[2] == 1
    return array[:, :, 0] if alone else array


def _load(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a file by their keys. Raises InputError if it holds anything else."""
    key = None
    with path.open("rb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        start = file.read(6)
        if start[:2] != b"PK" and start != b"\x93NUMPY":
            raise InputError("not a file of NumPy's; write it with `numpy.savez` or `numpy.save`")
        file.seek(0)
        try:
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                return {"observations": loaded}
            arrays = {}
            for key in loaded.files:
                arrays[key] = loaded[key]
                if not isinstance(arrays[key], np.ndarray):  # but the bytes of another file
                    raise ValueError("no header of NumPy's")
            return arrays
        except Exception as error:  # damaged bytes make NumPy raise almost anything
            raise _refusal("the array" if key is None else f"key {key!r}", error) from None


def _refusal(what: str, error: Exception) -> InputError:
    if "Object arrays" in str(error):
        problem = f"{what} holds Python objects, which could execute code and are not read"
        other = "the DM² authors' own files are read with the format `authors`"
        return InputError(f"{problem}; {_SAVE_EACH}; {other}")
    why = " ".join(f"{type(error).__name__}: {error}".split())
    return InputError(f"{what} cannot be read ({why}); the file is damaged: save it again")


def _fields(arrays: dict[str, np.ndarray], mapping: NameMap) -> dict[str, Any]:
    """The arrays by the names of the fields; a list, if a field has a key for each episode."""
    fields, used = {}, set()
    for name in ARRAYS:
        for pattern in _patterns(name, mapping):
            keys = numbered(pattern, list(arrays)) if "*" in pattern else [pattern]
            if keys and keys[0] in arrays:
                found = [arrays[key] for key in keys]
                fields[name] = found if "*" in pattern else found[0]
                used |= set(keys)
                break
        else:
            if name in mapping or name == "observations":
                wanted = " or ".join(repr(p) for p in _patterns(name, mapping))
                have = f"the file has {', '.join(map(repr, arrays)) or 'none'}"
                remedy = f"say which they are, `--map {name}=KEY`"
                raise InputError(f"there is no key {wanted} for {name}; {have}; {remedy}")
    unused = [key for key in arrays if key not in used]
    if unused:
        text = f"keys that are not read: {', '.join(map(repr, unused))}; `--map` names a field's"
        warnings.warn(text, UserWarning, stacklevel=2)
    return fields


def _patterns(name: str, mapping: NameMap) -> list[str]:
    if name in mapping:
        return [str(mapping[name])]
    return [name, f"{name}_*", *(["episode_*"] if name == "observations" else [])]


def _provenance(stored: np.ndarray | None, spec: EnvSpec) -> dict[str, Any]:
    if stored is None:
        return {}
    try:
        told = json.loads(str(stored))
    except (ValueError, RecursionError):
        told = None
    if not isinstance(told, dict):
        raise InputError(f"key {PROVENANCE!r} holds no JSON object; leave the key out")
    needed = {"environment": spec.name, "environment_version": spec.version}
    needed |= {"num_actions": spec.num_actions, "episode_limit": spec.episode_limit}
    try:
        complete(needed | {"concurrency": []} | told, spec.num_agents)
    except InputError as error:
        raise InputError(f"{error}, or leave out the key {PROVENANCE!r}") from None
    return told
