"""Environments that are stepped in Python, behind the environment contract.

JAX calls back into this process, which tells the copies to step and hands on what they show. So a
rollout, an evaluation and a recording are the same programs as in any other environment, and all
agents of all copies act in one compiled call.

Two things differ. A copy cannot go back to an earlier state: the contract's states hold what was
perceived, not the copies, and a run that goes on begins its episodes anew. And a copy can fail:
the program then runs to its end with nothing in place of what the copies would show, and whoever
called it asks for the error by `settle`. If it were raised within the program, JAX would put it
into words of its own.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import io_callback
from jaxtyping import Array, Bool, Int, UInt32

from dm2.envs.base import Environment, EnvSpec, Step, TeamView
from dm2.envs.python_env import Recipe, Sizes, limit_of
from dm2.envs.workers import Group, InProcesses, fields, words_of
from dm2.errors import EnvError

__all__ = ["HostEnvironment", "HostState", "settled"]

_PERCEIVED = TeamView._fields
_OUTCOME = ("rewards", "terminated", "truncated", "won")


class HostState(NamedTuple):
    """What is perceived in `N` copies. Nobody chooses among such states with `jnp.where`, so their
    axes are a view's, and nothing is transposed on the way."""

    view: TeamView
    time: Int[Array, " N"]
    """Environment steps taken."""


