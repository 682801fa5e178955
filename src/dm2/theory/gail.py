r"""The per-agent GAIL saddle with the exactly optimal discriminator.

As everywhere in this package `D = P(expert | s, a)` and `l = logit D`. The discriminator sees one
agent's marginals, of the target `t` and of the policy `m`, and maximises

    Σ [t log D + m log(1 - D)] - ψ,    ψ = -λ Σ [log D + log(1 - D)],

concave in `l`, whose optimum is `D = (t + λ) / (t + m + 2λ)`. Written with the reward
`r = -log(1 - D)` this is the paper's `V(π_E, r) - V(π, r) - ψ(r)` (Equation 1, times `1-γ`) with
`ψ(r) = Σ (t + λ) (r - log(1 - e^{-r}))`, convex in `r`. A second regulariser,
`ψ(r) = Σ r² / 2`, gives the reward `r = t - m`: the form `quadratic`, which only the theory has.
"""

from typing import get_args

import numpy as np
from jaxtyping import Float

from dm2.agent.settings import RewardForm
from dm2.errors import InputError
from dm2.theory.games import Array

__all__ = [
    "FORMS",
    "check_form",
    "converged_reward",
    "cross_entropy",
    "loss",
    "optimal_logits",
    "reward_of",
    "saddle_value",
]

FORMS = (*get_args(RewardForm), "quadratic")
"""The names of the imitation rewards."""

Table = Float[np.ndarray, "*B S A"]


def check_form(form: str) -> None:
    """Raises InputError for an unknown name."""
    if form not in FORMS:
        raise InputError(f"form = {form!r}: must be one of {', '.join(FORMS)}")


def optimal_logits(target: Table, marginal: Table, smoothing: float | int = 0.0) -> Table:
    r"""`l = log (t + λ) - log (m + λ)`; where both are 0 it is 0, the limit of small `λ`."""
    if smoothing < 0:
        raise InputError(f"smoothing = {smoothing:g}: must be 0 or more")
    theirs, ours = target + smoothing, marginal + smoothing
    with np.errstate(divide="ignore", invalid="ignore"):
        logits = np.log(theirs) - np.log(ours)
    return np.where((theirs == 0) & (ours == 0), 0.0, logits)


def reward_of(form: str, logits: Float[Array, "*B"]) -> Float[Array, "*B"]:
    """The imitation reward by name, as `dm2.agent.imitation.reward_of` has it.

    `logit` = `l`; `softplus` = `-log(1 - D)`; `log` = `log D`; `paper` = `softplus`.
    """
    if form == "logit":
        return logits
    if form == "log":
        return -np.logaddexp(0.0, -logits)
    return np.logaddexp(0.0, logits)


def cross_entropy(
    logits: Table, target: Table, marginal: Table, smoothing: float | int = 0.0
) -> Float[Array, "*B"]:
    """What the discriminator maximises, for any `l`; `0 log 0 = 0`."""
    theirs, ours = target + smoothing, marginal + smoothing
    with np.errstate(invalid="ignore"):
        for_expert = np.where(theirs > 0, theirs * np.logaddexp(0.0, -logits), 0.0)
        for_policy = np.where(ours > 0, ours * np.logaddexp(0.0, logits), 0.0)
    return -(for_expert + for_policy).sum((-2, -1))


def saddle_value(
    target: Table, marginal: Table, smoothing: float | int = 0.0
) -> Float[Array, "*B"]:
    """`max_l` of `cross_entropy`: `2 JS(t, m) - log 4` without smoothing; least at `m = t`."""
    return cross_entropy(optimal_logits(target, marginal, smoothing), target, marginal, smoothing)


def converged_reward(
    form: str, target: Table, marginal: Table, smoothing: float | int = 0.0
) -> Table:
    """The reward `r_φ` of an agent whose discriminator has converged.

    Raises InputError for another form than `FORMS`, and for `logit` and `log` without smoothing
    where the target has zeros: a deterministic expert makes them -inf there.
    """
    check_form(form)
    if form == "quadratic":
        return target - marginal
    if form in ("logit", "log") and smoothing == 0 and (target == 0).any():
        remedy = f"the form {form} is -inf where the expert never goes; give more than 0"
        raise InputError(f"smoothing = 0: {remedy}")
    return reward_of(form, optimal_logits(target, marginal, smoothing))


def loss(
    target: Table, marginal: Table, reward: Table, discount: Float[Array, "*B"]
) -> Float[Array, "*B"]:
    r"""`V(π_E, r) - V(π, r)`: the agent's loss for a fixed discriminator, up to the constant ψ."""
    return ((target - marginal) * reward).sum((-2, -1)) / (1 - discount)
