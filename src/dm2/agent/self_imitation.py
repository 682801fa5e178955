"""One agent's own best episodes, kept to be imitated."""

import functools
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from dm2.agent.demonstrations import Expert
from dm2.agent.discriminator import chosen_actions
from dm2.agent.episodes import Ongoing, hand_over
from dm2.agent.settings import SelfImitation
from dm2.agent.types import Trajectory

__all__ = ["BestEpisodes", "OwnEpisodes"]


class OwnEpisodes(NamedTuple):
    """What one agent keeps of its own episodes: `C` whole ones of at most `L` steps, and those that
    were under way when the last rollout ended."""

    observations: Float[Array, "C L O"]
    alive: Bool[Array, "C L"]
    """False behind an episode's end, too."""
    actions: Int[Array, "C L"] | None
    """None where the discriminator takes states alone."""
    returns: Float[Array, " C"]
    """The discounted return of each episode, of the rewards that the agent is paid."""
    steps: Int[Array, " C"]
    """The steps that each episode counts: the episode limit's if it terminated, since the agent is
    in the absorbing state from then on, and its own if it was cut."""
    size: Int[Array, ""]
    """How many episodes there are; they come first."""
    ongoing: Ongoing


class BestEpisodes:
    r"""Keeps the episodes of the highest discounted return `sum_t gamma^t r_t`, of the team's
    reward or, where each agent is paid its own, of that. It holds settings only; all that changes
    is in `OwnEpisodes`.

    Until `settings.episodes` are there, every episode is kept. Then a new one takes the place of
    the worst if it is better; of equal ones the older stays, and of several worst the one that
    lies first goes. An episode that a rollout cuts is whole when the next rollout has ended it.
    """

    def __init__(
        self,
        settings: SelfImitation,
        observation_size: int,
        num_actions: int,
        limit: int,
        num_envs: int,
        discount: float,
    ) -> None:
        """Makes the rules.

        Args:
            settings: How many episodes are kept.
            observation_size: Features of the agent's observation.
            num_actions: How many actions there are, where they are kept too; 0 for none.
            limit: The episode limit, environment steps.
            num_envs: Environments that a rollout runs side by side.
            discount: Gamma.
        """
        self.settings = settings
        self.observation_size = observation_size
        self.num_actions = num_actions
        self.limit = limit
        self.num_envs = num_envs
        self.discount = discount

    def initial(self) -> OwnEpisodes:
        """No episodes."""
        shape = (self.settings.episodes, self.limit)
        row = {
            "observations": jax.ShapeDtypeStruct((self.observation_size,), jnp.float32),
            "alive": jax.ShapeDtypeStruct((), bool),
            "rewards": jax.ShapeDtypeStruct((), jnp.float32),
        }
        if self.num_actions:
            row["actions"] = jax.ShapeDtypeStruct((), jnp.int32)
        return OwnEpisodes(
            jnp.zeros((*shape, self.observation_size)),
            jnp.zeros(shape, bool),
            jnp.zeros(shape, jnp.int32) if self.num_actions else None,
            jnp.zeros(shape[0]),
            jnp.zeros(shape[0], jnp.int32),
            jnp.zeros((), jnp.int32),
            Ongoing.initial(row, self.limit, self.num_envs),
        )

    def nbytes(self) -> int:
        """What the episodes of one agent take."""
        shapes = jax.tree.leaves(jax.eval_shape(self.initial))
        return sum(x.dtype.itemsize * x.size for x in shapes)

    def including(self, own: OwnEpisodes, trajectory: Trajectory) -> OwnEpisodes:
        """With the episodes that end in a rollout, as far as they are good enough."""
        rows = {
            "observations": cast(Array, trajectory.extras.observations),
            "alive": trajectory.alive,
            "rewards": trajectory.rewards,
        }
        if self.num_actions:
            rows["actions"] = trajectory.actions.astype(jnp.int32)
        starts, ended = trajectory.starts, trajectory.ended
        insert = functools.partial(self._insert, trajectory.terminated)
        ongoing, own = hand_over(own.ongoing, rows, starts, ended, own, insert)
        return own._replace(ongoing=ongoing)

    def enough(self, own: OwnEpisodes) -> Bool[Array, ""]:
        """Whether there are as many as `settings.least`."""
        return own.size >= self.settings.least

    def expert(self, own: OwnEpisodes) -> Expert:
        """The episodes as an expert's: every step at which the agent was alive."""
        alive = own.alive.reshape(-1)
        living = jnp.sum(alive)
        index = jnp.nonzero(alive, size=len(alive), fill_value=0)[0]
        actions = None
        if own.actions is not None:
            actions = chosen_actions(own.actions.reshape(-1)[index], self.num_actions)
        return Expert(
            own.observations.reshape(-1, self.observation_size)[index],
            living,
            1.0 - living / jnp.maximum(jnp.sum(own.steps), 1),
            actions,
        )

    def report(self, own: OwnEpisodes) -> dict[str, Float[Array, ""]]:
        """How many episodes there are and what they are worth on average."""
        present = jnp.arange(len(own.returns)) < own.size
        total = jnp.sum(jnp.where(present, own.returns, 0.0))
        count = own.size.astype(jnp.float32)
        return {"best_episodes": count, "best_return": total / jnp.maximum(count, 1.0)}

    def _insert(
        self,
        terminated: Bool[Array, "T N"],
        own: OwnEpisodes,
        episode: Any,
        length: Array,
        step: Array,
        environment: Array,
    ) -> OwnEpisodes:
        value = jnp.sum(episode["rewards"] * self.discount ** jnp.arange(self.limit))
        capacity = len(own.returns)
        full = own.size == capacity
        worst = jnp.argmin(own.returns)
        place = jnp.where(full, worst, own.size)
        # A place behind the last is no place: what would be written there is dropped.
        place = jnp.where(~full | (value > own.returns[worst]), place, capacity)

        def put(rows: Array, new: Array) -> Array:
            return rows.at[place].set(new, mode="drop")

        return own._replace(
            observations=put(own.observations, episode["observations"]),
            alive=put(own.alive, episode["alive"]),
            actions=None if own.actions is None else put(own.actions, episode["actions"]),
            returns=put(own.returns, value),
            steps=put(own.steps, jnp.where(terminated[step, environment], self.limit, length)),
            size=jnp.minimum(own.size + 1, capacity),
        )
