"""Rows that decode together: one state, into which rows are written and whose left rows are written over.

Rows of very different length go into different lanes, so that short ones neither keep nor read the slots of long ones.
R rows of the state, D model width.
"""

from collections.abc import Sequence

from torch import Tensor

from wren.generate.draw import Rules
from wren.generate.forward import Forward
from wren.generate.sample import Sample
from wren.state import LMState


class Lane:
    """rows: the sample in each row of the state, None where one has left. A lane without samples has no state."""

    def __init__(self, forward: Forward, drawable: int):
        self.forward, self.drawable = forward, drawable
        self.state: LMState | None = None
        self.rows: list[Sample | None] = []
        self.lengths: list[int] = []  # of every row, on the host
        self.max_len = 0
        self._rules: Rules | None = None

    @property
    def live(self) -> list[int]:
        return [i for i, sample in enumerate(self.rows) if sample is not None]

    def size(self) -> int:
        return 0 if self.state is None else self.state.size()

    def cost(self, count: int, max_len: int, free: int) -> tuple[int, int] | None:
        """(bytes, rows) of the state that has to be made so that so many more rows fit, at most `free`; None: too much.

        (0, rows) where the present one has room. A growing lane doubles, where that fits.
        """
        live, rows = len(self.live), len(self.rows)
        if self.state is not None and rows - live >= count and self.max_len >= max_len:
            return 0, rows
        each = self.forward.row_bytes(max(max_len, self.max_len))
        for wanted in (max(live + count, 2 * rows), live + count):
            if wanted * each <= free:
                return wanted * each, wanted
        return None

    def join(self, samples: Sequence[Sample], source: LMState, rows: Sequence[int], capacity: int) -> None:
        """Puts the rows of `source` in; afterwards `source` belongs to the lane where it was taken as it is."""
        max_len = max(self.max_len, *(sample.need for sample in samples))
        whole = list(rows) == list(range(len(source.lengths_B)))
        self._rules = None
        if self.state is None:
            self.state = source if whole else source.select(self.forward.index(rows))
            self.rows, self.lengths = list(samples), [sample.length for sample in samples]
            self.max_len = max_len
            return
        if capacity != len(self.rows) or max_len != self.max_len:
            self._remake(capacity, max_len)
        places = [i for i, sample in enumerate(self.rows) if sample is None][: len(samples)]
        joining = source if whole else source.select(self.forward.index(rows))
        self.state.write(self.forward.index(places), joining)
        for place, sample in zip(places, samples, strict=True):
            self.rows[place], self.lengths[place] = sample, sample.length
        self.state.know_longest(max(self.lengths))

    def _remake(self, capacity: int, max_len: int) -> None:
        """A state of another size with the rows that live."""
        live = self.live
        assert self.state is not None
        old = self.state if len(live) == len(self.rows) else self.state.select(self.forward.index(live))
        self.state = self.forward.new_state(capacity, max_len)
        self.state.write(self.forward.index(range(len(live))), old)
        empty = capacity - len(live)
        self.rows = [*(self.rows[i] for i in live), *[None] * empty]
        self.lengths = [*(self.lengths[i] for i in live), *[0] * empty]
        self.max_len = max_len

    def leave(self, sample: Sample) -> None:
        self.rows[self.rows.index(sample)] = None
        self._rules = None

    def tidy(self) -> None:
        """Gives up the state of an empty lane, and copies what is left of one that is half empty."""
        live = self.live
        if not live:
            self.state, self.rows, self.lengths, self.max_len = None, [], [], 0
        elif self.state is not None and 2 * len(live) <= len(self.rows):
            self.state = self.state.select(self.forward.index(live))
            self.rows, self.lengths = [self.rows[i] for i in live], [self.lengths[i] for i in live]
            self.state.know_longest(max(self.lengths))
            self._rules = None

    def step(self) -> tuple[list[Sample], Tensor, Rules]:
        """Reads every row's last token; the samples that live, their logits, and the rules to draw by."""
        assert self.state is not None
        self._empty_full_rows()
        tokens_R1 = self.forward.index([0 if sample is None else sample.last for sample in self.rows])[:, None]
        adapters = [0 if sample is None else sample.request.adapter for sample in self.rows]
        hidden_RD = self.forward.hidden(tokens_R1, self.state, adapters)[:, 0]
        self.lengths = [length + 1 for length in self.lengths]
        samples = [sample for sample in self.rows if sample is not None]
        if len(samples) < len(self.rows):
            hidden_RD = hidden_RD[self.forward.index(self.live)]
        for sample in samples:
            sample.length += 1
        if self._rules is None:
            self._rules = Rules([sample.row for sample in samples], self.forward.device, self.drawable)
        logits = self.forward.logits(hidden_RD, [sample.request.adapter for sample in samples])
        return samples, logits, self._rules

    def _empty_full_rows(self) -> None:
        """Rows that were left still count their tokens; before they pass the end they begin anew."""
        limit = self.max_len
        full = [i for i, sample in enumerate(self.rows) if sample is None and self.lengths[i] >= limit]
        if full and self.state is not None:
            self.state.write(self.forward.index(full), self.forward.new_state(len(full), 1))
            for i in full:
                self.lengths[i] = 0
            self.state.know_longest(max(self.lengths))

    def row_of(self, sample: Sample) -> LMState:
        """A copy of one row, no longer than it has to be."""
        assert self.state is not None
        return trimmed(self.forward, self.state, self.rows.index(sample), sample.length)


def trimmed(forward: Forward, state: LMState, row: int, length: int) -> LMState:
    """A copy of one row's state with room for what it holds."""
    copy = forward.new_state(1, max(1, length))
    copy.write(forward.index([0]), state.select(forward.index([row])))
    copy.know_longest(length)
    return copy
