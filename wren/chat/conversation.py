"""A conversation whose state is carried over turns: what the model has read or said once, it never reads again.

    talk = Conversation(engine, Chat(tokenizer), context_len=1024)
    talk.say(Message("user", "Hello!"))
    reply = talk.answer(Sampling(), hear=lambda piece: print(piece, end=""))

Every answer leaves a Prefix, with which the next one goes on; that holds for every mixer and every hybrid, since a
prefix is the engine's. What was said is kept as the tokens that were drawn: its text might be encoded in others.

When the context is full, the oldest exchanges are forgotten, down to half of it, so that this is rare; a state cannot
lose its beginning, so what is left is then read once more.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, Protocol

import torch

from wren.errors import ConfigError, DataError
from wren.generate import Completion, Engine, Finish, Handle, Pieces, Prefix, Request, Sampling, row_seed
from wren.tokenizer.chat import Chat, Message

_WORTH_KEEPING = 32  # tokens of a system turn; a shorter one is read anew where it is needed


class Turn(NamedTuple):
    """A message and the tokens that it is in the conversation."""

    message: Message
    tokens: tuple[int, ...]


class Reply(NamedTuple):
    """message: what the assistant said. calls: of tools, each as it was written, right or wrong. finish: "length" at
    the limit of tokens, "cancelled" where it was stopped before its first token."""

    message: Message
    calls: tuple[str, ...]
    finish: Finish

    @property
    def empty(self) -> bool:
        return not self.message.content.strip() and not self.calls


def _silent(text: str) -> None:
    pass


class Learning(Protocol):
    """Learns a conversation before it is answered."""

    def learn(self, tokens: Sequence[int], stopping: Callable[[], bool]) -> tuple[int, str]:
        """The number of an adapter of the engine's to answer with, 0 = none, and a sentence for the user, or none."""
        ...

    def drop(self) -> None:
        """The answer is there; the adapter must not be used again."""
        ...


