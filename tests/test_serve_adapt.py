"""Learning before an answer over HTTP: the adapter is the request's own, beside others, and gone at its end."""

import copy
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import httpx
import openai
import pytest
import serve_parts as parts
import torch
from serve_parts import NO_END, SKY, Hosted, hosted, loaded

from wren.adapt.learner import Learner, adapting
from wren.adapt.lessons import Lessons, lesson_config
from wren.adapt.stream import Read, adapt
from wren.generate import Engine, Loaded, Request, Sampling

SEA = "The sea is green. The sun is red. "
LONG = [{"role": "user", "content": SEA * 8}]  # the gate trusts an adapter that has read it
FAST = {"lr": 0.02}
CONFIG = lesson_config(parts.CONTEXT)


def own() -> Loaded:
    """The model by itself: a server that adapts puts its adapters on it."""
    return loaded()._replace(model=copy.deepcopy(loaded().model))


@pytest.fixture(scope="module")
def server() -> Iterator[Hosted]:
    with hosted(own(), max_adapt=2000, max_budget=4000) as running:
        yield running


def ask(server: Hosted, **fields: Any) -> dict[str, Any]:
    body = {"messages": LONG, "seed": 5, "max_tokens": 12, "logit_bias": NO_END, **fields}
    found = server.post("chat/completions", {key: value for key, value in body.items() if value is not None})
    assert found.status_code == 200, found.text
    return found.json()


def lessons_of(server: Hosted) -> Lessons:
    assert server.serving.worker.lessons is not None
    return server.serving.worker.lessons


def said(answer: dict[str, Any]) -> str:
    return answer["choices"][0]["message"]["content"]


def by_hand(text: list[int], prompt: list[int], lr: float = 0.02) -> tuple[Read, str]:
    """What is read of the text, and what a copy of the model with the adapter in its weights says to the prompt."""
    model, learners = copy.deepcopy(loaded().model), list[Learner]()
    with adapting(model) as adapters:
        (read,) = adapt(adapters, [torch.tensor(text)], replace(CONFIG, lr=lr), parts.FP32, learners=learners)
    if read.trusted:
        learners[0].adapter.merge_into(model)
    engine = Engine(model, parts.FP32, vocab_size=parts.TOKENIZER.vocab_size)
    bias = dict.fromkeys(parts.SPECIAL, -100.0)
    (found,) = engine.generate([prompt], sampling=Sampling(max_tokens=12, temperature=1.0, seed=5), bias=bias)
    return read, parts.text(found)


def test_the_answer_is_that_of_a_model_which_has_learned_the_conversation(server):
    prompt = parts.chat_prompt(LONG)
    read, text = by_hand(prompt, prompt)
    found, tokens = ask(server, adapt=FAST), len(prompt) - 1
    assert said(found) == text != said(ask(server))
    told = found["adapt"]
    assert read.trusted
    assert (told["tokens"], told["steps"], told["trusted"], told["rolled_back"]) == (tokens, read.learned, True, 0)
    assert told["loss_before"] == pytest.approx(read.plain / tokens)
    assert told["loss_after"] == pytest.approx(float(read.nats_N.sum()) / tokens)
    assert told["loss_after"] < told["loss_before"]
    assert found["usage"]["prompt_tokens"] == len(prompt)


def test_a_text_beside_the_conversation_is_learned_even_where_it_is_longer_than_the_context(server):
    read, text = by_hand(parts.with_document(SEA * 60), parts.chat_prompt(SKY))
    found = ask(server, messages=SKY, adapt={**FAST, "text": SEA * 60})
    assert found["adapt"]["tokens"] == len(read.nats_N) > parts.CONTEXT
    assert said(found) == text


def test_a_completion_learns_its_prompt(server):
    prompt = parts.with_document(SEA * 8)
    body = {"prompt": SEA * 8, "seed": 5, "max_tokens": 12, "logit_bias": NO_END, "adapt": FAST}
    assert server.post("completions", body).json()["choices"][0]["text"] == by_hand(prompt, prompt)[1]


