"""The HTTP side: which paths there are, and what each does."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib import resources
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from wren.serve import asking, metrics, schema
from wren.serve.asking import Choices, Served
from wren.serve.board import BoardRequest, Table, add_board
from wren.serve.errors import ApiError, json_response, of_validation
from wren.serve.jobs import Job
from wren.serve.limits import BodyLimit, Doorkeeper, Gate
from wren.serve.metrics import Metrics
from wren.serve.replies import ChatWriter, TextWriter, Writer
from wren.serve.streams import Reply
from wren.serve.worker import Worker

_LARGE = 1 << 16  # bytes of a body
GUARDED = ("/v1/", "/metrics", "/openapi.json")  # what needs the key, where there is one
_PAGE = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/style.css": ("style.css", "text/css; charset=utf-8"),
    **{f"/{name}.js": (f"{name}.js", "text/javascript; charset=utf-8") for name in ("app", "api", "store", "text")},
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
_BOARD = {
    "/": ("board.html", "text/html; charset=utf-8"),
    "/board.css": ("board.css", "text/css; charset=utf-8"),
    "/board.js": ("board.js", "text/javascript; charset=utf-8"),
    "/icon.svg": _PAGE["/icon.svg"],
}
_PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'; form-action 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
_SAYS = {
    400: "The request is wrong, or cannot be done.",
    401: "The API key is missing or wrong.",
    403: "The request names a host that the server does not answer to.",
    404: "There is no such model.",
    413: "The body or the prompt is too long.",
    429: "Too many requests run and wait; Retry-After says when to try again.",
    503: "The server is shutting down or out of memory; Retry-After says when to try again.",
}
_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": schema.ErrorBody, "description": text} for status, text in _SAYS.items()
}


_FIELDS = {
    "/v1/chat/completions": tuple(schema.ChatRequest.model_fields),
    "/v1/completions": tuple(schema.CompletionRequest.model_fields),
    "/v1/board": tuple(BoardRequest.model_fields),
}


@dataclass(frozen=True)
class Serving:
    """All that the application stands on. host: what it listens on. hosts: other names it answers to.
    table: of a run that plays a game, whose board is the page then."""

    served: Served
    worker: Worker
    metrics: Metrics
    fingerprint: str
    started: int
    host: str = "127.0.0.1"
    hosts: tuple[str, ...] = ()
    key: str | None = None
    table: Table | None = None


def create_app(serving: Serving) -> FastAPI:
    """The application; it starts the worker when it starts, and ends it when it ends."""
    limits = serving.served.limits
    gate = Gate(limits.max_requests, limits.max_queue, lambda: serving.metrics.mean("request_seconds"))

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        serving.worker.start()
        try:
            yield
        finally:
            await asyncio.to_thread(serving.worker.close)

    app = FastAPI(
        title="Wren",
        summary="OpenAI's chat completions and completions of a model that Wren trained.",
        lifespan=lifespan,
        docs_url=None,  # those pages load scripts from elsewhere
        redoc_url=None,
        openapi_url="/openapi.json",
    )
    _add_errors(app)
    _add_answers(app, serving, gate)
    _add_about(app, serving, gate)
    if serving.table is not None:
        add_board(app, serving.table, {status: _ERRORS[status] for status in (400, 401, 403)})
    _add_page(app, _PAGE if serving.table is None else _BOARD)
    app.openapi = _openapi(app)
    app.add_middleware(BodyLimit, most=limits.max_body)
    app.add_middleware(Doorkeeper, host=serving.host, names=serving.hosts, key=serving.key, guarded=GUARDED)
    paths = frozenset(route.path for route in app.routes if isinstance(route, Route))
    app.add_middleware(Counted, metrics=serving.metrics, paths=paths)
    return app


def _add_answers(app: FastAPI, serving: Serving, gate: Gate) -> None:
    def reply(body: Any, choices: Choices, kind: type[Writer]) -> Reply:
        usage = body.stream_options is not None and bool(body.stream_options.include_usage)
        name = body.model or serving.served.names[0]
        writer = kind(serving.served, name, serving.fingerprint, choices, include_usage=usage)
        return Reply(gate, serving.worker, Job(choices.asks), writer, stream=bool(body.stream))

    @app.post("/v1/chat/completions", response_model=schema.ChatCompletion, responses=_answers(schema.ChatCompletion))
    async def chat(request: Request, body: schema.ChatRequest) -> Response:
        """The assistant's next turn, whole or as a stream."""
        return reply(body, await _made(request, lambda: asking.chat(serving.served, body)), ChatWriter)

    @app.post("/v1/completions", response_model=schema.Completion, responses=_answers(schema.Completion))
    async def complete(request: Request, body: schema.CompletionRequest) -> Response:
        """What follows a text or tokens, whole or as a stream."""
        return reply(body, await _made(request, lambda: asking.completion(serving.served, body)), TextWriter)


async def _made(request: Request, make: Callable[[], Choices]) -> Choices:
    """In another thread where there is much to encode, so that other answers go on meanwhile."""
    if len(await request.body()) > _LARGE:
        return await asyncio.to_thread(make)
    return make()


