"""Exact quantities of small games against hand arithmetic, rollouts and other formulas."""

import dataclasses

import hypothesis
import hypothesis.strategies as st
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon

from dm2.agent import discriminator
from dm2.errors import InputError
from dm2.theory import (
    Algorithm,
    History,
    MarkovGame,
    Scenario,
    bound_top,
    compatible,
    gail,
    marginals,
    run,
    scenario,
    summary,
)
from dm2.theory.algorithm import step
from dm2.theory.compatibility import sample_targets, sampling_tolerance
from dm2.theory.gail import (
    converged_reward,
    cross_entropy,
    loss,
    optimal_logits,
    reward_of,
    saddle_value,
)
from dm2.theory.games import random_games, random_policies
from dm2.theory.quantities import (
    best_response,
    individual_objective,
    joint_objective,
    joint_policy,
    joint_visitation,
    lower_bound,
    matches,
    nash_gaps,
    optimal_joint_policy,
    returns,
    state_visitation,
    visitation_bounds,
)
from dm2.theory.scenarios import four_tile, handshake, lift

sizes = st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 3))
seeds = st.integers(0, 2**32 - 1)
few = hypothesis.settings(deadline=None, max_examples=40)

# Two agents, two states, gamma = 1/2, starting in state 0. Both playing 1 leads to state 1,
# anything else to state 0. Agent 0 is paid 1 in state 1, agent 1 for playing 1.
AHEAD = np.zeros((2, 4, 2))
AHEAD[:, :3, 0] = 1
AHEAD[:, 3, 1] = 1
PAID = np.zeros((2, 2, 4))
PAID[0, 1, :] = 1
PAID[1, :, [1, 3]] = 1
GAME = MarkovGame(np.array([1.0, 0.0]), AHEAD, PAID, np.array(0.5), actions=2)
# Agent 0 plays 1 half of the time; agent 1 always in state 0, half of the time in state 1.
POLICIES = np.array([[[0.5, 0.5], [0.5, 0.5]], [[0.0, 1.0], [0.5, 0.5]]])
EXPERT = np.zeros((2, 2, 2))
EXPERT[..., 1] = 1


def close(got, wanted):
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-12, equal_nan=False)


def test_visitations_by_hand():
    # P(0 -> 1) = 1/2, P(1 -> 1) = 1/4, so rho(1) = 1/2 (rho(0) / 2 + rho(1) / 4), that is
    # rho(1) = 2/7 rho(0): rho = 7/9, 2/9. Then times the policies.
    close(state_visitation(GAME, POLICIES), [7 / 9, 2 / 9])
    close(joint_visitation(GAME, POLICIES), [[0, 7 / 18, 0, 7 / 18], [1 / 18] * 4])
    agents = [[[7 / 18, 7 / 18], [1 / 9, 1 / 9]], [[0, 7 / 9], [1 / 9, 1 / 9]]]
    close(marginals(GAME, POLICIES), agents)
    # The expert: rho(1) = 1/2 (rho(0) + rho(1)) = 1/2.
    close(state_visitation(GAME, EXPERT), [0.5, 0.5])


def test_a_joint_action_counts_from_the_first_agent():
    policies = np.array([[[1.0, 0.0]], [[0.0, 1.0]], [[0.25, 0.75]]])
    # a_0 = 0, a_1 = 1: indices 0 1 0 = 2 and 0 1 1 = 3.
    close(joint_policy(policies), [[0, 0, 0.25, 0.75, 0, 0, 0, 0]])


