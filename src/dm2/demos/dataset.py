"""The demonstrations of one team: in memory, and in one safetensors file.

Layout of the file, format version 1. The safetensors metadata has one entry, `dm2`, a JSON object:

    format      "dm2-demonstrations"
    version     1
    provenance  where the episodes come from (see `Demonstrations`)
    agents      per agent, field -> {"dtype": ..., "shape": [...]}, as in `AgentDemonstrations`
    sha256      of the other entries (JSON, keys sorted) and of all arrays' bytes

The tensor `k.field` (agent k from 0, for example `0.observations`) holds zlib-compressed bytes:
the array in row-major order, little-endian; booleans are first packed eight to a byte, the first
in the highest bit. Observations are mostly zeros, which zlib shrinks about 7 to 12 times. Reading
a file never executes code, and never decompresses more than its header declares.
"""

import contextlib
import hashlib
import json
import math
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, no_type_check

import numpy as np
import safetensors
import safetensors.numpy
from jaxtyping import Array, Bool, Float, Float16, Float32, Int, Int16, Int32, Int64
from rich.console import Group
from rich.markup import escape
from rich.table import Column, Table

from dm2.checkpoint import write_atomically
from dm2.envs.base import EnvSpec
from dm2.errors import InputError

__all__ = ["AgentDemonstrations", "Demonstrations", "describe"]

FORMAT, VERSION = "dm2-demonstrations", 1
MAX_BYTES = 2**34
"""Decompressed size above which a file is refused, so that a small one cannot fill the memory."""

# field -> allowed types, axes. `steps` and `episodes` are the same numbers throughout an agent.
_FIELDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "observations": (("float16", "float32"), ("steps", "O")),
    "alive": (("bool",), ("steps",)),
    "offsets": (("int64",), ("episodes + 1",)),
    "actions": (("int16", "int32"), ("steps",)),
    "legal": (("bool",), ("steps", "A")),
    "returns": (("float32",), ("episodes",)),
    "won": (("bool",), ("episodes",)),
}
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
_REQUIRED = ("observations", "alive", "offsets")
_AGAIN = "record the demonstrations again with `dm2 record`"
_DAMAGED = f"the file is damaged: copy it again, or {_AGAIN}"

AnyArray = Array | np.ndarray


def _check(condition: Any, problem: str, remedy: str = _AGAIN) -> None:
    if not condition:
        raise InputError(f"{problem}; {remedy}")


def _check_type(name: str, array: Any) -> None:
    dtypes, axes = _FIELDS[name]
    remedy = f"must be an array of {' or '.join(dtypes)} [{', '.join(axes)}]"
    kind = array.dtype.name if isinstance(array, np.ndarray) else type(array).__name__
    _check(kind in dtypes, f"{name} is {kind}", remedy)
    _check(array.ndim == len(axes), f"{name} has shape {array.shape}", remedy)


def _first(bad: Any) -> int | None:
    """The lowest index at which an array is true, if any."""
    where = np.flatnonzero(bad)
    return int(where[0]) if len(where) else None


