"""Scaling laws: loss = floor + a x^-b against time, FLOPs or parameters, and what one arm saves against another.

The form is that of 2001.08361 and 2203.15556. Two parameters (floor 0) are fitted from three sizes on, the floor too
from four on. Intervals are Student's around the fit, with the standard error of drawing the paired seeds anew: of three
seeds a bootstrap's own percentiles hold the truth too seldom, since they end at the seeds there are.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from wren.lab.statistics import CONFIDENCE, t_quantile

LEAST_SIZES = 3
_SIZES_FOR_FLOOR = 4
_DRAWS = 1000


@dataclass(frozen=True, kw_only=True)
class Law:
    """loss(x) = floor + exp(log_a) x^-b."""

    floor: float
    log_a: float
    b: float

    def loss(self, x: float) -> float:
        return self.floor + math.exp(self.log_a - self.b * math.log(x))

    def x_at(self, loss: float) -> float:
        """Where the law reaches a loss; inf if never."""
        if loss <= self.floor or self.b <= 0:
            return math.inf
        return math.exp(max(-700.0, min(700.0, (self.log_a - math.log(loss - self.floor)) / self.b)))


@dataclass(frozen=True, kw_only=True)
class Saving:
    """How many times less of x an arm needs than the baseline for the baseline's loss at its largest size.

    low, high: the 95 % interval, even in the logarithm; None with one seed. extrapolated: the arm's own x for that
    loss lies outside what was measured.
    """

    factor: float
    low: float | None
    high: float | None
    loss: float
    extrapolated: bool


Points = Mapping[float, Sequence[float]]  # x -> the losses of its paired seeds, in one order for all arms


def fit(xs: Sequence[float], losses: Sequence[float]) -> Law:
    """Least squares in the logarithm of the loss above the floor; raises ValueError for fewer than 3 sizes."""
    if len(set(xs)) < LEAST_SIZES:
        raise ValueError(f"{len(set(xs))} sizes do not show a law; it takes {LEAST_SIZES}")
    log_x, y = np.log(np.asarray(xs, dtype=float)), np.asarray(losses, dtype=float)
    floors_F = np.zeros(1)
    if len(set(xs)) >= _SIZES_FOR_FLOOR:
        floors_F = np.linspace(0.0, 0.98 * float(y.min()), 99)
    # a straight line through the logarithms for every floor at once
    logs_FN, centred = np.log(y - floors_F[:, None]), log_x - log_x.mean()
    slopes_F = logs_FN @ centred / (centred @ centred)
    offsets_F = logs_FN.mean(1) - slopes_F * log_x.mean()
    predicted_FN = floors_F[:, None] + np.exp(offsets_F[:, None] + slopes_F[:, None] * log_x)
    best = int(np.square(np.log(predicted_FN) - np.log(y)).sum(1).argmin())
    return Law(floor=float(floors_F[best]), log_a=float(offsets_F[best]), b=float(-slopes_F[best]))


def fit_points(points: Points, seeds: np.ndarray | None = None) -> Law:
    """The law of the mean loss at every x; seeds: which of the paired seeds, with repeats, None = each once."""
    means = [float(np.mean(np.asarray(losses)[seeds] if seeds is not None else losses)) for losses in points.values()]
    return fit(list(points), means)


def exponent_interval(points: Points, rng: np.random.Generator) -> tuple[Law, float | None, float | None]:
    """The law, and the 95 % interval of its exponent b (None with one seed)."""
    law = fit_points(points)
    half = _half([fit_points(points, draw).b for draw in _draws(points, rng)], _num_seeds(points))
    return (law, None, None) if half is None else (law, law.b - half, law.b + half)


def saving(arm: Points, baseline: Points, rng: np.random.Generator) -> Saving:
    """What `arm` saves of x at the loss that the baseline's law gives at its largest measured x."""

    def factor(seeds: np.ndarray | None) -> tuple[float, float, float]:
        theirs, ours = fit_points(baseline, seeds), fit_points(arm, seeds)
        top = max(baseline)
        loss = theirs.loss(top)
        needed = ours.x_at(loss)
        return top / needed, loss, needed

    found, loss, needed = factor(None)
    with np.errstate(
        divide="ignore", invalid="ignore", over="ignore"
    ):  # a law that never gets there: no finite interval
        half = _half(np.log([factor(draw)[0] for draw in _draws(arm, rng)]), _num_seeds(arm))
        times = None if half is None else float(np.exp(half))
    return Saving(
        factor=found,
        low=None if times is None else found / times,
        high=None if times is None else found * times,
        loss=loss,
        extrapolated=not min(arm) <= needed <= max(arm) * (1 + 1e-9),
    )


def _draws(points: Points, rng: np.random.Generator) -> list[np.ndarray]:
    count = _num_seeds(points)
    return [rng.integers(count, size=count) for _ in range(_DRAWS)] if count > 1 else []


def _num_seeds(points: Points) -> int:
    return len(next(iter(points.values())))


def _half(values: Sequence[float] | np.ndarray, num_seeds: int) -> float | None:
    """Half of Student's interval from the spread of the draws, which lacks a factor n / (n - 1) in the variance.

    inf where the draws have no finite spread, None without draws.
    """
    if not len(values):
        return None
    error = float(np.std(values)) * math.sqrt(num_seeds / (num_seeds - 1))
    return t_quantile(0.5 + CONFIDENCE / 2, num_seeds - 1) * error if math.isfinite(error) else math.inf
