"""JAX environments that are written for one episode and mapped over many.

See `SingleEnvironment` for the methods that such an object has. Four more are used where it has
them, each a function of the state alone: `legal`, `[K, A]`, by default all actions; `alive`, `[K]`,
by default all; `won`, a truth value, by default never; `global_state`, `[S]`, by default all
observations, one after another.
"""

from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt32

from dm2.envs.adapters.origin import whole
from dm2.envs.base import EnvSpec, Step, TeamView
from dm2.envs.python_env import limit_of
from dm2.errors import InputError

__all__ = ["Mapped", "SingleEnvironment"]


@runtime_checkable
class SingleEnvironment(Protocol):
    """A single environment is one episode of a cooperative task, as pure functions in JAX."""

    num_agents: int
    num_actions: int
    episode_limit: int
    """Steps after which an episode is cut; the environment itself need not count. The option
    `limit` may say it instead."""

    def reset(self, key: UInt32[Array, "2"]) -> Any:
        """Starts an episode and returns its state, a pytree of arrays."""
        ...

    def step(self, key: UInt32[Array, "2"], state: Any, actions: Int[Array, " K"]) -> Any:
        """Returns the state that follows, the reward (one number, or one for each agent), and
        whether the task ended, apart from the time limit."""
        ...

    def observe(self, state: Any) -> Float[Array, "K O"]:
        """Returns what each agent perceives."""
        ...


class MappedState(NamedTuple):
    """The state of `N` episodes; every leaf ends with their axis."""

    env: Any
    """The single environment's own state."""
    time: Int[Array, " N"]
    """Environment steps taken."""


class Mapped:
    """A single environment mapped over `N` episodes, behind the environment contract."""

    def __init__(
        self,
        env: SingleEnvironment | Any,
        name: str,
        limit: int | None = None,
        *,
        individual: bool = False,
    ) -> None:
        """Works out the sizes without running anything.

        Args:
            env: The single environment. One for which a limit is given needs no `episode_limit`.
            name: Its name.
            limit: The episode limit in environment steps; by default its own.
            individual: Whether each agent is paid its own reward, otherwise the agents' mean.

        Raises:
            InputError: If a method raises, what it returns has a wrong shape, or there is no limit.
        """
        self._env, field = env, f"env = {name!r}"
        agents, choices = (_whole(field, env, what) for what in ("num_agents", "num_actions"))
        unasked = limit is None and hasattr(env, "episode_limit")
        own = _whole(field, env, "episode_limit") if unasked else None
        key = jax.eval_shape(lambda: jax.random.PRNGKey(0))
        actions = jax.ShapeDtypeStruct((agents,), jnp.int32)
        state = _traced(field, "reset", env.reset, key)
        if not jax.tree.leaves(state):
            problem = f"reset returned {state!r}, a state without an array"
            raise InputError(f"{field}: {problem}; put one into it, such as the time")
        result = _traced(field, "step", env.step, key, state, actions)
        observations = _traced(field, "observe", env.observe, state)
        _check_step(field, result, state, agents)
        if len(_shape(observations)) != 2 or observations.shape[0] != agents:
            problem = f"observe returned the shape {_shape(observations)}"
            raise InputError(f"{field}: {problem}; return a row of numbers for each agent")
        _check_kind(field, "what observe returned", observations, _NUMBER)
        every = getattr(env, "global_state", self._central)  # the user's own may return anything
        central = _traced(field, "global_state", every, state)
        if len(_shape(central)) != 1:
            problem = f"global_state returned the shape {_shape(central)}"
            raise InputError(f"{field}: {problem}; return a row of numbers")
        _check_kind(field, "what global_state returned", central, _NUMBER)
        for what, wanted in (("legal", (agents, choices)), ("alive", (agents,)), ("won", ())):
            if hasattr(env, what):
                said = _traced(field, what, getattr(env, what), state)
                shape = _shape(said)
                if shape != wanted:
                    raise InputError(f"{field}: {what} returned the shape {shape}; return {wanted}")
                _check_kind(field, f"what {what} returned", said, _TRUTH)
        self.spec = EnvSpec(
            name=name,
            version=f"{type(env).__module__}.{type(env).__qualname__}",
            num_agents=agents,
            observation_size=observations.shape[1],
            num_actions=choices,
            state_size=central.shape[0],
            episode_limit=limit_of(limit, own, field),
            wins=hasattr(env, "won"),
            own_rewards=individual,
        )

    def reset(self, key: UInt32[Array, "2"], num_envs: int) -> MappedState:
        """Starts `num_envs` episodes."""
        keys = jax.random.split(key, num_envs)
        time = jnp.zeros(num_envs, jnp.int32)
        return MappedState(jax.vmap(self._env.reset, out_axes=-1)(keys), time)

    def step(
        self, key: UInt32[Array, "2"], state: MappedState, actions: Int[Array, "K N"]
    ) -> tuple[MappedState, Step]:
        """Takes one step in every episode."""
        keys = jax.random.split(key, actions.shape[-1])
        step = jax.vmap(self._env.step, in_axes=(0, -1, -1), out_axes=-1)
        env, reward, ended = step(keys, state.env, actions)
        time = state.time + 1
        if reward.ndim == 2 and not self.spec.own_rewards:
            reward = jnp.mean(reward, axis=0)
        terminated = ended.astype(bool)
        truncated = (time >= self.spec.episode_limit) & ~terminated
        won = terminated & self._of_state("won", env, jnp.zeros_like(terminated))
        return MappedState(env, time), Step(
            reward=reward.astype(jnp.float32), terminated=terminated, truncated=truncated, won=won
        )

    def observe(self, state: MappedState) -> TeamView:
        """What the teams perceive."""
        observations = jax.vmap(self._env.observe, in_axes=-1, out_axes=1)(state.env)
        every = jnp.ones((*observations.shape[:2], self.spec.num_actions), bool)
        central = jax.vmap(self._central, in_axes=-1)(state.env)
        return TeamView(
            observations=observations.astype(jnp.float32),
            legal=jnp.moveaxis(
                self._of_state("legal", state.env, jnp.moveaxis(every, 1, -1)), -1, 1
            ),
            alive=self._of_state("alive", state.env, every[..., 0]),
            state=central.astype(jnp.float32),
        )

    def _of_state(self, name: str, env: Any, usual: Bool[Array, "*s N"]) -> Bool[Array, "*s N"]:
        """What a method says of the states, else what is usual."""
        if not hasattr(self._env, name):
            return usual
        return jax.vmap(getattr(self._env, name), in_axes=-1, out_axes=-1)(env).astype(bool)

    def _central(self, env: Any) -> Float[Array, " S"]:
        if hasattr(self._env, "global_state"):
            return getattr(self._env, "global_state")(env)  # noqa: B009
        return self._env.observe(env).ravel()


