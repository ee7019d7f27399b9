"""Conversations and preference pairs in the forms in which people keep them; the form of a file is found by itself.

messages      {"messages": [{"role": "user", "content": ...}, ...]}, also with "tools"; "conversation(s)" alike
sharegpt      {"conversations": [{"from": "human", "value": ...}, {"from": "gpt", ...}], "system": ...}
alpaca        {"instruction": ..., "input": ..., "output": ...}, also with "system" and "history"
prompt        {"prompt": ..., "completion": ...}: texts, or lists of messages
questions     {"question": ..., "answer": ...}, also with "choices"; "query"/"response", "input"/"output" alike
text          "Q: ...", "A: ...": turns marked at the beginnings of lines, in a .txt or under "text"
preference    {"prompt": ..., "chosen": ..., "rejected": ...}: texts, or lists of messages, with or without "prompt"
"""

import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from wren.errors import DataError
from wren.tokenizer.chat import Message, checked, read_messages, read_turns
from wren.tune.rows import MARK, MARKS, Row, find_files, read_rows


class Conversation(NamedTuple):
    """where: file and line. messages: the turns. tools: descriptions of what the assistant may call.

    rejected: in a preference pair, the same conversation with the worse answer. answer: number of the first message
    that is learned; in a pair, of the first that differs.
    """

    where: str
    messages: tuple[Message, ...]
    tools: tuple[Any, ...] = ()
    rejected: tuple[Message, ...] = ()
    answer: int = 0


@dataclass
class Found:
    """What read_conversations found: a sentence for every row it passed over, the form and count of every file."""

    conversations: list[Conversation] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    files: list[tuple[Path, str, int]] = field(default_factory=list)

    def summary(self) -> list[str]:
        lines = [f"{path}: {count:,} {'pairs' if form == 'preference' else 'conversations'} ({form})"
                 for path, form, count in self.files]  # fmt: skip
        if self.faults:
            lines.append(f"Passed over {len(self.faults):,} rows, the first because {self.faults[0]}")
        return lines


def read_conversations(paths: Iterable[str], *, preference: bool = False, skip_bad: bool = False) -> Found:
    """All rows of the files, folders or globs. preference: pairs are asked for (elsewhere they count as bad rows).

    skip_bad: pass over rows that are wrong and count them. Raises DataError naming file and line for a wrong row, and
    for a path without a usable one.
    """
    found = Found()
    for path in paths:
        for file in find_files(path):
            _read_file(file, found, preference, skip_bad)
    if not found.conversations:
        why = f" (all {len(found.faults):,} rows are wrong; the first: {found.faults[0]})" if found.faults else ""
        raise DataError(f"There is no conversation in {', '.join(paths) or 'no files'}{why}; check --data.")
    return found


def _read_file(file: Path, found: Found, preference: bool, skip_bad: bool) -> None:
    rows = read_rows(file)
    head = list(itertools.islice(rows, 20))
    form = next((name for row in head if row.fault is None and (name := form_of(row.value))), None)
    if form is None:
        fault = next((row.fault for row in head if row.fault is not None), None)
        raise DataError(fault if fault and not skip_bad else _unknown_form(file, head))
    if preference and form != "preference":
        raise DataError(f"{file} holds conversations ({form}), not pairs of 'chosen' and 'rejected'; leave out --dpo.")
    if form == "preference" and not preference:
        raise DataError(f"{file} holds preference pairs; add --dpo to learn from them.")
    before = len(found.conversations)
    for row in itertools.chain(head, rows):
        try:
            if row.fault is not None:
                raise DataError(row.fault)
            found.conversations.extend(_READERS[form](row))
        except DataError as error:
            if not skip_bad:
                raise DataError(f"{error} Mend that row, or pass over such rows with --skip-bad.") from error
            found.faults.append(str(error))
    found.files.append((file, form, len(found.conversations) - before))


