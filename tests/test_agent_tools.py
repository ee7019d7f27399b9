"""The tools: exact arithmetic within bounds, and a search that stays in its folder."""

import contextlib
import json
import math
import os
import re
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wren.arithmetic import MAX_CHARACTERS
from wren.chat.calculator import calculate
from wren.chat.search import MAX_FILE_BYTES, MAX_FOUND, PASSAGE, Folder, Index, Passage, passages, search_tool
from wren.chat.tools import Toolbox, ToolError
from wren.errors import ConfigError


def call(name: str, **arguments: object) -> str:
    return json.dumps({"name": name, "arguments": arguments})


# the calculator


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("2 + 3 * 4", "14"),
        ("(2 + 3) * 4", "20"),
        ("1,234,567 + 1", "1234568"),
        ("0.1 + 0.2", "0.3"),
        ("10 / 4", "2.5"),
        ("1 / 3", "0.333333333333"),
        ("-7 // 2", "-4"),
        ("-7 % 3", "2"),
        ("-2 ** 2", "-4"),
        ("2 ** -2", "0.25"),
        ("2 ^ 3 ^ 2", "512"),
        ("--5", "5"),
        ("1e3 + .5", "1000.5"),
        ("6 \u00d7 7 \u2212 12 \u00f7 4", "39"),
        ("0 ** 0", "1"),
        ("(-1) ** (10 ** 20)", "1"),
        ("0 ** (10 ** 20)", "0"),
        ("10 ** 300 / 7", "1.42857142857E+299"),
        ("-0.000000000001", "-0.000000000001"),
        ("12345678901234567890 * 98765432109876543210", str(12345678901234567890 * 98765432109876543210)),
    ],
)
def test_values(expression: str, value: str):
    assert calculate(expression) == value


@pytest.mark.parametrize(
    ("expression", "sentence"),
    [
        ("", "empty"),
        ("  ", "empty"),
        ("2 +", "ends where a number was expected"),
        ("2 3", "'3' was not expected"),
        ("1,23", "',23' is not arithmetic"),
        ("* 2", "'*' stands where a number was expected"),
        ("(2", "closing parenthesis is missing"),
        ("2)", "')' was not expected"),
        ("1 / 0", "divided by 0"),
        ("1 % (2 - 2)", "divided by 0"),
        ("0 ** -1", "negative power"),
        ("2 ** 0.5", "whole number"),
        ("__import__('os')", "is not arithmetic"),
        ("abs(2)", "'abs(2)' is not arithmetic"),
        ("2x", "'x' is not arithmetic; use numbers, + - * / // % ** and parentheses"),
        ("9 ** 9 ** 9", "too large"),
        ("9 ** 9 ** 9 ** 9 ** 9", "too large"),
        ("10 ** 309", "too large"),
        ("1e999", "too large"),
        ("1e9999", "too large"),
        ("1e-9999", "too large"),
        ("(10 ** 300) * (10 ** 300)", "too large"),
        ("1" * 400, "too large"),
        ("(" * 100 + "1" + ")" * 100, "nested"),
        ("-" * 100 + "1", "nested"),
        ("2 **" * 100 + "1", "nested"),
        ("1 +" * MAX_CHARACTERS, "characters"),
    ],
)
def test_what_cannot_be_worked_out(expression: str, sentence: str):
    with pytest.raises(ToolError) as error:
        calculate(expression)
    assert sentence in str(error.value)


def written(depth: int) -> st.SearchStrategy[str]:
    numbers = st.integers(0, 999).map(str)
    if depth == 0:
        return numbers
    inner = written(depth - 1)
    pair = st.tuples(inner, st.sampled_from(["+", "-", "*", "/", "//", "%"]), inner)
    return st.one_of(numbers, pair.map(" ".join), inner.map("({})".format), inner.map("-{}".format))


@settings(max_examples=150, deadline=None)
@given(written(4))
def test_it_agrees_with_python(expression: str):
    exact = "".join(f"Fraction({word})" if word.isdigit() else word for word in words(expression))
    try:
        value = eval(exact, {"Fraction": Fraction})
    except ZeroDivisionError:
        with pytest.raises(ToolError, match="divided by 0"):
            calculate(expression)
        return
    assert math.isclose(float(calculate(expression)), float(value), rel_tol=1e-11, abs_tol=1e-300)


def words(expression: str) -> list[str]:
    return re.findall(r"\d+|\D", expression)


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="0123456789.,eE+-*/%^() x", max_size=60))
def test_any_text_gives_a_value_or_a_sentence(expression: str):
    with contextlib.suppress(ToolError):  # and no other error
        assert calculate(expression)


# the search


def folder(path: Path) -> Path:
    path.mkdir()
    (path / "birds").mkdir()
    (path / "birds" / "wren.txt").write_text("The wren is small.\n\nIt sings loudly in winter.", encoding="utf-8")
    (path / "b.md").write_text("Owls hunt at night.", encoding="utf-8")
    (path / "a.csv").write_text("Crows are clever.", encoding="utf-8")
    return path


def test_the_best_passage_comes_first_with_its_file(tmp_path: Path):
    found = Folder(folder(tmp_path / "docs")).search("Which bird sings in WINTER?")
    assert found == "[birds/wren.txt]\nThe wren is small.\n\nIt sings loudly in winter."
    assert Folder(tmp_path / "docs").search("penguins") == "Nothing was found; try other words."


