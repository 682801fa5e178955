"""The claims of the paper (Section 4, Appendix A), each as a function of a sample of games.

Every function in `CLAIMS` takes a `Sample` and returns a `Verdict`. It computes margins: for an
inequality such as `J ≥ L` the margin is `J - L`, and for an equality it is minus the absolute
deviation. `dm2.theory.verdict.judge` makes the verdict of them. Some claims need a condition that
the paper does not state. They are checked with this condition, which their docstring names;
`dm2.theory.measurements` measures what happens without it.
"""

from collections.abc import Callable

import numpy as np

from dm2.theory import quantities
from dm2.theory.algorithm import Algorithm, imitation_rewards, run, step
from dm2.theory.beyond import state_margin
from dm2.theory.compatibility import compatible
from dm2.theory.gail import loss, reward_of
from dm2.theory.games import MarkovGame, joint_rewards, random_policies
from dm2.theory.quantities import team_equilibrium
from dm2.theory.sample import Sample
from dm2.theory.verdict import REACHED, Verdict, judge

__all__ = ["CLAIMS"]


def condition_1(sample: Sample) -> Verdict:
    """Condition 1: the exact `ε` is positive, and no policy visits a state less often than `ε`."""
    visits = [quantities.state_visitation(sample.game, p) for p in sample.policies]
    margins = [v.min(-1) - sample.epsilon for v in visits]
    positive = np.where(sample.epsilon > 0, np.inf, -1.0)
    return judge("Condition 1", "ρ_π(s) ≥ ε > 0", np.stack([*margins, positive]))


def lemma_4(sample: Sample) -> Verdict:
    """Lemma 4: `K-1 ≤ J ≤ K`."""
    k = sample.game.agents
    j = np.stack([_joint(sample, p) for p in sample.policies])
    return judge("Lemma 4", "K-1 ≤ J ≤ K", np.stack([j - (k - 1), k - j]))


def lemma_5(sample: Sample) -> Verdict:
    """Lemma 5: the expert alone maximises `J`.

    The check is that `J(π_E) = K`, and that `K - J(π)` is at least `ε` times the worst mismatch.
    """
    k = sample.game.agents
    rows = [-np.abs(_joint(sample, sample.expert) - k)]
    for p in sample.policies:
        missed = 1 - quantities.matches(p, sample.expert)
        rows.append(k - _joint(sample, p) - sample.epsilon * missed.max((-2, -1)))
    return judge("Lemma 5", "the expert alone maximises J", np.stack(rows))


def theorem_1(sample: Sample) -> Verdict:
    """Theorem 1: `J ≥ L`."""
    rows = [_joint(sample, p) - _individual(sample, p) for p in sample.policies]
    return judge("Theorem 1", "J ≥ L", np.stack(rows))


def corollary_1(sample: Sample) -> Verdict:
    """Corollary 1: `L ≥ L_ε`."""
    rows = [_individual(sample, p) - _bound(sample, p) for p in sample.policies]
    return judge("Corollary 1", "L ≥ L_ε", np.stack(rows))


def observation_1(sample: Sample) -> Verdict:
    """Observation 1: `0 ≤ L_ε ≤ ε S K`."""
    top = sample.epsilon * sample.game.states * sample.game.agents
    low = np.stack([_bound(sample, p) for p in sample.policies])
    return judge("Observation 1", "0 ≤ L_ε ≤ ε S K", np.stack([low, top - low]))


def lemma_7(sample: Sample) -> Verdict:
    """Lemma 7: the expert alone maximises `L_ε`.

    The check is that `L_ε(π_E) = ε S K`, and that `ε S K - L_ε(π)` is at least `ε` times the worst
    mismatch.
    """
    top = sample.epsilon * sample.game.states * sample.game.agents
    rows = [-np.abs(_bound(sample, sample.expert) - top)]
    for p in sample.policies:
        missed = 1 - quantities.matches(p, sample.expert)
        rows.append(top - _bound(sample, p) - sample.epsilon * missed.max((-2, -1)))
    return judge("Lemma 7", "the expert alone maximises L_ε", np.stack(rows))


