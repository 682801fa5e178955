"""Small worlds of other people's interfaces, sound and malformed ones; no test itself."""

import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, Tuple
from jaxtyping import Array, Int
from pettingzoo import ParallelEnv

from dm2.envs import EnvSpec, Step, TeamView


class Meet(ParallelEnv):
    """Two agents on a line of five tiles, each paid its own tile when both stand on one. The
    second has one action more, and may not use it; it dies at step `dies`."""

    def __init__(self, max_cycles: int = 6, dies: int = 99, fault: str = "") -> None:
        self.possible_agents = ["a", "b"]
        self.max_cycles, self.dies, self.fault = max_cycles, dies, fault
        if fault == "no limit":
            del self.max_cycles

    def observation_space(self, agent: str) -> Any:
        """What an agent sees, and what it may do."""
        size, actions = (2, 3) if agent == "a" else (3, 4)
        box = Box(0, 9, (size,), np.float32)
        return Dict({"observation": box, "action_mask": MultiBinary(actions)})

    def action_space(self, agent: str) -> Any:
        """Left, stay, right."""
        if self.fault == "continuous":
            return Box(0, 1, (1,), np.float32)
        return Discrete(3 if agent == "a" else 4)

    def reset(self, seed: Any = None, options: Any = None) -> Any:
        """Begins an episode."""
        self.agents, self.time = list(self.possible_agents), 0
        self.at = np.random.default_rng(seed).integers(5, size=2)
        if self.fault == "reset":
            raise OSError("the file\nis gone")
        return self._seen(), {agent: {} for agent in self.agents}

    def step(self, actions: dict[str, int]) -> Any:
        """Moves."""
        self.time += 1
        acted = list(self.agents)
        for k, agent in enumerate(self.possible_agents):
            self.at[k] = np.clip(self.at[k] + actions.get(agent, 1) - 1, 0, 4)
        pay = self.at + 1.0 if self.at[0] == self.at[1] else np.zeros(2)
        if self.fault == "reward":
            pay = pay * np.nan
        if self.fault == "step":
            raise ZeroDivisionError("division by zero")
        cut = self.time >= getattr(self, "max_cycles", 99)
        dead = {agent: agent == "b" and self.time >= self.dies for agent in acted}
        seen = self._seen()
        self.agents = [] if cut else [agent for agent in acted if not dead[agent]]
        rewards = {agent: pay[self.possible_agents.index(agent)] for agent in acted}
        if self.fault == "missing":
            seen = {}
        return seen, rewards, dead, dict.fromkeys(acted, cut), {agent: {} for agent in acted}

    def _seen(self) -> dict[str, Any]:
        mine = np.array([self.at[0], self.at[1]], np.float32)
        other = np.array([self.at[1], self.at[0], 7], np.float32)
        masks = [np.ones(3, np.int8), np.array([1, 1, 1, 0], np.int8)]
        if self.fault == "observation":
            mine = mine * np.inf
        if self.fault == "shape":
            mine = np.zeros(5, np.float32)
        if self.fault == "mask":
            masks[0] = np.zeros(3, np.int8)
        if self.fault == "mask size":
            masks[0] = np.ones(5, np.int8)
        rows = {"a": mine, "b": other}
        named = dict(zip(rows, masks, strict=True))
        return {
            one: {"observation": rows[one], "action_mask": named[one]}
            for one in rows
            if one in self.agents
        }


class Tuples(gymnasium.Env):
    """A Gymnasium world of two agents, whose observation and action are tuples."""

    def __init__(self, max_steps: int = 4, fault: str = "") -> None:
        self.max_steps, self.fault = max_steps, fault
        self.observation_space = Tuple((Discrete(3), Box(0, 1, (2,), np.float32)))
        self.action_space = Tuple((Discrete(2, start=1), Discrete(3)))

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        """Begins an episode."""
        self.time = 0
        return self._seen(), {}

    def step(self, action: Any) -> Any:
        """Pays each agent its action."""
        self.time += 1
        paid = [float(x) for x in action]
        if self.fault == "rewards":
            paid = [*paid, 0.0]
        return self._seen(), paid, False, self.time >= self.max_steps, {}

    def _seen(self) -> Any:
        first = 5 if self.fault == "range" else self.time % 3
        return first, np.array([self.time, 1], np.float32) / 4


class Battle:
    """A world with SMAC's methods. Attacking (2) wins at step 3; its game crashes at step
    `crash`."""

    def __init__(self, crash: int = 0, fault: str = "") -> None:
        self.crash, self.fault = crash, fault

    def get_env_info(self) -> dict[str, Any]:
        """SMAC's sizes."""
        info = {"n_agents": 2, "n_actions": 3, "obs_shape": 2, "state_shape": 3}
        return info | {"episode_limit": 5} | ({"obs_shape": None} if self.fault == "sizes" else {})

    def reset(self) -> Any:
        """Begins an episode."""
        self.time, self.gone = 0, False

    def step(self, actions: list[int]) -> Any:
        """Takes Python's own integers, as SMAC does."""
        assert all(type(action) is int for action in actions)
        self.time += 1
        if self.time == self.crash:
            self.gone = True
            return 0, True, {}
        won = self.time == 3 and actions[0] == 2
        return 1.5, won or self.time == 5, {"battle_won": won}

    def get_obs(self) -> list[np.ndarray]:
        """The time, or an error where the game is gone."""
        if self.gone:
            raise ConnectionError("no game")
        return [np.array([self.time, k], np.float32) for k in range(2)]

    def get_state(self) -> np.ndarray:
        """The time."""
        return np.full(3 if self.fault != "state" else 4, self.time, np.float32)

    def get_avail_actions(self) -> list[list[int]]:
        """The second agent dies at step 2."""
        return [[0, 1, 1], [0, 1, 1] if self.time < 2 else [1, 0, 0]]

    def close(self) -> None:
        """Ends nothing."""


