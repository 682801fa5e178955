r"""The paper's claims (Section 4, Appendix A) as functions of a sample of games.

Each returns a `Verdict`. A margin is what is left of an inequality (`J - L` for `J ≥ L`), or minus
the absolute deviation from an equality; below `-TOLERANCE` the claim is violated. Claims whose
statement in the paper needs a further condition are checked with it, and say so; what happens
without it is measured in `dm2.theory.measurements`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from dm2.theory import quantities
from dm2.theory.algorithm import Algorithm, imitation_rewards, run, step
from dm2.theory.beyond import state_margin
from dm2.theory.compatibility import compatible
from dm2.theory.gail import loss
from dm2.theory.games import MarkovGame, random_games, random_policies

__all__ = [
    "CLAIMS",
    "REACHED",
    "TOLERANCE",
    "Sample",
    "Verdict",
    "draw",
    "joint_rewards",
    "judge",
    "team_equilibrium",
]

TOLERANCE = 1e-8
"""Rounding, as a margin: solves with `1 / (1-γ)` up to 33 in float64."""
REACHED = 1e-3
"""The expert counts as reached once no policy is further from it, in total variation."""


class Sample(NamedTuple):
    """A batch of games with a random deterministic expert each, and joint policies to try."""

    game: MarkovGame
    expert: Float[np.ndarray, "B K S A"]
    policies: tuple[Float[np.ndarray, "B K S A"], ...]
    """From uniform to deterministic, near the expert, the expert but for one agent, the expert."""
    low: Float[np.ndarray, "B S"]
    """`min_π ρ_π(s)`."""
    high: Float[np.ndarray, "B S"]
    """`max_π ρ_π(s)`."""
    rng: np.random.Generator

    @property
    def epsilon(self) -> Float[np.ndarray, " B"]:
        """The largest `ε` for which Condition 1 holds."""
        return self.low.min(-1)


class Verdict(NamedTuple):
    """What became of one claim."""

    name: str
    statement: str
    games: int
    violations: int
    """Games in which the claim fails."""
    margin: float
    """The worst over all games and policies."""
    enforced: bool = True
    """Whether a violation is an error; what is only measured has none."""
    cases: int = 0
    """Of a measurement that looks closer than games (updates, states): how many."""
    broken: int = 0
    """Cases in which the claim fails."""
    setting: str = ""
    """Of a run of Algorithm 2: the reward form and the order of updates."""

    @property
    def verdict(self) -> str:
        """`holds`, `VIOLATED`, or how often a measured statement fails."""
        if self.enforced:
            return "VIOLATED" if self.violations else "holds"
        text = f"fails in {self.violations / self.games:.1%} of games"
        return f"{text}, {self.broken / self.cases:.2%} of cases" if self.cases else text

    def merged(self, other: "Verdict") -> "Verdict":
        """Both samples taken together."""
        return self._replace(
            games=self.games + other.games,
            violations=self.violations + other.violations,
            margin=min(self.margin, other.margin),
            cases=self.cases + other.cases,
            broken=self.broken + other.broken,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {**self._asdict(), "verdict": self.verdict}


def judge(name: str, statement: str, margins: np.ndarray, **more: Any) -> Verdict:
    """A verdict from margins `[*policies, games]`; a nan is a violation."""
    worst = np.asarray(margins, np.float64).reshape(-1, np.shape(margins)[-1]).min(0)
    violations = int((~(worst >= -TOLERANCE)).sum())
    return Verdict(name, statement, worst.size, violations, float(worst.min()), **more)


def draw(count: int, agents: int, states: int, actions: int, rng: np.random.Generator) -> Sample:
    """`count` random games of one size, with random experts."""
    game = random_games(count, agents, states, actions, rng)
    shape = (count, agents, states)
    expert = np.eye(actions)[rng.integers(actions, size=shape)]
    near = 0.95 * expert + 0.05 * random_policies(game, rng)
    but_one = expert.copy()
    but_one[:, 0] = random_policies(game, rng)[:, 0]
    policies = (
        np.full_like(expert, 1 / actions),
        random_policies(game, rng),
        random_policies(game, rng, 0.2),
        np.eye(actions)[rng.integers(actions, size=shape)],
        near,
        but_one,
        expert,
    )
    low, high = quantities.visitation_bounds(game)
    return Sample(game, expert, policies, low, high, rng)


def joint_rewards(rewards: Float[np.ndarray, "*B K S A"]) -> Float[np.ndarray, "*B K S J"]:
    """Rewards of each agent's own action, as functions of the joint action."""
    agents, actions = rewards.shape[-3], rewards.shape[-1]
    own = np.indices((actions,) * agents).reshape(agents, -1)
    return np.stack([rewards[..., i, :, :].take(own[i], -1) for i in range(agents)], -3)


def team_equilibrium(
    game: MarkovGame, start: Float[np.ndarray, "*B K S A"]
) -> Float[np.ndarray, "*B K S A"]:
    """A deterministic Nash equilibrium of a team game: best responses in turn until nobody gains.

    Each raises the common return, so it ends; the team need not be anywhere near its optimum.
    """
    policies = start.copy()
    while True:
        for i in range(game.agents):
            policies[..., i, :, :] = quantities.best_response(game, policies, i)[1]
        if (quantities.nash_gaps(game, policies) <= 1e-10).all():
            return policies


def condition_1(sample: Sample) -> Verdict:
    """The exact `ε` is positive and no policy visits a state less."""
    visits = [quantities.state_visitation(sample.game, p) for p in sample.policies]
    margins = [v.min(-1) - sample.epsilon for v in visits]
    positive = np.where(sample.epsilon > 0, np.inf, -1.0)
    return judge("Condition 1", "ρ_π(s) ≥ ε > 0", np.stack([*margins, positive]))


