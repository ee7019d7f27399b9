"""Questions from JSON lines: minimal pairs of sentences, multiple choice, and cloze.

pairs    {"sentence_good": "The cats sleep.", "sentence_bad": "The cats sleeps.", "group": "agreement"}   (BLiMP)
choice   {"context": "The sky is", "choices": ["blue", "loud"], "answer": 0}   answer: a number from 0, or A, B, ...
         {"text": "The ___ sings.", "choices": ["wren", "stone"], "answer": 0}   the gap is filled, all is scored
cloze    {"context": "Once upon a", "completion": " time"}   right if the model's likeliest tokens are these
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from wren.errors import DataError

GAP = "___"
_GOOD, _BAD = ("sentence_good", "good"), ("sentence_bad", "bad")
_GROUP = ("group", "UID", "linguistics_term", "task", "category")
_CONTEXT = ("context", "question", "query", "prompt", "ctx", "sentence")
_CHOICES = ("choices", "options", "endings")
_ANSWER = ("answer", "label", "gold", "answerKey", "answer_index")
_COMPLETION = ("completion", "target", "continuation")


class Pair(NamedTuple):
    """group: a name to report by, "" for none."""

    good: str
    bad: str
    group: str


class Choice(NamedTuple):
    """Every option as a context to read and a text to score; answer: the right one's number. One option: a cloze."""

    options: list[tuple[str, str]]
    answer: int
    group: str


def read_pairs(path: Path) -> list[Pair]:
    """Raises DataError naming the line for one that is no pair."""
    pairs = []
    for number, row in _rows(path):
        good, bad = _field(row, _GOOD), _field(row, _BAD)
        if not isinstance(good, str) or not isinstance(bad, str) or not good or not bad:
            raise _wrong(path, number, 'a pair has the keys "sentence_good" and "sentence_bad", each with text')
        if good == bad:
            raise _wrong(path, number, "both sentences are the same")
        pairs.append(Pair(good, bad, str(_field(row, _GROUP) or "")))
    return pairs


def read_choices(path: Path) -> list[Choice]:
    """Raises DataError naming the line for one that is no question."""
    return [_choice(path, number, row) for number, row in _rows(path)]


def _choice(path: Path, number: int, row: dict[str, Any]) -> Choice:
    group = str(_field(row, _GROUP) or "")
    choices, context, text = _field(row, _CHOICES), _field(row, _CONTEXT), row.get("text")
    if choices is None:
        completion = _field(row, _COMPLETION)
        if not isinstance(completion, str) or not completion or not isinstance(context, str):
            raise _wrong(path, number, 'a question has "choices" and "answer", a cloze "context" and "completion"')
        return Choice([(context, _joined(context, completion))], 0, group)
    labels = None
    if isinstance(choices, dict):  # {"text": [...], "label": [...]} as in ARC
        choices, labels = choices.get("text"), choices.get("label")
    if not isinstance(choices, list) or len(choices) < 2 or not all(isinstance(c, str) and c for c in choices):
        raise _wrong(path, number, '"choices" is a list of two or more texts')
    if not isinstance(context, str) and not (isinstance(text, str) and GAP in text):
        raise _wrong(path, number, f'a question has a "context", or a "text" with a gap {GAP}')
    if isinstance(context, str):
        options = [(context, _joined(context, choice)) for choice in choices]
    else:
        options = [("", str(text).replace(GAP, choice)) for choice in choices]
    return Choice(options, _answer(path, number, _field(row, _ANSWER), choices, labels), group)


def _joined(context: str, text: str) -> str:
    """The text with a space before it, unless one stands there or is not wanted."""
    return text if not context or context[-1].isspace() or text[0].isspace() else f" {text}"


def _answer(path: Path, number: int, answer: Any, choices: list[str], labels: Any) -> int:
    names = [str(label) for label in labels] if isinstance(labels, list) else []
    found = None
    if isinstance(answer, str) and answer in names:
        found = names.index(answer)
    elif isinstance(answer, str) and choices.count(answer) == 1:
        found = choices.index(answer)
    elif isinstance(answer, str) and len(answer) == 1 and answer.isascii() and answer.isalpha():
        found = ord(answer.upper()) - ord("A")
    elif isinstance(answer, str) and answer.isdecimal():
        found = int(answer)
    elif isinstance(answer, int) and not isinstance(answer, bool):
        found = answer
    if found is None or not 0 <= found < len(choices):
        what = f'"answer" is {answer!r}; it names one of the {len(choices)} choices: a number from 0, or A, B, ...'
        raise _wrong(path, number, what)
    return found


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Number (from 1) and object of every line that is not blank."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); check the path.") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text; save it as JSON lines in UTF-8.") from error
    count = 0
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise _wrong(path, number, f"it is not JSON ({error})") from error
        if not isinstance(row, dict):
            raise _wrong(path, number, "it is not an object")
        count += 1
        yield number, row
    if not count:
        raise DataError(f"{path} has no lines; give a file of JSON lines.")


def _field(row: dict[str, Any], names: tuple[str, ...]) -> Any:
    return next((row[name] for name in names if name in row), None)


def _wrong(path: Path, number: int, what: str) -> DataError:
    return DataError(f"{path}, line {number}: {what}.")