def test_objectives_by_hand():
    # P(all match) = 1/2 in state 0, 1/4 in state 1: J = 1 + 7/9 * 1/2 + 2/9 * 1/4 = 13/9.
    close(joint_objective(GAME, POLICIES, EXPERT), 13 / 9)
    # Sums of single matches: 3/2 and 1: L = 7/9 * 3/2 + 2/9 = 25/18; L_eps = eps * 5/2.
    close(individual_objective(GAME, POLICIES, EXPERT), 25 / 18)
    close(lower_bound(POLICIES, EXPERT, np.array(0.1)), 0.25)
    close(matches(POLICIES, EXPERT), [[0.5, 0.5], [1, 0.5]])
    close(joint_objective(GAME, EXPERT, EXPERT), 2)
    close(individual_objective(GAME, EXPERT, EXPERT), 2)


def test_returns_best_responses_and_nash_gaps_by_hand():
    # Agent 0: rho(1) / (1 - gamma) = 4/9; agent 1: (7/9 + 1/9) * 2 = 16/9.
    close(returns(GAME, POLICIES), [4 / 9, 16 / 9])
    # Agent 0 at its best plays 1: P(0 -> 1) = 1, P(1 -> 1) = 1/2, so
    # rho(1) = 1/2 (rho(0) + rho(1) / 2): rho(1) = 2/5, return 4/5.
    value, policy = best_response(GAME, POLICIES, 0)
    close(value, 4 / 5)
    close(policy, EXPERT[0])
    close(nash_gaps(GAME, POLICIES), [4 / 5 - 4 / 9, 2 - 16 / 9])
    close(nash_gaps(GAME, EXPERT), [0, 0])
    close(optimal_joint_policy(GAME), EXPERT)


def test_the_range_of_visitations_by_hand():
    # State 1 can be avoided for good, and is visited half of the time at the most.
    low, high = visitation_bounds(GAME)
    close(low, [0.5, 0])
    close(high, [1, 0.5])


def test_the_visitation_agrees_with_rollouts():
    rng = np.random.default_rng(0)
    game = random_games(1, 2, 4, 2, rng, discount=0.8)[0]
    policies = random_policies(game, rng)
    episodes, steps = 4000, 70  # 0.8^70 = 2e-7
    state = rng.choice(4, size=episodes, p=game.initial)
    visits = np.zeros((episodes, 4))
    for t in range(steps):
        visits[np.arange(episodes), state] += 0.2 * 0.8**t
        # Each agent draws its own action; the joint action decides on the next state.
        drawn = [
            (rng.random(episodes)[:, None] > policies[i, state].cumsum(-1)).sum(-1) for i in (0, 1)
        ]
        ahead = game.transitions[state, 2 * drawn[0] + drawn[1]]
        state = (rng.random(episodes)[:, None] > ahead.cumsum(-1)).sum(-1).clip(max=3)
    error = visits.std(0) / np.sqrt(episodes)
    assert (np.abs(visits.mean(0) - state_visitation(game, policies)) < 4.5 * error).all()
    assert (error < 0.005).all()


@few
@hypothesis.given(sizes, seeds)
def test_a_batch_is_its_games_one_by_one(size, seed):
    rng = np.random.default_rng(seed)
    game = random_games(3, *size, rng=rng)
    policies, expert = random_policies(game, rng), random_policies(game, rng, 0.1)
    for function in (state_visitation, joint_visitation, marginals, returns, nash_gaps):
        together = function(game, policies)
        for b in range(3):
            close(together[b], function(game[b], policies[b]))
    for objective in (joint_objective, individual_objective):
        together = objective(game, policies, expert)
        close(together, [objective(game[b], policies[b], expert[b]) for b in range(3)])


@few
@hypothesis.given(sizes, seeds, st.floats(0.01, 1.0))
def test_random_games_keep_their_floor(size, seed, share):
    rng = np.random.default_rng(seed)
    floor = share / size[1]
    game = random_games(2, *size, rng=rng, floor=floor)
    low, high = visitation_bounds(game)
    assert (low >= floor - 1e-12).all()
    visits = state_visitation(game, random_policies(game, rng, 0.3))
    assert (visits >= low - 1e-12).all()
    assert (visits <= high + 1e-12).all()