def _answers(model: type) -> dict[int | str, dict[str, Any]]:
    stream = {"text/event-stream": {"schema": {"type": "string"}}}
    return {**_ERRORS, 200: {"model": model, "description": "The answer.", "content": stream}}


def _add_about(app: FastAPI, serving: Serving, gate: Gate) -> None:
    limits = serving.served.limits

    def card(name: str) -> schema.ModelCard:
        return schema.ModelCard(
            id=name,
            object="model",
            created=serving.started,
            owned_by="wren",
            context_len=limits.context_len,
            max_tokens=limits.max_tokens,
            chat=serving.served.chat is not None,
        )

    few: dict[int | str, dict[str, Any]] = {status: _ERRORS[status] for status in (401, 403)}

    @app.get("/v1/models", responses=few)
    async def models() -> schema.ModelList:
        """The model that is served, under each of its names."""
        return schema.ModelList(object="list", data=[card(name) for name in serving.served.names])

    @app.get("/v1/models/{name}", responses={**few, 404: _ERRORS[404], 400: _ERRORS[400]})
    async def model(name: str) -> schema.ModelCard:
        if name not in serving.served.names:
            raise ApiError(404, "There is no model of that name here.", param="model", code="model_not_found")
        return card(name)

    @app.get("/health", responses={503: _ERRORS[503], 403: _ERRORS[403]})
    async def health() -> schema.Health:
        """Whether requests are taken."""
        if not serving.worker.alive:
            raise ApiError(503, "The engine does not run.", code="shutting_down", retry_after=5)
        return schema.Health(status="ok")

    @app.get("/metrics", response_class=Response, responses={**few, 200: {"content": {"text/plain": {}}}})
    async def numbers() -> Response:
        """Counters and histograms for Prometheus."""
        return Response(serving.metrics.text(_gauges(serving, gate)), media_type=metrics.CONTENT_TYPE)


def _gauges(serving: Serving, gate: Gate) -> dict[str, tuple[str, float]]:
    stats = serving.worker.stats
    return {
        "running_requests": ("Requests that run.", gate.running),
        "queued_requests": ("Requests that wait until they may run.", gate.waiting),
        "decoding_rows": ("Samples that decode.", stats.rows),
        "waiting_prompts": ("Prompts that wait for memory or for a row.", stats.waiting),
        "state_bytes": ("Of all states.", stats.state_bytes),
        "state_bytes_limit": ("That all states may take.", stats.max_state_bytes),
        "kept_conversations": ("Conversations whose state is kept.", stats.kept),
        "kept_conversations_bytes": ("Of their states.", stats.kept_bytes),
        "adapters_in_use": ("Adapters that learn or are answered with.", stats.adapters),
        "resident_memory_bytes": ("Of the process.", metrics.resident_bytes()),
        "uptime_seconds": ("Since the server was made.", time.time() - serving.started),
    }


def _add_page(app: FastAPI, files: dict[str, tuple[str, str]]) -> None:
    def file(name: str, kind: str) -> Callable[[], Any]:
        async def serve() -> Response:
            return Response(content, media_type=kind, headers=_PAGE_HEADERS)

        content = resources.files("wren.serve").joinpath("page", name).read_bytes()
        return serve

    for path, (name, kind) in files.items():
        app.add_api_route(path, file(name, kind), methods=["GET"], include_in_schema=False)


def _add_errors(app: FastAPI) -> None:
    async def own(request: Request, error: Any) -> Response:
        return error.response()

    async def invalid(request: Request, error: Any) -> Response:
        return of_validation(error.errors(), _FIELDS.get(request.url.path, ())).response()

    async def http(request: Request, error: Any) -> Response:
        sentence = {
            404: f"There is no {request.url.path[:80]} here.",
            405: f"{request.url.path[:80]} takes no {request.method}.",
            400: "The body cannot be read as JSON.",
        }.get(error.status_code, str(error.detail))
        response = ApiError(error.status_code, sentence).response()
        response.headers.update(error.headers or {})
        return response

    async def bug(request: Request, error: Any) -> Response:
        return json_response(ApiError(500, "The server failed inside; its log says why.").body(), 500)

    app.add_exception_handler(ApiError, own)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(Exception, bug)


def _openapi(app: FastAPI) -> Callable[[], dict[str, Any]]:
    def document() -> dict[str, Any]:
        """FastAPI's, without the 422 that this server never gives."""
        if app.openapi_schema is None:
            found = get_openapi(title=app.title, version="1", summary=app.summary, routes=app.routes)
            for path in found["paths"].values():
                for operation in path.values():
                    operation["responses"].pop("422", None)
            for name in ("HTTPValidationError", "ValidationError"):
                found["components"]["schemas"].pop(name, None)
            app.openapi_schema = found
        return app.openapi_schema

    return document


class Counted:
    """Counts answers by path and status."""

    def __init__(self, app: ASGIApp, metrics: Metrics, paths: frozenset[str]):
        self.app, self.metrics, self.paths = app, metrics, paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def watched(message: Message) -> None:
            if message["type"] == "http.response.start":
                path = scope["path"] if scope["path"] in self.paths else "other"
                self.metrics.answered(path, message["status"])
            await send(message)

        await self.app(scope, receive, watched)
