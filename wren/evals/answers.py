"""Accuracy of a model on minimal pairs, multiple choice and cloze, with confidence intervals.

The model answers nothing: the option counts that it finds the likeliest, as a sum of log-probabilities ("accuracy"),
and as that sum per byte of the option ("accuracy_per_byte"), which does not favour short ones.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wren.evals.questions import Choice, read_choices, read_pairs
from wren.evals.scoring import Scored, request, score
from wren.generate import Loaded
from wren.intervals import accuracy
from wren.precision import Precision


def evaluate_pairs(loaded: Loaded, precision: Precision, path: Path, max_len: int) -> dict[str, Any]:
    """{"name", "accuracy", "low", "high", "count", "per_byte": {...}, "groups": [...]} of a file of minimal pairs.

    A pair is right where the whole good sentence is the likelier (BLiMP, 1912.00582). Raises DataError.
    """
    pairs = read_pairs(path)
    texts = [text for pair in pairs for text in (pair.good, pair.bad)]
    scored = _scored(loaded, precision, [("", text) for text in texts], max_len)
    questions = [Choice([("", pair.good), ("", pair.bad)], 0, pair.group) for pair in pairs]
    return {"name": str(path), **_judged(questions, scored)}


def evaluate_choices(loaded: Loaded, precision: Precision, path: Path, max_len: int) -> dict[str, Any]:
    """As evaluate_pairs, of a file of multiple choice and cloze questions.

    A cloze is right where each of its tokens is the likeliest (LAMBADA, 1606.06031); "bits_per_byte" is of all right
    answers.
    """
    questions = read_choices(path)
    scored = _scored(loaded, precision, [option for question in questions for option in question.options], max_len)
    return {"name": str(path), **_judged(questions, scored)}


def _scored(loaded: Loaded, precision: Precision, texts: Sequence[tuple[str, str]], max_len: int) -> list[Scored]:
    requests = [request(loaded.tokenizer, context, text) for context, text in texts]
    return score(loaded, precision, requests, max_len=max_len)


def _judged(questions: Sequence[Choice], scored: Sequence[Scored]) -> dict[str, Any]:
    plain, per_byte, groups = [], [], {}
    bits = num_bytes = 0.0
    start = 0
    for question in questions:
        options = scored[start : start + len(question.options)]
        start += len(options)
        right = options[question.answer]
        plain.append(_is_right([x.logprob for x in options], question.answer, right))
        per_byte.append(_is_right([x.logprob / max(1, x.bytes) for x in options], question.answer, right))
        groups.setdefault(question.group, []).append(plain[-1])
        bits -= right.logprob / 0.6931471805599453
        num_bytes += right.bytes
    result = {**accuracy(plain), "per_byte": accuracy(per_byte), "bits_per_byte": bits / max(1.0, num_bytes)}
    if set(groups) != {""}:
        result["groups"] = [{"name": name, **accuracy(found)} for name, found in sorted(groups.items())]
    return result


def _is_right(scores: Sequence[float], answer: int, right: Scored) -> bool:
    """A tie is no answer; of a single option each token must be the likeliest."""
    if len(scores) == 1:
        return right.greedy
    return all(scores[answer] > other for i, other in enumerate(scores) if i != answer)
