"""The numbers of a comparison: means over seeds, paired differences with two kinds of interval, time to equal loss.

A difference is arm minus baseline in bits per byte, so below 0 is better. A factor is baseline over arm in seconds,
FLOPs or tokens to one loss, so above 1 is better.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from wren.lab import statistics
from wren.lab.schema import Cell, Comparison, Detail, Part, Point, TrainedRun
from wren.lab.statistics import SEEDS_TO_CLAIM, SEEDS_TO_SEE, Interval

AXES = ("seconds", "flops", "tokens")
_LEAST_BLOCKS = 5  # fewer stretches of text do not tell how texts differ
_DRAWS = 2000
_SAME_COST = 1.02  # runs of one time budget end within a step of each other


@dataclass(frozen=True)
class Setting:
    """The cells of one size and context length by arm, the baseline's first; an arm may be missing."""

    size: str
    context_len: int
    cells: dict[str, Cell]

    @property
    def name(self) -> str:
        return f"{self.size}, {self.context_len:,} tokens of context"


@dataclass(frozen=True, kw_only=True)
class Difference:
    """An arm against the baseline in bits per byte of the validation split.

    seeds: over the paired seeds that ended well in both, None where there is none. text: 95 % of the differences on
    texts drawn anew from the split's blocks. missing: seeds that one of the two did not end well. edge: arms of the
    two whose best learning rate stayed at the edge of its grid.
    """

    arm: str
    baseline: str
    seeds: Interval | None
    text: tuple[float, float] | None
    missing: int
    edge: tuple[str, ...]

    @property
    def verdict(self) -> str:
        """ "nothing", "one seed", "two seeds", "no difference", "seen" or "claimed"."""
        if self.seeds is None:
            return "nothing"
        if self.seeds.half is None:
            return "one seed"
        if self.seeds.holds_zero or (self.text is not None and self.text[0] <= 0 <= self.text[1]):
            return "no difference"
        if self.seeds.count < SEEDS_TO_SEE:
            return "two seeds"
        sure = self.seeds.count >= SEEDS_TO_CLAIM and not self.missing and not self.edge
        return "claimed" if sure else "seen"

    @property
    def wider(self) -> str | None:
        """Which interval is the wider one, "seeds" or "text"; None where there are not two."""
        if self.text is None or self.seeds is None or self.seeds.half is None:
            return None
        return "text" if self.text[1] - self.text[0] > 2 * self.seeds.half else "seeds"


@dataclass(frozen=True, kw_only=True)
class Race:
    """How soon `arm` reaches the held-back loss that `goal` ended at, seed by seed.

    mine: its mean over the seeds that reach it, None if none does. factor: goal's own over mine, the geometric mean
    over paired seeds with low..high, its 95 % interval; None unless every seed reaches it (the others would be left
    out for being slow), the interval also with one seed.
    """

    arm: str
    goal: str
    axis: str
    loss: float
    mine: float | None
    factor: float | None
    low: float | None
    high: float | None
    reached: int
    count: int

    @property
    def same(self) -> bool:
        return self.low is not None and self.high is not None and self.low <= 1 <= self.high


def settings(comparison: Comparison) -> list[Setting]:
    """Small to large by the parameters of its smallest cell, then short to long."""
    order = {name: i for i, name in enumerate([comparison.baseline, *(arm.name for arm in comparison.arms)][::-1])}
    found: dict[tuple[str, int], dict[str, Cell]] = {}
    for cell in sorted(comparison.cells, key=lambda cell: -order.get(cell.arm, -1)):
        found.setdefault((cell.size, cell.context_len), {})[cell.arm] = cell
    weight = {size: min(c.measured.params for c in comparison.cells if c.size == size) for size, _ in found}
    return [Setting(*key, found[key]) for key in sorted(found, key=lambda key: (weight[key[0]], key[0], key[1]))]


def good_runs(cell: Cell | None) -> dict[int, TrainedRun]:
    """By seed, the final runs that neither diverged nor lack their measurement."""
    return {run.seed: run for run in cell.final if run.tuned is not None and run.detail is not None} if cell else {}


