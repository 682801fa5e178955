"""The paper's claims: true where they are, false where they are not, with counter-examples."""

import dataclasses
import doctest
import inspect
import json
import re
from typing import Any

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

import dm2.theory
from dm2.cli import main
from dm2.theory import (
    Algorithm,
    MarkovGame,
    claims,
    converge,
    marginals,
    measurements,
    run,
    scenario,
    summary,
    verification,
    verify,
)
from dm2.theory.algorithm import imitation_rewards
from dm2.theory.beyond import aliased_observations, observed_expert, state_margin
from dm2.theory.claims import CLAIMS
from dm2.theory.compatibility import Compatibility
from dm2.theory.gail import converged_reward
from dm2.theory.games import joint_rewards, random_games, random_policies
from dm2.theory.measurements import MEASUREMENTS, Watch
from dm2.theory.quantities import (
    agent_view,
    individual_objective,
    joint_objective,
    joint_policy,
    lower_bound,
    nash_gaps,
    optimal_joint_policy,
    returns,
    state_visitation,
    team_equilibrium,
    visitation_bounds,
)
from dm2.theory.sample import draw
from dm2.theory.scenarios import four_tile, handshake, lift, stag_hunt
from dm2.theory.verdict import judge

sizes = st.sampled_from(
    [(1, 2, 2), (1, 4, 3), (2, 1, 2), (2, 3, 2), (2, 4, 3), (3, 3, 2), (3, 2, 3)]
)
seeds = st.integers(0, 2**32 - 1)
few = hypothesis.settings(deadline=None, max_examples=10)


def close(got, wanted, tolerance=1e-12):
    np.testing.assert_allclose(got, wanted, rtol=0, atol=tolerance, equal_nan=False)


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.__name__)
@few
@hypothesis.given(sizes, seeds)
def test_the_claims_hold_on_random_games(claim, size, seed):
    verdict = claim(draw(2, *size, rng=np.random.default_rng(seed)))
    assert verdict.games == 2
    assert verdict.enforced
    assert verdict.violations == 0, verdict


@few
@hypothesis.given(sizes, seeds)
def test_cases_of_equality(size, seed):
    rng = np.random.default_rng(seed)
    agents, states, actions = size
    game = random_games(1, *size, rng=rng)[0]
    expert = np.eye(actions)[rng.integers(actions, size=(agents, states))]
    # Theorem 1: J = L where at most one agent may miss, as the union bound is then no bound.
    one = expert.copy()
    one[0] = random_policies(game, rng)[0]
    close(joint_objective(game, one, expert), individual_objective(game, one, expert))
    # Lemma 4: J = K where all match, K - 1 where somebody never does.
    close(joint_objective(game, expert, expert), agents)
    one[0] = np.roll(expert[0], 1, axis=-1)
    close(joint_objective(game, one, expert), agents - 1)
    # Observation 1: 0 where nobody ever matches, eps S K at the expert.
    epsilon = visitation_bounds(game)[0].min()
    close(lower_bound(np.roll(expert, 1, axis=-1), expert, epsilon), 0)
    close(lower_bound(expert, expert, epsilon), epsilon * states * agents)


def test_corollary_1_is_an_equality_where_all_states_are_visited_alike():
    rng = np.random.default_rng(0)
    game = random_games(1, 2, 4, 3, rng, floor=0.25)[0]
    expert = np.eye(3)[rng.integers(3, size=(2, 4))]
    policies = random_policies(game, rng)
    epsilon = visitation_bounds(game)[0].min()
    close(epsilon, 0.25)
    close(individual_objective(game, policies, expert), lower_bound(policies, expert, epsilon))


def test_l_eps_says_nothing_about_j_unless_eps_is_nearly_1_over_s():
    """max L_eps = eps S K is below K - 1 here; near the expert the sharper bound is above it."""
    game, expert, start = four_tile()
    low, high = visitation_bounds(game)
    top = lower_bound(expert, expert, low.min())
    close(top, low.min() * 12 * 2)
    assert 0 < top < 0.5  # of J = 2, which is 1 at least
    near = 0.95 * expert + 0.05 * start
    missed = 1 - 0.95 - 0.05 / 3  # by each agent in each state
    sharper = 2 - high.sum() * 2 * missed
    objective = joint_objective(game, near, expert)
    assert 1 < sharper < individual_objective(game, near, expert) < objective < 2


