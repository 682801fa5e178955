"""Playing whole episodes: to evaluate a team, to record it, to film it."""

from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt32

from dm2.agent.types import View
from dm2.envs import Environment
from dm2.rollout.stepping import Episodes, advance, random_legal, reset, team_reward, view_of

__all__ = ["Outcome", "Players", "Recording", "play"]


@runtime_checkable
class Players(Protocol):
    """The players are the part of a `dm2.methods.base.Method` that acts. Whatever has this part
    can be evaluated and recorded, also a team that never learns together."""

    num_agents: int

    def memory(self, num_envs: int) -> Any:
        """See `Method.memory`."""
        ...

    def act(
        self, state: Any, memory: Any, keys: UInt32[Array, "K 2"], view: View, greedy: bool
    ) -> tuple[Any, Int[Array, "K N"], Any]:
        """See `Method.act`."""
        ...


class Outcome(NamedTuple):
    """The results of `N` whole episodes."""

    won: Bool[Array, " N"]
    returns: Float[Array, " N"]
    """Undiscounted team reward."""
    length: Int[Array, " N"]
    """Environment steps."""

    def means(self, wins: bool) -> dict[str, float | None]:
        """`win_rate`, `mean_return` and `mean_length` of the episodes. Where there are no `wins`,
        the win rate is None."""
        return {
            "win_rate": float(np.mean(self.won)) if wins else None,
            "mean_return": float(np.mean(self.returns)),
            "mean_length": float(np.mean(self.length)),
        }


class Recording(NamedTuple):
    """Whole episodes, one per environment, padded to `T` steps."""

    observations: Float[Array, "T K N O"]
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


def play(
    env: Environment,
    players: Players,
    agents: Any,
    key: UInt32[Array, "2"],
    episodes: int,
    *,
    greedy: bool,
    epsilon: Float[Array, "*K"] | float | None = None,
    record: bool = False,
    record_env: bool = False,
) -> tuple[Outcome, Recording | None]:
    """Plays exactly one episode in each of `episodes` environments, to its end.

    Counting the first episode of each environment, whole, keeps short episodes from being
    over-represented. Agents act as in training, by `Method.act`; agent `k` draws from a key of
    its own, `fold_in(fold_in(act_key, k), t)` at step `t`, where `act_key` comes of `key`.

    Args:
        env: The environment.
        players: How the team acts.
        agents: Their state.
        key: Decides all that is random.
        episodes: How many episodes are played, side by side.
        greedy: Whether agents take their most likely actions; otherwise they sample.
        epsilon: The probability with which each agent by itself takes a uniformly random legal
            action in place of its own, one number or one for each agent, `[K]`. With the same
            `key`, an agent that does so in some state at one probability also does so, by the same
            action, at any higher one.
        record: Whether to keep what happens. Then all `episode_limit` steps are run; the rows past
            an episode's length are padding.
        record_env: Whether to keep the environments' states too.

    Returns:
        The outcome, and the recording if one was asked for.
    """
    limit = env.spec.episode_limit
    reset_key, act_key, env_key = jax.random.split(key, 3)
    own_keys = jax.vmap(lambda agent: jax.random.fold_in(act_key, agent))(
        jnp.arange(players.num_agents)
    )
    # No step has the number of the limit, so this stream is none of those that agents act by.
    explore_keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(own_keys, limit)
    begun = reset(env, reset_key, episodes)
    outcome = Outcome(
        jnp.zeros(episodes, bool), jnp.zeros(episodes), jnp.zeros(episodes, jnp.int32)
    )
    over = jnp.zeros(episodes, bool)

    def step(carry: tuple[Episodes, Any, Outcome, Array], time: Array) -> tuple[Any, Recording]:
        running, memory, outcome, over = carry
        view = view_of(env.observe(running.env), running.starts)
        keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(own_keys, time)
        allowed = view
        if epsilon is not None:
            chances = jnp.broadcast_to(jnp.asarray(epsilon), (players.num_agents,))
            drawn = jax.vmap(jax.random.fold_in, in_axes=(0, None))(explore_keys, time)
            allowed = view._replace(legal=jax.vmap(_explore)(drawn, chances, view.legal))
        memory, actions, _ = players.act(agents, memory, keys, allowed, greedy=greedy)
        following, result, reached = advance(
            env, running, actions, jax.random.fold_in(env_key, time)
        )
        ended = (result.terminated | result.truncated) & ~over
        outcome = Outcome(
            jnp.where(ended, result.won, outcome.won),
            jnp.where(ended, running.returns + team_reward(result), outcome.returns),
            jnp.where(ended, running.time + 1, outcome.length),
        )
        kept = Recording(view.observations, view.legal, view.alive, actions)
        if record_env:
            kept = kept._replace(env=reached, returns=running.returns + team_reward(result))
        return (following, memory, outcome, over | ended), kept

    carry = (begun, players.memory(episodes), outcome, over)
    if record:
        (_, _, outcome, _), kept = jax.lax.scan(step, carry, jnp.arange(limit))
        return outcome, kept._replace(first=begun.env if record_env else None)

    def unfinished(loop: tuple[Any, Array]) -> Array:
        (_, _, _, over), time = loop
        return ~jnp.all(over) & (time < limit)

    def body(loop: tuple[Any, Array]) -> tuple[Any, Array]:
        carry, time = loop
        return step(carry, time)[0], time + 1

    ((_, _, outcome, _), _) = jax.lax.while_loop(unfinished, body, (carry, jnp.int32(0)))
    return outcome, None


def _explore(
    key: UInt32[Array, "2"], epsilon: Float[Array, ""], legal: Bool[Array, "N A"]
) -> Bool[Array, "N A"]:
    """The actions that one agent may choose from: in an environment in which it explores, a random
    legal one alone. It is the agent that then takes it, so that an agent that remembers its last
    action remembers what was done."""
    choice_key, explores_key = jax.random.split(key)
    explores = jax.random.uniform(explores_key, legal.shape[:1]) < epsilon
    only = jax.nn.one_hot(random_legal(choice_key, legal), legal.shape[1], dtype=bool)
    return jnp.where(explores[:, None], only, legal)
