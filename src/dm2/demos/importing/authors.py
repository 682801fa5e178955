"""The files that the authors of DM² published: `<run>/<step>/agent_i.npz`, one for each agent.

The key `arr_0` holds an object array, which is a pickle, with a dictionary for each episode: `obs`,
a torch tensor of float32 `[1, T + 1, features]`, and `actions`, of int64 `[1, T + 1, 1]`. Each
tensor holds a storage in torch's older format, a row of further pickles and then the numbers. All
of this is parsed here (see `pickled`), without torch and without running any of it.

The tensors say neither how long an episode was nor when an agent died, and are filled up with
zeros. An agent is taken to live up to its last observation that is not zero. The last step at which
any agent of the team observes something is taken for the final observation, on which nobody acted,
and is left out. (A team that was wiped out has no such observation, and loses its last step.)
"""

import ast
import io
import math
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from dm2.demos.fields import about
from dm2.demos.importing.arrays import join_files
from dm2.demos.importing.checks import Fields, Labels, Names, check_steps
from dm2.demos.importing.pickled import Call, Global, Persistent, parse
from dm2.envs import EnvSpec
from dm2.errors import InputError

__all__ = ["expand", "read"]

_RECONSTRUCT = ("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct")
_TENSOR = "torch._utils._rebuild_tensor_v2"
_STORAGE = "torch.storage._load_from_bytes"
_DTYPES = {
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "<i1",
    "ByteStorage": "<u1",
    "BoolStorage": "?",
}
_STORAGES = {f"{m}.{name}": d for m in ("torch", "torch.cuda") for name, d in _DTYPES.items()}
_ARRAY_NAMES = (*_RECONSTRUCT, "numpy.ndarray", "numpy.dtype", "collections.OrderedDict")
_OUTER = frozenset((*_ARRAY_NAMES, _TENSOR, _STORAGE))
_INNER = frozenset((*_STORAGES, "collections.OrderedDict"))
_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
_DAMAGED = "the file is damaged or of another kind: copy it again"


def expand(paths: list[Path], spec: EnvSpec) -> list[Path]:
    """The files of the agents, if a folder was given that holds them."""
    if len(paths) == 1 and paths[0].is_dir():
        paths = [paths[0] / f"agent_{k}.npz" for k in range(spec.num_agents)]
        for path in paths:
            if not path.exists():
                raise InputError(f"{path}: no such file; give a folder with a file for each agent")
    return paths


def read(paths: list[Path], spec: EnvSpec) -> tuple[list[Fields], Labels]:
    """Reads the authors' files.

    Args:
        paths: The file of each agent, in the agents' order.
        spec: The environment.

    Returns:
        The episodes, and what messages call them.

    Raises:
        InputError: If a file cannot be read, names anything that is no part of an array, or does
            not fit.
    """
    files = []
    for path in paths:
        with about(path):
            files.append([_agent_part(e, x, spec) for e, x in enumerate(_read_objects(path))])
    names = [str(path) for path in paths]
    episodes, labels = join_files(files, names, "agent", spec)
    pairs = zip(episodes, labels.episodes, strict=True)
    with about(", ".join(names)):
        return [_without_padding(episode, label) for episode, label in pairs], labels


def _without_padding(episode: Fields, label: str) -> Fields:
    """The steps of an episode at which the team acted."""
    alive = episode["alive"]
    if not alive.any():
        raise InputError(f"{label}: observations are zero throughout; leave the episode out")
    steps = int(np.flatnonzero(alive.any(axis=1))[-1])
    return {name: array[: max(steps, 1)] for name, array in episode.items()}


def _agent_part(e: int, tensors: Any, spec: EnvSpec) -> Fields:
    """One agent's part of one episode, still padded, with the time of its death."""
    place = f"episode {e}"
    if not isinstance(tensors, dict) or not {"obs", "actions"} <= tensors.keys():
        raise InputError(f"{place} is no dictionary of obs and actions; {_DAMAGED}")
    with about(place):
        obs, actions = (_tensor(tensors[name], name) for name in ("obs", "actions"))
    size = spec.observation_size
    if obs.ndim != 3 or obs.shape[0] != 1 or obs.shape[2] != size or obs.shape[1] < 1:
        problem = f"{place}: obs has shape {obs.shape}, must be [1, steps + 1, {size} features]"
        raise InputError(f"{problem}; name another environment than {spec.name}")
    if actions.shape != (*obs.shape[:2], 1):
        problem = f"{place}: actions has shape {actions.shape}, must be {(*obs.shape[:2], 1)}"
        raise InputError(f"{problem}; {_DAMAGED}")
    steps = {"observations": obs[0], "actions": actions[0, :, 0]}
    acting = (obs[0] != 0).any(axis=1)
    steps["alive"] = np.logical_or.accumulate(acting[::-1])[::-1]
    names = Names(lambda index: f"{place}, step {index[0]}", _call)
    return check_steps(steps, names, spec)


def _call(field: str, feature: int | None) -> str:
    name = "obs" if field == "observations" else field
    return name if feature is None else f"{name}[{feature}]"


