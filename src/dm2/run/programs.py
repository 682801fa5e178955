"""The compiled programs of a run: initialise, iterate, evaluate, play. They touch no file and
print nothing."""

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt32

from dm2 import rollout as rollouts
from dm2.agent.types import Trajectory
from dm2.compilation import Program, compile_ahead, compiler_options, on_device
from dm2.config import ProgramSettings
from dm2.envs import Environment, HostEnvironment, make
from dm2.envs.custom import is_custom
from dm2.envs.host import settled
from dm2.errors import InputError
from dm2.methods.base import Pretraining
from dm2.rollout import EpisodeTotals, Outcome, Players, Recording, RolloutState
from dm2.run.check import check_quickly

__all__ = ["Programs", "TrainState", "programs_for"]


class TrainState(NamedTuple):
    """All that decides how a run goes on. It is saved and restored bit by bit."""

    agents: Any
    """The method's state."""
    rollout: RolloutState
    iteration: Int[Array, ""]
    """Iterations done."""


class Programs:
    """The programs of one environment and method. The seed is an argument, so seeds share them;
    see `programs_for`."""

    def __init__(self, settings: ProgramSettings, env: Environment | None = None) -> None:
        """Makes the method; compiles nothing yet.

        Args:
            settings: What decides the programs.
            env: The environment; by default the one that `settings.env` names.

        Raises:
            InputError: If there is no such environment, or JAX computes in 64 bits.
        """
        if jax.dtypes.canonicalize_dtype(float) != jnp.float32:
            raise InputError("JAX_ENABLE_X64 = true: dm2 computes in 32 bits; unset it")
        self.settings = settings
        self.env = env or make(settings.env)
        # Whole episodes are played beside those of training, which go on afterwards.
        self._stage = self.env.twin() if isinstance(self.env, HostEnvironment) else self.env
        self._checked = False
        self.method = settings.method.build(self.env.spec, settings.num_envs)
        self._device = jax.local_devices()[0]
        # Compiled here, not by decorators, whose programs would outlive this object: each takes
        # hundreds of memory maps, of which Linux gives a process 65530.
        jit = functools.partial(jax.jit, compiler_options=compiler_options("play"))
        self._init_program = jax.jit(self._init, compiler_options=compiler_options("once"))
        self.collect = jit(self._collect, donate_argnums=1)
        self.evaluate = jit(self._evaluate, static_argnames=("episodes", "greedy"))
        fixed = ("players", "episodes", "greedy", "record", "record_env")
        self.play = jit(functools.partial(rollouts.play, self._stage), static_argnames=fixed)
        if isinstance(self._stage, HostEnvironment):
            few = _FewAtATime(self._stage, settings.num_envs, self.evaluate, self.play)
            self.evaluate, self.play = few.evaluate, few.play

    def check(self) -> None:
        """Plays a few steps of an environment of the user's own, once. Raises InputError if it
        breaks its contract."""
        if not self._checked and is_custom(self.env.spec.name):
            check_quickly(self.env)
        self._checked = True

    def init(self, seed: UInt32[Array, ""]) -> TrainState:
        """The state before the first step."""
        return jax.device_put(settled(self.env, self._init_program(seed)), self._device)

    def begin_anew(self, state: TrainState, seed: UInt32[Array, ""]) -> TrainState:
        """The state with which a run goes on whose environment cannot go back to where it was: new
        episodes, and blank memories. What a method keeps of the episodes that were under way it
        gives up where the next rollout says that an episode starts."""
        key = jax.random.fold_in(jax.random.PRNGKey(seed), 1)
        key = jax.random.fold_in(key, state.iteration)
        begin = functools.partial(rollouts.begin, self.env, self.method)
        rollout = settled(self.env, jax.jit(begin, static_argnums=1)(key, self.settings.num_envs))
        return state._replace(rollout=rollout)

    def pretrain(self, state: TrainState, experts: Any) -> tuple[TrainState, dict[str, Any]]:
        """What the method's team learns before its first step, if anything, and what to report of
        it."""
        if not isinstance(self.method, Pretraining):
            return state, {}
        agents, experts = jax.device_put((state.agents, experts), self._device)
        agents, metrics = self.method.pretrain(agents, experts)
        return state._replace(agents=agents), metrics

    def iterate(
        self,
        state: TrainState,
        seed: UInt32[Array, ""],
        experts: Any,
        horizon: float = math.inf,
    ) -> tuple[TrainState, dict[str, Any]]:
        """One rollout and the updates on it.

        Returns before the work is done, as JAX does; `state.rollout` is used up. Raises EnvError
        if an environment stepped in Python failed; nothing is learnt from that rollout then.

        Args:
            state: Where the iteration before ended.
            seed: The run's.
            experts: What the agents imitate, if anything.
            horizon: Iterations of which schedules take shares; by default they never move.

        Returns:
            The next state, and the metrics: `agents`, of each agent `[K]` or `[1]` of what the
            team shares, and `episodes`, sums over the episodes that ended.
        """
        # What comes back is bound to its device; if what goes in is not, JAX compiles twice.
        (agents, rollout, iteration), experts = jax.device_put((state, experts), self._device)
        arguments = (rollout, iteration, seed, jnp.float32(horizon))
        rollout, iteration, trajectory, totals = settled(self.env, self.collect(agents, *arguments))
        agents, metrics = self.method.learn(agents, trajectory, experts)
        state = TrainState(agents, rollout, iteration)
        return state, {"agents": metrics, "episodes": totals._asdict()}

    def record(
        self,
        agents: Any,
        key: UInt32[Array, "2"],
        episodes: int,
        greedy: bool,
        record_env: bool = False,
        epsilon: Float[Array, ""] | None = None,
    ) -> tuple[Outcome, Recording]:
        """Whole episodes of the method's team, and everything that was perceived and done in them.
        `play` is for any other players; see `dm2.rollout.play`."""
        how = {"greedy": greedy, "epsilon": epsilon, "record": True, "record_env": record_env}
        outcome, kept = self.play(self.method, agents, key, episodes, **how)
        assert kept is not None
        return outcome, kept

    def compile(self, experts: Any, episodes: int | None = None) -> None:
        """Makes the programs of `init` and `iterate`, and of `evaluate` where it will play
        `episodes`, side by side. What was not made here is made when it is first called."""
        compile_ahead(self._all(experts, episodes))

    def close(self) -> None:
        """Ends environments that are stepped in Python; they are made anew when they are needed."""
        for env in (self.env, self._stage):
            if isinstance(env, HostEnvironment):
                env.close()

    def _all(self, experts: Any, episodes: int | None) -> Any:
        """The programs, one after another, so that the first compile while others are traced."""
        seed = jnp.uint32(0)
        start = Program(self._init_program, (seed,))
        yield start
        agents, rollout, iteration = start.results(self._device)
        played = Program(self.collect, (agents, rollout, iteration, seed, jnp.float32(0)))
        yield played
        trajectory = played.results(self._device)[2]
        bound = None if experts is None else on_device(experts, self._device)
        yield from self.method.programs(agents, trajectory, bound)
        if episodes is not None and self._stage is self.env:
            yield Program(self.evaluate, (agents, seed, jnp.uint32(0), episodes))

    def shapes(self) -> TrainState:
        """Shapes and types of the state, worked out without running anything."""
        return jax.eval_shape(lambda: self._init(jnp.uint32(0)))

    def _init(self, seed: UInt32[Array, ""]) -> TrainState:
        """The seed's streams are 0 for the agents, 1 for the first episodes, 2 for the iterations
        and 3 for the evaluations."""
        key = jax.random.PRNGKey(seed)
        agents = self.method.init(jax.random.fold_in(key, 0))
        num_envs = self.settings.num_envs
        rollout = rollouts.begin(self.env, self.method, jax.random.fold_in(key, 1), num_envs)
        return TrainState(agents, rollout, jnp.zeros((), jnp.int32))

    def _collect(
        self,
        agents: Any,
        rollout: RolloutState,
        iteration: Int[Array, ""],
        seed: UInt32[Array, ""],
        horizon: Float[Array, ""] | float = math.inf,
    ) -> tuple[RolloutState, Int[Array, ""], Trajectory, EpisodeTotals]:
        """One rollout, and the iterations that will be done with it."""
        key = jax.random.fold_in(jax.random.PRNGKey(seed), 2)
        key = jax.random.fold_in(key, iteration)
        steps, progress = self.settings.rollout_steps, jnp.minimum(iteration / horizon, 1.0)
        rollout, trajectory, totals = rollouts.collect(
            self.env, self.method, agents, rollout, key, steps, progress
        )
        return rollout, iteration + 1, trajectory, totals

    def _evaluate(
        self,
        agents: Any,
        seed: UInt32[Array, ""],
        step: UInt32[Array, ""],
        episodes: int,
        greedy: bool = True,
        epsilon: Float[Array, "*K"] | None = None,
    ) -> Outcome:
        """Whole test episodes, on a random stream of their own, of a step modulo 2^32."""
        key = jax.random.fold_in(jax.random.PRNGKey(seed), 3)
        key = jax.random.fold_in(key, step)
        how = {"greedy": greedy, "epsilon": epsilon}
        return rollouts.play(self._stage, self.method, agents, key, episodes, **how)[0]