class HostEnvironment:
    """Copies of an environment that are stepped in Python, behind the environment contract."""

    def __init__(
        self,
        recipe: Recipe,
        sizes: Sizes,
        name: str,
        limit: int | None = None,
        *,
        individual: bool = False,
        group: Callable[[Recipe, Sizes, int], Group] = InProcesses,
    ) -> None:
        """Makes no copy yet.

        Args:
            recipe: Makes a copy; it is pickled where processes of their own step them.
            sizes: The sizes of the copies.
            name: The environment's name.
            limit: The episode limit in environment steps; by default the environment's own.
            individual: Whether each agent is paid its own reward, otherwise the agents' mean.
            group: Where the copies are stepped.

        Raises:
            InputError: If the environment has no limit of its own, or one beyond what the clocks
                count, and none is given.
        """
        self._recipe, self._sizes, self._make_group = recipe, sizes, group
        self.spec = EnvSpec(
            name=name,
            version=sizes.version,
            num_agents=sizes.num_agents,
            observation_size=sizes.observation_size,
            num_actions=sizes.num_actions,
            state_size=sizes.state_size,
            episode_limit=limit_of(limit, sizes.limit, f"env = {name!r}", sizes.unusable_limit),
            wins=sizes.wins,
            own_rewards=individual,
        )
        self._groups: dict[int, Group] = {}
        """By the number of copies."""
        self._failure: EnvError | KeyboardInterrupt | None = None

    def twin(self, group: Callable[[Recipe, Sizes, int], Group] | None = None) -> "HostEnvironment":
        """The same environment with copies of its own, for episodes beside those of training.

        Args:
            group: Where they are stepped; by default where this environment's are.
        """
        return HostEnvironment(
            self._recipe,
            self._sizes,
            self.spec.name,
            self.spec.episode_limit,
            individual=self.spec.own_rewards,
            group=group or self._make_group,
        )

    def settle(self, results: Any) -> Any:
        """The results of a program that stepped these copies, when they are there.

        Args:
            results: What the program returned.

        Returns:
            The results.

        Raises:
            EnvError: If a copy failed meanwhile. All copies are closed then; the next program
                makes them anew.
            KeyboardInterrupt: If Ctrl-C came while copies were stepped.
        """
        jax.block_until_ready(results)
        failure, self._failure = self._failure, None
        if failure is not None:
            self.close()
            raise failure
        return results

    def reset(self, key: UInt32[Array, "2"], num_envs: int) -> HostState:
        """Starts an episode in each of `num_envs` copies."""
        return HostState(self._begin(key, jnp.ones(num_envs, bool)), jnp.zeros(num_envs, jnp.int32))

    def restart(
        self, key: UInt32[Array, "2"], state: HostState, ended: Bool[Array, " N"]
    ) -> HostState:
        """Starts an episode in those copies whose episode ended; the others go on."""
        # Calling back takes time, and most steps end no episode.
        begin = functools.partial(self._begin, key, ended)
        view = jax.lax.cond(jnp.any(ended), begin, lambda: state.view)
        return HostState(view, jnp.where(ended, 0, state.time))

    def step(
        self, key: UInt32[Array, "2"], state: HostState, actions: Int[Array, "K N"]
    ) -> tuple[HostState, Step]:
        """Takes one environment step in every copy."""
        shapes = self._shapes(actions.shape[1], _PERCEIVED + _OUTCOME)
        shown = io_callback(self._step_copies, shapes, actions, ordered=True)
        time = state.time + 1
        following = HostState(TeamView(*shown[:4]), time)
        rewards, terminated, truncated, won = shown[4:]
        truncated = (truncated | (time >= self.spec.episode_limit)) & ~terminated
        reward = rewards if self.spec.own_rewards else jnp.mean(rewards, axis=0)
        return following, Step(reward, terminated, truncated, won)

    def observe(self, state: HostState) -> TeamView:
        """What the teams perceive."""
        return state.view

    def close(self) -> None:
        """Ends the copies; they are made anew when they are needed."""
        for group in self._groups.values():
            group.close()
        self._groups.clear()

    def _begin(self, key: UInt32[Array, "2"], which: Bool[Array, " N"]) -> TeamView:
        """Starts episodes in some of the copies; what is seen in all of them."""
        num_envs = which.shape[0]
        seeds = jax.random.randint(key, (num_envs,), 0, 2**31 - 1)
        shapes = self._shapes(num_envs, _PERCEIVED)
        shown = io_callback(self._reset_copies, shapes, which, seeds, ordered=True)
        return TeamView(*shown)

    def _shapes(self, num_envs: int, names: tuple[str, ...]) -> tuple[jax.ShapeDtypeStruct, ...]:
        """What comes back from the copies."""
        every = fields(self._sizes, num_envs)
        return tuple(jax.ShapeDtypeStruct(*every[name]) for name in names)

    def _reset_copies(self, which: Any, seeds: Any) -> tuple[np.ndarray, ...]:
        def reset() -> tuple[np.ndarray, ...]:
            group = self._group(len(which))
            group.arrays["which"][:], group.arrays["seeds"][:] = which, seeds
            group.tell("reset")
            return _shown(group, _PERCEIVED)

        return self._attempt(reset, len(which), _PERCEIVED)

    def _step_copies(self, actions: Any) -> tuple[np.ndarray, ...]:
        def step() -> tuple[np.ndarray, ...]:
            group = self._group(actions.shape[1])
            group.arrays["actions"][:] = actions
            group.tell("step")
            return _shown(group, _PERCEIVED + _OUTCOME)

        return self._attempt(step, actions.shape[1], _PERCEIVED + _OUTCOME)

    def _attempt(
        self, do: Callable[[], tuple[np.ndarray, ...]], num_envs: int, names: tuple[str, ...]
    ) -> tuple[np.ndarray, ...]:
        """What the copies show, or nothing of the same shapes once one has failed."""
        if self._failure is None:
            try:
                return do()
            except KeyboardInterrupt as error:  # the program would hide it
                self._failure = error
            except EnvError as error:
                self._failure = EnvError(f"env = {self.spec.name!r}: {error}")
            except Exception as error:  # a process cannot be started
                self._failure = EnvError(f"env = {self.spec.name!r}: {words_of(error)}")
        # Legal, alive and terminated: the program ends as soon as it can.
        return tuple(
            (np.ones if shape.dtype == bool else np.zeros)(shape.shape, shape.dtype)
            for shape in self._shapes(num_envs, names)
        )

    def _group(self, num_envs: int) -> Group:
        if num_envs not in self._groups:
            self._groups[num_envs] = self._make_group(self._recipe, self._sizes, num_envs)
        return self._groups[num_envs]


def settled(env: Environment, results: Any) -> Any:
    """The results of a program that played in an environment. Raises EnvError if a copy that is
    stepped in Python failed meanwhile."""
    return env.settle(results) if isinstance(env, HostEnvironment) else results


def _shown(group: Group, names: tuple[str, ...]) -> tuple[np.ndarray, ...]:
    """What the copies show. JAX copies it before it goes on."""
    return tuple(group.arrays[name] for name in names)
