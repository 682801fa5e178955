"""Files that are written wholly or not at all."""

import contextlib
import errno
import glob
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from dm2.errors import InputError, as_path

__all__ = [
    "TEMPORARY",
    "check_target",
    "check_writable",
    "replacing",
    "sync_directory",
    "write_atomically",
    "write_synced",
]

TEMPORARY = ".tmp-"
"""How the name of a file or folder begins that is being written; no reader takes it for one."""


def write_atomically(path: Path, data: bytes) -> None:
    """Replaces the file `path` by one that holds `data`, wholly or not at all. Raises OSError."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name to write to. At the end of the context its file takes the place of `path`; if the
    context raises, `path` stays as it was and nothing is left. Missing parent folders are made.

    The suffix is that of `path`, since some libraries read the format off it. Raises OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    _remove_abandoned(temporary)
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_directory(path.parent)


def check_target(
    field: str, target: str | os.PathLike[str], suffixes: tuple[str, ...] = ()
) -> Path:
    """Makes sure, before the work is done whose result it takes, that a file can be written.

    Args:
        field: What the message calls it.
        target: The file, which is neither made nor changed. Its parent folders may be missing:
            `replacing` makes them.
        suffixes: What its name must end in one of, in letters of either case; by default anything.

    Returns:
        The path.

    Raises:
        InputError: If it has another suffix, or cannot be written: a folder of that name, no
            permission, a name too long, a link that leads to itself.
    """
    path = Path(as_path(field, target))
    if suffixes and path.suffix.lower() not in suffixes:
        raise InputError(f"{field} = {str(path)!r}: must end in {', '.join(suffixes)}")
    remedy = "choose another file"
    try:
        if path.is_dir():
            raise InputError(f"{field} = {str(path)!r}: is a directory; {remedy}")
        check_writable(path)
    except OSError as error:
        problem = f"cannot be written: {error.strerror or error}"
        raise InputError(f"{field} = {str(path)!r}: {problem}; {remedy}") from None
    return path


def check_writable(path: Path) -> None:
    """Raises OSError unless a file or folder can be made at a path, and the folders above it that
    are missing. None of these is made: another process may need the same ones at the same time."""
    with contextlib.suppress(FileNotFoundError):
        path.stat()  # raises where a link leads to itself, or a file stands in the way
    above = next(folder for folder in path.parents if folder.is_dir())
    names = path.relative_to(above).parts
    for name in names:
        with contextlib.suppress(FileNotFoundError):
            (above / name).lstat()  # raises where the name is too long
    if len(names) > 1 and os.path.lexists(above / names[0]):  # a link that leads nowhere
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    temporary = above / _temporary(path).name
    temporary.touch()
    temporary.unlink()


def _temporary(path: Path) -> Path:
    """Where `path` is written to first, by this process alone. Of a name so long that it takes no
    more letters, the digest is taken."""
    name = path.name
    if len(os.fsencode(name)) > 200:
        name = hashlib.sha256(os.fsencode(name)).hexdigest() + path.suffix[:16]
    return path.with_name(f"{TEMPORARY}{os.getpid()}-{name}")


def _remove_abandoned(temporary: Path) -> None:
    """Removes what processes that were killed had written of the same file."""
    own, _, name = temporary.name.removeprefix(TEMPORARY).partition("-")
    for other in temporary.parent.glob(f"{TEMPORARY}*-{glob.escape(name)}"):
        number = other.name.removeprefix(TEMPORARY).partition("-")[0]
        if number.isdecimal() and number != own and not _is_alive(int(number)):
            other.unlink(missing_ok=True)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):  # it is somebody else's, or no process's number
        pass
    return True


def write_synced(path: Path, data: bytes) -> None:
    """Writes a file and waits until the disk has it. Raises OSError."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync_directory(path: Path) -> None:
    """Waits until the disk has a folder's entries. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems
            raise
    finally:
        os.close(descriptor)