@few
@hypothesis.given(sizes, seeds)
def test_no_policy_beats_the_best_response(size, seed):
    rng = np.random.default_rng(seed)
    game = random_games(1, *size, rng=rng)[0]
    policies = random_policies(game, rng)
    for i in range(game.agents):
        value, best = best_response(game, policies, i)
        tried = policies.copy()
        tried[i] = best
        close(returns(game, tried)[i], value)
        tried[i] = random_policies(game, rng, 0.3)[i]
        assert returns(game, tried)[i] <= value + 1e-10


# The discriminator: target and policy of one agent, two states and two actions.
TARGET = np.array([[0.5, 0.0], [0.25, 0.25]])
OURS = np.full((2, 2), 0.25)


def test_the_optimal_discriminator_by_hand():
    # t / m = 2, 0, 1, 1, so softplus(l) = log(1 + t/m) = log 3, 0, log 2, log 2.
    with np.errstate(divide="ignore"):
        close(optimal_logits(TARGET, OURS), np.log([[2, 0], [1, 1]]))
    close(converged_reward("softplus", TARGET, OURS), np.log([[3, 1], [2, 2]]))
    # With lambda = 1/4: D = (t + 1/4) / (t + m + 1/2) = 3/5, 1/3, 1/2, 1/2.
    share = np.array([[3 / 5, 1 / 3], [1 / 2, 1 / 2]])
    close(converged_reward("log", TARGET, OURS, 0.25), np.log(share))
    close(converged_reward("logit", TARGET, OURS, 0.25), np.log(share / (1 - share)))
    close(converged_reward("paper", TARGET, OURS, 0.25), -np.log(1 - share))
    close(converged_reward("quadratic", TARGET, OURS), [[0.25, -0.25], [0, 0]])
    # Nobody goes there: no evidence either way.
    close(optimal_logits(np.zeros((1, 1)), np.zeros((1, 1))), 0)


def test_the_saddle_by_hand():
    # D = 2/3, 0, 1/2, 1/2:
    # 1/2 log 2/3 + 1/4 log 1/3 + 1/4 log 1 + 1/4 (log 1/2 + log 1/2) * 2 = ... - log 2
    wanted = 0.5 * np.log(2 / 3) + 0.25 * np.log(1 / 3) - np.log(2)
    close(saddle_value(TARGET, OURS), wanted)
    close(saddle_value(OURS, OURS), -np.log(4))
    # V(expert) - V(policy) = sum of (t - m) r / (1 - gamma) = (log 3 - 0) / 4 * 2
    reward = converged_reward("softplus", TARGET, OURS)
    close(loss(TARGET, OURS, reward, np.array(0.5)), np.log(3) / 2)


@pytest.mark.parametrize("form", gail.FORMS[:-1])  # all but `quadratic`, which the theory adds
def test_reward_forms_are_those_of_the_learner(form):
    logits = np.linspace(-8, 8, 33)
    learner = np.asarray(discriminator.reward_of(form, jnp.asarray(logits, jnp.float32)))
    np.testing.assert_allclose(reward_of(form, logits), learner, rtol=2e-6, atol=1e-6)


@few
@hypothesis.given(seeds, st.sampled_from([0.0, 1e-3, 0.5]))
def test_no_discriminator_beats_the_optimal_one(seed, smoothing):
    rng = np.random.default_rng(seed)
    target, ours = rng.dirichlet(np.full(6, 0.5), 2).reshape(2, 3, 2)
    best = saddle_value(target, ours, smoothing)
    assert cross_entropy(rng.normal(0, 2, (3, 2)), target, ours, smoothing) <= best + 1e-12
    near = optimal_logits(target, ours, smoothing) + rng.normal(0, 0.01, (3, 2))
    assert cross_entropy(near, target, ours, smoothing) <= best + 1e-12
    assert saddle_value(target, target, smoothing) <= best + 1e-12
    if smoothing == 0:
        divergence = jensenshannon(target.ravel(), ours.ravel()) ** 2
        close(best, 2 * divergence - np.log(4))


