"""The one thread that owns the engine: jobs come in through a queue, and what they say goes out to asyncio.

asyncio:  worker.submit(job) -> job.inbox: Started, Delta, ..., Delta, Ended     worker.cancel(job)
thread:   take what came in, one step of the engine, tell, learn one chunk; sleep where there is nothing to do

Longer than most files: what runs is known to this thread alone, and every way in which it ends must free all of it.
"""

import asyncio
import dataclasses
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence

from wren.adapt.lessons import Lesson, Lessons
from wren.errors import ConfigError, WrenError
from wren.generate import Engine, Event, Handle, Request
from wren.precision import is_out_of_memory
from wren.serve.errors import ApiError
from wren.serve.jobs import Ask, Ended, Job, Said, Started, Stats, Taught
from wren.serve.metrics import Metrics
from wren.serve.prefixes import Prefixes
from wren.serve.thinking import Thinking, fits, told
from wren.think.thought import Thought

CACHE_SHARE = 4  # kept conversations take at most one part in so many of the memory for states

logger = logging.getLogger("wren.serve")


class Worker:
    """make_engine: also makes a new one after a failure that may have left the old one in any state; make_lessons
    follows it, None = nothing is learned here."""

    def __init__(
        self,
        make_engine: Callable[[], Engine],
        metrics: Metrics,
        make_lessons: Callable[[Engine], Lessons] | None = None,
    ):
        self._make_engine, self._make_lessons, self.metrics = make_engine, make_lessons, metrics
        self.engine = make_engine()
        self.lessons = None if make_lessons is None else make_lessons(self.engine)
        self.prefixes = Prefixes(self.engine.max_bytes // CACHE_SHARE)
        self.stats = Stats(max_state_bytes=self.engine.max_bytes)
        self._orders: queue.SimpleQueue[tuple[str, Job | None]] = queue.SimpleQueue()
        self._jobs: dict[Handle, tuple[Job, Ask]] = {}
        self._thoughts: dict[Thought, tuple[Job, Ask]] = {}
        self._learning: dict[Lesson, tuple[Job, Ask]] = {}
        self._rests_until = 0.0  # lessons, on the clock of time.monotonic
        self._out: list[tuple[Job, Said]] = []
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
                self._learn()
            except Exception as error:  # noqa: BLE001  (who waits is told, and the server goes on)
                self._recover(error)
            self._flush()
        self._end_all(ApiError(503, "The server is shutting down.", code="shutting_down", retry_after=5))
        self._flush()
        if self.lessons is not None:
            self.lessons.close()

    def _take(self) -> bool:
        """Does what was ordered; waits while there is nothing else to do. False: the end."""
        while True:
            busy = self.engine.busy or (self.lessons is not None and self.lessons.busy)
            try:
                order, job = self._orders.get(block=not busy)
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
                self._check_room(ask)
                if ask.adapting is None:
                    self._answer(job, ask)
                else:
                    self._teach(job, ask)
        except WrenError as error:
            self._end(job, ApiError(400, str(error), code="invalid_request"))
            return
        self._out.append((job, Started()))

    def _check_room(self, ask: Ask) -> None:
        """Raises ConfigError for what could not be admitted beside all that is kept."""
        room = self.engine.max_bytes - self.prefixes.max_bytes
        if ask.thinking is not None:
            fits(self.engine, ask.thinking.case, room)
            return
        length = len(ask.request.prompt) + ask.request.sampling.max_tokens
        if 2 * self.engine.forward.row_bytes(length) > room:
            raise ConfigError(f"{length} tokens need more memory than the states may take here; ask for fewer.")

    def _answer(self, job: Job, ask: Ask, adapter: int = 0) -> None:
        """Raises WrenError."""
        if ask.thinking is not None:
            self._begin(job, ask, ask.thinking, adapter)
            return
        if adapter:  # its states are no other request's
            request = dataclasses.replace(ask.request, adapter=adapter, keep=False)
        else:
            request = self._with_prefix(job, ask)
        handle = self.engine.submit(request)
        job.handles.append(handle)
        self._jobs[handle] = (job, ask)

    def _teach(self, job: Job, ask: Ask) -> None:
        """Raises WrenError."""
        assert self.lessons is not None
        assert ask.adapting is not None
        lesson = self.lessons.add(ask.adapting.tokens, ask.adapting.lr)
        job.lessons.append(lesson)
        self._learning[lesson] = (job, ask)

    def _learn(self) -> None:
        """One chunk of one lesson; the request is made when its lesson is over.

        While others are answered, lessons take half of the time: a chunk is as long as many steps of the engine.
        """
        start = time.monotonic()
        if self.lessons is None or (self.engine.busy and start < self._rests_until):
            return
        lesson, now = self.lessons.advance(), time.monotonic()
        self._rests_until = 2 * now - start
        if lesson is None or lesson.learned is None:
            return
        job, ask = self._learning.pop(lesson)
        self.metrics.count("learned_tokens", lesson.learned.tokens)
        self._out.append((job, Taught(lesson.learned)))
        try:
            self._answer(job, ask, lesson.adapter)
        except WrenError as error:
            self._end(job, ApiError(400, str(error), code="invalid_request"))
        if not lesson.adapter:
            self._drop(lesson)

    def _drop(self, lesson: Lesson) -> None:
        self._learning.pop(lesson, None)
        if self.lessons is not None:
            self.lessons.drop(lesson)

    def _begin(self, job: Job, ask: Ask, thinking: Thinking, adapter: int) -> None:
        """Raises WrenError."""
        thought = thinking.begin(self.engine, adapter)
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
        """The request behind the longest part of its conversation that is kept."""
        request, talk = ask.request, ask.talk
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
        for lesson in job.lessons:
            self._drop(lesson)
        self._read(job)
        self._out.append((job, last))

    def _end_all(self, error: ApiError) -> None:
        for job in self._running():
            self._end(job, error)

    def _running(self) -> list[Job]:
        every = (*self._jobs.values(), *self._thoughts.values(), *self._learning.values())
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
        self._learning.clear()
        self.prefixes.clear()
        for job in jobs:
            job.over = True
            job.kept.clear()
            self._out.append((job, failure))
        self.metrics.count("failed_requests", len(jobs))
        if self.lessons is not None:
            self.lessons.close()  # before an engine makes its own copy of the model
        self.engine = self._make_engine()
        self.lessons = None if self._make_lessons is None else self._make_lessons(self.engine)

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
            0 if self.lessons is None else self.lessons.in_use,
        )
        if self._out and self._loop is not None and not self._loop.is_closed():
            out, self._out = self._out, []
            self._loop.call_soon_threadsafe(_deliver, out)


def _deliver(out: Sequence[tuple[Job, Said]]) -> None:
    for job, each in out:
        job.inbox.put_nowait(each)
