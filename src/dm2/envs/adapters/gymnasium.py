"""Worlds of Gymnasium whose observation and action are tuples, an agent each (lbforaging, rware).

All agents live until the episode ends. The reward is one number for all, or one for each agent.
`info["won"]` says who won where it is there. lbforaging and rware call their own limit a
termination: an end at the world's last step that is not won is a cut.
"""

from typing import Any

import numpy as np
from jaxtyping import Float, Int

from dm2.envs.adapters.origin import package_version, step_limit
from dm2.envs.spaces import action_count, flat, flat_size, nth_action
from dm2.envs.world import Outcome, Sizes, Snapshot
from dm2.errors import InputError

__all__ = ["GymnasiumWorld", "is_team_env"]


def is_team_env(made: Any) -> bool:
    """Whether an object is a Gymnasium environment for several agents."""
    names = [type(getattr(made, name, None)).__name__ for name in _SPACES]
    return names == ["Tuple", "Tuple"]


_SPACES = ("observation_space", "action_space")


class GymnasiumWorld:
    """One environment of Gymnasium's for several agents."""

    def __init__(self, env: Any, field: str) -> None:
        """Reads the sizes.

        Args:
            env: the environment.
            field: what messages call it.

        Raises:
            InputError: spaces are of another kind, or there are not as many of each.
        """
        self._env = env
        self._time = 0
        self._spaces = list(env.observation_space.spaces)
        self._choices = list(env.action_space.spaces)
        self._actions = [action_count(space, field) for space in self._choices]
        if len(self._spaces) != len(self._actions):
            counts = f"{len(self._spaces)} observations and {len(self._actions)} actions"
            raise InputError(f"{field}: it has {counts}; each agent needs one of both")
        size = max(flat_size(space, field) for space in self._spaces)
        limit = getattr(getattr(env, "spec", None), "max_episode_steps", None)
        self.sizes = Sizes(
            num_agents=len(self._actions),
            observation_size=size,
            num_actions=max(self._actions),
            state_size=size * len(self._actions),
            version=package_version(env),
            limit=limit or step_limit(env),
        )

    def reset(self, seed: int) -> Snapshot:
        """Begins an episode."""
        self._time = 0
        observations, _ = self._env.reset(seed=seed)
        return self._snapshot(observations)

    def step(self, actions: Int[np.ndarray, " K"]) -> tuple[Snapshot, Outcome]:
        """Takes one environment step."""
        self._time += 1
        pairs = zip(self._choices, actions, strict=True)
        chosen = tuple(nth_action(space, int(action)) for space, action in pairs)
        observations, reward, terminated, truncated, info = self._env.step(chosen)
        paid = np.asarray(reward, np.float32)
        paid = np.full(len(self._actions), paid) if paid.ndim == 0 else paid
        ended, cut = bool(np.all(terminated)), bool(np.all(truncated))
        won = ended and bool(info.get("won", False))
        late = ended and not won and self._time == self.sizes.limit
        return self._snapshot(observations), Outcome(paid, ended and not late, cut or late, won)

    def close(self) -> None:
        """Closes the environment."""
        self._env.close()

    def _snapshot(self, observations: Any) -> Snapshot:
        sizes = self.sizes
        rows = np.zeros((sizes.num_agents, sizes.observation_size), np.float32)
        legal = np.zeros((sizes.num_agents, sizes.num_actions), bool)
        for k, (space, seen) in enumerate(zip(self._spaces, observations, strict=True)):
            row: Float[np.ndarray, " O"] = flat(space, seen)
            rows[k, : len(row)] = row
            legal[k, : self._actions[k]] = True
        return Snapshot(rows, legal, np.ones(sizes.num_agents, bool), rows.ravel())
