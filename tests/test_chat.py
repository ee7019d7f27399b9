"""Conversations: a state carried over turns for every mixer, stops, a full context, and nothing lost on errors."""

import dataclasses

import pytest
import torch
from chat_parts import CONTEXT, MODELS, conversation, model
from tune_parts import FP32, chat

from wren.chat.conversation import Conversation, raw_calls
from wren.errors import ConfigError, DataError
from wren.generate import Engine, Sampling, row_seed
from wren.model import LM
from wren.tokenizer.chat import Message

HYBRID = MODELS["gated_delta_net+all"]
SAMPLING = Sampling(max_tokens=5, temperature=1.0, seed=3)


def from_scratch(built: LM, talk: Conversation, number: int) -> list[int]:
    """What is drawn behind all tokens so far, read anew."""
    sampling = dataclasses.replace(SAMPLING, seed=row_seed(SAMPLING.seed, number))
    stops = frozenset(chat().tokenizer.special.values()) - {chat().call_id}
    whole = [*talk.tokens(), chat().assistant_id]
    return Engine(built, FP32, vocab_size=300).generate([whole], sampling=sampling, stop_ids=stops)[0].tokens


def count_tokens(built: LM) -> list[int]:
    """Grows by the number of tokens of every call of the model."""
    seen: list[int] = []
    built.embedding.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].numel()))
    return seen


@pytest.mark.parametrize("name", MODELS)
def test_what_was_read_is_not_read_again(name: str):
    built, other = model(MODELS[name]), model(MODELS[name])
    talk, seen = conversation(built), count_tokens(built)
    for number, text in enumerate(("a", "bc", "d?")):
        talk.say(Message("user", text))
        expected = from_scratch(other, talk, number)
        talk.answer(SAMPLING)
        assert list(talk.turns[-1].tokens[1:-1]) == expected
    assert [turn.message.role for turn in talk.turns] == ["user", "assistant"] * 3
    unread = 3  # the end of the last turn, and what was drawn last
    assert len(talk.tokens()) - unread <= sum(seen) <= len(talk.tokens())


def test_a_stop_ends_the_turn_and_the_state_goes_on():
    built, other = model(HYBRID), model(HYBRID)
    talk, heard = conversation(built), []
    seen = count_tokens(built)
    asked = 0

    def stopping() -> bool:
        nonlocal asked
        asked += 1
        return asked > 8

    talk.say(Message("user", "a"))
    reply = talk.answer(dataclasses.replace(SAMPLING, max_tokens=40), heard.append, stopping)
    assert reply.finish == "stop"
    assert 1 <= len(talk.turns[-1].tokens) - 2 < 10
    assert "".join(heard) == reply.message.content
    talk.say(Message("user", "b"))
    expected = from_scratch(other, talk, 1)
    talk.answer(SAMPLING)
    assert list(talk.turns[-1].tokens[1:-1]) == expected
    assert sum(seen) <= len(talk.tokens())


def test_a_stop_before_the_first_word_adds_no_turn():
    talk = conversation(model(HYBRID))
    first = talk.say(Message("user", "a"))
    reply = talk.answer(SAMPLING, stopping=lambda: True)
    assert (reply.empty, reply.finish, len(talk.turns)) == (True, "cancelled", 1)
    talk.withdraw(first)
    assert talk.turns == []
    talk.say(Message("user", "b"))
    assert not talk.answer(SAMPLING).empty  # the engine is free again


def test_a_full_context_forgets_the_oldest_exchanges_and_says_so():
    built, other, notices = model(HYBRID), model(HYBRID), []
    talk = conversation(built, system="Be brief.", notice=notices.append)
    for number in range(8):
        talk.say(Message("user", f"Question {number}"))
        length = len(talk.tokens())
        talk._forget_for(SAMPLING.max_tokens)
        if len(talk.tokens()) < length:
            assert len(talk.tokens()) + 1 + SAMPLING.max_tokens <= CONTEXT // 2
            assert talk.turns[0].message.role == "user"
        expected = from_scratch(other, talk, number)
        talk.answer(SAMPLING)
        assert list(talk.turns[-1].tokens[1:-1]) == expected
        assert len(talk.tokens()) <= CONTEXT + 1
    assert len(notices) >= 2
    assert notices[0].startswith("The context of 70 tokens is full: the first ")
    assert talk.messages()[0] == Message("system", "Be brief.")