def lemma_4(sample: Sample) -> Verdict:
    """`K-1 ≤ J ≤ K`."""
    k = sample.game.agents
    j = np.stack([_joint(sample, p) for p in sample.policies])
    return judge("Lemma 4", "K-1 ≤ J ≤ K", np.stack([j - (k - 1), k - j]))


def lemma_5(sample: Sample) -> Verdict:
    """`J(π_E) = K`, and `K - J(π)` is at least `ε` times the worst mismatch: hence unique."""
    k = sample.game.agents
    rows = [-np.abs(_joint(sample, sample.expert) - k)]
    for p in sample.policies:
        missed = 1 - quantities.matches(p, sample.expert)
        rows.append(k - _joint(sample, p) - sample.epsilon * missed.max((-2, -1)))
    return judge("Lemma 5", "the expert alone maximises J", np.stack(rows))


def theorem_1(sample: Sample) -> Verdict:
    """`J ≥ L`."""
    rows = [_joint(sample, p) - _individual(sample, p) for p in sample.policies]
    return judge("Theorem 1", "J ≥ L", np.stack(rows))


def corollary_1(sample: Sample) -> Verdict:
    """`L ≥ L_ε`."""
    rows = [_individual(sample, p) - _bound(sample, p) for p in sample.policies]
    return judge("Corollary 1", "L ≥ L_ε", np.stack(rows))


def observation_1(sample: Sample) -> Verdict:
    """`0 ≤ L_ε ≤ ε S K`."""
    top = sample.epsilon * sample.game.states * sample.game.agents
    low = np.stack([_bound(sample, p) for p in sample.policies])
    return judge("Observation 1", "0 ≤ L_ε ≤ ε S K", np.stack([low, top - low]))


def lemma_7(sample: Sample) -> Verdict:
    """`L_ε(π_E) = ε S K`, and it falls short by at least `ε` times the worst mismatch."""
    top = sample.epsilon * sample.game.states * sample.game.agents
    rows = [-np.abs(_bound(sample, sample.expert) - top)]
    for p in sample.policies:
        missed = 1 - quantities.matches(p, sample.expert)
        rows.append(top - _bound(sample, p) - sample.epsilon * missed.max((-2, -1)))
    return judge("Lemma 7", "the expert alone maximises L_ε", np.stack(rows))


def lemma_6(sample: Sample) -> Verdict:
    """With `φ` fixed the loss falls by exactly what `V(π_i, r_φ)` gains, solved independently."""
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
    """With steps that raise the reward at every state, `L_ε` never falls; the expert is reached."""
    settings = Algorithm(myopic=True)
    history = run(sample.game, sample.expert, sample.policies[1], settings, epsilon=sample.epsilon)
    rows = [np.diff(history.bound, axis=0).min(0), REACHED - history.distance[-1]]
    statement = "L_ε never falls, π → π_E, if r_φ rises at every state"
    return judge("Theorem 2 (mended)", statement, np.stack(rows))


def corollary_2(sample: Sample) -> Verdict:
    """A step that raises the reward at every state raises `Σ_s P(a_i = a_i^E)` at once: `H = 1`."""
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
    """`α R_T + β R_I` keeps the expert an equilibrium, `R_I` of a discriminator at the expert.

    There `D = 1/2` wherever the expert goes. Where it does not go, `D` is anybody's choice; it is
    drawn from `D ≤ 1/2`, and the theorem needs no more. Optimal teams and mere equilibria.
    """
    game, rows = sample.game, []
    for expert in (
        quantities.optimal_joint_policy(game),
        team_equilibrium(game, sample.policies[3]),
    ):
        off = np.where(expert > 0, 0.0, sample.rng.uniform(0, 5, expert.shape))
        for alpha, beta in ((1.0, 1.0), (0.1, 10.0), (10.0, 0.1)):
            mixed = alpha * game.rewards + beta * joint_rewards(np.log(2) - off)
            rows.append(-quantities.nash_gaps(game.with_rewards(mixed), expert).max(-1))
    statement = "π_E Nash for R_T ⇒ for α R_T + β R_I, if D ≤ 1/2 off the expert"
    return judge("Theorem 3", statement, np.stack(rows))


def definition_1(sample: Sample) -> Verdict:
    """An expert's own marginals are compatible, with the expert as the witness; those of two
    different experts, visibly apart, are not. On 100 games of the sample."""
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
    """Ours: `L ≥ K - Σ_s max_π ρ_π(s) Σ_i P(a_i ≠ a_i^E(s))`, which is `K` at the expert."""
    rows = []
    for p in sample.policies:
        missed = (1 - quantities.matches(p, sample.expert)).sum(-2)
        rows.append(_individual(sample, p) - sample.game.agents + (sample.high * missed).sum(-1))
    return judge("Sharper bound (ours)", "L ≥ K - Σ ρ_max Σ P(a_i ≠ a_i^E)", np.stack(rows))


def stochastic_experts(sample: Sample) -> Verdict:
    """The footnote: `K-1 ≤ J ≤ K`, `J ≥ L ≥ L_ε`, unique maxima, with total variation for match."""
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
    """Ours: an expert that is uniquely best for a reward of the state is pinned down by states.

    `f = V` scaled to [0, 1] gives `state_margin` at least the smallest gap between the best and
    the second-best action over `γ (max V - min V)`. On 25 games of the sample.
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
