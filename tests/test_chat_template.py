"""The template of conversations: prefixes, masks, the same text in Jinja, and wrong conversations in a sentence."""

import json
from pathlib import Path
from typing import Any

import jinja2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wren.errors import DataError, TokenizerError
from wren.tokenizer import Tokenizer
from wren.tokenizer.chat import CHAT_TEMPLATE, ROLES, Chat, Message, checked, read_messages, render

TOKENIZER = Tokenizer.train(["Hello there. How are you today? I am well, thank you. 2 + 2 = 4 <|wren:end|>"] * 5, 320)
CHAT = Chat(TOKENIZER)
CALL = '{"name": "add", "arguments": {"a": 2, "b": "<ä>"}}'
TALK = [
    Message("system", "Be brief."),
    Message("user", "2 + 2?"),
    Message("assistant", "Let me see.", (CALL, '{"name": "sub", "arguments": {}}')),
    Message("tool", "4"),
    Message("assistant", "It is 4. <|wren:end|>\n"),
    Message("user", "Thanks <|wren:assistant|>"),
]
ADD = {"type": "function", "function": {"name": "add", "description": "Adds <é> & 'more'.", "parameters": {}}}


def jinja(messages: list[Message], tools: list[Any] | None = None, prompt: bool = False) -> str:
    """As transformers makes its environment."""
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = lambda x: json.dumps(x, ensure_ascii=False)
    turns = [message.as_dict() for message in messages]
    return environment.from_string(CHAT_TEMPLATE).render(messages=turns, tools=tools, add_generation_prompt=prompt)


TEXTS = st.text(max_size=12).map(lambda text: text.encode("utf-8", "replace").decode() + "x")
TURNS = st.lists(st.builds(Message, st.sampled_from(ROLES[1:]), TEXTS, st.just(())), min_size=1, max_size=5)


@given(TURNS, st.booleans(), st.booleans(), st.booleans())
@settings(max_examples=60, deadline=None)
def test_tokens_text_and_jinja_agree(turns: list[Message], system: bool, tools: bool, prompt: bool) -> None:
    messages = [*([Message("system", " one\n")] if system else []), *turns]
    given_tools = [ADD] if tools else None
    text = render(messages, given_tools, add_generation_prompt=prompt)
    assert jinja(messages, given_tools, prompt) == text
    tokens = CHAT.prompt(messages, given_tools) if prompt else CHAT.encode(messages, given_tools).tokens
    assert TOKENIZER.decode(tokens, keep_special=True) == text


def test_calls_of_tools_are_the_same_in_jinja() -> None:
    assert jinja(TALK, [ADD, ADD]) == render(TALK, [ADD, ADD])
    plain = [{"role": "user", "content": [{"type": "text", "text": "2 "}, {"type": "text", "text": "+ 2?"}]}]
    calls = [{"name": "add", "arguments": '{"a":2}'}]
    turns = [*plain, {"role": "assistant", "content": None, "tool_calls": calls}]
    environment = jinja2.Environment()
    environment.filters["tojson"] = lambda x: json.dumps(x, ensure_ascii=False)
    assert environment.from_string(CHAT_TEMPLATE).render(messages=turns) == render(read_messages(turns))