def test_bm25_is_its_formula():
    index = Index([Passage("a", "red red kite"), Passage("b", "red hat and a cat"), Passage("c", "blue kite")])

    def part(times: int, having: int, length: int) -> float:
        rare = math.log(1 + (3 - having + 0.5) / (having + 0.5))
        return rare * times * 2.5 / (times + 1.5 * (0.25 + 0.75 * length / (10 / 3)))

    assert index._score(["red", "kite"], 0) == pytest.approx(part(2, 2, 3) + part(1, 2, 3))
    assert [p.source for p in index.ranked("red kite")] == ["a", "c", "b"]
    assert [p.source for p in index.ranked("Blue?")] == ["c"]
    assert Index([]).ranked("red") == Index([Passage("a", "...")]).ranked("red") == []


def test_nothing_outside_the_folder_is_read(tmp_path: Path):
    root, outside = folder(tmp_path / "docs"), tmp_path / "docs-secret"
    outside.mkdir()
    (outside / "secret.txt").write_text("secret password", encoding="utf-8")
    (root / "link.txt").symlink_to(outside / "secret.txt")
    (root / "linked").symlink_to(outside, target_is_directory=True)
    (root / "up").symlink_to(tmp_path, target_is_directory=True)
    (root / "around").symlink_to(root, target_is_directory=True)
    (root / ".env").write_text("secret password", encoding="utf-8")
    (root / ".git").mkdir()
    (root / ".git" / "config").write_text("secret password", encoding="utf-8")
    assert Folder(root).search("secret password") == "Nothing was found; try other words."
    assert len(Folder(root).index().passages) == 3
    # a link to the folder itself is the user's own choice
    (tmp_path / "chosen").symlink_to(root, target_is_directory=True)
    assert "[b.md]" in Folder(tmp_path / "chosen").search("owls")


def test_a_file_that_became_a_link_meanwhile_is_not_read(tmp_path: Path):
    root = folder(tmp_path / "docs")
    (tmp_path / "secret.txt").write_text("secret", encoding="utf-8")
    search = Folder(root)
    listed = root / "b.md"
    listed.unlink()
    listed.symlink_to(tmp_path / "secret.txt")
    assert list(search._read(search.root / "b.md")) == []
    (root / "birds" / "wren.txt").unlink()
    (root / "birds").rmdir()
    (root / "birds").symlink_to(tmp_path, target_is_directory=True)
    assert list(search._read(search.root / "birds" / "secret.txt")) == []


@pytest.mark.skipif(os.name != "posix", reason="needs named pipes")
def test_what_is_no_text_is_passed_over(tmp_path: Path):
    root = folder(tmp_path / "docs")
    os.mkfifo(root / "pipe.txt")
    (root / "image.txt").write_bytes(b"owls \x00 owls")
    (root / "latin.txt").write_bytes("owls für alle".encode("latin-1"))
    (root / "long.txt").write_bytes(b"owls " * (MAX_FILE_BYTES // 5 + 1))
    (root / "empty.txt").write_bytes(b"")
    assert [p.source for p in Folder(root).index().ranked("owls")] == ["b.md"]


def test_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    root = folder(tmp_path / "docs")
    for bound, names in (("MAX_FILES", 2), ("MAX_BYTES", 40), ("MAX_ENTRIES", 3)):
        with monkeypatch.context() as patch:
            patch.setattr(f"wren.chat.search.{bound}", names)
            assert [p.source for p in Folder(root).index().passages] == ["a.csv", "b.md"]


def test_a_change_is_seen(tmp_path: Path):
    search = Folder(folder(tmp_path / "docs"))
    first = search.index()
    assert search.index() is first
    (search.root / "new.txt").write_text("Penguins swim.", encoding="utf-8")
    assert "Penguins" in search.search("penguins")
    (search.root / "new.txt").unlink()
    assert "Nothing" in search.search("penguins")


def test_passages_are_whole_paragraphs_up_to_their_length():
    text = "\n\n".join(f"{i} " + "word " * 60 for i in range(7)) + "\n\n" + "x" * 2500 + "\r\n"
    found = [passage.text for passage in passages("a", text)]
    assert max(map(len, found)) <= PASSAGE
    assert "".join("".join(found).split()) == "".join(text.split())
    assert found[0].count("\n\n") == 1  # two paragraphs of about 300 characters, not a third
    assert list(passages("a", " \n\n \n")) == []


def test_an_answer_holds_as_many_passages_as_there_is_room_for():
    index = Index([Passage(str(i), f"owl {i} " + "x" * 400) for i in range(5)])
    assert index.answer("owl").count("[") == 2
    assert len(index.answer("owl")) <= MAX_FOUND + 20
    assert Index([Passage("a", "owl " * 400)]).answer("owl").count("owl") == 400


def test_no_folder_and_no_words(tmp_path: Path):
    with pytest.raises(ConfigError, match="is not a folder"):
        Folder(tmp_path / "nosuch")
    box = Toolbox([search_tool(Folder(folder(tmp_path / "docs")))])
    assert "has no words" in box.run(call("search", query="?!")).text
    assert "may have 300" in box.run(call("search", query="x" * 301)).text
    assert "Owls hunt" in box.run(call("search", query="owls")).text
