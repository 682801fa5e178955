"""The reward that one agent learns from: the task's, its discriminator's, or both mixed."""

from typing import Any, cast

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt32

from dm2.agent.demonstrations import Expert, required
from dm2.agent.discriminator import DiscriminatorState, Imitator, chosen_actions, idle_steps
from dm2.agent.mixed_reward import Balance, mixed_reward
from dm2.agent.self_imitation import BestEpisodes, OwnEpisodes
from dm2.agent.settings import PPO, Imitation, Matching
from dm2.agent.state import AgentState
from dm2.agent.types import Trajectory

__all__ = ["LearningReward"]

Metrics = dict[str, Float[Array, ""]]


class LearningReward:
    """The rules by which one agent is paid for a rollout. It holds settings only; what changes is
    the agent's discriminator, its own best episodes and the balance of its rewards, in
    `AgentState`."""

    def __init__(
        self,
        ppo: PPO,
        imitation: Matching | None,
        observation_size: int,
        num_actions: int,
        best: BestEpisodes | None = None,
        *,
        own_rewards: bool = False,
    ) -> None:
        """Makes the rules.

        Args:
            ppo: Holds gamma and lambda, by which rewards become advantages.
            imitation: Settings of distribution matching; None for an agent that does not imitate.
                With those of `Matching` alone the imitation's reward is all that it learns from.
            observation_size: Features of the agent's observation.
            num_actions: How many actions the agent chooses from.
            best: What the agent keeps of its own episodes to imitate them; None for an agent that
                imitates an expert.
            own_rewards: Whether the task pays the agent alone, and nothing after its death.
        """
        self.ppo = ppo
        self.imitation = imitation
        self.best = best
        self.num_actions = num_actions
        sizes = (observation_size, num_actions)
        self.imitator = Imitator(imitation, *sizes, ppo.discount) if imitation else None
        imitates_only = imitation is not None and not isinstance(imitation, Imitation)
        absorbing = imitation is not None and imitation.survival == "absorbing"
        self.paid_after_death = absorbing or not (own_rewards or imitates_only)
        """Whether any reward that the agent learns from goes on after its death: the team's, or
        that of an absorbing state."""
        self._balances = isinstance(imitation, Imitation) and imitation.unit == "advantage"

    def initial(self, key: UInt32[Array, "2"]) -> dict[str, Any]:
        """The fields of a fresh agent's `AgentState` that are the reward's, by name; None where
        the agent has no use for them."""
        return {
            "discriminator": self.imitator.init(key) if self.imitator else None,
            "balance": Balance.initial() if self._balances else None,
            "best": self.best.initial() if self.best else None,
        }

    def of_rollout(
        self,
        state: AgentState,
        key: UInt32[Array, "2"],
        trajectory: Trajectory,
        expert: Expert | None,
    ) -> tuple[Float[Array, "T N"], AgentState, Metrics]:
        """What the agent learns from: the task's reward, the imitation's, or both mixed.

        Args:
            state: The agent, whose moments include the rollout.
            key: Decides which states the discriminator learns from.
            trajectory: The agent's own part of the rollout.
            expert: Its own part of the demonstrations; None for an agent that imitates nobody, or
                itself.

        Returns:
            The reward that followed each step, the agent with the discriminator, the episodes and
            the balance that came of the rollout, and what to report.

        Raises:
            InputError: If the agent learns from demonstrations, and there are none.
        """
        if self.imitation is None:
            return trajectory.rewards, state, {}
        begun = True
        if self.best is not None and state.best is not None:
            own = self.best.including(state.best, trajectory)
            state, begun = state._replace(best=own), self.best.enough(own)
            outcome = self._self_imitation(state, key, trajectory, self.best, own)
        else:
            outcome = self._imitation(state, key, trajectory, expert)
        imitation, discriminator, metrics = outcome
        state = state._replace(discriminator=discriminator)
        if not isinstance(self.imitation, Imitation):
            return imitation, state, metrics
        rewards, balance, of_mixing = mixed_reward(
            self.ppo, self.imitation, trajectory, imitation, state.balance, begun
        )
        return rewards, state._replace(balance=balance), metrics | of_mixing

    def _self_imitation(
        self,
        state: AgentState,
        key: Array,
        trajectory: Trajectory,
        best: BestEpisodes,
        own: OwnEpisodes,
    ) -> tuple[Array, DiscriminatorState, Metrics]:
        """The imitation reward where the agent's own episodes are its expert; 0, and nothing
        learnt, until there are enough of them."""

        def imitate() -> Any:
            return self._imitation(state, key, trajectory, best.expert(own))

        def wait() -> Any:
            blank = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(imitate))
            return blank[0], state.discriminator, blank[2]

        imitation, discriminator, metrics = jax.lax.cond(best.enough(own), imitate, wait)
        return imitation, discriminator, metrics | best.report(own)

    def _imitation(
        self, state: AgentState, key: Array, trajectory: Trajectory, expert: Expert | None
    ) -> tuple[Array, DiscriminatorState, Metrics]:
        """The imitation reward after the discriminator's own update."""
        expert = required(expert)
        assert self.imitator is not None
        assert state.discriminator is not None
        actions = None
        if self.imitator.takes_actions:
            actions = chosen_actions(trajectory.actions, self.num_actions)
        observations = cast(Array, trajectory.extras.observations)
        if state.moments is not None:
            observations = expert.rounded(observations)
        idle = idle_steps(trajectory)
        of_steps = (observations, trajectory.alive, idle, state.moments, actions)
        discriminator, metrics = self.imitator.update(state.discriminator, key, expert, *of_steps)
        rewards, mean = self.imitator.rewards(discriminator, *of_steps)
        return rewards, discriminator, metrics | {"imitation_reward": mean}
