"""Forms of conversations: each is found by itself, in every kind of file; wrong rows are named by file and line."""

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from tune_parts import write_lines

from wren.errors import DataError
from wren.tokenizer.chat import Message
from wren.tune.formats import Found, read_conversations

USER, ANSWER = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}
TALK = (Message("user", "Hi"), Message("assistant", "Ho"))
SYSTEM = Message("system", "Be kind.")
CALL = '{"name": "add", "arguments": {"a": 2}}'


def read(path: Path | str, **options: Any) -> Found:
    return read_conversations([str(path)], **options)


@pytest.mark.parametrize(
    ("row", "form", "expected"),
    [
        ({"messages": [USER, ANSWER], "source": "x"}, "messages", TALK),
        ({"conversation": [USER, ANSWER]}, "messages", TALK),
        ({"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}]}, "sharegpt", TALK),
        (
            {"system": "Be kind.", "conversations": [{"from": "user", "value": "Hi"}, {"from": "gpt", "value": "Ho"}]},
            "sharegpt",
            (SYSTEM, *TALK),
        ),
        (
            {
                "conversations": [
                    {"from": "human", "value": "Hi"},
                    {"from": "function_call", "value": CALL},
                    {"from": "observation", "value": "4"},
                    {"from": "gpt", "value": "Ho"},
                ]
            },
            "sharegpt",
            (TALK[0], Message("assistant", "", (CALL,)), Message("tool", "4"), TALK[1]),
        ),
        ({"instruction": "Hi", "input": "", "output": "Ho"}, "alpaca", TALK),
        (
            {"instruction": "Hi", "input": "you", "output": "Ho", "system": "Be kind.", "history": [["Hi", "Ho"]]},
            "alpaca",
            (SYSTEM, *TALK, Message("user", "Hi\n\nyou"), TALK[1]),
        ),
        ({"prompt": "Hi", "completion": "Ho"}, "prompt", TALK),
        ({"prompt": [SYSTEM.as_dict(), USER], "completion": [ANSWER]}, "prompt", (SYSTEM, *TALK)),
        ({"question": "Hi", "answer": "Ho"}, "questions", TALK),
        ({"question": "2 + 2?", "answer": 4}, "questions", (Message("user", "2 + 2?"), Message("assistant", "4"))),
        ({"query": "Hi", "response": "Ho"}, "questions", TALK),
        (
            {"question": "Hi?", "choices": ["Ho", "Ha"], "answer": "Ho"},
            "questions",
            (Message("user", "Hi?\n- Ho\n- Ha"), TALK[1]),
        ),
        ({"text": "User: Hi\nAssistant: Ho"}, "text", TALK),
    ],
)
def test_a_form_is_found_by_itself(row: Any, form: str, expected: tuple[Message, ...], tmp_path: Path) -> None:
    found = read(write_lines(tmp_path / "a.jsonl", [row]))
    assert [one.messages for one in found.conversations] == [expected]
    assert [(name, count) for _, name, count in found.files] == [(form, 1)]
    assert found.conversations[0].where == f"{tmp_path / 'a.jsonl'}:1"


def test_every_kind_of_file_holds_the_same(tmp_path: Path) -> None:
    rows = [{"messages": [USER, {**ANSWER, "content": f"Ho {i}"}]} for i in range(3)]
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + lines.replace(b"\n", b"\n\n"))
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(lines))
    (tmp_path / "c.jsonl.zst").write_bytes(zstandard.compress(lines))
    (tmp_path / "d.json").write_text(json.dumps(rows, indent=1))
    (tmp_path / "e.json").write_text(json.dumps({"version": 1, "data": rows}))
    (tmp_path / "f.json.gz").write_bytes(gzip.compress(lines))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "g.parquet")
    (tmp_path / "h.parquet.zst").write_bytes(zstandard.compress((tmp_path / "g.parquet").read_bytes()))
    expected = [(Message("user", "Hi"), Message("assistant", f"Ho {i}")) for i in range(3)]
    files = sorted(tmp_path.iterdir())
    assert len(files) == 8
    for file in files:
        assert [one.messages for one in read(file).conversations] == expected, file
    assert len(read(tmp_path).conversations) == len(read(tmp_path / "*").conversations) == 24


