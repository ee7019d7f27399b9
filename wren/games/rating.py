"""Elo from a table of results: the most likely ratings, and how sure they are.

Bradley and Terry (1952): A scores against B with probability 1 / (1 + 10^((B - A) / 400)); a draw is half a win.
Intervals come from the curvature of the likelihood, so they are for many games, and wide where there are draws.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from wren.errors import ConfigError, unknown_key

Results = Mapping[tuple[str, str], tuple[float, float, float]]
_Z = NormalDist().inv_cdf(0.975)
_SCALE = 400 / math.log(10)


@dataclass(frozen=True, kw_only=True)
class Rating:
    """elo +- half with 95 % confidence, as a difference to the anchor, whose half is 0; games: played in all."""

    elo: float
    half: float
    games: float


def elo(results: Results, *, anchor: str | None = None, prior: float = 0.0) -> dict[str, Rating]:
    """Every player's rating, best first.

    results: {(A, B): (wins of A, draws, wins of B)}; a pair may stand in both orders. anchor: the player who is 0;
    else the mean is 0. prior: drawn games added to each pair that has played, which give a rating also to who has won
    or lost every game. Raises ConfigError where the games give no ratings: nobody joins two groups, or one group has
    never scored against the other.
    """
    scores, names = _scores(results, prior)
    games = _played(results, names)
    if anchor is not None and anchor not in names:
        raise ConfigError(unknown_key("The anchor", anchor, names))
    _demand_finite(scores, names)
    ratings, covariance = _most_likely(scores)
    if anchor is None:
        shift, spread = ratings.mean(), covariance.diagonal()
    else:
        a = names.index(anchor)
        shift, spread = ratings[a], covariance.diagonal() + covariance[a, a] - 2 * covariance[a]
    halves = _Z * np.sqrt(np.maximum(spread, 0.0))
    rows = {
        name: Rating(elo=_SCALE * float(ratings[i] - shift), half=_SCALE * float(halves[i]), games=games[i])
        for i, name in enumerate(names)
    }
    return dict(sorted(rows.items(), key=lambda row: -row[1].elo))


def _scores(results: Results, prior: float) -> tuple[np.ndarray, list[str]]:
    """scores[i, j]: points of player i against player j."""
    names = sorted({name for pair in results for name in pair})
    if len(names) < 2:
        raise ConfigError("Elo needs the results of at least two players.")
    scores = np.zeros((len(names), len(names)))
    for (a, b), counts in results.items():
        if a == b or min(counts) < 0 or not all(math.isfinite(count) for count in counts):
            raise ConfigError(f"The results of {a} against {b} must be games of two players, counted from 0: {counts}.")
        i, j = names.index(a), names.index(b)
        scores[i, j] += counts[0] + counts[1] / 2
        scores[j, i] += counts[2] + counts[1] / 2
    met = scores + scores.T > 0
    return scores + met * (prior / 2), names


def _played(results: Results, names: list[str]) -> list[float]:
    return [float(sum(sum(counts) for pair, counts in results.items() if name in pair)) for name in names]


def _demand_finite(scores: np.ndarray, names: list[str]) -> None:
    """Ratings exist where everyone can be reached from everyone by steps "scored against" (Ford 1957)."""
    reaches = (scores > 0) | np.eye(len(names), dtype=bool)
    for _ in names:
        reaches = reaches @ reaches
    if reaches.all():
        return
    i, j = (int(x) for x in np.argwhere(~reaches)[0])
    if not reaches[j, i]:
        raise ConfigError(f"No games join {names[i]} and {names[j]}, also not through others; let them play.")
    raise ConfigError(
        f"{names[i]} has no point against {names[j]}, also not through others, so no finite Elo fits; set a prior."
    )


def _most_likely(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ratings in natural units, mean 0, and their covariance, by Newton's method on a concave likelihood."""
    count = len(scores)
    games, ratings = scores + scores.T, np.zeros(count)
    everyone = np.full((count, count), 1 / count)  # the one direction in which nothing changes
    for _ in range(200):
        gradient = (scores - games * _chance(ratings)).sum(axis=1)
        step = np.linalg.solve(_curvature(games, ratings) + everyone, gradient)
        largest = float(np.abs(step).max())
        ratings = ratings + step * min(1.0, 2.0 / max(largest, 1.0))  # a long step may overshoot
        if largest < 1e-10:
            break
    return ratings, np.linalg.inv(_curvature(games, ratings) + everyone) - everyone


def _chance(ratings: np.ndarray) -> np.ndarray:
    """chance[i, j]: that i scores against j."""
    return 1 / (1 + np.exp(ratings[None, :] - ratings[:, None]))


def _curvature(games: np.ndarray, ratings: np.ndarray) -> np.ndarray:
    chance = _chance(ratings)
    weight = games * chance * (1 - chance)
    return np.diag(weight.sum(axis=1)) - weight
