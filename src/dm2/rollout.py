"""Stepping a batch of environments with a team: the one place where agents meet."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt32

from dm2.agent.networks import mask_logits, normalise
from dm2.agent.state import AgentState, Carry, Trajectory
from dm2.envs.base import Environment, Observation, Step
from dm2.team import Team

__all__ = [
    "Episodes",
    "Outcome",
    "Recording",
    "RolloutState",
    "Worlds",
    "collect",
    "play",
    "random_legal",
    "random_steps",
    "start",
]


class Worlds(NamedTuple):
    """`N` environments in progress."""

    env: Any
    """The environments' state; every leaf ends with `N`."""
    starts: Bool[Array, " N"]
    """An episode opens here."""
    time: Int[Array, " N"]
    """Steps taken in the episode."""
    returns: Float[Array, " N"]
    """Undiscounted team reward of the episode so far."""


class RolloutState(NamedTuple):
    """What a rollout leaves for the next one."""

    worlds: Worlds
    carry: Carry


class Episodes(NamedTuple):
    """Sums over the episodes that ended in a rollout."""

    count: Int[Array, ""]
    won: Int[Array, ""]
    returns: Float[Array, ""]
    length: Int[Array, ""]


class Recording(NamedTuple):
    """Complete episodes, one per environment, padded to `T` steps."""

    local: Float[Array, "T K N O"]
    legal: Bool[Array, "T K N A"]
    alive: Bool[Array, "T K N"]
    actions: Int[Array, "T K N"]
    env: Any = None
    """Environment states `[T, ..., N]` that each step led to, before any reset; None if not asked
    for."""
    returns: Float[Array, "T N"] | None = None
    """Undiscounted return up to and with each step; None if `env` is."""
    first: Any = None
    """The environment states `[..., N]` in which the episodes began; None if not asked for."""


def _reset(env: Environment, key: UInt32[Array, "2"], num_envs: int) -> Worlds:
    starts = jnp.ones(num_envs, bool)
    time = jnp.zeros(num_envs, jnp.int32)
    return Worlds(env.reset(key, num_envs), starts, time, jnp.zeros(num_envs))


def start(env: Environment, team: Team, key: UInt32[Array, "2"], num_envs: int) -> RolloutState:
    """Fresh environments and blank memories."""
    return RolloutState(_reset(env, key, num_envs), team.initial_carry(num_envs))


def _per_agent(x: Array, num_agents: int) -> Array:
    """A fact shared by the team, `[N]` to `[K, N]`."""
    return jnp.broadcast_to(x, (num_agents, *x.shape))


def _advance(
    env: Environment, worlds: Worlds, actions: Int[Array, "K N"], key: UInt32[Array, "2"]
) -> tuple[Worlds, Step, Any]:
    """One step of every environment, then a reset of those whose episode ended.

    Returns what to go on from, the outcome, and the environment states before any reset.
    """
    step_key, reset_key = jax.random.split(key)
    state, step = env.step(step_key, worlds.env, actions)
    ended = step.terminated | step.truncated
    going = Worlds(state, jnp.zeros_like(ended), worlds.time + 1, worlds.returns + step.reward)

    def restart(worlds: Worlds) -> Worlds:
        fresh = _reset(env, reset_key, actions.shape[1])
        return jax.tree.map(lambda new, old: jnp.where(ended, new, old), fresh, worlds)

    return jax.lax.cond(jnp.any(ended), restart, lambda worlds: worlds, going), step, state


def collect(
    env: Environment, team: Team, agents: AgentState, state: RolloutState, key, steps: int
) -> tuple[RolloutState, Trajectory, Episodes]:
    """Play `steps` steps in every environment, acting stochastically.

    Returns the state to go on from, the trajectory (all leaves `[K, T, N, ...]`) and what became
    of the episodes that ended.
    """
    num_agents, limit = env.spec.num_agents, env.spec.episode_limit
    room = jnp.zeros((num_agents, steps, len(state.worlds.time), env.spec.observation_size))
    # What is large is written to where it belongs: to move an axis afterwards is to copy it all.
    views = {"inputs": room} | ({"observations": room} if team.learner.imitator else {})

    def bootstrap(carry: Carry, seen: Observation) -> Float[Array, "K N"]:
        blank = jnp.zeros_like(seen.alive)
        _, value = team.value(agents, carry.critic, seen.local, blank)
        return jnp.where(seen.alive, value, carry.value)

    def step(loop, now):
        state: RolloutState = loop[0]
        worlds, carry = state
        time, env_key, agent_keys = now
        local, legal, alive, _ = env.observe(worlds.env)
        starts = _per_agent(worlds.starts, num_agents)
        carry, actions, log_probs = team.act(agents, agent_keys, carry, local, legal, alive, starts)
        following, outcome, arrived = _advance(env, worlds, actions, env_key)
        cut = jax.lax.cond(
            jnp.any(outcome.truncated),
            lambda: bootstrap(carry, env.observe(arrived)),
            lambda: jnp.zeros_like(carry.value),
        )
        ended = outcome.terminated | outcome.truncated
        row = {
            "legal": legal,
            "alive": alive,
            "starts": starts,
            "actions": actions,
            "log_probs": log_probs,
            "values": carry.value,
            "next_values": cut,
            "next_alive": env.observe(arrived).alive,  # the rest is not computed
            "rewards": _per_agent(outcome.reward, num_agents),
            "terminated": _per_agent(outcome.terminated, num_agents),
            "ended": _per_agent(ended, num_agents),
            "time_left": _per_agent(limit - worlds.time - 1, num_agents),
        }
        episodes = Episodes(
            jnp.sum(ended),
            jnp.sum(outcome.won & ended),
            jnp.sum(jnp.where(ended, worlds.returns + outcome.reward, 0.0)),
            jnp.sum(jnp.where(ended, worlds.time + 1, 0)),
        )
        local = local.astype(jnp.float32)
        # `act` normalises them, too; XLA does it once.
        new = {"inputs": normalise(local), "observations": local}
        views = {
            name: jax.lax.dynamic_update_index_in_dim(rows, new[name], time, axis=1)
            for name, rows in loop[1].items()
        }
        return (RolloutState(following, carry), views), (row, episodes)

    env_keys = jax.random.split(key, steps)
    agent_keys = jnp.moveaxis(team.action_keys(agents, steps), 1, 0)
    turns = (jnp.arange(steps), env_keys, agent_keys)
    (state, views), (rows, episodes) = jax.lax.scan(step, (state, views), turns)
    last = bootstrap(state.carry, env.observe(state.worlds.env))
    following = jnp.concatenate([rows["values"][1:], last[None]])
    rows["next_values"] = jnp.where(rows["ended"], rows["next_values"], following)
    trajectory = Trajectory(**{name: jnp.moveaxis(x, 1, 0) for name, x in rows.items()}, **views)
    return state, trajectory, jax.tree.map(lambda x: jnp.sum(x, axis=0), episodes)


