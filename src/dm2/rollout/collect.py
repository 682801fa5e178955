"""Collecting a rollout to learn from. It knows environments and the protocol of a method, and
nothing of what a method learns."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, UInt32

from dm2.agent.types import Trajectory
from dm2.envs import Environment, TeamView
from dm2.methods.base import Method
from dm2.rollout.stepping import (
    Episodes,
    EpisodeTotals,
    advance,
    for_each_agent,
    reset,
    view_of,
)

__all__ = ["RolloutState", "begin", "collect"]


class RolloutState(NamedTuple):
    """What a rollout leaves for the next one."""

    episodes: Episodes
    memory: Any
    """What the team remembers of them."""


def begin(env: Environment, method: Method, key: UInt32[Array, "2"], num_envs: int) -> RolloutState:
    """Fresh episodes and blank memories."""
    return RolloutState(reset(env, key, num_envs), method.memory(num_envs))


def collect(
    env: Environment,
    method: Method,
    team: Any,
    state: RolloutState,
    key: UInt32[Array, "2"],
    steps: int,
) -> tuple[RolloutState, Trajectory, EpisodeTotals]:
    """Plays `steps` steps in every environment with sampled actions.

    Args:
        env: the environment.
        method: how the team acts.
        team: the method's state.
        state: where the rollout before ended.
        key: decides what is random in the environments; each agent draws from its own key.
        steps: environment steps of each environment.

    Returns:
        The state to go on from, the trajectory, whose leaves are `[K, T, N, ...]` (its memory
        `[K, N, ...]`), and what became of the episodes that ended.
    """
    num_agents, limit = env.spec.num_agents, env.spec.episode_limit

    def central(view: TeamView) -> dict[str, Array]:
        """The global state, for a method that declares that its learning is centralised."""
        return {"global_state": view.state} if method.centralised else {}

    def bootstrap(memory: Any, env_state: Any) -> Any:
        view = env.observe(env_state)
        nowhere = jnp.zeros_like(view.alive[0])
        return method.bootstrap(team, memory, view_of(view, nowhere), **central(view))

    def step(carry: tuple[RolloutState, Any], now: tuple[Array, Array, Array]) -> tuple[Any, Any]:
        (episodes, memory), extras = carry
        time, env_key, agent_keys = now
        team_view = env.observe(episodes.env)
        view = view_of(team_view, episodes.starts)
        memory, actions, new = method.act(
            team, memory, agent_keys, view, greedy=False, **central(team_view)
        )
        following, outcome, reached = advance(env, episodes, actions, env_key)
        cut = jax.lax.cond(
            jnp.any(outcome.truncated),
            lambda: bootstrap(memory, reached),
            lambda: jax.tree.map(jnp.zeros_like, shapes),
        )
        ended = outcome.terminated | outcome.truncated
        fields = {
            "legal": view.legal,
            "alive": view.alive,
            "starts": view.starts,
            "actions": actions,
            "rewards": for_each_agent(outcome.reward, num_agents),
            "next_alive": env.observe(reached).alive,  # the rest is not computed
            "terminated": for_each_agent(outcome.terminated, num_agents),
            "ended": for_each_agent(ended, num_agents),
            "time_left": for_each_agent(limit - episodes.time - 1, num_agents),
        }
        totals = EpisodeTotals(
            jnp.sum(ended),
            jnp.sum(outcome.won & ended),
            jnp.sum(jnp.where(ended, episodes.returns + outcome.reward, 0.0)),
            jnp.sum(jnp.where(ended, episodes.time + 1, 0)),
        )
        extras = _write(extras, new, time)
        return (RolloutState(following, memory), extras), (fields, cut, totals)

    turns = (jnp.arange(steps), jax.random.split(key, steps), method.action_keys(team, steps))
    shapes = jax.eval_shape(lambda: bootstrap(state.memory, state.episodes.env))
    extras = _blank_extras(env, method, team, state, steps)
    before = state.memory
    (state, extras), (fields, cuts, totals) = jax.lax.scan(step, (state, extras), turns)
    fields, cuts = jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), (fields, cuts))
    last = bootstrap(state.memory, state.episodes.env)
    going = ~fields["ended"][:, -1]

    def finish(cuts: Array, last: Array) -> Array:
        return cuts.at[:, -1].set(jnp.where(_like(going, last), last, cuts[:, -1]))

    bootstraps = jax.tree.map(finish, cuts, last)
    trajectory = Trajectory(**fields, extras=extras, bootstrap=bootstraps, memory=before)
    return state, trajectory, jax.tree.map(lambda x: jnp.sum(x, axis=0), totals)


# Extras hold the observations, which are most of a rollout. They are written to where learning
# reads them, agents first: to move an axis afterwards is to copy all of it.


def _blank_extras(
    env: Environment, method: Method, team: Any, state: RolloutState, steps: int
) -> Any:
    """Zeros `[K, T, N, ...]` in the shape of all that `act` will keep."""

    def one_step() -> Any:
        view = env.observe(state.episodes.env)
        central = {"global_state": view.state} if method.centralised else {}
        keys = method.action_keys(team, 1)[0]
        own = view_of(view, state.episodes.starts)
        return method.act(team, state.memory, keys, own, greedy=False, **central)[2]

    shapes = jax.eval_shape(one_step)
    return jax.tree.map(lambda x: jnp.zeros((x.shape[0], steps, *x.shape[1:]), x.dtype), shapes)


def _write(extras: Any, new: Any, time: Array) -> Any:
    def one(rows: Array, row: Array) -> Array:
        return jax.lax.dynamic_update_index_in_dim(rows, row, time, axis=1)

    return jax.tree.map(one, extras, new)


def _like(flags: Array, values: Array) -> Array:
    """Flags `[K, N]` with as many axes as the values `[K, N, ...]`."""
    return flags.reshape(*flags.shape, *(1,) * (values.ndim - flags.ndim))