def test_a_wrong_bound_is_caught():
    sample = draw(20, 2, 3, 2, np.random.default_rng(0))
    policies = sample.policies[1]
    j = joint_objective(sample.game, policies, sample.expert)
    each = individual_objective(sample.game, policies, sample.expert)
    wrong = judge("wrong", "L ≥ J", each - j)
    assert wrong.violations == 20
    assert wrong.verdict == "VIOLATED"
    close(wrong.margin, (each - j).min())
    assert judge("nan", "", np.array([np.nan, 1.0])).violations == 1


def shifted(change):
    return lambda right: lambda *given: right(*given) + change


def scaled(factor):
    return lambda right: lambda *given, **named: factor * right(*given, **named)


def always(answer):
    return lambda right: lambda *given, **named: answer


def unmoved(right):
    return lambda settings, game, policies, agent, *more: policies[:, agent]


YES, NO = (Compatibility(found, None, "", 0.0, 0.0) for found in (True, False))
BROKEN = [
    (claims.condition_1, "quantities.state_visitation", scaled(0.01)),
    (claims.lemma_4, "quantities.joint_objective", shifted(0.01)),
    (claims.lemma_4, "quantities.joint_objective", shifted(-1.5)),
    (claims.lemma_5, "quantities.joint_objective", shifted(-0.01)),
    (claims.theorem_1, "quantities.individual_objective", shifted(0.01)),
    (claims.corollary_1, "quantities.lower_bound", shifted(4.0)),
    (claims.observation_1, "quantities.lower_bound", shifted(0.01)),
    (claims.observation_1, "quantities.lower_bound", scaled(-1)),
    (claims.lemma_6, "loss", scaled(-1)),
    (claims.lemma_7, "quantities.lower_bound", shifted(-0.01)),
    (claims.theorem_2, "quantities.lower_bound", scaled(-1)),
    (claims.theorem_2, "Algorithm", always(Algorithm(myopic=True, sweeps=3))),
    (claims.corollary_2, "step", unmoved),
    (claims.theorem_3, "joint_rewards", scaled(-1)),
    (claims.definition_1, "compatible", always(NO)),
    (claims.definition_1, "compatible", always(YES)),
    (claims.sharper_bound, "quantities.individual_objective", shifted(-0.01)),
    (claims.stochastic_experts, "quantities.joint_objective", shifted(-0.01)),
    (claims.states_alone, "state_margin", always(0.0)),
]


@pytest.mark.parametrize(
    ("claim", "what", "broken"), BROKEN, ids=lambda value: getattr(value, "__name__", value)
)
def test_each_claim_is_violated_once_something_in_it_is_wrong(monkeypatch, claim, what, broken):
    def sample():
        return draw(10, 2, 3, 2, np.random.default_rng(0))

    assert claim(sample()).violations == 0
    fresh = sample()
    place = claims
    *path, name = what.split(".")
    for part in path:
        place = getattr(place, part)
    monkeypatch.setattr(place, name, broken(getattr(place, name)))
    assert claim(fresh).violations > 0


def test_every_claim_is_seen_to_fail_above():
    assert {claim for claim, _, _ in BROKEN} == set(CLAIMS)


def test_violations_are_counted_by_game_and_added_up():
    one = judge("x", "", np.array([[1.0, -1.0, 3.0], [0.5, 2.0, 4.0]]))
    assert (one.games, one.violations, one.margin) == (3, 1, -1.0)
    both = one.merged(judge("x", "", np.array([-2.0])))
    assert (both.games, both.violations, both.margin) == (4, 2, -2.0)


# Where the paper's text and the truth differ.


def two_rooms(reachable):
    """One agent, action 1 leads to state 1 (if `reachable`), action 0 to state 0; gamma = 1/2."""
    ahead = np.zeros((2, 2, 2))
    ahead[:, :, 0] = 1
    if reachable:
        ahead[:, 1] = 0, 1
    start = np.array([1.0, 0.0])
    return MarkovGame(start, ahead, np.zeros((1, 2, 2)), np.array(0.5), actions=2)


