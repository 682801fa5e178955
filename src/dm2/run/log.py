"""What a run writes down: `metrics.jsonl`, which is the record, and TensorBoard events."""

from typing import Any

import numpy as np

from dm2.rollout import Outcome
from dm2.run.directory import RunDirectory

__all__ = ["Log"]


class Log:
    """Writes a run's metrics; a context that closes the events' file."""

    def __init__(self, run: RunDirectory) -> None:
        self._run = run

    def __enter__(self) -> "Log":
        from tensorboardX import SummaryWriter  # its import sets an environment variable

        self._events = SummaryWriter(str(self._run.path / "tensorboard"))
        return self

    def __exit__(self, *_: object) -> None:
        self._events.close()

    def evaluation(self, step: int, outcome: Outcome) -> float:
        """Writes the record of test episodes; returns their win rate.

        Args:
            step: environment steps trained so far.
            outcome: what came of the episodes, on the host.
        """
        means = outcome.means()
        self._write("eval", step, {**means, "episodes": len(outcome.won)})
        return means["win_rate"]

    def iteration(self, step: int, metrics: dict[str, Any], rate: float) -> float | None:
        """Writes one training record; returns the training win rate, None if no episode ended.

        Args:
            step: environment steps after the iteration.
            metrics: what `Programs.iterate` reported.
            rate: environment steps a second.
        """
        totals = metrics["episodes"]
        ended = int(totals["ended"])
        record: dict[str, Any] = {
            "episodes": ended,
            "train_win_rate": float(totals["won"]) / ended if ended else None,
            "mean_return": float(totals["returns"]) / ended if ended else None,
            "mean_length": float(totals["length"]) / ended if ended else None,
            "steps_per_s": rate,
        }
        record |= {name: [float(x) for x in v] for name, v in metrics["agents"].items()}
        self._write("train", step, record)
        return record["train_win_rate"]

    def _write(self, kind: str, step: int, record: dict[str, Any]) -> None:
        self._run.append({"kind": kind, "step": step, **record})
        for name, value in record.items():
            if value is not None:
                self._events.add_scalar(f"{kind}/{name}", float(np.mean(value)), step)
