"""Calls of every wrong kind, the loop and its bounds, and a model that learned to call."""

import json

import pytest
import torch
from chat_parts import MODELS, conversation
from tune_parts import chat

from wren.batch import IGNORE, Batch
from wren.chat.agent import Loop, respond
from wren.chat.calculator import CALCULATOR, calculate
from wren.chat.conversation import Reply, Turn
from wren.chat.tools import MAX_ANSWER, Tool, Toolbox
from wren.errors import ConfigError
from wren.generate import Sampling
from wren.loss import cross_entropy
from wren.tokenizer.chat import Message, checked

BOX = Toolbox([CALCULATOR])


def call(name: str, **arguments: object) -> str:
    return json.dumps({"name": name, "arguments": arguments})


# calls


@pytest.mark.parametrize(
    ("written", "sentence"),
    [
        ("", "A call is one JSON object"),
        ("calculator(2 + 2)", "A call is one JSON object"),
        ('{"name": "calculator"}', "A call is one JSON object"),
        ('["calculator", "arguments"]', "A call is one JSON object"),
        ('{"name": 3, "arguments": {}}', "A call is one JSON object"),
        ('{"name": "calculator", "arguments": [1]}', "A call is one JSON object"),
        ('{"name": "calculator", "arguments": "2 + 2"}', "A call is one JSON object"),
        ("[" * 100_000, "A call is one JSON object"),
        (call("nosuch", a=1), "There is no tool 'nosuch'; the tools are: calculator."),
        (call("x" * 5000), "the tools are: calculator."),
        (call("calculator"), "calculator needs 'expression'"),
        (call("calculator", expression=4), "'expression' must be a string"),
        (call("calculator", expression="1", precision=3), "knows no 'precision'; it takes: expression"),
        (call("calculator", expression="1 / 0"), "divided by 0"),
    ],
)
def test_a_wrong_call_is_answered_with_a_sentence(written: str, sentence: str):
    result = BOX.run(written)
    assert result.failed
    assert result.text.startswith("Error: ")
    assert sentence in result.text
    assert len(result.text) < 200


def test_a_right_call_is_answered():
    assert BOX.run(call("calculator", expression="2 + 2"))[1:] == ("calculator", "4", False)
    as_text = json.dumps({"name": "calculator", "arguments": json.dumps({"expression": "2 + 2"})})
    assert BOX.run(as_text).text == "4"


def test_arguments_of_every_kind_and_a_long_answer():
    kinds = {"n": "integer", "x": "number", "yes": "boolean"}
    parameters = {"type": "object", "properties": {name: {"type": kind} for name, kind in kinds.items()}}
    tool = Tool(name="t", description="", parameters=parameters, run=lambda arguments: "y" * 5000)
    box = Toolbox([tool])
    assert len(box.run(call("t", n=1, x=2, yes=True)).text) < MAX_ANSWER + 20
    for wrong in ({"n": 1.5}, {"n": True}, {"x": "2"}, {"yes": 1}):
        assert "must be a" in box.run(call("t", **wrong)).text
    with pytest.raises(ConfigError, match="one name"):
        Toolbox([tool, tool])


# the loop


def test_the_loop_ends_when_no_tool_is_called():
    loop = Loop(BOX)
    assert [r.text for r in loop.follow([call("calculator", expression="1"), call("calculator", expression="2")])] == [
        "1",
        "2",
    ]
    assert not loop.over
    assert loop.follow([]) == []
    assert loop.over
    assert loop.follow([call("calculator", expression="1")]) == []


def test_the_loop_is_bounded():
    loop, one = Loop(BOX, max_calls=3), call("calculator", expression="1")
    assert [r.failed for r in loop.follow([one, one])] == [False, False]
    assert [r.failed for r in loop.follow([one, one])] == [False, True]
    (told,) = loop.follow([one])
    assert told.text == "Error: All 3 calls are used up; answer without another."
    assert loop.follow([one]) == []
    with pytest.raises(ConfigError, match="number of calls is 0"):
        Loop(BOX, 0)


