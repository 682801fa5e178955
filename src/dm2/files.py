"""Files that are written wholly or not at all."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

__all__ = ["TEMPORARY", "replacing", "sync_directory", "write_atomically", "write_synced"]

TEMPORARY = ".tmp-"
"""How the name of a file or folder begins that is being written; no reader takes it for one."""


def write_atomically(path: Path, data: bytes) -> None:
    """Replaces the file `path` by one that holds `data`, wholly or not at all. Raises OSError."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name to write to. At the end of the context its file takes the place of `path`; if the
    context raises, `path` stays as it was and nothing is left.

    The suffix is that of `path`, since some libraries read the format off it. Raises OSError.
    """
    temporary = path.with_name(TEMPORARY + path.name)
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_directory(path.parent)


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
