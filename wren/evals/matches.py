"""A match of two players in numbers: A's share of the points, what A wins per game, and 95 % intervals of both."""

from dataclasses import dataclass

from wren.games.referee import Match
from wren.intervals import ratio_interval, share_interval


@dataclass(frozen=True, kw_only=True)
class Score:
    """A against B. share: of the points, a draw being a half.

    wilson: the interval of that share as if all games were independent and no game could be drawn.
    paired: from pairs of games with the same start and deals, whose luck cancels; None for one pair.
    mean_return: what A wins per game, with its paired interval. seats: wins, draws and losses where A moves first, and
    second. illegal: illegal moves of A and of B.
    """

    games: int
    wins: int
    draws: int
    losses: int
    share: float
    wilson: tuple[float, float]
    paired: tuple[float, float] | None
    mean_return: float
    return_interval: tuple[float, float] | None
    seats: tuple[tuple[int, int, int], tuple[int, int, int]]
    illegal: tuple[int, int]

    def text(self, a: str, b: str) -> str:
        """One sentence, with the Wilson interval."""
        low, high = self.wilson
        says = f"{a} scores {self.share:.1%} against {b} (95 % interval {low:.1%} to {high:.1%}; "
        says += f"{self.wins} won, {self.draws} drawn, {self.losses} lost of {self.games})"
        for name, count in zip((a, b), self.illegal, strict=True):
            says += f"; {name} made {count} illegal move{'s' if count != 1 else ''}" if count else ""
        return says + "."


def score(match: Match) -> Score:
    """The numbers of a match."""
    wins, draws, losses = match.results()
    points, returns = _of_pairs(match.points), _of_pairs(match.returns)
    games = [2.0] * len(points)
    return Score(
        games=len(match.games),
        wins=wins,
        draws=draws,
        losses=losses,
        share=sum(match.points) / len(match.games),
        wilson=share_interval(sum(match.points), len(match.games)),
        paired=ratio_interval(points, games),
        mean_return=sum(match.returns) / len(match.games),
        return_interval=ratio_interval(returns, games),
        seats=(match.results(0), match.results(1)),
        illegal=match.illegal,
    )


def _of_pairs(values: list[float]) -> list[float]:
    return [first + second for first, second in zip(values[::2], values[1::2], strict=True)]