class Leaving(Battle):
    """A world that starts a process, as a game does, and never ends it."""

    def __init__(self, note: str) -> None:
        super().__init__()
        self.note = note

    def reset(self) -> Any:
        """Starts it and writes its number down."""
        super().reset()
        self.game = subprocess.Popen(["sleep", "60"])
        Path(self.note).write_text(str(self.game.pid))


class LineState(NamedTuple):
    """Where both agents stand."""

    at: Int[Array, " K"]


class Line:
    """Two agents in JAX, one episode: each is paid where it stands, and it ends at 4."""

    num_agents, num_actions, episode_limit = 2, 2, 6

    def reset(self, key: Array) -> LineState:
        """Both begin at 0 or 1."""
        return LineState(jax.random.randint(key, (2,), 0, 2))

    def step(self, key: Array, state: LineState, actions: Array) -> Any:
        """Moves by the actions."""
        at = state.at + actions
        return LineState(at), at.astype(jnp.float32), jnp.any(at >= 4)

    def observe(self, state: LineState) -> Array:
        """Own place and whether it is the first."""
        return jnp.stack([state.at, jnp.arange(2)], axis=1).astype(jnp.float32)

    def won(self, state: LineState) -> Array:
        """The first arrived."""
        return state.at[0] >= 4


def no_environment() -> object:
    """A factory that makes none."""
    return object()


class Walk:
    """A batched environment in JAX that keeps the contract, unless it has a `fault`: two agents
    walk to the right, the second dies when it is at 2 or further, and all is over after 5 steps."""

    def __init__(self, fault: str = "") -> None:
        self.fault = fault
        limit = 0 if fault == "limit" else 5
        self.spec = EnvSpec("walk", "none", 2, 2, 3, 2, limit)

    def reset(self, key: Array, num_envs: int) -> Any:
        """Both agents stand at 0."""
        if self.fault == "reset":
            raise ValueError("there is\nno map")
        at = jnp.zeros((num_envs, 2) if self.fault == "axis" else (2, num_envs), jnp.int32)
        return {"at": at, "time": jnp.zeros(num_envs, jnp.int32)}

    def step(self, key: Array, state: Any, actions: Array) -> Any:
        """Walks by 0, 1 or 2, and pays the team for every step to the right."""
        fault, time = self.fault, state["time"] + 1
        moved = jnp.where(self._alive(state), actions, 0)
        moved = jnp.roll(moved, 1, axis=1) if fault == "mixing" else moved
        at = state["at"] + moved - (4 if fault == "revived" else 0) * (time == 4)
        reward = jnp.sum(moved, axis=0).astype(jnp.float32)
        cut = (time >= 5) & (fault != "endless")
        never = jnp.zeros_like(cut)
        step = Step(reward, never, cut, never)
        changes: dict[str, Any] = {
            "reward": {"reward": reward[:, None]},
            "paid nan": {"reward": reward * jnp.nan},
            "flags": {"won": cut.astype(jnp.int32)},
            "both": {"terminated": cut},
            "won": {"won": cut},
        }
        step = step._replace(**changes.get(fault, {}))
        state = {"at": at.astype(float) if fault == "state" else at, "time": time}
        return (state, step) if fault != "result" else (state, reward, cut)

    def observe(self, state: Any) -> Any:
        """Each agent perceives both places, and the global state is the same."""
        at, fault, alive = state["at"], self.fault, self._alive(state)
        rows = jnp.broadcast_to(at.T.astype(jnp.float32), (2, at.shape[1], 2))
        legal = jnp.ones((*alive.shape, 4 if fault == "legal" else 3), bool)
        view = TeamView(rows, legal, alive, at.T.astype(jnp.float32))
        changes: dict[str, Any] = {
            "observations": {"observations": jnp.moveaxis(rows, 0, 1)},
            "shown nan": {"observations": jnp.where(rows > 2, jnp.nan, rows)},
            "stuck": {"legal": legal & alive[..., None]},
            "nobody": {"alive": alive & (state["time"] > 0)},
            "central nan": {"state": view.state / jnp.where(state["time"] == 3, 0, 1)[:, None]},
        }
        return view._replace(**changes.get(fault, {}))

    def _alive(self, state: Any) -> Array:
        return jnp.stack([jnp.ones_like(state["at"][0], bool), state["at"][1] < 2])


class Unseeded(Meet):
    """A world that takes no notice of its seed."""

    def reset(self, seed: Any = None, options: Any = None) -> Any:
        """Begins an episode somewhere."""
        return super().reset(None, options)
