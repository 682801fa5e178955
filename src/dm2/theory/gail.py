"""The GAIL loss of one agent with a discriminator that is exactly optimal (Equation 1).

As everywhere in dm2, `D = P(expert | s, a)` and `l = logit D`. The discriminator of an agent
receives two marginals of this agent, `t` of the target and `m` of the policy, and maximises

    Σ [t log D + m log(1 - D)] - ψ,    ψ = -λ Σ [log D + log(1 - D)].

This is concave in `l`, and its optimum is `D = (t + λ) / (t + m + 2λ)`. Written with the reward
`r = -log(1 - D)`, it is the paper's `V(π_E, r) - V(π, r) - ψ(r)` (Equation 1, times `1-γ`) with
`ψ(r) = Σ (t + λ) (r - log(1 - e^{-r}))`, which is convex in `r`. A second regulariser,
`ψ(r) = Σ r² / 2`, gives the reward `r = t - m`. This is the form `quadratic`, which exists in the
theory alone.
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
    """Checks the name of an imitation reward.

    Args:
        form: The name.

    Raises:
        InputError: If the name is not in `FORMS`.
    """
    if form not in FORMS:
        raise InputError(f"form = {form!r}: must be one of {', '.join(FORMS)}")


def optimal_logits(target: Table, marginal: Table, smoothing: float | int = 0.0) -> Table:
    """The logits of the optimal discriminator, `l = log (t + λ) - log (m + λ)`.

    Args:
        target: The target marginal `t` of an agent, `[*B, S, A]`.
        marginal: The marginal `m` of its policy, `[*B, S, A]`.
        smoothing: The weight `λ` of the regulariser.

    Returns:
        `l`, `[*B, S, A]`. Where `t + λ` and `m + λ` are both 0, `l` is 0, its limit for small `λ`.

    Raises:
        InputError: If the smoothing is negative.
    """
    if smoothing < 0:
        raise InputError(f"smoothing = {smoothing:g}: must be 0 or more")
    theirs, ours = target + smoothing, marginal + smoothing
    with np.errstate(divide="ignore", invalid="ignore"):
        logits = np.log(theirs) - np.log(ours)
    return np.where((theirs == 0) & (ours == 0), 0.0, logits)


def reward_of(form: str, logits: Float[Array, "*B"]) -> Float[Array, "*B"]:
    """The imitation reward for given logits, by its name.

    The definitions equal those of the learner, `dm2.agent.discriminator.reward_of`: `logit` is `l`,
    `softplus` is `-log(1 - D)`, `log` is `log D`, and `paper` is the same as `softplus`.

    Args:
        form: The name of the reward, one of `FORMS` except `quadratic`. It is not checked.
        logits: The logits `l` of the discriminator, of any shape.

    Returns:
        The reward, of the same shape.
    """
    if form == "logit":
        return logits
    if form == "log":
        return -np.logaddexp(0.0, -logits)
    return np.logaddexp(0.0, logits)


def cross_entropy(
    logits: Table, target: Table, marginal: Table, smoothing: float | int = 0.0
) -> Float[Array, "*B"]:
    """The objective that the discriminator maximises, for any logits.

    It is `Σ [(t + λ) log D + (m + λ) log(1 - D)]` with `0 log 0 = 0`.

    Args:
        logits: The logits `l` of the discriminator, `[*B, S, A]`.
        target: The target marginal `t`, `[*B, S, A]`.
        marginal: The marginal `m` of the policy, `[*B, S, A]`.
        smoothing: The weight `λ` of the regulariser.

    Returns:
        The objective, `[*B]`; higher is better for the discriminator.
    """
    theirs, ours = target + smoothing, marginal + smoothing
    with np.errstate(invalid="ignore"):
        for_expert = np.where(theirs > 0, theirs * np.logaddexp(0.0, -logits), 0.0)
        for_policy = np.where(ours > 0, ours * np.logaddexp(0.0, logits), 0.0)
    return -(for_expert + for_policy).sum((-2, -1))


def saddle_value(
    target: Table, marginal: Table, smoothing: float | int = 0.0
) -> Float[Array, "*B"]:
    """The highest value of `cross_entropy` over all discriminators.

    Without smoothing it is `2 JS(t, m) - log 4`, where `JS` is the Jensen-Shannon divergence. For
    any smoothing it is least at `m = t`.

    Args:
        target: The target marginal `t`, `[*B, S, A]`.
        marginal: The marginal `m` of the policy, `[*B, S, A]`.
        smoothing: The weight `λ` of the regulariser.

    Returns:
        The value, `[*B]`.

    Raises:
        InputError: If the smoothing is negative.
    """
    return cross_entropy(optimal_logits(target, marginal, smoothing), target, marginal, smoothing)


def converged_reward(
    form: str, target: Table, marginal: Table, smoothing: float | int = 0.0
) -> Table:
    """The reward `r_φ` of an agent whose discriminator has converged.

    Args:
        form: The name of the reward, one of `FORMS`.
        target: The target marginal `t` of the agent, `[*B, S, A]`.
        marginal: The marginal `m` of its policy, `[*B, S, A]`.
        smoothing: The weight `λ` of the regulariser.

    Returns:
        The reward of each action in each state, `[*B, S, A]`.

    Raises:
        InputError: If the form is unknown or the smoothing negative. Also for `logit` and `log`
            without smoothing if the target has zeros, as that of a deterministic expert has: the
            reward would be -inf there.
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
    """The GAIL loss of an agent for a fixed discriminator, `V(π_E, r) - V(π, r)` (Equation 1).

    The term `ψ`, which is constant for a fixed discriminator, is left out.

    Args:
        target: The target marginal `t`, `[*B, S, A]`.
        marginal: The marginal `m` of the policy, `[*B, S, A]`.
        reward: The reward `r` of the discriminator, `[*B, S, A]`.
        discount: The discount factor `γ`, `[*B]`.

    Returns:
        The loss, `[*B]`; the agent lowers it.
    """
    return ((target - marginal) * reward).sum((-2, -1)) / (1 - discount)
