"""`wren chat --adapt`: the conversation is learned before each answer, and nothing of it is left behind."""

import copy
from collections.abc import Sequence
from dataclasses import replace

import pytest
import serve_parts as parts
import torch
from chat_parts import screen, script
from tune_parts import base_run

from wren.adapt.learner import Learner, adapting
from wren.adapt.lessons import lesson_config
from wren.adapt.stream import adapt
from wren.adapt.talk import Talk
from wren.chat.conversation import Conversation
from wren.chat.terminal import Terminal
from wren.cli import main
from wren.generate import Engine, Sampling
from wren.tokenizer.chat import Chat, Message

SEA = "The sea is green. The sun is red. " * 8  # the gate trusts an adapter that has read it
LR = 0.02
SAMPLING = Sampling(max_tokens=12, temperature=1.0, seed=5)


def conversation(**options) -> Conversation:
    """Over a copy of the model: adapters are put on it."""
    engine = Engine(copy.deepcopy(parts.loaded().model), parts.FP32, vocab_size=parts.TOKENIZER.vocab_size)
    return Conversation(engine, Chat(parts.TOKENIZER), context_len=parts.CONTEXT, **options)


def learning(lr: float = LR) -> tuple[Conversation, Talk]:
    talk = conversation()
    talk.learning = Talk(talk.engine.model, talk.engine, parts.FP32, parts.CONTEXT, lr)
    return talk, talk.learning


def answered(talk: Conversation, text: str) -> tuple[int, ...]:
    talk.say(Message("user", text))
    talk.answer(SAMPLING)
    return talk.turns[-1].tokens


def taught(tokens: Sequence[int]) -> Conversation:
    """With the adapter that has learned the tokens merged into its weights."""
    talk, learners = conversation(), list[Learner]()
    model = talk.engine.model
    config = replace(lesson_config(parts.CONTEXT), lr=LR)
    with adapting(model) as adapters:
        adapt(adapters, [torch.tensor(tokens)], config, parts.FP32, learners=learners)
    learners[0].adapter.merge_into(model)
    return talk


def test_an_answer_is_that_of_a_model_which_has_learned_the_conversation():
    talk, _ = learning()
    notices: list[str] = []
    talk.notice = notices.append
    found = answered(talk, SEA)
    whole = talk.tokens()[: -len(found)]
    assert found == answered(taught((*whole, talk.chat.assistant_id)), SEA) != answered(conversation(), SEA)
    assert notices[0].startswith(f"(Learned {len(whole)} tokens: ")


def test_an_answer_without_trust_is_the_plain_one_and_goes_on_from_its_state():
    talk, plain = learning()[0], conversation()
    for text in ("Hello there.", "What is red?"):
        assert answered(talk, text) == answered(plain, text)
    assert talk.num_read == plain.num_read


def test_nothing_of_it_stays():
    talk, learner = learning()
    weights = copy.deepcopy(talk.engine.model.state_dict())
    first = answered(talk, SEA)
    talk.reset()
    talk._answers = 0
    assert answered(talk, SEA) == first  # learned anew, from the same beginning
    assert learner.lessons.in_use == 0
    assert all(torch.equal(value, weights[name]) for name, value in talk.engine.model.state_dict().items())
    talk.learning = None
    talk.reset()
    talk._answers = 0
    assert answered(talk, SEA) == answered(conversation(), SEA)


def test_a_stop_while_it_learns_ends_the_turn():
    talk, learner = learning()
    asked: list[int] = []

    def stopping() -> bool:
        asked.append(1)
        return len(asked) > 2

    talk.say(Message("user", SEA))
    assert talk.answer(SAMPLING, stopping=stopping).empty
    assert learner.lessons.in_use == 0
    assert not learner.lessons.busy


def test_an_adapter_is_dropped_where_the_answer_fails(monkeypatch: pytest.MonkeyPatch):
    talk, learner = learning()

    def broken(*args: object) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(Conversation, "_drawn", broken)
    talk.say(Message("user", SEA))
    with pytest.raises(RuntimeError, match="broken"):
        talk.answer(SAMPLING)
    assert learner.lessons.in_use == 0


def test_the_terminal_tells_it_beside_the_answers():
    talk, _ = learning()
    terminal = Terminal(talk, screen(talks=True), script([SEA]), SAMPLING)
    assert terminal.run() == 0
    assert "(Learned " in terminal.screen.notes.getvalue()  # type: ignore[attr-defined]
    assert "(Learned " not in terminal.screen.out.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize("bits", [[], ["--bits", "8"]], ids=["whole", "8 bits"])
def test_the_command(bits: list[str], tmp_path, capsys: pytest.CaptureFixture[str]):
    run, ask = base_run(tmp_path / "run"), ["--ask", "Hello " * 60, "--max-tokens", "4", "--context", "400"]
    assert main(["chat", "--run", str(run), *ask, *bits, "--adapt"]) == 0
    assert "(Learn" in capsys.readouterr().err
    assert main(["chat", "--run", str(run), *ask, *bits]) == 0
    assert "(Learn" not in capsys.readouterr().err
