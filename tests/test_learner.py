"""One agent on small synthetic trajectories: death, bookkeeping, and the sign of what is learnt."""

import functools
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dm2.agent.demonstrations import Expert
from dm2.agent.discriminator import idle_steps
from dm2.agent.inputs import Moments
from dm2.agent.learner import Learner
from dm2.agent.networks import mask_logits
from dm2.agent.returns import rollout_advantages
from dm2.agent.settings import PPO, Imitation, Matching
from dm2.agent.state import Memory
from dm2.agent.types import Trajectory, View
from dm2.errors import InputError

T, N, O, A = 6, 4, 5, 3  # noqa: E741
GAMMA, LAMBDA, HIDDEN = 0.5, 0.75, 8


def learner(method, **ppo):
    """One agent's learning rules; an imitator's reward has absorbing states in it."""
    shared = {"hidden": HIDDEN, "discount": GAMMA, "gae_lambda": LAMBDA, "head_gain": 1.0}
    settings = PPO(**(shared | ppo))
    if method == "ippo":
        return Learner(settings, None, O, A)
    small = {"hidden": HIDDEN, "updates": 2, "batch": 8, "survival": "absorbing"}
    mixing = {"coefficient": 0.5, "unit": "reward", "task_weight": 2.0}
    imitation = Imitation(**mixing, reward="softplus", **small)
    return Learner(settings, imitation, O, A)


# The steps are too small to move the policy, but every bit of the new state is compared.
IMITATING = learner("dm2", epochs=1, minibatches=2, learning_rate=1e-6)
INIT, UPDATE = jax.jit(IMITATING.init), jax.jit(IMITATING.learn)
ACT = jax.jit(IMITATING.act, static_argnums=4)
assert IMITATING.reward.imitator is not None
IMITATOR = IMITATING.reward.imitator
REWARDS = jax.jit(lambda *rollout: IMITATOR.rewards(*rollout)[0])
POLICY, VALUE = jax.jit(IMITATING.policy), jax.jit(IMITATING.value)
AGENT = INIT(jax.random.PRNGKey(0))


