"""What a run writes down: `metrics.jsonl`, which is the record, and TensorBoard events."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dm2.run.directory import RunDirectory
from dm2.run.programs import Programs, TrainState

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

    def evaluation(self, programs: Programs, state: TrainState, seed: Any, step: int) -> float:
        """Plays greedy test episodes and writes their record; returns their win rate."""
        episodes = self._run.config.eval_episodes
        outcome = jax.device_get(programs.evaluate(state.agents, seed, jnp.int32(step), episodes))
        win_rate = float(np.mean(outcome.won))
        record = {
            "win_rate": win_rate,
            "mean_return": float(np.mean(outcome.returns)),
            "mean_length": float(np.mean(outcome.length)),
            "episodes": episodes,
        }
        self._write("eval", step, record)
        return win_rate

    def iteration(self, step: int, metrics: dict[str, Any], rate: float) -> float | None:
        """Writes one training record; returns the training win rate, None if no episode ended.

        Args:
            step: environment steps after the iteration.
            metrics: what `Programs.iterate` reported.
            rate: environment steps a second.
        """
        ended = metrics["episodes"]
        count = int(ended["count"])
        record: dict[str, Any] = {
            "episodes": count,
            "train_win_rate": float(ended["won"]) / count if count else None,
            "mean_return": float(ended["returns"]) / count if count else None,
            "mean_length": float(ended["length"]) / count if count else None,
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