class _FewAtATime:
    """`evaluate` and `play` for environments that are stepped in Python: as many are played side by
    side as train, since each takes memory, or a licence, of its own. Both raise EnvError."""

    def __init__(self, stage: HostEnvironment, most: int, evaluate: Any, play: Any) -> None:
        self._stage, self._most = stage, most
        self._evaluate, self._play = evaluate, play

    def evaluate(
        self, agents: Any, seed: Any, step: Any, episodes: int, greedy: bool = True, **how: Any
    ) -> Outcome:
        """See `Programs._evaluate`."""

        def play(part: int, count: int) -> Outcome:
            key = jax.random.fold_in(jax.random.PRNGKey(seed), part)
            own = jax.random.bits(key, (), jnp.uint32)
            return self._evaluate(agents, own, step, count, greedy, **how)

        return _joined(self._parts(play, episodes), episodes, -1)

    def play(
        self, players: Players, agents: Any, key: Any, episodes: int, **how: Any
    ) -> tuple[Outcome, Recording | None]:
        """See `dm2.rollout.play`."""

        def play(part: int, count: int) -> Any:
            return self._play(players, agents, jax.random.fold_in(key, part), count, **how)

        outcomes, recordings = zip(*self._parts(play, episodes), strict=True)
        outcome = _joined(outcomes, episodes, -1)
        if recordings[0] is None:
            return outcome, None
        return outcome, Recording(*_joined([kept[:4] for kept in recordings], episodes, 2))

    def _parts(self, play: Any, episodes: int) -> list[Any]:
        size = min(episodes, self._most)
        count = -(-episodes // size)
        return [jax.device_get(self._stage.settle(play(part, size))) for part in range(count)]


def _joined(parts: Sequence[Any], episodes: int, axis: int) -> Any:
    """The first of the episodes that several batches hold, side by side on one axis."""
    first = range(episodes)
    return jax.tree.map(lambda *x: np.take(np.concatenate(x, axis), first, axis), *parts)


@functools.lru_cache(maxsize=8)
def programs_for(settings: ProgramSettings) -> Programs:
    """The programs of these settings; equal settings share them, compiled once."""
    return Programs(settings)
