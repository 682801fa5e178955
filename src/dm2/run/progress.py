"""Progress of a run: a live bar on a terminal, plain lines where the output is a file."""

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

__all__ = ["Reporter"]

_LINE_EVERY_S = 10.0


class Reporter:
    """Shows steps, steps a second, scores and the time left, on standard error. Training goes on
    where that cannot be written."""

    def __init__(
        self, title: str, total: int, done: int, *, wins: bool = True, quiet: bool = False
    ) -> None:
        """Begins to count.

        Args:
            title: What is trained.
            total: Environment steps of the whole run.
            done: Environment steps that are done already.
            wins: Whether scores are win rates; otherwise they are returns.
            quiet: Whether to show nothing.
        """
        self._title, self._total, self._step = title, total, done
        self._wins = wins
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

    def evaluated(self, score: float) -> None:
        """A test score came in."""
        self._test = score

    def advanced(self, step: int, score: float | None) -> None:
        """An iteration ended at `step`; the score is that of its episodes, None for none."""
        self._step = step
        if score is not None:
            self._train = score
        if self._bar:
            self._bar.update(self._task, completed=step, state=self._state())
        elif not self._quiet and time.monotonic() - self._shown > _LINE_EVERY_S:
            self._print()

    @property
    def steps_per_s(self) -> float:
        """Mean rate since this process began, compilation included."""
        return (self._step - self._first) / max(time.monotonic() - self._begun, 1e-9)

    def _state(self) -> str:
        def text(score: float | None) -> str:
            if score is None:
                return "-"
            return f"{100 * score:.0f} %" if self._wins else f"{score:.4g}"

        millions = f"{self._step / 1e6:.2f}/{self._total / 1e6:.2f} M steps"
        scores = f"test {text(self._test)}, training {text(self._train)}"
        kind = "wins" if self._wins else "return"
        return f"{millions}  {self.steps_per_s:,.0f} steps/s  {kind}: {scores}"

    def _print(self) -> None:
        self._shown = time.monotonic()
        rate = self.steps_per_s
        left = f"{(self._total - self._step) / rate:.0f} s left" if rate > 0 else ""
        try:
            print(f"{self._title}  {self._state()}  {left}".rstrip(), file=sys.stderr, flush=True)
        except OSError:  # nobody reads on
            self._quiet = True
