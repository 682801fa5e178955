"""Algorithm 2 (Appendix A): agents that each imitate their own expert, in turn or simultaneously.

In a turn of agent `i` its discriminator converges, which `gail.converged_reward` computes in
closed form. Then its policy takes one trust-region step on `V(π_i, r_φ | π_-i)`. For tabular
softmax policies the natural gradient in the logits is the advantage (Kakade 2001), so the step is

    π'(a | s) ∝ π(a | s) exp(η A(s, a)).

`η` is the largest value that the quadratic bound on the mean KL divergence allows. It is halved
until `V` rises and the exact KL divergence is within the bound. The bound shrinks from sweep to
sweep, because steps of a fixed size would circle for ever around a fixed point inside the simplex.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float

from dm2.errors import InputError, check_finite, check_setting, checks_itself, convert_fields
from dm2.theory import quantities
from dm2.theory.gail import check_form, converged_reward
from dm2.theory.games import Array, MarkovGame, check_policies

__all__ = ["Algorithm", "History", "imitation_rewards", "pooling", "run", "step"]

_ROWS = ("joint", "individual", "bound", "mismatch", "distance")
_FLOOR = 1e-12  # a softmax never gives an action probability 0


@checks_itself
@dataclass(frozen=True)
class Algorithm:
    """The settings of a run of Algorithm 2.

    The defaults are the algorithm of the paper. `simultaneous`, `myopic` and `states_only` each
    change one part of it.

    Raises:
        InputError: If `form` is unknown, if `kl`, `cooling` or `sweeps` is not above 0, if
            `smoothing` or `tolerance` is negative, or if one of them is not finite.

    Example:
        >>> from dm2.theory import Algorithm
        >>> settings = Algorithm(form="logit", smoothing=1e-3, simultaneous=True)
        >>> settings.sweeps
        200
    """

    form: str = "softplus"
    """The name of the imitation reward, one of `dm2.theory.gail.FORMS`. `quadratic` is the reward
    that the regulariser `ψ(r) = Σ r² / 2` leads to."""
    smoothing: float = 0.0
    """The weight `λ` of the discriminator's regulariser. The forms `logit` and `log` need a value
    above 0."""
    simultaneous: bool = False
    """Whether all agents step at the same time, on rewards of the same joint policy, as DM² does in
    practice. Otherwise they take turns."""
    kl: float = 0.02
    """The bound on the mean KL divergence of an agent's step in the first sweep."""
    cooling: float = 20.0
    """The number of sweeps that sets how fast the bound shrinks. In sweep `n`, counted from 0, the
    bound is `kl / (1 + n / cooling)²`."""
    sweeps: int = 200
    """The largest number of sweeps. In one sweep every agent takes one step."""
    tolerance: float = 1e-6
    """The run stops after a sweep that changes no action probability by more than this."""
    myopic: bool = False
    """Whether the step uses the immediate imitation reward alone, instead of the return. Such a
    step raises the reward at every state."""
    states_only: bool = False
    """Whether the discriminators receive states without actions, as in the experiments of the
    paper."""

    def __post_init__(self) -> None:
        convert_fields(self)
        check_form(self.form)
        for name in ("kl", "cooling", "sweeps"):
            value = getattr(self, name)
            check_setting(0 < value < np.inf, name, value, "must be above 0 and finite")
        check_finite(self, "", "smoothing", "tolerance")


Observer = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], None]
"""A function that `run` calls after each update. Its arguments are the indices of the games in the
batch that still run, their policies before and after the update, and the rewards of the update.
"""


@dataclass(frozen=True, eq=False)
class History:
    """The course of a run of Algorithm 2, as `run` returns it.

    The arrays with the axis `updates` have one entry before the first update and one after each. An
    update is the turn of one agent, or one step of all agents if they step simultaneously. `*B` are
    the axes of the batch, none for one game.
    """

    joint: Float[np.ndarray, " updates *B"]
    """The objective `J` (Equation 2), `[updates, *B]`."""
    individual: Float[np.ndarray, " updates *B"]
    """The objective `L` (Equation 3), `[updates, *B]`."""
    bound: Float[np.ndarray, " updates *B"]
    """The lower bound `L_ε` (Equation 4), `[updates, *B]`."""
    mismatch: Float[np.ndarray, "updates *B K"]
    """The total variation distance of each agent's marginal from its target, `[updates, *B, K]`."""
    distance: Float[np.ndarray, " updates *B"]
    """The total variation distance of an agent's policy from its expert's, the largest over agents
    and states, `[updates, *B]`."""
    policies: Float[np.ndarray, "*B K S A"]
    """The policies after the last update, `[*B, K, S, A]`."""
    converged: Bool[np.ndarray, "*B"]
    """Whether the last sweep changed no action probability by more than the tolerance, `[*B]`."""
    updates_per_sweep: int
    """The number of updates in a sweep: `K`, or 1 if all agents step simultaneously."""


