"""Texts that are learned for one answer each: chunk by chunk between the steps of an engine, which then decodes with
their adapters beside rows without any.

    lessons = Lessons(model, engine.model, precision, config)
    lesson = lessons.add(tokens, lr=3e-3)
    while lesson.learned is None: lessons.advance()
    engine.submit(Request(prompt=tokens, adapter=lesson.adapter))
    lessons.drop(lesson)

An adapter belongs to one lesson, begins as no change, and is taken back to that when the lesson is dropped. Its tensors
are on two models where the engine decodes with a copy in another number format: it learns on the model's own weights.
States that were computed under an adapter belong to its lesson alone; `Request.keep` and prefixes are not for it.

N tokens of a text.
"""

import math
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor

from wren.adapt.documents import LR
from wren.adapt.learner import Learner, adapting
from wren.adapt.stream import Read, StreamConfig, steps
from wren.adapt.windows import Scorer, Windows, window
from wren.adapters.adapter import AdapterConfig
from wren.adapters.rows import Adapters
from wren.errors import DataError
from wren.model import LM
from wren.precision import Precision

MOST = 8  # adapters at once; lessons beyond them wait
CHUNK, RANK = 32, 16
_SEEN = 512  # tokens of a window at most: each chunk goes through its context anew


def lesson_config(context_len: int) -> StreamConfig:
    """Of every lesson on a model that sees so many tokens, but for its learning rate."""
    context = max(0, min(context_len, _SEEN) - CHUNK)
    return StreamConfig(lr=LR, rank=RANK, windows=Windows(chunk=CHUNK, context=context))


class Learned(NamedTuple):
    """tokens: that were gone through, the first not counted. steps: that the adapter took. trusted: the gate's verdict;
    without it the answer is the plain model's. rollbacks: how often the adapter left the finite numbers and was taken
    back to its beginning. before, after: nats a token of the text without the adapter, and with it where the gate
    trusted it, each chunk scored before it was learned."""

    tokens: int
    steps: int
    trusted: bool
    rollbacks: int
    before: float
    after: float


@dataclass(eq=False)
class Lesson:
    """text_N: what is learned. learned: None until it is."""

    text_N: Tensor = field(repr=False)
    lr: float
    learner: Learner | None = field(default=None, repr=False)
    learned: Learned | None = None
    reads: Iterator[list[Read]] = field(default=iter(()), repr=False)
    last: Read | None = field(default=None, repr=False)

    @property
    def adapter(self) -> int:
        """Its number, to answer with; 0 = none, where the gate does not trust it or nothing is learned yet."""
        trusted = self.learner is not None and self.learned is not None and self.learned.trusted
        return self.learner.number if trusted and self.learner is not None else 0


class Lessons:
    """model: with weights that can be differentiated through; decoding: the engine's, which may be the same.

    config: of every lesson but for its learning rate; it must have a gate. One thread uses them.
    """

    def __init__(self, model: LM, decoding: LM, precision: Precision, config: StreamConfig, *, most: int = MOST):
        self.precision, self.config, self.most = precision, config, most
        self._open = ExitStack()
        self.adapters = self._open.enter_context(adapting(model))
        self._decoding: Adapters | None = None
        if decoding is not model:
            self._decoding = Adapters(decoding)
            self._open.callback(self._decoding.close)
        self._free: list[Learner] = []
        self._made = 0
        self._waiting: deque[Lesson] = deque()
        self._going: deque[Lesson] = deque()  # who is next stands first

    @property
    def busy(self) -> bool:
        """Whether `advance` has anything to do now."""
        return bool(self._going or (self._waiting and self._has_room))

    @property
    def in_use(self) -> int:
        """Adapters that learn or are answered with."""
        return self._made - len(self._free)

    def add(self, tokens: Sequence[int], lr: float) -> Lesson:
        """The lesson begins once an adapter is free. Raises DataError for a text without a token to predict."""
        if len(tokens) < 2:
            raise DataError("The text is empty: there is nothing to learn from in it.")
        lesson = Lesson(torch.tensor(tokens), lr)
        self._waiting.append(lesson)
        return lesson

    def advance(self) -> Lesson | None:
        """Goes through one chunk of the lesson whose turn it is; the lesson, where that was its last chunk."""
        while self._waiting and self._has_room:
            self._begin(self._waiting.popleft())
        if not self._going:
            return None
        lesson = self._going.popleft()
        reads = next(lesson.reads, None)
        if reads is not None:
            lesson.last = reads[0]
            self._going.append(lesson)
            return None
        lesson.learned = self._end(lesson)
        return lesson

    def drop(self, lesson: Lesson) -> None:
        """Ends it, wherever it stands; its adapter is as it began, and free for another. A second time is no harm."""
        for several in (self._waiting, self._going):
            if lesson in several:
                several.remove(lesson)
        learner, lesson.learner, lesson.reads = lesson.learner, None, iter(())
        if learner is not None:
            learner.reset()
            self._free.append(learner)

    def close(self) -> None:
        """Takes all adapters off the models."""
        self._waiting.clear()
        self._going.clear()
        self._open.close()

    @property
    def _has_room(self) -> bool:
        return bool(self._free) or self._made < self.most

    def _begin(self, lesson: Lesson) -> None:
        lesson.learner = self._free.pop() if self._free else self._new()
        config = replace(self.config, lr=lesson.lr)
        lesson.reads = steps(self.adapters, [lesson.text_N], [lesson.learner], config, self.precision)
        self._going.append(lesson)

    def _new(self) -> Learner:
        """All of them begin alike, so that an answer does not depend on which one is free."""
        generator = torch.Generator().manual_seed(0)
        learner = Learner(self.adapters, AdapterConfig(rank=self.config.rank), self.config.lr, generator)
        if self._decoding is not None and self._decoding.add(learner.adapter) != learner.number:
            raise RuntimeError("an adapter has two numbers")
        self._made += 1
        return learner

    def _end(self, lesson: Lesson) -> Learned:
        """What was learned; an adapter that its last step spoiled, which no chunk has shown yet, is taken back."""
        read, learner = lesson.last, lesson.learner
        assert read is not None
        assert learner is not None
        spoiled = read.trusted and not math.isfinite(self._score_end(lesson.text_N, learner))
        if spoiled:
            learner.roll_back()
        tokens = len(read.nats_N)
        before, after = read.plain / tokens, float(read.nats_N.sum()) / tokens
        trusted, rollbacks = read.trusted and not spoiled, read.rollbacks + spoiled
        return Learned(tokens, read.learned, trusted, rollbacks, before, after)

    @torch.no_grad()
    def _score_end(self, text_N: Tensor, learner: Learner) -> float:
        """Nats of the last chunk with the adapter as it is now."""
        windows = replace(self.config.windows, past="recompute")
        start = 1 + (len(text_N) - 2) // windows.chunk * windows.chunk
        end = window([text_N], start, windows, replay=False)
        with self.adapters.rows(learner.number):
            return float(Scorer(self.adapters.model, windows, self.precision)(end, anew=True).sum())
