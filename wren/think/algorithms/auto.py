"""Votes only as long as the votes are divided: the likeliest reply and a few samples are the pilot, and where the lead
of the first answer over the second one is sure enough, it is the answer; else more replies are asked for, in rounds of
half as many again.

Sure: with a uniform prior, the chance that a further vote for one of the two leading answers is more often for the
first, P(Beta(a + 1, b + 1) > 1/2) for a against b votes, is above `sure` (adaptive consistency, 2305.11860). The
likeliest reply breaks ties, so that a budget of one answer is greedy.
"""

import math
from dataclasses import dataclass

from wren.errors import ConfigError
from wren.think.algorithm import Algorithm, Steps, positive, sampled, usable, votes
from wren.think.case import Case


@dataclass(frozen=True, kw_only=True)
class Rules(Algorithm):
    """pilot: replies of it, the likeliest one among them."""

    pilot: int = 4
    sure: float = 0.95
    temperature: float = 0.8

    def __post_init__(self) -> None:
        positive("auto.pilot", self.pilot)
        positive("auto.temperature", self.temperature)
        if not 0.5 <= self.sure < 1:
            raise ConfigError(f"auto.sure is {self.sure:g}; it must lie in 0.5 to 1, 1 not included.")

    def solve(self, case: Case) -> Steps:
        [case.replies] = yield [case.whole()]
        yield from sampled(
            case, self.temperature, most=lambda: self._round(len(case.replies)), alone=lambda: self._is_sure(case)
        )
        return votes(case, usable(case))[0].reply

    def _round(self, asked: int) -> int:
        return self.pilot - asked if asked < self.pilot else max(1, asked // 2)

    def _is_sure(self, case: Case) -> bool:
        if len(case.replies) < self.pilot:
            return False
        first, second, *_ = [*(vote.weight for vote in votes(case, usable(case))), 0.0]
        return lead(int(first), int(second)) > self.sure


def lead(first: int, second: int) -> float:
    """P(p > 1/2) for p of Beta(first + 1, second + 1): of first + second + 1 throws of a coin at most `first` heads."""
    throws = first + second + 1
    return sum(math.comb(throws, heads) for heads in range(first + 1)) / 2**throws