def test_a_message_longer_than_the_context_is_refused_and_can_be_taken_back():
    talk = conversation(model(HYBRID))
    talk.say(Message("user", "a"))
    talk.answer(SAMPLING)
    before = talk.tokens()
    long = talk.say(Message("user", "~" * CONTEXT))
    with pytest.raises(DataError, match="more than the context of 70"):
        talk.answer(SAMPLING)
    talk.withdraw(long)
    assert talk.tokens() == before
    talk.say(Message("user", "b"))
    talk.answer(SAMPLING)
    assert talk.tokens()[: len(before)] == before


def test_an_answer_is_cut_where_the_context_ends():
    talk = conversation(model(HYBRID), context_len=20)
    talk.say(Message("user", "~" * 10))
    reply = talk.answer(dataclasses.replace(SAMPLING, max_tokens=1000))
    assert len(talk.tokens()) <= 21  # the end of the turn stands behind
    assert reply.finish in ("length", "stop")


def test_the_system_turn_is_read_once_for_all_conversations():
    built = model(HYBRID)
    seen = count_tokens(built)
    talk = conversation(built, system="You answer in as few words as can be.")
    for _ in range(3):
        talk.reset()
        talk.say(Message("user", "a"))
        talk.answer(SAMPLING)
    head = len(chat().encode([Message("system", talk.system)]).tokens)
    assert head >= 30
    assert sum(seen) <= head + 3 * (len(talk.tokens()) - head + SAMPLING.max_tokens)
    talk.reset(system="")
    assert talk.tokens() == (chat().tokenizer.document_id,)


def test_memory_that_does_not_suffice_for_keeping_costs_only_time():
    built, other = model(HYBRID), model(HYBRID)
    row = Engine(built, FP32).forward.row_bytes(CONTEXT)
    engine = Engine(built, FP32, vocab_size=300, max_bytes=3 * row)
    talk = Conversation(engine, chat(), context_len=CONTEXT)
    for number in range(3):
        talk.say(Message("user", "ab"))
        expected = from_scratch(other, talk, number)
        talk.answer(SAMPLING)
        assert list(talk.turns[-1].tokens[1:-1]) == expected
        assert engine.bytes_in_use <= engine.max_bytes


def test_prefixes_are_released():
    talk = conversation(model(HYBRID))
    sizes = []
    for _ in range(3):
        talk.say(Message("user", "a"))
        talk.answer(SAMPLING)
        sizes.append(len([p for p in talk.engine._prefixes if not p.released]))
    assert sizes == [1, 1, 1]
    talk.reset()
    assert talk.engine.bytes_in_use == 0


def test_a_context_that_the_model_has_no_positions_for():
    with pytest.raises(ConfigError, match=r"at most 70"):
        conversation(model(HYBRID), context_len=71)
    with pytest.raises(ConfigError, match="at least 2"):
        conversation(model(MODELS["attention-0"]), context_len=1)


def test_raw_calls_are_what_stands_behind_each_mark():
    encode, mark = chat().tokenizer.encode, chat().call_id
    tokens = [*encode("so"), mark, *encode('{"a"'), mark, *encode("b"), chat().end_id, mark]
    assert raw_calls(chat(), tokens) == ('{"a"', "b")
    assert raw_calls(chat(), encode("so")) == ()


def test_what_is_inside_a_call_is_not_told(monkeypatch: pytest.MonkeyPatch):
    talk, heard = conversation(model(HYBRID)), []
    talk.say(Message("user", "a"))
    wanted = [*chat().tokenizer.encode("So: é"), chat().call_id, *chat().tokenizer.encode("{}"), chat().end_id]
    monkeypatch.setattr(talk, "_mask", lambda stopping: lambda tokens: one_hot(wanted[len(tokens)]))
    reply = talk.answer(dataclasses.replace(SAMPLING, max_tokens=40), heard.append)
    assert "".join(heard) == "So: é"
    assert reply.calls == ("{}",)


def one_hot(token: int) -> torch.Tensor:
    return torch.arange(300) == token
