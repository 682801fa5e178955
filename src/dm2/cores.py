"""The cores that this process may use. Nothing here imports JAX, which counts them itself."""

import os

__all__ = ["cores"]


def cores() -> list[int]:
    """The numbers of the cores that this process may use, of all where the system does not say."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))
