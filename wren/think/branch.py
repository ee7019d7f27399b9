"""A reply on its way, and what is asked of a model that is to go on with it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from wren.generate.prefix import Prefix


@dataclass(frozen=True, eq=False)
class Branch:
    """tokens: of the reply so far, without the stop. logprobs: the model's own, of every token that it drew, the stop
    too. ended: the model said that this is all.

    parent: what it went on from. prefix: where it can be gone on from without reading, None = it has to be read.
    """

    tokens: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    ended: bool = False
    parent: Branch | None = field(default=None, repr=False)
    prefix: Prefix | None = field(default=None, repr=False)

    @property
    def mean_logprob(self) -> float:
        """The model's own of a token of it, in nats; 0 for an empty reply."""
        return sum(self.logprobs) / len(self.logprobs) if self.logprobs else 0.0

    def with_text(self, tokens: list[int]) -> Branch:
        """Gone on with tokens that the model did not draw."""
        return Branch((*self.tokens, *tokens), self.logprobs, False, self)

    def kept(self) -> Prefix | None:
        """The longest beginning that need not be read again."""
        return next((p for each in self.line() if (p := each.prefix) is not None and not p.released), None)

    def line(self) -> Iterator[Branch]:
        """Itself, its parent, ... back to the empty reply."""
        branch: Branch | None = self
        while branch is not None:
            yield branch
            branch = branch.parent

    def release(self) -> None:
        """Gives up its memory: nothing will go on from here."""
        if self.prefix is not None:
            self.prefix.release()


class Ask(NamedTuple):
    """n ways to go on with a branch by at most max_tokens each. keep: they will be gone on with
    themselves; keep_ended: those that the model ended too.
    """

    branch: Branch
    n: int
    max_tokens: int
    temperature: float
    keep: bool = False
    keep_ended: bool = False

    @property
    def most(self) -> int:
        """Tokens that may be generated for it."""
        return self.n * self.max_tokens
