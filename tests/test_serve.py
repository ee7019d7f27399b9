"""The server through OpenAI's own client: what it says is what the engine says in this process."""

import dataclasses
import itertools
import json
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
import serve_parts as parts
import torch
from serve_parts import NO_END, SKY, TOKENIZER, Hosted, chat_prompt, expected, text, with_document

from wren.generate import row_seed
from wren.serve import asking, schema
from wren.serve.errors import ApiError


@pytest.fixture(scope="module")
def server() -> Iterator[Hosted]:
    with parts.hosted(parts.loaded()) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Hosted) -> Iterator[openai.OpenAI]:
    with server.client() as made:
        yield made


def test_the_models_that_are_there(client: openai.OpenAI):
    (model,) = client.models.list().data
    assert model.id == "tiny"
    assert client.models.retrieve("tiny").model_dump()["context_len"] == parts.CONTEXT
    with pytest.raises(openai.NotFoundError, match="no model of that name"):
        client.models.retrieve("gpt-4")
    with pytest.raises(openai.NotFoundError, match="it is tiny") as error:
        client.chat.completions.create(model="gpt-4", messages=SKY)  # type: ignore[arg-type]
    assert (error.value.code, error.value.param, error.value.type) == (
        "model_not_found",
        "model",
        "invalid_request_error",
    )


def chat(client: openai.OpenAI, **options: Any) -> Any:
    usual = {"model": "tiny", "messages": SKY, "max_tokens": 24, "seed": 5, "temperature": 1.0, "logit_bias": NO_END}
    return client.chat.completions.create(**{**usual, **options})


def test_a_whole_answer_is_what_the_engine_says(client: openai.OpenAI):
    prompt = chat_prompt(SKY)
    found = chat(client, n=3)
    wanted = expected(prompt, n=3, max_tokens=24, temperature=1.0, seed=5)
    assert [choice.message.content for choice in found.choices] == list(map(text, wanted))
    assert len({choice.message.content for choice in found.choices}) == 3
    assert [choice.index for choice in found.choices] == [0, 1, 2]
    assert {choice.finish_reason for choice in found.choices} == {"length"}
    usage = found.usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (
        len(prompt),
        3 * 24,
        len(prompt) + 72,
    )
    assert found.choices[0].message.role == "assistant"


def test_seeds(client: openai.OpenAI):
    first, again, other = (chat(client, seed=seed).choices[0].message.content for seed in (5, 5, 6))
    assert first == again != other
    unsaid = {chat(client, seed=openai.omit).choices[0].message.content for _ in range(3)}
    assert len(unsaid) == 3
    assert chat(client, seed=-3).choices[0].message.content == chat(client, seed=2**63 - 3).choices[0].message.content


def test_a_stream_begins_with_the_role_and_ends_with_what_it_cost(server: Hosted, client: openai.OpenAI):
    whole = [choice.message.content for choice in chat(client, n=2).choices]
    chunks = list(chat(client, n=2, stream=True, stream_options={"include_usage": True}))
    assert [chunk.choices[0].delta.role for chunk in chunks[:2]] == ["assistant", "assistant"]
    texts, ends = ["", ""], {}
    for chunk in chunks[:-1]:
        assert chunk.usage is None
        (choice,) = chunk.choices
        texts[choice.index] += choice.delta.content or ""
        if choice.finish_reason is not None:
            ends[choice.index] = choice.finish_reason
    assert texts == whole
    assert ends == {0: "length", 1: "length"}
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == 48
    assert len({chunk.id for chunk in chunks}) == 1
    body = {"messages": SKY, "max_tokens": 3, "stream": True}
    raw = server.post("chat/completions", body)
    assert raw.headers["content-type"].startswith("text/event-stream")
    lines = [line for line in raw.text.split("\n\n") if line]
    assert lines[-1] == "data: [DONE]"
    assert all("usage" not in json.loads(line.removeprefix("data: ")) for line in lines[:-1])


