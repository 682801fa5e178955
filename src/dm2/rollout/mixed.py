"""Teams of agents that were trained in different teams, and meet where they are to act."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Int, UInt32

from dm2.agent.types import View
from dm2.errors import check_setting
from dm2.rollout.play import Players

__all__ = ["MixedTeam"]


class MixedTeam:
    """A mixed team takes each of its agents from one of several teams, whatever their methods.

    Its state and its memory are tuples of those of the teams, in their order. All teams act on the
    whole view, and what an agent does is what it would do in its own team, on the same view and
    memory. The team plays and does not learn, so it is no `Method`.

    Example:
        Agent 0 is taken from the first team, agents 1 and 2 from the second.

            team = MixedTeam([first, second], [0, 1, 1])
            play(env, team, (first_state, second_state), key, 32, greedy=True)
    """

    def __init__(self, teams: Sequence[Players], origins: Sequence[int]) -> None:
        """Mixes a team.

        Args:
            teams: The teams from which agents are taken, each of `K` agents.
            origins: The index in `teams` from which each of the `K` agents is taken; agent `k` is
                that team's agent `k`.

        Raises:
            InputError: If a team has another number of agents, or an index names no team.
        """
        for index, team in enumerate(teams):
            fits = team.num_agents == len(origins)
            remedy = f"must be {len(origins)}, as many as origins names; mix teams of one size"
            check_setting(fits, f"teams[{index}].num_agents", team.num_agents, remedy)
        known = set(origins) <= set(range(len(teams)))
        remedy = f"must name teams by their index, from 0 to {len(teams) - 1}"
        check_setting(known, "origins", list(origins), remedy)
        self.num_agents = len(origins)
        self._teams = tuple(teams)
        self._origins = tuple(origins)

    def memory(self, num_envs: int) -> tuple[Any, ...]:
        """The memory of every team before it has perceived anything.

        Args:
            num_envs: The number of environments, side by side.

        Returns:
            The teams' memories.
        """
        return tuple(team.memory(num_envs) for team in self._teams)

    def act(
        self,
        state: tuple[Any, ...],
        memory: tuple[Any, ...],
        keys: UInt32[Array, "K 2"],
        view: View,
        greedy: bool,
    ) -> tuple[tuple[Any, ...], Int[Array, "K N"], None]:
        """Every agent acts as it would among its own team; see `Method.act`.

        Args:
            state: The teams' states.
            memory: The teams' memories.
            keys: Each agent's own key.
            view: What the agents perceive.
            greedy: Whether agents take their most likely actions; otherwise they sample.

        Returns:
            The teams' next memories, every agent's actions, and None, as nobody learns from them.
        """
        parts = zip(self._teams, state, memory, strict=True)
        acted = [team.act(own, known, keys, view, greedy=greedy) for team, own, known in parts]
        rows = [acted[origin][1][k] for k, origin in enumerate(self._origins)]
        return tuple(after for after, _, _ in acted), jnp.stack(rows), None
