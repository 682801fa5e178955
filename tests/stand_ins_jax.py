"""Small environments in JAX, sound and malformed ones; no test itself."""

import itertools
import sys
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import io_callback
from jaxtyping import Array, Int

from dm2.envs import EnvSpec, Step, TeamView


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


class Far(Line):
    """The same far from the origin, and with small steps."""

    def observe(self, state: LineState) -> Array:
        """Own place, an eighth a step beyond 100,000, and whether it is the first."""
        return super().observe(state) / 8 + jnp.array([1e5, 0.0])


class Endless:
    """The same without a limit."""

    num_agents, num_actions = Line.num_agents, Line.num_actions
    reset, step, observe = Line.reset, Line.step, Line.observe


class Walk:
    """A batched environment in JAX that keeps the contract, unless it has a `fault`: two agents
    walk to the right, the second dies when it is at 2 or further, and all is over after 5 steps."""

    def __init__(self, fault: str = "") -> None:
        self.fault, self.steps = fault, itertools.count()
        limit = {"limit": 0, "clock": 2**31}.get(fault, 5)
        self.spec = EnvSpec("walk", "none", 2, 2, 3, 2, limit)

    def reset(self, key: Array, num_envs: int) -> Any:
        """Both agents stand at 0."""
        if self.fault == "reset":
            raise ValueError("there is\nno map")
        at = jnp.zeros((num_envs, 2) if self.fault == "axis" else (2, num_envs), jnp.int32)
        chance = {"key": jax.random.split(jax.random.key(0), num_envs)}
        state = {"at": at, "time": jnp.zeros(num_envs, jnp.int32)}
        return state | (chance if self.fault == "key" else {})

    def step(self, key: Array, state: Any, actions: Array) -> Any:
        """Walks by 0, 1 or 2, and pays the team for every step to the right."""
        fault, time = self.fault, state["time"] + 1
        if fault == "exit" or (fault == "late exit" and next(self.steps)):
            sys.exit(5)
        moved = jnp.where(self._alive(state), actions, 0)
        moved = jnp.roll(moved, 1, axis=1) if fault == "mixing" else moved
        at = state["at"] + moved - (4 if fault == "revived" else 0) * (time == 4)
        reward = jnp.sum(moved, axis=0).astype(jnp.float32)
        if fault == "impure":  # it pays for what is no argument
            number = jax.ShapeDtypeStruct((), jnp.float32)
            count = lambda: np.float32(next(self.steps))  # noqa: E731
            reward += io_callback(count, number, ordered=True)
        cut = (time >= 5) & (fault != "endless")
        never = jnp.zeros_like(cut)
        step = Step(reward, never, cut, never)
        changes: dict[str, Any] = {
            "reward": {"reward": reward[:, None]},
            "own": {"reward": jnp.stack([reward, reward])},
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
