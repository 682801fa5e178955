"""What one agent's update takes, worked out rather than measured."""

from dm2.agent.settings import PPO

__all__ = ["ACTIVATIONS", "fit_bytes", "update_flops"]

ACTIVATIONS = 20
"""Numbers per unit that a network's forward and backward pass keep for a step of a minibatch."""


def update_flops(
    ppo: PPO, observation_size: int | float, num_actions: int, agent_steps: int
) -> float:
    """Multiply-adds of the matrix products of PPO's epochs, times two.

    A backward pass costs two forward passes, but for the gradient with respect to the
    observations, which nobody needs; actor and critic differ in their heads only.

    Args:
        ppo: The settings of the update.
        observation_size: Features that a network takes; the mean of the actor's and the critic's.
        num_actions: Actions to choose from.
        agent_steps: Environment steps times agents.
    """
    hidden = ppo.hidden
    recurrent = hidden * hidden + 2 * hidden * 3 * hidden
    forward = 2 * (2 * (observation_size * hidden + recurrent) + hidden * (num_actions + 1))
    return (3.0 * forward - 4.0 * observation_size * hidden) * agent_steps * ppo.epochs


def fit_bytes(ppo: PPO, steps: int) -> float:
    """Memory in bytes that the actor's and the critic's minibatch of a rollout keep at a time.

    Args:
        ppo: The settings of the update.
        steps: Environment steps of the rollout.
    """
    return 2 * 4 * ACTIVATIONS * ppo.hidden * steps / ppo.minibatches
