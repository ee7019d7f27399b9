"""Tools over HTTP: a model that knows two calls by heart, through OpenAI's client; and calls token by token."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import serve_parts as parts
import torch
from serve_parts import CHAT, TOKENIZER, Hosted

from wren import recipes
from wren.generate import Drawn, Event, Loaded
from wren.serve import asking, schema
from wren.serve.rows import Delta, Row
from wren.tokenizer.chat import Message, read_messages

TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]
CALL = '{"name": "add", "arguments": {"a": 2, "b": 3}}'
ASKED = {"role": "user", "content": "2 + 3?"}
TALK = [
    Message("user", "2 + 3?"),
    Message("assistant", "Let me see.", (CALL,)),
    Message("tool", "5"),
    Message("assistant", "It is 5."),
]

AT_ONCE = [Message("user", "4 + 1?"), Message("assistant", "", ('{"name": "add", "arguments": {"a": 4, "b": 1}}',))]


@pytest.fixture(scope="module")
def server() -> Iterator[Hosted]:
    """Its model says the turns of TALK and of AT_ONCE."""
    settings = ["depth=1", "dim=48", "num_heads=2", "context_len=160"]
    torch.manual_seed(0)
    model = recipes.build("llama", vocab_size=320, settings=settings).model.build()
    rows = [torch.tensor([CHAT.encode(talk, TOOLS).tokens]) for talk in (TALK, AT_ONCE)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(300):
        losses = [torch.nn.functional.cross_entropy(model(row[:, :-1])[0], row[0, 1:]) for row in rows]
        optimizer.zero_grad()
        sum(losses).backward()  # type: ignore[union-attr]
        optimizer.step()
        if max(losses) < 0.02:
            break
    assert max(losses) < 0.02
    with parts.hosted(Loaded(model.eval(), TOKENIZER, 1)) as running:
        yield running


def ask(server: Hosted, messages: list[Any], **options: Any) -> Any:
    with server.client() as client:
        usual = {"model": "tiny", "tools": TOOLS, "temperature": 0, "max_tokens": 60}
        found = client.chat.completions.create(messages=messages, **{**usual, **options})
        return list(found) if options.get("stream") else found


def test_a_call_its_answer_and_the_last_word(server: Hosted):
    found = ask(server, [ASKED]).choices[0]
    assert (found.message.content, found.finish_reason) == ("Let me see.", "tool_calls")
    (call,) = found.message.tool_calls
    assert (call.type, call.function.name, json.loads(call.function.arguments)) == ("function", "add", {"a": 2, "b": 3})
    said = found.message.model_dump(exclude_none=True)
    messages = [ASKED, said, {"role": "tool", "tool_call_id": call.id, "content": "5"}]
    assert read_messages([ASKED, said])[1].calls == (CALL,)
    last = ask(server, messages)
    assert (last.choices[0].message.content, last.choices[0].finish_reason) == ("It is 5.", "stop")
    assert last.choices[0].message.tool_calls is None
    assert last.usage.prompt_tokens_details.cached_tokens > 0  # the call was part of what is kept


def test_calls_in_a_stream(server: Hosted):
    chunks = ask(server, [ASKED], stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "Let me see."
    (calls,) = [chunk.choices[0].delta.tool_calls for chunk in chunks if chunk.choices[0].delta.tool_calls]
    assert [(call.index, call.function.name) for call in calls] == [(0, "add")]
    assert calls[0].id.startswith("call_")
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "add"}}])
@pytest.mark.parametrize("others", [[], [{"type": "function", "function": {"name": "sub"}}]])
def test_a_call_that_is_asked_for_comes_first(server: Hosted, choice: Any, others: list[Any]):
    """What is forced is what the model would have written, token by token, so that it goes on as if it had."""
    body = schema.ChatRequest.model_validate(
        {"messages": [{"role": "user", "content": "4 + 1?"}], "tools": [*TOOLS, *others], "tool_choice": choice}
    )
    (made,) = asking.chat(server.serving.served, body).asks
    own = CHAT.encode(AT_ONCE, [*TOOLS, *others]).tokens
    assert list(made.request.prompt) == own[: len(made.request.prompt)]
    assert len(made.request.prompt) > own.index(CHAT.call_id) + 1
    if not others:
        found = ask(server, [{"role": "user", "content": "4 + 1?"}], tool_choice=choice).choices[0]
        assert json.loads(found.message.tool_calls[0].function.arguments) == {"a": 4, "b": 1}
        assert found.message.content is None
        assert found.finish_reason == "tool_calls"


def test_without_tools_nothing_is_called(server: Hosted):
    for options in ({"tool_choice": "none"}, {"tools": []}):
        found = ask(server, [ASKED], **options).choices[0]
        assert found.message.tool_calls is None
        assert found.finish_reason != "tool_calls"


class _Handle:
    completions = ()


def read(
    tokens: list[int], finish: str = "stop", written: list[int] | None = None, stop: tuple[str, ...] = ()
) -> Delta:
    """All that a row tells of these tokens, as one."""
    row = Row(TOKENIZER, 0, stop, chat=CHAT, written=written)
    events = [Event(_Handle(), 0, Drawn(token, -1.0, -1.0), None) for token in tokens]  # type: ignore[arg-type]
    last = Drawn(CHAT.end_id, -1.0, -1.0) if finish == "stop" else None
    events.append(Event(_Handle(), 0, last, finish))  # type: ignore[arg-type]
    deltas = [delta for event in events if (delta := row.push(event)) is not None]
    text = "".join(delta.text for delta in deltas)
    told = tuple(token for delta in deltas for token in delta.tokens)
    return Delta(0, text, told, tuple(call for delta in deltas for call in delta.calls), deltas[-1].finish)


def said(text: str, *calls: str) -> list[int]:
    return [*TOKENIZER.encode(text), *(t for call in calls for t in (CHAT.call_id, *TOKENIZER.encode(call)))]


def test_calls_token_by_token():
    other = '{"name": "x", "arguments": "é"}'
    assert read(said("Hm.", CALL, other))[1:] == ("Hm.", read(said("Hm."))[2], (CALL, other), "tool_calls")
    assert read(said("", CALL))[1:] == ("", (), (CALL,), "tool_calls")
    broken = '{"name": "add", "argu'
    assert read(said("Hm.", broken)).text == "Hm." + broken
    assert read(said("Hm.", broken)).finish == "stop"
    assert read(said("Hm.", broken, CALL))[3:] == ((CALL,), "tool_calls")
    assert read(said("Hm.", broken), finish="length").finish == "length"
    begun = TOKENIZER.encode(CALL)
    assert read(begun[4:], written=begun[:4]).calls == (CALL,)


def test_half_characters_and_stop_strings_before_a_call():
    half = TOKENIZER.encode("é")[:1]
    assert read([*half, CHAT.call_id, *TOKENIZER.encode(CALL)])[1:4:2] == ("�", (CALL,))
    cut = read(said("abc STOP def", CALL), stop=("STOP",))
    assert (cut.text, cut.calls, cut.finish) == ("abc ", (), "stop")
    kept = read(said("abc ST", CALL), stop=("STOP",))
    assert (kept.text, kept.calls) == ("abc ST", (CALL,))
