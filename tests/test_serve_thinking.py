"""Thinking over HTTP: through OpenAI's client, beside others, within its budget, and what is refused."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest
import serve_parts as parts
from serve_parts import CHAT, NO_END, SKY, Hosted, hosted, loaded

from wren.generate import Engine
from wren.serve.thinking import DEFAULT
from wren.think import read
from wren.think.case import Case
from wren.think.thought import Thought


@pytest.fixture(scope="module")
def server() -> Iterator[Hosted]:
    with hosted(loaded(), max_budget=4000) as running:
        yield running


def ask(server: Hosted, **options: Any) -> Any:
    extra = {key: options.pop(key) for key in ("budget", "algorithm") if key in options}
    with server.client() as client:
        usual: dict[str, Any] = {"model": "tiny", "messages": SKY, "seed": 5, "max_tokens": 12}
        given = {key: value for key, value in {**usual, **options}.items() if value is not None}
        found = client.chat.completions.create(**given, extra_body=extra)
        return list(found) if options.get("stream") else found


def by_itself(algorithm: str, budget: int, max_tokens: int = 12) -> tuple[str, int]:
    """What the algorithm says with an engine of its own, and the tokens that it took."""
    engine = Engine(loaded().model, parts.FP32, vocab_size=parts.TOKENIZER.vocab_size)
    case = Case(
        prompt=tuple(parts.chat_prompt(SKY)), budget=budget, max_tokens=max_tokens, seed=5,
        text=lambda tokens: CHAT.reply(list(tokens)).content, answer=lambda text: text, encode=parts.TOKENIZER.encode,
    )  # fmt: skip
    thought = Thought(read(algorithm), case, engine, parts.SPECIAL)
    thought.begin()
    while not thought.done:
        engine.step()
        thought.advance()
    assert thought.chosen is not None
    return case.text(thought.chosen.tokens), case.spent


@pytest.mark.parametrize("algorithm", ["vote", "weighted_vote", "best_by_score", "greedy"])
def test_the_answer_is_the_algorithms_own_and_its_tokens_are_counted(server, algorithm):
    text, spent = by_itself(algorithm, 120)
    found = ask(server, budget=120, algorithm=algorithm)
    assert found.choices[0].message.content == text
    assert found.usage.completion_tokens == spent <= 120
    assert found.usage.prompt_tokens == len(parts.chat_prompt(SKY))


def test_greedy_thinking_is_the_plain_answer(server):
    plain = ask(server, temperature=0)
    assert ask(server, budget=50, algorithm="greedy").choices[0].message.content == plain.choices[0].message.content


def test_a_budget_alone_votes(server):
    assert ask(server, budget=100).choices[0].message.content == by_itself(DEFAULT, 100)[0]


def test_without_max_tokens_a_budget_holds_several_replies(server):
    found = ask(server, budget=200, max_tokens=None)
    assert 25 < found.usage.completion_tokens <= 200


def test_a_stream_brings_the_chosen_reply_and_its_end(server):
    whole = ask(server, budget=120)
    chunks = ask(server, budget=120, stream=True, stream_options={"include_usage": True})
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == whole.choices[0].finish_reason
    assert chunks[-1].usage == whole.usage


def test_thoughts_beside_each_other_and_plain_requests_say_what_they_say_alone(server):
    def go(i: int) -> str:
        if i % 3 == 2:
            return ask(server, seed=i, logit_bias=NO_END).choices[0].message.content
        return ask(server, seed=i, budget=100, algorithm=("vote", "best_by_score")[i % 3]).choices[0].message.content

    alone = [go(i) for i in range(9)]
    with ThreadPoolExecutor(9) as pool:
        assert list(pool.map(go, range(9))) == alone
    assert len(set(alone)) > 3


def test_nothing_is_kept_when_the_thoughts_are_over(server):
    for seed in range(5):
        ask(server, seed=seed, budget=60)
    server.until("decoding_rows", 0)
    assert len(server.serving.worker._thoughts) == 0
    assert server.serving.worker.engine.bytes_in_use <= server.serving.worker.prefixes.bytes + 1


def test_a_client_that_goes_away_ends_its_thought():
    with hosted(loaded(), max_budget=200_000, max_tokens=400) as server:
        with server.client(timeout=0.3) as client, pytest.raises(openai.APITimeoutError):
            client.chat.completions.create(
                model="tiny",
                messages=SKY,  # type: ignore[arg-type]
                max_tokens=400,
                extra_body={"budget": 200_000},
            )
        server.until("decoding_rows", 0)
        assert server.metric("cancelled_requests_total") == 1
        assert len(server.serving.worker._thoughts) == 0


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"budget": 5, "max_tokens": 12}, "less than one answer"),
    ({"budget": 0}, "greater than or equal to 1"),
    ({"budget": 5000}, "at most 4000"),
    ({"budget": 50, "algorithm": "votes"}, "did you mean 'vote'"),
    ({"budget": 50, "algorithm": "best_of_n"}, "verifier"),
    ({"budget": 50, "algorithm": "vote:heat=3"}, "heat"),
    ({"budget": 50, "n": 2}, "n 1"),
    ({"budget": 50, "temperature": 0.5}, "temperature does not go"),
    ({"budget": 50, "logprobs": True}, "logprobs does not go"),
    ({"budget": 50, "stop": "a"}, "stop does not go"),
]


@pytest.mark.parametrize(("options", "sentence"), WRONG, ids=str)
def test_what_cannot_be_thought_is_told(server, options, sentence):
    with pytest.raises(openai.BadRequestError, match=sentence):
        ask(server, **options)


def test_a_thought_that_fails_is_told_and_the_server_goes_on(server, monkeypatch):
    def advance(self: Thought) -> None:
        from wren.errors import DivergedError

        raise DivergedError("The model's output is not a number.")

    with monkeypatch.context() as patched:
        patched.setattr(Thought, "advance", advance)
        with pytest.raises(openai.InternalServerError, match="not a number"):
            ask(server, budget=50)
    assert ask(server, budget=50).choices[0].message.content is not None
