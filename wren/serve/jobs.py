"""What passes between asyncio and the thread of the engine: a job with its asks, and what the job says."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from wren.adapt.lessons import Learned, Lesson
from wren.generate import Handle, Request
from wren.serve.adapting import Adapting
from wren.serve.errors import ApiError
from wren.serve.prefixes import Kept
from wren.serve.rows import Delta, Row
from wren.serve.thinking import Thinking
from wren.think.thought import Thought
from wren.tokenizer.chat import Chat


@dataclass(frozen=True, kw_only=True)
class Talk:
    """What is needed to keep the state of a conversation. prompt: up to the token that starts the answer, which what
    is forced follows. exact: a seed was asked for, so that the same request must give the same text."""

    chat: Chat
    prompt: tuple[int, ...]
    forced: tuple[int, ...] = ()
    exact: bool = False


@dataclass(frozen=True, kw_only=True)
class Ask:
    """One prompt: a request for the engine, and the row that reads each of its samples. adapting: what is learned
    before. thinking: the request is not made as it is, but an algorithm answers it."""

    request: Request
    rows: Sequence[Row]
    talk: Talk | None = None
    adapting: Adapting | None = None
    thinking: Thinking | None = None


class Started(NamedTuple):
    """The engine has taken the job."""


class Taught(NamedTuple):
    """An adapter has learned for this job, before its first token."""

    learned: Learned


class Ended(NamedTuple):
    """The job is complete, in tokens."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int


Said = Started | Taught | Delta | Ended | ApiError


@dataclass(eq=False)
class Job:
    """Several prompts that are answered together. inbox: what it says; an ApiError is the last thing that comes."""

    asks: Sequence[Ask]
    inbox: "asyncio.Queue[Said]" = field(default_factory=asyncio.Queue)
    handles: list[Handle] = field(default_factory=list)
    lessons: list[Lesson] = field(default_factory=list)
    thoughts: list[Thought] = field(default_factory=list)
    kept: list[Kept] = field(default_factory=list)
    cached: int = 0
    submitted: float = 0.0
    last: float | None = None  # when it said something last
    over: bool = False


class Stats(NamedTuple):
    """Of the engine after its last step."""

    rows: int = 0
    waiting: int = 0
    state_bytes: int = 0
    max_state_bytes: int = 0
    kept: int = 0
    kept_bytes: int = 0
    adapters: int = 0
