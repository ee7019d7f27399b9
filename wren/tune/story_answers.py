"""How well a tuned model answers questions about unseen stories, beside what needs no reading.

model        the story and the question
no story     the same model with the question alone
lookup       the answer that training gave most often to the very question, else to its template
most named   the person (or thing, or place) of the right kind that the story names most often
"""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from wren.generate import Sampling
from wren.model import LM
from wren.precision import Precision
from wren.stories.questions import TEMPLATES, Asked, Question
from wren.tokenizer.chat import Chat, Message
from wren.tune.answer import answers

_ANSWER_TOKENS = 24
_SAID_BY = {template: part for kind in TEMPLATES.values() for template, part in kind}


def accuracies(
    model: LM, chat: Chat, train: Sequence[Asked], test: Sequence[Asked], precision: Precision
) -> dict[str, Any]:
    """The share of exactly right answers of each way, the number of questions, and each template's share."""
    pairs = [(one.story, question) for one in test for question in one.questions]
    wanted = [question.answer for _, question in pairs]
    said = {
        "model": _answered(model, chat, [f"{story}\n\n{q.text}" for story, q in pairs], precision),
        "no story": _answered(model, chat, [q.text for _, q in pairs], precision),
        "lookup": lookup(train, [q for _, q in pairs]),
        "most named": most_named(train, pairs),
    }
    rows = [
        {"name": name, "accuracy": sum(a == b for a, b in zip(given, wanted, strict=True)) / len(wanted)}
        for name, given in said.items()
    ]
    right, asked = Counter[str](), Counter(q.template for _, q in pairs)
    for (_, question), given in zip(pairs, said["model"], strict=True):
        right[question.template] += given == question.answer
    templates = {template: right[template] / count for template, count in sorted(asked.items())}
    wrong = [
        {"story": story, "question": q.text, "answer": q.answer, "model": given}
        for (story, q), given in zip(pairs, said["model"], strict=True)
        if given != q.answer
    ]
    accuracy = rows[0]["accuracy"]
    return {"accuracy": accuracy, "questions": len(pairs), "ways": rows, "templates": templates, "wrong": wrong[:20]}


def _answered(model: LM, chat: Chat, texts: Sequence[str], precision: Precision) -> list[str]:
    prompts = [chat.prompt([Message("user", text)]) for text in texts]
    replies = answers(model, chat, prompts, Sampling(max_tokens=_ANSWER_TOKENS, temperature=0), precision)
    return [chat.reply(reply).content for reply in replies]


def lookup(train: Sequence[Asked], test: Sequence[Question]) -> list[str]:
    """What training answered most often to the same question, or else to its template."""
    known: dict[str, Counter[str]] = {}
    for one in train:
        for question in one.questions:
            for key in (question.text, question.template):
                known.setdefault(key, Counter())[question.answer] += 1
    found = [known.get(question.text) or known.get(question.template) for question in test]
    return [counts.most_common(1)[0][0] if counts else "" for counts in found]


def most_named(train: Sequence[Asked], test: Sequence[tuple[str, Question]]) -> list[str]:
    """Of the answers that training gave to questions with the same kind of answer, the one that the story names most
    often and the question does not."""
    kinds: dict[str, set[str]] = {}
    for one in train:
        for question in one.questions:
            kinds.setdefault(_kind(question), set()).add(question.answer)
    found = []
    for story, question in test:
        asked = question.text.lower()
        counts = {answer: _count(_core(answer), story) for answer in sorted(kinds.get(_kind(question), ()))}
        others = {answer: count for answer, count in counts.items() if _core(answer) not in asked}
        found.append(max(others, key=lambda answer: others[answer], default=""))
    return found


def _kind(question: Question) -> str:
    """A person, or what the template asks for."""
    return "person" if _SAID_BY[question.template] in "AB" else question.answer.split()[0] + question.template[:9]


def _core(answer: str) -> str:
    return re.sub(r"^(it was|the|an|a) ", "", answer.lower()).rstrip(".")


def _count(words: str, story: str) -> int:
    return len(re.findall(rf"\b{re.escape(words)}\b", story.lower()))
