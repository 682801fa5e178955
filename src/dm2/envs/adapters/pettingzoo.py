"""Worlds with PettingZoo's parallel interface.

Unlike agents are padded to the widest: observations with zeros, actions with illegal ones. An
agent is alive while it is among the environment's `agents` and was neither terminated nor
truncated; an episode ends when none is. It is truncated if the last ones were, and they count as
alive then, since their future goes on; else it is terminated. An agent that left is paid what its
last step says. `action_mask`, in an agent's infos or in its observation, says what is legal. `won`
is read from an agent's infos where it is there.
"""

from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from dm2.envs.adapters.origin import package_version, step_limit
from dm2.envs.spaces import action_count, flat, flat_size, nth_action
from dm2.envs.world import Outcome, Sizes, Snapshot
from dm2.errors import InputError, WorldError

__all__ = ["PettingZooWorld", "is_parallel"]

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
        self._alive: list[Any] = []
        self._agents = list(env.possible_agents)
        if not self._agents:
            raise InputError(f"{field}: it has no agents")
        spaces = [env.observation_space(agent) for agent in self._agents]
        self._masked = [_has_mask(space) for space in spaces]
        self._spaces = [
            space.spaces["observation"] if masked else space
            for space, masked in zip(spaces, self._masked, strict=True)
        ]
        self._choices = [env.action_space(agent) for agent in self._agents]
        self._actions = [action_count(space, field) for space in self._choices]
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
        self._alive = self._present()
        return self._snapshot(observations, infos)

    def step(self, actions: Int[np.ndarray, " K"]) -> tuple[Snapshot, Outcome]:
        """Takes one environment step."""
        before = self._alive
        chosen = {
            agent: nth_action(space, int(action))
            for agent, action, space in zip(self._agents, actions, self._choices, strict=True)
            if agent in before
        }
        observations, rewards, terminated, truncated, infos = self._env.step(chosen)
        gone = [one for one in before if terminated.get(one, False)]
        cut = [one for one in before if truncated.get(one, False) and one not in gone]
        self._alive = [one for one in self._present() if one not in (*gone, *cut)]
        for one in before:
            if one not in (*self._alive, *gone, *cut):
                problem = f"agent {one!r} left without being terminated or truncated"
                raise WorldError(f"{problem}; say in `terminations` or `truncations` which it is")
        over = not self._alive
        if over:
            self._alive = cut
        won = over and any(bool(info.get("won", False)) for info in infos.values())
        paid = np.array([float(rewards.get(one, 0.0)) for one in self._agents], np.float32)
        outcome = Outcome(paid, over and not cut, over and bool(cut), won)
        return self._snapshot(observations, infos), outcome

    def close(self) -> None:
        """Closes the environment."""
        self._env.close()

    def _present(self) -> list[Any]:
        """The agents that are there now. Raises WorldError if one of them was not announced."""
        present = list(self._env.agents)
        for agent in present:
            if agent not in self._agents:
                problem = f"agent {agent!r} is in `agents` and not in `possible_agents`"
                raise WorldError(f"{problem}; name every agent there")
        return present

    def _snapshot(self, observations: dict[Any, Any], infos: dict[Any, Any]) -> Snapshot:
        sizes = self.sizes
        rows = np.zeros((sizes.num_agents, sizes.observation_size), np.float32)
        legal = np.zeros((sizes.num_agents, sizes.num_actions), bool)
        alive = np.zeros(sizes.num_agents, bool)
        for k, agent in enumerate(self._agents):
            alive[k] = agent in self._alive
            legal[k, : self._actions[k]] = True
            if not alive[k]:
                continue
            if agent not in observations:
                raise WorldError(f"agent {agent!r} has no observation; show one of each agent")
            seen = observations[agent]
            row = flat(self._spaces[k], seen["observation"] if self._masked[k] else seen)
            rows[k, : len(row)] = row
            mask = seen[_MASK] if self._masked[k] else infos.get(agent, {}).get(_MASK)
            if mask is not None:
                legal[k, : self._actions[k]] = _checked(mask, self._actions[k], agent)
        return Snapshot(rows, legal, alive, self._state(rows))

    def _state(self, rows: Float[np.ndarray, "K O"]) -> Float[np.ndarray, " S"]:
        """The environment's own state, else all observations, one behind another."""
        if self._has_state:
            return flat(self._env.state_space, self._env.state())
        return rows.ravel()


def _checked(mask: Any, count: int, agent: Any) -> Bool[np.ndarray, " a"]:
    """The legal actions of an agent. Raises WorldError unless there is one number an action."""
    flags = np.asarray(mask, bool)
    if flags.shape != (count,):
        problem = f"the {_MASK} of agent {agent!r} has the shape {flags.shape}"
        raise WorldError(f"{problem}; its action space has {count} actions, make both the same")
    return flags


def _has_mask(space: Any) -> bool:
    parts = getattr(space, "spaces", None)
    return isinstance(parts, dict) and {"observation", _MASK} <= parts.keys()


def _has_state(env: Any) -> bool:
    try:
        return env.state_space is not None and callable(env.state)
    except (AttributeError, NotImplementedError):
        return False