def lemma_6(sample: Sample) -> Verdict:
    """Lemma 6: with `φ` fixed, the loss falls by exactly the rise of `V(π_i, r_φ)`.

    The loss is computed from visitations and `V` from the values, so the two are independent.
    """
    game, (_, old, other, *_) = sample.game, sample.policies
    targets = quantities.marginals(game, sample.expert)
    rewards = imitation_rewards(Algorithm(), targets, quantities.marginals(game, old))
    rows = []
    for i in range(game.agents):
        new = old.copy()
        new[:, i] = other[:, i]
        losses = [_loss(game, targets, p, rewards, i) for p in (old, new)]
        ahead, _ = quantities.agent_view(game, old, i)
        worth = [
            (game.initial * quantities.values_of(ahead, rewards[:, i], game.discount, p[:, i])[0])
            for p in (old, new)
        ]
        gain = (worth[1] - worth[0]).sum(-1)
        rows.append(-np.abs(losses[0] - losses[1] - gain) / (1 + np.abs(losses[0])))
    return judge("Lemma 6", "φ fixed: loss falls = V(π_i, r_φ) rises", np.stack(rows))


def theorem_2(sample: Sample) -> Verdict:
    """Theorem 2 with a further condition: each step raises the imitation reward at every state.

    Then `L_ε` never falls, and the policies reach the expert. The steps are those of `myopic`.
    """
    settings = Algorithm(myopic=True)
    history = run(sample.game, sample.expert, sample.policies[1], settings, epsilon=sample.epsilon)
    rows = [np.diff(history.bound, axis=0).min(0), REACHED - history.distance[-1]]
    statement = "L_ε never falls, π → π_E, if r_φ rises at every state"
    return judge("Theorem 2 (mended)", statement, np.stack(rows))


def corollary_2(sample: Sample) -> Verdict:
    """Corollary 2 with a further condition: the step raises the imitation reward at every state.

    Then a single step raises `Σ_s P(a_i = a_i^E)`, which is the corollary with `H = 1`.
    """
    game, start = sample.game, sample.policies[1]
    settings = Algorithm(myopic=True)
    targets = quantities.marginals(game, sample.expert)
    rewards = imitation_rewards(settings, targets, quantities.marginals(game, start))
    rows = []
    for i in range(game.agents):
        new = step(settings, game, start, i, rewards[:, i], settings.kl)
        rows.append((np.minimum(new, sample.expert[:, i]).sum(-1) - _match(sample, i)).sum(-1))
    # Strictly: what does not rise counts as a violation.
    gains = np.where(np.stack(rows) > 0, np.stack(rows), -1.0)
    statement = "Σ_s P(a_i = a_i^E) rises, if r_φ rises at every state"
    return judge("Corollary 2 (mended)", statement, gains)


def theorem_3(sample: Sample) -> Verdict:
    """Theorem 3: `α R_T + β R_I` keeps the expert a Nash equilibrium.

    The further condition is that `R_I` comes from a discriminator that has converged at the expert,
    with `D ≤ 1/2` where the expert never acts. At the expert `D = 1/2` wherever the expert acts.
    Elsewhere a converged discriminator may have any value, so the check draws one with `D ≤ 1/2`:
    a logit `l = log D - log(1 - D)` from -5 to 0. `R_I` is each form of reward of that logit, all
    of which rise with it. The check covers optimal teams and equilibria that are not optimal.
    """
    game, rows = sample.game, []
    for expert in (
        quantities.optimal_joint_policy(game),
        team_equilibrium(game, sample.policies[3]),
    ):
        logits = np.where(expert > 0, 0.0, -sample.rng.uniform(0, 5, expert.shape))
        for form in ("softplus", "logit", "log"):
            imitation = joint_rewards(reward_of(form, logits))
            for alpha, beta in ((1.0, 1.0), (0.1, 10.0), (10.0, 0.1)):
                mixed = alpha * game.rewards + beta * imitation
                rows.append(-quantities.nash_gaps(game.with_rewards(mixed), expert).max(-1))
    statement = "π_E Nash for R_T ⇒ for α R_T + β R_I, if D ≤ 1/2 off the expert"
    return judge("Theorem 3", statement, np.stack(rows))


def definition_1(sample: Sample) -> Verdict:
    """Definition 1: the check of compatible targets is right.

    The marginals of one team are compatible, and the team itself is the policy that is found. The
    marginals of two different teams, with visitations that differ, are not compatible. The check
    uses at most 100 games of the sample.
    """
    rows = []
    for b in range(min(100, len(sample.expert))):
        game = sample.game[b]
        own = quantities.marginals(game, sample.policies[1][b])
        found = compatible(game, own)
        margin = -1.0
        if found.policy is not None:
            margin = -float(np.abs(found.policy - sample.policies[1][b]).max())
        if game.agents > 1:
            mixed = own.copy()
            mixed[0] = quantities.marginals(game, sample.expert[b])[0]
            apart = np.abs(mixed[0].sum(-1) - own[1].sum(-1)).sum()
            if apart > 1e-3 and compatible(game, mixed).compatible:
                margin = -1.0
        rows.append(margin)
    statement = "compatible ⇔ the one candidate induces the targets"
    return judge("Definition 1", statement, np.array(rows))


