"""What one sees while training: a live line on a terminal, a plain line every few seconds elsewhere."""

import math
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar
from rich.table import Column

from wren import units
from wren.plot import RunningMean
from wren.resume import Progress

_SMOOTHING = 0.95


class TrainingProgress:
    """A context manager whose `watch` is train()'s: loss, tokens/s, time left, the last validation bits per byte.

    say: takes the plain lines and whatever else is said. console: where the live line is drawn; None = the terminal,
    if standard output is one. every: seconds between plain lines. clock: seconds that only grow.
    """

    def __init__(
        self,
        steps: int,
        *,
        say: Callable[[str], None] = print,
        console: Console | None = None,
        every: float = 5.0,
        clock: Callable[[], float] = time.perf_counter,
    ):
        self.steps, self.say, self.every, self.clock = steps, say, every, clock
        self._loss, self._speed, self._step_seconds = (RunningMean(_SMOOTHING) for _ in range(3))
        self._bits_per_byte: float | None = None
        self._seconds: float | None = None  # of the steps up to the last row
        self._last_line = clock()
        self._bar = _bar(console or Console()) if console is not None or sys.stdout.isatty() else None
        self._task = self._bar.add_task("training", total=steps, text="") if self._bar is not None else None

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()  # from here on print() writes above the live line
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()

    def watch(self, progress: Progress, row: dict[str, Any]) -> None:
        """Takes a row of metrics."""
        if row["kind"] == "train":
            self._add(row)
        elif row.get("val_bits_per_byte") is not None:
            self._bits_per_byte = row["val_bits_per_byte"]
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=progress.step, text=self.text(progress))
        elif self._is_due(row, progress.step):
            self._last_line = self.clock()
            self.say(f"step {progress.step}/{self.steps}  {self.text(progress)}")

    def _is_due(self, row: dict[str, Any], step: int) -> bool:
        """Whether this row is worth a plain line: every evaluation, which the last step has too, and one every few
        seconds."""
        if row["kind"] == "train" and step == self.steps:
            return False
        return row["kind"] == "eval" or self.clock() - self._last_line >= self.every

    def text(self, progress: Progress) -> str:
        """What is known so far, e.g. "loss 3.141  12.3k tokens/s  1m20s left  val 1.2345 bits/byte"."""
        parts = []
        if not math.isnan(self._loss.value):
            parts.append(f"loss {self._loss.value:.3f}")
        if not math.isnan(self._speed.value):
            parts.append(f"{units.short(self._speed.value)} tokens/s")
        if not math.isnan(self._step_seconds.value) and progress.step < self.steps:
            parts.append(f"{units.duration((self.steps - progress.step) * self._step_seconds.value)} left")
        if self._bits_per_byte is not None:
            parts.append(f"val {self._bits_per_byte:.4f} bits/byte")
        if progress.skipped:
            parts.append(f"{progress.skipped} skipped")
        return "  ".join(parts)

    def _add(self, row: dict[str, Any]) -> None:
        if math.isfinite(row["loss"]):
            self._loss.add(row["loss"])
        self._speed.add(row["tokens_per_second"])
        if self._seconds is not None:  # steps alone: evaluation and saving would make the time left jump
            self._step_seconds.add(row["seconds"] - self._seconds)
        self._seconds = row["seconds"]


def _bar(console: Console) -> Bar:
    """Bar, steps and text: all of it on 80 columns but the last letters; below that no bar, and the steps always."""
    steps = MofNCompleteColumn(table_column=Column(no_wrap=True, min_width=len("100000/100000")))
    text = TextColumn("{task.fields[text]}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis"))
    columns = [BarColumn(bar_width=12), steps, text] if console.width >= 80 else [steps, text]
    return Bar(*columns, console=console, refresh_per_second=4)
