r"""Questions and answers from JSON lines (.jsonl, plain, .gz or .zst) as a task; the fields are found by themselves.

    {"question": "2 + 2?", "answer": "It is 4.\n#### 4"}      also problem/solution, query/response, ...
    {"messages": [{"role": "user", ...}, {"role": "assistant", ...}]}
    {"question": "Which is a bird?", "choices": ["wren", "stone"], "answer": "wren"}      or 0, or "A"

The answer is what follows "####" or stands in \boxed{...}; what leads to it is the solution that a model learns.
Numbers are compared as numbers, texts without case and full stop. Of equal questions the first one counts.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from random import Random
from typing import Any

from wren.data.readers import COMPRESSIONS, brief, read_lines
from wren.errors import ConfigError, DataError
from wren.tasks import answers, prompts
from wren.tasks.task import SPLITS, Problem, Split, Task, check_split

_FORMATS = (".jsonl", ".ndjson", ".jsonlines")
_PAIRS = (("question", "answer"), ("problem", "solution"), ("problem", "answer"), ("question", "response"),
          ("question", "solution"), ("query", "response"), ("query", "answer"), ("prompt", "completion"),
          ("prompt", "answer"), ("prompt", "response"), ("instruction", "output"), ("input", "output"),
          ("input", "target"))  # fmt: skip
_CALLS = re.compile(r"<<[^<>\n]*>>")  # what GSM8K notes for a calculator
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True)
class Rules(Task):
    """path: the file. problems_of: its problems by split, in the file's order."""

    path: str
    problems_of: Mapping[Split, tuple[Problem, ...]]

    @property
    def name(self) -> str:
        return f"file:{self.path}"

    def size(self, split: Split) -> int:
        return len(self.problems_of[split])

    def draw(self, rng: Random) -> Problem:
        return rng.choice([problem for split in SPLITS for problem in self.problems_of[split]])

    def problem(self, seed: int, index: int, split: Split = "train") -> Problem:
        """All problems of the split in an order of the seed's, then all of them in another one."""
        own = self.problems_of[check_split(split)]
        if not own:
            total = sum(map(len, self.problems_of.values()))
            raise DataError(
                f"{self.path} has {total} different questions, none of them in the split '{split}'; add more."
            )
        turn, place = divmod(index, len(own))
        return own[_order(f"{split} {seed} {turn}", len(own))[place]]

    def score(self, problem: Problem, text: str) -> float:
        choices = problem.data
        if choices and re.fullmatch(r"\(?[A-Za-z]\)?\.?", text.strip()):
            letter = _LETTERS.index(re.sub(r"\W", "", text).upper())
            return float(letter < len(choices) and choices[letter] == problem.answer)
        if choices:
            text = re.sub(r"^\(?[A-Z][.)]\s+", "", text.strip())  # "B. Dana Carvey"
        return float(answers.same(problem.answer, text))


@lru_cache(maxsize=64)
def _order(seed: str, count: int) -> tuple[int, ...]:
    order = list(range(count))
    Random(f"wren file task {seed}").shuffle(order)
    return tuple(order)


def read(text: str) -> Rules:
    """The task of a file; raises ConfigError for a file of another kind, DataError naming the line for a wrong one."""
    path = Path(text).expanduser()
    suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
    compression = COMPRESSIONS.get(suffixes[-1]) if suffixes else None
    kind = suffixes[-2 if compression else -1 :][:1]
    if not kind or kind[0] not in _FORMATS:
        raise ConfigError(
            f"{text} is no file of JSON lines; a task's file is named .jsonl, with .gz or .zst if compressed."
        )
    found: dict[int, Problem] = {}
    for number, line in enumerate(read_lines(path, compression), 1):
        if line.strip():
            problem = _problem(_row(line, f"{text}:{number}"), f"{text}:{number}")
            found.setdefault(problem.mark, problem)
    if not found:
        raise DataError(f"{text} has no lines; give a file with questions and answers.")
    return Rules(text, {split: tuple(p for p in found.values() if p.split == split) for split in SPLITS})


