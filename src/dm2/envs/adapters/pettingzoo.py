"""Worlds with PettingZoo's parallel interface.

Unlike agents are padded to the widest: observations with zeros, actions with illegal ones. An agent
is alive while it is among the environment's `agents`. `action_mask`, in an agent's infos or in its
observation, says what is legal. The team's reward is the mean over all agents that the world began
with. An episode is terminated if the last agent was, else truncated; `won` is read from an agent's
infos where it is there.
"""

from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from dm2.envs.host import Outcome, Sizes, Snapshot
from dm2.envs.spaces import action_count, flat, flat_size
from dm2.errors import InputError

__all__ = ["PettingZooWorld", "is_parallel", "package_version", "step_limit"]

_MASK = "action_mask"


def is_parallel(made: Any) -> bool:
    """Whether an object has PettingZoo's parallel interface."""
    return hasattr(made, "possible_agents") and hasattr(made, "observation_space")


class PettingZooWorld:
    """One environment with PettingZoo's parallel interface."""

    def __init__(self, env: Any, field: str) -> None:
        """Reads the sizes.

        Args:
            env: the environment.
            field: what messages call it.

        Raises:
            InputError: an action or observation space is of another kind.
        """
        self._env = env
        self._agents = list(env.possible_agents)
        if not self._agents:
            raise InputError(f"{field}: it has no agents")
        spaces = [env.observation_space(agent) for agent in self._agents]
        self._masked = [_has_mask(space) for space in spaces]
        self._spaces = [
            space.spaces["observation"] if masked else space
            for space, masked in zip(spaces, self._masked, strict=True)
        ]
        self._actions = [action_count(env.action_space(agent), field) for agent in self._agents]
        size = max(flat_size(space, field) for space in self._spaces)
        self._has_state = _has_state(env)
        state = flat_size(env.state_space, field) if self._has_state else size * len(self._agents)
        self.sizes = Sizes(
            num_agents=len(self._agents),
            observation_size=size,
            num_actions=max(self._actions),
            state_size=state,
            version=package_version(env),
            limit=step_limit(env),
        )

    def reset(self, seed: int) -> Snapshot:
        """Begins an episode."""
        observations, infos = self._env.reset(seed=seed)
        return self._snapshot(observations, infos)

    def step(self, actions: Int[np.ndarray, " K"]) -> tuple[Snapshot, Outcome]:
        """One environment step."""
        alive = set(self._env.agents)
        chosen = {
            agent: int(min(action, count - 1))
            for agent, action, count in zip(self._agents, actions, self._actions, strict=True)
            if agent in alive
        }
        observations, rewards, terminated, truncated, infos = self._env.step(chosen)
        over = not self._env.agents
        reward = sum(float(rewards.get(agent, 0.0)) for agent in self._agents) / len(self._agents)
        ended = over and any(terminated.get(agent, False) for agent in alive)
        won = over and any(bool(info.get("won", False)) for info in infos.values())
        outcome = Outcome(reward, ended, over and not ended, won)
        return self._snapshot(observations, infos), outcome

    def close(self) -> None:
        """Closes the environment."""
        self._env.close()

    def _snapshot(self, observations: dict[Any, Any], infos: dict[Any, Any]) -> Snapshot:
        sizes = self.sizes
        rows = np.zeros((sizes.num_agents, sizes.observation_size), np.float32)
        legal = np.zeros((sizes.num_agents, sizes.num_actions), bool)
        alive = np.zeros(sizes.num_agents, bool)
        for k, agent in enumerate(self._agents):
            alive[k] = agent in self._env.agents
            legal[k, : self._actions[k]] = True
            if agent not in observations:
                continue
            seen = observations[agent]
            row = flat(self._spaces[k], seen["observation"] if self._masked[k] else seen)
            rows[k, : len(row)] = row
            mask = seen[_MASK] if self._masked[k] else infos.get(agent, {}).get(_MASK)
            if mask is not None and alive[k]:
                legal[k, : self._actions[k]] = np.asarray(mask, bool)
        return Snapshot(rows, legal, alive, self._state(rows))

    def _state(self, rows: Float[np.ndarray, "K O"]) -> Float[np.ndarray, " S"]:
        """The environment's own state, else all observations, one behind another."""
        if self._has_state:
            return flat(self._env.state_space, self._env.state())
        return rows.ravel()


def _has_mask(space: Any) -> bool:
    parts = getattr(space, "spaces", None)
    return isinstance(parts, dict) and {"observation", _MASK} <= parts.keys()


def _has_state(env: Any) -> bool:
    try:
        return env.state_space is not None and callable(env.state)
    except (AttributeError, NotImplementedError):
        return False


def step_limit(env: Any) -> int | None:
    """The environment's own limit, by the names that PettingZoo's environments give it."""
    inner = getattr(env, "unwrapped", env)
    for owner in (env, inner):
        for name in ("max_cycles", "max_steps", "episode_limit"):
            value = getattr(owner, name, None)
            if isinstance(value, int | np.integer) and value > 0:
                return int(value)
    return None


def package_version(env: Any) -> str:
    """The package of the environment, and its version."""
    package = type(getattr(env, "unwrapped", env)).__module__.partition(".")[0]
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return package
