"""Sampled replies until the verifier accepts one; else the one that it scores best, of equal ones the first.

It asks in rounds of 1, 2, 4, ... replies, so that an easy problem costs little.
"""

from dataclasses import dataclass

from wren.tasks.task import RIGHT
from wren.think.algorithm import Algorithm, Steps, positive, sampled
from wren.think.case import Case


@dataclass(frozen=True, kw_only=True)
class Rules(Algorithm):
    temperature: float = 1.0

    def __post_init__(self) -> None:
        positive("best_of_n.temperature", self.temperature)

    @property
    def needs_verifier(self) -> bool:
        return True

    def solve(self, case: Case) -> Steps:
        yield from sampled(
            case,
            self.temperature,
            most=lambda: max(1, len(case.replies)),
            alone=lambda: any(case.verified(reply) >= RIGHT for reply in case.replies),
        )
        return max(case.replies, key=case.verified)