def test_lemma_5_needs_the_expert_to_visit_every_state():
    right = np.array([[[0.0, 1.0], [0.0, 1.0]]])
    lazy = np.array([[[0.0, 1.0], [1.0, 0.0]]])
    # State 1 is never visited, so that what is done there costs nothing: two maximisers.
    close(joint_objective(two_rooms(reachable=False), lazy, right), 1)
    # It need not be visited by the others: here a policy can avoid it (Condition 1 fails), but
    # the expert does not. rho_E = 1/2, 1/2; lazy: rho(1) = 1/2 rho(0) = 1/3, J = 2/3 < 1.
    game = two_rooms(reachable=True)
    assert visitation_bounds(game)[0].min() == 0
    close(state_visitation(game, right), [0.5, 0.5])
    close(joint_objective(game, lazy, right), 2 / 3)


def handshake_fixed_point():
    """The team's probability of the expert's hand at which neither agent wants to change it."""
    game, expert, _ = handshake()
    targets = marginals(game, expert)

    def rewarded(match):
        policies = np.abs(expert - 1e-9)
        policies[:, 0] = match, 1 - match
        rewards = imitation_rewards(Algorithm(), targets, marginals(game, policies))
        return policies, game.with_rewards(joint_rewards(rewards))

    def drive(match):
        policies, paid = rewarded(match)
        up, down = policies.copy(), policies.copy()
        up[0, 0], down[0, 0] = (1, 0), (0, 1)
        return (returns(paid, up) - returns(paid, down))[0]

    low, high = 1e-3, 0.1
    assert drive(low) > 0 > drive(high)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if drive(middle) > 0 else (low, middle)
    return (low, *rewarded(low))


def test_theorem_2_is_false_as_written():
    """A joint policy far from the expert at which every discriminator has converged and no agent
    can raise its imitation reward: no step, however small, leaves it."""
    match, policies, paid = handshake_fixed_point()
    assert 0.03 < match < 0.04
    # 1e-9 times a reward of log(1 + 1e9 ...) is what is left of the other states' ties.
    assert nash_gaps(paid, policies).max() < 1e-5
    game, expert, start = handshake()
    assert visitation_bounds(game)[0].min() > 0.03
    for history in converge(scenario("handshake")).values():
        assert history.distance[-1] > 0.95
        # Close to the fixed point, and below what it had been on the way.
        close(history.policies[:, 0, 0], match, 0.01)
        assert history.bound[-1] < history.bound.max() - 1e-3
    # The same start, steps on the immediate reward: the expert is reached without a fall.
    mended = run(game, expert, start, Algorithm(myopic=True))
    assert mended.distance[-1] < 1e-6
    assert np.diff(mended.bound).min() >= -1e-12


def test_corollary_2_is_false_as_written():
    """One agent imitates alone, the other holds still at the other convention: the sum of its
    matches falls with the first update and never comes back to where it was. (With the default
    bound of 0.02 on the KL divergence, the second step goes too far and passes it once.)"""
    game, expert, start = handshake()
    start = np.where(np.arange(3)[:, None] == 0, start, expert)
    changes = []

    def only_first(active, before, after, rewards):
        changes.append((after - before)[0, 0, :, 0].sum())

    run(game, expert, start, Algorithm(kl=0.01, sweeps=1), observer=only_first)
    assert changes[0] < -1e-3
    # Agent 0 alone, in the game that agent 1 leaves it, for 200 updates.
    ahead, paid = agent_view(game, start, 0)
    single = MarkovGame(game.initial, ahead, paid[None], game.discount, game.actions)
    targets = marginals(game, expert)[:1]
    one = np.array(1.0)
    sums = run(single, expert[:1], start[:1], Algorithm(kl=0.01), targets, epsilon=one).bound
    close(sums[1] - sums[0], changes[0], 1e-9)
    assert len(sums) == 201
    assert (sums[1:] < sums[0] - 1e-3).all()


def test_the_assumption_is_exact_for_softplus_on_fixed_discriminators():
    # t = 0 off the expert, so r = 0 there: sum pi r = P(match) r(s, a^E).
    target, ours = np.array([[0.3, 0.0, 0.0]]), np.array([[0.1, 0.1, 0.3]])
    close(converged_reward("softplus", target, ours), [[np.log(4), 0, 0]])
    # The other reading of "-log D" pays most for what the expert never does: D is nearly 0 there,
    # and D = 3/4 for its own action.
    literal = -converged_reward("log", target, ours, 1e-9)
    close(literal[0, 0], np.log(4 / 3), 1e-7)
    assert (literal[0, 1:] > 10).all()


