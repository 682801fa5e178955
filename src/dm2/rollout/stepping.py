"""Stepping a batch of environments: episodes in progress, and how they end and begin."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt32

from dm2.agent.types import View
from dm2.envs import Environment, HostEnvironment, Step, TeamView

__all__ = [
    "EpisodeTotals",
    "Episodes",
    "advance",
    "for_each_agent",
    "random_legal",
    "random_steps",
    "reset",
    "team_reward",
    "view_of",
]


class Episodes(NamedTuple):
    """`N` episodes in progress, one in each environment."""

    env: Any
    """The environments' state; every leaf ends with `N`."""
    starts: Bool[Array, " N"]
    """Whether the episode begins here."""
    time: Int[Array, " N"]
    """Environment steps taken in the episode."""
    returns: Float[Array, " N"]
    """Undiscounted team reward of the episode so far."""


class EpisodeTotals(NamedTuple):
    """Sums over the episodes that ended in a rollout."""

    ended: Int[Array, ""]
    """How many there were."""
    won: Int[Array, ""]
    returns: Float[Array, ""]
    """Of the undiscounted team reward."""
    length: Int[Array, ""]
    """Of the environment steps."""


def reset(env: Environment, key: UInt32[Array, "2"], num_envs: int) -> Episodes:
    """A fresh episode in each of `num_envs` environments."""
    starts = jnp.ones(num_envs, bool)
    time = jnp.zeros(num_envs, jnp.int32)
    return Episodes(env.reset(key, num_envs), starts, time, jnp.zeros(num_envs))


def advance(
    env: Environment, episodes: Episodes, actions: Int[Array, "K N"], key: UInt32[Array, "2"]
) -> tuple[Episodes, Step, Any]:
    """One step of every environment, then a reset of those whose episode ended.

    Returns:
        The episodes to go on with, the outcome of the step, and the environments' states that it
        led to, before any reset.
    """
    step_key, reset_key = jax.random.split(key)
    state, step = env.step(step_key, episodes.env, actions)
    ended = step.terminated | step.truncated
    going = Episodes(
        state, jnp.zeros_like(ended), episodes.time + 1, episodes.returns + team_reward(step)
    )

    def restart(episodes: Episodes) -> Episodes:
        if isinstance(env, HostEnvironment):  # its states are no values that one can choose from
            begun = env.restart(reset_key, episodes.env, ended)
            left = (jnp.where(ended, 0, x) for x in (episodes.time, episodes.returns))
            return Episodes(begun, ended, *left)
        fresh = reset(env, reset_key, actions.shape[1])
        return jax.tree.map(lambda new, old: jnp.where(ended, new, old), fresh, episodes)

    return jax.lax.cond(jnp.any(ended), restart, lambda episodes: episodes, going), step, state


def for_each_agent(x: Array, num_agents: int) -> Array:
    """A fact that the team shares, `[N]`, as each agent's own, `[K, N]`."""
    return jnp.broadcast_to(x, (num_agents, *x.shape))


def team_reward(step: Step) -> Float[Array, " N"]:
    """The reward that the team shares, the mean where each agent is paid its own."""
    return step.reward if step.reward.ndim == 1 else jnp.mean(step.reward, axis=0)


def view_of(view: TeamView, starts: Bool[Array, " N"]) -> View:
    """What the agents may act on, `[K, ...]`: all that the team perceives but the global state."""
    starts = for_each_agent(starts, len(view.alive))
    return View(view.observations, view.legal, view.alive, starts)


def random_legal(key: UInt32[Array, "2"], legal: Bool[Array, "*B A"]) -> Int[Array, "*B"]:
    """A legal action, each with the same chance, for one random number a row."""
    count = jnp.cumsum(legal, axis=-1)
    draw = jax.random.uniform(key, legal.shape[:-1])
    rank = jnp.floor(draw * count[..., -1])
    return jnp.sum(count <= rank[..., None], axis=-1)


def random_steps(
    env: Environment, key: UInt32[Array, "2"], num_envs: int, steps: int
) -> tuple[Episodes, TeamView]:
    """Steps environments with uniformly random legal actions: the simulator alone, observations
    (but for the global state) included.

    Returns:
        The episodes after `steps` environment steps each, and what the teams perceive there.
    """

    def step(carry: tuple[Episodes, TeamView], key: UInt32[Array, "2"]):
        episodes, view = carry
        act_key, env_key = jax.random.split(key)
        actions = random_legal(act_key, view.legal)
        episodes, _, _ = advance(env, episodes, actions, env_key)
        return (episodes, observe(episodes)), None

    def observe(episodes: Episodes) -> TeamView:
        return env.observe(episodes.env)._replace(state=jnp.zeros((num_envs, 0)))

    reset_key, steps_key = jax.random.split(key)
    episodes = reset(env, reset_key, num_envs)
    carry = (episodes, observe(episodes))
    return jax.lax.scan(step, carry, jax.random.split(steps_key, steps))[0]
