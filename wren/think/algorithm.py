"""The contract of an algorithm, and what several of them do: sampling whole replies, counting votes.

An algorithm is a generator: it yields what it asks of the model, is sent the branches, and returns the reply it chose.
It never sees the model, so that one engine serves many problems at once.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Sequence
from fractions import Fraction
from typing import NamedTuple

from wren.errors import ConfigError
from wren.think.branch import Ask, Branch
from wren.think.case import Case

Steps = Generator[list[Ask], list[list[Branch]], Branch]
Samples = Generator[list[Ask], list[list[Branch]], None]


class Algorithm(ABC):
    """Adding one is adding a file to wren/think/algorithms."""

    @abstractmethod
    def solve(self, case: Case) -> Steps:
        """Answers one problem; never asks for more tokens than case.left.

        A function of the case and of what it is sent: randomness comes from seeds that follow from the case's.
        """

    @property
    def needs_verifier(self) -> bool:
        """Whether it cannot choose without one."""
        return False


def positive(where: str, value: float, least: float = 0.0) -> None:
    """Raises ConfigError for a setting that is not above `least`."""
    if not least < value < math.inf:
        raise ConfigError(f"{where} is {value:g}; it must be above {least:g}.")


def sampled(
    case: Case, temperature: float, *, most: Callable[[], int] = lambda: 1 << 30, alone: Callable[[], bool] = bool
) -> Samples:
    """Adds whole replies to the case until its budget is spent. most: how many at once at most; alone: stop now."""
    while not alone() and (count := min(case.affordable(), most())) > 0:
        [found] = yield [case.whole(count, temperature)]
        case.replies += found


def usable(case: Case) -> list[Branch]:
    """The replies that came to their end; all of them where none did."""
    return [reply for reply in case.replies if reply.ended] or case.replies


class Vote(NamedTuple):
    """An answer, the weight of the replies that give it, and the first of them."""

    key: str | Fraction
    weight: float
    reply: Branch


def votes(case: Case, replies: Sequence[Branch], weights: Sequence[float] | None = None) -> list[Vote]:
    """Every answer with its weight, the heaviest first, of equal ones the one that was given first."""
    found: dict[str | Fraction, Vote] = {}
    for reply, weight in zip(replies, weights or [1.0] * len(replies), strict=True):
        key = case.key(reply)
        old = found.get(key, Vote(key, 0.0, reply))
        found[key] = old._replace(weight=old.weight + weight)
    return sorted(found.values(), key=lambda vote: -vote.weight)
