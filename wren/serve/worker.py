"""The one thread that owns the engine: jobs come in through a queue, and what they say goes out to asyncio.

asyncio:  worker.submit(job) -> job.inbox: Started, Delta, ..., Delta, Ended     worker.cancel(job)
thread:   take what came in, one step of the engine, tell; sleep where there is nothing to do
"""

import asyncio
import dataclasses
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from wren.errors import ConfigError, WrenError
from wren.generate import Engine, Event, Handle, Request
from wren.precision import is_out_of_memory
from wren.serve.errors import ApiError
from wren.serve.metrics import Metrics
from wren.serve.prefixes import Kept, Prefixes
from wren.serve.rows import Delta, Row
from wren.serve.thinking import Thinking, fits, told
from wren.think.thought import Thought
from wren.tokenizer.chat import Chat

CACHE_SHARE = 4  # kept conversations take at most one part in so many of the memory for states

logger = logging.getLogger("wren.serve")


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
    """One prompt: a request for the engine, and the row that reads each of its samples. thinking: the request is not
    made as it is, but an algorithm answers it."""

    request: Request
    rows: Sequence[Row]
    talk: Talk | None = None
    thinking: Thinking | None = None


class Started(NamedTuple):
    """The engine has taken the job."""


class Ended(NamedTuple):
    """The job is complete, in tokens."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int


@dataclass(eq=False)
class Job:
    """Several prompts that are answered together. inbox: what it says; an ApiError is the last thing that comes."""

    asks: Sequence[Ask]
    inbox: "asyncio.Queue[Started | Delta | Ended | ApiError]" = field(default_factory=asyncio.Queue)
    handles: list[Handle] = field(default_factory=list)
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


class Worker:
    """make_engine: also makes a new one after a failure that may have left the old one in any state."""

    def __init__(self, make_engine: Callable[[], Engine], metrics: Metrics):
        self._make_engine, self.metrics = make_engine, metrics
        self.engine = make_engine()
        self.prefixes = Prefixes(self.engine.max_bytes // CACHE_SHARE)
        self.stats = Stats(max_state_bytes=self.engine.max_bytes)
        self._orders: queue.SimpleQueue[tuple[str, Job | None]] = queue.SimpleQueue()
        self._jobs: dict[Handle, tuple[Job, Ask]] = {}
        self._thoughts: dict[Thought, tuple[Job, Ask]] = {}
        self._out: list[tuple[Job, Started | Delta | Ended | ApiError]] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="wren-engine", daemon=True)

    # called by asyncio

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def submit(self, job: Job) -> None:
        job.submitted = time.monotonic()
        self._orders.put(("submit", job))

    def cancel(self, job: Job) -> None:
        """Frees its rows; what has ended stays as it is."""
        self._orders.put(("cancel", job))

    def end_all(self) -> None:
        """Every job that runs ends in an error now."""
        self._orders.put(("end", None))

    def close(self) -> None:
        """Ends the thread; returns when it has."""
        self._orders.put(("close", None))
        self._thread.join()

    # the thread

    def _run(self) -> None:
        while self._take():
            try:
                self._tell(self.engine.step())
                self._think()
            except Exception as error:  # noqa: BLE001  (who waits is told, and the server goes on)
                self._recover(error)
            self._flush()
        self._end_all(ApiError(503, "The server is shutting down.", code="shutting_down", retry_after=5))
        self._flush()

    def _take(self) -> bool:
        """Does what was ordered; waits while there is nothing else to do. False: the end."""
        while True:
            try:
                order, job = self._orders.get(block=not self.engine.busy)
            except queue.Empty:
                return True
            if order == "close":
                return False
            if order == "end":
                self._end_all(ApiError(503, "The server is shutting down.", code="shutting_down", retry_after=5))
            elif order == "cancel" and job is not None:
                self._cancel(job)
            elif job is not None:
                self._submit(job)
            self._flush()

    def _submit(self, job: Job) -> None:
        try:
            for ask in job.asks:
                if ask.thinking is not None:
                    self._begin(job, ask, ask.thinking)
                    continue
                handle = self.engine.submit(self._with_prefix(job, ask))
                job.handles.append(handle)
                self._jobs[handle] = (job, ask)
        except WrenError as error:
            self._end(job, ApiError(400, str(error), code="invalid_request"))
            return
        self._out.append((job, Started()))

    def _begin(self, job: Job, ask: Ask, thinking: Thinking) -> None:
        """Raises WrenError."""
        fits(self.engine, thinking.case, self.engine.max_bytes - self.prefixes.max_bytes)
        thought = thinking.begin(self.engine)
        job.thoughts.append(thought)
        self._thoughts[thought] = (job, ask)

    def _think(self) -> None:
        """Lets every thought go on whose branches are there, and tells what was chosen."""
        for thought, (job, ask) in list(self._thoughts.items()):
            try:
                thought.advance()
            except WrenError as error:
                self.metrics.count("failed_requests")
                self._end(job, ApiError(503, str(error), code="engine_error", retry_after=5))
                continue
            if not thought.done:
                continue
            now = time.monotonic()
            self._observe(job, now)
            self._out += [(job, delta) for delta in told(ask.rows[0], thought)]
            self._complete(job, now)

    def _with_prefix(self, job: Job, ask: Ask) -> Request:
        """The request behind the longest part of its conversation that is kept. Raises ConfigError."""
        request, talk = ask.request, ask.talk
        length = len(request.prompt) + request.sampling.max_tokens
        room = self.engine.max_bytes - self.prefixes.max_bytes
        if 2 * self.engine.forward.row_bytes(length) > room:  # so that kept states never stand in the way
            raise ConfigError(f"{length} tokens need more memory than the states may take here; ask for fewer.")
        kept = None if talk is None else self.prefixes.find(request.prompt, exact=talk.exact)
        if kept is None:
            return request
        job.kept.append(kept)
        job.cached += len(kept.key)
        return dataclasses.replace(request, prompt=request.prompt[len(kept.key) :], prefix=kept.prefix)

    def _cancel(self, job: Job) -> None:
        if job.over:
            return
        self._end(job, ApiError(499, "The client went away.", code="cancelled"))
        self.metrics.count("cancelled_requests")

    def _end(self, job: Job, last: Ended | ApiError) -> None:
        """Takes the job out of the engine, and says the last thing."""
        job.over = True
        for handle in job.handles:
            self.engine.cancel(handle)
            self._jobs.pop(handle, None)
        for thought in job.thoughts:
            thought.close()
            self._thoughts.pop(thought, None)
        self._read(job)
        self._out.append((job, last))

    def _end_all(self, error: ApiError) -> None:
        for job in self._running():
            self._end(job, error)

    def _running(self) -> list[Job]:
        every = (*self._jobs.values(), *self._thoughts.values())
        return list({id(job): job for job, _ in every}.values())

    def _read(self, job: Job) -> None:
        """The kept states that the job began with are no longer needed for it."""
        for kept in job.kept:
            self.prefixes.done(kept)
        job.kept.clear()

    def _recover(self, error: Exception) -> None:
        """After a step that failed: everything ends, and a new engine begins."""
        if is_out_of_memory(error):
            failure = ApiError(503, "The server ran out of memory; ask for less.", code="out_of_memory", retry_after=5)
        else:
            logger.exception("A step of the engine failed", exc_info=error)
            failure = ApiError(500, "The server failed inside; its log says why.", code="internal_error")
        jobs = self._running()
        self._jobs.clear()
        self._thoughts.clear()
        self.prefixes.clear()
        for job in jobs:
            job.over = True
            job.kept.clear()
            self._out.append((job, failure))
        self.metrics.count("failed_requests", len(jobs))
        self.engine = self._make_engine()

    def _tell(self, events: Sequence[Event]) -> None:
        now = time.monotonic()
        for event in events:
            found = self._jobs.get(event.handle)
            if found is None:
                continue  # it was cancelled
            job, ask = found
            row = ask.rows[event.sample]
            if event.drawn is not None:
                self._observe(job, now)
            if event.finish == "error":
                error = event.handle.completions[event.sample].error
                self.metrics.count("failed_requests")
                self._end(job, ApiError(503, str(error), code="engine_error", retry_after=5))
                continue
            delta = row.push(event)
            if delta is not None:
                self._out.append((job, delta))
            if row.stopped and event.finish is None:
                self.engine.cancel(event.handle, event.sample)
            if event.finish in ("stop", "length"):
                self._keep(event, ask)
            if all(row.finish is not None for each in job.asks for row in each.rows):
                self._complete(job, now)

    def _observe(self, job: Job, now: float) -> None:
        """A job's first token, or the time since it last had one; of its samples in one step, the first counts."""
        if job.last is None:
            self._read(job)
            self.metrics.observe("time_to_first_token_seconds", now - job.submitted)
        elif now > job.last:
            self.metrics.observe("time_between_tokens_seconds", now - job.last)
        job.last = now

    def _complete(self, job: Job, now: float) -> None:
        prompt = sum(len(ask.request.prompt) for ask in job.asks)
        asks = [ask for ask in job.asks if ask.thinking is None]
        silent = {handle for handle, ask in zip(job.handles, asks, strict=True) if ask.rows[0].silent}
        drawn = sum(len(c.drawn) for handle in job.handles if handle not in silent for c in handle.completions)
        drawn += sum(thought.case.spent for thought in job.thoughts)
        for name, count in (("prompt_tokens", prompt), ("generated_tokens", drawn), ("cached_tokens", job.cached)):
            self.metrics.count(name, count)
        self.metrics.observe("request_seconds", now - job.submitted)
        self._end(job, Ended(prompt, drawn, job.cached))

    def _keep(self, event: Event, ask: Ask) -> None:
        """The state of a conversation with the answer that was just given."""
        completion, talk = event.handle.completions[event.sample], ask.talk
        prefix = completion.prefix
        if prefix is None or talk is None:
            return
        completion.prefix = None
        answer = talk.chat.reply([*talk.forced, *completion.tokens])
        key = (*talk.prompt[:-1], *talk.chat.turn(answer)[:-1])  # without the end of the turn, which was not read
        self.prefixes.keep(key, prefix)

    def _flush(self) -> None:
        """Wakes asyncio once for everything that was said."""
        prefixes = self.prefixes
        self.stats = Stats(
            self.engine.num_rows,
            self.engine.num_waiting,
            self.engine.bytes_in_use,
            self.engine.max_bytes,
            len(prefixes),
            prefixes.bytes,
        )
        if self._out and self._loop is not None and not self._loop.is_closed():
            out, self._out = self._out, []
            self._loop.call_soon_threadsafe(_deliver, out)


def _deliver(out: Sequence[tuple[Job, Started | Delta | Ended | ApiError]]) -> None:
    for job, each in out:
        job.inbox.put_nowait(each)