@few
@hypothesis.given(seeds, st.sampled_from([0.0, 0.1]))
def test_the_saddle_is_the_papers_with_a_convex_regulariser(seed, smoothing):
    """sum (t - m) r - psi(r), psi(r) = sum (t + lambda) (r - log(1 - e^-r)), r = softplus(l)."""
    rng = np.random.default_rng(seed)
    target, ours = rng.dirichlet(np.ones(6), 2).reshape(2, 3, 2)

    def psi(r):
        return ((target + smoothing) * (r - np.log(-np.expm1(-r)))).sum()

    logits = rng.normal(0, 2, (3, 2))
    r = reward_of("softplus", logits)
    value = ((target - ours) * r).sum() - psi(r)
    close(value, cross_entropy(logits, target, ours, smoothing))
    other = reward_of("softplus", rng.normal(0, 2, (3, 2)))
    assert psi((r + other) / 2) <= (psi(r) + psi(other)) / 2 + 1e-12


@few
@hypothesis.given(seeds)
def test_a_step_is_a_natural_gradient_within_its_bound(seed):
    """Against Fisher^-1 times a numerical gradient in the logits; and the KL bound, and V rises."""
    rng = np.random.default_rng(seed)
    game = random_games(1, 2, 3, 2, rng, floor=0.05, discount=0.7)[0]
    policies, reward = random_policies(game, rng, 3.0), rng.random((3, 2))
    paid = game.with_rewards(np.stack([reward[:, [0, 0, 1, 1]], np.zeros((3, 4))]))
    kl = 0.01
    new = step(Algorithm(), game, policies, 0, reward, kl)
    moved = policies.copy()
    moved[0] = new
    assert returns(paid, moved)[0] > returns(paid, policies)[0]
    visits, old = state_visitation(game, policies), policies[0]
    assert (visits * (old * np.log(old / new)).sum(-1)).sum() <= kl

    def value(logits):
        tried = policies.copy()
        tried[0] = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        return returns(paid, tried)[0]

    logits, nudges = np.log(old), 1e-5 * np.eye(6).reshape(6, 3, 2)
    slope = np.array([(value(logits + n) - value(logits - n)) / 2e-5 for n in nudges])
    fisher = np.zeros((6, 6))
    for s in range(3):
        block = visits[s] * (np.diag(old[s]) - np.outer(old[s], old[s]))
        fisher[2 * s : 2 * s + 2, 2 * s : 2 * s + 2] = block
    wanted = (np.linalg.pinv(fisher) @ slope).reshape(3, 2)
    wanted -= wanted.mean(-1, keepdims=True)
    got = np.log(new / old)
    got -= got.mean(-1, keepdims=True)
    cosine = (got * wanted).sum() / np.linalg.norm(got) / np.linalg.norm(wanted)
    assert cosine > 1 - 1e-6


def test_a_first_step_by_hand():
    # One agent, one state, gamma = 0, pi = (1/2, 1/2), t = (1, 0): r = log 3, 0; A = +-(log 3)/2.
    # pi' = softmax(eta A) with 1/2 * eta^2 * A^2 = kl, that is eta A = sqrt(2 kl) = 0.2: odds
    # e^0.4; the exact divergence log cosh 0.2 is below kl = 0.02.
    game = MarkovGame(np.ones(1), np.ones((1, 2, 1)), np.zeros((1, 1, 2)), np.array(0.0), actions=2)
    reward = converged_reward("softplus", np.array([[1.0, 0.0]]), np.array([[0.5, 0.5]]))
    new = step(Algorithm(), game, np.full((1, 1, 2), 0.5), 0, reward, 0.02)
    close(new, [[1 / (1 + np.exp(-0.4)), 1 / (1 + np.exp(0.4))]])


