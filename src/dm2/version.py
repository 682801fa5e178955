"""The version of this package, which the build reads from here, and its source's commit."""

import subprocess
from pathlib import Path

__all__ = ["__version__", "source_commit"]

__version__ = "0.1.0"


def source_commit(file: Path = Path(__file__)) -> str | None:
    """Commit of the git tree that `file` is part of, with `-dirty` if anything was edited since.

    None if there is none, or no git. An installed copy may lie in somebody else's repository;
    that one does not track it and does not count.
    """
    git = ["git", "-C", str(file.parent)]
    tracked = [*git, "ls-files", "--error-unmatch", "--", file.name]
    describe = [*git, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        subprocess.run(tracked, capture_output=True, check=True, timeout=10)
        done = subprocess.run(describe, capture_output=True, check=True, timeout=10, text=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
