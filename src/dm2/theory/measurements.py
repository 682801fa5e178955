"""Measurements of what the paper assumes, or states without a condition that it needs.

Every function in `MEASUREMENTS` takes a `Sample` and yields a `Verdict` for each statement. Nothing
here is enforced. A verdict counts the games in which the statement fails. Some measurements also
count single cases: updates, or pairs of an agent and a state at an update.
"""

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np

from dm2.theory import quantities
from dm2.theory.algorithm import Algorithm, History, imitation_rewards, run
from dm2.theory.beyond import aliased_observations, observed_expert, state_margin
from dm2.theory.compatibility import compatible
from dm2.theory.games import MarkovGame, joint_rewards, random_policies
from dm2.theory.sample import Sample
from dm2.theory.scenarios import handshake
from dm2.theory.verdict import REACHED, Verdict, judge

__all__ = ["MEASUREMENTS", "Watch", "other_convention"]

_FORMS = {
    "softplus": Algorithm("softplus"),
    "softplus, λ=1e-3": Algorithm("softplus", smoothing=1e-3),
    "logit, λ=1e-3": Algorithm("logit", smoothing=1e-3),
    "log, λ=1e-3": Algorithm("log", smoothing=1e-3),
    "quadratic": Algorithm("quadratic"),
}
_NOTICEABLE = 1e-9  # a rise of the reward that is not rounding


class Count:
    """The counts of one implication for each game.

    They are the number of cases in which its premise held (`premises`), the number of these in
    which its conclusion, that a quantity does not fall, was false (`failures`), and the largest
    fall as a negative number (`worst`).

    Args:
        games: The number of games.
    """

    def __init__(self, games: int) -> None:
        self.premises, self.failures, self.worst = np.zeros((3, games))

    def add(self, games: np.ndarray, premise: np.ndarray, change: np.ndarray) -> None:
        """Adds the cases of one update.

        Args:
            games: The indices of the games that still run.
            premise: Whether the premise holds, `[games, agents, states]`.
            change: The change of the quantity that must not fall, `[games, agents, states]`.
        """
        self.premises[games] += premise.sum((-2, -1))
        self.failures[games] += (premise & (change < -_NOTICEABLE)).sum((-2, -1))
        lowest = np.where(premise, change, 0.0).min((-2, -1))
        self.worst[games] = np.minimum(self.worst[games], lowest)


class Watch:
    """An observer of `dm2.theory.run` that tests Assumption 1 at every update.

    The assumption says: at each state where the expected reward of an agent rises, its probability
    of matching the expert rises. There are three counts:

    - `fixed` takes the reward of the discriminator on which the update was made, before and after
      it, as the proof does.
    - `again` takes the reward of the discriminator that has converged before the update, and of the
      one that has converged after it ("the expected *converged* GAIL reward").
    - `dips` answers a question about Lemma 6: does the reward rise at every state?

    Args:
        settings: The settings of the run.
        game: The batch of games.
        expert: The policies of the experts, `[B, K, S, A]`.
    """

    def __init__(self, settings: Algorithm, game: MarkovGame, expert: np.ndarray) -> None:
        self.settings, self.game, self.expert = settings, game, expert
        self.targets = quantities.marginals(game, expert)
        self.fixed, self.again, self.dips = (Count(len(expert)) for _ in range(3))

    def __call__(
        self, active: np.ndarray, before: np.ndarray, after: np.ndarray, rewards: np.ndarray
    ) -> None:
        """Counts the cases of one update; the arguments are those of
        `dm2.theory.algorithm.Observer`.
        """
        game, targets, expert = self.game[active], self.targets[active], self.expert[active]
        moved = np.abs(after - before).max((-2, -1))[..., None] > _NOTICEABLE
        match = quantities.matches(after, expert) - quantities.matches(before, expert)
        rise = ((after - before) * rewards).sum(-1)
        current = quantities.marginals(game, after)
        later = imitation_rewards(self.settings, targets, current)
        change = (after * later).sum(-1) - (before * rewards).sum(-1)
        self.fixed.add(active, moved & (rise > _NOTICEABLE), match)
        self.again.add(active, moved & (change > _NOTICEABLE), match)
        self.dips.add(active, moved & np.ones_like(match, bool), rise)