def test_smoothing_breaks_the_assumption():
    # t = 0.01, 0; m = 0.45, 0.05; lambda = 0.01: (t + l) / (m + l) = 1/23 for the expert's action
    # and 1/6 for the other, which therefore pays more: matching less raises the reward.
    target, ours = np.array([[0.01, 0.0]]), np.array([[0.45, 0.05]])
    for form in ("logit", "softplus", "log"):
        reward = converged_reward(form, target, ours, 0.01)
        assert reward[0, 1] > reward[0, 0]
    close(np.exp(converged_reward("logit", target, ours, 0.01)), [[1 / 23, 1 / 6]])


def test_lemma_6_says_nothing_of_single_states():
    """V rises, the reward at state 0 falls: action 1 pays 0 there, and leads to a state of 10."""
    paid = two_rooms(reachable=True).with_rewards(np.array([[[1.0, 0.0], [10.0, 10.0]]]))
    stay, go = (np.array([[[p, 1 - p], [1.0, 0.0]]]) for p in (1.0, 0.0))
    # 1 / (1 - 1/2) = 2 against 0 + 10/2 + 0 + ... with a visit to state 1 every second step.
    close(returns(paid, stay), [2])
    close(returns(paid, go), [5 / (1 - 0.25)])


def test_the_expert_does_not_maximise_its_own_discriminators_reward():
    """Corollary 2's proof says it does, "for any single-agent imitation learning algorithm"."""
    found = [v for v in _measured("corollary_2_as_written") if v.name == "Corollary 2's proof"]
    assert found[0].violations > 0
    assert found[0].margin < -0.1


def test_theorem_3_needs_the_discriminators_silence_off_the_expert():
    # One agent, one state, gamma = 1/2, R_T = 0 everywhere; D = 1/2 on the expert's action 0. With
    # D = 3/4 on the other, -log(1 - D) = log 4 > log 2: a gain of log 2 / (1 - gamma).
    game = MarkovGame(np.ones(1), np.ones((1, 2, 1)), np.zeros((1, 1, 2)), np.array(0.5), actions=2)
    expert = np.array([[[1.0, 0.0]]])
    for off, gap in ((np.log(4), 2 * np.log(2)), (np.log(2), 0), (0.0, 0)):
        paid = game.with_rewards(np.array([[[np.log(2), off]]]))
        close(nash_gaps(paid, expert), [gap])


def test_theorem_3_is_checked_with_rewards_that_a_discriminator_gives(monkeypatch):
    """With `D ≤ 1/2`, `-log(1 - D)` lies between 0 and log 2, `log D` is at most -log 2, and the
    logit of `D` at most 0; all are highest where the expert acts."""
    given = []
    monkeypatch.setattr(claims, "joint_rewards", lambda x: given.append(x) or joint_rewards(x))
    sample = draw(20, 2, 3, 2, np.random.default_rng(0))
    assert claims.theorem_3(sample).violations == 0
    assert len(given) == 6
    best = optimal_joint_policy(sample.game) > 0
    for rewards, most, low in zip(given, [np.log(2), 0, -np.log(2)], [0, -5, -6], strict=False):
        close(rewards[best], most)
        assert low < rewards[~best].min() < most - 0.5
        assert rewards[~best].max() <= most


def test_stochastic_experts_need_distributions_not_matches():
    """Footnote 3. P(a = a^E) with both drawn from (0.6, 0.4) is 0.52; always playing 0 gets 0.6,
    so the expert does not maximise it. One minus the total variation does not have this flaw."""
    expert, mode = np.array([[[0.6, 0.4]]]), np.array([[[1.0, 0.0]]])
    for policies, chance in ((expert, 0.52), (mode, 0.6)):
        close((joint_policy(policies) * joint_policy(expert)).sum(), chance)
    game = MarkovGame(np.ones(1), np.ones((1, 2, 1)), np.zeros((1, 1, 2)), np.array(0.5), actions=2)
    close(joint_objective(game, mode, expert), 0.6)
    close(joint_objective(game, expert, expert), 1)


