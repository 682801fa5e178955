"""Gymnasium's environments of tuples, an entry an agent: observation, action (lbforaging, rware).

All agents live until the episode ends; where there is a flag for each agent, it ends when all have
ended, and is cut if any was cut. The reward is one number for all, or one for each agent.
`info["action_mask"]`, a row for each agent, or `action_mask` beside what an agent observes in a
dictionary says what is legal, and `info["won"]` whether the team won. lbforaging and rware call
their own limit a termination: an end at the environment's last step that is not won is a cut.
"""

from typing import Any

import numpy as np
from jaxtyping import Int

from dm2.envs.adapters.origin import package_version, step_limit, unusable_limit
from dm2.envs.adapters.returned import (
    dictionary,
    each_ones,
    flag,
    flags_of,
    legal_by,
    parts_of,
    rewards_of,
)
from dm2.envs.python_env import Sizes, Snapshot, StepOutcome
from dm2.envs.spaces import MASK, action_count, flat, flat_size, is_tuple, masked, nth_action
from dm2.errors import InputError

__all__ = ["GymnasiumAdapter", "is_team_env"]


def is_team_env(made: Any) -> bool:
    """Whether an object is a Gymnasium environment for several agents."""
    return all(is_tuple(getattr(made, name, None)) for name in _SPACES)


_SPACES = ("observation_space", "action_space")


class GymnasiumAdapter:
    """One environment of Gymnasium's for several agents."""

    def __init__(self, env: Any, field: str) -> None:
        """Reads the sizes.

        Args:
            env: The environment.
            field: What messages call it.

        Raises:
            InputError: If spaces are of another kind, or there are not as many of each.
        """
        self._env = env
        self._time = 0
        self._spaces = list(env.observation_space.spaces)
        self._choices = list(env.action_space.spaces)
        self._actions = [action_count(space, field) for space in self._choices]
        if not self._actions or len(self._spaces) != len(self._actions):
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
            unusable_limit=unusable_limit(env),
        )

    def reset(self, seed: int) -> Snapshot:
        """Begins an episode."""
        self._time = 0
        shown = parts_of(self._env.reset(seed=seed), 2, "reset", "observation and info")
        return self._snapshot(*shown)

    def step(self, actions: Int[np.ndarray, " K"]) -> tuple[Snapshot, StepOutcome]:
        """Takes one environment step."""
        self._time += 1
        pairs = zip(self._choices, actions, strict=True)
        chosen = tuple(nth_action(space, int(action)) for space, action in pairs)
        result = parts_of(self._env.step(chosen), 5, "step", _STEP)
        observations, reward, terminated, truncated, info = result
        snapshot = self._snapshot(observations, info)
        paid = rewards_of(reward, len(self._actions))
        terminated = flags_of(terminated, len(self._actions), "terminated")
        truncated = flags_of(truncated, len(self._actions), "truncated")
        over = bool(np.all(np.logical_or(terminated, truncated)))
        ended = over and bool(np.all(terminated))
        won = ended and flag(info.get("won", False), "`won`")
        ended = ended and (won or self._time != self.sizes.limit)
        return snapshot, StepOutcome(paid, ended, over and not ended, won)

    def close(self) -> None:
        """Closes the environment."""
        self._env.close()

    def _snapshot(self, observations: Any, info: Any) -> Snapshot:
        sizes = self.sizes
        each_ones(observations, sizes.num_agents, "observations")
        masks = dictionary(info, "info").get(MASK)
        if masks is not None:
            each_ones(masks, sizes.num_agents, MASK)
        rows = np.zeros((sizes.num_agents, sizes.observation_size), np.float32)
        legal = np.zeros((sizes.num_agents, sizes.num_actions), bool)
        for k, (space, observation) in enumerate(zip(self._spaces, observations, strict=True)):
            row = flat(space, observation)
            rows[k, : len(row)] = row
            legal[k, : self._actions[k]] = True
            mask = None if masks is None else masks[k]
            if masked(space):
                mask = observation.get(MASK)
            if mask is not None:
                legal[k, : self._actions[k]] = legal_by(mask, self._actions[k], k)
        return Snapshot(rows, legal, np.ones(sizes.num_agents, bool), rows.ravel())


_STEP = "observation, reward, terminated, truncated and info"
