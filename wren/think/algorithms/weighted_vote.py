"""As vote, with a weight of exp(sharpness x score) for every reply; the score is by default its mean log-probability.

With sharpness 0 it is the majority, with a large one the best by score.
"""

import math
from dataclasses import dataclass

from wren.think.algorithm import Algorithm, Steps, positive, sampled, usable, votes
from wren.think.case import Case


@dataclass(frozen=True, kw_only=True)
class Rules(Algorithm):
    temperature: float = 0.8
    sharpness: float = 4.0

    def __post_init__(self) -> None:
        positive("weighted_vote.temperature", self.temperature)
        positive("weighted_vote.sharpness", self.sharpness)

    def solve(self, case: Case) -> Steps:
        yield from sampled(case, self.temperature)
        replies = usable(case)
        scores = [case.scorer(reply) for reply in replies]
        best = max(scores)  # taken off: the weights stay within the range of a float
        return votes(case, replies, [math.exp(self.sharpness * (score - best)) for score in scores])[0].reply
