"""Environments with PettingZoo's parallel interface.

Unlike agents are padded to the widest: observations with zeros, actions with illegal ones. An
agent is alive while it is among the environment's `agents` and was neither terminated nor
truncated; an episode ends when none is. It is truncated if the last ones were, and they count as
alive then, since their future goes on; else it is terminated. An agent that left is paid what its
last step says. All agents are there when an episode begins, and none comes back before it ends.
Whoever acted has a reward, a termination and a truncation. `action_mask`, in an agent's infos or
beside what it observes in a dictionary, says what is legal. The team won an episode that was not
truncated if an agent's infos said `won` in it.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from dm2.envs.adapters.origin import package_version, step_limit, unusable_limit
from dm2.envs.adapters.returned import (
    check_named,
    dictionary,
    flag,
    legal_by,
    number,
    parts_of,
)
from dm2.envs.python_env import Sizes, Snapshot, StepOutcome
from dm2.envs.spaces import MASK, action_count, flat, flat_size, masked, nth_action
from dm2.errors import EnvError, InputError

__all__ = ["PettingZooAdapter", "is_parallel"]


def is_parallel(made: Any) -> bool:
    """Whether an object has PettingZoo's parallel interface, and not that by turns."""
    has_both = hasattr(made, "possible_agents") and hasattr(made, "observation_space")
    return has_both and not hasattr(made, "agent_iter")


class PettingZooAdapter:
    """One environment with PettingZoo's parallel interface."""

    def __init__(self, env: Any, field: str) -> None:
        """Reads the sizes.

        Args:
            env: The environment.
            field: What messages call it.

        Raises:
            InputError: If the agents are in no order, or an action or observation space is of
                another kind.
        """
        self._env = env
        self._alive: list[Any] = []
        self._won = False
        self._agents = _ordered(env.possible_agents, field)
        self._spaces = [env.observation_space(agent) for agent in self._agents]
        self._choices = [env.action_space(agent) for agent in self._agents]
        self._actions = [action_count(space, field) for space in self._choices]
        size = max(flat_size(space, field) for space in self._spaces)
        self._has_state = _has_state(env)
        state = size * len(self._agents)
        if self._has_state:
            state = flat_size(env.state_space, field, "state space")
        self.sizes = Sizes(
            num_agents=len(self._agents),
            observation_size=size,
            num_actions=max(self._actions),
            state_size=state,
            version=package_version(env),
            limit=step_limit(env),
            unusable_limit=unusable_limit(env),
        )

    def reset(self, seed: int) -> Snapshot:
        """Begins an episode."""
        shown = self._env.reset(seed=seed)
        observations, infos = parts_of(shown, 2, "reset", "observations and infos")
        self._alive, self._won = self._present(), False
        for agent in self._agents:
            if agent not in self._alive:
                problem = f"agent {agent!r} is in `possible_agents` and not in `agents`"
                raise EnvError(f"{problem}; every agent must be there when an episode begins")
        return self._snapshot(dictionary(observations, "observations"), _each(infos))

    def step(self, actions: Int[np.ndarray, " K"]) -> tuple[Snapshot, StepOutcome]:
        """Takes one environment step."""
        before = self._alive
        chosen = {
            agent: nth_action(space, int(action))
            for agent, action, space in zip(self._agents, actions, self._choices, strict=True)
            if agent in before
        }
        result = parts_of(self._env.step(chosen), 5, "step", ", ".join(_STEP))
        observations, rewards, terminated, truncated, infos = map(dictionary, result, _STEP)
        for values, what in zip(result[1:4], _STEP[1:4], strict=True):
            check_named(values, before, what)
        cut = self._part(terminated, truncated)
        over = not self._alive
        if over:
            self._alive = cut
        said = [(one, info["won"]) for one, info in _each(infos).items() if "won" in info]
        self._won |= any(flag(won, f"`won` of agent {one!r}") for one, won in said)
        paid = [
            number(rewards.get(one, 0.0), f"the reward of agent {one!r}") for one in self._agents
        ]
        paid = np.array(paid, np.float32)
        ended = over and not cut
        outcome = StepOutcome(paid, ended, over and not ended, ended and self._won)
        return self._snapshot(observations, infos), outcome

    def close(self) -> None:
        """Closes the environment."""
        self._env.close()

    def _part(self, terminated: dict[Any, Any], truncated: dict[Any, Any]) -> list[Any]:
        """Notes who goes on living after a step, and returns whom it truncated. Raises EnvError
        if an agent left without a word, or is there again."""
        before, present = self._alive, self._present()
        gone = [one for one in before if flag(terminated[one], f"the termination of agent {one!r}")]
        cut = [one for one in before if flag(truncated[one], f"the truncation of agent {one!r}")]
        cut = [one for one in cut if one not in gone]
        self._alive = [one for one in before if one not in gone and one not in cut]
        for one in self._alive:
            if one not in present:
                problem = f"agent {one!r} left without being terminated or truncated"
                raise EnvError(f"{problem}; say in `terminations` or `truncations` which it is")
        for one in present:
            if one not in before:
                problem = f"agent {one!r} is in `agents` again after it was terminated or truncated"
                raise EnvError(f"{problem}; leave it out until the episode ends")
        return cut

    def _present(self) -> list[Any]:
        """The agents that are there now. Raises EnvError if one of them was not announced."""
        present = self._env.agents
        if not isinstance(present, Iterable):
            raise EnvError(f"its agents: {present!r}; must be a list of those that are there")
        present = list(present)
        for agent in present:
            if agent not in self._agents:
                problem = f"agent {agent!r} is in `agents` and not in `possible_agents`"
                raise EnvError(f"{problem}; name every agent there")
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
                raise EnvError(f"agent {agent!r} has no observation; show one of each agent")
            observation, space = observations[agent], self._spaces[k]
            row = flat(space, observation)
            rows[k, : len(row)] = row
            mask = (observation if masked(space) else infos.get(agent, {})).get(MASK)
            if mask is not None:
                legal[k, : self._actions[k]] = legal_by(mask, self._actions[k], agent)
        return Snapshot(rows, legal, alive, self._state(rows))

    def _state(self, rows: Float[np.ndarray, "K O"]) -> Float[np.ndarray, " S"]:
        """The environment's own state, else all observations, one behind another."""
        if self._has_state:
            return flat(self._env.state_space, self._env.state())
        return rows.ravel()


_STEP = ("observations", "rewards", "terminations", "truncations", "infos")


def _each(infos: Any) -> dict[Any, dict[Any, Any]]:
    """The agents' infos. Raises EnvError unless those of each are a dictionary."""
    for agent, info in dictionary(infos, "infos").items():
        dictionary(info, f"infos of agent {agent!r}")
    return infos


def _ordered(agents: Any, field: str) -> list[Any]:
    """The agents' names. Raises InputError unless they are in an order, each once."""
    if not isinstance(agents, list | tuple):
        remedy = "must be a list, whose order is the agents' numbers"
        raise InputError(f"{field}: possible_agents = {agents!r}: {remedy}")
    if not agents or len(set(agents)) < len(agents):
        raise InputError(f"{field}: possible_agents = {agents!r}: must name every agent, each once")
    return list(agents)


def _has_state(env: Any) -> bool:
    try:
        return env.state_space is not None and callable(env.state)
    except (AttributeError, NotImplementedError):
        return False
