"""Worlds with SMAC's methods: StarCraft itself, SMACv2, SMAClite, and whatever else has them.

An agent whose only legal action is the first is dead. `info["battle_won"]` says who won. A limit
that the world enforces itself counts as one (`info["episode_limit"]`, or an end at its last step
without a win or a loss being said). When the game crashes, SMAC ends the episode with reward 0 and
an empty `info`; that episode is cut where it was, and the next one begins.
"""

from typing import Any

import numpy as np
from jaxtyping import Int

from dm2.envs.adapters.origin import package_version
from dm2.envs.world import Outcome, Sizes, Snapshot
from dm2.errors import InputError, WorldError

__all__ = ["SmacWorld", "is_smac"]

_METHODS = ("reset", "step", "get_obs", "get_state", "get_avail_actions")


def is_smac(made: Any) -> bool:
    """Whether an object has SMAC's methods."""
    return all(callable(getattr(made, name, None)) for name in _METHODS)


class SmacWorld:
    """One world with SMAC's methods."""

    def __init__(self, env: Any, field: str) -> None:
        """Reads the sizes, for which an episode may have to be begun.

        Args:
            env: the world.
            field: what messages call it.

        Raises:
            InputError: its sizes are not known.
        """
        self._env = env
        self._time = 0
        self._last: Snapshot | None = None
        info = _info(env)
        limit = info.get("episode_limit")
        self.sizes = Sizes(
            num_agents=_whole(info, "n_agents", field),
            observation_size=_whole(info, "obs_shape", field),
            num_actions=_whole(info, "n_actions", field),
            state_size=_whole(info, "state_shape", field),
            version=package_version(env),
            limit=int(limit) if isinstance(limit, int | np.integer) and limit > 0 else None,
            wins=True,
        )

    def reset(self, seed: int) -> Snapshot:
        """Begins an episode. Where the world takes no seed, its own decides."""
        self._time = 0
        try:
            self._env.reset(seed=seed)
        except TypeError:
            self._env.reset()
        return self._snapshot()

    def step(self, actions: Int[np.ndarray, " K"]) -> tuple[Snapshot, Outcome]:
        """Takes one environment step."""
        self._time += 1
        result = self._env.step(actions.tolist())
        if len(result) == 3:  # SMAC
            (reward, over, info), truncated = result, False
        else:  # SMAClite, as Gymnasium has it
            _, reward, over, truncated, info = result
        won = bool(info.get("battle_won", False))
        crashed = bool(over) and not info
        late = bool(over) and not won and self._time == self.sizes.limit
        truncated = bool(truncated or crashed or late or info.get("episode_limit", False))
        terminated = bool(over) and not truncated
        paid = np.full(self.sizes.num_agents, reward, np.float32)
        assert self._last is not None
        shown = self._last if crashed else self._snapshot()  # a game that crashed shows nothing
        return shown, Outcome(paid, terminated, truncated, won)

    def close(self) -> None:
        """Closes the world."""
        self._env.close()

    def _snapshot(self) -> Snapshot:
        legal = np.array(self._env.get_avail_actions(), bool)
        alive = np.logical_or.reduce(legal[..., 1:], axis=-1)
        if not alive.all() and not (alive | legal[..., 0]).all():
            remedy = "a dead one has the first, to do nothing"
            raise WorldError(f"an agent has no legal action; {remedy}")
        rows = np.array(self._env.get_obs(), np.float32)
        state = np.asarray(self._env.get_state(), np.float32).ravel()
        self._last = Snapshot(rows, legal, alive, state)
        return self._last


def _info(env: Any) -> dict[str, Any]:
    """The sizes by SMAC's names."""
    if callable(getattr(env, "get_env_info", None)):
        return env.get_env_info()
    inner = getattr(env, "unwrapped", env)  # SMAClite
    names = {"n_agents": "n_agents", "n_actions": "n_actions"}
    names |= {"obs_shape": "obs_size", "state_shape": "state_size"}
    return {name: getattr(inner, own, None) for name, own in names.items()}


def _whole(info: dict[str, Any], name: str, field: str) -> int:
    """One of the sizes. Raises InputError unless it is a whole number."""
    value = info.get(name)
    if not isinstance(value, int | np.integer):
        remedy = "get_env_info() must say it as a whole number"
        raise InputError(f"{field}: {name} = {value!r}; {remedy}")
    return int(value)