class Outcome(NamedTuple):
    """The result of `N` complete episodes."""

    won: Bool[Array, " N"]
    returns: Float[Array, " N"]
    length: Int[Array, " N"]


def play(
    env: Environment,
    team: Team,
    agents: AgentState,
    key: UInt32[Array, "2"],
    episodes: int,
    *,
    greedy: bool,
    record: bool = False,
    record_env: bool = False,
) -> tuple[Outcome, Recording | None]:
    """Play exactly one episode in each of `episodes` environments, to its end.

    Counting the first episode of each environment, whole, keeps short episodes from being
    over-represented. With `record` all `episode_limit` steps are run and kept; rows past an
    episode's length are padding. With `record_env` the environment states are kept too.
    """
    num_agents, limit = env.spec.num_agents, env.spec.episode_limit
    reset_key, act_key, env_key = jax.random.split(key, 3)
    worlds = _reset(env, reset_key, episodes)
    memory = team.initial_carry(episodes).actor
    outcome = Outcome(
        jnp.zeros(episodes, bool), jnp.zeros(episodes), jnp.zeros(episodes, jnp.int32)
    )
    over = jnp.zeros(episodes, bool)

    def step(carry, time):
        worlds: Worlds = carry[0]
        memory: Array = carry[1]
        outcome: Outcome = carry[2]
        over: Array = carry[3]
        seen = env.observe(worlds.env)
        starts = _per_agent(worlds.starts, num_agents)
        memory, logits = team.policy(agents, memory, seen.local, starts)
        logits = mask_logits(logits, seen.legal)
        sample = jax.random.categorical(jax.random.fold_in(act_key, time), logits)
        actions = jnp.argmax(logits, axis=-1) if greedy else sample
        following, result, arrived = _advance(
            env, worlds, actions, jax.random.fold_in(env_key, time)
        )
        ended = (result.terminated | result.truncated) & ~over
        outcome = Outcome(
            jnp.where(ended, result.won, outcome.won),
            jnp.where(ended, worlds.returns + result.reward, outcome.returns),
            jnp.where(ended, worlds.time + 1, outcome.length),
        )
        kept = Recording(seen.local, seen.legal, seen.alive, actions)
        if record_env:
            kept = kept._replace(env=arrived, returns=worlds.returns + result.reward)
        return (following, memory, outcome, over | ended), kept

    first = worlds.env if record_env else None
    carry = (worlds, memory, outcome, over)
    if record:
        (_, _, outcome, _), kept = jax.lax.scan(step, carry, jnp.arange(limit))
        return outcome, kept._replace(first=first)

    def unfinished(loop):
        (_, _, _, over), time = loop
        return ~jnp.all(over) & (time < limit)

    def body(loop):
        carry, time = loop
        return step(carry, time)[0], time + 1

    ((_, _, outcome, _), _) = jax.lax.while_loop(unfinished, body, (carry, 0))
    return outcome, None


def random_legal(key: UInt32[Array, "2"], legal: Bool[Array, "*B A"]) -> Int[Array, "*B"]:
    """A legal action, each with the same chance, for one random number a row."""
    count = jnp.cumsum(legal, axis=-1)
    draw = jax.random.uniform(key, legal.shape[:-1])
    rank = jnp.floor(draw * count[..., -1])
    return jnp.sum(count <= rank[..., None], axis=-1)


def random_steps(
    env: Environment, key: UInt32[Array, "2"], num_envs: int, steps: int
) -> tuple[Worlds, Observation]:
    """Step environments with uniformly random legal actions: the simulator alone, observations
    (but for the global state) included. Returns where they are and what is seen there."""

    def step(carry: tuple[Worlds, Observation], key: UInt32[Array, "2"]):
        worlds, seen = carry
        act_key, env_key = jax.random.split(key)
        actions = random_legal(act_key, seen.legal)
        worlds, _, _ = _advance(env, worlds, actions, env_key)
        return (worlds, observe(worlds)), None

    def observe(worlds: Worlds) -> Observation:
        return env.observe(worlds.env)._replace(state=jnp.zeros((num_envs, 0)))

    reset_key, steps_key = jax.random.split(key)
    worlds = _reset(env, reset_key, num_envs)
    carry = (worlds, observe(worlds))
    return jax.lax.scan(step, carry, jax.random.split(steps_key, steps))[0]
