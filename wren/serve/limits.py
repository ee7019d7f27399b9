"""What a server takes on: lengths, requests at once and in the queue, the size of a body, hosts and the key."""

import asyncio
import contextlib
import hashlib
import hmac
import ipaddress
import math
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from wren.errors import ConfigError
from wren.serve.errors import ApiError

_LONGEST_WAIT = 60  # seconds that Retry-After says at most


@dataclass(frozen=True, kw_only=True)
class Limits:
    """context_len: tokens of a prompt and its completion together. max_prompt: of the prompt alone. max_tokens: of a
    completion. max_budget: that are generated to think about one. max_adapt: that an adapter learns from before one, 0
    = none does. max_samples: completions of one request. max_requests: that run at once. max_queue: that wait until
    they may run. max_body: bytes of a request.
    """

    context_len: int
    max_prompt: int
    max_tokens: int
    max_budget: int = 16_384
    max_adapt: int = 0
    max_samples: int = 128
    max_requests: int = 64
    max_queue: int = 256
    max_body: int = 4 << 20

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            least = 0 if name in ("max_queue", "max_adapt") else 1
            if value < least:
                raise ConfigError(f"{name} is {value}; it must be at least {least}.")
        if self.context_len < 2:
            raise ConfigError("A context of 1 token has no room for a prompt and a token after it.")


class Gate:
    """Lets so many requests run and so many more wait, first come first served. seconds: what one takes on average."""

    def __init__(self, running: int, waiting: int, seconds: Callable[[], float] = lambda: 1.0):
        self.most_running, self.most_waiting, self.seconds = running, waiting, seconds
        self.running = 0
        self._queue: deque[asyncio.Future[None]] = deque()

    @property
    def waiting(self) -> int:
        return len(self._queue)

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """Raises ApiError 429 where the queue is full."""
        await self._enter()
        try:
            yield
        finally:
            self._leave()

    async def _enter(self) -> None:
        if self.running < self.most_running:
            self.running += 1
            return
        if self.waiting >= self.most_waiting:
            raise ApiError(
                429,
                f"{self.running} requests run and {self.waiting} wait, which is the most here; try again later.",
                code="rate_limit_exceeded",
                retry_after=self.retry_after(),
            )
        turn = asyncio.get_running_loop().create_future()
        self._queue.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._leave()  # its turn had come
            elif turn in self._queue:
                self._queue.remove(turn)
            raise

    def _leave(self) -> None:
        """Hands the place to who waits longest."""
        while self._queue:
            turn = self._queue.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self.running -= 1

    def retry_after(self) -> int:
        """Seconds until there may be room."""
        ahead = (self.waiting + 1) / self.most_running
        return max(1, min(_LONGEST_WAIT, math.ceil(ahead * self.seconds())))


class BodyLimit:
    """Refuses larger bodies with 413, by what they announce and by what comes."""

    def __init__(self, app: ASGIApp, most: int):
        self.app, self.most = app, most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        error = ApiError(413, f"The body is larger than {self.most:,} bytes.", code="request_too_large")
        announced = _header(scope, b"content-length")
        if announced.isdigit() and int(announced[:20]) > self.most:
            await error.response()(scope, receive, send)
            return
        read, answered = 0, False

        async def counted() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > self.most:
                raise TooLarge
            return message

        async def watched(message: Message) -> None:
            nonlocal answered
            if read <= self.most:
                answered = True
                await send(message)

        with contextlib.suppress(TooLarge):  # or the app has caught it and answers, which is not sent
            await self.app(scope, counted, watched)
        if read > self.most and not answered:
            await error.response()(scope, receive, send)


class TooLarge(Exception):
    """More of a body has come than is taken."""


class Doorkeeper:
    """Checks the Host of every request, and the key of those that need one.

    A page of another site can make a browser ask 127.0.0.1 under that site's own name; so a server that listens on this
    machine alone answers to this machine's names alone. host: what it listens on. names: other names it answers to.
    """

    def __init__(self, app: ASGIApp, host: str, names: tuple[str, ...], key: str | None, guarded: tuple[str, ...]):
        self.app, self.guarded = app, guarded
        self._names = {"localhost", host, *names} if is_loopback(host) else None
        self._digest = None if key is None else _digest(key.encode())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        error = self._refusal(scope) if scope["type"] == "http" else None
        await (self.app if error is None else error.response())(scope, receive, send)

    def _refusal(self, scope: Scope) -> ApiError | None:
        host = host_name(_header(scope, b"host").decode("latin-1"))
        if self._names is not None and host not in self._names and not is_loopback(host):
            sentence = "This server answers to names of this machine only; name others with --allow-host."
            return ApiError(403, sentence, code="unknown_host")
        if self._digest is None or not scope["path"].startswith(self.guarded):
            return None
        scheme, _, given = _header(scope, b"authorization").partition(b" ")
        right = hmac.compare_digest(_digest(given.strip()), self._digest)  # of one length, in constant time
        if right and scheme.lower() == b"bearer":
            return None
        sentence = "The API key is missing or wrong; send it as the header Authorization: Bearer KEY."
        return ApiError(401, sentence, code="invalid_api_key")


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def _header(scope: Scope, name: bytes) -> bytes:
    headers: Any = scope["headers"]
    return next((value for key, value in headers if key == name), b"")


def host_name(value: str) -> str:
    """Of a Host header, without the port."""
    if value.startswith("["):
        return value[1:].partition("]")[0]
    return value.partition(":")[0].lower()


def is_loopback(host: str) -> bool:
    """Whether a name or address reaches this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
