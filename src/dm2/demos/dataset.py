"""The demonstrations of one team as arrays, and the checks that they pass when they are built."""

import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, no_type_check

import numpy as np
from jaxtyping import Array, Bool, Float, Float16, Float32, Int, Int16, Int32, Int64

from dm2.demos import file
from dm2.demos.fields import AGAIN, FIELDS, REQUIRED, about, check
from dm2.envs.base import EnvSpec
from dm2.errors import InputError
from dm2.files import check_target

__all__ = ["AgentDemonstrations", "Demonstrations"]

EXISTS = "exists, and runs may depend on it; choose another file, or say overwrite"
"""The rest of the message where a file would be replaced that nobody said may be."""

# what provenance must hold -> whether a value is accepted, what is
_PROVENANCE: dict[str, tuple[Callable[[Any], bool], str]] = {
    "environment": (lambda v: isinstance(v, str) and v != "", "a name"),
    "environment_version": (lambda v: isinstance(v, str), "a text"),
    "num_actions": (lambda v: type(v) is int and v > 0, "a whole number above 0"),
    "episode_limit": (lambda v: type(v) is int and v > 0, "a whole number of steps above 0"),
    "concurrency": (
        lambda v: isinstance(v, list) and all(type(label) in (str, int) for label in v),
        "a list with a label, text or number, for each agent",
    ),
    "policy": (lambda v: v in (None, "stochastic", "greedy"), "'stochastic' or 'greedy'"),
    "win_rate": (lambda v: v is None or (type(v) in (int, float) and 0 <= v <= 1), "from 0 to 1"),
}
AnyArray = Array | np.ndarray


def _check_type(name: str, array: Any) -> None:
    dtypes, axes = FIELDS[name]
    remedy = f"must be an array of {' or '.join(dtypes)} [{', '.join(axes)}]"
    kind = array.dtype.name if isinstance(array, np.ndarray) else type(array).__name__
    check(kind in dtypes, f"{name} is {kind}", remedy)
    check(array.ndim == len(axes), f"{name} has shape {array.shape}", remedy)


def _first(bad: Any) -> int | None:
    """The lowest index at which an array is true; None if there is none."""
    where = np.flatnonzero(bad)
    return int(where[0]) if len(where) else None


