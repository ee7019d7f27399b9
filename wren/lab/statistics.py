"""Means with their intervals, and paired differences in words. Plain Python, no torch."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95
SEEDS_TO_SEE, SEEDS_TO_CLAIM = 3, 5


@dataclass(frozen=True, kw_only=True)
class Interval:
    """mean +- half with 95 % confidence over `count` values; half is None for one value: nothing is known of it."""

    mean: float
    half: float | None
    count: int

    @property
    def low(self) -> float | None:
        return None if self.half is None else self.mean - self.half

    @property
    def high(self) -> float | None:
        return None if self.half is None else self.mean + self.half

    @property
    def holds_zero(self) -> bool:
        """Whether 0 is inside; for one value it may always be."""
        return self.half is None or abs(self.mean) <= self.half

    def text(self, digits: int = 3) -> str:
        """ "1.394 ± 0.006", or the mean alone with a remark."""
        mean = f"{round(self.mean, digits) + 0.0:.{digits}f}"  # + 0.0: no minus before a zero
        return f"{mean} (one seed)" if self.half is None else f"{mean} ± {self.half:.{digits}f}"


def interval(values: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """The mean of independent values and Student's interval around it; raises ValueError for no values."""
    if not values:
        raise ValueError("an interval of no values")
    mean = statistics.fmean(values)
    if len(values) == 1:
        return Interval(mean=mean, half=None, count=1)
    error = statistics.stdev(values) / math.sqrt(len(values))
    return Interval(mean=mean, half=t_quantile(0.5 + confidence / 2, len(values) - 1) * error, count=len(values))


def paired(values: Sequence[float], baseline: Sequence[float]) -> Interval:
    """The mean of values[i] - baseline[i] over paired seeds: what both seeds share cancels."""
    return interval([a - b for a, b in zip(values, baseline, strict=True)])


def in_words(name: str, baseline: str, difference: Interval, unit: str = "bits per byte", digits: int = 3) -> str:
    """ "B is 0.031 ± 0.006 bits per byte below A", or "no difference"; never a claim from one seed."""
    size = f"{abs(difference.mean):.{digits}f}"
    where = "below" if difference.mean < 0 else "above"
    if difference.half is None:
        return f"{name} came out {size} {unit} {where} {baseline} with one seed, which shows no difference by itself"
    if difference.holds_zero:
        return f"{name} and {baseline}: no difference ({difference.text(digits)} {unit} over {difference.count} seeds)"
    return f"{name} is {size} ± {difference.half:.{digits}f} {unit} {where} {baseline} ({difference.count} seeds)"


def t_quantile(probability: float, freedom: int) -> float:
    """Where Student's t with so many degrees of freedom has this cumulative probability (> 0.5), by bisection."""
    low, high = 0.0, 1.0
    while t_cdf(high, freedom) < probability:
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if t_cdf(middle, freedom) < probability else (low, middle)
    return (low + high) / 2


def t_cdf(t: float, freedom: int) -> float:
    """Cumulative probability of Student's t at t >= 0, for whole degrees of freedom (Abramowitz & Stegun 26.7.3-4)."""
    angle = math.atan2(t, math.sqrt(freedom))
    cosine, sine = math.cos(angle), math.sin(angle)
    if freedom % 2:
        term, total = cosine, 0.0
        for j in range(1, freedom - 1, 2):
            total += term
            term *= cosine * cosine * (j + 1) / (j + 2)
        return 0.5 + (angle + sine * total) / math.pi
    term, total = 1.0, 0.0
    for j in range(0, freedom, 2):
        total += term
        term *= cosine * cosine * (j + 1) / (j + 2)
    return 0.5 + sine * total / 2