def _measured(name: str, statement: str, margins: np.ndarray, **more: str) -> Verdict:
    return judge(name, statement, margins, enforced=False, **more)


def _tally(
    name: str, statement: str, failures: np.ndarray, cases: int, worst: float, **more: str
) -> Verdict:
    """A measurement by cases, from the number of failed cases in each game."""
    return Verdict(
        name,
        statement,
        games=len(failures),
        violations=int((failures > 0).sum()),
        margin=worst,
        enforced=False,
        cases=cases,
        broken=int(failures.sum()),
        **more,
    )


def _counted(name: str, statement: str, count: Count, setting: str) -> Verdict:
    cases, worst = int(count.premises.sum()), float(count.worst.min())
    return _tally(name, statement, count.failures, cases, worst, setting=setting)


def _never_falls(
    name: str, history: np.ndarray, by: float = 1e-6, setting: str = "", statement: str = ""
) -> Verdict:
    """Measures whether no update lowers `history[updates, games]` by more than `by`.

    The cases are the updates that change the value at all, because a game that has converged
    changes no more.
    """
    steps = np.diff(history, axis=0)
    statement = statement or f"no update lowers it by more than {by:g}"
    fell = (steps < -by).sum(0)
    cases = max(1, int((steps != 0).sum()))
    return _tally(name, statement, fell, cases, float(steps.min()), setting=setting)


def _reaches(name: str, statement: str, history: History, **more: str) -> Verdict:
    return _measured(name, statement, REACHED - history.distance[-1], **more)


def algorithm_2(sample: Sample) -> Iterator[Verdict]:
    """Assumption 1, `L_ε` and Theorem 2 in Algorithm 2, for each reward form and both orders."""
    for form, settings in _FORMS.items():
        for order in ("turns", "at once"):
            settings = dataclasses.replace(settings, simultaneous=order == "at once")
            watch = Watch(settings, sample.game, sample.expert)
            history = run(
                sample.game,
                sample.expert,
                sample.policies[1],
                settings,
                epsilon=sample.epsilon,
                observer=watch,
            )
            name = f"{form}, {order}"
            rises = "r_φ rises at s ⇒ P(a_i = a_i^E) does not fall there"
            yield _counted("Assumption 1, φ fixed", rises, watch.fixed, name)
            yield _counted("Assumption 1, φ anew", rises, watch.again, name)
            everywhere = "an update lowers r_φ at no state"
            yield _counted("Lemma 6 statewise", everywhere, watch.dips, name)
            share = history.bound / _top(sample)
            yield _never_falls("L_ε / ε S K", share, setting=name)
            yield _never_falls("the same, 1 %", share, by=0.01, setting=name)
            yield _never_falls("J", history.joint, setting=name)
            yield _reaches("Theorem 2 as written", "π → π_E in 200 sweeps", history, setting=name)


def _top(sample: Sample) -> np.ndarray:
    return sample.epsilon * sample.game.states * sample.game.agents


def _alone(sample: Sample, settings: Algorithm, sweeps: int) -> History:
    """Agent 0 imitates its expert while the other agents keep a random policy."""
    game, start = sample.game, sample.policies[1]
    ahead, paid = quantities.agent_view(game, start, 0)
    single = MarkovGame(game.initial, ahead, paid[:, None], game.discount, game.actions)
    targets = quantities.marginals(game, sample.expert)[:, :1]
    limited = Algorithm(settings.form, settings.smoothing, sweeps=sweeps)
    return run(single, sample.expert[:, :1], start[:, :1], limited, targets, None, sample.epsilon)


