"""The answer that most sampled replies give: self-consistency  (2203.11171)."""

from dataclasses import dataclass

from wren.think.algorithm import Algorithm, Steps, positive, sampled, usable, votes
from wren.think.case import Case


@dataclass(frozen=True, kw_only=True)
class Rules(Algorithm):
    temperature: float = 0.8

    def __post_init__(self) -> None:
        positive("vote.temperature", self.temperature)

    def solve(self, case: Case) -> Steps:
        yield from sampled(case, self.temperature)
        return votes(case, usable(case))[0].reply
