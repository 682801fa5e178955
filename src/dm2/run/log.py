"""What a run writes down: `metrics.jsonl`, which is the record, and TensorBoard events, which are
a copy of it for looking at."""

import contextlib
import math
import socket
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dm2.rollout import Outcome
from dm2.run.directory import RunDirectory

__all__ = ["Log"]


class Log:
    """Writes a run's metrics; a context that opens and closes the events' file.

    The events of a run that goes on are written anew from its record, so that no step is in them
    twice. If they cannot be written, they are given up with one warning, and training goes on.
    """

    def __init__(self, run: RunDirectory, wins: bool = True) -> None:
        """`wins`: whether episodes of the environment can be won."""
        self._run = run
        self._wins = wins
        self._folder = run.path / "tensorboard"
        self._events: _Events | None = None

    def __enter__(self) -> "Log":
        try:
            self._events = _Events(self._folder)
            for record in self._run.read_metrics():
                self._events.add(record)
        except OSError as error:
            self._give_up(error)
        return self

    def __exit__(self, *_: object) -> None:
        if self._events is not None:
            try:
                self._events.close()
            except OSError as error:
                self._give_up(error)

    def evaluation(self, step: int, outcome: Outcome) -> float:
        """Writes the record of test episodes.

        Args:
            step: Environment steps trained so far.
            outcome: What came of the episodes, on the host.

        Returns:
            Their win rate; where nobody can win, their mean return.
        """
        means = outcome.means(self._wins)
        self._write("eval", step, {**means, "episodes": len(outcome.won)})
        score = means["win_rate"] if self._wins else means["mean_return"]
        return math.nan if score is None else score

    def iteration(self, step: int, metrics: dict[str, Any], rate: float) -> float | None:
        """Writes one training record.

        Args:
            step: Environment steps after the iteration.
            metrics: What `Programs.iterate` reported.
            rate: Environment steps a second.

        Returns:
            The training win rate, or the mean return where nobody can win; None if no episode
            ended.
        """
        totals = metrics["episodes"]
        ended = int(totals["ended"])
        record: dict[str, Any] = {
            "episodes": ended,
            "train_win_rate": float(totals["won"]) / ended if ended and self._wins else None,
            "mean_return": float(totals["returns"]) / ended if ended else None,
            "mean_length": float(totals["length"]) / ended if ended else None,
            "steps_per_s": rate,
        }
        record |= {name: [float(x) for x in v] for name, v in metrics["agents"].items()}
        self._write("train", step, record)
        return record["train_win_rate" if self._wins else "mean_return"]

    def pretraining(self, metrics: dict[str, Any]) -> None:
        """Writes what was reported of learning before the first step, if anything was."""
        if metrics:
            self._write("pretrain", 0, {n: [float(x) for x in v] for n, v in metrics.items()})

    def divergence(self, step: int, agent: int | None, quantity: str) -> None:
        """Writes that a `quantity`, of an agent or of all, was not finite at `step`."""
        self._write("diverged", step, {"agent": agent, "quantity": quantity})

    def _write(self, kind: str, step: int, record: dict[str, Any]) -> None:
        record = {"kind": kind, "step": step, **record}
        self._run.append(record)
        try:
            if self._events is not None:
                self._events.add(record)
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        if self._events is not None:
            with contextlib.suppress(OSError):
                self._events.close()
        self._events = None
        problem = f"{self._folder}: no more events are written: {error.strerror or error}"
        advice = "metrics.jsonl has everything; `dm2 resume` writes them anew"
        warnings.warn(f"{problem}; {advice}", RuntimeWarning, stacklevel=3)


class _Events:
    """TensorBoard's file of events. It is written by the calling thread: one of its own would
    block whoever hands it records once it has died of a full disk."""

    def __init__(self, folder: Path) -> None:
        """Replaces the events that there are. Raises OSError."""
        from tensorboardX.proto import event_pb2, summary_pb2  # sets an environment variable
        from tensorboardX.record_writer import RecordWriter

        protocols: tuple[Any, Any] = (event_pb2, summary_pb2)  # made at run time, hence untyped
        self._event, self._summary = protocols[0].Event, protocols[1].Summary
        folder.mkdir(exist_ok=True)
        for old in folder.glob("events.out.tfevents.*"):
            old.unlink()
        name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}"
        self._file = RecordWriter(str(folder / name))
        try:
            self._write(file_version="brain.Event:2")
        except OSError:
            self.close()
            raise

    def add(self, record: Mapping[str, Any]) -> None:
        """Adds the numbers of a record, those of several agents as their mean. Raises OSError."""
        kind, step = record["kind"], record["step"]
        means = {name: _mean(value) for name, value in record.items() if name != "step"}
        finite = {f"{kind}/{name}": x for name, x in means.items() if math.isfinite(x)}
        values = [self._summary.Value(tag=tag, simple_value=x) for tag, x in finite.items()]
        self._write(step=step, summary=self._summary(value=values))
        if kind == "eval":
            self._file.flush()

    def close(self) -> None:
        """Raises OSError."""
        self._file.close()

    def _write(self, **content: Any) -> None:
        self._file.write(self._event(wall_time=time.time(), **content).SerializeToString())


def _mean(value: Any) -> float:
    """The mean of a number or a list of numbers; nan for anything else."""
    try:
        return float(np.mean(np.asarray(value, float)))
    except (TypeError, ValueError):
        return math.nan