def corollary_2_as_written(sample: Sample) -> Iterator[Verdict]:
    """Corollary 2 without a further condition, and what its proof uses.

    The corollary says that within `H` updates of one agent, with the other agents fixed, `Σ_s P(a_i
    = a_i^E)` rises. Its proof uses the convergence of a single agent (Condition 2) and that the
    expert maximises `V(·, r_φ)`.
    """
    settings = Algorithm()
    history = _alone(sample, settings, sweeps=200)
    gain = history.bound[1:].max(0) - history.bound[0]
    statement = "alone, others fixed: Σ_s P(a_i = a_i^E) above its start within 200 updates"
    yield _measured("Corollary 2 as written", statement, np.where(gain > 0, gain, -1.0))
    statement = "alone, others fixed: π_i → π_E,i"
    yield _reaches("Condition 2", statement, history)
    game, policies = sample.game, sample.policies[1]
    targets = quantities.marginals(game, sample.expert)
    rewards = imitation_rewards(settings, targets, quantities.marginals(game, policies))
    paid = game.with_rewards(joint_rewards(rewards))
    rows = []
    for i in range(game.agents):
        tried = policies.copy()
        tried[:, i] = sample.expert[:, i]
        best = quantities.best_response(paid, policies, i)[0]
        rows.append(quantities.returns(paid, tried)[:, i] - best)
    statement = "π_E,i maximises V(·, r_φ), the others where they are"
    yield _measured("Corollary 2's proof", statement, np.stack(rows))


def theorem_3_elsewhere(sample: Sample) -> Iterator[Verdict]:
    """Theorem 3 without its further condition.

    In the first measurement the discriminator has converged at a random policy instead of the
    expert. In the second it takes actions that the expert never takes for the expert's, `D > 1/2`.
    """
    game, other = sample.game, sample.policies[1]
    expert = quantities.optimal_joint_policy(game)
    targets = quantities.marginals(game, expert)
    rewards = imitation_rewards(Algorithm(), targets, quantities.marginals(game, other))
    mixed = game.with_rewards(game.rewards + joint_rewards(rewards))
    statement = "π_E Nash for R_T + R_I, R_I of a random policy's discriminator"
    yield _measured("Theorem 3 elsewhere", statement, -quantities.nash_gaps(mixed, expert).T)
    above = np.where(expert > 0, np.log(2), np.log(2) + 5.0)
    mixed = game.with_rewards(game.rewards + joint_rewards(above))
    statement = "π_E Nash for R_T + R_I, if D > 1/2 off the expert"
    yield _measured("Theorem 3 elsewhere", statement, -quantities.nash_gaps(mixed, expert).T)


def usefulness(sample: Sample) -> Iterator[Verdict]:
    """Whether the largest value of `L_ε` says more about `J` than `J ≥ K-1` (Lemma 4) does."""
    spare = _top(sample) - (sample.game.agents - 1)
    several = sample.game.agents > 1  # one agent: any bound above 0 says more
    if several:
        yield _measured("L_ε as a bound of J", "K > 1: max L_ε = ε S K > K-1", spare - 1e-6)


def stochastic(sample: Sample) -> Iterator[Verdict]:
    """Algorithm 2 with stochastic experts (Footnote 3), with overlaps in place of matches."""
    game = sample.game
    expert = random_policies(game, sample.rng)
    history = run(game, expert, sample.policies[1], Algorithm(), epsilon=sample.epsilon)
    share = history.bound / _top(sample)
    for by in (1e-6, 0.01):
        statement = f"no update lowers L_ε / ε S K by more than {by:g}"
        yield _never_falls("Stochastic experts", share, by, statement=statement)
    margin = 0.02 - history.distance[-1]
    yield _measured("Stochastic experts", "π within 0.02 of π_E after 200 sweeps", margin)