def assert_identical(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def differ(a, b):
    """Whether any number of two trees differs."""
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return any(np.any(np.asarray(x) != np.asarray(y)) for x, y in pairs)


def per_step(text):
    """Rows are environments in the text, columns steps: `[T, N]` flags, true where 1."""
    rows = [[mark == "1" for mark in row] for row in text.split()]
    return jnp.asarray(rows).T


# Environment 0 lives through a termination at step 2 and a time limit at 5. 1 dies by step 1, its
# episode terminates at 3. 2 dies by step 2 and is still dead when the rollout is cut. 3 is dead at
# first, until its episode is cut by the time limit at 1, and dies by the last step.
FATES = {
    "alive": per_step("111111 110011 111000 001111"),
    "next_alive": per_step("111111 100111 110000 011110"),
    "starts": per_step("100100 100010 100000 001000"),
    "terminated": per_step("001000 000100 000000 000000"),
    "ended": per_step("001001 000100 000000 010000"),
}
EVERYONE = {
    **FATES,
    "alive": per_step("111111 " * N),
    "next_alive": per_step("111111 " * N),
}


def random_memory(seed):
    """A memory in mid-episode."""
    rng = np.random.default_rng(seed)
    actor, critic = (jnp.asarray(rng.normal(size=(N, HIDDEN)), jnp.float32) for _ in range(2))
    return Memory(actor, critic, jnp.asarray(rng.normal(size=N), jnp.float32))


def play(act, agent, memory, view, key):
    """Acts on given views `[T, N, ...]`; returns the actions and what learning needs of them."""

    def step(memory, now):
        key, view = now
        memory, actions, extras = act(agent, memory, key, view, greedy=False)
        return memory, (actions, extras)

    keys = jax.random.split(key, len(view.alive))
    return jax.lax.scan(step, memory, (keys, view))[1]


PLAY = jax.jit(functools.partial(play, IMITATING.act, AGENT))


def trajectory(fates, seed=0):
    """Random observations and rewards, actions by the agent, values held after death."""
    rng = np.random.default_rng(seed)
    observations = jnp.asarray(rng.normal(size=(T, N, O)), jnp.float32)
    legal = jnp.asarray(rng.random((T, N, A)) < 0.7).at[..., 0].set(True)
    view = View(observations, legal, fates["alive"], fates["starts"])
    memory = random_memory(seed)
    actions, extras = PLAY(memory, view, jax.random.PRNGKey(seed))
    cut = jnp.asarray(rng.normal(size=(T, N)), jnp.float32)
    return Trajectory(
        legal=legal,
        actions=actions,
        rewards=jnp.asarray(rng.normal(size=(T, N)), jnp.float32),
        time_left=jnp.broadcast_to(jnp.arange(9, 9 - T, -1)[:, None], (T, N)),
        extras=extras,
        # A dead agent's value is held.
        bootstrap=jnp.where(fates["next_alive"], cut, extras.values),
        memory=memory,
        progress=jnp.zeros(()),
        **fates,
    )


def with_memory(path, memory):
    """The same rollout, as if it had begun with another memory."""
    return path._replace(memory=memory)


def expert(seed=1):
    rows = np.random.default_rng(seed).normal(1.0, 1.0, (10, O))
    return Expert(jnp.asarray(rows, jnp.float32), jnp.asarray(10), jnp.asarray(0.25))


# ---- bookkeeping


def test_an_imitator_without_an_expert_is_no_other_method():
    """It would learn from the task's reward alone, as IPPO, and nobody would know."""
    with pytest.raises(InputError, match="experts = None: these agents learn by imitation"):
        IMITATING.learn(AGENT, trajectory(FATES), None)


def test_initialisation_is_determined_by_the_key():
    assert_identical(INIT(jax.random.PRNGKey(0)), AGENT)
    other = INIT(jax.random.PRNGKey(1))
    for part in ("key", "actor", "critic"):
        assert differ(getattr(other, part), getattr(AGENT, part))
    assert differ(other.discriminator.params, AGENT.discriminator.params)
    actor, critic = AGENT.actor["params"], AGENT.critic["params"]
    assert differ(actor["dense_1"], critic["dense_1"])


def test_an_update_advances_the_key_and_is_reproducible():
    arguments = (trajectory(FATES), expert())
    first, metrics = UPDATE(AGENT, *arguments)
    assert_identical(UPDATE(AGENT, *arguments), (first, metrics))
    second, _ = UPDATE(first, *arguments)
    # The keys of three rollouts of three steps and those of learning are all different.
    keys = [tuple(np.asarray(x.key).tolist()) for x in (AGENT, first, second)]
    for agent in (AGENT, first, second):
        keys += [tuple(key) for key in np.asarray(IMITATING.action_keys(agent, 3)).tolist()]
    assert len(set(keys)) == 12
    for part in ("actor", "critic", "discriminator", "scale"):
        assert differ(getattr(first, part), getattr(AGENT, part))


def test_acting_is_legal_and_holds_the_value_of_the_dead():
    rng = np.random.default_rng(2)
    observations = jnp.asarray(rng.normal(size=(N, O)), jnp.float32)
    legal = jnp.asarray([[1, 0, 1], [0, 1, 0], [0, 1, 1], [1, 1, 1]], bool)
    alive, starts = jnp.array([1, 0, 1, 0], bool), jnp.array([0, 0, 1, 1], bool)
    memory, view = random_memory(3), View(observations, legal, alive, starts)
    _, logits = POLICY(AGENT, memory, view)
    _, values = VALUE(AGENT, memory, view)
    expected, drawn = np.asarray(jax.nn.log_softmax(mask_logits(logits, legal))), []
    keys = map(jax.random.PRNGKey, range(20))
    acted = [ACT(AGENT, memory, key, view, False) for key in keys]
    for _, actions, extras in acted:
        assert np.all(np.asarray(legal)[np.arange(N), actions])
        np.testing.assert_allclose(extras.log_probs, expected[np.arange(N), actions], rtol=1e-5)
        drawn.append(np.asarray(actions))
    assert len({tuple(row) for row in drawn}) > 1
    held = np.where(alive, values, memory.value)
    after, _, extras = acted[-1]
    for value in (after.value, extras.values, IMITATING.bootstrap(AGENT, memory, view)):
        np.testing.assert_allclose(value, held, rtol=1e-5, atol=1e-6)
    # Greedy, the most likely action is taken, whatever the key; nothing else is different.
    best = np.where(legal, logits, -np.inf).argmax(-1)
    for seed in range(2):
        again, actions, _ = ACT(AGENT, memory, jax.random.PRNGKey(seed), view, True)
        np.testing.assert_array_equal(actions, best)
        assert_identical(again, after)


# ---- what goes into an update


def numpy_returns(rewards, path):
    """Generalised advantages, equation by equation, plus the values."""
    advantages, after, values = np.zeros((T, N)), np.zeros(N), np.asarray(path.extras.values)
    for t in reversed(range(T)):
        # What followed, but where the episode or the rollout was cut.
        cut = t == T - 1 or path.ended[t]
        following = np.where(cut, path.bootstrap[t], values[min(t + 1, T - 1)])
        following = np.where(path.terminated[t], 0.0, following)
        delta = rewards[t] + GAMMA * following - values[t]
        decay = GAMMA * np.where(path.next_alive[t], LAMBDA, 1.0)
        after = delta + np.where(path.ended[t], 0.0, decay * after)
        advantages[t] = np.where(path.alive[t], after, 0.0)
    return advantages + values


def mixed_rewards(agent, path, idle):
    """2 r_env + r_imitation / 2, with the given idle steps."""
    imitation = REWARDS(agent.discriminator, path.extras.observations, path.alive, idle)
    return 2.0 * np.asarray(path.rewards) + 0.5 * np.asarray(imitation)


class FakeImitator:
    """Notes what it is asked; the imitation reward is 1 per idle step."""

    takes_actions = False

    def update(self, state, key, expert, observations, alive, idle, moments, actions):
        self.updated = (key, expert, observations, alive, idle)
        return state, {}

    def rewards(self, state, observations, alive, idle, moments, actions):
        self.rewarded = (observations, alive, idle)
        return idle.astype(jnp.float32), jnp.asarray(0.25)


# `time_left` is 9, 8, 7, 6, 5, 4. Episodes terminate in environment 0 at step 2 and in 1 at step 3,
# where the agent is dead; death alone and a time limit leave no step unplayed.
IDLE = jnp.zeros((T, N), int).at[2, 0].set(7).at[3, 1].set(6)


def test_the_mixed_reward_by_hand():
    rules, path, theirs = learner("dm2"), trajectory(FATES), expert()
    fake = FakeImitator()
    rules.reward.imitator = cast(Any, fake)
    rewards, _, metrics = rules.reward.of_rollout(AGENT, jax.random.PRNGKey(0), path, theirs)
    # 7 idle steps at one of 6 + 4 + 3 + 4 = 17 living steps; the others are paid to the dead.
    assert np.sum(path.alive) == 17
    assert metrics["imitation_reward"] == 0.25
    np.testing.assert_allclose(rewards, 2.0 * path.rewards + 0.5 * IDLE, rtol=1e-6)
    assert_identical(fake.updated[1:], (theirs, path.extras.observations, path.alive, IDLE))
    assert_identical(fake.rewarded, (path.extras.observations, path.alive, IDLE))


def test_standardised_observations_are_rounded_as_the_experts_were():
    """From 512 to 1024 numbers are 0.5 apart in float16, from 2^-24 down to nothing 2^-24."""
    rules, path, theirs = learner("dm2"), trajectory(FATES), expert()
    shown = jnp.resize(jnp.array([900.3, 900.2, -1023.8, 3e-8, 1e-8]), (T, N, O))
    rounded = jnp.resize(jnp.array([900.5, 900.0, -1024.0, 2**-24, 0.0]), (T, N, O))
    path = path._replace(extras=path.extras._replace(observations=shown))
    half = theirs._replace(observations=theirs.observations.astype(jnp.float16))
    standardising = AGENT._replace(moments=Moments.initial(O))

    @jax.jit
    def observed(agent, expert):
        fake = FakeImitator()
        rules.reward.imitator = cast(Any, fake)
        rules.reward.of_rollout(agent, jax.random.PRNGKey(0), path, expert)
        return fake.updated[2], fake.rewarded[0]

    for agent, known, expected in (
        (standardising, half, rounded),
        (standardising, theirs, shown),
        (AGENT, half, shown),  # as they came, the rounding is small: battles are left alone
    ):
        for rows in observed(agent, known):
            np.testing.assert_array_equal(rows, expected, strict=True)


def test_the_returns_of_an_update_are_those_of_the_mixed_reward():
    path = trajectory(FATES)
    agent, _ = UPDATE(AGENT, path, expert())
    living = np.asarray(path.alive)
    returns = numpy_returns(mixed_rewards(agent, path, IDLE), path)[living]
    assert agent.scale.mean == pytest.approx(returns.mean(), rel=1e-4)
    assert agent.scale.std == pytest.approx(returns.std(), rel=1e-4)


def test_a_new_policy_starts_where_the_old_one_acted():
    """Before the first step the ratio is 1 and the critic's predictions are the values of the
    rollout: memories, resets, minibatches and scales line up."""
    path = trajectory(EVERYONE)
    idle = jnp.where(path.terminated, path.time_left, 0)
    for seed in range(4):  # four ways to draw the minibatches
        agent = AGENT._replace(key=jax.random.PRNGKey(seed))
        agent, metrics = UPDATE(agent, path, expert())
        assert metrics["approx_kl"] < 1e-6
        assert metrics["clip_fraction"] == 0.0
        errors = numpy_returns(mixed_rewards(agent, path, idle), path) - path.extras.values
        expected = 0.5 * np.mean(np.square(errors / agent.scale.std))
        assert metrics["value_loss"] == pytest.approx(expected, rel=1e-3)
    # Another memory at the start of the rollout would be noticed.
    _, metrics = UPDATE(AGENT, with_memory(path, random_memory(5)), expert())
    assert metrics["approx_kl"] > 1e-4


# ---- death


def spoil(path, where):
    """Other observations, actions and so on at some steps."""
    rng = np.random.default_rng(4)
    noise = jnp.asarray(rng.normal(0.0, 1e3, (T, N, O)), jnp.float32)
    extras = path.extras
    return path._replace(
        legal=jnp.where(where[..., None], ~path.legal, path.legal),
        actions=jnp.where(where, (path.actions + 1) % A, path.actions),
        extras=extras._replace(
            log_probs=jnp.where(where, -50.0, extras.log_probs),
            inputs=jnp.where(where[..., None], noise, extras.inputs),
            observations=jnp.where(where[..., None], noise, extras.observations),
        ),
    )


def test_dead_steps_change_no_bit_of_the_agent():
    path, others = trajectory(FATES), (expert(),)
    reference = UPDATE(AGENT, path, *others)
    assert_identical(UPDATE(AGENT, spoil(path, ~path.alive), *others), reference)
    # A single living step would be noticed by every part of it.
    one = jnp.zeros((T, N), bool).at[2, 2].set(True)
    spoiled, _ = UPDATE(AGENT, spoil(path, one), *others)
    for part in ("actor_opt", "critic_opt", "discriminator"):
        assert differ(getattr(spoiled, part), getattr(reference[0], part))


def test_the_teams_reward_after_death_counts_within_the_episode():
    path, others = trajectory(FATES), (expert(),)
    reference, _ = UPDATE(AGENT, path, *others)
    for step, env, counts in ((3, 1, True), (5, 2, True), (1, 3, False)):
        rewards = path.rewards.at[step, env].add(10.0)
        changed, _ = UPDATE(AGENT, path._replace(rewards=rewards), *others)
        assert differ(changed.actor_opt, reference.actor_opt) == counts
        assert differ(changed.scale, reference.scale) == counts


@pytest.mark.parametrize("own", [False, True])
def test_what_a_cut_leaves_is_worth_nothing_to_the_dead_where_rewards_end_with_life(own):
    """By hand: the agent of environment 2 dies with step 2, that of 3 with step 5, and both
    episodes are cut after it; that of 0 lives."""
    settings = PPO(hidden=HIDDEN, discount=GAMMA, gae_lambda=LAMBDA)
    rules, path = Learner(settings, None, O, A, own_rewards=own), trajectory(FATES)
    agent, prepared, _ = rules.prepare(rules.init(jax.random.PRNGKey(1)), path, None)
    returns = agent.scale.restore(prepared.value_targets)
    rewards, beyond = np.asarray(path.rewards), np.asarray(path.bootstrap[5])
    kept = 0.0 if own else 1.0
    rest = sum(GAMMA**k * rewards[2 + k, 2] for k in range(4))
    assert returns[2, 2] == pytest.approx(rest + kept * GAMMA**4 * beyond[2], rel=1e-4)
    assert returns[5, 3] == pytest.approx(rewards[5, 3] + kept * GAMMA * beyond[3], rel=1e-4)
    assert returns[5, 0] == pytest.approx(rewards[5, 0] + GAMMA * beyond[0], rel=1e-4)


@pytest.mark.parametrize(
    ("imitation", "own", "paid"),
    [
        (None, False, True),
        (None, True, False),
        (Matching(), False, False),
        (Matching(survival="none"), False, False),
        (Matching(survival="absorbing"), False, True),
        (Imitation(), False, True),
        (Imitation(), True, False),
        (Imitation(survival="absorbing"), True, True),
    ],
)
def test_rewards_end_with_life_unless_the_team_or_an_absorbing_state_pays(imitation, own, paid):
    rules = Learner(PPO(), imitation, O, A, own_rewards=own)
    assert rules.reward.paid_after_death == paid


# In all environments the agent dies with step 1. The episode terminates in 0 with step 3, in 1 with
# step 1; in 2 the rollout cuts it after step 5, in 3 a time limit after step 3.
DEATHS = {
    "alive": per_step("110000 " * N),
    "next_alive": per_step("100000 " * N),
    "starts": per_step("100010 101000 100000 100010"),
    "terminated": per_step("000100 010000 000000 000000"),
    "ended": per_step("000100 010000 000000 000100"),
}


def imitation_returns(ppo, path, agent, value):
    """Advantages and values of the imitation's reward alone, with the same value everywhere."""
    assert IMITATING.reward.imitator is not None
    parts = (path.extras.observations, path.alive, idle_steps(path))
    rewards = REWARDS(agent.discriminator, *parts)
    values = jnp.full((T, N), value)
    returns = rollout_advantages(ppo, path, rewards, values, values) + values
    return np.asarray(returns)[:2]


def test_the_time_after_death_is_paid_once_wherever_it_is_cut():
    """An agent that earns r at every step of its life and in the absorbing state is worth r / (1 -
    gamma) always, whatever ends the episode (the limit is too far away to be felt)."""
    path = trajectory(DEATHS)._replace(time_left=jnp.full((T, N), 60))
    # A discriminator that knows nothing: softplus(0) = ln 2 everywhere.
    blank = jax.tree.map(jnp.zeros_like, AGENT.discriminator)
    worth = np.log(2) / (1 - GAMMA)
    returns = imitation_returns(IMITATING.ppo, path, AGENT._replace(discriminator=blank), worth)
    np.testing.assert_allclose(returns, np.full((2, N), worth), rtol=1e-5)


def test_absorbing_rewards_sum_up_to_those_of_the_padded_episode():
    """By plain arithmetic: what the agent earns alive, then the absorbing state's reward up to the
    limit of 7 steps (4 where the time limit of a shorter game ended it)."""
    path = trajectory(DEATHS)
    path = path._replace(time_left=jnp.broadcast_to(jnp.arange(6, 6 - T, -1)[:, None], (T, N)))
    returns = imitation_returns(PPO(discount=GAMMA, gae_lambda=1.0), path, AGENT, 0.0)
    assert IMITATING.reward.imitator is not None
    one = jnp.zeros((T, N), bool).at[0, 0].set(True)  # who is dead earns the absorbing reward
    nothing = jnp.zeros((T, N), int)
    observations = path.extras.observations
    living = np.asarray(REWARDS(AGENT.discriminator, observations, path.alive, nothing))
    still = float(REWARDS(AGENT.discriminator, observations, one, nothing)[1, 0])
    for n, length in enumerate((7, 7, 6, 4)):  # the rollout cuts 2 before its last step
        padded = [*living[:2, n], *[still] * (length - 2)]
        for t in range(2):
            expected = sum(GAMMA**k * reward for k, reward in enumerate(padded[t:]))
            assert returns[t, n] == pytest.approx(expected, rel=1e-5)


# ---- learning

STEPS, ENVS, CONTEXTS = 4, 64, 3
LEARNING = learner("ippo", epochs=4, minibatches=2, learning_rate=1e-2)


def contexts(which):
    """Observations that tell the context: a one-hot code and two constants."""
    code = jax.nn.one_hot(which, CONTEXTS)
    return jnp.concatenate([code, jnp.broadcast_to(jnp.array([0.3, -0.2]), (*which.shape, 2))], -1)


@jax.jit
def iterate(agent, key, right, bonus, single):
    """Play and learn from one rollout: the reward is 1 for the context's right action, plus the
    context's bonus. Contexts are drawn anew at every step; episodes last one step if `single`,
    otherwise all of the rollout."""
    context_key, act_key = jax.random.split(key)
    which = jax.random.randint(context_key, (STEPS, ENVS), 0, CONTEXTS)
    yes = jnp.ones((STEPS, ENVS), bool)
    first, last = (jnp.arange(STEPS)[:, None] == t for t in (0, STEPS - 1))
    memory = LEARNING.memory(ENVS)
    legal = jnp.ones((STEPS, ENVS, A), bool)
    view = View(contexts(which), legal, yes, yes & (single | first))
    actions, extras = play(LEARNING.act, agent, memory, view, act_key)
    path = Trajectory(
        legal=legal,
        alive=yes,
        starts=view.starts,
        actions=actions,
        extras=extras,
        bootstrap=jnp.zeros((STEPS, ENVS)),
        memory=memory,
        next_alive=yes,
        rewards=bonus[which] + (actions == right[which]),
        terminated=yes & (single | last),
        ended=yes & (single | last),
        time_left=jnp.zeros((STEPS, ENVS), int),
        progress=jnp.zeros(()),
    )
    return LEARNING.learn(agent, path, None)[0]


def learn(right, bonus, single, updates):
    """Each context's chance of its right action, and its value, at the start of an episode."""
    agent = AGENT._replace(discriminator=None)
    for key in jax.random.split(jax.random.PRNGKey(6), updates):
        agent = iterate(agent, key, jnp.asarray(right), jnp.asarray(bonus), single)
    memory, yes = LEARNING.memory(CONTEXTS), jnp.ones(CONTEXTS, bool)
    view = View(contexts(jnp.arange(CONTEXTS)), jnp.ones((CONTEXTS, A), bool), yes, yes)
    _, logits = POLICY(agent, memory, view)
    _, values = VALUE(agent, memory, view)
    chances = jax.nn.softmax(logits)[jnp.arange(CONTEXTS), jnp.asarray(right)]
    return np.asarray(chances), np.asarray(values)


def test_a_bandit_learns_the_action_that_pays():
    chances, values = learn([1, 1, 1], [0.0, 0.0, 0.0], True, 25)
    assert np.all(chances > 0.8)
    # The mean reward is the chance of action 1.
    np.testing.assert_allclose(values, chances, atol=0.1)


def test_actions_rewards_and_values_belong_to_their_observations():
    bonus = [-5.0, 0.0, 20.0]
    chances, values = learn([2, 0, 1], bonus, True, 40)
    assert np.all(chances > 0.8)
    np.testing.assert_allclose(values, bonus + chances, atol=1.0)


def test_actions_and_rewards_belong_to_their_steps_within_an_episode():
    chances, _ = learn([2, 0, 1], [0.0, 0.0, 0.0], False, 30)
    assert np.all(chances > 0.8)