@contextlib.contextmanager
def _about(place: object) -> Iterator[None]:
    """Says in an InputError raised inside where the problem is."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{place}: {error}") from None


# The classes check what they are given themselves and answer with an InputError.
@no_type_check
@dataclass(frozen=True, eq=False)
class AgentDemonstrations:
    """What one agent's expert saw and did. Raises InputError if the arrays do not fit together.

    Episode e is the steps `offsets[e]` to `offsets[e + 1]`. All steps of the joint episode are
    there, also those after this agent's death. Only `returns` and `won` concern the team.
    """

    observations: Float16[np.ndarray, "steps O"] | Float32[np.ndarray, "steps O"]
    """The agent's own observation on which each action was taken (no final observation)."""
    alive: Bool[np.ndarray, " steps"]
    """Whether the agent was alive then; true at least once."""
    offsets: Int64[np.ndarray, " episodes+1"]
    actions: Int16[np.ndarray, " steps"] | Int32[np.ndarray, " steps"] | None = None
    """Meaningless where the agent is dead."""
    legal: Bool[np.ndarray, "steps A"] | None = None
    returns: Float32[np.ndarray, " episodes"] | None = None
    """Undiscounted team return of each episode."""
    won: Bool[np.ndarray, " episodes"] | None = None

    def __post_init__(self) -> None:
        for name in _FIELDS:
            if getattr(self, name) is not None or name in _REQUIRED:
                _check_type(name, getattr(self, name))
        self._check_offsets()
        self._check_lengths()
        self._check_values()

    def _check_offsets(self) -> None:
        offsets, steps = self.offsets, len(self.observations)
        _check(len(offsets) > 1, "offsets: there are 0 episodes")
        _check(offsets[0] == 0, f"offsets[0] = {offsets[0]}, must be 0")
        e = _first(np.diff(offsets) <= 0)
        if e is not None:
            problem = f"offsets[{e + 1}] = {offsets[e + 1]} after {offsets[e]}"
            raise InputError(f"{problem}: every episode must have a step; {_AGAIN}")
        _check(offsets[-1] == steps, f"offsets end at {offsets[-1]}, but there are {steps} steps")

    def _check_lengths(self) -> None:
        expected = {"steps": len(self.observations), "episodes": self.num_episodes}
        for name, (_, axes) in _FIELDS.items():
            array = getattr(self, name)
            if array is not None and axes[0] in expected:
                unit, have = expected[axes[0]], len(array)
                _check(have == unit, f"{name} has {have} {axes[0]}, must have {unit}")

    def _check_values(self) -> None:
        _check(self.observations.shape[1] > 0, "observations have 0 features")
        t = _first(~np.isfinite(self.observations).all(axis=1))
        if t is not None:
            i = _first(~np.isfinite(self.observations[t]))
            value = f"observations[{t}, {i}] = {self.observations[t, i]}"
            raise InputError(f"{value} ({self._place(t)}): must be finite; {_AGAIN}")
        _check(self.alive.any(), "alive is never true: there is nothing to imitate")
        if self.returns is not None:
            e = _first(~np.isfinite(self.returns))
            _check(e is None, f"returns[{e}] is not a finite number")
        if self.legal is not None:
            t = _first(~self.legal.any(axis=1))
            _check(t is None, f"legal[{t}] has no legal action")
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
            raise InputError(f"{problem}: not a legal action, though alive; {_AGAIN}")

    def _place(self, t: int) -> str:
        e = int(np.searchsorted(self.offsets, t, side="right")) - 1
        return f"episode {e}, step {t - self.offsets[e]}"

    @property
    def num_episodes(self) -> int:
        """Joint episodes."""
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Int64[np.ndarray, " episodes"]:
        """Steps of each joint episode."""
        return np.diff(self.offsets)

    def arrays(self) -> dict[str, np.ndarray]:
        """The fields that are present."""
        fields = {name: getattr(self, name) for name in _FIELDS}
        return {name: array for name, array in fields.items() if array is not None}


