"""Training runs on disk: train, resume. The host loop around the compiled programs."""

import dataclasses
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dm2.agent.imitation import Expert
from dm2.config import Config
from dm2.costs import memory_mib, update_flops
from dm2.demos import Demonstrations
from dm2.errors import InputError
from dm2.progress import Reporter
from dm2.runs import RunDirectory
from dm2.trainer import Trainer, TrainState, load_experts, trainer_for

__all__ = ["foresee", "resume", "stop_signal", "train"]


def train(config: Config, out: str | Path, *, quiet: bool = False) -> RunDirectory:
    """Train one run into the new directory `out`; returns it.

    Raises InputError for unusable settings, demonstrations or directory, and KeyboardInterrupt
    after Ctrl-C, when a checkpoint to resume from has been written.
    """
    trainer = trainer_for(config)
    demos = _load_demos(config, trainer)
    provenance = {"environment": dataclasses.asdict(trainer.env.spec)}
    if demos is not None:
        provenance["demonstrations"] = {
            "path": config.demos,
            "sha256": demos.sha256,
            "win_rate": demos.provenance.get("win_rate"),
        }
    run = RunDirectory.create(out, config, provenance)
    with run.lock():
        experts = _experts(demos, trainer)
        trainer.compile(experts, config.eval_episodes)
        _loop(run, trainer, trainer.init(jnp.uint32(config.seed)), experts, quiet)
    return run


def foresee(config: Config) -> dict[str, Any]:
    """What a run would take, after the checks that `train` makes: `steps` and `iterations`,
    rounded up, `memory_mib` (see `dm2.costs.memory_mib`) and `mflop_per_step` of its updates.

    Raises InputError for unusable settings or demonstrations.
    """
    trainer = trainer_for(config)
    demos = _load_demos(config, trainer)
    size = 0 if demos is None else sum(x.nbytes for x in _experts(demos, trainer) or ())
    spec = trainer.env.spec
    return {
        "environment": spec.name,
        "steps": config.iterations * config.iteration_steps,
        "iterations": config.iterations,
        "memory_mib": memory_mib(config, spec, size),
        "mflop_per_step": update_flops(config, spec) / config.iteration_steps / 1e6,
    }


def resume(path: str | Path, steps: int | None = None, *, quiet: bool = False) -> RunDirectory:
    """Go on with a run from its newest checkpoint, as if it had never stopped.

    `steps`: train to this many instead of what the run was made for (no fewer). The results are
    bit-identical with those of an uninterrupted run on the same machine (with as many cores: they
    decide how sums are split) and versions.
    """
    run = RunDirectory.open(path)
    with run.lock():
        if steps is not None:
            run.extend(steps)
        trainer = trainer_for(run.config)
        demos = _load_demos(run.config, trainer)
        recorded = run.info.get("demonstrations", {}).get("sha256")
        if demos is not None and demos.sha256 != recorded:
            remedy = "bring back the file that the run began with"
            raise InputError(f"demos = {run.config.demos!r}: its contents changed; {remedy}")
        experts = _experts(demos, trainer)
        trainer.compile(experts, run.config.eval_episodes)
        if run.steps():
            state, extra = run.load_newest_valid(trainer.abstract_state())
            run.truncate_metrics(extra["step"])
        else:
            state = trainer.init(jnp.uint32(run.config.seed))
            run.truncate_metrics(-1)
        _loop(run, trainer, state, experts, quiet)
    return run


def _load_demos(config: Config, trainer: Trainer) -> Demonstrations | None:
    if config.demos is None:
        return None
    demos = Demonstrations.load(config.demos)
    demos.check(trainer.env.spec)
    return demos


def _experts(demos: Demonstrations | None, trainer: Trainer) -> Expert | None:
    return None if demos is None else load_experts(demos, trainer.env.spec.episode_limit)


def _loop(
    run: RunDirectory, trainer: Trainer, state: TrainState, experts: Expert | None, quiet: bool
) -> None:
    """Iterate to the end of the run; evaluate, log and checkpoint on the way."""
    config = run.config
    seed = jnp.uint32(config.seed)
    step = int(state.iteration) * config.iteration_steps
    total = config.iterations * config.iteration_steps
    title = f"{config.method} {config.env} seed {config.seed}"
    with _Log(run) as log, stop_signal() as stop, Reporter(title, total, step, quiet=quiet) as out:
        if step == 0:
            out.evaluated(log.evaluation(trainer, state, seed, step))
        while step < total:
            began = time.monotonic()
            state, metrics = trainer.iterate(state, seed, experts)
            metrics = jax.device_get(metrics)
            before, step = step, step + config.iteration_steps
            rate = config.iteration_steps / (time.monotonic() - began)
            out.advanced(step, log.iteration(step, metrics, rate))
            last = step >= total
            if last or _crossed(before, step, config.eval_every):
                out.evaluated(log.evaluation(trainer, state, seed, step))
            chosen = any(before < mark <= step for mark in config.checkpoint_steps)
            due = _crossed(before, step, config.checkpoint_every)
            if last or chosen or due or stop.is_set():
                run.save_checkpoint(step, state, {}, permanent=chosen)
                run.prune(config.keep)
            if stop.is_set() and not last:
                raise KeyboardInterrupt(f"stopped at {step} steps; go on: dm2 resume {run.path}")


def _crossed(before: int, after: int, every: int) -> bool:
    return before // every != after // every


class _Log:
    """Writes `metrics.jsonl` and TensorBoard events."""

    def __init__(self, run: RunDirectory) -> None:
        self._run = run

    def __enter__(self) -> "_Log":
        from tensorboardX import SummaryWriter

        self._events = SummaryWriter(str(self._run.path / "tensorboard"))
        return self

    def __exit__(self, *_: object) -> None:
        self._events.close()

    def evaluation(self, trainer: Trainer, state: TrainState, seed: Any, step: int) -> float:
        """Play greedy test episodes; returns their win rate."""
        episodes = self._run.config.eval_episodes
        outcome = jax.device_get(trainer.evaluate(state.agents, seed, jnp.int32(step), episodes))
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
        """One training record; returns the training win rate, None if no episode ended."""
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


@contextmanager
def stop_signal() -> Iterator[threading.Event]:
    """An event set by the first Ctrl-C or SIGTERM; the second acts at once."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    old = {number: signal.getsignal(number) for number in numbers}

    def restore() -> None:
        for number, handler in old.items():
            signal.signal(number, handler)

    def handle(_number: int, _frame: FrameType | None) -> None:
        stop.set()
        restore()

    for number in numbers:
        signal.signal(number, handle)
    try:
        yield stop
    finally:
        restore()
