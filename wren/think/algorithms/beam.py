"""The best replies so far go on by several pieces each, and the best of those go on: beam search over sampled pieces.

Branches that have ended stay among the best until the end. The score is by default the mean log-probability.
"""

from dataclasses import dataclass

from wren.think.algorithm import Algorithm, Steps, positive
from wren.think.branch import Ask, Branch
from wren.think.case import Case


@dataclass(frozen=True, kw_only=True)
class Rules(Algorithm):
    """children: of each branch. piece: tokens of one, 0 = a sixth of a reply. The width is what the budget allows."""

    children: int = 4
    piece: int = 0
    temperature: float = 1.0

    def __post_init__(self) -> None:
        positive("beam.children", self.children)
        positive("beam.piece", self.piece, -1)
        positive("beam.temperature", self.temperature)

    def solve(self, case: Case) -> Steps:
        piece = self.piece or -(-case.max_tokens // 6)
        children = max(1, min(self.children, case.left // case.max_tokens))
        width = max(1, case.left // (case.max_tokens * children))
        beam, length = [case.root], 0
        while length < case.max_tokens:
            going = [branch for branch in beam if not branch.ended]
            count = width * children if length == 0 else children  # the root has all the children of a full beam
            step = min(piece, case.max_tokens - length, case.left // max(1, count * len(going)))
            if not going or step < 1:
                break
            found = yield [Ask(each, count, step, self.temperature, keep=True) for each in going]
            length += step
            best = self._best(case, [each for each in beam if each.ended] + [x for own in found for x in own], width)
            for each in (*going, *(x for own in found for x in own)):
                if each not in best and each is not case.root:
                    each.release()
            beam = best
        case.replies = [branch for branch in beam if branch.ended] or beam
        return max(case.replies, key=case.scorer)

    def _best(self, case: Case, branches: list[Branch], width: int) -> list[Branch]:
        """The `width` best of those that differ."""
        different = {
            (branch.tokens, branch.ended): branch for branch in reversed(branches)
        }  # of equal ones the first stays
        return sorted(different.values(), key=case.scorer, reverse=True)[:width]