def test_where_the_gate_does_not_trust_the_adapter_the_answer_is_the_plain_one(server):
    found = ask(server, messages=SKY, adapt=True)
    assert not found["adapt"]["trusted"]
    assert found["adapt"]["loss_before"] == found["adapt"]["loss_after"]
    assert said(found) == said(ask(server, messages=SKY))


@pytest.mark.parametrize("adapt", [None, False])
def test_nothing_is_told_where_nothing_was_asked(server, adapt):
    assert "adapt" not in ask(server, adapt=adapt)


def test_a_stream_tells_what_was_learned_before_its_first_token(server):
    whole = ask(server, adapt=FAST)
    options = {"include_usage": True}
    with server.client() as client:
        chunks = list(
            client.chat.completions.create(
                model="tiny", messages=LONG, seed=5, max_tokens=12, logit_bias=NO_END, stream=True,  # type: ignore
                stream_options=options, extra_body={"adapt": FAST},  # type: ignore
            )
        )  # fmt: skip
    told = [i for i, chunk in enumerate(chunks) if (chunk.model_extra or {}).get("adapt")]
    assert told == [1]
    assert (chunks[1].model_extra or {})["adapt"] == whole["adapt"]
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == said(whole)


def test_an_algorithm_thinks_with_the_adapter(server):
    options = {"logit_bias": None, "budget": 60, "algorithm": "greedy"}
    adapted, plain = (ask(server, adapt=wish, logit_bias=None, temperature=0) for wish in (FAST, None))
    thought = ask(server, adapt=FAST, **options)
    assert thought["adapt"] == adapted["adapt"]
    assert said(thought) == said(adapted) != said(plain) == said(ask(server, **options))


# nothing leaks


def mixed(i: int) -> dict[str, Any]:
    """Request number i of a crowd: adapted to one of two texts, or plain, or thinking."""
    adapted = {"adapt": FAST, "messages": [{"role": "user", "content": (SEA, "It is a blue cat. ")[i % 2] * 8}]}
    return {"seed": i, **({}, adapted, {"budget": 48, "logit_bias": None}, adapted)[i % 4]}


@pytest.mark.parametrize("most", [2, 8])
def test_a_crowd_says_what_each_says_alone(server, most):
    lessons = lessons_of(server)
    lessons.most, before = max(most, lessons._made), lessons.most
    alone = [ask(server, **mixed(i)) for i in range(24)]
    with ThreadPoolExecutor(24) as pool:
        together = list(pool.map(lambda i: ask(server, **mixed(i)), range(24)))
    lessons.most = before
    assert [said(each) for each in together] == [said(each) for each in alone]
    for one, other in zip(alone, together, strict=True):
        assert one.get("adapt") == other.get("adapt")
    assert sum(each.get("adapt", {}).get("trusted", False) for each in alone) >= 6
    server.until("adapters_in_use", 0)


def test_after_an_answer_the_model_is_the_old_one_bit_for_bit(server):
    lessons = lessons_of(server)
    model, tokens_BT = lessons.adapters.model, torch.tensor([parts.chat_prompt(LONG)])
    weights = {name: p.clone() for name, p in model.named_parameters()}
    with torch.no_grad():
        before = model(tokens_BT)
    logprobs = ask(server, logprobs=True)
    assert ask(server, adapt=FAST)["adapt"]["trusted"]
    ask(server, adapt={"lr": 1.0})
    server.until("adapters_in_use", 0)
    with torch.no_grad():
        assert torch.equal(model(tokens_BT), before)
        for learner in lessons._free:
            with lessons.adapters.rows(learner.number):
                assert torch.equal(model(tokens_BT), before)
    assert all(torch.equal(p, weights[name]) for name, p in model.named_parameters())
    assert ask(server, logprobs=True)["choices"] == logprobs["choices"]


