"""Our environments behind SMAC's interface, which PyMARL's runners step."""

from typing import Any

import numpy as np
from jaxtyping import Float, Int

from dm2.envs.base import Environment
from dm2.envs.interfaces.episode import EpisodeByEpisode
from dm2.envs.python_env import Snapshot
from dm2.errors import InputError, as_whole

__all__ = ["SmacEnv"]


class SmacEnv:
    """Any environment with the methods of SMAC's `StarCraft2Env`.

    A dead agent stays: it observes zeros, may only do nothing (under SMAX's rules, only stop), and
    the team's reward is paid until the episode ends. `step` raises where an action is not legal.
    A time limit ends an episode with `info["episode_limit"]`, always, so that PyMARL bootstraps its
    value; SMAC itself says so only with `continuing_episode`.
    """

    def __init__(self, env: str | Environment, *, seed: int | None = None) -> None:
        """Makes the environment; nothing is compiled before the first episode.

        Args:
            env: An environment or its name, for example `smac/3s_vs_4z`.
            seed: Where the random numbers of the first episode begin; by default at random.

        Raises:
            InputError: If there is no such environment, or the seed is unusable.
        """
        self._episodes = EpisodeByEpisode(env)
        self._episodes.begin_at(seed)
        spec = self._episodes.spec
        self.n_agents, self.n_actions = spec.num_agents, spec.num_actions
        self.episode_limit = spec.episode_limit
        """Environment steps after which an episode is cut."""
        self._games = self._won = self._cut = 0

    def reset(self, seed: int | None = None) -> tuple[list[Float[np.ndarray, " O"]], np.ndarray]:
        """Begins an episode.

        Args:
            seed: Where the random numbers begin anew; by default they go on.

        Returns:
            The agents' observations, and the global state.
        """
        self._episodes.reset(seed)
        return self.get_obs(), self.get_state()

    def step(self, actions: Any) -> tuple[float, bool, dict[str, bool]]:
        """Takes one environment step.

        Args:
            actions: A legal action of each agent: a list or an array of whole numbers.

        Returns:
            The team's reward; whether the episode ended, also by the time limit; and a dictionary
            with `battle_won`, and with `episode_limit` where the time limit cut the episode.

        Raises:
            InputError: If no episode is in progress, there is not one action for each agent, or one
                is not legal.
        """
        _, outcome = self._episodes.step(self._whole(actions))
        over = outcome.terminated or outcome.truncated
        self._games += over
        self._won += outcome.won
        self._cut += outcome.truncated
        info = {"battle_won": outcome.won}
        if outcome.truncated:
            info["episode_limit"] = True
        return float(np.mean(outcome.rewards, dtype=float)), over, info

    def get_obs(self) -> list[Float[np.ndarray, " O"]]:
        """The observations of all agents."""
        return list(self._shown.observations)

    def get_obs_agent(self, agent_id: int) -> Float[np.ndarray, " O"]:
        """The observation of one agent."""
        return self._shown.observations[agent_id]

    def get_obs_size(self) -> int:
        """How many numbers an observation has."""
        return self._episodes.spec.observation_size

    def get_state(self) -> Float[np.ndarray, " S"]:
        """The global state."""
        return self._shown.state

    def get_state_size(self) -> int:
        """How many numbers the global state has."""
        return self._episodes.spec.state_size

    def get_avail_actions(self) -> list[list[int]]:
        """For each agent and action, 1 where it is legal now."""
        return self._shown.legal.astype(int).tolist()

    def get_avail_agent_actions(self, agent_id: int) -> list[int]:
        """For each action of one agent, 1 where it is legal now."""
        return self._shown.legal[agent_id].astype(int).tolist()

    def get_total_actions(self) -> int:
        """How many actions an agent has."""
        return self.n_actions

    def get_env_info(self) -> dict[str, int]:
        """The sizes by which PyMARL builds its networks and buffers."""
        return {
            "state_shape": self.get_state_size(),
            "obs_shape": self.get_obs_size(),
            "n_actions": self.n_actions,
            "n_agents": self.n_agents,
            "episode_limit": self.episode_limit,
        }

    def get_stats(self) -> dict[str, int | float]:
        """How the episodes ended so far, by SMAC's names. No game restarts here."""
        return {
            "battles_won": self._won,
            "battles_game": self._games,
            "battles_draw": self._cut,
            "win_rate": self._won / max(self._games, 1),
            "timeouts": self._cut,
            "restarts": 0,
        }

    def seed(self, seed: int | None = None) -> int:
        """The seed in use; with an argument, the one of the next episode and those after it."""
        self._episodes.begin_at(seed)
        return self._episodes.seed

    def save_replay(self) -> None:
        """Raises InputError: there is no StarCraft that could replay a battle."""
        raise InputError(f"save_replay: {_NO_PICTURES}")

    def render(self) -> None:
        """Raises InputError: there is no window."""
        raise InputError(f"render: {_NO_PICTURES}")

    def close(self) -> None:
        """Ends the episode."""
        self._episodes.close()

    @property
    def _shown(self) -> Snapshot:
        if self._episodes.last is None:
            raise InputError("get_obs, get_state, get_avail_actions: call reset() first")
        return self._episodes.last

    def _whole(self, actions: Any) -> Int[np.ndarray, " K"]:
        if len(actions) != self.n_agents:
            raise InputError(f"actions = {actions!r}: must be {self.n_agents}, one for each agent")
        most = self.n_actions - 1
        chosen = [as_whole(f"action of agent {k}", x, 0, most) for k, x in enumerate(actions)]
        return np.array(chosen)


_NO_PICTURES = "no game runs here that shows a battle; `dm2 watch` films the battles of a run"
