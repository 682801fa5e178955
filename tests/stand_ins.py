"""Small environments of other people's interfaces, sound and malformed ones; no test itself.
Nothing here imports JAX, so that the processes that step them begin soon."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, Tuple
from pettingzoo import ParallelEnv


class Meet(ParallelEnv):
    """Two agents on a line of five tiles, each paid its own tile when both stand on one. The
    second has one action more, and may not use it; it dies at step `dies`."""

    def __init__(self, max_cycles: int = 6, dies: int = 99, fault: str = "") -> None:
        names = {"set": {"a", "b"}, "twice": ["a", "a"], "nobody": []}
        self.possible_agents: Any = names.get(fault, ["a", "b"])
        self.max_cycles, self.dies, self.fault = max_cycles, dies, fault
        self.steps = 0
        """Of all episodes."""
        self.seeds: list[Any] = []
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
        if self.fault == "spaces":
            raise KeyError(agent)
        return Discrete(3 if agent == "a" else 4)

    def reset(self, seed: Any = None, options: Any = None) -> Any:
        """Begins an episode."""
        self.agents, self.time = list(self.possible_agents), 0
        self.at = np.random.default_rng(seed).integers(5, size=2)
        if self.fault == "talk":
            print("It begins.", flush=True)
        if self.fault == "reset":
            raise OSError("the file\nis gone")
        if self.fault == "old reset":
            return self._seen()
        if self.fault == "seed" and seed in self.seeds:
            raise ValueError(f"there was an episode of seed {seed}")
        self.seeds.append(seed)
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
        self.steps += 1
        if self.fault == "step" or (self.fault == "late" and self.steps > 8):
            raise ZeroDivisionError("division by zero")
        cut = self.time >= getattr(self, "max_cycles", 99)
        dead = {agent: agent == "b" and self.time >= self.dies for agent in acted}
        seen = self._seen()
        self.agents = [] if cut else [agent for agent in acted if not dead[agent]]
        if self.fault == "leaving":
            self.agents = self.agents[:1]
        if self.fault == "unknown":
            self.agents = [*self.agents, "c"]
        rewards: dict[str, Any] = {agent: pay[self.possible_agents.index(agent)] for agent in acted}
        if self.fault == "missing":
            seen = {}
        if self.fault == "unpaid":
            rewards["a"] = None
        if self.fault == "old step":
            return seen, rewards, dead, {}
        if self.fault == "exit":
            sys.exit(3)
        if self.fault == "interrupt":
            raise KeyboardInterrupt
        if self.fault == "crash":
            os._exit(7)
        if self.fault == "infos":
            return seen, rewards, dead, dict.fromkeys(acted, cut), None
        if self.fault == "endless":
            time.sleep(60)
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
    """A Gymnasium environment of two agents, whose observation and action are tuples."""

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
        if self.fault == "words":
            return self._seen(), "much", False, False, {}
        if self.fault == "info":
            return self._seen(), paid, False, False, [{}, {}]
        if self.fault == "old step":
            return self._seen(), paid, False, {}
        return self._seen(), paid, False, self.time >= self.max_steps, {}

    def _seen(self) -> Any:
        first = 5 if self.fault == "range" else self.time % 3
        return first, np.array([self.time, 1], np.float32) / 4


class Battle:
    """An environment with SMAC's methods. Attacking (2) wins at step 3; its game crashes at step
    `crash`."""

    def __init__(self, crash: int = 0, fault: str = "") -> None:
        self.crash, self.fault = crash, fault

    def get_env_info(self) -> dict[str, Any]:
        """SMAC's sizes."""
        if self.fault == "exit":
            sys.exit(0)
        if self.fault == "launch":
            raise RuntimeError("launch the game first")
        info = {"n_agents": 2, "n_actions": 3, "obs_shape": 2, "state_shape": 3}
        if self.fault == "nobody":
            info["n_agents"] = 0
        limit = 2**40 if self.fault == "clock" else 5
        return (
            info | {"episode_limit": limit} | ({"obs_shape": None} if self.fault == "sizes" else {})
        )

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
        if self.fault == "long":
            return [np.zeros(2), np.zeros(3)]
        return [np.array([self.time, k], np.float32) for k in range(2)]

    def get_state(self) -> np.ndarray:
        """The time."""
        return np.full(3 if self.fault != "state" else 4, self.time, np.float32)

    def get_avail_actions(self) -> list[list[int]]:
        """The second agent dies at step 2."""
        if self.fault == "stuck":
            return [[0, 1, 1], [0, 0, 0]]
        return [[0, 1, 1], [0, 1, 1] if self.time < 2 else [1, 0, 0]]

    def close(self) -> None:
        """Ends nothing."""


class Leaving(Battle):
    """An environment that starts a process, as a game does, and never ends it."""

    def __init__(self, note: str) -> None:
        super().__init__()
        self.note = note

    def reset(self) -> Any:
        """Starts it and writes its number down."""
        super().reset()
        self.game = subprocess.Popen(["sleep", "60"])
        Path(self.note).write_text(str(self.game.pid))


def no_environment() -> object:
    """A factory that makes none."""
    return object()


def hands_out_a_class() -> object:
    """A factory that forgets to call what it returns."""
    return Battle


def leaves() -> object:
    """A factory that ends Python."""
    raise SystemExit("no licence")


made = Meet()
"""An environment, and no factory."""


class Unseeded(Meet):
    """An environment that takes no notice of its seed."""

    def reset(self, seed: Any = None, options: Any = None) -> Any:
        """Begins an episode somewhere."""
        return super().reset(None, options)