def test_questions_and_answers_in_plain_text(tmp_path: Path) -> None:
    text = "Q: Hi\nA: Ho\n\nQ: Who are\nyou?\n\nA: A bird.\n\nIt sings.\nQ: Really?\nA: Yes.\n"
    (tmp_path / "a.txt").write_text(text)
    found = read(tmp_path / "a.txt")
    asked = [(Message("user", "Who are\nyou?")), Message("assistant", "A bird.\n\nIt sings.")]
    assert [one.messages for one in found.conversations] == [
        TALK, (*asked, Message("user", "Really?"), Message("assistant", "Yes.")),
    ]  # fmt: skip
    assert [one.where for one in found.conversations] == [f"{tmp_path / 'a.txt'}:{n}" for n in (1, 4)]


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Hi", "chosen": "Ho", "rejected": "Ha"},
        {"prompt": [USER], "chosen": [ANSWER], "rejected": [{**ANSWER, "content": "Ha"}]},
        {"chosen": [USER, ANSWER], "rejected": [USER, {**ANSWER, "content": "Ha"}]},
        {"prompt": [USER], "chosen": [USER, ANSWER], "rejected": [USER, {**ANSWER, "content": "Ha"}]},
    ],
)
def test_preference_pairs(row: Any, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", [row])
    (one,) = read(path, preference=True).conversations
    assert (one.messages, one.rejected, one.answer) == (TALK, (TALK[0], Message("assistant", "Ha")), 1)
    with pytest.raises(DataError, match="add --dpo"):
        read(path)


def test_pairs_are_asked_for(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", [{"messages": [USER, ANSWER]}])
    with pytest.raises(DataError, match="leave out --dpo"):
        read(path, preference=True)


GOOD = {"messages": [USER, ANSWER]}


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("{", "a.jsonl:2 is not valid JSON"),
        ('{"messages": [\udcff', "a.jsonl:2 is not UTF-8"),
        ("[]", "a.jsonl:2 holds a list, not an object"),
        ("{}", "a.jsonl:2 has no list 'messages'"),
        (json.dumps({"messages": [ANSWER, USER]}), "a.jsonl:2 begins with the assistant"),
        (json.dumps({"messages": [USER, {**ANSWER, "content": ""}]}), "a.jsonl:2, turn 2 of the assistant is empty"),
        (json.dumps({"messages": [{**USER, "role": "bot"}]}), "a.jsonl:2, turn 1 is of 'bot'"),
        (json.dumps({"messages": [USER]}), "a.jsonl:2 has no turn of the assistant"),
        (json.dumps({"messages": [USER, ANSWER], "tools": {}}), "'tools' is not a list"),
    ],
)
def test_one_bad_line_is_named_or_counted(line: str, sentence: str, tmp_path: Path) -> None:
    good = json.dumps(GOOD)
    (tmp_path / "a.jsonl").write_bytes(f"{good}\n{line}\n{good}\n".encode("utf-8", "surrogateescape"))
    with pytest.raises(DataError, match=f"{sentence}.*--skip-bad"):
        read(tmp_path / "a.jsonl")
    found = read(tmp_path / "a.jsonl", skip_bad=True)
    assert len(found.conversations) == 2
    assert len(found.faults) == 1
    assert "Passed over 1 rows, the first because" in found.summary()[-1]


@pytest.mark.parametrize(
    ("first", "wrong", "sentence"),
    [
        ({"instruction": "a", "output": "b"}, {"instruction": "a", "output": None}, "has no 'output'"),
        ({"instruction": "a", "output": "b"}, {"instruction": "a", "output": ["b"]}, "has a list as 'output'"),
        ({"instruction": "a", "output": "b"}, {"instruction": "a", "output": "b", "history": "c"}, "'history'"),
        ({"question": "a", "answer": "b"}, {"question": "a"}, "has no 'question' and 'answer'"),
        ({"question": "a", "answer": "b"}, {"question": "a", "answer": "b", "choices": [1]}, "'choices' is not"),
        ({"prompt": "a", "completion": "b"}, {"prompt": "", "completion": "b"}, "turn 1 of the user is empty"),
        ({"text": "Q: a\nA: b"}, {"text": "a\nQ: b\nA: c"}, "does not begin with a mark"),
        (
            {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
            {"conversations": [{"from": "alien", "value": "a"}]},
            "is from 'alien'",
        ),
        (
            {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
            {"conversations": [{"from": "human", "value": "a"}, {"from": "function_call", "value": "f("}]},
            "not valid JSON",
        ),
    ],
)
def test_wrong_rows_of_other_forms(first: Any, wrong: Any, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"a.jsonl:2.*{sentence}"):
        read(write_lines(tmp_path / "a.jsonl", [first, wrong]))


def test_pairs_that_say_the_same_are_refused(tmp_path: Path) -> None:
    rows = [{"prompt": "a", "chosen": "b", "rejected": "b"}]
    with pytest.raises(DataError, match="say the same"):
        read(write_lines(tmp_path / "a.jsonl", rows), preference=True)


def test_files_that_are_no_conversations(tmp_path: Path) -> None:
    for name, content, sentence in (
        ("a.jsonl", "", "holds no rows"),
        ("b.jsonl", '{"text": "plain", "id": 3}\n', "in no form that is known here .keys 'text', 'id'"),
        ("c.txt", "plain text", "in no form that is known"),
        ("d.json", "3", "holds a int"),
        ("e.json", "[{]", "not valid JSON"),
        ("f.parquet", "no", "damaged or not parquet"),
        ("g.csv", "a,b", "unknown kind"),
    ):
        (tmp_path / name).write_text(content)
        with pytest.raises(DataError, match=sentence):
            read(tmp_path / name)
    with pytest.raises(DataError, match="does not exist"):
        read(tmp_path / "none.jsonl")
    with pytest.raises(DataError, match="stands for no file"):
        read(tmp_path / "*.none")
    bad = write_lines(tmp_path / "bad.jsonl", [{"messages": [ANSWER]}])
    with pytest.raises(DataError, match=r"all 1 rows are wrong.*begins with the assistant"):
        read(bad, skip_bad=True)
