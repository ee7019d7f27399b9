"""Of sampled replies the one with the best score; by default the model's own mean log-probability of its tokens."""

from dataclasses import dataclass

from wren.think.algorithm import Algorithm, Steps, positive, sampled, usable
from wren.think.case import Case


@dataclass(frozen=True, kw_only=True)
class Rules(Algorithm):
    temperature: float = 0.8

    def __post_init__(self) -> None:
        positive("best_by_score.temperature", self.temperature)

    def solve(self, case: Case) -> Steps:
        yield from sampled(case, self.temperature)
        return max(usable(case), key=case.scorer)
