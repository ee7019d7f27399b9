"""95 % confidence intervals: of a ratio of sums over blocks of text, and of a share of right answers."""

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

_Z = NormalDist().inv_cdf(0.975)


def ratio_interval(numerators: Sequence[float], denominators: Sequence[float]) -> tuple[float, float] | None:
    """Of sum(numerators) / sum(denominators), each pair from one block; None for fewer than two blocks.

    The delta method: the variance of a ratio is that of n - r d over the blocks (Cochran, Sampling Techniques, 6.3),
    which count as independent; with Student's factor for few of them.
    """
    count, total = len(numerators), sum(denominators)
    if count < 2 or total == 0:
        return None
    ratio = sum(numerators) / total
    spread = sum((n - ratio * d) ** 2 for n, d in zip(numerators, denominators, strict=True))
    half = student(count - 1) * math.sqrt(spread * count / (count - 1)) / total
    return ratio - half, ratio + half


def share_interval(right: float, count: int) -> tuple[float, float]:
    """Of a share right / count (Wilson 1927), which stays inside 0 and 1; raises ValueError for a count of 0."""
    if count < 1:
        raise ValueError("an interval of no answers")
    share = right / count
    middle = (share + _Z**2 / (2 * count)) / (1 + _Z**2 / count)
    half = _Z * math.sqrt(share * (1 - share) / count + _Z**2 / (4 * count**2)) / (1 + _Z**2 / count)
    return max(0.0, middle - half), min(1.0, middle + half)


def student(freedom: int) -> float:
    """About Student's 97.5 % point: Fisher's expansion (Abramowitz & Stegun 26.7.5), exact for 1 and 2."""
    if freedom <= 2:
        return 12.7062 if freedom == 1 else 4.3027
    z, n = _Z, freedom
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / n + second / n**2 + third / n**3


def accuracy(right: Sequence[bool]) -> dict[str, Any]:
    """{"accuracy", "low", "high", "count"} of answers."""
    low, high = share_interval(sum(right), len(right))
    return {"accuracy": sum(right) / len(right), "low": low, "high": high, "count": len(right)}
