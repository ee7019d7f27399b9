"""Questions about stories: answers that the facts give, pairs that training never holds, baselines beside a model."""

import functools
import itertools
import re
from dataclasses import replace
from random import Random

import model_cases
import pytest
from tune_parts import FP32, chat

from wren.errors import DataError
from wren.stories import stories
from wren.stories.questions import TEMPLATES, Asked, Question, _is_held, asked, questions
from wren.stories.swapped import swap
from wren.stories.words import COLORS
from wren.tokenizer.chat import read_messages
from wren.tune.story_answers import accuracies, lookup, most_named


@functools.cache
def some(split: str, count: int = 60, per_story: int = 3) -> list[Asked]:
    return list(asked(7, count, split, per_story=per_story))  # type: ignore[arg-type]


def parts(question: Question) -> list[tuple[str, str]]:
    return list(itertools.combinations((question.template, question.name, question.thing), 2))


def test_no_pair_of_a_test_question_stands_in_training() -> None:
    train = {pair for one in some("train", 300) for question in one.questions for pair in parts(question)}
    test = [question for one in some("test", 25) for question in one.questions]
    assert not {pair for question in test for pair in parts(question)} & train
    words = {word for one in some("train", 300) for q in one.questions for word in (q.name, q.template, q.thing)}
    known = sum(word in words for q in test for word in (q.name, q.template, q.thing))
    assert known > 0.9 * 3 * len(test)  # each part by itself was asked about


def test_training_does_not_teach_that_a_held_out_pair_is_never_right() -> None:
    def held(question: Question, name: str, thing: str) -> bool:
        return any(_is_held(*pair) for pair in itertools.combinations((question.template, name, thing), 2))

    rivalled = 0
    for told in stories(8, 300):
        for question in questions(told):
            rivalled += bool(question.rivals)
            assert (question.name, question.thing) not in question.rivals
            for name, thing in question.rivals:
                assert (name == question.name) != (thing == question.thing)
                assert re.search(rf"\b{name}\b", told.text)
            if question.split == "train":
                assert not any(held(question, *rival) for rival in question.rivals)
    assert rivalled > 500
    who = next(q for told in stories(8) for q in questions(told) if q.template == "Who found the {x}?" and q.rivals)
    assert who.answer not in {f"{name}." for name, _ in who.rivals}


def test_swapped_words_change_text_and_facts_alike() -> None:
    changed = strange = before = after = 0
    for number, told in enumerate(stories(3, 100)):
        new = swap(told, Random(number))
        assert new == swap(told, Random(number))
        assert len(new.facts) == len(told.facts)
        assert [event.kind for event in new.facts] == [event.kind for event in told.facts]
        if new == told:
            continue
        changed += 1
        words = set(re.findall("[a-z]+", new.text.lower())) - set(re.findall("[a-z]+", told.text.lower()))
        strange += bool(words)
        assert not re.search(r"\ban [bdfgklmnprstvz]", new.text)
        before, after = before + len(questions(told)), after + len(questions(new))
    assert changed > 90
    assert strange > 0.9 * changed
    assert 0.85 * before < after <= before  # a word that stood for two things may have become one
    colors = {
        e.detail for n, told in enumerate(stories(3, 100)) for e in swap(told, Random(n)).facts if e.kind == "thing"
    }
    assert not colors <= {*COLORS, ""}  # a thing may be as hammer as another is red


def test_some_stories_to_train_on_have_swapped_words() -> None:
    plain, half = some("train"), list(asked(7, 60, "train", swapped=0.5))
    shared = len({one.story for one in plain} & {one.story for one in half})
    assert 10 < shared < 50
    assert not any(q.split == "test" for one in half for q in one.questions)


def test_answers_stand_in_their_story() -> None:
    for one in [*some("train"), *asked(7, 60, "train", swapped=1.0)]:
        for question in one.questions:
            core = re.sub(r"^(It was|The|An|A) ", "", question.answer.rstrip("."))
            assert core.lower() in one.story.lower(), question
            assert question.name in one.story
            assert question.thing in one.story


def test_who_gave_what_is_what_the_facts_say() -> None:
    checked = 0
    for told in stories(3, 150):
        for question in questions(told):
            if question.template == "Who gave the {x} to {B}?":
                giver = question.answer.rstrip(".")
                moves = [e for e in told.facts if e.kind == "give" and e.thing.endswith(question.thing)]
                assert [e.actor for e in moves if f"to {e.other}?" in question.text] == [giver]
                checked += 1
            if question.template == "Who found the {x}?":
                finders = {e.actor for e in told.facts if e.kind == "find" and e.thing.endswith(question.thing)}
                assert finders == {question.answer.rstrip(".")}
                checked += 1
    assert checked > 40


def test_no_question_has_two_answers_and_all_templates_occur() -> None:
    seen = set()
    for told in stories(4, 500):
        found = questions(told)
        assert len({question.text for question in found}) == len(found)
        seen |= {question.template for question in found}
    assert seen == {template for kind in TEMPLATES.values() for template, _ in kind}


def test_the_same_seed_asks_the_same_and_conversations_are_valid() -> None:
    again = list(asked(7, 60, "train"))
    assert again == some("train")
    for one in again:
        assert len(one.story) <= 800
        messages = read_messages(one.as_conversation()["messages"])
        assert len(messages) == 2 * len(one.questions) <= 6
        assert messages[0].content.startswith(one.story)
    with pytest.raises(DataError, match="0 stories"):
        next(asked(7, 0, "train"))


def test_baselines() -> None:
    def question(answer: str, template: str, thing: str = "kite") -> Question:
        text = template.format(A="Tom", B="Ann", x=thing)
        return Question(text=text, answer=answer, template=template, name=answer[:-1], thing=thing)

    who, what = "Who found the {x}?", "What did {A} find?"
    train = [Asked("Mia found it.", (question("Mia.", who), question("Ann.", who), question("Mia.", who, "cap")))]
    assert lookup(train, [question("?", who, "cap"), question("?", who), question("?", what)]) == ["Mia.", "Mia.", ""]
    named = most_named(train, [("Ann and Mia and Ann.", question("?", who)), ("x", question("?", what))])
    assert named == ["Ann.", ""]


def test_a_model_is_scored_beside_them() -> None:
    model = replace(model_cases.PLAIN, vocab_size=300).build().eval()
    result = accuracies(model, chat(), some("train"), some("test", 5, 1), FP32)
    assert [row["name"] for row in result["ways"]] == ["model", "no story", "lookup", "most named"]
    assert result["questions"] == 5
    assert all(0 <= row["accuracy"] <= 1 for row in result["ways"])
    assert len(result["wrong"]) == 5 - round(5 * result["accuracy"])
