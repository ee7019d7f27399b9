"""What no client should send: the server refuses it with a sentence, never with a failure of its own (5xx)."""

import json
import random
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
import serve_parts as parts
from hypothesis import HealthCheck, given, settings
from serve_parts import SKY, Hosted

schemathesis = pytest.importorskip("schemathesis", reason="needs schemathesis")

VALID: list[tuple[str, dict[str, Any]]] = [
    ("chat/completions", {"messages": SKY, "max_tokens": 3, "n": 2, "seed": 1, "stop": ["a"], "logprobs": True}),
    ("chat/completions", {"messages": SKY, "stream": True, "stream_options": {"include_usage": True}}),
    ("chat/completions", {"messages": SKY, "tools": [{"type": "function", "function": {"name": "f"}}]}),
    ("chat/completions", {"messages": SKY, "max_tokens": 3, "adapt": {"lr": 0.01, "text": "The sea is green."}}),
    ("completions", {"prompt": "The sea is green.", "max_tokens": 2, "adapt": True}),
    ("completions", {"prompt": ["The", "It"], "max_tokens": 2, "echo": True, "logprobs": 2}),
    ("completions", {"prompt": [3, 4, 5], "temperature": 0, "top_p": 0.5, "top_k": 3, "logit_bias": {"3": 1}}),
]
ODD: list[Any] = [
    None, True, 0, -1, 1, 2, 5.5, 1e308, -1e308, float("nan"), float("inf"), 10**30, -(10**30), 2**63, "", "x",
    "\ud800", "\x00", "é" * 50, "a" * 5000, [], [[]], [None], [1, "x"], ["x", 1], [[1], ["x"]], {}, {"a": {}},
    {"": None}, [{}], [{"role": "user"}], [{"role": "tool", "content": "x"}], {"type": "function"}, [1] * 600,
    ["x"] * 200, "stop",
]  # fmt: skip


@pytest.fixture(scope="module")
def server() -> Iterator[Hosted]:
    with parts.hosted(parts.loaded(), max_tokens=8, max_adapt=50, max_body=20_000) as running:
        yield running


def mutated(rng: random.Random, value: Any) -> Any:
    """The value with something wrong somewhere, more often than not."""
    if rng.random() < 0.25:
        return rng.choice(ODD)
    if isinstance(value, dict):
        changed = {key: mutated(rng, each) if rng.random() < 0.4 else each for key, each in value.items()}
        if rng.random() < 0.2 and changed:
            changed.pop(rng.choice(list(changed)))
        if rng.random() < 0.2:
            changed[rng.choice(["", "model", "n", "stop", "echo", "user", "\ud800", "messages", "prompt"])] = (
                rng.choice(ODD)
            )
        return changed
    if isinstance(value, list):
        return [mutated(rng, each) for each in value] * rng.choice([0, 1, 1, 2])
    return value


def body(rng: random.Random) -> tuple[str, bytes]:
    """A path and what is sent there."""
    path, valid = rng.choice(VALID)
    content = json.dumps(mutated(rng, valid)).encode()
    kind = rng.random()
    if kind < 0.1:
        content = content[: rng.randrange(len(content) + 1)]
    elif kind < 0.2:
        at = rng.randrange(len(content))
        content = content[:at] + rng.randbytes(rng.randrange(1, 5)) + content[at + 1 :]
    elif kind < 0.22:
        content = rng.randbytes(rng.randrange(200))
    elif kind < 0.24:
        content = rng.choice([b"[", b'{"a":']) * rng.choice([10, 1000, 3000])
    elif kind < 0.26:
        content = b'{"prompt": ' + b"9" * 6000 + b"}"
    return path, content


def bombard(server: Hosted, count: int, seed: int) -> dict[int, int]:
    """How often each status came."""
    rng, found = random.Random(seed), {}
    types = ["application/json"] * 12 + [
        "application/json; charset=utf-16",
        "text/plain",
        "multipart/form-data",
        "\xff",
        "",
    ]
    with httpx.Client(base_url=server.url, timeout=60) as client:
        for number in range(count):
            path, content = body(rng)
            headers = {b"content-type": rng.choice(types).encode("latin-1")}
            method = "POST" if rng.random() < 0.97 else rng.choice(["GET", "PUT", "DELETE", "OPTIONS", "HEAD"])
            answer = client.request(method, f"/v1/{path}", content=content, headers=headers)
            assert answer.status_code < 500, (number, method, path, content, answer.text)
            if answer.status_code >= 400 and method != "HEAD":
                assert answer.json()["error"]["message"], (number, content)
            found[answer.status_code] = found.get(answer.status_code, 0) + 1
    assert server.serving.worker.alive
    server.until("running_requests", 0)
    server.until("decoding_rows", 0)
    assert server.metric("failed_requests_total") == 0
    return found


def test_malformed_requests_never_fail_inside(server: Hosted):
    found = bombard(server, 300, 0)
    assert found[200] > 10  # some are fine
    assert found[400] > 150
    assert {404, 405, 413} & set(found)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_ten_thousand_malformed_requests(server: Hosted):
    bombard(server, 10_000, 1)


def checked(server: Hosted, examples: int, mode: Any, check: Callable[[Any], None]) -> None:
    """Every operation of the OpenAPI document with that many generated requests each."""
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    operations = [found.ok() for found in schema.get_all_operations()]
    assert len(operations) == 6
    for operation in operations:
        if mode is schemathesis.GenerationMode.NEGATIVE and operation.method != "post":
            continue  # without a body there is nothing to get wrong

        @given(operation.as_strategy(generation_mode=mode))
        @settings(
            max_examples=examples,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        def run(case: Any) -> None:
            check(case)

        run()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("mode", ["POSITIVE", "NEGATIVE"])
def test_answers_are_what_the_openapi_document_says(server: Hosted, mode: str):
    from schemathesis.specs.openapi import checks

    wanted = [
        schemathesis.checks.not_a_server_error,
        checks.status_code_conformance,
        checks.content_type_conformance,
        checks.response_schema_conformance,
    ]
    if mode == "NEGATIVE":
        wanted.append(checks.negative_data_rejection)

    def check(case: Any) -> None:
        response = case.call(base_url=server.url, timeout=60)
        if response.status_code != 413:  # too long is no matter of the schema
            case.validate_response(response, checks=wanted)

    checked(server, 6, schemathesis.GenerationMode[mode], check)