@no_type_check
@dataclass(frozen=True, eq=False)
class Demonstrations:
    """The demonstrations of one team: `demos[k]` is all that agent k may be handed.

    `provenance` must have `environment` (full name), `environment_version`, `num_actions`,
    `episode_limit` (steps) and `concurrency`: one label per agent, equal for agents recorded in
    the same joint episodes. It may have `method`, `seed` and `training_step` (lists if agents
    differ), `policy` ("stochastic" or "greedy") and `win_rate` (0 to 1); these are None if left
    out. Other JSON values are kept. `episodes`, the number of different joint episodes, is
    filled in, as is `win_rate` where the episodes tell it and it is not given.

    For demonstrations that are not concurrent, take each agent from episodes of its own:
    `Demonstrations(tuple(team[k] for k, team in enumerate(teams)), provenance)`.

    Raises InputError if the agents do not fit together or the provenance is unusable.
    """

    agents: tuple[AgentDemonstrations, ...]
    provenance: dict[str, Any]
    file_bytes: int | None = field(default=None, kw_only=True)
    """Size of the file they were loaded from."""

    def __post_init__(self) -> None:
        _check(self.agents, "agents: there are none")
        sizes = [agent.observations.shape[1] for agent in self.agents]
        for k, size in enumerate(sizes):
            problem = f"agent {k}: observations have {size} features, agent 0's have {sizes[0]}"
            _check(size == sizes[0], problem)
        object.__setattr__(self, "provenance", _complete_provenance(self.provenance))
        self._check_groups()
        for k, agent in enumerate(self.agents):
            with _about(f"agent {k}"):
                _check_limits(agent, self.provenance)
        won = self._per_episode("won")
        self.provenance["episodes"] = sum(agent.num_episodes for agent in self._distinct())
        if self.provenance["win_rate"] is None and won is not None:
            self.provenance["win_rate"] = float(np.mean(won))

    def _check_groups(self) -> None:
        labels, count = self.provenance["concurrency"], len(self.agents)
        remedy = f"must have one label for each of the {count} agents"
        _check(len(labels) == count, f"provenance.concurrency = {labels}", remedy)
        for k, agent in enumerate(self.agents):
            first = labels.index(labels[k])
            for name in ("offsets", "returns", "won"):
                same = np.array_equal(getattr(agent, name), getattr(self.agents[first], name))
                problem = f"agents {first} and {k} share concurrency {labels[k]!r}, but not {name}"
                _check(same, problem, "label agents from different episodes differently")

    def __getitem__(self, k: int) -> AgentDemonstrations:
        return self.agents[k]

    def __len__(self) -> int:
        return len(self.agents)

    @property
    def sha256(self) -> str:
        """Identifies the contents: arrays and provenance."""
        return _digest(self._header(), [agent.arrays() for agent in self.agents])

    @classmethod
    def from_episodes(
        cls,
        local: Float[AnyArray, "E T K O"],
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
        """Builds them from E joint episodes as recorded, without what is padded beyond `length`.

        `concurrency` may be left out of the provenance: all agents share these episodes. float16
        halves memory and rounds by at most 1 part in 2048 (2.5e-4 within [-1, 1]); the largest
        error is kept as provenance `rounding_error`. Raises InputError for shapes that do not
        fit, a length outside 1 to T, values that overflow `dtype`, and what the classes refuse.
        """
        given = {"local": local, "alive": alive, "length": length, "actions": actions}
        given |= {"legal": legal, "returns": returns, "won": won}
        episodes = {name: np.asarray(x) for name, x in given.items() if x is not None}
        _check_shapes(episodes)
        shape = episodes["local"].shape
        keep = np.arange(shape[1]) < episodes["length"][:, None]
        parts, errors = [], []
        for k in range(shape[2]):
            with _about(f"agent {k}"):
                agent, error = _one_agent(episodes, keep, k, dtype)
            parts.append(agent)
            errors.append(error)
        defaults = {"concurrency": [0] * len(parts), "rounding_error": max(errors, default=0.0)}
        return cls(tuple(parts), defaults | provenance)

    def save(self, path: str | Path) -> int:
        """Writes the file, wholly or not at all, and returns its size in bytes.

        Raises InputError for an unusable path, OSError if the disk fails; an older file of that
        name then stays as it was.
        """
        path = Path(path)
        _check(path.parent.is_dir(), f"{path}: no directory {path.parent}", "create it first")
        _check(not path.is_dir(), f"{path}: is a directory", "give the name of a file")
        arrays = [agent.arrays() for agent in self.agents]
        size = sum(array.nbytes for part in arrays for array in part.values())
        _check(size <= MAX_BYTES, f"{path}: {size} bytes of arrays", "record fewer episodes")
        header = self._header() | {"sha256": self.sha256}
        tensors = {f"{k}.{n}": _encode(a) for k, part in enumerate(arrays) for n, a in part.items()}
        data = safetensors.numpy.save(tensors, {"dm2": json.dumps(header)})
        write_atomically(path, data)
        return len(data)

    @classmethod
    def load(cls, path: str | Path) -> "Demonstrations":
        """Reads and verifies a file that `save` wrote; raises InputError for any other."""
        path = Path(path)
        with _about(path):
            header, stored = _read(path)
            arrays = [
                {n: _decode(stored[f"{k}.{n}"], f"agent {k}: {n}", d) for n, d in part.items()}
                for k, part in enumerate(header["agents"])
            ]
            claimed = header.pop("sha256", None)
            intact = claimed == _digest(header, arrays)
            _check(intact, "contents do not match their sha256", _DAMAGED)
            agents = []
            for k, part in enumerate(arrays):
                with _about(f"agent {k}"):
                    agents.append(AgentDemonstrations(**part))
            return cls(tuple(agents), header["provenance"], file_bytes=path.stat().st_size)

    def check(self, env_spec: EnvSpec) -> None:
        """Raises InputError unless these demonstrations fit the environment.

        Of its name only the part before `?` counts: options such as walls may differ.
        """
        name, size = self.provenance["environment"], self.agents[0].observations.shape[1]
        base, wanted = name.partition("?")[0], env_spec.name.partition("?")[0]
        for field_name, have, want in (
            ("environment", base, wanted),
            ("number of agents", len(self), env_spec.num_agents),
            ("observation size", size, env_spec.observation_size),
        ):
            problem = f"demonstrations of {name} do not fit {env_spec.name}: {field_name} is"
            remedy = f"record some on {env_spec.name} with `dm2 record`"
            _check(have == want, f"{problem} {have}, must be {want}", remedy)

    def alive_observations(self, k: int) -> Float[np.ndarray, "M O"]:
        """Agent k's observations on the steps at which it was alive."""
        return self[k].observations[self[k].alive]

    def absorbing_fraction(self, k: int, episode_limit: int) -> float:
        """Share of `episode_limit` steps an episode at which agent k was dead or all was over.

        Raises InputError if an episode is longer than `episode_limit`.
        """
        agent = self[k]
        longest, remedy = agent.lengths.max(), f"must be at least {agent.lengths.max()}"
        _check(episode_limit >= longest, f"episode_limit = {episode_limit}", remedy)
        return 1.0 - float(agent.alive.sum()) / (agent.num_episodes * episode_limit)

    def summary(self) -> dict[str, Any]:
        """What `dm2 inspect --json` prints. Steps are joint; None where something is unknown."""
        won, returns = self._per_episode("won"), self._per_episode("returns")
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
            "mean_return": None if returns is None else float(np.mean(returns, dtype=np.float64)),
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
            "absorbing": self.absorbing_fraction(k, self.provenance["episode_limit"]),
            "observation": _spread(alive),  # on the steps alive, as are constant features
            "constant_features": float(np.mean(low == high)),
        }

    def _distinct(self) -> list[AgentDemonstrations]:
        """One agent of each concurrency group, so that joint episodes are counted once."""
        labels = self.provenance["concurrency"]
        return [self[labels.index(label)] for label in dict.fromkeys(labels)]

    def _per_episode(self, name: Literal["won", "returns"]) -> np.ndarray | None:
        """That value of every different joint episode; None if one is unknown."""
        values = [getattr(agent, name) for agent in self._distinct()]
        return None if any(v is None for v in values) else np.concatenate(values)

    def _header(self) -> dict[str, Any]:
        agents = [
            {n: {"dtype": a.dtype.name, "shape": list(a.shape)} for n, a in part.arrays().items()}
            for part in self.agents
        ]
        header = {"format": FORMAT, "version": VERSION, "provenance": self.provenance}
        return header | {"agents": agents}


