"""What environments of other libraries say of themselves, by whichever names."""

from importlib.metadata import PackageNotFoundError, version
from typing import Any

__all__ = ["package_version", "step_limit", "whole"]


def step_limit(env: Any) -> int | None:
    """The environment's own limit, by the names that environments give it."""
    inner = getattr(env, "unwrapped", env)
    for owner in (env, inner):
        for name in ("max_cycles", "max_steps", "episode_limit", "_max_episode_steps"):
            found = whole(getattr(owner, name, None))
            if found:
                return found
    return None


def whole(value: Any) -> int | None:
    """A whole number above 0, of whichever type, else nothing."""
    try:
        return int(value) if value == int(value) and value > 0 else None
    except (TypeError, ValueError, OverflowError):
        return None


def package_version(env: Any) -> str:
    """The package of the environment, and its version."""
    package = type(getattr(env, "unwrapped", env)).__module__.partition(".")[0]
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return package
