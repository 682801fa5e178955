r"""Algorithm 2 (Appendix A): independent imitation learners, turn by turn, and all at once.

A turn of agent `i`: its discriminator converges (in closed form, `gail.converged_reward`), then
its policy takes one trust-region step on `V(π_i, r_φ | π_-i)`. For tabular softmax policies the
natural gradient in the logits is the advantage (Kakade 2001), so the step is

    π'(a | s) ∝ π(a | s) exp(η A(s, a)),

with the longest `η` that the quadratic bound on the mean KL divergence allows, halved until `V`
rises and the exact KL divergence is within the bound. The bound shrinks from sweep to sweep:
steps of a fixed size would circle around a fixed point inside the simplex for ever.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float

from dm2.errors import InputError
from dm2.theory import quantities
from dm2.theory.gail import check_form, converged_reward
from dm2.theory.games import Array, MarkovGame, check_policies

__all__ = ["Algorithm", "History", "imitation_rewards", "pooling", "run", "step"]

_ROWS = ("joint", "individual", "bound", "mismatch", "distance")
_FLOOR = 1e-12  # a softmax never gives an action probability 0


@dataclass(frozen=True)
class Algorithm:
    """What a run of Algorithm 2 does. Raises InputError for settings out of range."""

    form: str = "softplus"
    """The imitation reward; `quadratic` is what `ψ(r) = Σ r² / 2` leads to."""
    smoothing: float = 0.0
    """`λ` of the discriminator's regulariser; above 0 for the forms logit and log."""
    simultaneous: bool = False
    """All agents step at once on rewards of the same joint policy, as DM² does in practice."""
    kl: float = 0.02
    """Bound on the first sweep's mean KL divergence of an agent's step."""
    cooling: float = 20.0
    """In sweep `n` the bound is `kl / (1 + n / cooling)²`."""
    sweeps: int = 200
    """The most sweeps (one step of every agent each)."""
    tolerance: float = 1e-6
    """Stop once a sweep changes no action probability by more."""
    myopic: bool = False
    """Step on the immediate imitation reward alone, which raises it at *every* state."""
    states_only: bool = False
    """The discriminators see states without actions, as in the paper's experiments."""

    def __post_init__(self) -> None:
        check_form(self.form)
        for name, low in (("kl", 0), ("cooling", 0), ("sweeps", 0)):
            if not getattr(self, name) > low:
                raise InputError(f"{name} = {getattr(self, name)!r}: must be above {low}")
        for name in ("smoothing", "tolerance"):
            if not getattr(self, name) >= 0:
                raise InputError(f"{name} = {getattr(self, name)!r}: must be 0 or more")


Observer = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], None]
"""Is told, after each update, which games of the batch still run, their policies before and
after, and the rewards that the update was made on."""


@dataclass(frozen=True, eq=False)
class History:
    """One entry before the first update and one after each; an update is one agent's turn, or
    one step of all of them when simultaneous."""

    joint: Float[np.ndarray, " updates *B"]
    """`J`."""
    individual: Float[np.ndarray, " updates *B"]
    """`L`."""
    bound: Float[np.ndarray, " updates *B"]
    """`L_ε`."""
    mismatch: Float[np.ndarray, "updates *B K"]
    """Total variation distance of each agent's marginal from its target."""
    distance: Float[np.ndarray, " updates *B"]
    """The largest total variation distance of an agent's policy from its expert's at a state."""
    policies: Float[np.ndarray, "*B K S A"]
    """The last ones."""
    converged: Bool[np.ndarray, "*B"]
    """Whether the last sweep changed no action probability by more than the tolerance."""
    updates_per_sweep: int


def pooling(observations: np.ndarray) -> Float[np.ndarray, "K S S"]:
    """1 where an agent cannot tell two states apart; `observations[i, s]` is what it sees in `s`.

    Raises InputError unless there is one row of observations an agent.
    """
    if observations.ndim != 2:
        raise InputError(f"observations = shape {observations.shape}: must be [agents, states]")
    return (observations[:, :, None] == observations[:, None, :]).astype(np.float64)


def _pool(alike: np.ndarray | None, values: np.ndarray) -> np.ndarray:
    """Sums over the states that look alike, at each of them; `values` are `[*B, K, S, A]`."""
    return values if alike is None else alike @ values


def imitation_rewards(
    settings: Algorithm,
    targets: Float[np.ndarray, "*B K S A"],
    marginals: Float[np.ndarray, "*B K S A"],
    alike: Float[np.ndarray, "K S S"] | None = None,
) -> Float[np.ndarray, "*B K S A"]:
    """The converged discriminators' rewards for everyone, from what each discriminator sees."""
    theirs, ours = _pool(alike, targets), _pool(alike, marginals)
    if settings.states_only:
        shape = theirs.shape
        theirs = np.broadcast_to(theirs.sum(-1, keepdims=True), shape)
        ours = np.broadcast_to(ours.sum(-1, keepdims=True), shape)
    return converged_reward(settings.form, theirs, ours, settings.smoothing)


