"""What a client is told, as OpenAI's objects: whole answers, and the chunks of a stream."""

import json
import math
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any

from wren.adapt.lessons import Learned
from wren.serve.asking import Choices, Served
from wren.serve.jobs import Ended, Taught
from wren.serve.rows import Delta, Told
from wren.tokenizer import special
from wren.tokenizer.chat import Message

_LEAST = -9999.0  # JSON knows no infinity
Json = dict[str, Any]


class Writer(ABC):
    """One answer. include_usage: a stream ends with what it cost."""

    prefix: str
    kind: str
    chunk_kind: str

    def __init__(self, served: Served, model: str, fingerprint: str, choices: Choices, *, include_usage: bool = False):
        self.served, self.choices, self.include_usage = served, choices, include_usage
        self._learned: Json = {}
        self.about: Json = {
            "id": self.prefix + secrets.token_hex(12),
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": fingerprint,
        }

    @abstractmethod
    def opening(self) -> list[Json]:
        """Chunks before the first token."""

    @abstractmethod
    def nothing(self) -> Json:
        """A choice of a chunk that adds nothing."""

    @abstractmethod
    def chunks(self, delta: Delta) -> list[Json]: ...

    @abstractmethod
    def choice(self, index: int, deltas: Sequence[Delta]) -> Json:
        """A whole choice of an answer that is no stream."""

    def whole(self, deltas: Sequence[Delta], ended: Ended) -> Json:
        own: list[list[Delta]] = [[] for _ in range(self.choices.total)]
        for delta in deltas:
            own[delta.choice].append(delta)
        choices = [self.choice(i, each) for i, each in enumerate(own)]
        return {**self.about, "object": self.kind, "choices": choices, "usage": usage(ended), **self._learned}

    def taught(self, taught: Taught) -> list[Json]:
        """A chunk with what was learned, which a whole answer holds too."""
        self._learned = {"adapt": learned(taught.learned)}
        return [{**self._chunk([self.nothing()]), **self._learned}]

    def last(self, ended: Ended) -> list[Json]:
        """Chunks after all choices have ended."""
        return [{**self._chunk([]), "usage": usage(ended)}] if self.include_usage else []

    def _chunk(self, choices: list[Json]) -> Json:
        without = {"usage": None} if self.include_usage else {}
        return {**self.about, "object": self.chunk_kind, "choices": choices, **without}

    def name(self, token: int) -> str:
        """A token as a text: what is no whole character as OpenAI writes bytes, special tokens by their spelling."""
        data = self.served.tokenizer.decode_bytes([token])
        if not data:
            return self.served.tokenizer.spellings.get(token) or special.unused_spelling(token)
        try:
            return data.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def learned(found: Learned) -> Json:
    """As schema.Adaptation; a loss that is no finite number is null."""
    before, after = (value if math.isfinite(value) else None for value in (found.before, found.after))
    return {
        "tokens": found.tokens,
        "steps": found.steps,
        "trusted": found.trusted,
        "rolled_back": found.rollbacks,
        "loss_before": before,
        "loss_after": after,
    }


def usage(ended: Ended) -> Json:
    return {
        "prompt_tokens": ended.prompt_tokens,
        "completion_tokens": ended.completion_tokens,
        "total_tokens": ended.prompt_tokens + ended.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": ended.cached_tokens},
    }


class ChatWriter(Writer):
    prefix, kind, chunk_kind = "chatcmpl-", "chat.completion", "chat.completion.chunk"

    def opening(self) -> list[Json]:
        self._called = [0] * self.choices.total
        first = {"role": "assistant", "content": ""}
        return [self._chunk([_chat_part(i, first, None, None)]) for i in range(self.choices.total)]

    def nothing(self) -> Json:
        return _chat_part(0, {}, None, None)

    def chunks(self, delta: Delta) -> list[Json]:
        found = []
        told = self._logprobs(delta.tokens)
        if delta.text or (told and delta.tokens):
            found.append(_chat_part(delta.choice, {"content": delta.text}, told, None))
        if delta.calls:
            calls = [{"index": self._called[delta.choice] + i, **c} for i, c in enumerate(_calls(delta.calls))]
            self._called[delta.choice] += len(calls)
            found.append(_chat_part(delta.choice, {"tool_calls": calls}, None, None))
        if delta.finish is not None:
            found.append(_chat_part(delta.choice, {}, None, delta.finish))
        return [self._chunk([each]) for each in found]

    def choice(self, index: int, deltas: Sequence[Delta]) -> Json:
        text = "".join(delta.text for delta in deltas)
        calls = _calls([call for delta in deltas for call in delta.calls])
        message: Json = {"role": "assistant", "content": None if calls and not text else text, "refusal": None}
        if calls:
            message["tool_calls"] = calls
        told = self._logprobs([token for delta in deltas for token in delta.tokens])
        return {"index": index, "message": message, "logprobs": told, "finish_reason": deltas[-1].finish}

    def _logprobs(self, tokens: Sequence[Told]) -> Json | None:
        if self.choices.top is None:
            return None
        return {"content": [self._token(each) for each in tokens], "refusal": None}

    def _token(self, told: Told) -> Json:
        top = [self._one(token, logprob) for token, logprob in told.top]
        return {**self._one(told.token, told.logprob or 0.0), "top_logprobs": top}

    def _one(self, token: int, logprob: float) -> Json:
        data = self.served.tokenizer.decode_bytes([token])
        return {"token": self.name(token), "logprob": max(logprob, _LEAST), "bytes": list(data) or None}


def _chat_part(index: int, delta: Json, logprobs: Json | None, finish: str | None) -> Json:
    return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}


def _calls(calls: Sequence[str]) -> list[Json]:
    """Calls as OpenAI's clients read them; what a name calls and with what stays the text that the model wrote."""
    found = Message("assistant", "", tuple(calls)).as_dict().get("tool_calls", [])
    return [{"id": "call_" + secrets.token_hex(12), **call} for call in found]


class TextWriter(Writer):
    prefix, kind, chunk_kind = "cmpl-", "text_completion", "text_completion"

    def opening(self) -> list[Json]:
        return []

    def nothing(self) -> Json:
        return {"index": 0, "text": "", "logprobs": None, "finish_reason": None}

    def chunks(self, delta: Delta) -> list[Json]:
        return [self._chunk([self.choice(delta.choice, [delta])])]

    def choice(self, index: int, deltas: Sequence[Delta]) -> Json:
        text = "".join(delta.text for delta in deltas)
        told = self._logprobs([token for delta in deltas for token in delta.tokens])
        return {"index": index, "text": text, "logprobs": told, "finish_reason": deltas[-1].finish}

    def _logprobs(self, tokens: Sequence[Told]) -> Json | None:
        if self.choices.top is None:
            return None
        return {
            "tokens": [self.name(each.token) for each in tokens],
            "token_logprobs": [None if each.logprob is None else max(each.logprob, _LEAST) for each in tokens],
            "top_logprobs": [self._top(each) for each in tokens],
            "text_offset": [each.offset for each in tokens],
        }

    def _top(self, told: Told) -> dict[str, float] | None:
        """The likeliest tokens and the one that stands there, which may not be among them."""
        if told.logprob is None:
            return None
        pairs: Iterable[tuple[int, float]] = (*told.top, (told.token, told.logprob))
        return {self.name(token): max(logprob, _LEAST) for token, logprob in pairs}


def event(value: Json | str) -> bytes:
    """One server-sent event."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return b"data: " + text.encode(errors="replace") + b"\n\n"
