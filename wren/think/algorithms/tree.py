"""Monte Carlo tree search over pieces of the reply: UCT (Kocsis & Szepesvari 2006) with progressive widening.

A simulation goes down by mean reward + explore x sqrt(log visits of the parent / visits), makes a new child where a
node has fewer than visits^widen of them, and goes on piece by piece to the end of a reply, which the verifier scores.
Every piece stays a node and keeps its state, so that no token is computed twice. It ends with the first right reply.
With by=score the scorer judges instead: exp of it is the reward.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Literal

from wren.tasks.task import RIGHT
from wren.think.algorithm import Algorithm, Steps, positive
from wren.think.branch import Ask, Branch
from wren.think.case import Case


@dataclass(frozen=True, kw_only=True)
class Rules(Algorithm):
    """piece: tokens of one, 0 = a sixth of a reply. at_once: simulations beside each other."""

    by: Literal["verifier", "score"] = "verifier"
    piece: int = 0
    explore: float = 0.1
    widen: float = 0.5
    at_once: int = 4
    temperature: float = 1.0

    def __post_init__(self) -> None:
        for name in ("explore", "widen", "at_once", "temperature"):
            positive(f"tree.{name}", getattr(self, name))
        positive("tree.piece", self.piece, -1)

    @property
    def needs_verifier(self) -> bool:
        return self.by == "verifier"

    def solve(self, case: Case) -> Steps:
        root, best = _Node(case.root), (-math.inf, case.root)
        while not root.closed and best[0] < RIGHT and case.affordable():
            count = min(self.at_once, case.affordable(), max(1, len(case.replies)))
            tips = [self._down(root) for _ in range(count)]
            yield from self._to_the_end(case, tips, case.left // count)
            for tip in tips:
                reward = self._reward(case, tip.branch)
                case.replies.append(tip.branch)
                best = max(best, (reward, tip.branch), key=lambda each: each[0])
                tip.end(reward)
        return best[1]

    def _down(self, root: _Node) -> _Node:
        """The node from which a simulation goes on by a new child; what it passes counts as visited already."""
        node = root
        node.visits += 1
        while node.children and len(node.children) + node.asked >= max(1.0, node.visits**self.widen):
            open_ones = [child for child in node.children if not child.closed]
            if not open_ones:
                break
            node = max(open_ones, key=lambda child: child.promise(self.explore))
            node.visits += 1
        node.asked += 1
        return node

    def _to_the_end(self, case: Case, tips: list[_Node], room: int) -> Generator[list[Ask], list[list[Branch]], None]:
        """Replaces every tip by the end of its simulation; room: tokens of each."""
        piece, spent = self.piece or -(-case.max_tokens // 6), 0
        while spent < room:
            steps = {
                i: min(piece, room - spent, case.max_tokens - len(tip.branch.tokens))
                for i, tip in enumerate(tips)
                if not tip.branch.ended and len(tip.branch.tokens) < case.max_tokens
            }
            if not steps:
                return
            asks = [Ask(tips[i].branch, 1, step, self.temperature, keep=True) for i, step in steps.items()]
            for i, [branch] in zip(steps, (yield asks), strict=True):
                tips[i] = tips[i].child(branch)
            spent += piece

    def _reward(self, case: Case, branch: Branch) -> float:
        return case.verified(branch) if self.needs_verifier else math.exp(case.scorer(branch)) * (1 - 1e-9)


@dataclass(eq=False)
class _Node:
    """asked: children on their way. closed: nothing new can come of it."""

    branch: Branch
    parent: _Node | None = None
    children: list[_Node] = field(default_factory=list)
    visits: int = 0
    reward: float = 0.0
    asked: int = 0
    closed: bool = False

    def child(self, branch: Branch) -> _Node:
        """The node of a piece: one that was there already where the same was drawn again."""
        self.asked = max(0, self.asked - 1)
        for node in self.children:
            if (node.branch.tokens, node.branch.ended) == (branch.tokens, branch.ended):
                branch.release()
                break
        else:
            node = _Node(branch, self)
            self.children.append(node)
        node.visits += 1
        return node

    def promise(self, explore: float) -> float:
        assert self.parent is not None
        return self.reward / self.visits + explore * math.sqrt(math.log(1 + self.parent.visits) / self.visits)

    def end(self, reward: float) -> None:
        """A simulation ended here."""
        self.closed = True
        node: _Node | None = self
        while node is not None:
            node.reward += reward
            node = node.parent