class FakeTalk:
    """Says what it is told to, and remembers what it hears."""

    def __init__(self, *replies: Reply | Exception):
        self.replies, self.turns = list(replies), []

    def say(self, message: Message) -> Turn:
        self.turns.append(Turn(message, (len(self.turns),)))
        return self.turns[-1]

    def withdraw(self, first: Turn) -> None:
        del self.turns[self.turns.index(first) :]

    def answer(self, sampling, hear=lambda piece: None, stopping=lambda: False) -> Reply:
        reply = self.replies.pop(0)
        if isinstance(reply, Exception):
            raise reply
        if not reply.empty:
            self.turns.append(Turn(reply.message, ()))
        return reply


def reply(content: str = "", *calls: str) -> Reply:
    return Reply(Message("assistant", content, calls), calls, "stop")


def test_a_tools_answer_goes_back_to_the_model():
    talk, told = FakeTalk(reply("", call("calculator", expression="2 + 2")), reply("", "{"), reply("It is 4.")), []
    assert respond(talk, "2 + 2?", Sampling(), BOX, told=told.append).message.content == "It is 4."
    said = [(turn.message.role, turn.message.content) for turn in talk.turns]
    assert said == [
        ("user", "2 + 2?"),
        ("assistant", ""),
        ("tool", "4"),
        ("assistant", ""),
        ("tool", 'Error: A call is one JSON object: {"name": "...", "arguments": {...}}.'),
        ("assistant", "It is 4."),
    ]
    checked([turn.message for turn in talk.turns])
    assert [result.failed for result in told] == [False, True]


def test_a_model_that_never_stops_calling_is_stopped():
    one = call("calculator", expression="1")
    talk = FakeTalk(*[reply("", one)] * 20)
    respond(talk, "?", Sampling(), BOX, max_calls=2)
    assert [turn.message.role for turn in talk.turns] == ["user", *["assistant", "tool"] * 3, "assistant"]


def test_without_tools_a_call_is_only_text_and_a_stop_calls_none():
    one = call("calculator", expression="1")
    talk = FakeTalk(reply("", one))
    assert respond(talk, "?", Sampling()).calls == (one,)
    talk = FakeTalk(reply("", one))
    assert respond(talk, "?", Sampling(), BOX, stopping=lambda: True).calls == (one,)
    assert len(talk.turns) == 2


def test_an_error_or_silence_leaves_the_conversation_as_it_was():
    one = call("calculator", expression="1")
    talk = FakeTalk(reply("Hi."), reply("", one), ConfigError("No room."), reply("", one), reply(" "))
    respond(talk, "a", Sampling(), BOX)
    with pytest.raises(ConfigError):
        respond(talk, "b", Sampling(), BOX)
    assert len(talk.turns) == 2
    assert respond(talk, "c", Sampling(), BOX).empty
    assert len(talk.turns) == 2


def test_a_trained_model_calls_the_calculator_and_says_what_it_answered():
    """End to end: a hybrid learns one conversation by heart, and plays it with the real tool."""
    expression = "17 * 3"
    turns = [
        Message("user", "17 * 3?"),
        Message("assistant", "", (call("calculator", expression=expression),)),
        Message("tool", calculate(expression)),
        Message("assistant", "It is 51."),
    ]
    encoded = chat().encode(turns)  # without the tools' descriptions, which are long in so small a vocabulary
    torch.manual_seed(0)
    model = MODELS["gated_delta_net+canon"].build()
    tokens = torch.tensor([encoded.tokens])
    learned = torch.tensor([encoded.learned])[:, 1:]
    batch = Batch(tokens[:, :-1], torch.where(learned, tokens[:, 1:], IGNORE), learned.float())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        loss = cross_entropy(model, batch)
        loss.backward()
        optimizer.step()
    talk = conversation(model.eval(), context_len=1000)
    told = []
    last = respond(talk, "17 * 3?", Sampling(max_tokens=200, temperature=0), BOX, told=told.append)
    assert [(r.name, r.text) for r in told] == [("calculator", "51")]
    assert last.message.content == "It is 51."
    assert talk.messages() == turns
