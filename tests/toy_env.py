"""A tiny environment whose every number can be checked by hand, and helpers; no test itself.

Three agents, three actions. An episode is named by an integer drawn from the reset key, and
`name % 3` decides its fate (`LENGTH`, `WON`, `DEATH`). Observations say who, when, which episode
and what the team did last, so a row of a trajectory proves what it belongs to. Everything after
the reset is deterministic, and every number is exact in float32.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, UInt32

from dm2.agent.state import AgentState
from dm2.envs import Environment, EnvSpec, Step, TeamView
from dm2.methods.independent import Independent

LIMIT = 6
LENGTH = (2, 3, LIMIT)
"""Steps of an episode by fate: lost, won, truncated."""
WON = (False, True, False)
DEATH = ((2, 1, 2), (9, 2, 9), (9, 9, 3))
"""By fate and agent: the first time at which the agent is dead."""
NAMES, CODES = 64, 32


class ToyState(NamedTuple):
    """`code`: the joint action that led here, `a0 + 3 a1 + 9 a2`, dead agents' actions as 0."""

    name: Int[Array, " N"]
    time: Int[Array, " N"]
    code: Int[Array, " N"]


class ToyEnv:
    """`name`: of every episode; by default it is drawn from the reset key."""

    spec = EnvSpec("toy", "1", 3, 4, 3, 3, LIMIT)

    def __init__(self, name: int | None = None) -> None:
        self.name = name

    def reset(self, key: UInt32[Array, "2"], num_envs: int) -> ToyState:
        """Begin episodes."""
        drawn = jax.random.randint(key, (num_envs,), 0, NAMES)
        name = drawn if self.name is None else jnp.full_like(drawn, self.name)
        return ToyState(name, jnp.zeros_like(drawn), jnp.zeros_like(drawn))

    def step(
        self, key: UInt32[Array, "2"], state: ToyState, actions: Int[Array, "K N"]
    ) -> tuple[ToyState, Step]:
        """One step; the reward is `27 time + code`, never an ending."""
        counted = jnp.where(_alive(state), actions, 0).astype(jnp.int32)
        code = jnp.sum(counted * jnp.array([[1], [3], [9]]), axis=0)
        following = ToyState(state.name, state.time + 1, code)
        fate = state.name % 3
        over = following.time >= jnp.array(LENGTH)[fate]
        return following, Step(
            reward=(27 * state.time + code).astype(jnp.float32),
            terminated=over & (fate != 2),
            truncated=over & (fate == 2),
            won=over & jnp.array(WON)[fate],
        )

    def observe(self, state: ToyState) -> TeamView:
        """Who, when, which episode, what was done last; the state: the last three."""
        agents, alive = jnp.arange(3), _alive(state)
        shared = jnp.stack([state.time, state.name / NAMES, state.code / CODES], axis=1)
        who = jnp.broadcast_to(agents[:, None, None], (*alive.shape, 1))
        observations = jnp.concatenate([who, jnp.tile(shared, (3, 1, 1))], axis=2)
        # A living agent has two legal actions, a dead one only the first.
        forbidden = (agents[:, None] + state.time)[..., None] % 3 == agents
        legal = jnp.where(alive[..., None], ~forbidden, agents == 0)
        return TeamView(observations.astype(jnp.float32), legal, alive, shared.astype(jnp.float32))


def _alive(state: ToyState) -> Bool[Array, "K N"]:
    return state.time < jnp.array(DEATH)[state.name % 3].T


class Compiled(NamedTuple):
    """The functions of an environment."""

    reset: Callable
    step: Callable
    observe: Callable


@functools.cache
def compiled(env: Environment) -> Compiled:
    """Compiled once. Called as they are, each of their hundred operations would be."""
    reset = jax.jit(env.reset, static_argnums=1)
    return Compiled(reset, jax.jit(env.step), jax.jit(env.observe))


POSITIVE = (".scale.second", ".scale.weight", ".moments.variance", ".moments.steps", ".balance")


def random_agents(team: Independent, seed: int) -> AgentState:
    """Agents in the middle of training, every number random. Real ones take long to compile."""
    rng = np.random.default_rng(seed)

    def fill(path, leaf):
        if leaf.dtype == jnp.float32:
            positive = jax.tree_util.keystr(path).startswith(POSITIVE)
            positive |= ".nu" in jax.tree_util.keystr(path)
            values = rng.normal(0.5 * positive, 0.5, leaf.shape).astype(np.float32)
            return jnp.asarray(np.abs(values) if positive else values)
        return jnp.asarray(rng.integers(1, 1000, leaf.shape), leaf.dtype)

    shapes = jax.eval_shape(team.init, jax.random.PRNGKey(0))
    return jax.tree_util.tree_map_with_path(fill, shapes)
