"""The reward that an imitating agent learns from: the task's and the imitation's, mixed."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from dm2.agent.returns import masked_variance, rollout_advantages
from dm2.agent.settings import PPO, Imitation, scheduled
from dm2.agent.types import Trajectory

__all__ = ["Balance", "mixed_reward"]

_DECAY = 0.95


class Balance(NamedTuple):
    r"""Running variances of the two parts of one agent's advantages.

    Advantages are linear in rewards: those of `r_task + c r_imitation` are the sum of what either
    reward contributes by itself, `sum_k (gamma lambda)^k r_{t+k}`, and of what the critic takes
    off. `ratio` is the standard deviation of the task's part over that of the imitation's, in
    units of one reward over the other. Both averages begin at 0 and take in the same rollouts, so
    that what they lack at first cancels.
    """

    task: Float[Array, ""]
    imitation: Float[Array, ""]

    @classmethod
    def initial(cls) -> "Balance":
        """Before any rollout: both are 0."""
        return cls(jnp.zeros(()), jnp.zeros(()))

    def including(
        self, task: Float[Array, "T N"], imitation: Float[Array, "T N"], counts: Bool[Array, "T N"]
    ) -> "Balance":
        """Moved towards the variances of the parts of a rollout's advantages, at the steps that
        count; where none does, it stays."""
        step = jnp.where(jnp.any(counts), 1.0 - _DECAY, 0.0)
        return Balance(
            self.task + step * (masked_variance(task, counts) - self.task),
            self.imitation + step * (masked_variance(imitation, counts) - self.imitation),
        )

    @property
    def ratio(self) -> Float[Array, ""]:
        """1 while either part has never moved: advantages are standardised, so that the scale of
        the only one does not matter."""
        both = (self.task > 0) & (self.imitation > 0)
        return jnp.where(both, jnp.sqrt(self.task / jnp.where(both, self.imitation, 1.0)), 1.0)


def mixed_reward(
    ppo: PPO,
    settings: Imitation,
    trajectory: Trajectory,
    imitation: Float[Array, "T N"],
    balance: Balance | None,
    begun: Bool[Array, ""] | bool = True,
) -> tuple[Float[Array, "T N"], Balance | None, dict[str, Float[Array, ""]]]:
    r"""`r = w r_task + c r_imitation` (Wang et al. 2023, arXiv 2206.00233, Algorithm 1).

    Args:
        ppo: Holds gamma and lambda, by which rewards become advantages.
        settings: w, c, c's schedule and its unit.
        trajectory: The agent's part of a rollout.
        imitation: The imitation reward of each step.
        balance: The running variances of the rewards' parts of the advantages; None where c is in
            units of reward.
        begun: Whether there is an imitation reward yet; until then, the balance takes in nothing.

    Returns:
        The mixed reward, the balance with this rollout, and what to report.
    """
    task = settings.task_weight * trajectory.rewards
    coefficient = scheduled(settings, "coefficient", trajectory.progress)
    metrics = {}
    if balance is not None:
        nothing = jnp.zeros_like(task)  # advantages without a critic: the rewards' own part
        of_task, of_imitation = (
            rollout_advantages(ppo, trajectory, rewards, nothing, nothing)
            for rewards in (task, imitation)
        )
        balance = balance.including(of_task, of_imitation, trajectory.alive & begun)
        coefficient = coefficient * balance.ratio
        metrics["imitation_coefficient"] = coefficient
    return task + coefficient * imitation, balance, metrics
