"""A conversation that is learned before each of its answers, for `wren chat --adapt`.

The whole of it is gone through anew each time, from an adapter that is no change, as a request with `adapt` does over
HTTP: so an answer depends on the conversation alone, and what was forgotten or taken back is not remembered.
"""

import math
from collections.abc import Callable, Sequence

from wren.adapt.documents import LR
from wren.adapt.lessons import Learned, Lesson, Lessons, lesson_config
from wren.generate import Engine
from wren.model import LM
from wren.precision import Precision


class Talk:
    """What a chat.Conversation asks before it answers. model: with weights that can be differentiated through."""

    def __init__(self, model: LM, engine: Engine, precision: Precision, context_len: int, lr: float = LR):
        self.lessons = Lessons(model, engine.model, precision, lesson_config(context_len), most=1)
        self.lr = lr
        self._lesson: Lesson | None = None

    def learn(self, tokens: Sequence[int], stopping: Callable[[], bool]) -> tuple[int, str]:
        """The number of an adapter to answer with, 0 = none, and a sentence on it, empty where nothing was tried."""
        self.drop()
        if len(tokens) < 2:
            return 0, ""
        lesson = self._lesson = self.lessons.add(tokens, self.lr)
        while lesson.learned is None:
            if stopping():
                self.drop()
                return 0, ""
            self.lessons.advance()
        return lesson.adapter, _said(lesson.learned)

    def drop(self) -> None:
        """Takes the adapter back to no change; a second time is no harm."""
        if self._lesson is not None:
            self.lessons.drop(self._lesson)
        self._lesson = None


def _said(learned: Learned) -> str:
    if not learned.steps:
        return ""
    if not learned.trusted:
        return f"(Learning these {learned.tokens} tokens would not have helped; answered without it.)"
    before, after = (nats / math.log(2) for nats in (learned.before, learned.after))
    return f"(Learned {learned.tokens} tokens: {before:.2f} -> {after:.2f} bits each.)"