def describe(summary: dict[str, Any]) -> Group:
    """A `Demonstrations.summary()` for people, to be printed with rich."""
    facts = Table("what", Column("value", overflow="fold"), show_header=False, box=None)
    for name, value in summary.items():
        if name not in ("per_agent", "provenance"):
            facts.add_row(name.replace("_", " "), _show(value))
    for name, value in summary["provenance"].items():
        if name not in summary:
            facts.add_row(f"provenance: {name.replace('_', ' ')}", _show(value))
    names = ("steps", "steps_alive", "absorbing", "mean", "min", "max", "constant_features")
    titles = [name.replace("_", " ") for name in ("agent", "episodes", *names)]
    table = Table(*titles, box=None)
    for k, row in enumerate(summary["per_agent"]):
        values = row | row["observation"]
        table.add_row(str(k), str(row["episodes"]), *[_show(values[name]) for name in names])
    return Group(facts, table)


def _show(value: Any) -> str:
    if isinstance(value, dict):
        return f"{_show(value['mean'])} ({_show(value['min'])} to {_show(value['max'])})"
    if isinstance(value, list):
        return ", ".join(_show(item) for item in value)
    if value is None:
        return "unknown"
    return f"{value:.4g}" if isinstance(value, float) else escape(str(value))


def _spread(values: np.ndarray) -> dict[str, float]:
    mean = float(np.mean(values, dtype=np.float64))
    return {"mean": mean, "min": values.min().item(), "max": values.max().item()}


