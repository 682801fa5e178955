"""One discriminator for the team: what it sees, and who is paid."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dm2
from conftest import SMALL
from dm2.agent.demonstrations import Expert
from dm2.agent.inputs import Moments
from dm2.config import ProgramSettings
from dm2.demos.experts import load_joint_expert
from dm2.errors import InputError
from dm2.methods import DM2, MAGAIL
from dm2.methods.centralised.magail import JointlyImitating, joint_moments, side_by_side
from dm2.run.programs import programs_for


def test_observations_stand_side_by_side_and_the_dead_see_nothing():
    rows = jnp.arange(12.0).reshape(2, 1, 3, 2)  # two agents, three environments
    alive = jnp.array([[[1, 1, 0]], [[1, 0, 0]]], bool)
    expected = [[[0, 1, 6, 7], [2, 3, 0, 0], [0, 0, 0, 0]]]
    np.testing.assert_array_equal(side_by_side(rows, alive), expected)
    moments = Moments(
        jnp.array([[1.0, 2], [3, 4]]), jnp.array([[5.0, 6], [7, 8]]), jnp.array([3.0, 4])
    )
    joint = joint_moments(moments)
    assert joint is not None
    np.testing.assert_array_equal(joint.mean, [1, 2, 3, 4])
    np.testing.assert_array_equal(joint.variance, [5, 6, 7, 8])


def hand_made(concurrency: list[str] | None = None) -> dm2.Demonstrations:
    """Two episodes of two agents: of 2 steps, where agent 1 dies, and of 1 step."""
    observations = np.arange(8, dtype=np.float32).reshape(2, 2, 2, 1)
    alive = np.array([[[1, 1], [1, 0]], [[1, 1], [0, 0]]], bool)
    provenance: dict[str, Any] = {"environment": "toy", "environment_version": "1"}
    provenance |= {"num_actions": 3, "episode_limit": 4}
    if concurrency is not None:
        provenance["concurrency"] = concurrency
    actions = np.array([[[0, 1], [2, 1]], [[1, 2], [0, 0]]])
    return dm2.Demonstrations.from_episodes(
        observations, alive, np.array([2, 1]), provenance, actions=actions
    )


def test_the_joint_expert_by_hand():
    expert = load_joint_expert(hand_made(), actions=True)
    np.testing.assert_array_equal(expert.observations, [[0, 1], [2, 0], [4, 5]])
    assert expert.size == 3
    assert expert.absorbing == pytest.approx(1 - 3 / 8)  # of two episodes of four steps
    chosen = [[1, 0, 0, 0, 1, 0], [0, 0, 1, 0, 0, 0], [0, 1, 0, 0, 0, 1]]
    np.testing.assert_array_equal(expert.actions, np.array(chosen, bool))
    assert load_joint_expert(hand_made()).actions is None


def test_agents_of_different_episodes_are_no_joint_expert():
    demos = hand_made()
    demos = dm2.Demonstrations(demos.agents, {**demos.provenance, "concurrency": ["a", "b"]})
    with pytest.raises(InputError, match=r"provenance.concurrency = \['a', 'b'\]: agents come"):
        load_joint_expert(demos)


IMITATION: Any = {"hidden": 8, "updates": 2, "batch": 16}


def method(of: Any = MAGAIL, **imitation: Any) -> Any:
    ppo = dm2.PPO(hidden=8, epochs=1, minibatches=2)
    return of(ppo, dm2.Imitation(**IMITATION, **imitation), observations="running")


@functools.cache
def case(survival: str, unit: str, inputs: str) -> tuple[Any, ...]:
    """A rollout and an update on it; the demonstrations are noise."""
    settings = method(survival=survival, unit=unit, inputs=inputs, coefficient=0.5)
    programs = programs_for(ProgramSettings(settings, "smax/3m?limit=12", 4, 8))
    team = programs.method
    assert isinstance(team, JointlyImitating)
    state = programs.init(jnp.uint32(0))
    _, _, path, _ = programs.collect(
        state.agents, state.rollout, jnp.int32(0), jnp.uint32(0), jnp.float32(1)
    )
    alive = path.alive.at[1, 4:].set(False)  # somebody dies
    path = path._replace(alive=alive, next_alive=path.next_alive.at[1, 3:].set(False))
    rng = np.random.default_rng(0)
    spec = programs.env.spec
    rows = jnp.asarray(rng.normal(size=(30, 3 * spec.observation_size)), jnp.float16)
    actions = jnp.asarray(rng.random((30, 3 * spec.num_actions)) < 0.3)
    expert = Expert(
        rows, jnp.int32(30), jnp.float32(0.1), actions if inputs == "state-actions" else None
    )
    state = programs.init(jnp.uint32(0)).agents
    return team, state, path, expert, team.reward(state, path, expert)


CASES = [
    ("centred", "reward", "states"),
    pytest.param(("absorbing", "advantage", "state-actions"), marks=pytest.mark.learning),
]


@pytest.mark.parametrize("kind", CASES, ids="-".join)
def test_everybody_is_paid_what_the_joint_discriminator_says(kind):
    team, _, path, _, (after, rewards, metrics) = case(*kind)
    somebody = np.asarray(path.alive).any(axis=0)
    shown = np.where(path.alive[..., None], path.extras.observations, 0)
    # Standardised, they are rounded as the expert's were, who lies in float16.
    shown = np.concatenate(list(shown), axis=-1).astype(np.float16).astype(np.float32)
    # In the first rollout, of the moments of that rollout itself, over each agent's living steps.
    living = [np.asarray(x)[y] for x, y in zip(path.extras.observations, path.alive, strict=True)]
    mean, variance = (np.concatenate([f(x, axis=0) for x in living]) for f in (np.mean, np.var))
    moments = Moments(*map(jnp.asarray, (mean, variance, np.float32(sum(map(len, living))))))
    actions = None
    if kind[2] == "state-actions":
        chosen = np.asarray(path.actions)[..., None] == np.arange(path.legal.shape[-1])
        actions = jnp.asarray(np.concatenate(list(chosen & path.alive[..., None]), axis=-1))
    idle = jnp.where(path.terminated[0], path.time_left[0], 0)
    imitation, mean = team.imitator.rewards(
        after.discriminator, jnp.asarray(shown), jnp.asarray(somebody), idle, moments, actions
    )
    for k in range(3):
        c = 0.5 if kind[1] == "reward" else float(metrics["imitation_coefficient"][k])
        expected = path.rewards[k] + c * imitation
        np.testing.assert_allclose(rewards[k], expected, rtol=1e-4, atol=1e-5)
    assert np.std(imitation) > 0
    np.testing.assert_allclose(metrics["imitation_reward"], [mean], rtol=1e-5)
    if kind[1] == "advantage":
        assert len(set(np.asarray(metrics["imitation_coefficient"]).tolist())) > 1  # one dies
    assert metrics["discriminator_loss"].shape == (1,)


@pytest.mark.parametrize("kind", CASES, ids="-".join)
def test_it_is_centralised(kind):
    """What one agent observes changes what all are paid, which no decentralised method may do;
    what it observes when dead changes nothing."""
    team, before, path, expert, (_, rewards, _) = case(*kind)
    for when, matters in ((0, True), (6, False)):
        seen = path.extras.observations.at[1, when].add(1.0)
        other = path._replace(extras=path.extras._replace(observations=seen))
        after = team.reward(before, other, expert)[1]
        for k in range(3):
            assert np.array_equal(after[k], rewards[k]) != matters


def test_without_an_expert_it_says_so():
    team, before, path, *_ = case(*CASES[0])
    with pytest.raises(InputError, match="experts = None: these agents learn by imitation"):
        team.learn(before, path, None)


@pytest.mark.learning
def test_all_else_is_as_in_dm2(small_demos, tmp_path):
    """The same agents to begin with, the same settings; they differ in the discriminator alone."""
    shared: dict[str, Any] = {"env": "smax/3m?limit=12", "demos": str(small_demos), **SMALL}
    starts = {}
    for of in (DM2, MAGAIL):
        config = dm2.Config(method(of), steps=128, **shared)
        run = dm2.train(config, tmp_path / of.name, quiet=True)
        programs = programs_for(run.config.program)
        fresh = programs.init(jnp.uint32(0)).agents
        starts[of] = fresh if of is DM2 else fresh.agents
        assert dataclasses.asdict(config.method) == dataclasses.asdict(method(DM2))
    for part in ("actor", "critic"):
        same = jax.tree.map(
            np.array_equal, getattr(starts[DM2], part), getattr(starts[MAGAIL], part)
        )
        assert all(jax.tree.leaves(same))
