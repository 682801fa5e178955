"""Progress of a run: a live bar on a terminal, plain lines where the output is a file."""

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

__all__ = ["Reporter"]

_LINE_EVERY_S = 10.0


class Reporter:
    """Shows steps, steps a second, win rates and the time left, on standard error."""

    def __init__(self, title: str, total: int, done: int, *, quiet: bool = False) -> None:
        """`total` and `done` in environment steps; `quiet` shows nothing."""
        self._title, self._total, self._step = title, total, done
        self._quiet = quiet
        self._begun = self._shown = time.monotonic()
        self._first = done
        self._test: float | None = None
        self._train: float | None = None
        self._bar: Progress | None = None
        self._task = TaskID(0)
        console = Console(stderr=True)
        if console.is_terminal and not quiet:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.fields[state]}"),
                TimeRemainingColumn(),
            )
            self._bar = Progress(*columns, console=console)
            self._task = self._bar.add_task(title, total=total, completed=done, state="compiling")

    def __enter__(self) -> "Reporter":
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar:
            self._bar.stop()
        elif not self._quiet and kind is None:
            self._print()

    def evaluated(self, win_rate: float) -> None:
        """A test win rate came in."""
        self._test = win_rate

    def advanced(self, step: int, train_win_rate: float | None) -> None:
        """An iteration ended at `step`."""
        self._step = step
        if train_win_rate is not None:
            self._train = train_win_rate
        if self._bar:
            self._bar.update(self._task, completed=step, state=self._state())
        elif not self._quiet and time.monotonic() - self._shown > _LINE_EVERY_S:
            self._print()

    @property
    def steps_per_s(self) -> float:
        """Mean rate since this process began, compilation included."""
        return (self._step - self._first) / max(time.monotonic() - self._begun, 1e-9)

    def _state(self) -> str:
        def percent(rate: float | None) -> str:
            return "-" if rate is None else f"{100 * rate:.0f} %"

        millions = f"{self._step / 1e6:.2f}/{self._total / 1e6:.2f} M steps"
        wins = f"wins: test {percent(self._test)}, training {percent(self._train)}"
        return f"{millions}  {self.steps_per_s:,.0f} steps/s  {wins}"

    def _print(self) -> None:
        self._shown = time.monotonic()
        rate = self.steps_per_s
        left = f"{(self._total - self._step) / rate:.0f} s left" if rate > 0 else ""
        print(f"{self._title}  {self._state()}  {left}".rstrip(), file=sys.stderr, flush=True)
