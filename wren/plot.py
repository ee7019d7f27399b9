"""Pictures: loss.png, the training loss and the validation bits per byte of a run; and what all pictures share."""

import math
from pathlib import Path
from typing import Any

from wren.errors import DataError
from wren.files import atomic_writer
from wren.run import Run

_SMOOTHING = 0.97  # of long runs: a mean over about 33 steps


def loss_plot(run: Run) -> Path:
    """Draws metrics.jsonl into loss.png and returns its path; raises DataError before the first step.

    The faint line is every step's loss in nats per token, the strong one its running mean; the dots are validation.
    """
    rows = run.metrics()
    steps, losses = _points(rows, "train", "loss")
    if not steps:
        raise DataError(f"{run.metrics_path} holds no training step yet; train first.")
    from matplotlib.figure import Figure  # here: importing matplotlib takes a second

    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    axes.plot(steps, losses, color="tab:blue", alpha=0.25, linewidth=0.8)
    mean = RunningMean(smoothing(len(losses)))
    axes.plot(steps, [mean.add(loss) for loss in losses], color="tab:blue", label="training (nats per token, smoothed)")
    axes.set_xlabel("step")
    axes.set_ylabel("nats per token")
    axes.grid(alpha=0.3)
    lines = list(axes.get_lines())[1:]
    val_steps, bits = _points(rows, "eval", "val_bits_per_byte")
    if val_steps:
        right = axes.twinx()
        label = "validation (bits per byte)"
        lines += right.plot(val_steps, bits, "o-", color="tab:orange", markersize=4, label=label)
        right.set_ylabel("bits per byte")
    axes.legend(handles=lines, loc="upper right")
    axes.set_title(f"{run.path.name}, {steps[-1]:,} steps")
    return save_figure(figure, run.path / "loss.png")


def smoothing(steps: int) -> float:
    """What the running mean keeps of a curve: over a thirtieth of its steps, so that a short one does not lag."""
    return min(_SMOOTHING, 1 - 1 / max(1.0, steps / 30))


def save_figure(figure: Any, path: Path) -> Path:
    """Writes a matplotlib figure as a PNG, whole or not at all; returns its path."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    with atomic_writer(path) as file:
        figure.savefig(file, format="png")
    return path


def colours(count: int) -> list[Any]:
    """So many colours that can be told apart: ten strong ones, then their pale sisters."""
    from matplotlib import colormaps

    strong = [*(colormaps["tab10"](i) for i in range(10)), *(colormaps["tab20"](i) for i in range(1, 20, 2))]
    return [strong[i % len(strong)] for i in range(count)]


class RunningMean:
    """Exponential mean of what was added, unbiased from the first value on (as Adam's moments are); NaN when empty."""

    def __init__(self, keep: float):
        self.keep, self.total, self.weight = keep, 0.0, 0.0

    def add(self, value: float) -> float:
        self.total = self.keep * self.total + (1 - self.keep) * value
        self.weight = self.keep * self.weight + (1 - self.keep)
        return self.value

    @property
    def value(self) -> float:
        return self.total / self.weight if self.weight else math.nan


def _points(rows: list[dict[str, Any]], kind: str, key: str) -> tuple[list[int], list[float]]:
    """Steps and values of the rows that have one: a loss that was not finite has none."""
    points = [(row["step"], row[key]) for row in rows if row.get("kind") == kind and row.get(key) is not None]
    return [step for step, _ in points], [value for _, value in points]