def pooling(observations: np.ndarray) -> Float[np.ndarray, "K S S"]:
    """A table of the states that an agent cannot distinguish.

    Args:
        observations: The observation of agent `i` in state `s` as `observations[i, s]`, `[K, S]`.

    Returns:
        For each agent a matrix over pairs of states, `[K, S, S]`: 1 where both states have the same
        observation, 0 elsewhere.

    Raises:
        InputError: Unless there is one row of observations for each agent.
    """
    if observations.ndim != 2:
        raise InputError(f"observations = shape {observations.shape}: must be [agents, states]")
    return (observations[:, :, None] == observations[:, None, :]).astype(np.float64)


def _pool(alike: np.ndarray | None, values: np.ndarray) -> np.ndarray:
    """The sum of `values`, `[*B, K, S, A]`, over all states with the same observation, at each
    state.
    """
    return values if alike is None else alike @ values


def imitation_rewards(
    settings: Algorithm,
    targets: Float[np.ndarray, "*B K S A"],
    marginals: Float[np.ndarray, "*B K S A"],
    alike: Float[np.ndarray, "K S S"] | None = None,
) -> Float[np.ndarray, "*B K S A"]:
    """The imitation rewards of all agents, from discriminators that have converged.

    Args:
        settings: The reward form, the smoothing, and whether the discriminators receive actions.
        targets: The target marginal of each agent, `[*B, K, S, A]`.
        marginals: The present marginal of each agent, `[*B, K, S, A]`.
        alike: The table of `pooling`, `[K, S, S]`. With None, every agent observes the state.

    Returns:
        The reward of each agent for its own action in each state, `[*B, K, S, A]`.

    Raises:
        InputError: If the form needs smoothing and has none (see
            `dm2.theory.gail.converged_reward`).
    """
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
    """One trust-region step of one agent on a fixed reward (Algorithm 2).

    The new policy is `π'(a | s) ∝ π(a | s) exp(η A(s, a))`; the text of the module explains `η`.
    Under partial observation `A` is the mean advantage of the states with the same observation,
    weighted by their visitation. In a state that is never visited `A` is 0, so that the policy
    stays as it was there.

    Args:
        settings: The settings of the algorithm. The step uses `myopic` alone.
        game: The game or batch of games.
        policies: The policy of each agent, `[*B, K, S, A]`, with positive probabilities.
        agent: The index of the agent that steps.
        reward: The imitation reward of this agent, `[*B, S, A]`.
        kl: The bound on the mean KL divergence of the step.
        alike: The table of `pooling` for this agent, `[S, S]`. With None, it observes the state.

    Returns:
        The new policy of the agent, `[*B, S, A]`. It is the old policy if none of 12
        step sizes, each half of the one before, raises the return within the bound.
    """
    old = policies[..., agent, :, :]
    ahead, _ = quantities.agent_view(game, policies, agent)
    discount = np.zeros_like(game.discount) if settings.myopic else game.discount
    chain = np.einsum("...sa,...sat->...st", old, ahead)
    visits = quantities.visitation_of(chain, game.initial, game.discount)
    value, q = quantities.values_of(ahead, reward, discount, old)
    gain = visits[..., None] * (q - value[..., None])
    total, weight = _pool(alike, gain), _pool(alike, visits[..., None])
    advantage = np.divide(total, weight, out=np.zeros_like(total), where=weight > 0)
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
    """Runs Algorithm 2 until all policies converge or the sweeps are spent.

    Args:
        game: The game or batch of games.
        expert: The policy of each expert, `[*B, K, S, A]`.
        start: The policies before the first update, `[*B, K, S, A]`. With `observations`, they must
            be functions of the observation.
        settings: The settings of the algorithm; by default `Algorithm()`.
        targets: The marginals that the agents match, `[*B, K, S, A]`; by default those of the
            expert.
        observations: The observation of agent `i` in state `s` as `observations[i, s]`, `[K, S]`.
            Agent `i` is then restricted to policies of its observation. By default it observes the
            state.
        epsilon: The `ε` of `L_ε`, `[*B]`; by default the least visitation of any state under any
            joint policy.
        observer: A function to call after each update, see `Observer`. For one game, its arrays
            have a batch axis of size 1.

    Returns:
        The objectives after each update, and the last policies.

    Raises:
        InputError: If `expert` or `start` does not fit the game or is not a distribution, if
            `observations` does not have two axes, or if the reward form needs smoothing and has
            none.

    Example:
        >>> from dm2.theory import run, scenario
        >>> game, expert, start = scenario("lift")
        >>> history = run(game, expert, start)
        >>> bool(history.converged)
        True
        >>> bool(history.distance[-1] < 1e-3)  # the agents have reached the expert
        True
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
    """Does the work of `run` for a batch. Games whose policies have converged are left out."""
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