# The classes check what they are given themselves and answer with an InputError.
@no_type_check
@dataclass(frozen=True, eq=False)
class AgentDemonstrations:
    """The demonstrations for one agent: what its expert observed and did.

    Episode `e` consists of the steps `offsets[e]` to `offsets[e + 1] - 1`. It has all steps of the
    joint episode, including those after the death of this agent. The fields `returns` and `won`
    concern the team; all others concern this agent alone.

    Args:
        observations: The expert's own observation at each step, on which it chose its action,
            `[steps, O]`. The observation after the last step is not included.
        alive: Whether the expert was alive at each step, `[steps]`; true at least once.
        offsets: The first step of each episode, and the number of all steps, `[episodes + 1]`.
        actions: The action at each step, `[steps]`; without meaning where the expert is dead.
        legal: Whether each action was legal at each step, `[steps, A]`.
        returns: The undiscounted team return of each episode, `[episodes]`.
        won: Whether the team won each episode, `[episodes]`.

    Raises:
        InputError: If an array has a wrong type or shape, if the lengths do not fit together, if an
            episode has no step, if an observation or a return is not finite, if the expert is never
            alive, if a step has no legal action, or if an action of the living expert is not legal.
    """

    observations: Float16[np.ndarray, "steps O"] | Float32[np.ndarray, "steps O"]
    """The expert's own observation at each step, on which it chose its action (no final
    observation).
    """
    alive: Bool[np.ndarray, " steps"]
    """Whether the expert was alive at each step; true at least once."""
    offsets: Int64[np.ndarray, " episodes+1"]
    """The first step of each episode, and the number of all steps."""
    actions: Int16[np.ndarray, " steps"] | Int32[np.ndarray, " steps"] | None = None
    """The action at each step; without meaning where the expert is dead."""
    legal: Bool[np.ndarray, "steps A"] | None = None
    """Whether each action was legal at each step."""
    returns: Float32[np.ndarray, " episodes"] | None = None
    """The undiscounted team return of each episode."""
    won: Bool[np.ndarray, " episodes"] | None = None
    """Whether the team won each episode."""

    def __post_init__(self) -> None:
        for name in FIELDS:
            if getattr(self, name) is not None or name in REQUIRED:
                _check_type(name, getattr(self, name))
        self._check_offsets()
        self._check_lengths()
        self._check_values()

    def _check_offsets(self) -> None:
        offsets, steps = self.offsets, len(self.observations)
        check(len(offsets) > 1, "offsets: there are 0 episodes")
        check(offsets[0] == 0, f"offsets[0] = {offsets[0]}, must be 0")
        e = _first(np.diff(offsets) <= 0)
        if e is not None:
            problem = f"offsets[{e + 1}] = {offsets[e + 1]} after {offsets[e]}"
            raise InputError(f"{problem}: every episode must have a step; {AGAIN}")
        check(offsets[-1] == steps, f"offsets end at {offsets[-1]}, but there are {steps} steps")

    def _check_lengths(self) -> None:
        expected = {"steps": len(self.observations), "episodes": self.num_episodes}
        for name, (_, axes) in FIELDS.items():
            array = getattr(self, name)
            if array is not None and axes[0] in expected:
                unit, have = expected[axes[0]], len(array)
                check(have == unit, f"{name} has {have} {axes[0]}, must have {unit}")

    def _check_values(self) -> None:
        check(self.observations.shape[1] > 0, "observations have 0 features")
        t = _first(~np.isfinite(self.observations).all(axis=1))
        if t is not None:
            i = _first(~np.isfinite(self.observations[t]))
            value = f"observations[{t}, {i}] = {self.observations[t, i]}"
            raise InputError(f"{value} ({self._place(t)}): must be finite; {AGAIN}")
        check(self.alive.any(), "alive is never true: there is nothing to imitate")
        if self.returns is not None:
            e = _first(~np.isfinite(self.returns))
            check(e is None, f"returns[{e}] is not a finite number")
        if self.legal is not None:
            t = _first(~self.legal.any(axis=1))
            check(t is None, f"legal[{t}] has no legal action")
        if self.actions is not None:
            self._check_actions(self.actions)

    def _check_actions(self, actions: np.ndarray) -> None:
        bad = actions < 0
        if self.legal is not None:
            bad |= actions >= self.legal.shape[1]
            # Those out of range are bad already; 0 stands in so that the index is valid.
            bad |= ~self.legal[np.arange(len(actions)), np.where(bad, 0, actions)]
        t = _first(bad & self.alive)
        if t is not None:
            problem = f"actions[{t}] = {actions[t]} ({self._place(t)})"
            raise InputError(f"{problem}: not a legal action, though alive; {AGAIN}")

    def _place(self, t: int) -> str:
        e = int(np.searchsorted(self.offsets, t, side="right")) - 1
        return f"episode {e}, step {t - self.offsets[e]}"

    @property
    def num_episodes(self) -> int:
        """The number of joint episodes."""
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Int64[np.ndarray, " episodes"]:
        """The number of steps of each joint episode."""
        return np.diff(self.offsets)

    def arrays(self) -> dict[str, np.ndarray]:
        """Returns the arrays that are present.

        Returns:
            The arrays by the names of their fields; fields that are None are left out.
        """
        fields = {name: getattr(self, name) for name in FIELDS}
        return {name: array for name, array in fields.items() if array is not None}