def test_the_new_team_equilibrium_is_one():
    rng = np.random.default_rng(0)
    game = random_games(20, 3, 3, 2, rng)
    found = team_equilibrium(game, random_policies(game, rng))
    assert nash_gaps(game, found).max() < 1e-9
    best = returns(game, optimal_joint_policy(game))
    assert (returns(game, found) <= best + 1e-9).all()
    assert (returns(game, found) < best - 1e-6).any()


# Beyond the paper


def test_when_states_pin_the_expert_down_by_hand():
    # The stag feeds with 0.9, the next best with 0.5: f = 1 if fed gives 0.4. Lifting lifts.
    game, expert, _ = stag_hunt()
    close(state_margin(game, expert), 0.4, 1e-9)
    game, expert, _ = lift()
    close(state_margin(game, expert), 0.95, 1e-9)
    # Hands do not matter once together: other policies visit the same states.
    game, expert, _ = handshake()
    close(state_margin(game, expert), 0, 1e-9)
    # Hares are never best for a reward of the state: between the stag and going alone.
    game = stag_hunt().game
    hares = np.zeros((2, 2, 2))
    hares[..., 1] = 1
    close(state_margin(game, hares), 0, 1e-9)


@few
@hypothesis.given(seeds)
def test_without_a_margin_another_policy_visits_the_same_states(seed):
    """The other direction of the equivalence, for one agent: the mixture that Gordan promises."""
    from scipy.optimize import linprog

    rng = np.random.default_rng(seed)
    game = random_games(1, 1, 3, 3, rng)[0]
    expert = np.eye(3)[rng.integers(3, size=(1, 3))]
    margin = state_margin(game, expert)
    best = expert[0].argmax(-1)
    lead = game.transitions[np.arange(3), best][:, None] - game.transitions
    # Weights y(s, a) of the other actions whose pulls on the next state cancel.
    equal = np.vstack([lead.reshape(9, 3).T, (1 - expert[0]).reshape(1, 9)])
    bounds = [(0, 0) if expert[0].ravel()[i] else (0, None) for i in range(9)]
    found = linprog(np.zeros(9), A_eq=equal, b_eq=[0, 0, 0, 1], bounds=bounds)
    if margin > 1e-7:
        assert not found.success
        return
    visits = state_visitation(game, expert)
    weights = found.x.reshape(3, 3) / visits[:, None]
    other = expert[0] + 0.5 * (weights / weights.sum(-1).max())
    other[np.arange(3), best] -= 0.5 * weights.sum(-1) / weights.sum(-1).max()
    assert (other >= 0).all()
    assert np.abs(other - expert[0]).max() > 0.1
    close(state_visitation(game, other[None]), visits, 1e-8)


def test_state_only_teams_can_be_stuck_where_states_pin_the_expert_down():
    game, expert, start = stag_hunt()
    settings = Algorithm(states_only=True)
    histories = list(converge(scenario("stag-hunt"), settings).values())
    for history in histories:
        assert history.converged
        # All hares: nobody alone gets the states any closer.
        close(history.policies[..., 1], 1, 1e-6)
    hares = histories[-1].policies
    rewards = imitation_rewards(settings, marginals(game, expert), marginals(game, hares))
    assert nash_gaps(game.with_rewards(joint_rewards(rewards)), hares).max() < 1e-9
    # With actions in the targets, the reward for the missing action grows until it is taken.
    for history in converge(scenario("stag-hunt")).values():
        assert history.distance[-1] < 1e-6
    assert start[0, 0, 0] == 0.1


def test_partly_observed_agents_reach_an_expert_who_sees_no_more():
    rng = np.random.default_rng(0)
    game = random_games(30, 2, 4, 2, rng)
    observations = aliased_observations(2, 4, 2, rng)
    assert [len(set(row)) for row in observations] == [2, 2]
    expert = observed_expert(observations, np.eye(2)[rng.integers(2, size=(30, 2, 4))])
    start = observed_expert(observations, random_policies(game, rng))
    history = run(game, expert, start, Algorithm(), observations=observations)
    assert (history.distance[-1] < 1e-3).all()
    for i in range(2):  # still functions of what is seen
        for o in range(2):
            alike = history.policies[:, i, observations[i] == o]
            close(alike, np.broadcast_to(alike[:, :1], alike.shape))


