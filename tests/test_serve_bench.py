"""bench/serve.py measures and loads a server, and tells when a text is another's."""

import argparse
import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import bench_parts
import httpx
import pytest
import serve as bench  # bench/serve.py
import serve_parts as parts
from serve_parts import NO_END, Hosted

assert bench_parts.BENCH.is_dir()
ARGS = argparse.Namespace(tokens=6, prompt=5, repeats=1, load=1.0)


@pytest.fixture(scope="module")
def server() -> Iterator[Hosted]:
    with parts.hosted(parts.loaded()) as running:
        yield running


def ran(server: Hosted, work: Callable[[httpx.AsyncClient], Awaitable[Any]]) -> Any:
    async def script() -> Any:
        async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
            return await work(client)

    return asyncio.run(script())


def test_what_a_client_sees(server: Hosted):
    row = ran(server, lambda client: bench.measure(client, 3, ARGS, NO_END))
    assert row["streams"] == 3
    assert 0 < row["first_ms"] <= row["first_ms_95"]
    assert 0 <= row["between_ms"] <= row["between_ms_95"]
    assert row["tokens_per_second"] > 0


def test_a_load_without_an_error_and_no_text_of_another(server: Hosted):
    row = ran(server, lambda client: bench.load(client, 8, ARGS, NO_END))
    assert row["answers"] > 8
    assert (row["errors"], row["other_texts"]) == (0, 0)
    assert all(memory > 1e6 for memory in row["memory_bytes"])
    assert "0 errors, 0 of another text" in bench._load_in_words(row)


def test_a_text_of_another_is_seen(server: Hosted, monkeypatch: pytest.MonkeyPatch):
    honest, asked = bench.body, [0]

    def mixed(seed: int, *rest: Any) -> dict[str, Any]:
        asked[0] += 1
        return honest(seed + (asked[0] > bench._KINDS), *rest)

    monkeypatch.setattr(bench, "body", mixed)
    row = ran(server, lambda client: bench.load(client, 2, ARGS, NO_END))
    assert row["other_texts"] > 0


def test_a_stream_that_is_no_answer_is_an_error(server: Hosted):
    with pytest.raises(httpx.HTTPStatusError):
        ran(server, lambda client: bench.stream(client, {"prompt": 3.5}))
    with pytest.raises(ValueError):
        ran(server, lambda client: bench.stream(client, {"prompt": "x", "max_tokens": 2}))
