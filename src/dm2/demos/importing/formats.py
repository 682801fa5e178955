"""Recordings of any format, as demonstrations."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, no_type_check

from dm2.demos.conversions import Files
from dm2.demos.dataset import Demonstrations
from dm2.demos.fields import Dtype, about
from dm2.demos.importing import authors, csv, minari, npz, parquet, vault
from dm2.demos.importing.arrays import Each, split
from dm2.demos.importing.checks import by_number
from dm2.demos.importing.layout import NameMap, check_mapping
from dm2.demos.importing.team import (
    Env,
    as_files,
    as_given,
    as_provenance,
    as_spec,
    build,
    describe_files,
)
from dm2.errors import InputError, check_setting

__all__ = ["Format", "from_arrays", "from_files", "guess_format"]

Format = Literal["npz", "csv", "parquet", "minari", "authors", "vault"]
_SUFFIXES: dict[str, Format] = {".npz": "npz", ".npy": "npz", ".csv": "csv"}
_SUFFIXES |= {".parquet": "parquet", ".pq": "parquet"}


def guess_format(files: Sequence[str | Path]) -> Format:
    """The format of files by their names. Raises InputError if one does not say, or if they are not
    all of one format."""
    if not files:
        raise InputError("files: there are none; give the files of a recording")
    formats: list[Format] = [_format_of(file) for file in files]
    for file, one in zip(files, formats, strict=True):
        if one != formats[0]:
            problem = f"{files[0]} is of the format {formats[0]}, {file} of {one}"
            raise InputError(f"{problem}; give files of one format, or say it, `--format`")
    return formats[0]


def _format_of(file: str | Path) -> Format:
    suffix = Path(file).suffix.lower()
    if suffix in _SUFFIXES:
        return _SUFFIXES[suffix]
    if vault.is_vault(file) or vault.vaults_in(file):  # whose metadata has the name of Minari's
        return "vault"
    if minari.find(file) is not None or minari.find(Path(file) / "agent_0-v0") is not None:
        return "minari"
    if os.path.exists(Path(file) / "agent_0.npz"):
        return "authors"
    known = ", ".join(_SUFFIXES)
    problem = f"{file}: its format is not known, since its name does not end in one of {known}"
    problem += ", and it is no Minari dataset or vault here"
    raise InputError(f"{problem}; say which it is, `--format`")


@no_type_check  # these check what they are given themselves
def from_arrays(
    arrays: Mapping[str, Any],
    env: Env,
    *,
    dtype: Dtype | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> Demonstrations:
    """Makes demonstrations of arrays in memory (see `Demonstrations.from_arrays`)."""
    spec = as_spec(env)
    if not isinstance(arrays, Mapping):
        problem = f"arrays: are of type {type(arrays).__name__}, must be a dictionary"
        raise InputError(f'{problem}, for example {{"observations": array}}')
    episodes = split(arrays, "recording", spec)
    labels = by_number([f"episode {e}" for e in range(len(episodes))], spec)
    told = {"imported": {"format": "arrays"}} | as_provenance(provenance)
    return build(episodes, labels, spec, dtype, told)


@no_type_check
def from_files(
    files: Files,
    env: Env,
    file_format: Format,
    *,
    mapping: NameMap | None = None,
    each: Each = "recording",
    dtype: Dtype | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> Demonstrations:
    """Makes demonstrations of a recording.

    Args:
        files: The file, or the files.
        env: The environment in which it was recorded, which says how many agents, features and
            actions there must be.
        file_format: The format of the files.
        mapping: What fields are called in the files, where it is not the usual name; a list, or a
            text with commas, where several columns or agents are meant. Not for `authors`.
        each: What each of the files holds, in the format `npz`: joint episodes (`recording`), one
            joint episode, or one agent's part of all episodes.
        dtype: The type in which observations are stored; by default what suits the environment.
        provenance: Entries to add to the provenance, for example the method that the team acted by.

    Returns:
        The demonstrations. `imported` in their provenance has the format, the files' names and
        sha256, the mapping, and what was imported before if it was exported since. What else the
        files tell of their origin, because `dm2 demos export` wrote them, is kept.

    Raises:
        InputError: If a file cannot be read or does not fit the environment; the message names the
            place, the value and the remedy.
    """
    check_setting(file_format in get_args(Format), "format", file_format, f"use {_or(Format)}")
    check_setting(each in get_args(Each), "each", each, f"use {_or(Each)}")
    check_setting(each == "recording" or file_format == "npz", "each", each, "is for npz alone")
    spec, mapping, told = as_spec(env), check_mapping(mapping), {}
    added = as_provenance(provenance)
    check_setting(not mapping or file_format != "authors", "map", mapping, "leave it out")
    if file_format == "minari":
        paths = minari.expand(as_given(files), spec)
        _check_different(paths)
        episodes, labels, told = minari.read(paths, mapping, spec)
    else:
        paths = as_files(files)
        if file_format == "authors":
            paths = authors.expand(paths, spec)
        _check_different(paths)
        for path in paths:
            if not path.is_file() and file_format != "vault":
                raise InputError(f"{path}: is no file; give the file of a recording")
        if file_format == "npz":
            episodes, labels, told = npz.read(paths, mapping, each, spec)
        elif file_format == "authors":
            episodes, labels = authors.read(paths, spec)
        elif file_format == "vault":
            episodes, labels = vault.read(paths, mapping, spec)
        else:
            reader = csv.read if file_format == "csv" else parquet.read
            episodes, labels = reader(paths, mapping, spec)
    imported = {"format": file_format, "files": describe_files(paths)}
    imported |= {"map": mapping} if mapping else {}
    imported |= {"before": told["imported"]} if "imported" in told else {}
    told = told | {"imported": imported} | added
    with about(", ".join(map(str, paths[:3])) + (" …" if len(paths) > 3 else "")):
        return build(episodes, labels, spec, dtype, told)


def _check_different(paths: Sequence[Path]) -> None:
    """Raises InputError if a file or folder is there twice, whatever its names."""
    first: dict[str, Path] = {}
    for path in paths:
        before = first.setdefault(os.path.realpath(path), path)
        if before is not path:
            also = "" if str(before) == str(path) else f", first as {before}"
            raise InputError(f"{path}: is given twice{also}; give every file once")


def _or(choices: Any) -> str:
    return " or ".join(get_args(choices))