@no_type_check
@dataclass(frozen=True, eq=False)
class Demonstrations:
    """The demonstrations of one team: `demos[k]` contains all that agent `k` may receive.

    Args:
        agents: The demonstrations for each agent. All agents have observations of the same size.
        provenance: Where the episodes come from. Required are `environment` (the full name),
            `environment_version`, `num_actions`, `episode_limit` (in steps) and `concurrency`,
            which is one label for each agent, equal for agents recorded in the same joint episodes.
            Optional are `method`, `seed` and `training_step` (lists if the agents differ), `policy`
            ("stochastic" or "greedy") and `win_rate` (0 to 1); they are None if left out. Other
            JSON values are kept. The constructor adds `episodes`, the number of different joint
            episodes. It also adds `win_rate` if this is not given and every episode has `won`.
        file_bytes: The size of the file from which the demonstrations were loaded; None if they
            were not loaded.

    Raises:
        InputError: If the agents do not fit together or the provenance is unusable.

    Example:
        Demonstrations that are not concurrent take each agent from the episodes of another team.
        The provenance then has a different label for each agent.

            Demonstrations(tuple(team[k] for k, team in enumerate(teams)), provenance)
    """

    agents: tuple[AgentDemonstrations, ...]
    """The demonstrations for each agent."""
    provenance: dict[str, Any]
    """Where the episodes come from, as a dictionary of JSON values."""
    file_bytes: int | None = field(default=None, kw_only=True)
    """The size of the file from which the demonstrations were loaded."""

    def __post_init__(self) -> None:
        check(self.agents, "agents: there are none")
        sizes = [agent.observations.shape[1] for agent in self.agents]
        for k, size in enumerate(sizes):
            problem = f"agent {k}: observations have {size} features, agent 0's have {sizes[0]}"
            check(size == sizes[0], problem)
        object.__setattr__(self, "provenance", _complete_provenance(self.provenance))
        self._check_groups()
        for k, agent in enumerate(self.agents):
            with about(f"agent {k}"):
                _check_limits(agent, self.provenance)
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
        dtype: Literal["float16", "float32"] = "float16",
    ) -> "Demonstrations":
        """Builds demonstrations from `E` recorded joint episodes of at most `T` steps.

        The steps after the end of an episode, which fill the arrays up to `T`, are left out. The
        numbers `K`, `O` and `A` are those of agents, features of an observation, and actions.

        Args:
            observations: The observation of each agent at each step, `[E, T, K, O]`.
            alive: Whether each agent was alive at each step, `[E, T, K]`.
            length: The number of steps of each episode, `[E]`, from 1 to `T`.
            provenance: Where the episodes come from (see `Demonstrations`). `concurrency` may be
                left out, because all agents share these episodes.
            actions: The action of each agent at each step, `[E, T, K]`.
            legal: Whether each action was legal, `[E, T, K, A]`.
            returns: The undiscounted team return of each episode, `[E]`.
            won: Whether the team won each episode, `[E]`.
            dtype: The type in which observations are stored. `float16` halves the memory and rounds
                by at most 1 part in 2048 (2.5e-4 within [-1, 1]). The provenance keeps the largest
                error as `rounding_error`.

        Returns:
            The demonstrations of the team.

        Raises:
            InputError: If shapes do not fit together, if a length is outside 1 to `T`, if a value
                overflows `dtype`, or if `AgentDemonstrations` or `Demonstrations` rejects the
                arrays.
        """
        given = {"observations": observations, "alive": alive, "length": length, "actions": actions}
        given |= {"legal": legal, "returns": returns, "won": won}
        episodes = {name: np.asarray(x) for name, x in given.items() if x is not None}
        _check_shapes(episodes)
        shape = episodes["observations"].shape
        keep = np.arange(shape[1]) < episodes["length"][:, None]
        parts, errors = [], []
        for k in range(shape[2]):
            with about(f"agent {k}"):
                agent, error = _one_agent(episodes, keep, k, dtype)
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
        target = check_target("path", path)
        if target.exists() and not overwrite:
            if _digest_of(target) == self.sha256:
                return target.stat().st_size
            raise InputError(f"path = {str(target)!r}: {EXISTS}")
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
        path = Path(path)
        with about(path):
            arrays, provenance = file.read(path)
            agents = []
            for k, part in enumerate(arrays):
                with about(f"agent {k}"):
                    agents.append(AgentDemonstrations(**part))
            return cls(tuple(agents), provenance, file_bytes=path.stat().st_size)

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
        episode counts as many steps as its limit has.

        Args:
            k: The index of the agent.

        Returns:
            The share, from 0 to 1.
        """
        agent = self[k]
        steps = agent.num_episodes * self.provenance["episode_limit"]
        return 1.0 - float(agent.alive.sum()) / steps

    def summary(self) -> dict[str, Any]:
        """Summarises the demonstrations, as `dm2 inspect --json` prints it.

        Returns:
            A dictionary of plain values. Steps are joint steps, and unknown values are None.
        """
        won = self._per_episode("won")
        source, first = self.provenance, self.agents[0]
        lengths = np.concatenate([agent.lengths for agent in self._distinct()])
        labels = source["concurrency"]
        return {
            "environment": source["environment"],
            "environment_version": source["environment_version"],
            "agents": len(self),
            "episodes": source["episodes"],
            "steps": int(lengths.sum()),
            "episode_length": _spread(lengths),
            "observation_size": first.observations.shape[1],
            "dtype": first.observations.dtype.name,
            "fields": list(first.arrays()),
            "win_rate": source["win_rate"] if won is None else float(np.mean(won)),
            "mean_return": self.mean_return,
            "concurrency": labels,
            "concurrent": len(set(labels)) == 1,
            "file_bytes": self.file_bytes,
            "sha256": self.sha256,
            "per_agent": [self._agent_summary(k) for k in range(len(self))],
            "provenance": source,
        }

    def _agent_summary(self, k: int) -> dict[str, Any]:
        agent, alive = self[k], self.alive_observations(k)
        low, high = alive.min(axis=0), alive.max(axis=0)
        return {
            "concurrency": self.provenance["concurrency"][k],
            "episodes": agent.num_episodes,
            "steps": len(agent.alive),
            "steps_alive": len(alive),
            "episode_length": _spread(agent.lengths),
            "absorbing": self.absorbing_fraction(k),
            "observation": _spread(alive),  # on the steps alive, as are constant features
            "constant_features": float(np.mean(low == high)),
        }

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


def _spread(values: np.ndarray) -> dict[str, float]:
    mean = float(np.mean(values, dtype=np.float64))
    return {"mean": mean, "min": values.min().item(), "max": values.max().item()}


def _complete_provenance(given: Any) -> dict[str, Any]:
    """A copy of the provenance as it is read from the file; missing optional entries are None."""
    try:
        source = json.loads(json.dumps(given, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise InputError(f"provenance: {error}; use plain values that JSON can hold") from None
    check(isinstance(source, dict), f"provenance = {source!r}", "must be a dictionary")
    optional = ("method", "seed", "training_step", "policy", "win_rate")
    source = dict.fromkeys(optional) | source
    for name, (accepts, remedy) in _PROVENANCE.items():
        value = source.get(name)
        problem = f"= {value!r}" if name in source else "is missing"
        check(accepts(value), f"provenance.{name} {problem}", f"must be {remedy}")
    return source


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


def _check_shapes(episodes: dict[str, np.ndarray]) -> None:
    """Raises InputError if the arguments of `from_episodes` do not fit together."""
    axes = {"observations": "E T K O", "alive": "E T K", "length": "E", "actions": "E T K"}
    axes |= {"legal": "E T K A", "returns": "E", "won": "E"}
    sizes: dict[str, int] = {}
    for name, array in episodes.items():
        letters = axes[name].split()
        fits = [sizes.setdefault(x, n) == n for x, n in zip(letters, array.shape, strict=False)]
        ok = array.ndim == len(letters) and all(fits)
        check(ok, f"{name} has shape {array.shape}", f"must be [{axes[name]}] with {sizes}")
        whole = name not in ("length", "actions") or array.dtype.kind in "iu"
        check(whole, f"{name} is {array.dtype}", "must be integers")
    for e, length in enumerate(episodes["length"]):
        remedy = f"must be from 1 to {sizes['T']} steps"
        check(1 <= length <= sizes["T"], f"length[{e}] = {length}", remedy)


def _one_agent(
    episodes: dict[str, np.ndarray], keep: np.ndarray, k: int, dtype: str
) -> tuple[AgentDemonstrations, float]:
    """The demonstrations for agent `k`, and the largest error of rounding to `dtype`."""
    check(dtype in FIELDS["observations"][0], f"dtype = {dtype!r}", "use float16 or float32")
    parts = {n: a[:, :, k][keep] for n, a in episodes.items() if a.ndim >= 3}
    parts |= {n: a for n, a in episodes.items() if n in ("returns", "won")}
    parts["offsets"] = np.concatenate([[0], np.cumsum(episodes["length"], dtype=np.int64)])
    exact = parts.pop("observations")
    with np.errstate(over="ignore"):
        parts["observations"] = exact.astype(dtype)
    over = np.isinf(parts["observations"]) & np.isfinite(exact)
    largest = np.abs(exact).max(initial=0.0)
    check(not over.any(), f"observations reach {largest:g}, above {dtype}", "use dtype float32")
    if "actions" in parts:
        parts["actions"] = parts["actions"].astype(np.int32)
    if "returns" in parts:
        parts["returns"] = parts["returns"].astype(np.float32)
    agent = AgentDemonstrations(**parts)
    return agent, float(np.abs(exact - agent.observations).max())
