"""Our environments behind PettingZoo's parallel interface (`pip install 'dm2[pettingzoo]'`)."""

from typing import Any

import numpy as np
from jaxtyping import Float, Int

from dm2.envs.base import Environment
from dm2.envs.interfaces.episode import EpisodeByEpisode
from dm2.envs.python_env import Snapshot
from dm2.errors import InputError, as_whole

try:
    from gymnasium.spaces import Box, Dict, Discrete
    from pettingzoo import ParallelEnv
except ImportError as error:
    raise InputError("PettingZooEnv: needs PettingZoo: pip install 'dm2[pettingzoo]'") from error

__all__ = ["PettingZooEnv"]

_ILLEGAL = ("error", "replace")
_STOP = "stop"


class PettingZooEnv(ParallelEnv[str, dict[str, np.ndarray], Any]):
    """Any environment behind PettingZoo's parallel interface.

    Agents are called `agent_0`, `agent_1` and so on. An observation is a dictionary with
    `observation` and `action_mask`, which has 1 for each action that is legal now; an agent's infos
    hold the mask as well, beside `won`. An agent that dies is terminated and leaves `agents`; it is
    paid for the step in which it died and, as PettingZoo has it, for nothing after that. When the
    task ends, all agents that are left are terminated; when the time limit cuts the episode, they
    are truncated.
    """

    def __init__(self, env: str | Environment, *, illegal: str = "error") -> None:
        """Makes the environment; nothing is compiled before the first episode.

        Args:
            env: An environment or its name, for example `smac/3s_vs_4z?reward=signed`.
            illegal: What happens to an action that is not legal: `error`, it raises; `replace`, for
                tools that know no masks, it becomes `stop` where there is such an action, else the
                first legal one.

        Raises:
            InputError: If there is no such environment, or `illegal` is neither.
        """
        if illegal not in _ILLEGAL:
            raise InputError(f"illegal = {illegal!r}: must be one of {', '.join(_ILLEGAL)}")
        self._episodes = EpisodeByEpisode(env)
        spec = self._episodes.spec
        self._replaces = illegal == "replace"
        self._stop = spec.action_names.index(_STOP) if _STOP in spec.action_names else 0
        self.metadata = {"name": spec.name, "render_modes": [], "is_parallelizable": True}
        self.render_mode = None
        self.episode_limit = spec.episode_limit
        """Environment steps after which an episode is truncated."""
        self.possible_agents = [f"agent_{k}" for k in range(spec.num_agents)]
        self.agents: list[str] = []
        self._index = {agent: k for k, agent in enumerate(self.possible_agents)}
        actions = spec.num_actions
        self.observation_spaces = {
            agent: Dict(
                {
                    "observation": _numbers(spec.observation_size),
                    "action_mask": Box(0, 1, (actions,), np.int8),
                }
            )
            for agent in self.possible_agents
        }
        self.action_spaces = {agent: Discrete(actions) for agent in self.possible_agents}
        self.state_space = _numbers(spec.state_size)

    def observation_space(self, agent: str) -> Any:
        """The space of an agent's observations, the same object at every call."""
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> Any:
        """The space of an agent's actions, the same object at every call."""
        return self.action_spaces[agent]

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Begins an episode.

        Args:
            seed: Where the random numbers begin anew; by default they go on.
            options: Not used.

        Returns:
            The observations and infos of all agents.
        """
        snapshot = self._episodes.reset(seed)
        self.agents = list(self.possible_agents)
        return self._shown(snapshot, self.agents, won=False)

    def step(
        self, actions: dict[str, Any]
    ) -> tuple[dict[str, Any], dict[str, float], dict[str, bool], dict[str, bool], dict[str, Any]]:
        """Takes one environment step.

        Args:
            actions: A whole number of each agent in `agents`; those of others do not count.

        Returns:
            Observations, rewards, terminations, truncations and infos of the agents that acted.

        Raises:
            InputError: If no episode is in progress, an agent has no action, or one that is not
                legal.
        """
        snapshot, outcome = self._episodes.step(self._joint(actions))
        acted = self.agents
        alive = {agent: bool(snapshot.alive[self._index[agent]]) for agent in acted}
        over = outcome.terminated or outcome.truncated
        self.agents = [] if over else [agent for agent in acted if alive[agent]]
        rewards = {agent: float(outcome.rewards[self._index[agent]]) for agent in acted}
        terminated = {agent: outcome.terminated or not alive[agent] for agent in acted}
        truncated = {agent: outcome.truncated and alive[agent] for agent in acted}
        observations, infos = self._shown(snapshot, acted, outcome.won)
        return observations, rewards, terminated, truncated, infos

    def state(self) -> Float[np.ndarray, " S"]:
        """The global state. Raises InputError before the first episode."""
        if self._episodes.last is None:
            raise InputError("state: no episode has begun; call reset() first")
        return self._episodes.last.state

    def close(self) -> None:
        """Ends the episode."""
        self.agents = []
        self._episodes.close()

    def _joint(self, actions: dict[str, Any]) -> Int[np.ndarray, " K"]:
        """One legal action of every agent, in the environment's order."""
        if self._episodes.last is None:
            raise InputError("step: no episode is in progress; call reset() first")
        legal = self._episodes.last.legal
        joint = legal.argmax(axis=1)
        for agent in self.agents:
            if agent not in actions:
                raise InputError(f"actions: {agent} has none; give one to each agent in `agents`")
            k = self._index[agent]
            action = as_whole(f"action of {agent}", actions[agent], 0, legal.shape[1] - 1)
            if legal[k, action] or not self._replaces:
                joint[k] = action
            elif legal[k, self._stop]:
                joint[k] = self._stop
        return joint

    def _shown(
        self, snapshot: Snapshot, agents: list[str], won: bool
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        masks = snapshot.legal.astype(np.int8)
        observations, infos = {}, {}
        for agent in agents:
            seen, mask = snapshot.observations[self._index[agent]], masks[self._index[agent]]
            observations[agent] = {"observation": seen, "action_mask": mask}
            infos[agent] = {"action_mask": mask, "won": won}
        return observations, infos


def _numbers(count: int) -> Box:
    return Box(-np.inf, np.inf, (count,), np.float32)
