"""Answers while a job runs: a whole one, or server-sent events; a client that goes away ends its job."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from wren.serve.errors import ApiError, json_response
from wren.serve.jobs import Ended, Job, Started, Taught
from wren.serve.limits import Gate
from wren.serve.replies import Writer, event
from wren.serve.rows import Delta
from wren.serve.worker import Worker

_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


class Reply(Response):
    """Waits for a place, runs the job and answers; an ApiError before the first byte becomes the answer."""

    def __init__(self, gate: Gate, worker: Worker, job: Job, writer: Writer, *, stream: bool):
        super().__init__(headers=_HEADERS, media_type="text/event-stream" if stream else "application/json")
        del self.headers["content-length"]
        self.gate, self.worker, self.job, self.writer, self.stream = gate, worker, job, writer, stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await unless_gone(receive, self._answer(scope, receive, send))

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self.gate.place(), running(self.worker, self.job):
            if self.stream:
                await self._send_events(send)
                return
            deltas: list[Delta] = []
            while not isinstance(each := await said(self.job), Ended):
                if isinstance(each, Taught):
                    self.writer.taught(each)
                else:
                    deltas.append(each)
            answer = self.writer.whole(deltas, each)
        await json_response(answer, headers=_HEADERS)(scope, receive, send)

    async def _send_events(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async for body in self._events():
            await send({"type": "http.response.body", "body": body, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _events(self) -> AsyncIterator[bytes]:
        for chunk in self.writer.opening():
            yield event(chunk)
        try:
            while not isinstance(each := await said(self.job), Ended):
                chunks = self.writer.taught(each) if isinstance(each, Taught) else self.writer.chunks(each)
                for chunk in chunks:
                    yield event(chunk)
            for chunk in self.writer.last(each):
                yield event(chunk)
        except ApiError as error:  # too late for a status
            yield event(error.body())
        yield event("[DONE]")


@asynccontextmanager
async def running(worker: Worker, job: Job) -> AsyncIterator[None]:
    """Submits the job, waits until the engine has taken it, and ends it at the end. Raises ApiError."""
    worker.submit(job)
    try:
        first = await job.inbox.get()
        if isinstance(first, ApiError):
            raise first
        assert isinstance(first, Started)
        yield
    finally:
        if not job.over:
            worker.cancel(job)


async def said(job: Job) -> Taught | Delta | Ended:
    """The next thing that the job says; raises ApiError."""
    each = await job.inbox.get()
    if isinstance(each, ApiError):
        raise each
    assert not isinstance(each, Started)
    return each


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, None]) -> None:
    """Does the work, and cancels it when the client goes away."""
    task = asyncio.ensure_future(work)
    watch = asyncio.ensure_future(_gone(receive))
    try:
        await asyncio.wait((task, watch), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
    finally:
        for each in (task, watch):
            each.cancel()
        await asyncio.wait((task, watch))


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        continue
