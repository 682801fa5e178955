"""Playing whole episodes: to evaluate a team, to record it, to film it."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt32

from dm2.envs import Environment
from dm2.methods.base import Method
from dm2.rollout.stepping import Episodes, advance, reset, view_of

__all__ = ["Outcome", "Recording", "play"]


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
    method: Method,
    team: Any,
    key: UInt32[Array, "2"],
    episodes: int,
    *,
    greedy: bool,
    record: bool = False,
    record_env: bool = False,
) -> tuple[Outcome, Recording | None]:
    """Plays exactly one episode in each of `episodes` environments, to its end.

    Counting the first episode of each environment, whole, keeps short episodes from being
    over-represented. Agents act as in training, by `Method.act`; agent `k` draws from a key of
    its own, `fold_in(fold_in(key, k), t)` at step `t` with the key that is left for actions.

    Args:
        env: the environment.
        method: how the team acts.
        team: the method's state.
        key: decides all that is random.
        episodes: how many episodes are played, side by side.
        greedy: whether agents take their most likely actions; otherwise they sample.
        record: whether to keep what happens. Then all `episode_limit` steps are run; the rows
            past an episode's length are padding.
        record_env: whether to keep the environments' states too.

    Returns:
        The outcome, and the recording if one was asked for.
    """
    limit = env.spec.episode_limit
    reset_key, act_key, env_key = jax.random.split(key, 3)
    own_keys = jax.vmap(lambda agent: jax.random.fold_in(act_key, agent))(
        jnp.arange(method.num_agents)
    )
    begun = reset(env, reset_key, episodes)
    outcome = Outcome(
        jnp.zeros(episodes, bool), jnp.zeros(episodes), jnp.zeros(episodes, jnp.int32)
    )
    over = jnp.zeros(episodes, bool)

    def step(carry: tuple[Episodes, Any, Outcome, Array], time: Array) -> tuple[Any, Recording]:
        running, memory, outcome, over = carry
        view = view_of(env.observe(running.env), running.starts)
        keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(own_keys, time)
        memory, actions, _ = method.act(team, memory, keys, view, greedy=greedy)
        following, result, reached = advance(
            env, running, actions, jax.random.fold_in(env_key, time)
        )
        ended = (result.terminated | result.truncated) & ~over
        outcome = Outcome(
            jnp.where(ended, result.won, outcome.won),
            jnp.where(ended, running.returns + result.reward, outcome.returns),
            jnp.where(ended, running.time + 1, outcome.length),
        )
        kept = Recording(view.observations, view.legal, view.alive, actions)
        if record_env:
            kept = kept._replace(env=reached, returns=running.returns + result.reward)
        return (following, memory, outcome, over | ended), kept

    carry = (begun, method.memory(episodes), outcome, over)
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
