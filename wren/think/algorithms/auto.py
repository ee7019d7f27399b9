"""Votes only as long as the votes are divided: the likeliest reply and a few samples are the pilot, and where the lead
of the first answer over the second one is sure enough, it is the answer; else more replies are asked for, in rounds of
a quarter as many again.

A reply's vote weighs exp(sharpness x score) <= 1, so that what the model doubts counts less. Sure: with a uniform
prior, P(Beta(a + 1, b + 1) > 1/2) for the weights a and b of the two leading answers is above `sure`: the chance that a
further vote for one of them is more often for the first (adaptive consistency, 2305.11860). The likeliest reply is
asked for first, so that a budget of one answer is greedy.
"""

import math
from dataclasses import dataclass

from wren.errors import ConfigError
from wren.think.algorithm import Algorithm, Steps, Vote, positive, sampled, usable, votes
from wren.think.case import Case

_PLACES = 256  # at which a density is summed


@dataclass(frozen=True, kw_only=True)
class Rules(Algorithm):
    """pilot: replies of it, the likeliest one among them. sharpness: 0 = every vote weighs the same."""

    pilot: int = 3
    sure: float = 0.8
    sharpness: float = 2.0
    temperature: float = 0.8

    def __post_init__(self) -> None:
        positive("auto.pilot", self.pilot)
        positive("auto.temperature", self.temperature)
        if not 0.5 <= self.sure < 1:
            raise ConfigError(f"auto.sure is {self.sure:g}; it must lie in 0.5 to 1, 1 not included.")
        if not 0 <= self.sharpness < math.inf:
            raise ConfigError(f"auto.sharpness is {self.sharpness:g}; it must be at least 0.")

    def solve(self, case: Case) -> Steps:
        [case.replies] = yield [case.whole()]
        yield from sampled(
            case, self.temperature, most=lambda: self._round(len(case.replies)), alone=lambda: self._is_sure(case)
        )
        return self._votes(case)[0].reply

    def _round(self, asked: int) -> int:
        return self.pilot - asked if asked < self.pilot else max(1, asked // 4)

    def _votes(self, case: Case) -> list[Vote]:
        replies = usable(case)
        return votes(case, replies, [math.exp(self.sharpness * min(0.0, case.scorer(reply))) for reply in replies])

    def _is_sure(self, case: Case) -> bool:
        if len(case.replies) < self.pilot:
            return False
        first, second, *_ = [*(vote.weight for vote in self._votes(case)), 0.0]
        return lead(first, second) > self.sure


def lead(first: float, second: float) -> float:
    """P(p > 1/2) for p of Beta(first + 1, second + 1), by the midpoint rule."""
    logs = [
        first * math.log(p) + second * math.log(1 - p) for p in ((i + 0.5) / _PLACES for i in range(_PLACES))
    ]  # fmt: skip
    density = [math.exp(each - max(logs)) for each in logs]
    return sum(density[_PLACES // 2 :]) / sum(density)
