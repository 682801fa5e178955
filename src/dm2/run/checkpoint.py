"""Checkpoints: a pytree of arrays in a directory that is complete or absent, verified on reading.

A checkpoint is `state.safetensors` (one tensor per leaf, named by its key path, for example
`agents/actor/params/dense_0/kernel`) and `manifest.json` (versions, caller's extra values, hashes,
shapes and dtypes). Reading one never executes code.
"""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from dm2 import files
from dm2.errors import InputError
from dm2.files import TEMPORARY
from dm2.version import __version__

__all__ = [
    "CheckpointError",
    "DamagedCheckpoint",
    "clear_leftovers",
    "is_complete",
    "load",
    "nonfinite",
    "read_manifest",
    "save",
    "writing",
]

FORMAT = 1
STATE, MANIFEST = "state.safetensors", "manifest.json"
REPLACED = ".old-"
"""How the name of a checkpoint begins that is being replaced; no reader takes it for one."""

_INTEGERS = [f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)]
_DTYPES = {"bool", "bfloat16", "float16", "float32", "float64", "complex64", *_INTEGERS}


class CheckpointError(RuntimeError):
    """A run's directory cannot be written: says where, why, and that earlier work is safe."""


class DamagedCheckpoint(InputError):
    """A checkpoint's files are not what was written: missing, cut off or altered."""


def save(directory: Path, tree: Any, extra: Mapping[str, Any]) -> None:
    """Writes `tree`, a pytree of arrays and numbers, and `extra`, JSON values, to `directory`.

    The files are written under a temporary name, synced and renamed, so `directory` is never
    half written; one that exists is replaced. A jax array's weak type is not recorded.

    Raises CheckpointError if the disk fails (full, read-only, ...), TypeError for a leaf or an
    extra value that cannot be stored, ValueError if two leaves would share a name. Nothing that
    existed is lost then, and nothing temporary is left.
    """
    arrays = _to_arrays(tree)
    state = safetensors.numpy.save(arrays)
    manifest = _encode_manifest(arrays, state, extra)
    temporary = directory.with_name(f"{TEMPORARY}{directory.name}-{os.getpid()}")
    with writing(directory):
        try:
            temporary.mkdir(parents=True, exist_ok=True)
            files.write_synced(temporary / STATE, state)
            files.write_synced(temporary / MANIFEST, manifest)
            files.sync_directory(temporary)
            _publish(temporary, directory)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def load(
    directory: Path,
    like: Any,
    prefix: str = "",
    renamed: Sequence[tuple[str, str]] = (),
) -> tuple[Any, dict[str, Any]]:
    """Reads a checkpoint into the structure of `like`; returns the tree and `extra` of `save`.

    `like` is a pytree of arrays, numbers or jax.ShapeDtypeStruct. With a `prefix` it is only the
    part of the saved tree at that key path (`agents`, `agents/actor`). Bits are those saved;
    each leaf has the kind of `like`'s: numpy array, number, else jax array. `renamed` are pairs of
    the beginning of a name that an earlier version wrote and what it is now.

    Raises DamagedCheckpoint if a file is missing, cut off or altered, and InputError if the
    checkpoint cannot be read or has other names, shapes or dtypes than `like`.
    """
    manifest = read_manifest(directory)
    stored = {_renamed(n, renamed): a for n, a in _read_arrays(directory, manifest).items()}
    if prefix:
        stored = {n: a for n, a in stored.items() if n == prefix or n.startswith(prefix + "/")}
    wanted = _named_leaves(like, prefix)
    _check_match(directory, stored, wanted)
    leaves = [_restore_kind(stored[name], leaf) for name, leaf in wanted.items()]
    return jax.tree.unflatten(jax.tree.structure(like), leaves), manifest["extra"]


def nonfinite(tree: Any, prefix: str = "") -> tuple[str, np.ndarray] | None:
    """The first leaf that holds a number that is not finite, by its name; None if there is none."""
    for name, leaf in _named_leaves(tree, prefix).items():
        if jnp.issubdtype(leaf.dtype, jnp.floating) and not np.isfinite(leaf).all():
            return name, np.asarray(leaf)
    return None


def read_manifest(directory: Path) -> dict[str, Any]:
    """The verified manifest. Raises DamagedCheckpoint, or InputError if it cannot be read."""
    path = directory / MANIFEST
    manifest = _parse_manifest(_read(path))
    if manifest is None:
        raise _damaged(path, "it is cut off or was changed after it was written")
    if manifest["format"] != FORMAT:
        made = f"format {manifest['format']}, written by dm2 {manifest['dm2_version']}"
        remedy = f"dm2 {__version__} reads format {FORMAT}: use the dm2 that wrote it"
        raise InputError(f"{path}: {made}; {remedy}")
    return manifest


def is_complete(directory: Path) -> bool:
    """Whether the manifest is intact and the state has its size (its hash is not computed)."""
    try:
        size = read_manifest(directory)["state"]["bytes"]
        return (directory / STATE).stat().st_size == size
    except (InputError, OSError):
        return False


