"""Behavioural cloning: its loss, what it learns, and what may follow."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dm2
from conftest import SMALL
from dm2.agent.cloning import clone, cloning_loss, last_actions
from dm2.agent.demonstrations import Expert, ExpertEpisodes
from dm2.agent.inputs import Inputs
from dm2.agent.learner import Learner
from dm2.agent.settings import PPO, Cloning
from dm2.agent.types import View
from dm2.demos.experts import load_experts
from dm2.errors import InputError
from dm2.methods import BC
from dm2.methods.independent import Independent


def test_the_loss_by_hand():
    # Two legal actions of equal logits; then one legal action; then one whose step is dead.
    logits = jnp.array([[0.0, 0.0, 5.0], [1.0, 2.0, 3.0], [9.0, 0.0, 0.0]])
    legal = jnp.array([[1, 1, 0], [0, 0, 1], [1, 1, 1]], bool)
    actions, alive = jnp.array([1, 2, 1]), jnp.array([1, 1, 0], bool)
    loss, accuracy = cloning_loss(logits, legal, actions, alive)
    # -(log 1/2 + log 1) / 2, and of equal logits the first is the likeliest.
    assert loss == pytest.approx(np.log(2) / 2, rel=1e-6)
    assert accuracy == 0.5
    # By softmax, with three legal actions.
    loss, accuracy = cloning_loss(logits[1:2], legal[2:], actions[:1], alive[:1])
    probabilities = np.exp([1, 2, 3]) / np.exp([1, 2, 3]).sum()
    assert loss == pytest.approx(-np.log(probabilities[1]), rel=1e-6)
    assert accuracy == 0.0


def test_the_last_action():
    actions = jnp.array([[1, 2], [0, 1], [2, 2]])
    np.testing.assert_array_equal(last_actions(actions), [[-1, -1], [1, 2], [0, 1]])


T, E, O, A = 6, 12, 2, 3  # noqa: E741


def recalling(seed: int = 0) -> Expert:
    """An expert that has to remember: it repeats, at every step, what its first observation said.
    Half of its episodes are shorter, and it is dead behind their ends."""
    rng = np.random.default_rng(seed)
    said = rng.integers(2, size=E)
    observations = np.zeros((T, E, O), np.float32)
    observations[0, np.arange(E), said] = 1.0
    alive = np.ones((T, E), bool)
    alive[3:, ::2] = False
    actions = np.where(alive, said, 2).astype(np.int32)  # what the dead do teaches nothing
    legal = np.ones((T, E, A), bool)
    episodes = ExpertEpisodes(*map(jnp.asarray, (observations, alive, actions, legal)))
    blank = jnp.zeros((1, O))
    return Expert(blank, jnp.int32(1), jnp.zeros(()), None, episodes)


@functools.cache
def cloned(**inputs: Any) -> tuple[Learner, Any, Any]:
    ppo = PPO(hidden=16, head_gain=1.0)
    cloning = Cloning(epochs=60, batch=5, learning_rate=0.01)
    learner = Learner(ppo, None, O, A, Inputs(**inputs))
    agent = jax.jit(learner.init)(jax.random.PRNGKey(0))
    return learner, *jax.jit(functools.partial(clone, learner, cloning))(agent, recalling())


@pytest.mark.parametrize("inputs", [{}, {"layer": False, "running": True, "last_action": True}])
def test_a_policy_that_remembers_is_learnt_and_acts_as_its_expert(inputs):
    learner, agent, metrics = cloned(**inputs)
    assert metrics["cloning_accuracy"] == 1.0
    assert metrics["cloning_loss"] < 0.05
    # Played step by step, as in an episode, with the memory that it carries.
    episodes = recalling(seed=1).episodes
    assert episodes is not None
    memory = learner.memory(E)
    act = functools.partial(jax.jit, static_argnums=4)(learner.act)
    for t in range(T):
        starts = jnp.full(E, t == 0)
        view = View(episodes.observations[t], episodes.legal[t], episodes.alive[t], starts)
        memory, actions, _ = act(agent, memory, jax.random.PRNGKey(t), view, True)
        mine = np.asarray(episodes.alive[t])
        np.testing.assert_array_equal(np.asarray(actions)[mine], episodes.actions[t][mine])


def test_the_moments_of_observations_begin_with_the_experts():
    _, agent, _ = cloned(layer=False, running=True, last_action=True)
    episodes = recalling().episodes
    assert episodes is not None
    living = np.asarray(episodes.observations)[np.asarray(episodes.alive)]
    assert agent.moments is not None
    assert agent.moments.steps == len(living)
    np.testing.assert_allclose(agent.moments.mean, living.mean(axis=0), rtol=1e-5)


def config(method: BC, demos: Any) -> dm2.Config:
    return dm2.Config(method, "smax/3m?limit=12", steps=256, demos=str(demos), **SMALL)


def small(then: Any) -> BC:
    return BC(dm2.PPO(hidden=8, epochs=1, minibatches=2), cloning=Cloning(2, 4, then=then))


def test_what_follows(small_demos, tmp_path):
    """Nothing: the policy stays. The task: it moves, without a discriminator. Mixed: with one."""
    spec = dm2.make("smax/3m").spec
    mixed = small("mixed").build(spec, 8)
    assert isinstance(mixed, Independent)
    assert mixed.learner.reward.imitator is not None
    for then in ("nothing", "task"):
        run = dm2.train(config(small(then), small_demos), tmp_path / then, quiet=True)
        records = run.read_metrics()
        (first,) = (r for r in records if r["kind"] == "pretrain")
        assert first["step"] == 0
        assert len(first["cloning_loss"]) == 3
        (*_, last) = (r for r in records if r["kind"] == "train")
        assert ("policy_loss" in last) == (then == "task")
        assert "discriminator_loss" not in last
        programs = dm2.run.programs.programs_for(run.config.program)
        fresh = programs.init(jnp.uint32(0))
        experts = run.config.method.experts(dm2.Demonstrations.load(small_demos))
        start = programs.pretrain(fresh, experts)[0]
        end = run.load_checkpoint(programs.shapes().agents, None, "agents")[0]
        same = jax.tree.map(np.array_equal, start.agents.actor, end.actor)
        assert all(jax.tree.leaves(same)) == (then == "nothing")
        moved = jax.tree.map(np.array_equal, start.agents.actor, fresh.agents.actor)
        assert not any(jax.tree.leaves(moved["params"]["head"]))
        # Agents that stay as they are draw other actions all the same.
        assert not np.array_equal(start.agents.key, end.key)


def test_each_agent_clones_its_own_expert(small_demos):
    """Another expert of agent 1 changes agent 1 alone, bit by bit."""
    programs = dm2.run.programs.programs_for(config(small("task"), small_demos).program)
    experts = load_experts(dm2.Demonstrations.load(small_demos), episodes=True)
    fresh = programs.init(jnp.uint32(0))
    before = programs.pretrain(fresh, experts)[0].agents
    episodes = experts.episodes
    assert episodes is not None
    for field in ("observations", "actions", "legal", "alive"):
        rows = getattr(episodes, field)
        changed = ~rows[1] if rows.dtype == bool else rows[1] * 0 + 1
        other = episodes._replace(**{field: rows.at[1].set(changed)})
        after = programs.pretrain(fresh, experts._replace(episodes=other))[0].agents
        for k in range(3):
            rows = jax.tree.map(lambda a, b, k=k: np.array_equal(a[k], b[k]), before, after)
            assert all(jax.tree.leaves(rows)) == (k != 1), (field, k)


def test_cloning_without_what_it_needs_says_so():
    rules, expert = Learner(PPO(hidden=8), None, O, A), recalling()
    agent = jax.eval_shape(rules.init, jax.random.PRNGKey(0))
    with pytest.raises(InputError, match="experts = None: these agents learn by imitation"):
        clone(rules, Cloning(), agent, None)
    with pytest.raises(InputError, match=r"experts.episodes = None: .*episodes=True"):
        clone(rules, Cloning(), agent, expert._replace(episodes=None))


def test_bad_input_is_one_clear_error(small_demos):
    demos = dm2.Demonstrations.load(small_demos)
    for lacking in ("actions", "legal"):
        agents = tuple(dataclasses.replace(a, **{lacking: None}) for a in demos.agents)
        poorer = dm2.Demonstrations(agents, demos.provenance)
        what = "legal actions" if lacking == "legal" else "actions"
        with pytest.raises(InputError, match=f"demos: agent 0 has no {what}; record some with"):
            BC().experts(poorer)
    unused = r"imitation.coefficient = 0.2: is not used with cloning.then = 'task'; leave it"
    with pytest.raises(InputError, match=unused):
        BC(imitation=dm2.Imitation(coefficient=0.2), cloning=Cloning(then="task"))
    with pytest.raises(InputError, match=r"cloning.epochs = 0"):
        Cloning(epochs=0)
    with pytest.raises(InputError, match=r"cloning.then = 'all'"):
        Cloning(then="all")  # pyright: ignore[reportArgumentType]
