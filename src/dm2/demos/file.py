"""Reading and writing demonstrations as one safetensors file.

This is the layout, format version 1. The metadata of the file has one entry, `dm2`, a JSON object:

    format      "dm2-demonstrations"
    version     1
    provenance  where the episodes come from (see `Demonstrations`)
    agents      per agent, field -> {"dtype": ..., "shape": [...]}, as in `AgentDemonstrations`
    sha256      of the other entries (JSON, keys sorted) and of all arrays' bytes

The tensor `k.field` (agent k from 0, for example `0.observations`) contains zlib-compressed bytes:
the array in row-major order, little-endian. Booleans are first packed eight to a byte, the first
one in the highest bit. Observations are mostly zeros, and zlib makes them about 7 to 12 times
smaller. Reading a file never executes code, and never decompresses more than the header declares.
"""

import hashlib
import json
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from dm2.demos.fields import AGAIN, DAMAGED, FIELDS, REQUIRED, check
from dm2.errors import InputError
from dm2.files import write_atomically

__all__ = ["EXISTS", "digest", "read", "write"]

EXISTS = "exists, and runs may depend on it; choose another file, or say overwrite"
"""The rest of the message where a file would be replaced that nobody said may be."""

FORMAT, VERSION = "dm2-demonstrations", 1
IMPORT = "make demonstrations of a recording of your own with `dm2 demos import`"
MAX_BYTES = 2**34
"""The largest decompressed size of a file; a larger one is rejected, so that a small file cannot
fill the memory.
"""

Agents = list[dict[str, np.ndarray]]
"""The arrays of each agent by the names of their fields."""


def digest(agents: Agents, provenance: Any) -> str:
    """Computes the sha256 of arrays and provenance, which identifies their contents.

    Args:
        agents: The arrays of each agent.
        provenance: The provenance, of JSON values.

    Returns:
        The digest as hexadecimal text.
    """
    sha256 = hashlib.sha256(json.dumps(_header(agents, provenance), sort_keys=True).encode())
    for arrays in agents:
        for name in sorted(arrays):
            sha256.update(_bytes(arrays[name]))
    return sha256.hexdigest()


def write(path: Path, agents: Agents, provenance: dict[str, Any]) -> int:
    """Writes a file of demonstrations, as a whole or not at all.

    Args:
        path: The file to write.
        agents: The arrays of each agent.
        provenance: The provenance, of JSON values.

    Returns:
        The size of the file in bytes.

    Raises:
        InputError: If the arrays are larger than `MAX_BYTES`.
        OSError: If the disk fails.
    """
    size = sum(array.nbytes for part in agents for array in part.values())
    check(size <= MAX_BYTES, f"{path}: {size} bytes of arrays", "record fewer episodes")
    header = _header(agents, provenance) | {"sha256": digest(agents, provenance)}
    tensors = {f"{k}.{n}": _encode(a) for k, part in enumerate(agents) for n, a in part.items()}
    data = safetensors.numpy.save(tensors, {"dm2": json.dumps(header)})
    write_atomically(path, data)
    return len(data)


def read(path: Path) -> tuple[Agents, Any]:
    """Reads a file of demonstrations; the arrays and the provenance are not checked.

    Args:
        path: The file to read.

    Returns:
        The arrays of each agent, and the provenance.

    Raises:
        InputError: If the file cannot be read, is damaged, or was not written by `write`.
    """
    header, stored = _open(path)
    agents = [
        {n: _decode(stored[f"{k}.{n}"], f"agent {k}: {n}", d) for n, d in part.items()}
        for k, part in enumerate(header["agents"])
    ]
    intact = header.get("sha256") == digest(agents, header["provenance"])
    check(intact, "contents do not match their sha256", DAMAGED)
    return agents, header["provenance"]


def _header(agents: Agents, provenance: Any) -> dict[str, Any]:
    declared = [
        {n: {"dtype": a.dtype.name, "shape": list(a.shape)} for n, a in part.items()}
        for part in agents
    ]
    header = {"format": FORMAT, "version": VERSION, "provenance": provenance}
    return header | {"agents": declared}


def _bytes(array: np.ndarray) -> bytes:
    """The bytes of the array in row-major order, little-endian."""
    return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()


def _encode(array: np.ndarray) -> np.ndarray:
    raw = np.packbits(array).tobytes() if array.dtype == bool else _bytes(array)
    return np.frombuffer(zlib.compress(raw, 6), np.uint8)