def clear_leftovers(parent: Path) -> None:
    """Clears what a killed process left in `parent`; nobody else may be writing there.

    Half-written checkpoints go; one that was moved aside to be replaced, and was not, comes back.
    """
    for aside in parent.glob(f"{REPLACED}*"):
        original = parent / aside.name.removeprefix(REPLACED)
        if not original.exists():
            aside.rename(original)
    for pattern in (TEMPORARY, REPLACED):
        for stale in parent.glob(f"{pattern}*"):
            shutil.rmtree(stale, ignore_errors=True)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns an OSError inside into a CheckpointError about `path`."""
    try:
        yield
    except OSError as error:
        why = error.strerror or str(error)
        remedy = "earlier checkpoints are intact: put that right, then run `dm2 resume`"
        raise CheckpointError(f"{path}: cannot be written: {why}; {remedy}") from error


def _renamed(name: str, renamed: Sequence[tuple[str, str]]) -> str:
    """What a leaf that an earlier version wrote is called now."""
    for earlier, now in renamed:
        if name.startswith(earlier):
            name = now + name.removeprefix(earlier)
    return name


def _named_leaves(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Leaves by name, in the tree's order."""
    named: dict[str, Any] = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        own = jax.tree_util.keystr(path, simple=True, separator="/")
        name = "/".join(part for part in (prefix, own) if part)
        if name in named:
            raise ValueError(f"two leaves of the tree are called {name!r}")
        named[name] = leaf
    return named


def _to_arrays(tree: Any) -> dict[str, np.ndarray]:
    # safetensors writes memory as it lies, so transposed views must be made contiguous first.
    named = _named_leaves(tree)
    arrays = {name: np.asarray(leaf, order="C") for name, leaf in named.items()}
    for name, array in arrays.items():
        if array.dtype.name not in _DTYPES:
            raise TypeError(f"leaf {name!r}: {array.dtype} cannot be stored in a checkpoint")
    return arrays


def _encode_manifest(arrays: dict[str, np.ndarray], state: bytes, extra: Mapping) -> bytes:
    leaves = {n: {"shape": list(a.shape), "dtype": a.dtype.name} for n, a in arrays.items()}
    manifest = {
        "format": FORMAT,
        "dm2_version": __version__,
        "extra": dict(extra),
        "state": {"file": STATE, "bytes": len(state), "sha256": _sha256(state)},
        "leaves": leaves,
    }
    manifest = json.loads(json.dumps(manifest))  # as a reader will see it: keys are strings
    manifest["manifest_sha256"] = _sha256(_canonical(manifest))
    return json.dumps(manifest, indent=1).encode()


def _parse_manifest(data: bytes) -> dict[str, Any] | None:
    """The manifest, or None if its own hash does not match."""
    try:
        manifest = json.loads(data)
        digest = manifest.pop("manifest_sha256")
    except (ValueError, KeyError, AttributeError, TypeError):
        return None
    return manifest if digest == _sha256(_canonical(manifest)) else None


def _read_arrays(directory: Path, manifest: dict[str, Any]) -> dict[str, np.ndarray]:
    path, expected = directory / STATE, manifest["state"]
    data = _read(path)
    if len(data) != expected["bytes"]:
        raise _damaged(path, f"{len(data)} of {expected['bytes']} bytes")
    if _sha256(data) != expected["sha256"]:
        raise _damaged(path, "its contents changed after it was written (sha256)")
    arrays = {}
    # Not safetensors.numpy.load, which does not know bfloat16.
    for name, tensor in safetensors.deserialize(data):
        dtype = np.dtype(manifest["leaves"][name]["dtype"])
        arrays[name] = np.frombuffer(tensor["data"], dtype).reshape(tensor["shape"])
    return arrays


def _check_match(directory: Path, stored: dict[str, np.ndarray], wanted: dict[str, Any]) -> None:
    problems = [f"{name} is missing" for name in wanted.keys() - stored.keys()]
    problems += [f"{name} is not expected" for name in stored.keys() - wanted.keys()]
    for name in wanted.keys() & stored.keys():
        have, want = _describe(stored[name]), _describe(wanted[name])
        if have != want:
            problems.append(f"{name} is {have}, expected {want}")
    if problems:
        problems.sort()
        listed = ", ".join(problems[:3]) + (", ..." if len(problems) > 3 else "")
        count = f"{len(problems)} of its arrays do not fit: {listed}"
        remedy = "it was made with other settings or another dm2; use those"
        raise InputError(f"{directory}: {count}; {remedy}")


def _describe(leaf: Any) -> str:
    leaf = leaf if hasattr(leaf, "dtype") else np.asarray(leaf)
    return f"{np.dtype(leaf.dtype).name}{list(leaf.shape)}"


def _restore_kind(array: np.ndarray, like: Any) -> Any:
    if isinstance(like, bool | int | float) and not isinstance(like, np.generic):
        return type(like)(array[()])
    # jax without x64 would silently shorten 64-bit numbers.
    shortened = jax.dtypes.canonicalize_dtype(array.dtype) != array.dtype
    return array if shortened or isinstance(like, np.ndarray | np.generic) else jnp.array(array)


def _publish(temporary: Path, directory: Path) -> None:
    aside = directory.with_name(REPLACED + directory.name)
    if directory.exists():
        shutil.rmtree(aside, ignore_errors=True)
        directory.rename(aside)
    try:
        temporary.rename(directory)
    except OSError:
        if aside.exists():
            aside.rename(directory)
        raise
    files.sync_directory(directory.parent)
    shutil.rmtree(aside, ignore_errors=True)


def _damaged(path: Path, problem: str) -> DamagedCheckpoint:
    return DamagedCheckpoint(f"{path}: damaged checkpoint: {problem}; use an earlier checkpoint")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise _damaged(path, "the file is missing") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True).encode()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
