"""Environments with SMAC's methods: StarCraft itself, SMACv2, SMAClite, and whatever else has them.

An agent whose only legal action is the first is dead. `info["battle_won"]` says who won. A limit
that the environment enforces itself counts as one (`info["episode_limit"]`, or an end at its last
step that is no win and leaves an agent alive). When the game crashes, SMAC ends the episode with
reward 0 and an empty `info`; that episode is cut where it was, and the next one begins.
Observations that are shorter than `obs_shape` are padded with zeros.
"""

import inspect
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from dm2.envs.adapters.origin import package_version, whole
from dm2.envs.adapters.returned import (
    all_of,
    dictionary,
    each_ones,
    flag,
    parts_of,
    rewards_of,
    truths,
)
from dm2.envs.python_env import Sizes, Snapshot, StepOutcome
from dm2.envs.spaces import briefly, numbers
from dm2.errors import EnvError, InputError

__all__ = ["SmacAdapter", "is_smac"]

_METHODS = ("reset", "step", "get_obs", "get_state", "get_avail_actions")


def is_smac(made: Any) -> bool:
    """Whether an object has SMAC's methods."""
    return all(callable(getattr(made, name, None)) for name in _METHODS)


class SmacAdapter:
    """One environment with SMAC's methods."""

    def __init__(self, env: Any, field: str) -> None:
        """Reads the sizes, for which an episode may have to be begun.

        Args:
            env: The environment.
            field: What messages call it.

        Raises:
            InputError: If its sizes are not known.
        """
        self._env = env
        self._time = 0
        self._last: Snapshot | None = None
        self._seeded = _takes_seed(env)
        info = _info(env)
        self.sizes = Sizes(
            num_agents=_whole(info, "n_agents", field),
            observation_size=_whole(info, "obs_shape", field),
            num_actions=_whole(info, "n_actions", field),
            state_size=_whole(info, "state_shape", field),
            version=package_version(env),
            limit=whole(info.get("episode_limit")),
            wins=True,
        )

    def reset(self, seed: int) -> Snapshot:
        """Begins an episode. Where the environment takes no seed, its own decides."""
        self._time = 0
        self._env.reset(**({"seed": seed} if self._seeded else {}))
        return self._snapshot()

    def step(self, actions: Int[np.ndarray, " K"]) -> tuple[Snapshot, StepOutcome]:
        """Takes one environment step."""
        self._time += 1
        result = self._env.step(actions.tolist())
        if isinstance(result, tuple) and len(result) == 5:  # SMAClite, as Gymnasium has it
            _, reward, over, truncated, info = result
        else:
            (reward, over, info), truncated = parts_of(result, 3, "step", _STEP), False
        agents = self.sizes.num_agents
        over = all_of(over, agents, "terminated")
        truncated = all_of(truncated, agents, "truncated")
        won = flag(dictionary(info, "info").get("battle_won", False), "`battle_won`")
        paid = rewards_of(reward, agents)
        crashed = over and not info and not paid.any()
        assert self._last is not None
        shown = self._last if crashed else self._snapshot()  # a game that crashed shows nothing
        late = over and not won and self._time == self.sizes.limit and shown.alive.any()
        at_limit = flag(info.get("episode_limit", False), "`episode_limit`")
        truncated = truncated or crashed or bool(late or at_limit)
        terminated = over and not truncated
        return shown, StepOutcome(paid, terminated, truncated, won)

    def close(self) -> None:
        """Closes the environment."""
        self._env.close()

    def _snapshot(self) -> Snapshot:
        legal = self._legal(self._env.get_avail_actions())
        alive = np.logical_or.reduce(legal[..., 1:], axis=-1)
        if np.count_nonzero(alive) < len(alive):
            stuck = ~alive & ~legal[..., 0]
            if stuck.any():
                remedy = "a dead one has the first, to do nothing"
                raise EnvError(f"agent {np.argmax(stuck)} has no legal action; {remedy}")
        rows = self._rows(self._env.get_obs())
        shown = self._env.get_state()
        state = numbers(shown)
        if state is None:
            raise EnvError(f"its state is {briefly(shown)}; must be a row of numbers")
        self._last = Snapshot(rows, legal, alive, state.astype(np.float32, copy=False).ravel())
        return self._last

    def _legal(self, given: Any) -> Bool[np.ndarray, "K A"]:
        """The legal actions. Raises EnvError unless they are a row of truth values an agent."""
        legal, shape = truths(given), (self.sizes.num_agents, self.sizes.num_actions)
        if legal is None or legal.shape != shape:
            problem = f"get_avail_actions returned {briefly(given)}"
            remedy = "it must return a row for each agent, 1 where an action is legal, else 0"
            raise EnvError(f"{problem}; {remedy}, of shape {shape}")
        return legal.copy()

    def _rows(self, observations: Any) -> Float[np.ndarray, "K O"]:
        """The agents' observations, shorter ones padded. Raises EnvError unless they are rows of
        numbers."""
        even = numbers(observations)
        if even is not None:
            return even.astype(np.float32)
        rows = np.zeros((self.sizes.num_agents, self.sizes.observation_size), np.float32)
        for k, shown in enumerate(each_ones(observations, len(rows), "observations")):
            row = numbers(shown)
            if row is None or row.ndim != 1:
                problem = f"agent {k} observes {briefly(shown)}"
                raise EnvError(f"{problem}; must be a row of numbers")
            if len(row) > rows.shape[1]:
                problem = f"agent {k} observes {len(row)} numbers"
                raise EnvError(f"{problem}; obs_shape must be the most that any does")
            rows[k, : len(row)] = row
        return rows


_STEP = "reward, terminated and info, or what Gymnasium's does"


def _takes_seed(env: Any) -> bool:
    """Whether an episode can be begun from a seed; else the environment's own decides."""
    try:
        parameters = inspect.signature(env.reset).parameters
    except (TypeError, ValueError):
        return False
    return "seed" in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def _info(env: Any) -> dict[str, Any]:
    """The sizes by SMAC's names."""
    if callable(getattr(env, "get_env_info", None)):
        return env.get_env_info() or {}
    inner = getattr(env, "unwrapped", env)  # SMAClite
    names = {"n_agents": "n_agents", "n_actions": "n_actions"}
    names |= {"obs_shape": "obs_size", "state_shape": "state_size"}
    return {name: getattr(inner, own, None) for name, own in names.items()}


def _whole(info: dict[str, Any], name: str, field: str) -> int:
    """One of the sizes. Raises InputError unless it is a whole number."""
    value = whole(info.get(name))
    if value is None:
        remedy = "get_env_info() must say it as a whole number above 0"
        raise InputError(f"{field}: {name} = {info.get(name)!r}; {remedy}")
    return value
