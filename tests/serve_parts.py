"""What the tests of the server share: a tiny model in float64, so that a batch says what a row alone says, and a server
on a free port of this machine in a thread of its own."""

import dataclasses
import functools
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import torch
import tune_parts
from engine_parts import FP32

from wren.generate import Completion, Engine, Loaded, Request, Sampling
from wren.interrupt import Signals
from wren.mixers import attention, gated_delta_net
from wren.mlps import relu2
from wren.model import ModelConfig
from wren.serve.app import Serving
from wren.serve.command import Options, listening, prepare, run_server

TOKENIZER, CHAT = tune_parts.tokenizer(), tune_parts.chat()
SPECIAL = frozenset(TOKENIZER.special.values())
NO_END = {str(token): -100 for token in SPECIAL}  # as logit_bias: it goes on to its last token
CONTEXT = 512
SKY = [{"role": "user", "content": "What is the colour of the sky?"}]


@functools.cache
def loaded() -> Loaded:
    """A hybrid of random weights large enough that its choices are its own."""
    config = ModelConfig(
        vocab_size=TOKENIZER.vocab_size,
        dim=16,
        depth=2,
        mixers=(attention.Config(num_heads=2), gated_delta_net.Config(num_heads=2)),
        mlp=relu2.Config(hidden=24),
    )
    torch.manual_seed(0)
    model = config.build().double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return Loaded(model, TOKENIZER, 7)


class Hosted:
    """A server that runs. url: without a slash at the end."""

    def __init__(self, serving: Serving, url: str):
        self.serving, self.url = serving, url

    def client(self, **options: Any) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", **{"api_key": "none", "max_retries": 0, **options})

    def post(self, path: str, body: Any, **options: Any) -> httpx.Response:
        return httpx.post(f"{self.url}/v1/{path}", json=body, timeout=60, **options)

    def metric(self, name: str) -> float:
        """The value of a line of /metrics."""
        for line in httpx.get(f"{self.url}/metrics").text.splitlines():
            if line.startswith(f"wren_{name} "):
                return float(line.split()[1])
        raise KeyError(name)

    def until(self, name: str, value: float, seconds: float = 30) -> None:
        """Waits until a metric has a value."""
        wait_until(lambda: self.metric(name) == value, seconds)


def wait_until(true: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


@contextmanager
def hosted(loaded: Loaded, key: str | None = None, **options: Any) -> Iterator[Hosted]:
    """A server of that model; options: fields of Options and of Limits."""
    body, table = options.pop("max_body", None), options.pop("table", None)
    asked = Options(**{"run": Path("tiny"), "port": 0, "context": CONTEXT, "state_memory": 1 << 28, **options})
    serving = dataclasses.replace(prepare(loaded, asked, FP32, key), table=table)
    if body is not None:
        limits = dataclasses.replace(serving.served.limits, max_body=body)
        serving = dataclasses.replace(serving, served=dataclasses.replace(serving.served, limits=limits))
    signals = Signals()
    with listening(asked.host, 0) as listener:
        thread = threading.Thread(target=_run, args=(serving, listener, signals))
        thread.start()
        server = Hosted(serving, f"http://127.0.0.1:{listener.getsockname()[1]}")
        try:
            assert httpx.get(f"{server.url}/health", timeout=60).json() == {"status": "ok"}
            yield server
        finally:
            signals.number = 15
            thread.join(60)
            assert not thread.is_alive()
            assert not serving.worker.alive


def _run(serving: Serving, listener: socket.socket, signals: Signals) -> None:
    torch.set_num_threads(1)
    run_server(serving, listener, signals, 10)


def expected(prompt: Sequence[int], n: int = 1, free: bool = True, **sampling: Any) -> list[Completion]:
    """What the engine says by itself; free: without the tokens that end it, as with NO_END."""
    engine = Engine(loaded().model, FP32, vocab_size=TOKENIZER.vocab_size)
    bias = dict.fromkeys(SPECIAL, -100.0) if free else {}
    request = Request(
        prompt=prompt, n=n, sampling=Sampling(**sampling), stop_ids=SPECIAL, top_logprobs=3, echo=True, bias=bias
    )
    handle = engine.submit(request)
    while not handle.done:
        engine.step()
    return handle.completions


def text(completion: Completion) -> str:
    return TOKENIZER.decode(completion.tokens)


def chat_prompt(messages: Sequence[dict[str, Any]]) -> list[int]:
    from wren.tokenizer.chat import read_messages

    return CHAT.prompt(read_messages(messages))


def with_document(prompt: str) -> list[int]:
    return [TOKENIZER.document_id, *TOKENIZER.encode(prompt)]