def diverged(cell: Cell) -> int:
    return sum(run.tuned is None for run in cell.final)


def bits(cell: Cell | None) -> dict[int, float]:
    """By seed, bits per byte of the validation split."""
    return {seed: run.detail.whole.bits_per_byte for seed, run in good_runs(cell).items() if run.detail}


def mean(values: Sequence[float]) -> Interval | None:
    return statistics.interval(values) if values else None


def paired_by_seed(mine: dict[int, float], theirs: dict[int, float]) -> Interval | None:
    both = [seed for seed in mine if seed in theirs]
    return statistics.paired([mine[s] for s in both], [theirs[s] for s in both]) if both else None


def difference(setting: Setting, arm: str, baseline: str, rng: np.random.Generator) -> Difference:
    ours, theirs = setting.cells.get(arm), setting.cells.get(baseline)
    mine, base = good_runs(ours), good_runs(theirs)
    both = [seed for seed in mine if seed in base]
    asked = {run.seed for cell in (ours, theirs) if cell for run in cell.final}
    return Difference(
        arm=arm,
        baseline=baseline,
        seeds=paired_by_seed(bits(ours), bits(theirs)),
        text=_over_text([(mine[s].detail, base[s].detail) for s in both], rng),
        missing=len(asked) - len(both),
        edge=tuple(cell.arm for cell in (ours, theirs) if cell and cell.edge),
    )


def differences(comparison: Comparison, setting: Setting) -> list[Difference]:
    """Every arm of the setting against the baseline, in the order of the arms."""
    rng = np.random.default_rng(0)  # the same page from the same measurements
    return [difference(setting, arm, comparison.baseline, rng) for arm in setting.cells if arm != comparison.baseline]


def _over_text(
    pairs: Sequence[tuple[Detail | None, Detail | None]], rng: np.random.Generator
) -> tuple[float, float] | None:
    """95 % of the seeds' mean difference over the blocks of text drawn anew, the same blocks for both arms."""
    blocks = [(a.blocks, b.blocks) for a, b in pairs if a is not None and b is not None]
    names = {tuple(block.name for block in side) for pair in blocks for side in pair}
    if len(names) != 1 or len(next(iter(names))) < _LEAST_BLOCKS:
        return None
    count = len(next(iter(names)))
    times = rng.multinomial(count, [1 / count] * count, size=_DRAWS)  # how often each draw holds each block
    total = np.zeros(_DRAWS)
    for mine, theirs in blocks:
        total += _bits_of(mine, times) - _bits_of(theirs, times)
    low, high = np.percentile(total / len(blocks), [2.5, 97.5])
    return float(low), float(high)


def _bits_of(blocks: Sequence[Part], times: np.ndarray) -> np.ndarray:
    nats = times @ np.asarray([block.nats for block in blocks], dtype=float)
    return nats / math.log(2) / np.maximum(times @ np.asarray([block.bytes for block in blocks], dtype=float), 1.0)


def part_bits(cell: Cell | None, parts: Callable[[Detail], Sequence[Part]]) -> dict[str, dict[int, float]]:
    """Part name -> seed -> bits per byte of the parts that hold any text."""
    found: dict[str, dict[int, float]] = {}
    for seed, run in good_runs(cell).items():
        for part in parts(run.detail) if run.detail else ():
            if part.bytes:
                found.setdefault(part.name, {})[seed] = part.bits_per_byte
    return found


def first_reach(curve: Sequence[Point], loss: float, axis: str) -> float | None:
    """Where on the axis a curve first comes down to a loss, between its points on a straight line; None = never."""
    before: Point | None = None
    for point in curve:
        if point.bits_per_byte <= loss:
            if before is None:
                return float(getattr(point, axis))
            share = (before.bits_per_byte - loss) / (before.bits_per_byte - point.bits_per_byte)
            return getattr(before, axis) + share * (getattr(point, axis) - getattr(before, axis))
        before = point
    return None


