"""The likeliest token at every place: one reply, and what is left of the budget is not used."""

from dataclasses import dataclass

from wren.think.algorithm import Algorithm, Steps
from wren.think.case import Case


@dataclass(frozen=True, kw_only=True)
class Rules(Algorithm):
    def solve(self, case: Case) -> Steps:
        [case.replies] = yield [case.whole()]
        return case.replies[0]