def test_the_watch_counts_what_it_sees():
    """By hand: one agent, one state; the reward rises, then the match falls."""
    game = MarkovGame(
        np.ones((1, 1)), np.ones((1, 1, 2, 1)), np.zeros((1, 1, 1, 2)), np.zeros(1), actions=2
    )
    expert = np.array([[[[1.0, 0.0]]]])
    half, more = (np.array([[[[p, 1 - p]]]]) for p in (0.5, 0.75))
    watch = Watch(Algorithm(), game, expert)
    active = np.array([0])
    watch(active, half, more, np.array([[[[1.0, 0.0]]]]))  # reward and match rise
    watch(active, more, half, np.array([[[[0.0, 1.0]]]]))  # reward rises, match falls by 1/4
    watch(active, half, more, np.array([[[[0.0, 1.0]]]]))  # reward falls
    watch(active, more, half, np.array([[[[1.0, 0.0]]]]))  # both fall: says nothing
    assert watch.fixed.premises.tolist() == [2]
    assert watch.fixed.failures.tolist() == [1]
    close(watch.fixed.worst, [-0.25])
    assert watch.dips.premises.tolist() == [4]
    assert watch.dips.failures.tolist() == [2]
    # Judged anew, action 0 pays log(1 + 1 / P(0)) after an update: log(7/3) at 3/4, log 3 at 1/2.
    # 3/4 log(7/3) = 0.64 is more than the 1/2 before it, 1/2 log 3 = 0.55 is more than 1/4, 0.64 is
    # more than 1/2, and 0.55 is less than 3/4. With the second of these rises the match falls.
    assert watch.again.premises.tolist() == [3]
    assert watch.again.failures.tolist() == [1]
    close(watch.again.worst, [-0.25])


def _measured(name):
    measure = {m.__name__: m for m in MEASUREMENTS}[name]
    return list(measure(draw(40, 1, 3, 2, np.random.default_rng(0))))


# The commands


def command(capsys, *arguments):
    code = main(["theory", *map(str, arguments)])
    return code, *capsys.readouterr()


@pytest.fixture
def small(monkeypatch):
    """`verify` on two sizes of games, one reward form and short runs: what is printed, not what
    is found."""
    monkeypatch.setattr(verification, "SIZES", ((1, 2, 2), (2, 2, 2)))
    monkeypatch.setattr(measurements, "_FORMS", {"softplus": Algorithm()})

    def short(game, expert, start, settings, *more, **named):
        settings = dataclasses.replace(settings, sweeps=3)
        return run(game, expert, start, settings, *more, **named)

    monkeypatch.setattr(measurements, "run", short)


@pytest.mark.parametrize("name", dm2.theory.__all__)
def test_public_names_are_documented_and_their_examples_run(name, small):
    thing = getattr(dm2.theory, name)
    text = inspect.getdoc(thing) or ""
    sections = re.findall(r"^(Args|Returns|Raises|Example):$", text, re.MULTILINE)
    if inspect.isclass(thing):  # its fields have docstrings of their own, and no second ones
        assert not {"Args", "Returns"} & set(sections)
        named = re.findall(r'^    (\w+): .*\n    """\S', inspect.getsource(thing), re.MULTILINE)
    else:
        assert "Args" in sections and "Returns" in sections
        entries = re.split(r"^\w+:$", text, flags=re.MULTILINE)[1 + sections.index("Args")]
        named = re.findall(r"^    (\w+): ", entries, re.MULTILINE)
    assert named == list(inspect.signature(thing).parameters)
    example = doctest.DocTestParser().get_doctest(text, {}, name, None, 0)
    report = []
    assert doctest.DocTestRunner(verbose=False).run(example, out=report.append).failed == 0, report


def test_where_a_user_begins_there_is_an_example():
    begin = ("Algorithm", "MarkovGame", "compatible", "converge", "marginals", "run", "scenario")
    for name in (*begin, "verify"):
        assert ">>> " in (inspect.getdoc(getattr(dm2.theory, name)) or ""), name


