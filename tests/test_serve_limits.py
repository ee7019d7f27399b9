"""What a server refuses, when, and what it gives back: places, rows, memory."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx
import pytest
from serve_parts import NO_END, SKY, Hosted, chat_prompt, expected, hosted, loaded, text

from wren.errors import ConfigError
from wren.generate import Prefix
from wren.serve.errors import ApiError
from wren.serve.limits import Gate, Limits, host_name, is_loopback
from wren.serve.metrics import Metrics
from wren.serve.prefixes import Prefixes

LONG = {"messages": SKY, "max_tokens": 480, "stream": True, "logit_bias": NO_END}


@contextmanager
def streaming(server: Hosted, body: dict[str, Any] = LONG, **options: Any) -> Iterator[Iterator[str]]:
    """A stream of which the first line was read."""
    url = f"{server.url}/v1/chat/completions"
    with httpx.stream("POST", url, json=body, timeout=60, **options) as response:
        assert response.status_code == 200
        lines = response.iter_lines()
        next(lines)
        yield lines


def slowed(server: Hosted, seconds: float = 0.02) -> None:
    """Every step of its engine takes at least so long, so that what runs still runs when it is looked at."""
    engine, pause = server.serving.worker.engine, threading.Event()
    step = engine.step

    def slow() -> Any:
        pause.wait(seconds)
        return step()

    engine.step = slow  # type: ignore[method-assign]


def test_requests_beyond_the_queue_are_told_to_come_back():
    with hosted(loaded(), max_requests=1, max_queue=1) as server, ExitStack() as stack:
        slowed(server)
        stack.enter_context(streaming(server))
        waiting = threading.Thread(target=server.post, args=("completions", {"prompt": "x", "max_tokens": 2}))
        waiting.start()
        server.until("queued_requests", 1)
        found = server.post("chat/completions", {"messages": SKY})
        assert found.status_code == 429
        assert 1 <= int(found.headers["retry-after"]) <= 60
        assert found.json()["error"]["type"] == "rate_limit_error"
        stack.close()
        waiting.join(30)
        assert not waiting.is_alive()
        assert server.metric("running_requests") == server.metric("queued_requests") == 0


def test_a_client_that_goes_away_frees_its_row():
    with hosted(loaded()) as server:
        slowed(server)
        with streaming(server), streaming(server):
            server.until("decoding_rows", 2)
            assert server.metric("state_bytes") > 0
        server.until("decoding_rows", 0)
        server.until("cancelled_requests_total", 2)
        url, body = f"{server.url}/v1/chat/completions", {**LONG, "stream": False}
        with pytest.raises(httpx.ReadTimeout):  # one that waits for a whole answer
            httpx.post(url, json=body, timeout=httpx.Timeout(30, read=0.3))
        server.until("cancelled_requests_total", 3)
        server.until("running_requests", 0)


def test_a_client_that_goes_away_while_it_waits_leaves_the_queue():
    with hosted(loaded(), max_requests=1) as server:
        slowed(server)
        with streaming(server):
            with pytest.raises(httpx.ReadTimeout):
                httpx.post(f"{server.url}/v1/completions", json={"prompt": "x"}, timeout=httpx.Timeout(30, read=0.3))
            server.until("queued_requests", 0)
            assert server.metric("running_requests") == 1


def test_bodies_that_are_too_large():
    with hosted(loaded(), max_body=2000) as server:
        url = f"{server.url}/v1/completions"
        kind = {"content-type": "application/json"}
        body = b'{"prompt": "' + b"x" * 3000 + b'"}'
        for content in (body, iter([body[:1500], body[1500:]])):  # announced, and in chunks
            found = httpx.post(url, content=content, headers=kind)
            assert (found.status_code, found.json()["error"]["code"]) == (413, "request_too_large")
        assert httpx.post(url, content=b'{"prompt": "x"}', headers=kind).status_code == 200


def test_limits_of_prompts_and_completions():
    with hosted(loaded(), max_prompt=20, max_tokens=5) as server:
        assert server.post("completions", {"prompt": [5] * 21}).status_code == 413
        assert server.post("completions", {"prompt": [5] * 20, "max_tokens": 5}).status_code == 200
        found = server.post("completions", {"prompt": [5] * 20, "max_tokens": 6})
        assert found.json()["error"]["message"] == "max_tokens is 6; at most 5 are given here."
        usage = server.post("chat/completions", {"messages": [{"role": "user", "content": "It"}]}).json()["usage"]
        assert usage["completion_tokens"] <= 5


def test_the_key():
    with hosted(loaded(), key="sesame") as server:
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "Basic sesame"}):
            for path in ("v1/models", "metrics", "openapi.json", "v1/anything"):
                found = httpx.get(f"{server.url}/{path}", headers=headers)
                assert (found.status_code, found.headers["www-authenticate"]) == (401, "Bearer")
                assert found.json()["error"]["code"] == "invalid_api_key"
        assert httpx.get(f"{server.url}/v1/models", headers={"authorization": "Bearer sesame"}).status_code == 200
        assert server.client(api_key="sesame").models.list().data[0].id == "tiny"
        assert httpx.get(f"{server.url}/").status_code == httpx.get(f"{server.url}/health").status_code == 200


def test_only_names_of_this_machine_are_answered():
    with hosted(loaded(), allow_host=("wren.lan",)) as server:
        for host, status in (("evil.example", 403), ("localhost:80", 200), ("[::1]:80", 200), ("wren.lan", 200)):
            assert httpx.get(f"{server.url}/v1/models", headers={"host": host}).status_code == status
    assert [host_name(each) for each in ("A.b:80", "[::1]:8", "127.0.0.1")] == ["a.b", "::1", "127.0.0.1"]
    assert [is_loopback(each) for each in ("127.0.0.2", "::1", "0.0.0.0", "wren.lan", "")] == [True, True, *[False] * 3]


def test_a_failure_inside_is_told_and_the_server_goes_on(caplog: pytest.LogCaptureFixture):
    with hosted(loaded()) as server:
        worker = server.serving.worker

        def fail() -> Any:
            raise ZeroDivisionError("a bug")

        for failure, status in ((fail, 500), (_no_memory, 503)):
            worker.engine.step = failure  # type: ignore[method-assign]
            found = server.post("completions", {"prompt": "x"})
            assert found.status_code == status
            assert "ZeroDivision" not in found.text
            assert server.post("completions", {"prompt": "x"}).status_code == 200
        worker.engine.step = fail  # type: ignore[method-assign]
        with streaming(server, {**LONG, "max_tokens": 50}) as lines:
            told = [line for line in lines if line]
        assert '"code":"internal_error"' in told[-2]
        assert told[-1] == "data: [DONE]"
        assert server.metric("failed_requests_total") == 3
    assert "ZeroDivisionError: a bug" in caplog.text


def _no_memory() -> Any:
    raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")


def test_more_memory_than_there_is():
    with pytest.raises(ConfigError, match=r"give a smaller --context"), hosted(loaded(), state_memory=10_000):
        pass
    with pytest.raises(ConfigError, match="max_requests is 0"), hosted(loaded(), max_requests=0):
        pass


def test_sixty_four_streams_at_once_say_each_its_own():
    """Every one has a seed and a prompt of its own; the text is what the engine says to that alone."""
    talks = [[{"role": "user", "content": f"{i}: What is the colour of the {'sea' * (i % 7)}?"}] for i in range(64)]

    async def one(client: httpx.AsyncClient, i: int) -> str:
        body = {"messages": talks[i], "seed": i, "max_tokens": 12 + i % 5, "stream": True, "logit_bias": NO_END}
        said = ""
        async with client.stream("POST", "/v1/chat/completions", json=body) as response:
            async for line in response.aiter_lines():
                if line.startswith("data: {"):
                    said += httpx.Response(200, text=line[6:]).json()["choices"][0]["delta"].get("content", "")
        return said

    async def all_of_them(url: str) -> list[str]:
        limits = httpx.Limits(max_connections=64)
        async with httpx.AsyncClient(base_url=url, timeout=120, limits=limits) as client:
            return list(await asyncio.gather(*(one(client, i) for i in range(64))))

    with hosted(loaded()) as server:
        found = asyncio.run(all_of_them(server.url))
    for i in range(0, 64, 4):
        (wanted,) = expected(chat_prompt(talks[i]), max_tokens=12 + i % 5, temperature=1.0, seed=i)
        assert found[i] == text(wanted)
    assert len(set(found)) == 64


def test_places_go_to_who_waits_longest():
    async def script() -> list[Any]:
        gate, order = Gate(1, 2, lambda: 30.0), []

        async def come(name: str, stay: asyncio.Event) -> None:
            async with gate.place():
                order.append(name)
                await stay.wait()

        stay, go = asyncio.Event(), asyncio.Event()
        go.set()
        tasks = [asyncio.create_task(come("a", stay))]
        await asyncio.sleep(0)
        tasks += [asyncio.create_task(come(name, go)) for name in "bc"]
        await asyncio.sleep(0)
        assert (gate.running, gate.waiting) == (1, 2)
        with pytest.raises(ApiError, match="the most here") as refused:
            await come("d", go)
        assert (refused.value.status, refused.value.retry_after) == (429, 60)
        tasks[1].cancel()
        await asyncio.sleep(0)
        assert gate.waiting == 1
        stay.set()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert (gate.running, gate.waiting) == (0, 0)
        # one that goes away just when its turn has come passes it on
        first = gate.place()
        await first.__aenter__()
        late = [asyncio.create_task(come(name, go)) for name in "ef"]
        await asyncio.sleep(0)
        await first.__aexit__(None, None, None)
        late[0].cancel()
        await asyncio.gather(*late, return_exceptions=True)
        assert (gate.running, gate.waiting) == (0, 0)
        return order

    assert asyncio.run(script()) == ["a", "c", "f"]


def test_limits_are_checked():
    Limits(context_len=2, max_prompt=1, max_tokens=1, max_queue=0)
    with pytest.raises(ConfigError, match="max_tokens is 0; it must be at least 1"):
        Limits(context_len=9, max_prompt=1, max_tokens=0)
    with pytest.raises(ConfigError, match="no room"):
        Limits(context_len=1, max_prompt=1, max_tokens=1)


class _State:
    def size(self) -> int:
        return 10


def prefix(*tokens: int) -> Prefix:
    return Prefix(tokens, tokens[-1:], _State())  # type: ignore[arg-type]


def test_kept_conversations_are_bounded_and_the_longest_is_found():
    kept = Prefixes(30, most=3)
    states = {tokens: prefix(*tokens) for tokens in ((1, 2), (1, 2, 3), (7, 8), (9, 9))}
    for tokens in ((1, 2), (1, 2, 3), (7, 8)):
        kept.keep(tokens, states[tokens])
    assert (len(kept), kept.bytes) == (3, 30)
    found = kept.find([1, 2, 3, 4], exact=True)
    assert found is not None
    assert found.key == (1, 2, 3)
    assert kept.find([1, 2], exact=True) is None  # nothing would be left to read
    assert kept.find([2, 1, 3], exact=True) is None
    kept.keep((9, 9), states[9, 9])
    assert states[1, 2].released
    kept.keep((5, 5), prefix(5, 5))
    kept.keep((6, 6), prefix(6, 6))
    assert not states[1, 2, 3].released  # somebody has yet to read it
    kept.done(found)
    for token in (20, 21, 22):
        kept.keep((token, token), prefix(token, token))
    assert states[1, 2, 3].released
    assert kept.bytes == 30
    large = prefix(4, 4)
    Prefixes(5).keep((4, 4), large)
    assert large.released
    other = Prefixes(30)
    other.keep((1, 2), prefix(1, 9))  # its text is encoded otherwise than it was drawn
    assert other.find([1, 2, 3], exact=True) is None
    assert other.find([1, 2, 3], exact=False) is not None
    other.clear()
    assert (len(other), other.bytes) == (0, 0)


def test_histograms_count_up():
    metrics = Metrics()
    for seconds in (0.0005, 0.03, 0.03, 1000.0):
        metrics.observe("request_seconds", seconds)
    lines = metrics.text({}).splitlines()
    found = {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in lines if "request_seconds_" in line}
    assert found['wren_request_seconds_bucket{le="0.001"}'] == 1
    assert found['wren_request_seconds_bucket{le="0.05"}'] == 3
    assert found['wren_request_seconds_bucket{le="+Inf"}'] == found["wren_request_seconds_count"] == 4
    assert metrics.mean("request_seconds") == pytest.approx(1000.0605 / 4)
