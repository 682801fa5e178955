"""The demonstrations for one agent as arrays, and the checks that they pass when they are built."""

from dataclasses import dataclass
from typing import Any, no_type_check

import numpy as np
from jaxtyping import Bool, Float16, Float32, Int, Int16, Int32, Int64

from dm2.demos.fields import AGAIN, FIELDS, REQUIRED, check
from dm2.errors import InputError

__all__ = ["AgentDemonstrations"]


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


# The class checks what it is given itself and answers with an InputError.
@no_type_check
@dataclass(frozen=True, eq=False)
class AgentDemonstrations:
    """The demonstrations for one agent: what its expert observed and did.

    Episode `e` consists of the steps `offsets[e]` to `offsets[e + 1] - 1`. It has all steps of the
    joint episode, including those after the death of this agent. The fields `returns` and `won`
    concern the team; all others concern this agent alone.

    Raises:
        InputError: If an array has a wrong type or shape, if the lengths do not fit together, if an
            episode has no step, if an observation or a return is not finite, if the expert is never
            alive, if a step has no legal action, or if an action of the living expert is not legal.
    """

    observations: Float16[np.ndarray, "steps O"] | Float32[np.ndarray, "steps O"]
    """The expert's own observation at each step, on which it chose its action, `[steps, O]`. The
    observation after the last step is not included."""
    alive: Bool[np.ndarray, " steps"]
    """Whether the expert was alive at each step, `[steps]`; true at least once."""
    offsets: Int64[np.ndarray, " episodes+1"]
    """The first step of each episode, and the number of all steps, `[episodes + 1]`."""
    actions: Int16[np.ndarray, " steps"] | Int32[np.ndarray, " steps"] | None = None
    """The action at each step, `[steps]`; without meaning where the expert is dead."""
    legal: Bool[np.ndarray, "steps A"] | None = None
    """Whether each action was legal at each step, `[steps, A]`."""
    returns: Float32[np.ndarray, " episodes"] | None = None
    """The undiscounted team return of each episode, `[episodes]`."""
    won: Bool[np.ndarray, " episodes"] | None = None
    """Whether the team won each episode, `[episodes]`."""

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

    def select(self, episodes: Int[np.ndarray, " chosen"]) -> "AgentDemonstrations":
        """Returns the demonstrations of some of the episodes.

        Args:
            episodes: The indices of the episodes, in the order in which they are to stand.

        Returns:
            All arrays of those episodes.

        Raises:
            InputError: If there is none, or if the expert is never alive in them.
        """
        check(len(episodes) > 0, "episodes: there are none")
        spans = [np.arange(*map(int, self.offsets[e : e + 2])) for e in episodes]
        rows = {"steps": np.concatenate(spans), "episodes": episodes}
        arrays = {n: a[rows[FIELDS[n][1][0]]] for n, a in self.arrays().items() if n != "offsets"}
        ends = np.cumsum(self.lengths[episodes], dtype=np.int64)
        return AgentDemonstrations(**arrays, offsets=np.concatenate([[0], ends]))
