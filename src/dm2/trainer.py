"""The compiled programs of a training run: initialise, iterate, evaluate. No files, no printing."""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, UInt32

from dm2 import runtime
from dm2.agent.imitation import Expert
from dm2.agent.learner import Learner
from dm2.agent.state import AgentState, Carry, Trajectory
from dm2.config import Config
from dm2.demos import Demonstrations
from dm2.envs import Environment, make
from dm2.rollout import Outcome, RolloutState, collect, play, start
from dm2.runtime import Ahead, Now
from dm2.team import Team

__all__ = ["TrainState", "Trainer", "forget_programs", "load_experts", "trainer_for"]

runtime.prepare()


class TrainState(NamedTuple):
    """All that decides how a run goes on. Saved and restored bit by bit."""

    agents: AgentState
    rollout: RolloutState
    iteration: Int[Array, ""]
    """Iterations done."""


def load_experts(demos: Demonstrations, episode_limit: int) -> Expert:
    """Every agent's living observations on the device, padded to one length, stacked `[K, ...]`."""
    states = [demos.alive_observations(k) for k in range(len(demos.agents))]
    longest = max(len(rows) for rows in states)
    padded = [np.pad(rows, ((0, longest - len(rows)), (0, 0))) for rows in states]
    shares = [demos.absorbing_fraction(k, episode_limit) for k in range(len(states))]
    return Expert(
        jnp.asarray(np.stack(padded)),
        jnp.asarray([len(rows) for rows in states], jnp.int32),
        jnp.asarray(shares, jnp.float32),
    )


class Trainer:
    """Compiles once; the seed is an argument, so seeds share the programs. See `trainer_for`."""

    def __init__(self, config: Config, env: Environment | None = None) -> None:
        self.config = config
        self.env = env or make(config.env)
        spec = self.env.spec
        self.team = Team(Learner(config, spec.observation_size, spec.num_actions), spec.num_agents)
        # Compiled here, not by decorators, whose programs would outlive the trainer: each takes
        # hundreds of memory maps, of which Linux gives a process 65530.
        jit = functools.partial(jax.jit, compiler_options=runtime.compiler_options("play"))
        self._start = jax.jit(self._init, compiler_options=runtime.compiler_options("once"))
        self._collect = jit(self._gather, donate_argnums=1)
        self.evaluate = jit(self._evaluate, static_argnames=("episodes", "greedy"))
        self.record = jit(self._record, static_argnames=("episodes", "greedy", "record_env"))

    def init(self, seed: UInt32[Array, ""]) -> TrainState:
        """The state before the first step, on the team's first device."""
        return jax.device_put(self._start(seed), self.team.devices[0])

    def _init(self, seed: UInt32[Array, ""]) -> TrainState:
        """Streams of the seed: 0 agents, 1 first resets,
        2 iterations, 3 evaluations."""
        key = jax.random.PRNGKey(seed)
        agents = self.team.init(jax.random.fold_in(key, 0))
        rollout = start(self.env, self.team, jax.random.fold_in(key, 1), self.config.num_envs)
        return TrainState(agents, rollout, jnp.zeros((), jnp.int32))

    def _gather(
        self,
        agents: AgentState,
        rollout: RolloutState,
        iteration: Int[Array, ""],
        seed: UInt32[Array, ""],
    ) -> tuple[RolloutState, Int[Array, ""], Trajectory, Carry, dict[str, Array]]:
        """One rollout, the iterations then done, the memories with which it began, and what became
        of its episodes."""
        key = jax.random.fold_in(jax.random.PRNGKey(seed), 2)
        key = jax.random.fold_in(key, iteration)
        steps = self.config.rollout_steps
        before = rollout.carry
        rollout, trajectory, episodes = collect(self.env, self.team, agents, rollout, key, steps)
        return rollout, iteration + 1, trajectory, before, episodes._asdict()

    def iterate(
        self, state: TrainState, seed: UInt32[Array, ""], experts: Expert | None
    ) -> tuple[TrainState, dict[str, Any]]:
        """One rollout and the updates on it. Metrics are per agent `[K]`, or sums over episodes.

        Returns before the work is done, as JAX does; `state.rollout` is used up.
        """
        return self._iterate(state, seed, experts, Now)

    def compile(self, experts: Expert | None, episodes: int | None = None) -> None:
        """Make the programs of `init` and `iterate`, and of `evaluate` where it will play
        `episodes`, side by side. What was not made here is made when it is first called."""
        seed = jnp.uint32(0)
        home = self.team.devices[0]
        with Ahead(home) as way:
            state = way.run(self._start, seed)
            state, _ = self._iterate(state, seed, experts, way)
            if episodes is not None:
                way.run(self.evaluate, state.agents, seed, jnp.int32(0), episodes)

    def _iterate(
        self,
        state: TrainState,
        seed: UInt32[Array, ""],
        experts: Expert | None,
        way: type[Now] | Ahead,
    ) -> tuple[TrainState, dict[str, Any]]:
        # What comes back is bound to its device; if what goes in is not, JAX compiles twice.
        bound = way.put((state, experts), self.team.devices[0])
        (agents, rollout, iteration), experts = bound
        played = way.run(self._collect, agents, rollout, iteration, seed)
        rollout, iteration, trajectory, before, episodes = played
        agents, metrics = self.team.update(agents, trajectory, before, experts, way)
        state = TrainState(agents, rollout, iteration)
        return state, {"agents": metrics, "episodes": episodes}

    def _evaluate(
        self,
        agents: AgentState,
        seed: UInt32[Array, ""],
        step: Int[Array, ""],
        episodes: int,
        greedy: bool = True,
    ) -> Outcome:
        """Whole test episodes, on a random stream of their own."""
        key = jax.random.fold_in(jax.random.PRNGKey(seed), 3)
        key = jax.random.fold_in(key, step)
        outcome, _ = play(self.env, self.team, agents, key, episodes, greedy=greedy)
        return outcome

    def _record(
        self,
        agents: AgentState,
        key: UInt32[Array, "2"],
        episodes: int,
        greedy: bool,
        record_env: bool = False,
    ):
        """Whole episodes and everything that was seen and done in them."""
        return play(
            self.env,
            self.team,
            agents,
            key,
            episodes,
            greedy=greedy,
            record=True,
            record_env=record_env,
        )

    def abstract_state(self) -> TrainState:
        """Shapes and types of the state, computed without running anything."""
        return jax.eval_shape(lambda: self._init(jnp.uint32(0)))


def trainer_for(config: Config) -> Trainer:
    """The trainer of a config; configs that need the same programs share one, compiled once."""
    return _shared(
        dataclasses.replace(
            config,
            seed=0,
            steps=1,
            demos="any" if config.imitates else None,
            eval_every=1,
            eval_episodes=1,
            checkpoint_every=1,
            checkpoint_steps=(),
            keep=1,
        )
    )


def forget_programs() -> None:
    """Frees the compiled programs of all trainers that are not in use."""
    _shared.cache_clear()
    jax.clear_caches()


@functools.lru_cache(maxsize=8)
def _shared(programs: Config) -> Trainer:
    return Trainer(programs)