def test_verify_prints_a_row_a_claim_and_repeats_itself(capsys, small):
    code, out, err = command(capsys, "verify", "--games", 8)
    assert code == 0, err
    for name in ("Theorem 1", "Lemma 7", "Observation 1", "Assumption", "softplus, turns"):
        assert name in out
    assert "VIOLATED" not in out
    assert "4 games of 2 agents, 2 states, 2 actions" in err
    code, out, err = command(capsys, "verify", "--games", 8, "--json")
    assert (code, err) == (0, "")
    assert out.count("\n") == 1
    verdicts = json.loads(out)["verdicts"]
    enforced = [v for v in verdicts if v["enforced"]]
    assert {v["verdict"] for v in enforced} == {"holds"}
    assert len(enforced) == len(CLAIMS)
    assert {v["games"] for v in enforced} == {8}
    assert {v["setting"] for v in verdicts} == {"", "softplus, turns", "softplus, at once"}


def test_verify_repeats_itself_with_its_seed(monkeypatch, small):
    monkeypatch.setattr(verification, "MEASUREMENTS", (measurements.algorithm_2,))
    first = verify(4, 1)
    assert verify(4, 1) == first
    assert verify(4, 2) != first


def test_a_violated_theorem_exits_with_1(capsys, monkeypatch, small):
    def wrong(sample):
        j = joint_objective(sample.game, sample.policies[1], sample.expert)
        return judge("Theorem 0", "J ≥ K", j - sample.game.agents)

    monkeypatch.setattr(verification, "CLAIMS", (claims.theorem_1, wrong))
    monkeypatch.setattr(verification, "MEASUREMENTS", ())
    code, out, err = command(capsys, "verify", "--games", 10)
    assert code == 1
    assert "VIOLATED" in out
    assert "Theorem 0" in err
    assert "Theorem 1" not in err.splitlines()[-1]


def test_converge_reports_and_draws_both_orders(capsys, tmp_path):
    figure = tmp_path / "figures" / "run.png"
    arguments = ("converge", "--game", "handshake", "--sweeps", 30)
    code, out, err = command(capsys, *arguments, "--out", figure, "--json")
    assert code == 0, err
    result = json.loads(out)
    assert result["turn by turn"]["reached_expert"] is False
    assert result["simultaneous"]["sweeps"] == 30
    assert figure.read_bytes()[:4] == b"\x89PNG"
    code, out, err = command(capsys, *arguments, "--out", tmp_path / "run.svg")
    assert code == 0, err
    assert "distance_to_expert" in out
    drawn = (tmp_path / "run.svg").read_text()
    for label in ("turn by turn", "simultaneous"):
        assert label in out
        assert label in drawn
    assert "sweeps (one step of every agent each)" in drawn


def test_a_users_matplotlib_settings_change_no_figure(capsys, tmp_path):
    import matplotlib as mpl

    def drawn(name: str) -> bytes:
        arguments = ("converge", "--game", "handshake", "--sweeps", 3, "--out", tmp_path / name)
        assert command(capsys, *arguments)[0] == 0
        return (tmp_path / name).read_bytes()

    plain = drawn("plain.png")
    odd: dict[Any, Any] = {"text.usetex": True, "savefig.bbox": "tight", "lines.marker": "o"}
    with mpl.rc_context(odd):
        assert drawn("odd.png") == plain


@pytest.mark.parametrize("game", ["four-tile", "lift", "stag-hunt", "random"])
@pytest.mark.parametrize("form", ["softplus", "logit", "log", "paper"])
def test_algorithm_2_reaches_the_expert_of_every_other_game(game, form):
    for history in converge(scenario(game), Algorithm(form, smoothing=1e-4)).values():
        assert summary(history)["reached_expert"], (game, form)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("verify", "--games", 3), "games = 3"),
        (("verify", "--seed", -1), "seed = -1"),
        (("converge", "--game", "five-tile"), "four-tile"),
        (("converge", "--game", "random", "--seed", -1), "seed = -1"),
        (("converge", "--form", "linear"), "softplus"),
        (("converge", "--form", "logit"), "smoothing = 0"),
        (("converge", "--sweeps", 0), "sweeps = 0"),
        (("converge", "--out", "run.txt"), ".png"),
        (("converge", "--seed", "x"), "--seed"),
        ((), "verify"),
    ],
)
def test_unusable_arguments(capsys, arguments, named):
    code, out, err = command(capsys, *arguments)
    assert code == 2
    assert out == ""
    assert named in err
    assert "Traceback" not in err