def step(
    settings: Algorithm,
    game: MarkovGame,
    policies: Float[np.ndarray, "*B K S A"],
    agent: int,
    reward: Float[np.ndarray, "*B S A"],
    kl: float,
    alike: Float[np.ndarray, "S S"] | None = None,
) -> Float[np.ndarray, "*B S A"]:
    """One trust-region step of one agent on `reward`; its old policy where no step helps."""
    old = policies[..., agent, :, :]
    ahead, _ = quantities.agent_view(game, policies, agent)
    discount = np.zeros_like(game.discount) if settings.myopic else game.discount
    chain = np.einsum("...sa,...sat->...st", old, ahead)
    visits = quantities.visitation_of(chain, game.initial, game.discount)
    value, q = quantities.values_of(ahead, reward, discount, old)
    gain = visits[..., None] * (q - value[..., None])
    advantage = _pool(alike, gain) / _pool(alike, visits[..., None])
    spread = (visits[..., None] * old * np.square(advantage)).sum((-2, -1))
    with np.errstate(divide="ignore"):
        size = np.where(spread > 0, np.sqrt(2 * kl / spread), 0.0)
    # The return from the old policy's states if myopic: of the reward alone, states held fixed.
    start = visits if settings.myopic else game.initial
    before = (start * value).sum(-1)
    chosen, found = old, spread <= 0
    for _ in range(12):
        new = _softmax(np.log(old) + size[..., None, None] * advantage)
        divergence = (visits * (old * (np.log(old) - np.log(new))).sum(-1)).sum(-1)
        after = (start * quantities.values_of(ahead, reward, discount, new)[0]).sum(-1)
        good = (after > before) & (divergence <= kl) & ~found
        chosen = np.where(good[..., None, None], new, chosen)
        found = found | good
        if found.all():
            break
        size = size / 2
    return chosen


def _softmax(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    weights = np.maximum(weights / weights.sum(-1, keepdims=True), _FLOOR)
    return weights / weights.sum(-1, keepdims=True)


def run(
    game: MarkovGame,
    expert: Float[np.ndarray, "..."],
    start: Float[np.ndarray, "..."],
    settings: Algorithm | None = None,
    targets: Float[np.ndarray, "*B K S A"] | None = None,
    observations: np.ndarray | None = None,
    epsilon: Float[Array, "*B"] | None = None,
    observer: Observer | None = None,
) -> History:
    """Runs until all policies converge or the sweeps are spent.

    `targets` are the agents' marginals to match, by default the expert's; `observations[i, s]`
    restricts agent `i` to policies of what it sees (`start` has to be one), by default the state;
    `epsilon` of `L_ε` is by default the least visitation that any joint policy can cause. Raises
    InputError for policies that are no distributions or do not fit the game.
    """
    settings = settings or Algorithm()
    check_policies(game, expert, "expert")
    check_policies(game, start, "start")
    low = quantities.visitation_bounds(game)[0].min(-1) if epsilon is None else epsilon
    if targets is None:
        targets = quantities.marginals(game, expert)
    if game.initial.ndim == 1:  # a batch of one, for the time being
        expert, start, targets = expert[None], start[None], targets[None]
        history = _run(
            game[None],
            expert,
            start,
            targets,
            np.asarray(low)[None],
            settings,
            observations,
            observer,
        )
        rows = {name: getattr(history, name)[:, 0] for name in _ROWS}
        last = {"policies": history.policies[0], "converged": np.asarray(history.converged[0])}
        return replace(history, **rows, **last)
    return _run(game, expert, start, targets, low, settings, observations, observer)


def _run(
    game: MarkovGame,
    expert: np.ndarray,
    start: np.ndarray,
    targets: np.ndarray,
    epsilon: np.ndarray,
    settings: Algorithm,
    observations: np.ndarray | None,
    observer: Observer | None,
) -> History:
    """`run` for a batch. Games whose policies have converged are left out of the work."""
    alike = None if observations is None else pooling(observations)
    policies = _softmax(np.log(np.maximum(start, _FLOOR)))
    rows = [_measure(game, policies, expert, targets, epsilon)]
    agents = range(game.agents)
    active, part = np.arange(len(start)), game
    for sweep in range(settings.sweeps):
        kl = settings.kl / (1 + sweep / settings.cooling) ** 2
        before = policies[active]
        for turn in [agents] if settings.simultaneous else [[i] for i in agents]:
            old = policies[active]
            current = quantities.marginals(part, old)
            rewards = imitation_rewards(settings, targets[active], current, alike)
            new = old.copy()
            for i in turn:
                mine = None if alike is None else alike[i]
                new[:, i] = step(settings, part, old, i, rewards[:, i], kl, mine)
            if observer is not None:
                observer(active, old, new, rewards)
            policies[active] = new
            row = [column.copy() for column in rows[-1]]
            parts = _measure(part, new, expert[active], targets[active], epsilon[active])
            for column, fresh in zip(row, parts, strict=True):
                column[active] = fresh
            rows.append(tuple(row))
        moving = np.abs(policies[active] - before).max((-3, -2, -1)) > settings.tolerance
        if not moving.all():
            active, part = active[moving], part[moving]
        if not active.size:
            break
    joint, individual, bound, mismatch, distance = map(np.stack, zip(*rows, strict=True))
    converged = ~np.isin(np.arange(len(start)), active)
    per_sweep = 1 if settings.simultaneous else game.agents
    return History(joint, individual, bound, mismatch, distance, policies, converged, per_sweep)


def _measure(
    game: MarkovGame,
    policies: np.ndarray,
    expert: np.ndarray,
    targets: np.ndarray,
    epsilon: np.ndarray,
) -> tuple[np.ndarray, ...]:
    """One row of a `History`, in the order of `_ROWS`."""
    apart = np.abs(quantities.marginals(game, policies) - targets).sum((-2, -1)) / 2
    return (
        quantities.joint_objective(game, policies, expert),
        quantities.individual_objective(game, policies, expert),
        quantities.lower_bound(policies, expert, epsilon),
        apart,
        1 - quantities.matches(policies, expert).min((-2, -1)),
    )