class Conversation:
    """Turns so far, and the model's state after them. It has the engine to itself while it answers.

    context_len: the longest that the conversation may be, in tokens. tools: descriptions that the system turn lists.
    notice: is told what the user should know. num_read: tokens of prompts that the model has read, in all.
    learning: is asked before every answer; an answer with an adapter reads the whole conversation anew, since no
    state of the plain model fits it.
    """

    def __init__(
        self,
        engine: Engine,
        chat: Chat,
        *,
        context_len: int,
        system: str = "",
        tools: Sequence[Any] = (),
        notice: Callable[[str], None] = _silent,
        learning: Learning | None = None,
    ):
        limit = engine.model.config.learned_positions
        if context_len < 2 or (limit is not None and context_len > limit):
            most = "" if limit is None else f" and at most {limit}, the positions that this model knows"
            raise ConfigError(f"The context is {context_len} tokens; it must be at least 2{most}.")
        self.engine, self.chat, self.context_len, self.notice = engine, chat, context_len, notice
        self.learning = learning
        self.turns: list[Turn] = []
        self.num_read = 0
        self._stops = frozenset(chat.tokenizer.special.values()) - {chat.call_id}
        self._answers = 0
        self._head_prefix: Prefix | None = None
        self._prefix: Prefix | None = None
        self.system, self.tools = system, tuple(tools)
        self._head = self._head_tokens()

    def reset(self, *, system: str | None = None, tools: Sequence[Any] | None = None) -> None:
        """Forgets every turn; what the system turn says stays unless it is given anew."""
        self.turns = []
        self._let_go(self._prefix)
        self._prefix = None
        self.system = self.system if system is None else system
        self.tools = self.tools if tools is None else tuple(tools)
        head = self._head_tokens()
        if head != self._head:
            self._let_go(self._head_prefix)
            self._head, self._head_prefix = head, None

    def messages(self) -> list[Message]:
        """All turns; the system's first, where there is one."""
        system = [Message("system", self.system)] if self.system.strip() else []
        return system + [turn.message for turn in self.turns]

    def tokens(self) -> tuple[int, ...]:
        """The whole conversation."""
        return (*self._head, *(token for turn in self.turns for token in turn.tokens))

    def say(self, message: Message) -> Turn:
        """Adds a turn of the user or of a tool; it is read with the next answer."""
        turn = Turn(message, tuple(self.chat.turn(message)))
        self.turns.append(turn)
        return turn

    def withdraw(self, first: Turn) -> None:
        """Takes back a turn and all after it, where it is not forgotten already."""
        for number, turn in enumerate(self.turns):
            if turn is first:
                del self.turns[number:]
                return

    def answer(
        self,
        sampling: Sampling,
        hear: Callable[[str], None] = _silent,
        stopping: Callable[[], bool] = lambda: False,
    ) -> Reply:
        """The assistant's next turn, which joins the conversation unless it is empty.

        hear: takes its text in pieces, without calls of tools. stopping: asked before every token; once it says so, the
        turn ends there, and the conversation goes on from it. Raises DataError where the last exchange is longer than
        the context, ConfigError where memory does not suffice.
        """
        self._forget_for(sampling.max_tokens)
        whole = (*self.tokens(), self.chat.assistant_id)
        room = min(sampling.max_tokens, self.context_len - len(whole))
        own = replace(sampling, max_tokens=room, min_tokens=0, seed=row_seed(sampling.seed, self._answers))
        self._answers += 1
        with self._learned(whole, stopping) as adapter:
            prefix = None if adapter else self._longest_prefix(whole)
            fed = whole[0 if prefix is None else len(prefix.tokens) :]
            request = Request(
                prompt=fed, sampling=own, stop_ids=self._stops, prefix=prefix, keep=not adapter,
                mask=self._mask(stopping), adapter=adapter,
            )  # fmt: skip
            completion = self._drawn(request, hear, stopping)
        self.num_read += len(fed)
        return self._taken(completion)

    @contextlib.contextmanager
    def _learned(self, tokens: Sequence[int], stopping: Callable[[], bool]) -> Iterator[int]:
        """The adapter to answer with, 0 = none; it is dropped at the end, whatever happens."""
        if self.learning is None:
            yield 0
            return
        try:
            adapter, sentence = self.learning.learn(tokens, stopping)
            if sentence:
                self.notice(sentence)
            yield adapter
        finally:
            self.learning.drop()

    def _drawn(self, request: Request, hear: Callable[[str], None], stopping: Callable[[], bool]) -> Completion:
        handle, speaker = self.engine.submit(request), _Speaker(self.chat, hear)
        completion = handle.completions[0]
        try:
            while not handle.done:
                if stopping() and not completion.drawn:
                    break
                self._step(handle, speaker)
        finally:
            self.engine.cancel(handle)
        if completion.error is not None:
            raise completion.error
        speaker.finish()
        return completion

    def _step(self, handle: Handle, speaker: "_Speaker") -> None:
        for event in self.engine.step():
            if event.handle is handle and event.drawn is not None and event.finish != "stop":
                speaker.push(event.drawn.token)

    def _taken(self, completion: Completion) -> Reply:
        """The answer as a turn, and its prefix in the place of the one before."""
        message, calls = self.chat.reply(completion.tokens), raw_calls(self.chat, completion.tokens)
        reply = Reply(message, calls, completion.finish or "cancelled")
        if reply.empty:
            self._let_go(completion.prefix)
            return reply
        tokens = (self.chat.assistant_id, *completion.tokens, self.chat.end_id)
        self.turns.append(Turn(message, tokens))
        if completion.prefix is not None:
            self._let_go(self._prefix)
            self._prefix = completion.prefix
        return reply

    def _mask(self, stopping: Callable[[], bool]) -> Callable[[Sequence[int]], torch.Tensor | None]:
        """Lets nothing but the end of the turn be drawn once it is to stop, so that the state stays whole."""
        only_end_V = torch.zeros(self.engine.drawable, dtype=torch.bool)
        only_end_V[self.chat.end_id] = True
        return lambda tokens: only_end_V if stopping() else None

    # the context

    def _head_tokens(self) -> tuple[int, ...]:
        system = [Message("system", self.system)] if self.system.strip() else []
        return tuple(self.chat.encode(system, self.tools).tokens)

    def _longest_prefix(self, whole: tuple[int, ...]) -> Prefix | None:
        """The state to go on from; where the system turn is long, its own is kept for conversations to come."""
        if self._goes_on(self._prefix, whole):
            return self._prefix
        self._let_go(self._prefix)
        self._prefix = None
        if len(self._head) >= _WORTH_KEEPING and self._head_prefix is None:
            self._head_prefix = self.engine.prefix(self._head)
            self.num_read += len(self._head)
        return self._head_prefix

    @staticmethod
    def _goes_on(prefix: Prefix | None, whole: tuple[int, ...]) -> bool:
        return prefix is not None and not prefix.released and whole[: len(prefix.tokens)] == prefix.tokens

    @staticmethod
    def _let_go(prefix: Prefix | None) -> None:
        if prefix is not None:
            prefix.release()

    def _forget_for(self, max_tokens: int) -> None:
        """Drops the oldest exchanges where the next answer would have no room; raises DataError where that is vain."""
        wanted = min(max_tokens, max(1, self.context_len // 4))
        length = len(self.tokens()) + 1
        dropped = 0
        if length + wanted > self.context_len:
            starts = [number for number, turn in enumerate(self.turns) if turn.message.role == "user"]
            for start in starts[1:]:
                length -= sum(len(turn.tokens) for turn in self.turns[dropped:start])
                dropped = start
                if length + wanted <= self.context_len // 2:
                    break
        if length >= self.context_len:
            raise DataError(
                f"The system turn and the last exchange are {length:,} tokens, more than the context of "
                f"{self.context_len:,} has room for; write less, or start with a larger --context."
            )
        if dropped:
            del self.turns[:dropped]
            self.notice(
                f"The context of {self.context_len:,} tokens is full: the first {dropped} turns are forgotten, "
                "and the rest is read again."
            )


class _Speaker:
    """Tokens to pieces of text; what is inside a call of a tool is not told."""

    def __init__(self, chat: Chat, hear: Callable[[str], None]):
        self.chat, self.hear, self.pieces, self.calls = chat, hear, Pieces(), False

    def push(self, token: int) -> None:
        self.calls = self.calls or token == self.chat.call_id
        if not self.calls:
            self._tell(self.pieces.push(self.chat.tokenizer.decode_bytes([token])))

    def finish(self) -> None:
        self._tell(self.pieces.finish())

    def _tell(self, piece: str) -> None:
        if piece:
            self.hear(piece)


def raw_calls(chat: Chat, tokens: Sequence[int]) -> tuple[str, ...]:
    """The calls of tools in an assistant's turn, each as it was written, whether it can be read or not."""
    calls: list[list[int]] = []
    for token in tokens:
        if token == chat.end_id:
            break
        if token == chat.call_id:
            calls.append([])
        elif calls:
            calls[-1].append(token)
    return tuple(chat.tokenizer.decode(call) for call in calls)
