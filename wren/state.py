"""What an LM remembers of each row.

B batch.
"""

from collections.abc import Callable
from typing import Self

from torch import Tensor

from wren.block import NearState
from wren.cache import SlotState
from wren.errors import ConfigError
from wren.mixer import State, advance
from wren.tables import RecentState


class LMState:
    """A State per mixer call, and where the model has them the short convolutions' inputs and the last tokens.

    layers, tails: in the order of the calls, so a looped block has several. longest: no row has seen more tokens;
    known without asking the device.
    """

    def __init__(
        self,
        layers: list[State],
        lengths_B: Tensor,
        longest: int = 0,
        *,
        tails: list[NearState] | None = None,
        recent: RecentState | None = None,
    ):
        self.layers = layers
        self.tails = tails or []
        self.recent = recent
        self.lengths_B = lengths_B
        self.longest = longest

    def select(self, rows_B: Tensor) -> Self:
        """A copy of the given rows: repeats fork a sample, a permutation reorders beams."""
        return self._map(lambda state: state.select(rows_B), self.lengths_B[rows_B])

    def write(self, rows_B: Tensor, other: Self) -> None:
        """Puts the rows of `other` in place of `rows_B`: admits new rows into a running batch."""
        other.check(len(self.layers), bool(self.tails), self.recent is not None)
        for mine, theirs in zip(self.states(), other.states(), strict=True):
            mine.write(rows_B, theirs)
        self.lengths_B = self.lengths_B.index_copy(0, rows_B, other.lengths_B)
        self.longest = max(self.longest, other.longest)

    def detach(self) -> Self:
        return self._map(lambda state: state.detach(), self.lengths_B)

    def know_longest(self, length: int) -> None:
        """Told by one who counts the rows on the host: none is longer. Rows that were padded or left are forgotten."""
        self.longest = length
        for state in self.layers:
            if isinstance(state, SlotState):
                state.longest = length

    def size(self) -> int:
        """Bytes of all its tensors."""
        tensors = [self.lengths_B, *(x for state in self.states() for x in state.tensors().values())]
        return sum(x.numel() * x.element_size() for x in tensors)

    def states(self) -> list[State]:
        """All that it is made of."""
        return [*self.layers, *self.tails, *([] if self.recent is None else [self.recent])]

    def _map(self, change: Callable[[State], State], lengths_B: Tensor) -> Self:
        layers, tails = [change(layer) for layer in self.layers], [change(tail) for tail in self.tails]
        recent = None if self.recent is None else change(self.recent)
        return type(self)(layers, lengths_B, self.longest, tails=tails, recent=recent)  # type: ignore[arg-type]

    def check(self, calls: int, tails: bool, recent: bool) -> None:
        """Raises ConfigError unless this is the state of a model with so many mixer calls, such tails, such tokens."""
        if (len(self.layers), bool(self.tails), self.recent is not None) != (calls, tails, recent):
            raise ConfigError("The state belongs to another model; make it with this model's own new_state.")

    def advance(self, num_tokens: int, valid_B: Tensor | None, limit: int | None) -> None:
        """Counts the next tokens; raises ConfigError where a row would pass `limit`, the learned positions."""
        lengths_B = advance(self.lengths_B, num_tokens, valid_B)
        longest = self.longest + num_tokens
        if limit is not None and longest > limit:  # rows that were replaced or padded: ask
            longest = int(lengths_B.max())
            if longest > limit:
                raise ConfigError(f"A row of {longest} tokens is longer than the {limit} learned positions.")
        self.lengths_B, self.longest = lengths_B, longest