def _complete_provenance(given: Any) -> dict[str, Any]:
    """A copy as a reader of the file will see it, with what may be left out as None."""
    try:
        source = json.loads(json.dumps(given, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise InputError(f"provenance: {error}; use plain values that JSON can hold") from None
    _check(isinstance(source, dict), f"provenance = {source!r}", "must be a dictionary")
    optional = ("method", "seed", "training_step", "policy", "win_rate")
    source = dict.fromkeys(optional) | source
    for name, (accepts, remedy) in _PROVENANCE.items():
        value = source.get(name)
        problem = f"= {value!r}" if name in source else "is missing"
        _check(accepts(value), f"provenance.{name} {problem}", f"must be {remedy}")
    return source


def _check_limits(agent: AgentDemonstrations, provenance: dict[str, Any]) -> None:
    limit, count = provenance["episode_limit"], provenance["num_actions"]
    longest = agent.lengths.max()
    _check(longest <= limit, f"an episode has {longest} steps, but episode_limit = {limit}")
    if agent.legal is not None:
        have = agent.legal.shape[1]
        _check(have == count, f"legal has {have} actions, but num_actions = {count}")
    if agent.actions is not None:
        highest = agent.actions[agent.alive].max()
        _check(highest < count, f"actions has {highest}, but num_actions = {count}")


def _check_shapes(episodes: dict[str, np.ndarray]) -> None:
    """Raises InputError unless the arguments of `from_episodes` fit each other."""
    axes = {"local": "E T K O", "alive": "E T K", "length": "E", "actions": "E T K"}
    axes |= {"legal": "E T K A", "returns": "E", "won": "E"}
    sizes: dict[str, int] = {}
    for name, array in episodes.items():
        letters = axes[name].split()
        fits = [sizes.setdefault(x, n) == n for x, n in zip(letters, array.shape, strict=False)]
        ok = array.ndim == len(letters) and all(fits)
        _check(ok, f"{name} has shape {array.shape}", f"must be [{axes[name]}] with {sizes}")
        whole = name not in ("length", "actions") or array.dtype.kind in "iu"
        _check(whole, f"{name} is {array.dtype}", "must be integers")
    for e, length in enumerate(episodes["length"]):
        remedy = f"must be from 1 to {sizes['T']} steps"
        _check(1 <= length <= sizes["T"], f"length[{e}] = {length}", remedy)


def _one_agent(
    episodes: dict[str, np.ndarray], keep: np.ndarray, k: int, dtype: str
) -> tuple[AgentDemonstrations, float]:
    """Agent k's part of the recorded episodes, and the largest error of rounding to `dtype`."""
    _check(dtype in _FIELDS["observations"][0], f"dtype = {dtype!r}", "use float16 or float32")
    parts = {n: a[:, :, k][keep] for n, a in episodes.items() if a.ndim >= 3}
    parts |= {n: a for n, a in episodes.items() if n in ("returns", "won")}
    parts["offsets"] = np.concatenate([[0], np.cumsum(episodes["length"], dtype=np.int64)])
    exact = parts.pop("local")
    with np.errstate(over="ignore"):
        parts["observations"] = exact.astype(dtype)
    over = np.isinf(parts["observations"]) & np.isfinite(exact)
    largest = np.abs(exact).max(initial=0.0)
    _check(not over.any(), f"observations reach {largest:g}, above {dtype}", "use dtype float32")
    if "actions" in parts:
        parts["actions"] = parts["actions"].astype(np.int32)
    if "returns" in parts:
        parts["returns"] = parts["returns"].astype(np.float32)
    agent = AgentDemonstrations(**parts)
    return agent, float(np.abs(exact - agent.observations).max())


def _bytes(array: np.ndarray) -> bytes:
    """Row-major, little-endian."""
    return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()


def _digest(header: dict[str, Any], agents: list[dict[str, np.ndarray]]) -> str:
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for arrays in agents:
        for name in sorted(arrays):
            digest.update(_bytes(arrays[name]))
    return digest.hexdigest()


def _encode(array: np.ndarray) -> np.ndarray:
    raw = np.packbits(array).tobytes() if array.dtype == bool else _bytes(array)
    return np.frombuffer(zlib.compress(raw, 6), np.uint8)


def _decode(stored: np.ndarray, place: str, declared: dict[str, Any]) -> np.ndarray:
    """Inverse of `_encode`; never decompresses more than the declared type and shape hold."""
    dtype, shape = np.dtype(declared["dtype"]).newbyteorder("<"), declared["shape"]
    count, packed = math.prod(shape), declared["dtype"] == "bool"
    size = -(-count // 8) if packed else count * dtype.itemsize
    stream = zlib.decompressobj()
    try:
        raw = stream.decompress(stored.tobytes(), size + 1)
    except zlib.error as error:
        raise InputError(f"{place}: {error}; {_DAMAGED}") from None
    complete = len(raw) == size and stream.eof and not stream.unused_data
    _check(complete, f"{place}: does not hold the declared {size} bytes", _DAMAGED)
    if packed:
        return np.unpackbits(np.frombuffer(raw, np.uint8), count=count).astype(bool).reshape(shape)
    return np.frombuffer(raw, dtype).reshape(shape)


def _read(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The header, its structure verified, and exactly the tensors that it declares."""
    try:
        _check(path.exists(), "no such file", "make one with `dm2 record`")
        _check(path.is_file(), "not a file", "give the name of a file that `dm2 record` wrote")
        with safetensors.safe_open(path, "np") as file:
            header = _parse_header((file.metadata() or {}).get("dm2"))
            wanted = {f"{k}.{n}" for k, part in enumerate(header["agents"]) for n in part}
            missing, stray = wanted - set(file.keys()), set(file.keys()) - wanted
            _check(not missing, f"tensors are missing: {sorted(missing)}", _DAMAGED)
            _check(not stray, f"tensors are not declared: {sorted(stray)}", _DAMAGED)
            for name in sorted(wanted):
                kind = file.get_slice(name).get_dtype()
                _check(kind == "U8", f"tensor {name!r} is {kind}, must be bytes (U8)", _DAMAGED)
            return header, {name: file.get_tensor(name) for name in wanted}
    except OSError as error:
        raise InputError(
            f"cannot be read: {error.strerror or error}; see to its permissions"
        ) from None
    except safetensors.SafetensorError as error:
        raise InputError(_not_safetensors(path, error)) from None


def _not_safetensors(path: Path, error: Exception) -> str:
    with path.open("rb") as file:
        start = file.read(6)
    what = f"not a whole safetensors file ({error}); {_DAMAGED}"
    if start[:2] == b"PK" or start == b"\x93NUMPY":
        what = f"a NumPy or zip archive (.npy, .npz, .pt), not safetensors; {_AGAIN}"
    elif start[:1] == b"\x80" and start[1:2] in b"\x02\x03\x04\x05":
        what = f"a pickle, which can execute code: dm2 does not load it; {_AGAIN}"
    return what


def _parse_header(text: str | None) -> dict[str, Any]:
    _check(text is not None, "a safetensors file, but not dm2 demonstrations")
    try:
        header = json.loads(text or "")
    except (ValueError, RecursionError) as error:
        raise InputError(f"header is not JSON ({error}); {_DAMAGED}") from None
    _check(isinstance(header, dict) and header.get("format") == FORMAT, "unknown format", _DAMAGED)
    version, remedy = header.get("version"), f"this dm2 reads version {VERSION}: use the one that"
    _check(version == VERSION, f"format version {version!r}", f"{remedy} wrote it, or {_AGAIN}")
    total = 0
    whole = isinstance(header.get("agents"), list) and "provenance" in header
    _check(whole, "header lacks provenance or a list of agents", _DAMAGED)
    for k, part in enumerate(header["agents"]):
        complete = isinstance(part, dict) and set(_REQUIRED) <= part.keys() <= _FIELDS.keys()
        _check(complete, f"agent {k} must have {_REQUIRED}", _DAMAGED)
        for name, declared in part.items():
            _check(_is_declaration(name, declared), f"agent {k}: {name} is {declared}", _DAMAGED)
            total += math.prod(declared["shape"]) * np.dtype(declared["dtype"]).itemsize
    _check(total <= MAX_BYTES, f"declares {total} bytes of arrays, above {MAX_BYTES}", _DAMAGED)
    return header


def _is_declaration(name: str, declared: Any) -> bool:
    dtypes, axes = _FIELDS[name]
    if not isinstance(declared, dict) or declared.get("dtype") not in dtypes:
        return False
    shape = declared.get("shape")
    if not isinstance(shape, list) or len(shape) != len(axes):
        return False
    return all(type(size) is int and size >= 0 for size in shape)