def test_states_under_an_adapter_are_no_other_requests():
    with hosted(own(), max_adapt=2000) as server:
        first = ask(server, seed=None, adapt=FAST)
        assert server.metric("kept_conversations") == 0
        turn = {"role": "assistant", "content": said(first)}
        after = [*LONG, turn, *SKY]
        assert ask(server, seed=None, messages=after)["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
        plain = said(ask(server, seed=None))
        assert server.metric("kept_conversations") == 2
        after[1] = {"role": "assistant", "content": plain}
        adapted = ask(server, seed=None, messages=after, adapt=FAST)
        assert adapted["adapt"]["trusted"]
        assert adapted["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
        assert server.metric("kept_conversations") == 2


def test_a_conversation_that_is_not_adapted_goes_on_from_its_kept_state():
    with hosted(own(), max_adapt=2000) as server:
        first = ask(server, messages=SKY, seed=None, adapt=True)
        after = [*SKY, {"role": "assistant", "content": said(first)}, *SKY]
        second = ask(server, messages=after, seed=None, max_tokens=2)
        assert not first["adapt"]["trusted"]
        assert second["usage"]["prompt_tokens_details"]["cached_tokens"] > 0


# ends before the end


def test_a_client_that_goes_away_frees_its_adapter():
    with hosted(own(), max_adapt=200_000) as server:
        body = {"messages": SKY, "max_tokens": 400, "logit_bias": NO_END, "adapt": {"text": SEA * 3000}}
        wait = httpx.Timeout(30, read=0.5)
        with pytest.raises(httpx.ReadTimeout):  # while it learns
            httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=wait)
        server.until("cancelled_requests_total", 1)
        server.until("adapters_in_use", 0)
        lessons = lessons_of(server)
        assert not lessons.busy
        text = {**body, "messages": LONG, "adapt": FAST, "stream": True}
        with httpx.stream("POST", f"{server.url}/v1/chat/completions", json=text, timeout=60) as response:
            lines = (line for line in response.iter_lines() if "adapt" in line)
            assert json.loads(next(lines).removeprefix("data: "))["adapt"]["trusted"]
            assert server.metric("adapters_in_use") == 1  # it answers
        server.until("adapters_in_use", 0)
        server.until("decoding_rows", 0)


def test_lessons_that_wait_for_an_adapter_can_be_left():
    with hosted(own(), max_adapt=200_000) as server:
        lessons_of(server).most = 1
        body = {"messages": SKY, "max_tokens": 4, "adapt": {"text": SEA * 3000}}
        wait = httpx.Timeout(30, read=0.5)

        def leave(_: int) -> None:
            with pytest.raises(httpx.ReadTimeout):
                httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=wait)

        with ThreadPoolExecutor(3) as pool:
            list(pool.map(leave, range(3)))
        server.until("cancelled_requests_total", 3)
        server.until("adapters_in_use", 0)
        assert ask(server, adapt=FAST)["adapt"]["trusted"]


def test_an_adapter_that_leaves_the_finite_numbers_is_taken_back_and_told():
    with hosted(own(), max_adapt=2000) as server:
        lessons = lessons_of(server)
        add = lessons.add
        lessons.add = lambda tokens, lr: add(tokens, 1e30)  # type: ignore[method-assign]
        found = ask(server, adapt=True)
        assert found["adapt"]["rolled_back"] > 0
        assert not found["adapt"]["trusted"]
        assert found["adapt"]["loss_after"] == pytest.approx(found["adapt"]["loss_before"])
        assert said(found) == said(ask(server))


def test_after_a_failure_inside_lessons_begin_anew():
    alone = own()
    with hosted(alone, max_adapt=2000) as server:
        before = ask(server, adapt=FAST)
        old = lessons_of(server)

        def fail() -> Any:
            raise RuntimeError("on purpose")

        old.advance = fail  # type: ignore[method-assign]
        found = server.post("chat/completions", {"messages": LONG, "adapt": True})
        assert found.status_code == 500
        assert lessons_of(server) is not old
        assert said(ask(server, adapt=FAST)) == said(before)
        assert alone.model.adapters is lessons_of(server).adapters
    assert alone.model.adapters is None


# what is refused

WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("chat/completions", {"adapt": "yes"}, "valid boolean"),
    ("chat/completions", {"adapt": 1}, "valid boolean"),
    ("chat/completions", {"adapt": {"lr": 0}}, "'adapt.lr' is 0: should be greater than 0"),
    ("chat/completions", {"adapt": {"lr": 1.5}}, "'adapt.lr' is 1.5: should be less"),
    ("chat/completions", {"adapt": {"lr": "1"}}, "'adapt.lr' is \"1\": should be a valid number"),
    ("chat/completions", {"adapt": {"steps": 3}}, "'adapt.steps' is not a field"),
    ("chat/completions", {"adapt": {"text": ""}}, "at least 1 character"),
    ("chat/completions", {"adapt": {"text": SEA * 300}}, "at most 2,000 tokens are learned here"),
    ("chat/completions", {"adapt": {"text": "x" * 300_000}}, "300,000 characters are to be learned"),
    ("completions", {"prompt": ["a", "b"], "adapt": True}, "several prompts"),
    ("completions", {"prompt": "a", "echo": True, "adapt": True}, "an echo"),
    ("completions", {"prompt": "", "adapt": True}, "nothing to learn from"),
]


@pytest.mark.parametrize(("path", "fields", "sentence"), WRONG, ids=lambda value: str(value)[:40])
def test_what_cannot_be_learned_is_told(server, path, fields, sentence):
    found = server.post(path, {**({"messages": SKY} if path.startswith("chat") else {}), **fields})
    assert found.status_code == 400
    error = found.json()["error"]
    assert sentence in error["message"]
    assert error["type"] == "invalid_request_error"
    assert error["param"]


def test_a_server_adapts_only_where_it_is_told_to():
    with hosted(loaded()) as server, server.client() as client:
        assert loaded().model.adapters is None
        with pytest.raises(openai.BadRequestError, match="--max-adapt"):
            client.chat.completions.create(model="tiny", messages=SKY, extra_body={"adapt": True})  # type: ignore


def test_a_request_without_room_for_its_states_is_refused_before_it_learns():
    with hosted(own(), max_adapt=2000) as server:
        server.serving.worker.engine.max_bytes = server.serving.worker.prefixes.max_bytes + 1000
        found = server.post("chat/completions", {"messages": LONG, "adapt": True})
        assert found.status_code == 400
        assert "more memory" in found.json()["error"]["message"]
        assert server.metric("learned_tokens_total") == 0


def test_an_adapter_that_the_last_step_spoiled_does_not_answer():
    model = own().model
    lessons = Lessons(model, model, parts.FP32, CONFIG)
    lesson = lessons.add(parts.chat_prompt(LONG), 0.02)
    while lesson.last is None or lesson.last.chunks * 32 < len(lesson.text_N) - 1:
        lessons.advance()
    assert lesson.last.trusted
    assert lesson.learner is not None
    with torch.no_grad():
        lesson.learner.adapter.pairs["blocks.0.mlp.up"][1].fill_(1e300)
    assert lessons.advance() is lesson
    assert lesson.learned is not None
    assert (lesson.learned.trusted, lesson.learned.rollbacks, lesson.adapter) == (False, 1, 0)
    assert all((up == 0).all() for _, up in lesson.learner.adapter.pairs.values())


@pytest.mark.parametrize("bits", [8, 4])
def test_an_engine_in_few_bits_decodes_with_what_the_whole_model_learned(bits):
    model, prompt = copy.deepcopy(loaded().model).float(), parts.chat_prompt(LONG)
    engine = Engine(model, parts.FP32, vocab_size=parts.TOKENIZER.vocab_size, bits=bits)
    sampling = Sampling(max_tokens=12, seed=1)
    (before,) = engine.generate([prompt], sampling=sampling)
    lessons = Lessons(model, engine.model, parts.FP32, CONFIG)
    lesson = lessons.add(prompt, 0.02)
    while lessons.busy:
        lessons.advance()
    assert lesson.adapter
    handles = [engine.submit(Request(prompt=prompt, sampling=sampling, adapter=a)) for a in (lesson.adapter, 0)]
    while not all(handle.done for handle in handles):
        engine.step()
    adapted, plain = (handle.completions[0] for handle in handles)
    assert plain.tokens == before.tokens != adapted.tokens
    lessons.drop(lesson)
    lessons.close()
    assert engine.generate([prompt], sampling=sampling)[0].logprobs == before.logprobs