def _unknown_form(file: Path, head: Sequence[Row]) -> str:
    if not head:
        return f"{file} holds no rows; give a file with conversations in it."
    value = head[0].value
    what = f"keys {', '.join(map(repr, list(value)[:12]))}" if isinstance(value, Mapping) else f"{value!r:.40}"
    return (
        f"{head[0].where} is in no form that is known here ({what}); use messages, ShareGPT, Alpaca, "
        "prompt/completion, question/answer, lines of Q: and A:, or prompt/chosen/rejected."
    )


def form_of(value: Any) -> str | None:
    """The form of one row, None for an unknown one."""
    if isinstance(value, str):
        return "text" if MARK.search(value) else None
    if not isinstance(value, Mapping):
        return None
    turns = _turns(value)
    if turns is not None:
        return "sharegpt" if turns and isinstance(turns[0], Mapping) and "from" in turns[0] else "messages"
    for form, keys in (
        ("preference", ("chosen", "rejected")),
        ("alpaca", ("instruction", "output")),
        ("prompt", ("prompt", "completion")),
    ):
        if all(key in value for key in keys):
            return form
    if any(all(key in value for key in pair) for pair in _QUESTIONS):
        return "questions"
    return "text" if isinstance(value.get("text"), str) and MARK.search(value["text"]) else None


def _turns(row: Mapping[str, Any]) -> Sequence[Any] | None:
    lists = [row[key] for key in ("messages", "conversations", "conversation") if isinstance(row.get(key), list)]
    return lists[0] if lists else None


def _need(row: Row) -> Mapping[str, Any]:
    if not isinstance(row.value, Mapping):
        raise DataError(f"{row.where} holds a {type(row.value).__name__}, not an object.")
    return row.value


def _text(row: Row, key: str, *, optional: bool = False) -> str:
    value = _need(row).get(key)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        value = str(value)  # an answer such as 4
    if value is None and optional:
        return ""
    if not isinstance(value, str):
        what = "has no" if key not in _need(row) or value is None else f"has a {type(value).__name__} as"
        raise DataError(f"{row.where} {what} '{key}'.")
    return value


def _whole(row: Row, messages: list[Message], tools: Any = None, answer: int = 0) -> Conversation:
    """A conversation that teaches something."""
    if not any(message.role == "assistant" for message in messages[answer:]):
        raise DataError(f"{row.where} has no turn of the assistant, so nothing can be learned from it.")
    return Conversation(row.where, tuple(messages), _tools(row, tools), answer=answer)


def _tools(row: Row, tools: Any) -> tuple[Any, ...]:
    if tools is None or tools == "":
        return ()
    if not isinstance(tools, list):
        raise DataError(f"{row.where}: 'tools' is not a list.")
    return tuple(tools)


def _messages(row: Row) -> Iterator[Conversation]:
    turns = _turns(_need(row))
    if turns is None:
        raise DataError(f"{row.where} has no list 'messages'.")
    yield _whole(row, read_messages(turns, row.where), _need(row).get("tools"))


_SHAREGPT = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "chatgpt": "assistant"}
_SHAREGPT |= {"bing": "assistant", "bard": "assistant", "model": "assistant", "system": "system", "tool": "tool"}
_SHAREGPT |= {"observation": "tool", "function_response": "tool", "function": "tool"}


def _sharegpt(row: Row) -> Iterator[Conversation]:
    turns: list[dict[str, Any]] = []
    system = _text(row, "system", optional=True)
    if system.strip():
        turns.append({"role": "system", "content": system})
    for number, turn in enumerate(_turns(_need(row)) or (), 1):
        where = f"{row.where}, turn {number}"
        if not isinstance(turn, Mapping) or not isinstance(turn.get("from"), str):
            raise DataError(f"{where} is not an object with 'from' and 'value'.")
        speaker, said = turn["from"], turn.get("value")
        if speaker == "function_call":
            turns.append({"role": "assistant", "tool_calls": [_written_call(said, where)]})
        elif speaker in _SHAREGPT:
            turns.append({"role": _SHAREGPT[speaker], "content": said})
        else:
            raise DataError(f"{where} is from '{speaker}'; it should be human, gpt, system, tool or function_call.")
    yield _whole(row, read_messages(turns, row.where))