def test_stop_strings_span_tokens(client: openai.OpenAI):
    free = chat(client).choices[0].message.content
    bounds = list(itertools.accumulate(len(TOKENIZER.decode([token])) for token in TOKENIZER.encode(free)))
    middle = bounds[len(bounds) // 2]
    stop = free[middle - 1 : middle + 2]  # across the end of a token
    cut = free[: free.index(stop)]
    for given in (stop, ["never there", stop]):
        found = chat(client, stop=given).choices[0]
        assert (found.message.content, found.finish_reason) == (cut, "stop")
        chunks = list(chat(client, stop=given, stream=True))
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == cut
        assert chunks[-1].choices[0].finish_reason == "stop"


def test_log_probabilities_are_the_models(client: openai.OpenAI):
    (wanted,) = expected(chat_prompt(SKY), max_tokens=24, temperature=0.7, seed=5)
    found = chat(client, logprobs=True, top_logprobs=3, temperature=0.7).choices[0]
    told = found.logprobs.content
    assert [each.logprob for each in told] == pytest.approx(wanted.logprobs, abs=1e-9)
    assert [tuple(each.bytes) for each in told] == [tuple(TOKENIZER.decode_bytes([t])) for t in wanted.tokens]
    for each, drawn in zip(told, wanted.drawn, strict=True):
        assert [top.logprob for top in each.top_logprobs] == pytest.approx([value for _, value in drawn.top], abs=1e-9)
    chunks = chat(client, logprobs=True, top_logprobs=3, temperature=0.7, stream=True)
    streamed = [
        each for chunk in chunks if chunk.choices[0].logprobs for each in chunk.choices[0].logprobs.content or ()
    ]
    assert streamed == told
    assert chat(client, logprobs=True).choices[0].logprobs.content[0].top_logprobs == []
    assert chat(client).choices[0].logprobs is None


def test_tokens_behind_a_stop_string_are_not_told(client: openai.OpenAI):
    free = chat(client).choices[0].message.content
    stop = free[10:12]
    found = chat(client, stop=stop, logprobs=True).choices[0]
    whole = b"".join(bytes(each.bytes) for each in found.logprobs.content).decode(errors="replace")
    assert whole.startswith(found.message.content)
    assert len(found.logprobs.content) < 24


def complete(client: openai.OpenAI, prompt: Any, **options: Any) -> Any:
    usual = {"model": "tiny", "max_tokens": 6, "seed": 1, "temperature": 1.0, "logit_bias": NO_END}
    return client.completions.create(prompt=prompt, **{**usual, **options})


@torch.no_grad()
def test_prompts_as_tokens_with_echo_give_the_prompts_log_probabilities(client: openai.OpenAI):
    prompts = [with_document("The sky is blue."), with_document("It is red, the sea is green.")[:9]]
    found = complete(client, prompts, echo=True, logprobs=2, max_tokens=1, temperature=0)
    for prompt, choice in zip(prompts, found.choices, strict=True):
        logits_TV = parts.loaded().model(torch.tensor([prompt]))[0].log_softmax(-1)
        wanted = logits_TV[:-1].gather(1, torch.tensor(prompt[1:])[:, None])[:, 0]
        told = choice.logprobs
        assert told.token_logprobs[0] is None
        assert told.top_logprobs[0] is None
        assert told.token_logprobs[1 : len(prompt)] == pytest.approx(wanted.tolist(), abs=1e-4)
        assert len(told.tokens) == len(prompt) + 1
        likeliest = [max(top.values()) for top in told.top_logprobs[1 : len(prompt)]]
        assert likeliest == pytest.approx(logits_TV[:-1].amax(-1).tolist(), abs=1e-4)
        assert choice.text.startswith(TOKENIZER.decode(prompt))
    nothing = complete(client, prompts[0], echo=True, logprobs=1, max_tokens=0)
    assert nothing.choices[0].text == "The sky is blue."
    assert nothing.choices[0].logprobs.token_logprobs == found.choices[0].logprobs.token_logprobs[:-1]
    assert (nothing.usage.completion_tokens, nothing.usage.prompt_tokens) == (0, len(prompts[0]))


def test_texts_with_echo_and_offsets(client: openai.OpenAI):
    found = complete(client, "The sky is", echo=True, logprobs=0).choices[0]
    assert found.text.startswith("The sky is")
    told = found.logprobs
    starts = list(itertools.accumulate((len(token) for token in told.tokens), initial=0))[:-1]
    assert told.text_offset[: len(TOKENIZER.encode("The sky is"))] == starts[: len(TOKENIZER.encode("The sky is"))]
    assert None not in told.token_logprobs  # the start of the document predicts the first one
    pieces = complete(client, "The sky is", echo=True, stream=True, logprobs=0)
    assert "".join(piece.choices[0].text for piece in pieces) == found.text


def test_several_prompts_with_several_completions(client: openai.OpenAI):
    prompts = ["The sky", "It is", ""]
    found = complete(client, prompts, n=2)
    assert [choice.index for choice in found.choices] == list(range(6))
    for i, prompt in enumerate(prompts):
        wanted = expected(with_document(prompt), n=2, max_tokens=6, temperature=1.0, seed=row_seed(1, 2 * i))
        assert [choice.text for choice in found.choices[2 * i : 2 * i + 2]] == list(map(text, wanted))
    assert found.usage.completion_tokens == 36


def test_texts_of_one_request_end_by_themselves(client: openai.OpenAI):
    """Without the bias, tokens that end a document are drawn; they are no text."""
    found = complete(client, "The", n=64, max_tokens=40, logit_bias=openai.omit)
    reasons = {choice.finish_reason for choice in found.choices}
    assert reasons == {"stop", "length"}
    wanted = expected(with_document("The"), n=64, free=False, max_tokens=40, temperature=1.0, seed=1)
    assert [choice.text for choice in found.choices] == list(map(text, wanted))


def test_the_next_turn_reads_its_new_tokens_only(server: Hosted, client: openai.OpenAI):
    first = chat(client, temperature=0, seed=openai.omit).choices[0].message.content
    talk = [*SKY, {"role": "assistant", "content": first}, {"role": "user", "content": "And the sea?"}]
    second = chat(client, messages=talk, temperature=0, seed=openai.omit)
    head = chat_prompt(SKY)
    kept = second.usage.prompt_tokens_details.cached_tokens
    assert kept > len(head)
    assert kept == len(head) + len(TOKENIZER.encode(first))
    assert server.metric("kept_conversations") >= 2
    # with a seed the same request gives the same text, whatever is kept
    (wanted,) = expected(chat_prompt(talk), max_tokens=24, temperature=1.0, seed=5)
    assert chat(client, messages=talk).choices[0].message.content == text(wanted)


def test_roles_and_parts(client: openai.OpenAI):
    plain = [{"role": "system", "content": "Be brief."}, *SKY]
    others = [
        {"role": "developer", "content": [{"type": "text", "text": "Be "}, {"type": "text", "text": "brief."}]},
        {**SKY[0], "name": "Ann"},
    ]
    first, second = (chat(client, messages=messages).choices[0].message.content for messages in (plain, others))
    assert first == second
    assert first != chat(client).choices[0].message.content


WRONG: list[tuple[str, dict[str, Any], int, str | None, str]] = [
    ("chat/completions", {"messages": []}, 400, "messages", "at least 1 item"),
    ("chat/completions", {}, 400, "messages", "missing"),
    ("chat/completions", {"messages": SKY, "temperature": 2.5}, 400, "temperature", "less than or equal to 2"),
    ("chat/completions", {"messages": SKY, "temperature": "1"}, 400, "temperature", "valid number"),
    ("chat/completions", {"messages": SKY, "top_p": -0.1}, 400, "top_p", "greater than or equal to 0"),
    ("chat/completions", {"messages": SKY, "n": 0}, 400, "n", "greater than or equal to 1"),
    ("chat/completions", {"messages": SKY, "n": True}, 400, "n", "integer"),
    ("chat/completions", {"messages": SKY, "max_tokens": 0}, 400, "max_tokens", "greater than or equal to 1"),
    ("chat/completions", {"messages": SKY, "max_tokens": 10**6}, 400, "max_tokens", "at most 512"),
    ("chat/completions", {"messages": SKY, "max_tokens": 510}, 400, "messages", "do not fit the context"),
    ("chat/completions", {"messages": SKY, "temprature": 1}, 400, "temprature", "did you mean 'temperature'"),
    ("chat/completions", {"messages": SKY, "top_logprobs": 2}, 400, "top_logprobs", "logprobs: true"),
    ("chat/completions", {"messages": SKY, "logit_bias": {"9999": 1}}, 400, "logit_bias", "not among 0 to"),
    ("chat/completions", {"messages": SKY, "logit_bias": {"x": 1}}, 400, "logit_bias", "not among 0 to"),
    ("chat/completions", {"messages": SKY, "presence_penalty": 1}, 400, "presence_penalty", "not supported"),
    ("chat/completions", {"messages": SKY, "stream_options": {}}, 400, "stream_options", "stream: true"),
    ("chat/completions", {"messages": SKY, "response_format": {"type": "json_object"}}, 400, "response_format", "text"),
    ("chat/completions", {"messages": [*SKY, {"role": "king", "content": "x"}]}, 400, "messages.1.role", "'system'"),
    ("chat/completions", {"messages": [{"role": "assistant", "content": "x"}]}, 400, "messages", "begins with"),
    ("chat/completions", {"messages": [{"role": "user", "content": " "}]}, 400, "messages", "is empty"),
    ("chat/completions", {"messages": [{"role": "user"}]}, 400, "messages", "no 'content'"),
    ("chat/completions", {"messages": SKY, "tool_choice": "required"}, 400, "tool_choice", "no tools"),
    ("chat/completions", {"messages": SKY, "tools": [{"type": "function"}]}, 400, "tools.0", "a tool is"),
    ("completions", {"prompt": "x", "max_tokens": 0}, 400, "max_tokens", "unless echo"),
    ("completions", {"prompt": [1, -1]}, 400, "prompt.1", "greater than or equal to 0"),
    ("completions", {"prompt": [1, 300]}, 400, "prompt", "this vocabulary has 0 to 299"),
    ("completions", {"prompt": [[]]}, 400, "prompt", "empty list"),
    ("completions", {"prompt": ["x"] * 100, "n": 2}, 400, "n", "at most 128"),
    ("completions", {"prompt": "x", "best_of": 3}, 400, "best_of", "equal"),
    ("completions", {"prompt": "x", "suffix": "y"}, 400, "suffix", "not supported"),
    ("completions", {"prompt": "x", "logprobs": 21}, 400, "logprobs", "less than or equal to 20"),
    ("completions", {"prompt": [5] * 600}, 413, "prompt", "at most 512 tokens"),
    ("completions", {"prompt": "x" * 100_000}, 413, "prompt", "characters is too long"),
    ("completions", {"prompt": "x", "model": "other"}, 404, "model", "it is tiny"),
]


@pytest.mark.parametrize(("path", "body", "status", "param", "said"), WRONG)
def test_wrong_requests_are_refused_with_the_field(
    server: Hosted, path: str, body: dict[str, Any], status: int, param: str | None, said: str
):
    found = server.post(path, body)
    error = found.json()["error"]
    assert (found.status_code, error["param"]) == (status, param)
    assert said in error["message"]
    assert set(error) == {"message", "type", "param", "code"}


def test_bodies_that_are_no_json(server: Hosted):
    url = f"{server.url}/v1/completions"
    for content, said in ((b'{"prompt', "not valid JSON"), (b"[" * 100_000, "JSON"), (b"\xff\xfe", "JSON"), (b"", "")):
        found = httpx.post(url, content=content, headers={"content-type": "application/json"})
        assert found.status_code == 400
        assert said in found.json()["error"]["message"]
    plain = httpx.post(url, content=b'{"prompt": "x"}', headers={"content-type": "text/plain"})
    assert (plain.status_code, "application/json" in plain.json()["error"]["message"]) == (400, True)
    assert httpx.get(url).status_code == 405
    assert httpx.get(f"{server.url}/v1/nothing").json()["error"]["message"] == "There is no /v1/nothing here."


def test_metrics_are_what_prometheus_reads(server: Hosted, client: openai.OpenAI):
    before = server.metric("generated_tokens_total")
    chat(client, max_tokens=7)
    server.until("generated_tokens_total", before + 7)
    found = httpx.get(f"{server.url}/metrics")
    assert found.headers["content-type"].startswith("text/plain; version=0.0.4")
    names = [line.split()[2] for line in found.text.splitlines() if line.startswith("# TYPE")]
    assert len(names) == len(set(names))
    for line in found.text.splitlines():
        if not line.startswith("#"):
            name, value = line.rsplit(" ", 1)
            assert name.startswith("wren_")
            float(value)
    assert server.metric("decoding_rows") == 0
    count = server.metric("time_to_first_token_seconds_count")
    assert count == server.metric("request_seconds_count") > 0


def test_a_vocabulary_without_turns_does_not_chat(server: Hosted):
    served = dataclasses.replace(server.serving.served, chat=None)
    body = schema.ChatRequest.model_validate({"messages": SKY})
    with pytest.raises(ApiError, match="use /v1/completions"):
        asking.chat(served, body)
