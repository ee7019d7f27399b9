"""What one sees while probes are trained: a live line on a terminal, a plain line for every finished cell elsewhere."""

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.status import Status

from wren import units
from wren.lab import time_left
from wren.lab.probe_sweep import Cell


class ProbeDisplay:
    """A context manager; say takes the plain lines. every: seconds between plain lines inside a cell."""

    def __init__(self, *, say: Callable[[str], None] = print, console: Console | None = None, every: float = 20.0):
        terminal = console is not None or sys.stdout.isatty()
        self.print, self.every = say, every
        self.status = Status("", console=console) if terminal else None
        self.where, self.number, self.total = "", 0, 0
        self.trained, self.begun, self.last = 0, time.perf_counter(), time.perf_counter()
        self.start = self.begun

    def __enter__(self) -> Self:
        if self.status is not None:
            self.status.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self.status is not None:
            self.status.stop()

    def begin(self, cell: Cell, number: int, total: int) -> None:
        self.where, self.number, self.total = f"{cell.probe} x {cell.arm} @{cell.setting.dim}", number, total
        self.begun = time.perf_counter()
        self.say("begins")

    def say(self, text: str) -> None:
        """How the cell at work is getting on."""
        line = f"[{self.number}/{self.total}] {self.where}  {text}{self._left()}"
        if self.status is not None:
            self.status.update(line.replace("[", "\\["))
        elif time.perf_counter() - self.last >= self.every:
            self.last = time.perf_counter()
            self.print(line)

    def end(self, cell: Cell, result: dict[str, Any]) -> None:
        seconds = time.perf_counter() - self.begun
        self.trained += seconds > 1  # a stored cell takes no time
        found = ", ".join(f"{test['name']} {_mean(test['accuracy']):.3f}" for test in result["tests"])
        how = f"lr {result['lr']:g}, {result['steps']} steps, {units.duration(result['seconds'])}"
        self.print(f"[{self.number}/{self.total}] {self.where}: {found}  ({how})")

    def _left(self) -> str:
        if not self.trained:
            return ""
        each = (self.begun - self.start) / self.trained
        left = each * (self.total - self.number + 1) - (time.perf_counter() - self.begun)
        return f"  {time_left.about(left)}"


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