def test_turns_see_what_the_others_did_and_simultaneous_steps_do_not():
    game, expert, start = handshake()
    targets = marginals(game, expert)
    first = {}
    for together in (False, True):
        seen = []
        settings = Algorithm(sweeps=1, simultaneous=together)
        run(game, expert, start, settings, observer=lambda *update, seen=seen: seen.append(update))
        first[together] = seen
    assert len(first[False]) == 2
    assert len(first[True]) == 1
    _, before, after, rewards = first[False][1]
    close(before, first[False][0][2])
    close(after[:, 0], before[:, 0])
    close(rewards[0], converged_reward("softplus", targets, marginals(game, before[0])))
    _, before, after, rewards = first[True][0]
    close(rewards[0], converged_reward("softplus", targets, marginals(game, before[0])))
    assert (np.abs(after - before).max((0, 2, 3)) > 0.01).all()


def test_a_history_has_a_row_an_update_and_stops_when_nothing_moves():
    game, expert, start = lift()
    history = run(game, expert, start)
    assert history.converged
    assert (len(history.joint) - 1) % 2 == 0
    assert len(history.joint) < 400
    close(history.joint[0], joint_objective(game, start, expert))
    # Each agent lifts half of the time, in three states: L_eps = eps * 3 * 2 * 1/2.
    close(history.bound[0], 3 * visitation_bounds(game)[0].min())
    close(history.distance[0], 0.5)
    assert history.distance[-1] < 1e-6
    assert history.mismatch[-1].max() < 1e-6


def test_a_batch_runs_as_its_games_would():
    rng = np.random.default_rng(3)
    game = random_games(4, 2, 3, 2, rng)
    expert = np.eye(2)[rng.integers(2, size=(4, 2, 3))]
    start = random_policies(game, rng)
    together = run(game, expert, start)
    sweeps = set()
    for b in range(4):
        alone = run(game[b], expert[b], start[b])
        sweeps.add(len(alone.bound))
        last = len(alone.bound)
        np.testing.assert_allclose(together.bound[:last, b], alone.bound, atol=1e-9)
        np.testing.assert_allclose(together.policies[b], alone.policies, atol=1e-9)
        assert together.converged[b] == alone.converged == (last < 401)
    assert len(sweeps) > 1  # some games are left out before others


def test_states_that_look_alike_are_treated_alike():
    """A partly observed step moves both by the visitation-weighted mean of their advantages."""
    game, _, start = lift()
    same = np.ones((3, 3))
    reward = np.array([[0.0, 1.0], [0.0, 0.0], [1.0, 0.0]])
    new = step(Algorithm(myopic=True), game, start, 0, reward, 0.02, same)
    close(new, np.broadcast_to(new[0], (3, 2)))
    # Action 1's advantages are 1/2, 0 and -1/2, so their mean is (rho(0) - rho(2)) / 2, which is
    # positive. As in the first step by hand, its size does not matter: the odds are e^0.4.
    visits = state_visitation(game, start)
    assert visits[0] > visits[2]
    close(new[0], [1 / (1 + np.exp(0.4)), 1 / (1 + np.exp(-0.4))])


def test_a_step_that_would_go_too_far_is_halved():
    """One agent who cannot tell two rooms apart: action 1 leads to room 1, pays 1 in room 0 and
    -3 in room 1. Rarely there, it sees action 1 pay; going for it altogether earns
    rho = 1/2, 1/2: 2 * (1/2 - 3/2) = -2."""
    ahead = np.zeros((2, 2, 2))
    ahead[:, 0, 0] = ahead[:, 1, 1] = 1
    paid = np.array([[[0.0, 1.0], [0.0, -3.0]]])
    game = MarkovGame(np.array([1.0, 0.0]), ahead, paid, np.array(0.5), actions=2)
    old = np.broadcast_to(np.array([0.99, 0.01]), (1, 2, 2)).copy()
    close(returns(game, np.eye(2)[np.ones((1, 2), int)]), [-2])
    new = step(Algorithm(), game, old, 0, paid[0], 20.0, np.ones((2, 2)))
    assert new[0, 1] > 0.011
    assert returns(game, new[None])[0] > returns(game, old)[0] > 0


