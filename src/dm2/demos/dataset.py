"""The demonstrations of one team, and the checks that they pass when they are built."""

import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, no_type_check

import numpy as np
from jaxtyping import Array, Bool, Float, Int

from dm2.demos import file
from dm2.demos.agent import AgentDemonstrations
from dm2.demos.conversions import Conversions
from dm2.demos.episodes import check_shapes, one_agent
from dm2.demos.fields import Dtype, about, check, settled_dtype
from dm2.demos.provenance import (
    PER_AGENT,
    as_ranges,
    complete,
    from_ranges,
    of_agent,
    per_agent,
)
from dm2.demos.subset import as_choice, choose
from dm2.demos.summary import summarise
from dm2.envs.base import EnvSpec
from dm2.errors import InputError, Whole, as_path, as_whole, check_flags
from dm2.files import check_target

__all__ = ["Demonstrations"]

AnyArray = Array | np.ndarray


# The class checks what it is given itself and answers with an InputError.
@no_type_check
@dataclass(frozen=True, eq=False)
class Demonstrations(Conversions):
    """The demonstrations of one team: `demos[k]` contains all that agent `k` may receive.

    Raises:
        InputError: If the agents do not fit together or the provenance is unusable.

    Example:
        Demonstrations that are not concurrent take each agent from the episodes of another team.
        The provenance then has a different label for each agent.

            Demonstrations(tuple(team[k] for k, team in enumerate(teams)), provenance)
    """

    agents: tuple[AgentDemonstrations, ...]
    """The demonstrations for each agent. All agents have observations of the same size."""
    provenance: dict[str, Any]
    """Where the episodes come from, as a dictionary of JSON values. Required are `environment` (the
    full name), `environment_version`, `num_actions`, `episode_limit` (in steps) and `concurrency`,
    which is one label for each agent, equal for agents recorded in the same joint episodes.
    Optional are `method`, `seed`, `training_step`, `policy` ("stochastic", "greedy" or
    "epsilon-greedy") and `win_rate` (0 to 1); they are None if left out. Also checked are `epsilon`
    (0 to 1) and `episode_indices`, which says by ranges such as "0-99,200-299" which episodes of a
    recording these are. All but `win_rate` are lists if the agents differ. Other JSON values are
    kept. The constructor adds `episodes`, the number of different joint episodes. It also adds
    `win_rate` if this is not given and every episode has `won`."""
    file_bytes: int | None = field(default=None, kw_only=True)
    """The size in bytes of the file from which the demonstrations were loaded; None without one."""

    def __post_init__(self) -> None:
        check(self.agents, "agents: there are none")
        sizes = [agent.observations.shape[1] for agent in self.agents]
        for k, size in enumerate(sizes):
            problem = f"agent {k}: observations have {size} features, agent 0's have {sizes[0]}"
            check(size == sizes[0], problem)
        object.__setattr__(self, "provenance", complete(self.provenance, len(self.agents)))
        self._check_groups()
        for k, agent in enumerate(self.agents):
            with about(f"agent {k}"):
                _check_limits(agent, self.provenance)
                self._indices(k)
        won = self._per_episode("won")
        self.provenance["episodes"] = sum(agent.num_episodes for agent in self._distinct())
        if self.provenance["win_rate"] is None and won is not None:
            self.provenance["win_rate"] = float(np.mean(won))

    def _check_groups(self) -> None:
        labels, count = self.provenance["concurrency"], len(self.agents)
        remedy = f"must have one label for each of the {count} agents"
        check(len(labels) == count, f"provenance.concurrency = {labels}", remedy)
        for k, agent in enumerate(self.agents):
            first = labels.index(labels[k])
            for name in ("offsets", "returns", "won"):
                same = np.array_equal(getattr(agent, name), getattr(self.agents[first], name))
                problem = f"agents {first} and {k} share concurrency {labels[k]!r}, but not {name}"
                check(same, problem, "label agents from different episodes differently")

    def __getitem__(self, k: int) -> AgentDemonstrations:
        """Returns the demonstrations for one agent.

        Args:
            k: The index of the agent.

        Returns:
            All that this agent may receive.

        Raises:
            IndexError: If there is no such agent.
        """
        return self.agents[k]

    def __len__(self) -> int:
        """The number of agents."""
        return len(self.agents)

    @property
    def sha256(self) -> str:
        """The digest of the contents: all arrays and the provenance."""
        return file.digest(self._arrays(), self.provenance)

    @property
    def mean_return(self) -> float | None:
        """The mean of the team's undiscounted returns over all episodes; None if unknown."""
        returns = self._per_episode("returns")
        return None if returns is None else float(np.mean(returns, dtype=np.float64))

    @property
    def concurrent(self) -> bool:
        """Whether all agents come from the same joint episodes."""
        return len(set(self.provenance["concurrency"])) == 1

    @classmethod
    def from_episodes(
        cls,
        observations: Float[AnyArray, "E T K O"],
        alive: Bool[AnyArray, "E T K"],
        length: Int[AnyArray, " E"],
        provenance: dict[str, Any],
        *,
        actions: Int[AnyArray, "E T K"] | None = None,
        legal: Bool[AnyArray, "E T K A"] | None = None,
        returns: Float[AnyArray, " E"] | None = None,
        won: Bool[AnyArray, " E"] | None = None,
        dtype: Dtype | None = None,
    ) -> "Demonstrations":
        """Builds demonstrations from `E` recorded joint episodes of at most `T` steps.

        The steps after the end of an episode, which fill the arrays up to `T`, are left out. The
        numbers `K`, `O` and `A` are those of agents, features of an observation, and actions.

        Args:
            observations: The observation of each agent at each step, `[E, T, K, O]`.
            alive: Whether each agent was alive at each step, `[E, T, K]`.
            length: The number of steps of each episode, `[E]`, from 1 to `T`.
            provenance: Where the episodes come from (see `Demonstrations.provenance`).
                `concurrency` may be left out, because all agents share these episodes.
            actions: The action of each agent at each step, `[E, T, K]`.
            legal: Whether each action was legal, `[E, T, K, A]`.
            returns: The undiscounted team return of each episode, `[E]`.
            won: Whether the team won each episode, `[E]`.
            dtype: The type in which observations are stored; by default `float16` on battles (smax
                and smac) and `float32` elsewhere. `float16` halves the memory and rounds by at most
                1 part in 2048 (2.5e-4 within [-1, 1]). The provenance keeps the largest error as
                `rounding_error`.

        Returns:
            The demonstrations of the team.

        Raises:
            InputError: If shapes do not fit together, if a length is outside 1 to `T`, if a value
                overflows `dtype`, or if `AgentDemonstrations` or `Demonstrations` rejects the
                arrays.
        """
        dtype = settled_dtype(dtype, provenance.get("environment"))
        given = {"observations": observations, "alive": alive, "length": length, "actions": actions}
        given |= {"legal": legal, "returns": returns, "won": won}
        episodes = {name: np.asarray(x) for name, x in given.items() if x is not None}
        check_shapes(episodes)
        shape = episodes["observations"].shape
        keep = np.arange(shape[1]) < episodes["length"][:, None]
        parts, errors = [], []
        for k in range(shape[2]):
            with about(f"agent {k}"):
                agent, error = one_agent(episodes, keep, k, dtype)
            parts.append(agent)
            errors.append(error)
        defaults = {"concurrency": [0] * len(parts), "rounding_error": max(errors, default=0.0)}
        return cls(tuple(parts), defaults | provenance)

    def save(self, path: str | Path, *, overwrite: bool = True) -> int:
        """Writes the demonstrations to a file.

        The file is written as a whole or not at all. If writing fails, an older file of that name
        stays as it was. Missing parent folders are made.

        Args:
            path: The file to write.
            overwrite: Whether another file of that name may be replaced; runs that were trained on
                it then cannot go on. `dm2 record` replaces none unless it is told to.

        Returns:
            The size of the file in bytes.

        Raises:
            InputError: If the path is unusable, or holds another file and `overwrite` is False.
            OSError: If the disk fails.
        """
        check_flags(overwrite=overwrite)
        target = check_target("path", path)
        if target.exists() and not overwrite:
            if _digest_of(target) == self.sha256:
                return target.stat().st_size
            raise InputError(f"path = {str(target)!r}: {file.EXISTS}")
        return file.write(target, self._arrays(), self.provenance)

    @classmethod
    def load(cls, path: str | Path) -> "Demonstrations":
        """Reads and checks a file that `save` wrote.

        Args:
            path: The file to read.

        Returns:
            The demonstrations of the team.

        Raises:
            InputError: If the file cannot be read, is damaged, or was not written by `save`.
        """
        path = Path(as_path("path", path))
        with about(path):
            arrays, provenance = file.read(path)
            agents = []
            for k, part in enumerate(arrays):
                with about(f"agent {k}"):
                    agents.append(AgentDemonstrations(**part))
            return cls(tuple(agents), provenance, file_bytes=path.stat().st_size)

    def subset(
        self,
        *,
        episodes: Whole | None = None,
        agent: Whole | None = None,
        won: bool = False,
        return_range: tuple[float, float] | None = None,
    ) -> "Demonstrations":
        """Keeps a part of the demonstrations, all that is asked for at once.

        An episode is kept by whether the team won it and by its return. Where agents come from
        different episodes, each agent's episodes are kept or left out by themselves, and the agents
        may end with different numbers of them.

        Args:
            episodes: How many episodes are kept: the first of those that the other arguments leave.
                By default all.
            agent: The agent whose part alone is kept, from 0. By default the whole team.
            won: Whether only episodes that the team won are kept.
            return_range: The lowest and the highest undiscounted team return of the episodes that
                are kept. By default any.

        Returns:
            The part. Its provenance has new numbers of episodes and wins, `episode_indices` and the
            list `subset`, of what was asked for and of which contents. The part of one agent is
            demonstrations of a single agent, and says which in `agent` and `team_agents`.

        Raises:
            InputError: If an argument is unusable or nothing was asked for, if an agent is left
                with no episode or fewer than `episodes`, or if wins or returns are not known.
        """
        choice = as_choice(episodes, won, return_range)
        members = list(range(len(self)))
        if agent is not None:
            members = [as_whole("agent", agent, 0, len(self) - 1)]
        nothing = not choice and agent is None
        check(
            not nothing, "subset: nothing is asked for", "say episodes, agent, won or return_range"
        )
        chosen = {k: choose(self[k], k, choice) for k in members}
        source = dict(self.provenance)
        for name in PER_AGENT:
            if name in source:
                source[name] = per_agent(of_agent(source, name, k) for k in members)
        indices = {k: self._indices(k) for k in members}
        taken = (as_ranges(indices[k][e] for e in chosen[k]) for k in members)
        source["episode_indices"] = per_agent(taken)
        source["concurrency"] = [source["concurrency"][k] for k in members]
        if agent is not None and "agent" not in source:
            source |= {"agent": members[0], "team_agents": len(self)}
        asked = choice if agent is None else choice | {"agent": members[0]}
        source["subset"] = [*source.get("subset", []), {"of": self.sha256, **asked}]
        if choice or not self.concurrent:
            source["win_rate"] = None
        parts = []
        for k in members:
            with about(f"agent {k}"):
                parts.append(self[k].select(chosen[k]))
        return Demonstrations(tuple(parts), source)

    def check(self, env_spec: EnvSpec, *, same_limit: bool = False) -> None:
        """Checks that these demonstrations fit an environment.

        The part of the environment's name before `?` must be equal. Where options such as walls,
        the environment's version or the episode limit differ, a warning says so.

        Args:
            env_spec: The specification of the environment.
            same_limit: Whether the episode limit must be equal, because time up to it counts.

        Raises:
            InputError: If the name, the number of agents or of actions, or the size of the
                observations differs; or the episode limit, where it must be equal.
        """
        recorded, size = self.provenance, self.agents[0].observations.shape[1]
        name, limit = recorded["environment"], recorded["episode_limit"]
        base, wanted = name.partition("?")[0], env_spec.name.partition("?")[0]
        again = f"record some on {env_spec.name} with `dm2 record`"
        fits = f"demonstrations of {name} do not fit {env_spec.name}"
        if "agent" in recorded and len(self) != env_spec.num_agents:
            problem = f"{fits}: they are the part of agent {recorded['agent']} alone, of a team of"
            problem = f"{problem} {recorded.get('team_agents')}"
            remedy = (
                "take the file of the whole team, from which `dm2 demos subset --agent` took it"
            )
            raise InputError(f"{problem}; {remedy}")
        for field_name, have, want in (
            ("environment", base, wanted),
            ("number of agents", len(self), env_spec.num_agents),
            ("observation size", size, env_spec.observation_size),
            ("number of actions", recorded["num_actions"], env_spec.num_actions),
        ):
            check(have == want, f"{fits}: {field_name} is {have}, must be {want}", again)
        if same_limit and limit != env_spec.episode_limit:
            problem = f"{fits}: episode limit is {limit}, must be {env_spec.episode_limit}"
            why = "survival = 'absorbing' would take a recording that was cut for a death"
            raise InputError(f"{problem}, since {why}; choose another survival, or {again}")
        versions = (recorded["environment_version"], env_spec.version)
        for field_name, have, want in (
            ("environment", name, env_spec.name),
            ("version", *versions),
            ("episode limit", limit, env_spec.episode_limit),
        ):
            if have != want:
                differ = f"the demonstrations were recorded with {field_name} {have}"
                warnings.warn(f"{differ}, this run has {want}", UserWarning, stacklevel=2)

    def alive_observations(self, k: int) -> Float[np.ndarray, "M O"]:
        """The observations of one agent at the steps at which it was alive.

        Args:
            k: The index of the agent.

        Returns:
            The observations of `M` steps, `[M, O]`.
        """
        return self[k].observations[self[k].alive]

    def absorbing_fraction(self, k: int) -> float:
        """The share of time steps at which one agent was dead or the episode was over. Every
        episode counts as many steps as its limit has; one that was cut before that counts as if it
        had terminated, since a recording does not say which.

        Args:
            k: The index of the agent.

        Returns:
            The share, from 0 to 1.
        """
        agent = self[k]
        steps = agent.num_episodes * self.provenance["episode_limit"]
        return 1.0 - float(agent.alive.sum()) / steps

    def summary(self) -> dict[str, Any]:
        """Summarises the demonstrations, as `dm2 demos inspect --json` prints it.

        Returns:
            A dictionary of plain values. Steps are joint steps, and unknown values are None.
        """
        return summarise(self, self._distinct(), self._per_episode("won"))

    def _indices(self, k: int) -> list[int]:
        """The index in its recording of each of an agent's episodes; that in these demonstrations
        if the provenance does not say."""
        count, text = self[k].num_episodes, of_agent(self.provenance, "episode_indices", k)
        if text is None:
            return list(range(count))
        indices = from_ranges(text, count)
        remedy = f"must name as many as there are, {count}, in ranges from low to high"
        check(indices is not None, f"provenance.episode_indices = {text!r}", remedy)
        return indices or []

    def _distinct(self) -> list[AgentDemonstrations]:
        """One agent of each group with equal labels, so that each joint episode is counted once."""
        labels = self.provenance["concurrency"]
        return [self[labels.index(label)] for label in dict.fromkeys(labels)]

    def _arrays(self) -> list[dict[str, np.ndarray]]:
        return [agent.arrays() for agent in self.agents]

    def _per_episode(self, name: Literal["won", "returns"]) -> np.ndarray | None:
        """The values of all different joint episodes; None if one of them is unknown."""
        values = [getattr(agent, name) for agent in self._distinct()]
        return None if any(v is None for v in values) else np.concatenate(values)


def _digest_of(path: Path) -> str | None:
    """The digest of the demonstrations in a file; None if it holds none."""
    try:
        return file.digest(*file.read(path))
    except InputError:
        return None


def _check_limits(agent: AgentDemonstrations, provenance: dict[str, Any]) -> None:
    limit, count = provenance["episode_limit"], provenance["num_actions"]
    longest = agent.lengths.max()
    check(longest <= limit, f"an episode has {longest} steps, but episode_limit = {limit}")
    if agent.legal is not None:
        have = agent.legal.shape[1]
        check(have == count, f"legal has {have} actions, but num_actions = {count}")
    if agent.actions is not None:
        highest = agent.actions[agent.alive].max()
        check(highest < count, f"actions has {highest}, but num_actions = {count}")
