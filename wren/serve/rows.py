"""From a sample's tokens to what a client is told: pieces of text, their tokens, and calls of tools."""

import codecs
from collections.abc import Sequence
from typing import Literal, NamedTuple

from wren.generate import Drawn, Event, Pieces
from wren.tokenizer import Tokenizer
from wren.tokenizer.chat import Chat

Reason = Literal["stop", "length", "tool_calls"]


class Told(NamedTuple):
    """A token with its place: offset counts the characters of text before it. logprob None: nothing predicts it."""

    token: int
    logprob: float | None
    top: tuple[tuple[int, float], ...]
    offset: int


class Delta(NamedTuple):
    """What is new of choice number `choice`. calls: whole calls of tools, as JSON texts. finish: it has ended."""

    choice: int
    text: str = ""
    tokens: tuple[Told, ...] = ()
    calls: tuple[str, ...] = ()
    finish: Reason | None = None


class Row:
    """Reads one sample's events.

    stop: strings that end the text and are not part of it. chat: calls of tools are told apart from text. written:
    tokens of a call that the prompt has begun already, None = it has not. echo: the prompt, which stands before the
    text, and how many of its tokens are not shown. silent: nothing but the echo is asked for.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        choice: int,
        stop: Sequence[str] = (),
        *,
        chat: Chat | None = None,
        written: Sequence[int] | None = None,
        echo: tuple[Sequence[int], int] | None = None,
        silent: bool = False,
    ):
        self.tokenizer, self.choice, self.chat, self.silent = tokenizer, choice, chat, silent
        self.finish: Reason | None = None
        self._pieces = Pieces(stop)
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._call = None if written is None else list(written)
        self._calls = 0
        self._echo = echo
        self._held: list[Told] = []  # their text, or a part of it, is held back
        self._decoded = 0  # characters so far
        self._told = 0

    @property
    def stopped(self) -> bool:
        """Whether a stop string has ended it before the engine did."""
        return self._pieces.stopped is not None

    def push(self, event: Event) -> Delta | None:
        """What there is to tell; None where there is nothing yet."""
        if self.finish is not None:
            return None
        text, tokens, calls = self._echoed(event)
        if event.drawn is not None and event.finish != "stop" and not self.silent:
            more, done = self._read(event.drawn)
            text, calls = text + more, calls + done
        if event.finish is not None and not self.stopped:
            more, done = self._closed()
            text, calls = text + more + self._pieces.finish(), calls + done
        self._calls += len(calls)
        if self.stopped or event.finish in ("stop", "length"):
            cut = event.finish == "length" and not self.stopped
            self.finish = "length" if cut or self.silent else "stop"
            if self._calls and self.finish == "stop":
                self.finish = "tool_calls"
        tokens += self._released(text)
        if not (text or tokens or calls or self.finish):
            return None
        return Delta(self.choice, text, tokens, calls, self.finish)

    def _echoed(self, event: Event) -> tuple[str, tuple[Told, ...], tuple[str, ...]]:
        """The prompt, once."""
        if self._echo is None:
            return "", (), ()
        (prompt, hidden), self._echo = self._echo, None
        found = event.handle.completions[event.sample]
        values, tops = found.prompt_logprobs or [], found.prompt_top or []
        told = []
        for i, token in enumerate(prompt):
            offset = self._decoded
            piece = self._decoder.decode(self.tokenizer.decode_bytes([token]), final=i == len(prompt) - 1)
            self._decoded += len(piece)
            if i >= hidden and values:
                told.append(Told(token, values[i], tops[i], offset))
        self._decoder.reset()
        self._told = self._decoded
        return self.tokenizer.decode(prompt), tuple(told), ()

    def _read(self, drawn: Drawn) -> tuple[str, tuple[str, ...]]:
        if self.chat is not None and drawn.token == self.chat.call_id:
            text, calls = self._closed()
            self._call = []
            return text + self._flushed(), calls
        if self._call is not None:
            self._call.append(drawn.token)
            return "", ()
        self._held.append(Told(drawn.token, drawn.logprob, drawn.top, self._decoded))
        return self._pushed(self._decoder.decode(self.tokenizer.decode_bytes([drawn.token]))), ()

    def _pushed(self, piece: str) -> str:
        self._decoded += len(piece)
        return self._pieces.push_text(piece)

    def _flushed(self) -> str:
        """What is left of a character that never came to its end."""
        piece = self._pushed(self._decoder.decode(b"", final=True))
        self._decoder.reset()
        return piece

    def _closed(self) -> tuple[str, tuple[str, ...]]:
        """The call that is being written, as a call, or as text where it is none."""
        if self._call is None or self.chat is None:
            return self._flushed(), ()
        said, self._call = self.chat.reply([self.chat.call_id, *self._call]), None
        return self._pushed(said.content), said.calls

    def _released(self, text: str) -> tuple[Told, ...]:
        """The tokens whose text is told with this piece; those behind a stop string never are."""
        if not text and self.finish is None:
            return ()
        held, self._held = self._held, []
        if self.stopped:
            end = self._told + len(text)
            held = [each for each in held if each.offset < end]
        self._told += len(text)
        return tuple(held)