@pytest.mark.parametrize("observed", [False, True])
@pytest.mark.parametrize("settings", [Algorithm(), Algorithm(simultaneous=True, myopic=True)])
def test_a_state_that_is_never_visited_changes_nothing_elsewhere(settings, observed):
    """A random game, and the same with a fourth state that nothing leads to."""
    rng = np.random.default_rng(5)
    game = random_games(1, 2, 3, 2, rng, floor=0.05)[0]
    expert = np.eye(2)[rng.integers(2, size=(2, 3))]
    start = np.full((2, 3, 2), [0.3, 0.7])
    ahead, paid = np.zeros((4, 4, 4)), np.zeros((2, 4, 4))
    ahead[:3, :, :3], ahead[3, :, 0] = game.transitions, 1
    paid[:, :3] = game.rewards
    larger = MarkovGame(np.append(game.initial, 0), ahead, paid, game.discount, actions=2)
    there = np.full((2, 1, 2), [0.6, 0.4])
    seen = [np.array([range(states)] * 2) if observed else None for states in (3, 4)]
    without = run(game, expert, start, settings, observations=seen[0])
    both = [np.concatenate([x, there], axis=1) for x in (expert, start)]
    found = run(larger, both[0], both[1], settings, observations=seen[1])
    assert without.distance[-1] < 1e-3  # so there was something to learn
    np.testing.assert_allclose(found.policies[:, :3], without.policies, rtol=0, atol=1e-9)
    np.testing.assert_allclose(found.policies[:, 3:], there, rtol=0, atol=1e-9)
    assert found.converged == without.converged


def test_the_summary_of_a_run_by_hand():
    """Two agents in turn, three sweeps; J falls once, L never, L_eps twice."""
    rows = {
        "joint": np.array([1.2, 1.3, 1.1, 1.5, 1.5, 1.6, 1.7]),
        "individual": np.array([1.0, 1.0, 1.1, 1.1, 1.2, 1.3, 1.4]),
        "bound": np.array([0.5, 0.4, 0.6, 0.55, 0.7, 0.7, 0.7 - 1e-12]),  # the last is rounding
    }
    history = History(
        **rows,
        mismatch=np.array([[0.5, 0.5]] * 6 + [[0.25, 0.125]]),
        distance=np.array([1.0] * 6 + [0.3]),
        policies=np.full((2, 3, 2), 0.5),
        converged=np.asarray(True),
        updates_per_sweep=2,
    )
    found = summary(history)
    assert (found["sweeps"], found["converged"], found["reached_expert"]) == (3, True, False)
    assert (found["J_falls"], found["L_falls"], found["L_eps_falls"]) == (1, 0, 2)
    assert (found["J_first"], found["J_last"], found["J_highest"]) == (1.2, 1.7, 1.7)
    assert (found["L_eps_first"], found["L_eps_highest"]) == (0.5, 0.7)
    assert found["distance_to_expert"] == 0.3
    assert found["mismatch"] == [0.25, 0.125]
    near = dataclasses.replace(history, distance=history.distance / 1000)
    assert summary(near)["reached_expert"] is True
    game, expert, start = lift()
    batch = run(game[None], expert[None], start[None], Algorithm(sweeps=1))
    with pytest.raises(InputError, match="history: holds a batch"):
        summary(batch)


def test_the_top_of_the_bound_by_hand():
    # One state and one action: eps = 1, so that eps S K = K.
    game = MarkovGame(np.ones(1), np.ones((1, 1, 1)), np.zeros((3, 1, 1)), np.array(0.5), actions=1)
    policies = np.ones((3, 1, 1))
    assert bound_top(Scenario(game, policies, policies)) == pytest.approx(3)
    # Two states that nobody can influence, visited 1/4 and 3/4 of the time: 1/4 * 2 * 1.
    ahead = np.broadcast_to(np.array([0.25, 0.75]), (2, 2, 2)).copy()
    game = MarkovGame(np.array([0.25, 0.75]), ahead, np.zeros((1, 2, 2)), np.array(0.5), actions=2)
    policies = np.full((1, 2, 2), 0.5)
    assert bound_top(Scenario(game, policies, policies)) == pytest.approx(0.5)