def states_only(sample: Sample) -> Iterator[Verdict]:
    """Targets without actions, for random experts and for experts that are best for a reward of the
    state.
    """
    game, start = sample.game[:50], sample.policies[1][:50]
    paid = sample.rng.random((len(start), 1, game.states, 1))
    skilled = game.with_rewards(np.broadcast_to(paid, game.rewards.shape).copy())
    experts = {
        "random expert": sample.expert[:50],
        "best for a state reward": quantities.optimal_joint_policy(skilled),
    }
    for name, expert in experts.items():
        margins = np.array([state_margin(game[b], expert[b]) for b in range(len(expert))])
        pinned = margins > 1e-7
        statement = f"{name}: pinned down by states"
        yield _measured("State-only targets", statement, margins - 1e-7)
        history = run(game, expert, start, Algorithm(states_only=True))
        visits = [quantities.state_visitation(game, p) for p in (history.policies, expert)]
        apart = np.abs(visits[0] - visits[1]).sum(-1) / 2
        who = "one agent" if game.agents == 1 else "teams"
        statement = f"{who}, {name}: ρ_π within 0.01 of ρ_E"
        yield _measured("State-only targets", statement, 0.01 - apart)
        if pinned.any():
            statement = f"{who}, {name}, pinned down: π → π_E"
            margin = REACHED - history.distance[-1][pinned]
            yield _measured("State-only targets", statement, margin)


def partly_observed(sample: Sample) -> Iterator[Verdict]:
    """Algorithm 2 where each agent, and its deterministic expert, distinguishes only half of the
    states.
    """
    game = sample.game
    count = -(-game.states // 2)
    observations = aliased_observations(game.agents, game.states, count, sample.rng)
    expert, start = (observed_expert(observations, p) for p in (sample.expert, sample.policies[1]))
    history = run(game, expert, start, Algorithm(), None, observations, sample.epsilon)
    statement = "no update lowers L_ε / ε S K by more than 1e-06"
    share = history.bound / _top(sample)
    yield _never_falls("Partial observation", share, statement=statement)
    yield _reaches("Partial observation", "π → π_E", history)
    # An expert who sees more than its imitators: nothing they can do matches it.
    several = range(min(50, len(expert)))
    targets = quantities.marginals(game, sample.expert)
    found = [compatible(game[b], targets[b], observations) for b in several]
    margins = np.array([c.tolerance - c.violation for c in found])
    yield _measured("Partial observation", "a fully informed expert is compatible", margins)


def other_convention(starts: int, rng: np.random.Generator) -> Iterator[Verdict]:
    """Algorithm 2 on the handshake, the counter-example to Theorem 2, from random starts.

    Args:
        starts: The number of random starts.
        rng: The source of random numbers.

    Yields:
        For each order of updates, how often the expert is not reached, and how often `L_ε` falls.
    """
    one, expert, _ = handshake()
    shape = (starts, *expert.shape)
    game = MarkovGame(
        *(np.stack([x] * starts) for x in (one.initial, one.transitions, one.rewards)),
        discount=np.full(starts, one.discount),
        actions=one.actions,
    )
    start = random_policies(game, rng)
    epsilon = quantities.visitation_bounds(one)[0].min()
    for together in (False, True):
        settings = Algorithm(simultaneous=together)
        history = run(game, np.broadcast_to(expert, shape), start, settings)
        order = "at once" if together else "turns"
        yield _reaches("Handshake, random starts", f"π → π_E, {order}", history)
        share = history.bound / (epsilon * one.states * one.agents)
        statement = f"no update lowers L_ε / ε S K by more than 0.01, {order}"
        yield _never_falls("Handshake, random starts", share, 0.01, statement=statement)


MEASUREMENTS: tuple[Callable[[Sample], Iterator[Verdict]], ...] = (
    algorithm_2,
    corollary_2_as_written,
    theorem_3_elsewhere,
    usefulness,
    stochastic,
    states_only,
    partly_observed,
)
"""The measurements that `verify` reports beside the claims."""
