"""`wren serve`: opens a run, takes a port, and answers until it is told to stop; what runs then is finished first."""

import asyncio
import contextlib
import dataclasses
import errno
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import uvicorn

from wren import units
from wren.adapt.lessons import Lessons, lesson_config
from wren.errors import ConfigError
from wren.files import describe
from wren.generate import Bits, Engine, Loaded, load_run
from wren.interrupt import Signals
from wren.precision import Precision
from wren.run import Run, context_len
from wren.serve.app import Serving, create_app
from wren.serve.asking import Served
from wren.serve.board import table_of
from wren.serve.limits import Limits, is_loopback
from wren.serve.metrics import Metrics
from wren.serve.worker import CACHE_SHARE, Worker
from wren.tokenizer import special
from wren.tokenizer.chat import Chat

KEY_VARIABLE = "WREN_API_KEY"
_DRAIN_MORE = 5  # seconds that answers have to end after they were told to


@dataclass(frozen=True, kw_only=True)
class Options:
    """What `wren serve` is asked. context: None = what the run was trained on. max_tokens, max_prompt: None = as far
    as the context goes. state_memory: bytes of all states, None = half of what is free. drain: seconds."""

    run: Path
    host: str = "127.0.0.1"
    port: int = 8000
    name: str | None = None
    allow_host: tuple[str, ...] = ()
    api_key_file: Path | None = None
    context: int | None = None
    max_prompt: int | None = None
    max_tokens: int | None = None
    max_requests: int = 64
    max_queue: int = 256
    max_budget: int = 16_384
    max_adapt: int = 0
    state_memory: int | None = None
    drain: float = 30.0
    bits: Bits | None = None


class Server(uvicorn.Server):
    """Stops at a signal that `signals` collected, and gives what runs `drain` seconds to end."""

    def __init__(self, config: uvicorn.Config, signals: Signals, serving: Serving, drain: float):
        super().__init__(config)
        self.signals, self.serving, self.drain = signals, serving, drain

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        yield

    async def on_tick(self, counter: int) -> bool:
        return self.signals.number is not None or await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        end = asyncio.get_running_loop().call_later(self.drain, self.serving.worker.end_all)
        try:
            await super().shutdown(sockets)
        finally:
            end.cancel()


def serve(options: Options, precision: Precision, say: Callable[[str], None]) -> int:
    """Serves until Ctrl-C or SIGTERM; returns the exit code. Raises ConfigError or CheckpointError."""
    key = read_key(options.api_key_file)
    with listening(options.host, options.port) as listener:
        loaded = load_run(options.run, precision.device, say)
        table = table_of(Run(options.run), str(precision.device))
        serving = dataclasses.replace(prepare(loaded, options, precision, key), table=table)
        port = listener.getsockname()[1]
        print(about(loaded, serving, options, port), flush=True)
        if key is None and not is_loopback(options.host):
            say(f"Warning: others can reach this server, and it asks for no key; set {KEY_VARIABLE} or --api-key-file.")
        with Signals() as signals:
            run_server(serving, listener, signals, options.drain)
    if signals.number is None:
        return 0
    print("Stopped; what ran was finished first.", file=sys.stderr)
    return 128 + signals.number


def run_server(serving: Serving, listener: socket.socket, signals: Signals, drain: float) -> None:
    """Answers on a bound socket until a signal comes."""
    config = uvicorn.Config(
        create_app(serving),
        loop="asyncio",
        http="h11",
        ws="none",
        lifespan="on",
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=int(drain) + _DRAIN_MORE,
    )
    Server(config, signals, serving, drain).run([listener])