# Definition 1


def test_an_experts_marginals_are_compatible_and_give_the_expert_back():
    game, expert, _ = four_tile()
    found = compatible(game, marginals(game, expert))
    assert found.compatible
    assert found.reason == ""
    close(found.policy, expert)


def test_two_agents_cannot_both_stand_on_tile_a():
    first, second = four_tile(on_a=0), four_tile(on_a=1)
    game = first.game
    targets = marginals(game, first.expert)
    targets[1] = marginals(game, second.expert)[1]
    found = compatible(game, targets)
    assert not found.compatible
    assert found.policy is None
    assert "different states" in found.reason
    visits = [state_visitation(game, x.expert) for x in (first, second)]
    close(found.violation, np.abs(visits[0] - visits[1]).sum())
    # Tile A is asked for twice: agent 0 on A in states 0 to 2, agent 1 on A in 3, 6 and 9.
    assert targets[0][:3].sum() + targets[1][[3, 6, 9]].sum() > 1


def test_a_correlated_teams_marginals_agree_but_no_product_induces_them():
    # State 0: hands that agree lead to 1, others to 2, both for good; gamma = 1/2. The team tosses
    # one coin for both: rho = 1/2, 1/2, 0. Independent coins part half of the time:
    # rho = 1/2, 1/4, 1/4, an L1 distance of 1/2.
    ahead = np.zeros((3, 4, 3))
    ahead[0, [0, 3], 1] = ahead[0, [1, 2], 2] = 1
    ahead[1, :, 1] = ahead[2, :, 2] = 1
    rewards = np.zeros((2, 3, 4))
    game = MarkovGame(np.eye(3)[0], ahead, rewards, np.array(0.5), actions=2)
    target = np.array([[0.25, 0.25], [0.5, 0.0], [0.0, 0.0]])
    found = compatible(game, np.stack([target, target]))
    assert not found.compatible
    assert "other states" in found.reason
    close(found.violation, 0.5)


def test_unvisited_states_leave_the_witness_free():
    stay = np.zeros((2, 2, 2))
    stay[0, :, 0] = stay[1, :, 1] = 1
    game = MarkovGame(np.eye(2)[0], stay, np.zeros((1, 2, 2)), np.array(0.5), actions=2)
    found = compatible(game, np.array([[[0.25, 0.75], [0.0, 0.0]]]))
    close(found.policy, [[[0.25, 0.75], [0.5, 0.5]]])


def test_the_sampling_tolerance_by_hand():
    # sqrt(2 (2 log 2 + log(1 / 0.5)) / 200) = sqrt(6 log 2 / 200)
    close(sampling_tolerance(200, 2, 1, 0.5), np.sqrt(6 * np.log(2) / 200))


@pytest.mark.parametrize("samples", [30, 3000])
def test_estimated_targets_are_compatible_within_their_tolerance(samples):
    rng = np.random.default_rng(samples)
    for seed in range(15):
        game, _, start = scenario("random", seed)
        targets = sample_targets(game, start, samples, rng)
        assert np.abs(targets - marginals(game, start)).sum((-2, -1)).max() > 0
        assert not compatible(game, targets).compatible
        assert compatible(game, targets, samples=samples).compatible


def test_estimated_incompatible_targets_are_refused_once_there_are_enough():
    first, second = four_tile(on_a=0), four_tile(on_a=1)
    game, rng = first.game, np.random.default_rng(0)
    for samples, verdict in ((10, True), (400, False)):
        targets = sample_targets(game, first.expert, samples, rng)
        targets[1] = sample_targets(game, second.expert, samples, rng)[1]
        assert compatible(game, targets, samples=samples).compatible is verdict