def _written_call(said: Any, where: str) -> Any:
    """A call of a tool that ShareGPT keeps as a JSON text."""
    try:
        return json.loads(said)
    except (TypeError, ValueError) as error:
        raise DataError(f"{where}: the call of a tool is not valid JSON.") from error


def _alpaca(row: Row) -> Iterator[Conversation]:
    value = _need(row)
    turns = [Message("system", system)] if (system := _text(row, "system", optional=True)).strip() else []
    history = value.get("history") or []
    if not isinstance(history, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in history):
        raise DataError(f"{row.where}: 'history' is not a list of pairs of question and answer.")
    for question, answer in history:
        turns += [Message("user", str(question)), Message("assistant", str(answer))]
    asked = "\n\n".join(part for key in ("instruction", "input") if (part := _text(row, key, optional=True)).strip())
    turns += [Message("user", asked), Message("assistant", _text(row, "output"))]
    yield _whole(row, checked(turns, row.where))


def _spoken(row: Row, key: str, role: str) -> list[Message]:
    """Messages under a key that holds a list of them or the text of one."""
    value = _need(row).get(key)
    if isinstance(value, list):
        return read_turns(value, f"{row.where}: '{key}'")
    return [Message(role, _text(row, key))]


def _prompt(row: Row) -> Iterator[Conversation]:
    asked, answered = _spoken(row, "prompt", "user"), _spoken(row, "completion", "assistant")
    yield _whole(row, checked(asked + answered, row.where), _need(row).get("tools"), answer=len(asked))


_QUESTIONS = (("question", "answer"), ("question", "response"), ("query", "response"), ("query", "answer"),
              ("input", "output"), ("prompt", "response"))  # fmt: skip


def _questions(row: Row) -> Iterator[Conversation]:
    value = _need(row)
    pair = next((pair for pair in _QUESTIONS if all(key in value for key in pair)), None)
    if pair is None:
        raise DataError(f"{row.where} has no 'question' and 'answer'.")
    asked, choices = _text(row, pair[0]), value.get("choices")
    if choices:
        if not isinstance(choices, list) or not all(isinstance(choice, str) for choice in choices):
            raise DataError(f"{row.where}: 'choices' is not a list of texts.")
        asked += "".join(f"\n- {choice}" for choice in choices)
    yield _whole(row, checked([Message("user", asked), Message("assistant", _text(row, pair[1]))], row.where))


def _marked(row: Row) -> Iterator[Conversation]:
    """Turns from "Q:" or "User:" at the beginning of a line to the next such mark."""
    text = row.value if isinstance(row.value, str) else _text(row, "text")
    marks = list(MARK.finditer(text))
    if not marks or text[: marks[0].start()].strip():
        raise DataError(f"{row.where} does not begin with a mark such as 'Q:' or 'User:'.")
    turns = []
    for mark, following in itertools.zip_longest(marks, marks[1:]):
        role = MARKS[mark[1].lower()]
        turns.append({"role": role, "content": text[mark.end() : following.start() if following else None].strip()})
    yield _whole(row, read_messages(turns, row.where))


def _preference(row: Row) -> Iterator[Conversation]:
    prompt = _spoken(row, "prompt", "user") if _need(row).get("prompt") is not None else []
    chosen, rejected = (_spoken(row, key, "assistant") for key in ("chosen", "rejected"))
    if prompt and chosen[: len(prompt)] == prompt == rejected[: len(prompt)]:  # some sets repeat it
        prompt = []
    chosen, rejected = prompt + chosen, prompt + rejected
    shared = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(chosen, rejected, strict=False)))
    if shared in (len(chosen), len(rejected)):
        raise DataError(f"{row.where}: 'chosen' and 'rejected' say the same.")
    for messages in (chosen, rejected):
        checked(messages, row.where)
        _whole(row, messages, answer=shared)
    tools = _tools(row, _need(row).get("tools"))
    yield Conversation(row.where, tuple(chosen), tools, tuple(rejected), shared)


_READERS: dict[str, Callable[[Row], Iterator[Conversation]]] = {
    "messages": _messages, "sharegpt": _sharegpt, "alpaca": _alpaca, "prompt": _prompt, "questions": _questions,
    "text": _marked, "preference": _preference,
}  # fmt: skip