def _read_objects(path: Path) -> list[Any]:
    """The values in a file's object array, in which calls that build tensors are still calls."""
    try:
        with zipfile.ZipFile(path) as archive:
            file = io.BytesIO(archive.read("arr_0.npy"))
        dtype, shape = _read_header(file)
    except (zipfile.BadZipFile, zlib.error, struct.error) as error:
        raise InputError(f"is no whole .npz file ({error}); {_DAMAGED}") from None
    except Exception as error:  # damaged bytes make these libraries raise almost anything
        raise InputError(f"key 'arr_0' cannot be read ({error}); {_DAMAGED}") from None
    if dtype != "|O" or len(shape) != 1:
        problem = f"key 'arr_0' is an array of {dtype} {shape}, not of one object an episode"
        raise InputError(f"{problem}; read it with the format `npz`")
    array = parse(file, _OUTER)
    values = array.state[4] if _is_array(array) else None
    if not isinstance(values, list) or len(values) != shape[0]:
        raise InputError(f"key 'arr_0' holds no array of {shape[0]} objects; {_DAMAGED}")
    return values


def _is_array(value: Any) -> bool:
    built = isinstance(value, Call) and value.name in _RECONSTRUCT
    return built and isinstance(value.state, tuple) and len(value.state) == 5


def _read_header(file: io.BytesIO) -> tuple[Any, tuple[int, ...]]:
    """The type and shape that the header of an `.npy` file declares."""
    if file.read(6) != b"\x93NUMPY":
        raise ValueError("no header of NumPy's")
    major = file.read(2)[0]
    (size,) = struct.unpack("<H" if major == 1 else "<I", file.read(2 if major == 1 else 4))
    header = ast.literal_eval(file.read(min(size, 10_000)).decode("latin1").strip())
    shape = tuple(header["shape"])
    if not all(type(n) is int for n in shape):
        raise ValueError("a shape that is none")
    return header["descr"], shape


def _tensor(value: Any, name: str) -> np.ndarray:
    """The numbers of a tensor of three axes. Raises InputError if it is none, or reaches beyond
    what its storage holds. All of it is checked before anything is allocated or shown, for the file
    may hold anything in the place of a number."""
    if not isinstance(value, Call) or value.name != _TENSOR or len(value.args) < 4:
        raise InputError(f"{name} is no torch tensor; {_DAMAGED}")
    storage, offset, size, stride = value.args[:4]
    numbers = _storage(storage, name)
    layout = all(isinstance(axes, tuple) and len(axes) == 3 for axes in (size, stride))
    if not layout or not all(_is_int64(n) for n in (offset, *size, *stride)):
        raise InputError(f"{name} has no size and stride of three axes; {_DAMAGED}")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    fits = min(offset, *stride) >= 0 and min(size) > 0
    if not fits or last >= len(numbers) or math.prod(size) > len(numbers):
        declared = f"size {size}, stride {stride} from {offset}"
        raise InputError(f"{name} has {declared}, beyond its {len(numbers)} numbers; {_DAMAGED}")
    # Along an axis of one entry nothing is stepped, whatever its stride is.
    pairs = zip(size, stride, strict=True)
    steps = tuple(step * numbers.itemsize if n > 1 else 0 for n, step in pairs)
    return np.lib.stride_tricks.as_strided(numbers[offset:], size, steps).copy()


def _is_int64(value: Any) -> bool:
    return type(value) is int and abs(value) < 2**63


def _storage(value: Any, name: str) -> np.ndarray:
    """The numbers of a storage in torch's older format: five pickles, a length, the numbers."""
    fits = isinstance(value, Call) and value.name == _STORAGE and len(value.args) == 1
    if not fits or not isinstance(value.args[0], bytes):
        raise InputError(f"{name} has no storage; {_DAMAGED}")
    stream = io.BytesIO(value.args[0])
    magic, protocol, _, reference, keys = (parse(stream, _INNER) for _ in range(5))
    if (magic, protocol) != (_MAGIC, _PROTOCOL):
        raise InputError(f"{name} has a storage of another format of torch's; {_DAMAGED}")
    key = reference.key if isinstance(reference, Persistent) else None
    known = isinstance(key, tuple) and len(key) == 6 and key[0] == "storage"
    named = known and key is not None and isinstance(key[2], str) and keys == [key[2]]
    kind = key[1] if named and key is not None and _is_int64(key[4]) and key[4] >= 0 else None
    if not isinstance(kind, Global) or key is None or key[5] is not None:
        raise InputError(f"{name} has a storage that is a view or none; {_DAMAGED}")
    dtype = np.dtype(_STORAGES[kind.name]) if kind.name in _STORAGES else None
    begin, end = stream.tell() + 8, len(value.args[0])
    if dtype is None or end - begin != key[4] * dtype.itemsize:
        problem = f"{name}: its storage has {end - begin} bytes, not {key[4]} numbers"
        raise InputError(f"{problem} of {kind.name}; {_DAMAGED}")
    return np.frombuffer(value.args[0], dtype, offset=begin)
