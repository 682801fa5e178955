"""An agent's own best episodes: which are kept, and what it learns of them."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dm2.agent.learner import Learner
from dm2.agent.mixed_reward import Balance
from dm2.agent.self_imitation import BestEpisodes
from dm2.agent.settings import PPO, Imitation, SelfImitation
from dm2.agent.state import Extras, Memory
from dm2.agent.types import Trajectory
from dm2.errors import InputError
from dm2.methods.ippo import IPPO
from dm2.methods.sil import SIL
from toy_env import ToyEnv

N, O, A, H, LIMIT, GAMMA = 3, 2, 3, 4, 5, 0.5  # noqa: E741
CAPACITY, LEAST = 4, 2


def best(capacity: int = CAPACITY, num_envs: int = N) -> BestEpisodes:
    return BestEpisodes(SelfImitation(capacity, LEAST), O, A, LIMIT, num_envs, GAMMA)


def rollout(rng: np.random.Generator, steps: int, time: np.ndarray) -> Trajectory:
    """Random rows; an episode ends by chance, at its limit for sure. `time` is moved along."""
    shape = (steps, N)
    starts, ended = np.zeros((2, *shape), bool)
    for t in range(steps):
        starts[t] = time == 0
        time += 1
        ended[t] = (rng.random(N) < 0.3) | (time == LIMIT)
        time[ended[t]] = 0
    cut = ended & (rng.random(shape) < 0.5)
    observations = jnp.asarray(rng.normal(size=(*shape, O)), jnp.float32)
    nothing = jnp.zeros(shape)
    memory = Memory(jnp.zeros((N, H)), jnp.zeros((N, H)), jnp.zeros(N))
    false = jnp.zeros(shape, bool)
    return Trajectory(
        legal=jnp.ones((*shape, A), bool),
        alive=jnp.asarray(rng.random(shape) < 0.8),
        starts=jnp.asarray(starts),
        actions=jnp.asarray(rng.integers(A, size=shape), jnp.int32),
        rewards=jnp.asarray(rng.integers(3, size=shape), jnp.float32),  # so that ties occur
        next_alive=false,
        terminated=jnp.asarray(ended & ~cut),
        ended=jnp.asarray(ended),
        time_left=jnp.zeros(shape, jnp.int32),
        extras=Extras(nothing, nothing, observations, observations),
        bootstrap=nothing,
        memory=memory,
        progress=jnp.zeros(()),
    )


class Plainly:
    """The same rules, an episode at a time in Python."""

    def __init__(self) -> None:
        self.kept: list[dict[str, Any]] = []
        self.open: list[list[dict[str, Any]]] = [[] for _ in range(N)]

    def include(self, path: Trajectory) -> None:
        for t in range(len(path.alive)):
            for n in range(N):
                step = {"o": path.extras.observations[t, n], "alive": bool(path.alive[t, n])}
                step |= {"a": int(path.actions[t, n]), "r": float(path.rewards[t, n])}
                self.open[n].append(step)
                if path.ended[t, n]:
                    steps, self.open[n] = self.open[n], []
                    value = sum(GAMMA**i * s["r"] for i, s in enumerate(steps))
                    counts = LIMIT if path.terminated[t, n] else len(steps)
                    self._keep({"steps": steps, "value": value, "counts": counts})

    def _keep(self, episode: dict[str, Any]) -> None:
        if len(self.kept) < CAPACITY:
            self.kept.append(episode)
            return
        values = [e["value"] for e in self.kept]
        worst = values.index(min(values))
        if episode["value"] > values[worst]:
            self.kept[worst] = episode


def test_the_best_episodes_are_kept_whole_however_rollouts_cut_them():
    rng, rules, plain = np.random.default_rng(0), best(), Plainly()
    own, time = rules.initial(), np.zeros(N, int)
    including = jax.jit(rules.including)
    replaced = 0
    for steps in (3, 3, 4, 3, 4, 3, 4, 4):
        path = rollout(rng, steps, time)
        before = [e["value"] for e in plain.kept]
        own = including(own, path)
        plain.include(path)
        replaced += len(before) == CAPACITY and before != [e["value"] for e in plain.kept]
        assert own.size == len(plain.kept)
        for place, episode in enumerate(plain.kept):
            length = len(episode["steps"])
            assert own.returns[place] == pytest.approx(episode["value"])
            alive = [s["alive"] for s in episode["steps"]]
            np.testing.assert_array_equal(own.alive[place, :length], alive)
            assert not own.alive[place, length:].any()
            shown = np.stack([s["o"] for s in episode["steps"]])
            np.testing.assert_array_equal(own.observations[place, :length], shown)
            chosen = [s["a"] for s in episode["steps"]]
            assert own.actions is not None
            np.testing.assert_array_equal(own.actions[place, :length], chosen)
    assert replaced >= 2  # so the rule for full buffers was tried

    # As an expert: exactly the living steps, with what was done there.
    expert = rules.expert(own)
    living = [s for e in plain.kept for s in e["steps"] if s["alive"]]
    assert expert.size == len(living)
    np.testing.assert_array_equal(
        expert.observations[: len(living)], np.stack([s["o"] for s in living])
    )
    assert expert.actions is not None
    np.testing.assert_array_equal(
        np.argmax(expert.actions[: len(living)], axis=-1), [s["a"] for s in living]
    )
    counts = [e["counts"] for e in plain.kept]
    assert LIMIT in counts
    assert min(counts) < LIMIT  # some were cut before the limit, after which nothing is known
    assert expert.absorbing == pytest.approx(1 - len(living) / sum(counts))


def test_an_episode_that_was_given_up_is_not_the_beginning_of_the_next():
    """Three steps before a run stops; then the environment begins anew, with an episode of five."""
    rules, rng = best(), np.random.default_rng(2)

    def path(steps: int, ends: bool) -> Trajectory:
        flags = jnp.zeros((steps, N), bool)
        ended = flags.at[-1].set(ends)
        found = rollout(rng, steps, np.zeros(N, int))
        return found._replace(
            starts=flags.at[0].set(True), ended=ended, alive=jnp.ones((steps, N), bool)
        )

    before, after = path(3, False), path(LIMIT, True)
    including = jax.jit(rules.including)
    stopped = including(rules.initial(), before)
    assert stopped.ongoing.time.tolist() == [3] * N
    own = including(stopped, after)
    assert own.size == N
    shown = jnp.moveaxis(after.extras.observations, 1, 0)
    np.testing.assert_array_equal(own.observations[:N], shown)
    values = GAMMA ** np.arange(LIMIT) @ np.asarray(after.rewards)
    np.testing.assert_allclose(own.returns[:N], values, rtol=1e-6)
    assert own.ongoing.time.tolist() == [0] * N


def test_of_equal_episodes_the_older_stays_and_of_several_worst_the_first_goes():
    rules = best(capacity=2, num_envs=1)

    def episode(value: float, mark: float) -> Any:
        rows = jnp.zeros(LIMIT).at[0].set(value)
        shown = jnp.full((LIMIT, O), mark)
        alive = jnp.ones(LIMIT, bool)
        return {
            "observations": shown,
            "alive": alive,
            "rewards": rows,
            "actions": jnp.zeros(LIMIT, int),
        }

    def marks(*episodes: tuple[float, float]) -> list[float]:
        own = rules.initial()
        for value, mark in episodes:
            ends, zero = jnp.ones((1, 1), bool), jnp.int32(0)
            own = rules._insert(ends, own, episode(value, mark), jnp.int32(LIMIT), zero, zero)
        return own.observations[:, 0, 0].tolist()

    assert marks((1, 10), (1, 20)) == [10, 20]
    assert marks((1, 10), (1, 20), (1, 30)) == [10, 20]
    assert marks((1, 10), (1, 20), (2, 30)) == [30, 20]
    assert marks((3, 10), (1, 20), (2, 30), (1, 40)) == [10, 30]


def learner() -> Learner:
    ppo = PPO(hidden=H, epochs=1, minibatches=1, discount=GAMMA)
    imitation = Imitation(hidden=H, updates=2, batch=8, inputs="state-actions")
    return Learner(ppo, imitation, O, A, best=best())


@functools.cache
def update() -> Any:
    return jax.jit(functools.partial(learner().learn, expert=None))


def test_until_there_are_enough_episodes_the_task_alone_counts():
    agent = jax.jit(learner().init)(jax.random.PRNGKey(0))
    rng, time = np.random.default_rng(1), np.zeros(N, int)
    counts = []
    for _ in range(4):
        path = rollout(rng, 2, time)
        after, metrics = update()(agent, path)
        same = jax.tree.map(np.array_equal, after.discriminator, agent.discriminator)
        learnt = not all(jax.tree.leaves(same))
        counts.append(int(metrics["best_episodes"]))
        assert learnt == (counts[-1] >= LEAST)
        assert (metrics["discriminator_loss"] != 0) == learnt
        if not learnt:  # what was paid before is not weighed against what was not
            assert after.balance == agent.balance == Balance.initial()
        agent = after
    assert counts[0] < LEAST <= counts[-1]


def test_memory_counts_what_all_agents_keep():
    """By hand: of `C` episodes and `N` under way `L` steps of `O` numbers, `alive` and, of those
    under way, a reward; a return and a number of steps for each episode, a time for each
    environment, one size."""
    spec = ToyEnv.spec
    limit, row = spec.episode_limit, 4 * spec.observation_size + 1
    kept = 128 * (limit * row + 8) + N * (limit * (row + 4) + 4) + 4
    more = SIL().update_bytes(spec, 10, N) - IPPO().update_bytes(spec, 10, N)
    assert more == 3 * spec.num_agents * kept


def test_unusable_buffers_are_refused():
    with pytest.raises(InputError, match=r"best.least = 9: must be at most best.episodes = 8"):
        SelfImitation(8, 9)
    with pytest.raises(InputError, match=r"best.episodes = 0"):
        SelfImitation(0, 1)