def _traced(field: str, what: str, function: Any, *arguments: Any) -> Any:
    """The shapes of what a method returns. Raises InputError if it raises."""
    try:
        return jax.eval_shape(function, *arguments)
    except (Exception, SystemExit) as error:  # whatever a user's function raises
        said = str(error).splitlines()[0] if str(error) else ""
        raise InputError(f"{field}: {what} raised {type(error).__name__}: {said}") from error


def _check_step(field: str, result: Any, state: Any, agents: int) -> None:
    """Raises InputError unless `step` returns a state, a reward and an end."""
    if not isinstance(result, tuple) or len(result) != 3:
        raise InputError(f"{field}: step must return the state, the reward and whether it ended")
    following, reward, ended = result
    same = jax.tree.structure(following) == jax.tree.structure(state) and all(
        (a.shape, a.dtype) == (b.shape, b.dtype)
        for a, b in zip(jax.tree.leaves(following), jax.tree.leaves(state), strict=True)
    )
    if not same:
        problem = "step returned a state of other shapes or types than reset"
        raise InputError(f"{field}: {problem}; return {state}")
    if _shape(reward) not in ((), (agents,)):
        problem = f"step returned a reward of shape {_shape(reward)}"
        raise InputError(f"{field}: {problem}; return one number, or one for each agent")
    if _shape(ended) != ():
        problem = f"step's end has the shape {_shape(ended)}"
        raise InputError(f"{field}: {problem}; return one truth value")
    _check_kind(field, "step's reward", reward, _NUMBER)
    _check_kind(field, "step's end", ended, _TRUTH)


_TRUTH = ("truth values", (jnp.bool_, jnp.integer))
_NUMBER = ("real numbers", (jnp.bool_, jnp.integer, jnp.floating))


def _check_kind(field: str, what: str, value: Any, wanted: tuple[str, tuple[Any, ...]]) -> None:
    """Raises InputError unless what a method returned is of one of the wanted types."""
    words, kinds = wanted
    if not any(jnp.issubdtype(value.dtype, kind) for kind in kinds):
        raise InputError(f"{field}: {what} has the type {value.dtype}; return {words}")


def _shape(value: Any) -> Any:
    """The shape of what a method returned; of what is no array, its type."""
    return getattr(value, "shape", type(value).__name__)


def _whole(field: str, env: Any, name: str) -> int:
    """A number of the environment's. Raises InputError unless it is a whole one above 0."""
    value = getattr(env, name)
    found = whole(value)
    if found is None:
        raise InputError(f"{field}: {name} = {value!r}: must be a whole number above 0")
    return found