def _row(line: bytes, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} is not valid JSON ({brief(error)}); mend or remove that line.") from error
    if not isinstance(row, dict):
        raise DataError(f"{where} holds a {type(row).__name__}, not an object with a question and an answer.")
    return row


def _problem(row: dict[str, Any], where: str) -> Problem:
    question, gold = _asked(row, where)
    choices = row.get("choices") or row.get("options")
    if choices:
        return _choice(question, gold, choices, where)
    said = _text(gold, where, "answer")
    solution = _CALLS.sub("", said).strip()
    last = solution.splitlines()[-1] if "\\boxed{" not in solution else solution  # a heading may begin with #### too
    answer = prompts.marked_answer(last)
    return Problem(prompt=question, answer=solution if answer is None else answer, solution=solution)


def _asked(row: dict[str, Any], where: str) -> tuple[str, Any]:
    turns = next((row[key] for key in ("messages", "conversations") if isinstance(row.get(key), list)), None)
    if turns is not None:
        return _said(turns, where)
    for asked, answered in _PAIRS:
        if asked in row and row.get(answered) not in (None, ""):
            more = row.get("input") if asked == "instruction" else None
            question = _text(row[asked], where, asked)
            return (f"{question}\n\n{more}" if isinstance(more, str) and more.strip() else question), row[answered]
    if any(asked in row for asked, _ in _PAIRS):
        raise DataError(
            f"{where} has a question but no answer; a task's file needs both, such as 'question' and 'answer'."
        )
    keys = ", ".join(map(repr, list(row)[:12]))
    raise DataError(
        f"{where} has no question and answer that are known here ({keys}); name them 'question' and 'answer'."
    )


def _said(turns: list[Any], where: str) -> tuple[str, str]:
    """The only turn of the user and the only one of the assistant."""
    spoken: dict[str, list[Any]] = {"user": [], "assistant": []}
    for turn in turns:
        role = turn.get("role", turn.get("from")) if isinstance(turn, Mapping) else None
        role = {"human": "user", "gpt": "assistant"}.get(role, role)  # type: ignore[arg-type]
        if role in spoken:
            spoken[role].append(turn.get("content", turn.get("value")))
    if not spoken["assistant"]:
        raise DataError(f"{where} has a question but no answer; a task's file needs both.")
    if [len(turns) for turns in spoken.values()] != [1, 1]:
        raise DataError(f"{where} is a longer conversation; a problem is one question and one answer.")
    return _text(spoken["user"][0], where, "user"), _text(spoken["assistant"][0], where, "assistant")


def _choice(question: str, gold: Any, choices: Any, where: str) -> Problem:
    if not isinstance(choices, list) or len(choices) < 2 or not all(isinstance(choice, str) for choice in choices):
        raise DataError(f"{where}: 'choices' is not a list of two or more texts.")
    if isinstance(gold, str) and gold not in choices and gold.strip().upper() in _LETTERS[: len(choices)]:
        gold = _LETTERS.find(gold.strip().upper())  # -1 for an empty one
    if isinstance(gold, int) and not isinstance(gold, bool) and 0 <= gold < len(choices):
        gold = choices[gold]
    if not isinstance(gold, str) or gold not in choices or len(choices) > len(_LETTERS):
        raise DataError(f"{where}: the answer {gold!r:.40} is none of the {len(choices)} choices.")
    lines = [f"{letter}. {choice}" for letter, choice in zip(_LETTERS, choices, strict=False)]
    return Problem(prompt="\n".join([question, *lines]), answer=gold, data=tuple(choices))


def _text(value: Any, where: str, key: str) -> str:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        value = str(value)  # an answer such as 4
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{where} has no text as '{key}'; a task's file needs a question and an answer.")
    return value.strip()
