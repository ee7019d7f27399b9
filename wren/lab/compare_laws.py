"""Scaling laws of a comparison with three or more sizes: exponents, and what an arm saves against the baseline."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from wren.lab import compare_numbers as numbers
from wren.lab import scaling
from wren.lab.scaling import Law, Saving
from wren.lab.schema import Cell, Comparison

_LEAST_SPREAD = 2.0  # a budget that is the same for all sizes shows no law over it

_MOST = 1000.0  # a factor beyond this is a flat law's, not a saving

Points = dict[float, list[float]]
AXES: dict[str, Callable[[Cell], float]] = {
    "seconds": lambda cell: float(np.mean([run.seconds for run in cell.final])),
    "FLOPs": lambda cell: float(np.mean([run.flops for run in cell.final])),
    "parameters": lambda cell: float(cell.measured.params),
}


@dataclass(frozen=True, kw_only=True)
class Fit:
    """An arm's law over an axis at a context length; `saving` against the baseline, None for itself or if unknown.

    low, high: 95 % interval of the exponent, None with one seed. why: what stands in the way of a law or a saving.
    """

    arm: str
    context_len: int
    axis: str
    points: Points
    law: Law | None = None
    low: float | None = None
    high: float | None = None
    saving: Saving | None = None
    why: str = ""


def fits(comparison: Comparison) -> list[Fit]:
    """For every context length with three sizes or more, axis and arm; empty where there are fewer sizes."""
    found = []
    for context in sorted({cell.context_len for cell in comparison.cells}):
        cells = [cell for cell in comparison.cells if cell.context_len == context]
        if len({cell.size for cell in cells}) < scaling.LEAST_SIZES:
            continue
        ended = [set(numbers.bits(cell)) for cell in cells if numbers.bits(cell)]
        seeds = sorted(set.intersection(*ended)) if ended else []
        names = [comparison.baseline, *(arm.name for arm in comparison.arms if arm.name != comparison.baseline)]
        for axis in AXES:
            points = {name: _points(cells, name, axis, seeds) for name in names}
            base = points[comparison.baseline]
            found += [_fit(name, context, axis, points[name], base, name == comparison.baseline) for name in names]
    return found


def _points(cells: list[Cell], arm: str, axis: str, seeds: list[int]) -> Points:
    """x -> bits per byte of the seeds that ended well everywhere, for every size that has them."""
    points = {}
    for cell in cells:
        scores = numbers.bits(cell)
        if cell.arm == arm and scores and seeds:
            x = AXES[axis](cell)
            while x in points:  # sizes that spent exactly the same stay apart
                x = math.nextafter(x, math.inf)
            points[x] = [scores[seed] for seed in seeds]
    return dict(sorted(points.items()))


def _fit(arm: str, context: int, axis: str, points: Points, base: Points, is_base: bool) -> Fit:
    fit = Fit(arm=arm, context_len=context, axis=axis, points=points, why=_obstacle(points, axis))
    if fit.why:
        return fit
    rng = np.random.default_rng(0)
    law, low, high = scaling.exponent_interval(points, rng)
    fit = replace(fit, law=law, low=low, high=high)
    if is_base:
        return fit
    why = _obstacle(base, axis)
    if why:
        return replace(fit, why=f"of the baseline, {why}")
    if law.b <= 0 or scaling.fit_points(base).b <= 0:
        return replace(fit, why=f"the loss does not fall with more {axis} at this budget")
    saving = scaling.saving(points, base, rng)
    if not all(1 / _MOST < end < _MOST for end in _ends(saving)):
        return replace(fit, why="the seeds differ too much to tell a saving")
    return replace(fit, saving=saving)


def _ends(saving: Saving) -> list[float]:
    return [end for end in (saving.low, saving.factor, saving.high) if end is not None]


def _obstacle(points: Points, axis: str) -> str:
    """Why there is no law over these points; "" where there is one."""
    if len(points) < scaling.LEAST_SIZES:
        return f"{len(points)} of the sizes have finished seeds in common; a law takes {scaling.LEAST_SIZES}"
    if max(points) < _LEAST_SPREAD * max(min(points), 1e-9):
        return f"the budget gave every size about the same {axis}"
    return ""
