"""What one sees while arms are trained: a live table of all arms on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from wren import units
from wren.lab import time_left
from wren.lab.compare_plan import CellPlan
from wren.lab.compare_run import HELD_BACK, Job
from wren.lab.schema import TrainedRun
from wren.resume import Progress


class CompareDisplay:
    """A context manager. say: takes the plain lines. every: seconds between plain lines inside a training."""

    def __init__(
        self,
        *,
        say: Callable[[str], None] = print,
        console: Console | None = None,
        every: float = 20.0,
        clock: Callable[[], float] = time.perf_counter,
    ):
        terminal = console is not None or sys.stdout.isatty()
        self._print, self.every, self.clock = say, every, clock
        self._live = Live(console=console, refresh_per_second=2, transient=True) if terminal else None
        self._rows: dict[str, dict[str, str]] = {}
        self._planned: dict[str, list[float]] = {}  # seconds of the trainings that are left, by cell
        self._trained = self._wall = 0.0  # of finished trainings: seconds of steps, and all seconds
        self._cell = self._now = ""
        self._begun = self._last = clock()
        self._share = 0.0
        self._probes = self._probed = 0  # how many are left, and were trained
        self._probing = 0.0  # seconds of those that were trained

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._live is not None:
            self._live.stop()

    def say(self, text: str) -> None:
        """A line that stays."""
        if self._live is not None:
            self._live.console.print(escape(text), soft_wrap=True)
        else:
            self._print(text)

    def plan(self, cells: Sequence[CellPlan], seconds: Sequence[Sequence[float]], *, probes: int = 0) -> None:
        """The cells and, for each, the seconds that its trainings should take; and how many probes come after them."""
        self._probes = probes
        for cell, times in zip(cells, seconds, strict=True):
            self._rows[cell.title] = {"phase": "waits", "at": "", "best": ""}
            self._planned[cell.title] = list(times)
        self._draw()

    def more(self, cell: CellPlan, seconds: Sequence[float]) -> None:
        """More trainings than planned: the grid is extended."""
        self._planned[cell.title] = [*seconds, *self._planned[cell.title]]

    def begin(self, cell: CellPlan, job: Job) -> None:
        optimizer = job.config.optimizer
        what = f"{job.phase} lr {optimizer.lr:.3g}, wd {optimizer.weight_decay:.3g}, seed {job.config.seed}"
        self._cell, self._now, self._begun, self._share = cell.title, what, self.clock(), 0.0
        self._rows[cell.title].update(phase=what, at="begins")
        self._draw()

    def watch(self, job: Job) -> Callable[[Progress, dict[str, Any]], None]:
        """What train() tells of its rows."""

        def see(progress: Progress, row: dict[str, Any]) -> None:
            steps = job.config.train.steps
            self._share = progress.step / steps
            value = row.get(HELD_BACK)
            shown = f"step {progress.step:,}/{steps:,}"
            if value is not None:
                self._rows[self._cell]["best"] = f"{value:.4f}"
            self._rows[self._cell]["at"] = shown
            self._draw()
            if self._live is None and self.clock() - self._last >= self.every:
                self._last = self.clock()
                bits = self._rows[self._cell]["best"]
                known = f"  {bits} bits per byte" if bits else ""
                self._print(f"{self._cell}: {self._now}  {shown}{known}{self.left()}")

        return see

    def end(self, cell: CellPlan, result: TrainedRun, *, stored: bool) -> None:
        """A training is over; stored: it had been before."""
        if self._planned[cell.title]:
            self._planned[cell.title].pop(0)
        if not stored:
            self._trained += result.seconds
            self._wall += self.clock() - self._begun
        found = "diverged" if result.tuned is None else f"{result.tuned:.4f}"
        self._rows[cell.title].update(at="done", best=found)
        self._share = 0.0
        after = f" after {result.steps:,} steps, {units.duration(result.seconds)}{' (stored)' if stored else ''}"
        if self._live is None:
            what = f"{result.phase} lr {result.lr:.3g}, wd {result.weight_decay:.3g}, seed {result.seed}"
            self._print(
                f"{cell.title}: {what}: {found}{'' if found == 'diverged' else ' bits per byte'}{after}{self.left()}"
            )
        self._draw()

    def finish(self, cell: CellPlan, text: str) -> None:
        """All trainings of a cell are over."""
        self._planned[cell.title] = []
        self._rows[cell.title] = {"phase": "finished", "at": "", "best": text}
        if self._live is None:
            self._print(f"{cell.title}: {text}{self.left()}")
        self._draw()

    def begin_probe(self) -> None:
        self._begun = self.clock()

    def end_probe(self, text: str, *, stored: bool) -> None:
        """An arm is through a probe; stored: it had been before."""
        self._probes -= 1
        if not stored:
            self._probed += 1
            self._probing += self.clock() - self._begun
        self.say(f"{text}{self.left()}")
        self._draw()

    def left(self) -> str:
        """About how long it still takes, once a training has shown how much evaluation adds; "" before.

        How long a probe takes is known from the first one on; until then their number is told.
        """
        training = any(self._planned.values())
        if (training and not self._trained) or (not training and not self._probes):
            return ""
        seconds = sum(sum(times) for times in self._planned.values())
        seconds -= self._share * (self._planned.get(self._cell) or [0.0])[0]
        seconds *= max(1.0, self._wall / self._trained) if self._trained else 1.0
        if self._probed:
            seconds += self._probes * self._probing / self._probed
        words = [time_left.about(seconds)] if training or self._probed else []
        if self._probes and not self._probed:
            count = f"{self._probes} probe{'' if self._probes == 1 else 's'}"
            words.append(f"{count} {'after that' if training else 'left'}")
        return f"  {', '.join(words)}"

    def _draw(self) -> None:
        if self._live is None:
            return
        table = Table(caption=self.left().strip() or None)
        for title in ("arm", "training"):
            table.add_column(title)
        for title in ("at", "bits per byte"):
            table.add_column(title, justify="right")
        for name, row in self._rows.items():
            table.add_row(escape(name), row["phase"], row["at"], row["best"])
        self._live.update(table)