def sharper_bound(sample: Sample) -> Verdict:
    """A bound of this project: `L ≥ K - Σ_s max_π ρ_π(s) Σ_i P(a_i ≠ a_i^E(s))`.

    At the expert the right-hand side is `K`, its largest value.
    """
    rows = []
    for p in sample.policies:
        missed = (1 - quantities.matches(p, sample.expert)).sum(-2)
        rows.append(_individual(sample, p) - sample.game.agents + (sample.high * missed).sum(-1))
    return judge("Sharper bound (ours)", "L ≥ K - Σ ρ_max Σ P(a_i ≠ a_i^E)", np.stack(rows))


def stochastic_experts(sample: Sample) -> Verdict:
    """Footnote 3: the bounds hold for stochastic experts.

    They are `K-1 ≤ J ≤ K` and `J ≥ L ≥ L_ε` with unique maxima. One minus the total variation
    distance replaces the probability of a match.
    """
    game, k, rows = sample.game, sample.game.agents, []
    expert = random_policies(game, sample.rng)
    for p in (*sample.policies, expert):
        j = quantities.joint_objective(game, p, expert)
        each = quantities.individual_objective(game, p, expert)
        low = quantities.lower_bound(p, expert, sample.epsilon)
        missed = (1 - quantities.matches(p, expert)).max((-2, -1))
        top = sample.epsilon * game.states * k
        rows += [j - (k - 1), k - j - sample.epsilon * missed, j - each, each - low]
        rows.append(top - low - sample.epsilon * missed)
    rows.append(-np.abs(quantities.joint_objective(game, expert, expert) - k))
    statement = "Lemmas 4, 5, 7, Theorem 1, Corollary 1 with 1 - TV for match"
    return judge("Footnote 3 (stochastic)", statement, np.stack(rows))


def states_alone(sample: Sample) -> Verdict:
    """A result of this project: states alone determine an expert that is uniquely best for a reward
    of the state.

    With `f = V` scaled to [0, 1], `state_margin` is at least the smallest gap between the best and
    the second-best action, divided by `γ (max V - min V)`. The check uses at most 25 games of the
    sample.
    """
    game = sample.game[:25]
    paid = sample.rng.random((*game.initial.shape[:1], 1, game.states, 1))
    game = game.with_rewards(np.broadcast_to(paid, game.rewards.shape).copy())
    expert = quantities.optimal_joint_policy(game)
    value, q = quantities.values_of(
        game.transitions, game.rewards[:, 0], game.discount, quantities.joint_policy(expert)
    )
    ranked = np.sort(q, -1)
    gap = (ranked[..., -1] - ranked[..., -2]).min(-1) if q.shape[-1] > 1 else np.zeros(len(q))
    span = game.discount * np.ptp(value, axis=-1)
    found = [state_margin(game[b], expert[b]) for b in range(len(q))]
    statement = "states pin down an expert uniquely best for a reward of the state"
    return judge("States alone (ours)", statement, np.array(found) * span - gap)


CLAIMS: tuple[Callable[[Sample], Verdict], ...] = (
    condition_1,
    lemma_4,
    lemma_5,
    theorem_1,
    corollary_1,
    observation_1,
    lemma_6,
    lemma_7,
    theorem_2,
    corollary_2,
    theorem_3,
    definition_1,
    sharper_bound,
    stochastic_experts,
    states_alone,
)
"""The claims that `verify` enforces."""


def _joint(sample: Sample, policies: np.ndarray) -> np.ndarray:
    return quantities.joint_objective(sample.game, policies, sample.expert)


def _individual(sample: Sample, policies: np.ndarray) -> np.ndarray:
    return quantities.individual_objective(sample.game, policies, sample.expert)


def _bound(sample: Sample, policies: np.ndarray) -> np.ndarray:
    return quantities.lower_bound(policies, sample.expert, sample.epsilon)


def _match(sample: Sample, agent: int) -> np.ndarray:
    return quantities.matches(sample.policies[1], sample.expert)[:, agent]


def _loss(
    game: MarkovGame, targets: np.ndarray, policies: np.ndarray, rewards: np.ndarray, agent: int
) -> np.ndarray:
    ours = quantities.marginals(game, policies)[:, agent]
    return loss(targets[:, agent], ours, rewards[:, agent], game.discount)