def _decode(stored: np.ndarray, place: str, declared: dict[str, Any]) -> np.ndarray:
    """The inverse of `_encode`; it never decompresses more than type and shape declare."""
    dtype, shape = np.dtype(declared["dtype"]).newbyteorder("<"), declared["shape"]
    count, packed = math.prod(shape), declared["dtype"] == "bool"
    size = -(-count // 8) if packed else count * dtype.itemsize
    stream = zlib.decompressobj()
    try:
        raw = stream.decompress(stored.tobytes(), size + 1)
    except zlib.error as error:
        raise InputError(f"{place}: {error}; {DAMAGED}") from None
    complete = len(raw) == size and stream.eof and not stream.unused_data
    check(complete, f"{place}: does not hold the declared {size} bytes", DAMAGED)
    if packed:
        return np.unpackbits(np.frombuffer(raw, np.uint8), count=count).astype(bool).reshape(shape)
    return np.frombuffer(raw, dtype).reshape(shape)


def _open(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The header, whose structure has been checked, and exactly the tensors that it declares."""
    try:
        check(path.exists(), "no such file", "make one with `dm2 record`")
        check(path.is_file(), "not a file", "give the name of a file that `dm2 record` wrote")
        with safetensors.safe_open(path, "np") as file:
            header = _parse_header((file.metadata() or {}).get("dm2"))
            wanted = {f"{k}.{n}" for k, part in enumerate(header["agents"]) for n in part}
            missing, stray = wanted - set(file.keys()), set(file.keys()) - wanted
            check(not missing, f"tensors are missing: {sorted(missing)}", DAMAGED)
            check(not stray, f"tensors are not declared: {sorted(stray)}", DAMAGED)
            for name in sorted(wanted):
                kind = file.get_slice(name).get_dtype()
                check(kind == "U8", f"tensor {name!r} is {kind}, must be bytes (U8)", DAMAGED)
            return header, {name: file.get_tensor(name) for name in wanted}
    except OSError as error:
        raise InputError(
            f"cannot be read: {error.strerror or error}; see to its permissions"
        ) from None
    except safetensors.SafetensorError as error:
        raise InputError(_not_safetensors(path, error)) from None


def _not_safetensors(path: Path, error: Exception) -> str:
    with path.open("rb") as file:
        start = file.read(6)
    what = f"not a whole safetensors file ({error}); {DAMAGED}"
    if start[:2] == b"PK" or start == b"\x93NUMPY":
        what = f"a NumPy or zip archive (.npy, .npz, .pt), not safetensors; {IMPORT}"
    elif start[:4] == b"PAR1" or path.suffix.lower() in (".csv", ".parquet", ".pq"):
        what = f"a table ({path.suffix or 'Parquet'}), not safetensors; {IMPORT}"
    elif start[:1] == b"\x80" and start[1:2] in b"\x02\x03\x04\x05":
        what = f"a pickle, which can execute code: dm2 does not load it; {AGAIN}"
    return what


def _parse_header(text: str | None) -> dict[str, Any]:
    check(text is not None, "a safetensors file, but not dm2 demonstrations")
    try:
        header = json.loads(text or "")
    except (ValueError, RecursionError) as error:
        raise InputError(f"header is not JSON ({error}); {DAMAGED}") from None
    check(isinstance(header, dict) and header.get("format") == FORMAT, "unknown format", DAMAGED)
    version, remedy = header.get("version"), f"this dm2 reads version {VERSION}: use the one that"
    check(version == VERSION, f"format version {version!r}", f"{remedy} wrote it, or {AGAIN}")
    total = 0
    whole = isinstance(header.get("agents"), list) and "provenance" in header
    check(whole, "header lacks provenance or a list of agents", DAMAGED)
    for k, part in enumerate(header["agents"]):
        complete = isinstance(part, dict) and set(REQUIRED) <= part.keys() <= FIELDS.keys()
        check(complete, f"agent {k} must have {REQUIRED}", DAMAGED)
        for name, declared in part.items():
            check(_is_declaration(name, declared), f"agent {k}: {name} is {declared}", DAMAGED)
            total += math.prod(declared["shape"]) * np.dtype(declared["dtype"]).itemsize
    check(total <= MAX_BYTES, f"declares {total} bytes of arrays, above {MAX_BYTES}", DAMAGED)
    return header


def _is_declaration(name: str, declared: Any) -> bool:
    dtypes, axes = FIELDS[name]
    if not isinstance(declared, dict) or declared.get("dtype") not in dtypes:
        return False
    shape = declared.get("shape")
    if not isinstance(shape, list) or len(shape) != len(axes):
        return False
    return all(type(size) is int and size >= 0 for size in shape)