def prepare(loaded: Loaded, options: Options, precision: Precision, key: str | None = None) -> Serving:
    """Everything but the socket. Raises ConfigError for limits that cannot be kept."""
    tokenizer = loaded.tokenizer
    limits = chosen_limits(loaded, options)
    has_turns = all(name in tokenizer.special for name in special.CHAT)
    names = (options.name or options.run.resolve().name,)
    longest = max(1, int(tokenizer.token_bytes().max()))
    chat = Chat(tokenizer) if has_turns else None
    served = Served(names, tokenizer, chat, limits, longest)

    def engine() -> Engine:
        return Engine(
            loaded.model,
            precision,
            vocab_size=tokenizer.vocab_size,
            max_bytes=options.state_memory,
            bits=options.bits,
        )

    def lessons(engine: Engine) -> Lessons:
        return Lessons(loaded.model, engine.model, precision, lesson_config(limits.context_len))

    counters = Metrics()
    worker = Worker(engine, counters, lessons if limits.max_adapt else None)
    need = 2 * worker.engine.forward.row_bytes(limits.context_len)
    have = worker.engine.max_bytes - worker.engine.max_bytes // CACHE_SHARE
    if need > have:
        raise ConfigError(
            f"A request of {limits.context_len:,} tokens needs {units.size(need)} of state and {units.size(have)} may "
            "be taken; give a smaller --context, or a larger --state-memory."
        )
    return Serving(
        served=served,
        worker=worker,
        metrics=counters,
        fingerprint=f"wren_step_{loaded.step}",
        started=int(time.time()),
        host=options.host,
        hosts=options.allow_host,
        key=key,
    )


def chosen_limits(loaded: Loaded, options: Options) -> Limits:
    """Raises ConfigError."""
    positions = loaded.model.config.learned_positions
    context = options.context or context_len(Run(options.run))
    if positions is not None and options.context is None:
        context = min(context, positions)
    if positions is not None and context > positions:
        raise ConfigError(f"--context {context} is more than this model's {positions} learned positions.")
    return Limits(
        context_len=context,
        max_prompt=min(options.max_prompt or context, context),
        max_tokens=min(options.max_tokens or context, context),
        max_budget=options.max_budget,
        max_adapt=options.max_adapt,
        max_requests=options.max_requests,
        max_queue=options.max_queue,
    )


def read_key(path: Path | None) -> str | None:
    """From a file, or from the environment; raises ConfigError for an empty one."""
    if path is None:
        return os.environ.get(KEY_VARIABLE) or None
    try:
        key = path.read_text(encoding="utf-8").strip()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is no text file; put the key alone into it.") from error
    except OSError as error:
        raise ConfigError(f"The key cannot be read: {describe(error)}") from error
    if not key:
        raise ConfigError(f"{path} is empty; put the key into it.")
    return key


@contextlib.contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that is bound and closed at the end; raises ConfigError where that cannot be."""
    if not 0 <= port <= 65535:
        raise ConfigError(f"--port {port} is no port; give one from 1 to 65535, or 0 for any that is free.")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (socket.gaierror, UnicodeError) as error:
        raise ConfigError(f"--host {host} is no address of this machine; use 127.0.0.1 or 0.0.0.0.") from error
    with socket.socket(family, kind, protocol) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
            listener.listen(2048)  # at once: who comes while the model is read waits
        except OSError as error:
            raise ConfigError(_unbound(host, port, error)) from error
        yield listener


def _unbound(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"Port {port} on {host} is in use; choose another with --port, or 0 for any that is free."
    if error.errno == errno.EACCES:
        return f"Port {port} needs more rights than you have; choose one above 1023 with --port."
    return f"Cannot listen on {host} port {port}: {describe(error)}"


def about(loaded: Loaded, serving: Serving, options: Options, port: int) -> str:
    """What is served, where."""
    size = sum(p.numel() for p in loaded.model.parameters())
    shown = f"[{options.host}]" if ":" in options.host else options.host
    limits = serving.served.limits
    page = "Chat" if serving.table is None else f"A board of {serving.table.game.name}"
    return (
        f"{serving.served.names[0]}: step {loaded.step:,}, {size:,} parameters, "
        f"context {limits.context_len:,} tokens.\n"
        f"{page} at http://{shown}:{port}/, OpenAI clients at http://{shown}:{port}/v1. Ctrl-C ends it."
    )
