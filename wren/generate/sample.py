"""One sample on its way, and the handle of a request that it belongs to."""

from dataclasses import dataclass, field
from typing import NamedTuple

from wren.generate.settings import Completion, Drawn, Finish, Request, Row, row_seed


class Event(NamedTuple):
    """What happened to sample number `sample` of a request: a token was drawn, or it ended, or both.

    drawn: None where it ended without one; the stop token where finish is "stop".
    """

    handle: "Handle"
    sample: int
    drawn: Drawn | None
    finish: Finish | None


class Sample:
    """length: tokens in its state. need: the longest that its row may become."""

    def __init__(self, handle: "Handle", index: int, length: int, need: int):
        self.handle, self.index, self.length, self.need = handle, index, length, need
        self.completion = Completion()
        self.tokens: list[int] = []
        self.row = Row(handle.request, row_seed(handle.request.sampling.seed, index), self.tokens)

    @property
    def request(self) -> Request:
        return self.handle.request

    @property
    def last(self) -> int:
        return self.tokens[-1]

    @property
    def done(self) -> bool:
        return self.completion.finish is not None

    def take(self, drawn: Drawn) -> Event:
        """Counts a token."""
        completion = self.completion
        if drawn.token in self.request.stop_ids:
            completion.ended_by, completion.finish = drawn, "stop"
        else:
            completion.drawn.append(drawn)
            self.tokens.append(drawn.token)
            if len(self.tokens) == self.request.sampling.max_tokens:
                completion.finish = "length"
        return Event(self.handle, self.index, drawn, completion.finish)

    def end(self, finish: Finish) -> Event:
        self.completion.finish = finish
        return Event(self.handle, self.index, None, finish)


@dataclass(eq=False)
class Handle:
    """A request that was submitted. completions: one a sample, complete when `done`; until then as far as they are."""

    request: Request
    number: int
    samples: list[Sample] = field(default_factory=list, repr=False)

    @property
    def completions(self) -> list[Completion]:
        return [sample.completion for sample in self.samples]

    @property
    def done(self) -> bool:
        return all(sample.done for sample in self.samples)