def test_compatible_under_partial_observation():
    game, _, start = scenario("random", 1)
    observations = np.array([[0, 0, 1, 1], [0, 1, 1, 2]])
    informed = marginals(game, start)
    found = compatible(game, informed, observations)
    assert not found.compatible
    blind = start.copy()
    blind[0, 1], blind[0, 3], blind[1, 2] = start[0, 0], start[0, 2], start[1, 1]
    found = compatible(game, marginals(game, blind), observations)
    assert found.compatible
    close(found.policy, blind)


# Bad input: one clear error each.


def with_field(**changes):
    return lambda: dataclasses.replace(GAME, **changes)


def tilted(array, *index):
    array = np.array(array)
    array[index] += 0.5
    return array


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (
            with_field(initial=np.array([0.5, 0.4])),
            r"initial = lowest entry 0\.4, a sum off",
        ),
        (with_field(initial=np.array([1.5, -0.5])), r"initial = lowest entry -0\.5"),
        (with_field(initial=np.array([np.nan, 1.0])), "initial = lowest entry nan"),
        (with_field(transitions=tilted(AHEAD, 0, 0, 0)), r"transitions = .* a sum off by 0\.5"),
        (with_field(transitions=AHEAD[:, :3]), r"transitions = shape \(2, 3, 2\)"),
        (with_field(rewards=PAID[:, :, :2]), r"rewards = shape \(2, 2, 2\)"),
        (with_field(rewards=PAID - np.inf), "rewards: must be finite"),
        (with_field(discount=np.array(1.0)), r"discount = 1\.0"),
        (with_field(discount=np.array(-0.1)), r"discount = -0\.1"),
        (with_field(actions=3), "2 agents with 3 actions and 2 states need"),
        (with_field(actions=0), "0 actions: needs at least one"),
        (lambda: random_games(1, 2, 4, 2, np.random.default_rng(0), floor=0.3), "floor = 0.3"),
        (lambda: run(GAME, EXPERT, POLICIES[:1]), "start = shape"),
        (lambda: run(GAME, 2 * EXPERT, POLICIES), "expert = lowest entry 0, a sum off by 1"),
        (lambda: Algorithm("linear"), "form = 'linear'"),
        (lambda: Algorithm(kl=0.0), "kl = 0.0"),
        (lambda: Algorithm(smoothing=-1.0), "smoothing = -1.0"),
        (lambda: Algorithm(sweeps=0), "sweeps = 0"),
        (lambda: Algorithm(sweeps=2.5), "sweeps = 2.5"),  # pyright: ignore[reportArgumentType]
        (lambda: Algorithm(kl=np.inf), "kl = inf"),
        (lambda: converged_reward("log", TARGET, OURS), "smoothing = 0"),
        (lambda: optimal_logits(TARGET, OURS, -0.1), "smoothing = -0.1"),
        (lambda: compatible(GAME, TARGET[None]), "targets = shape"),
        (lambda: compatible(GAME, np.stack([TARGET, TARGET / 2])), r"targets = .* off by 0\.5"),
        (lambda: compatible(GAME, np.stack([TARGET, -TARGET])), r"targets = lowest entry -0\.5"),
        (lambda: compatible(GAME, np.stack([TARGET, TARGET]), samples=0), "samples = 0"),
        (lambda: sampling_tolerance(10, 4, 2, confidence=1.0), "confidence = 1.0"),
        (lambda: compatible(GAME, np.stack([OURS, OURS]), np.arange(2)), "observations = shape"),
        (lambda: scenario("five-tile"), "four-tile"),
        (lambda: four_tile(on_a=2), "on_a = 2"),
    ],
)
def test_bad_input(make, named):
    with pytest.raises(InputError, match=named):
        make()
