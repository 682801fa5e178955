"""What is installed here and whether it works."""

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import jax
import jax.numpy as jnp

from dm2.cores import cores
from dm2.envs import list_environments
from dm2.version import __version__

__all__ = ["examine"]

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "safetensors", "tyro")
_OPTIONAL = ("imageio-ffmpeg",)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def examine() -> dict[str, Any]:
    """Versions, devices, a small computation on the default device, and all environments."""
    product = jax.jit(lambda x: x @ x)(jnp.eye(64))
    return {
        "dm2": __version__,
        "python": platform.python_version(),
        "cores": len(cores()),
        **{package: _version(package) for package in _PACKAGES + _OPTIONAL},
        "devices": [str(device) for device in jax.devices()],
        "computes": bool(jnp.array_equal(product, jnp.eye(64))),
        "environments": list(list_environments()),
    }
