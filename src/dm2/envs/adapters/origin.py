"""What environments of other libraries say of themselves, by whichever names."""

from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from dm2.envs.spaces import briefly

__all__ = ["package_version", "step_limit", "unusable_limit", "whole"]


def step_limit(env: Any) -> int | None:
    """The environment's own limit, by the names that environments give it."""
    return next((limit for _, said in _limits(env) if (limit := whole(said))), None)


def unusable_limit(env: Any) -> str:
    """What the environment calls its limit, and the value, for messages about one that has no
    `step_limit`: `max_cycles = -3`. Nothing if it names none."""
    return next((f"{name} = {briefly(said)}" for name, said in _limits(env)), "")


def _limits(env: Any) -> Iterator[tuple[str, Any]]:
    """What the environment says under each of the names of a limit."""
    for owner in (env, getattr(env, "unwrapped", env)):
        for name in ("max_cycles", "max_steps", "episode_limit", "_max_episode_steps"):
            said = getattr(owner, name, None)
            if said is not None:
                yield name, said


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