def race(setting: Setting, arm: str, goal: str, axis: str) -> Race | None:
    """None where no pair of seeds has curves. A diverged run of the arm counts as one that never arrives."""
    finals = setting.cells[arm].final if arm in setting.cells else ()
    mine = {run.seed: run.curve if run.tuned is not None else () for run in finals}
    ends = [run for run in setting.cells[goal].final if run.curve and run.tuned is not None and run.seed in mine]
    if not ends:
        return None
    pairs = []
    for run in ends:
        loss = run.curve[-1].bits_per_byte
        pairs.append((first_reach(mine[run.seed], loss, axis), first_reach(run.curve, loss, axis)))
    logs = [math.log(goals / ours) for ours, goals in pairs if ours and goals]
    arrived = [ours for ours, _ in pairs if ours is not None]
    found = statistics.interval(logs) if len(logs) == len(pairs) else None
    return Race(
        arm=arm,
        goal=goal,
        axis=axis,
        loss=math.fsum(run.curve[-1].bits_per_byte for run in ends) / len(ends),
        mine=math.fsum(arrived) / len(arrived) if arrived else None,
        factor=math.exp(found.mean) if found else None,
        low=math.exp(found.low) if found and found.low is not None else None,
        high=math.exp(found.high) if found and found.high is not None else None,
        reached=len(arrived),
        count=len(pairs),
    )


def mean_curve(cell: Cell, axis: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray] | None:
    """Where, mean, lowest and highest over the seeds' curves where all of them are; None without curves."""
    curves = [run.curve for run in cell.final if len(run.curve) > 1 and run.tuned is not None]
    if not curves:
        return None
    low = max(getattr(curve[0], axis) for curve in curves)
    high = min(getattr(curve[-1], axis) for curve in curves)
    places = sorted({float(getattr(point, axis)) for curve in curves for point in curve})
    xs = np.asarray([x for x in places if low <= x <= high])
    if xs.size < 2:
        return None
    rows = []
    for curve in curves:
        rows.append(np.interp(xs, [getattr(p, axis) for p in curve], [p.bits_per_byte for p in curve]))
    ys = np.stack(rows)
    return xs, ys.mean(0), ys.min(0), ys.max(0)


def front(points: Sequence[tuple[float, float]]) -> set[int]:
    """Which of the points (cost, loss) no other one beats in both; costs within 2 % count as the same."""

    def beaten(x: float, y: float) -> bool:
        return any((a <= x * _SAME_COST and b < y) or (a * _SAME_COST < x and b <= y) for a, b in points)

    return {i for i, point in enumerate(points) if not beaten(*point)}


def weight_bytes(comparison: Comparison) -> int:
    """Bytes per weight at inference in the comparison's precision."""
    return 2 if "16" in comparison.precision else 4


def inference_bytes(comparison: Comparison, cell: Cell, context: str = "2048") -> int | None:
    """Weights and one sequence's state after so many tokens."""
    state = cell.measured.state_bytes.get(context)
    return None if state is None else cell.measured.params * weight_bytes(comparison) + state


def cleaned(comparison: Comparison) -> Comparison:
    """The comparison without numbers that are not finite: JSON has none, and what is not finite diverged."""

    def clean(run: TrainedRun) -> TrainedRun:
        tuned = run.tuned if run.tuned is not None and math.isfinite(run.tuned) else None
        curve = tuple(point for point in run.curve if math.isfinite(point.bits_per_byte))
        parts = (
            (run.detail.whole, *run.detail.places_in_row, *run.detail.repeats, *run.detail.blocks) if run.detail else ()
        )
        detail = run.detail if all(math.isfinite(part.nats) for part in parts) else None
        return dataclasses.replace(run, tuned=tuned, curve=curve, detail=detail)

    cells = [
        dataclasses.replace(cell, tuning=tuple(map(clean, cell.tuning)), final=tuple(map(clean, cell.final)))
        for cell in comparison.cells
    ]
    return dataclasses.replace(comparison, cells=tuple(cells))
