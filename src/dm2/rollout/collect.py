"""Collecting a rollout to learn from. It knows environments and the protocol of a method, and
nothing of what a method learns."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt32

from dm2.agent.types import Trajectory, View
from dm2.envs import Environment, Step, TeamView
from dm2.methods.base import Method
from dm2.rollout.stepping import (
    Episodes,
    EpisodeTotals,
    advance,
    for_each_agent,
    reset,
    team_reward,
    view_of,
)

__all__ = ["RolloutState", "begin", "collect"]


class RolloutState(NamedTuple):
    """What a rollout leaves for the next one."""

    episodes: Episodes
    memory: Any
    """What the team remembers of them."""


def begin(env: Environment, method: Method, key: UInt32[Array, "2"], num_envs: int) -> RolloutState:
    """Fresh episodes and blank memories.

    Args:
        env: The environment.
        method: Makes the memories.
        key: Decides how episodes begin.
        num_envs: Environments side by side, `N`.

    Returns:
        The state from which the first rollout goes on. Its episodes' arrays are `[N]`, its memory
        as of the method, `[K, N, ...]` where agents remember apart.
    """
    return RolloutState(reset(env, key, num_envs), method.memory(num_envs))


def collect(
    env: Environment,
    method: Method,
    agents: Any,
    state: RolloutState,
    key: UInt32[Array, "2"],
    steps: int,
    progress: Float[Array, ""] | float = 0.0,
) -> tuple[RolloutState, Trajectory, EpisodeTotals]:
    """Plays `steps` steps in every environment with sampled actions.

    Args:
        env: The environment.
        method: How the team acts.
        agents: The method's state.
        state: Where the rollout before ended.
        key: Decides what is random in the environments; each agent draws from its own key.
        steps: Environment steps of each environment.
        progress: Share of the run that is over, which schedules go by.

    Returns:
        The state to go on from, the trajectory, whose leaves are `[K, T, N, ...]` (its memory
        `[K, N, ...]`, its progress `[K]`), and what became of the episodes that ended. Leaves of
        what the method's `act` and `bootstrap` return may lead with 1 in place of `K`: the team
        shares them.
    """

    def central(view: TeamView) -> dict[str, Array]:
        """The global state, for a method that declares that its learning is centralised."""
        return {"global_state": view.state} if method.centralised else {}

    def act(state: RolloutState, keys: Array) -> tuple[View, Any, Array, Any]:
        """What the agents perceive; what they then remember, do, and keep for learning."""
        view = env.observe(state.episodes.env)
        own = view_of(view, state.episodes.starts)
        return own, *method.act(agents, state.memory, keys, own, greedy=False, **central(view))

    def bootstrap(memory: Any, env_state: Any) -> Any:
        view = env.observe(env_state)
        nowhere = jnp.zeros_like(view.alive[0])
        return method.bootstrap(agents, memory, view_of(view, nowhere), **central(view))

    # What `act` keeps holds the observations, which are most of a rollout. It is written to where
    # learning reads it, agents first: to move an axis afterwards is to copy all of it.
    kept = jax.eval_shape(lambda: act(state, method.action_keys(agents, 1)[0])[3])
    blank = jax.tree.map(lambda x: jnp.zeros((x.shape[0], steps, *x.shape[1:]), x.dtype), kept)
    uncut = jax.eval_shape(lambda: bootstrap(state.memory, state.episodes.env))

    def step(carry: tuple[RolloutState, Any], now: tuple[Array, Array, Array]) -> tuple[Any, Any]:
        state, extras = carry
        time, env_key, agent_keys = now
        view, memory, actions, new = act(state, agent_keys)
        following, outcome, reached = advance(env, state.episodes, actions, env_key)
        if method.shares_reward:
            outcome = outcome._replace(reward=team_reward(outcome))
        cut = jax.lax.cond(
            jnp.any(outcome.truncated),
            lambda: bootstrap(memory, reached),
            lambda: jax.tree.map(jnp.zeros_like, uncut),
        )
        next_alive = env.observe(reached).alive  # the rest is not computed
        fields = _fields(env, state.episodes, view, actions, outcome, next_alive)
        rows = (fields, cut, _totals(state.episodes, outcome))
        return (RolloutState(following, memory), _write(extras, new, time)), rows

    before = state.memory
    turns = (jnp.arange(steps), jax.random.split(key, steps), method.action_keys(agents, steps))
    (state, extras), (fields, cuts, totals) = jax.lax.scan(step, (state, blank), turns)
    fields, cuts = jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), (fields, cuts))
    last = bootstrap(state.memory, state.episodes.env)
    going = ~fields["ended"][:, -1]

    def finish(cuts: Array, last: Array) -> Array:
        # What the team shares has one row; episodes end for all agents together.
        mine = _like(going[: len(last)], last)
        return cuts.at[:, -1].set(jnp.where(mine, last, cuts[:, -1]))

    cuts = jax.tree.map(finish, cuts, last)
    progress = for_each_agent(jnp.asarray(progress, jnp.float32), env.spec.num_agents)
    trajectory = Trajectory(
        **fields, extras=extras, bootstrap=cuts, memory=before, progress=progress
    )
    return state, trajectory, jax.tree.map(lambda x: jnp.sum(x, axis=0), totals)


def _fields(
    env: Environment,
    episodes: Episodes,
    view: View,
    actions: Int[Array, "K N"],
    outcome: Step,
    next_alive: Bool[Array, "K N"],
) -> dict[str, Array]:
    """What a trajectory holds of one step: facts of the environment, `[K, N, ...]`."""
    for_each = functools.partial(for_each_agent, num_agents=env.spec.num_agents)
    return {
        "legal": view.legal,
        "alive": view.alive,
        "starts": view.starts,
        "actions": actions,
        "rewards": outcome.reward if outcome.reward.ndim == 2 else for_each(outcome.reward),
        "next_alive": next_alive,
        "terminated": for_each(outcome.terminated),
        "ended": for_each(outcome.terminated | outcome.truncated),
        "time_left": for_each(env.spec.episode_limit - episodes.time - 1),
    }


def _totals(episodes: Episodes, outcome: Step) -> EpisodeTotals:
    """Sums over the episodes that end with one step."""
    ended = outcome.terminated | outcome.truncated
    return EpisodeTotals(
        jnp.sum(ended),
        jnp.sum(outcome.won & ended),
        jnp.sum(jnp.where(ended, episodes.returns + team_reward(outcome), 0.0)),
        jnp.sum(jnp.where(ended, episodes.time + 1, 0)),
    )


def _write(extras: Any, new: Any, time: Array) -> Any:
    def one(rows: Array, row: Array) -> Array:
        return jax.lax.dynamic_update_index_in_dim(rows, row, time, axis=1)

    return jax.tree.map(one, extras, new)


def _like(flags: Array, values: Array) -> Array:
    """Flags `[K, N]` with as many axes as the values `[K, N, ...]`."""
    return flags.reshape(*flags.shape, *(1,) * (values.ndim - flags.ndim))
