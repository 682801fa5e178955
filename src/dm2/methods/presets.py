"""Settings by name: the paper's, and ours. docs/methods.md says whose each number is."""

import dataclasses
from typing import Any, Literal, NamedTuple, get_args

from dm2.envs import make
from dm2.envs.registry import check_name
from dm2.errors import InputError
from dm2.methods import settings_class
from dm2.methods.base import Settings

__all__ = ["PresetName", "preset"]

PresetName = Literal["tuned", "paper"]


class _Task(NamedTuple):
    """What the paper and its authors' code set for a task of SMAC."""

    epochs: int
    clip: float
    coefficient: float
    """Of the imitation reward, in units of SMAC's reward."""
    steps: int
    """Environment steps."""


_TASKS = {
    "5m_vs_6m": _Task(10, 0.05, 0.3, 20_000_000),
    "3s_vs_4z": _Task(15, 0.2, 0.05, 20_000_000),
    "3s_vs_3z": _Task(15, 0.2, 0.3, 10_000_000),
    "3s_vs_5z": _Task(15, 0.05, 0.1, 10_000_000),
    "8m_vs_9m": _Task(15, 0.05, 0.4, 10_000_000),
}

# Wang et al. 2023 (arXiv 2206.00233), Tables 1 and 2: the buffer holds 1024 episodes, and 120
# updates of the discriminator draw 64 of them each. A batch here is of states.
_BUFFER_EPISODES = 1024
_DISCRIMINATOR = {"updates": 120, "batch": 4096, "learning_rate": 1e-3, "gradient_penalty": 10.0}
_BEST = {"episodes": 1024, "least": 64}
# PyMARL's, with which QMIX was trained: an update an episode where they last to the limit, as 32
# environments side by side come to.
_Q = {"optimiser": "rmsprop", "learning_rate": 5e-4, "td_lambda": 0.0, "updates": 32}
_Q |= {"capacity": 5000, "target_every": 200}


def preset(name: str, method: str, env: str) -> dict[str, Any]:
    """Keyword arguments of `dm2.Config`: `method`, `env`, `num_envs`, `rollout_steps` and, in the
    paper's, `steps`.

    Example: `dm2.Config(**dm2.preset("paper", "ippo", "smac/3s_vs_4z"), seed=3)`.

    Args:
        name: `tuned`, what was measured here to learn well, or `paper`, the paper's settings and
            those of its references, for its five tasks by SMAC's rules.
        method: The method's name.
        env: The environment's name. `tuned` takes an empty one, too, for any without settings of
            its own.

    Raises:
        InputError: If there is no such preset, method or environment, or the paper says nothing of
            it. Names that `dm2.envs.registry.check_name` leaves to `make` are not looked up.
    """
    settings = settings_class(method)
    if name not in get_args(PresetName):
        known = ", ".join(get_args(PresetName))
        raise InputError(f"preset = {name!r}: must be one of {known}")
    if env != "":
        check_name(env)
    if name == "paper":
        return {"env": env, **_paper(settings, env)}
    return {"env": env, "method": _tuned(settings, env), "num_envs": 32, "rollout_steps": 128}


def _tuned(settings: type[Settings], env: str) -> Settings:
    """The defaults, and by SMAC's rules an entropy weight that falls at once: docs/battles.md."""
    chosen = settings()
    if not env.startswith("smac/") or not hasattr(chosen, "ppo"):
        return chosen
    falling = {"entropy": 0.05, "entropy_end": 0.005, "entropy_begin": 0.25, "entropy_share": 0.0}
    return _with(chosen, ppo={**falling, "clip": 0.1})


def _paper(settings: type[Settings], env: str) -> dict[str, Any]:
    rules, _, rest = env.partition("/")
    scenario = rest.partition("?")[0]
    if rules != "smac" or scenario not in _TASKS:
        known = ", ".join(f"smac/{task}" for task in _TASKS)
        raise InputError(f"preset = 'paper': says nothing of {env}; it is for {known}")
    chosen: Any = settings()
    task, limit = _TASKS[scenario], make(env).spec.episode_limit
    run = {"num_envs": _BUFFER_EPISODES, "rollout_steps": limit, "steps": task.steps}
    changes: dict[str, Any] = {}
    if hasattr(chosen, "ppo"):
        changes["ppo"] = {"learning_rate": 5e-4, "minibatches": 1, "entropy": 0.01}
        changes["ppo"] |= {"epochs": task.epochs, "clip": task.clip}
        changes["last_action"] = True
    if hasattr(chosen, "agent_id"):
        changes["agent_id"] = True
    if hasattr(chosen, "imitation"):
        weighed = hasattr(chosen.imitation, "coefficient")
        mixing = {"coefficient": task.coefficient, "unit": "reward"} if weighed else {}
        changes["imitation"] = _DISCRIMINATOR | mixing
    if hasattr(chosen, "best"):
        changes["best"] = _BEST
    if hasattr(chosen, "q"):
        changes["q"] = _Q
        run["num_envs"] = 32
    if settings.name == "rmappo":  # its authors' own, arXiv 2103.01955
        run |= {"num_envs": 8, "rollout_steps": 400}
    return {"method": _with(chosen, **changes), **run}


def _with(settings: Settings, **changes: Any) -> Settings:
    """The settings with other values; those of a group are given as a dictionary."""
    new = {}
    for name, value in changes.items():
        old = getattr(settings, name)
        new[name] = dataclasses.replace(old, **value) if isinstance(value, dict) else value
    return dataclasses.replace(settings, **new)