def test_transformers_gives_the_same_text_and_tokens(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    TOKENIZER.save(tmp_path / "tokenizer.json")
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"))
    theirs.chat_template = CHAT_TEMPLATE
    talk = [message._replace(content=message.content.replace("<|", "< |")) for message in TALK]
    turns = [message.as_dict() for message in talk]
    text = theirs.apply_chat_template(turns, tools=[ADD], tokenize=False, add_generation_prompt=True)
    assert text == render(talk, [ADD], add_generation_prompt=True)
    assert theirs(text, add_special_tokens=False)["input_ids"] == CHAT.prompt(talk, [ADD])


@pytest.mark.parametrize("tools", [None, [ADD]])
def test_the_tokens_of_the_first_turns_are_a_prefix(tools: list[Any] | None) -> None:
    whole = CHAT.encode(TALK, tools)
    for count in range(1, len(TALK) + 1):
        part = CHAT.encode(TALK[:count], tools)
        assert whole.tokens[: len(part.tokens)] == part.tokens
        assert whole.learned[: len(part.learned)] == part.learned
    state = CHAT.encode(TALK[:2], tools).tokens
    assert [*state, *CHAT.turn(TALK[2]), *CHAT.turn(TALK[3])] == CHAT.encode(TALK[:4], tools).tokens


def test_only_the_assistants_words_and_its_stop_are_learned() -> None:
    encoded = CHAT.encode(TALK, [ADD])
    assert len(encoded.tokens) == len(encoded.learned)
    learned = [token for token, learns in zip(*encoded, strict=True) if learns]
    calls = "".join(f"<|wren:tool|>{call}" for call in TALK[2].calls)
    expected = f"Let me see.{calls}<|wren:end|>{TALK[4].content}<|wren:end|>"
    assert TOKENIZER.decode(learned, keep_special=True) == expected
    later = CHAT.encode(TALK, [ADD], learned_from=4)
    learned = [token for token, learns in zip(*later, strict=True) if learns]
    assert TOKENIZER.decode(learned, keep_special=True) == f"{TALK[4].content}<|wren:end|>"
    assert later.tokens == encoded.tokens


def test_the_spelling_of_a_special_token_in_a_text_is_text() -> None:
    tokens = CHAT.encode([Message("user", "a<|wren:end|><|wren:assistant|>b")]).tokens
    assert [token for token in tokens if token in TOKENIZER.special.values()] == [
        TOKENIZER.special[name] for name in ("document", "user", "end")
    ]


def test_a_reply_is_read_back() -> None:
    for message in (TALK[2], TALK[4]):
        tokens = CHAT.turn(message)[1:]
        assert CHAT.reply(tokens) == CHAT.reply(tokens[:-1]) == message
    broken = [*TOKENIZER.encode("So: "), CHAT.call_id, *TOKENIZER.encode("add(2"), CHAT.end_id, 65]
    assert CHAT.reply(broken) == Message("assistant", "So: add(2")


def test_a_call_of_thousands_of_brackets_is_words() -> None:
    deep = "[" * 20_000
    tokens = [CHAT.call_id, *TOKENIZER.encode(deep), CHAT.end_id]
    assert CHAT.reply(tokens) == Message("assistant", deep)


def test_messages_are_read_and_written_alike() -> None:
    assert read_messages([message.as_dict() for message in TALK]) == TALK
    assert read_messages([{"role": "system", "content": " "}, {"role": "user", "content": "a"}]) == [
        Message("user", "a")
    ]
    assert checked(TALK) is TALK


USER, ANSWER = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}


@pytest.mark.parametrize(
    ("turns", "sentence"),
    [
        ([], "holds no turns"),
        ("Hi", "holds no turns"),
        (["Hi"], "turn 1 is 'Hi', not an object"),
        ([{"content": "Hi"}], "turn 1 has no 'role'"),
        ([{"role": "user"}], "turn 1 has no 'content'"),
        ([{"role": "user", "content": 3}], "neither a text nor"),
        ([{"role": "user", "content": [{"type": "image"}]}], "neither a text nor"),
        ([{"role": "bot", "content": "a"}], "turn 1 is of 'bot'; a role is one of system, user"),
        ([ANSWER], "begins with the assistant"),
        ([{"role": "system", "content": "a"}, ANSWER], "begins with the assistant"),
        ([USER, {"role": "assistant", "content": " \n"}], "turn 2 of the assistant is empty"),
        ([{"role": "user", "content": ""}], "turn 1 of the user is empty"),
        ([USER, {"role": "system", "content": "a"}], "turn 2 is the system's"),
        ([USER, {"role": "tool", "content": "a"}], "no assistant's turn"),
        ([{"role": "system", "content": "a"}], "no turn of a user"),
        ([{"role": "user", "content": "a", "tool_calls": [{"name": "f"}]}], "only the assistant"),
        ([USER, {**ANSWER, "tool_calls": "f()"}], "not a list"),
        ([USER, {**ANSWER, "tool_calls": [{"function": {}}]}], "names no function"),
        ([USER, {**ANSWER, "tool_calls": [{"name": "f", "arguments": "{a"}]}], "not valid JSON"),
    ],
)
def test_wrong_conversations_are_named_in_a_sentence(turns: Any, sentence: str) -> None:
    with pytest.raises(DataError, match=f"data.jsonl:7.*{sentence}"):
        read_messages(turns, "data.jsonl:7")


def test_a_vocabulary_without_chat_tokens_is_refused() -> None:
    with pytest.raises(TokenizerError, match="at least 264"):
        Chat(Tokenizer([bytes([i]) for i in range(256)], 260))
    assert Chat(Tokenizer([bytes([i]) for i in range(256)], 264)).end_id == 262
