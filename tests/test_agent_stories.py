"""Problems that want a tool: right answers, held-out parts, the bench that scores a model; the quickstart's chat."""

import functools
import importlib.util
import json
import re
import sys
from itertools import islice
from pathlib import Path
from types import ModuleType

import pytest
from tune_parts import FP32, base_run, chat

from wren import quickstart_chat
from wren.chat.calculator import calculate
from wren.chat.command import tools_named
from wren.chat.story_tasks import Problem, problems, searches, sums
from wren.errors import DataError
from wren.exits import exit_code
from wren.files import write_json
from wren.run import Run
from wren.tune.formats import read_conversations

BENCH = Path(__file__).parent.parent / "bench" / "story_tools.py"


@functools.cache
def some(split: str, count: int = 60) -> list[Problem]:
    return list(problems(5, count, split))  # type: ignore[arg-type]


@functools.cache
def bench() -> ModuleType:
    spec = importlib.util.spec_from_file_location("story_tools", BENCH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["story_tools"] = module  # its dataclass looks itself up there
    spec.loader.exec_module(module)
    return module


def expression(problem: Problem) -> str:
    return json.loads(problem.call)["arguments"]["expression"]


def test_sums_are_answered_by_the_calculator_and_name_whole_numbers():
    kinds = set()
    for problem in islice(sums(3, "train"), 150):
        value = problem.toolbox.run(problem.call).text
        assert value == calculate(expression(problem))
        assert re.fullmatch(r"-?\d+", value)
        assert re.search(rf"(?<!\d){value}(?!\d)", problem.answer)
        assert all(number in problem.asked for number in re.findall(r"\d+", expression(problem)))
        kinds.add(re.sub(r"\d+", "", expression(problem)))
    assert {" + ", " - ", " * ", " / "} <= kinds


def test_no_pair_of_numbers_of_the_test_stands_in_training():
    def pairs(split: str) -> set[tuple[str, ...]]:
        found = (re.findall(r"\d+", expression(p)) for p in islice(sums(3, split), 400))  # type: ignore[arg-type]
        return {tuple(numbers[:2]) for numbers in found}

    assert not pairs("train") & pairs("test")


def test_a_search_finds_the_story_that_answers():
    for problem in islice(searches(3, "train", 4), 40):
        found = problem.toolbox.run(problem.call).text
        assert found.startswith(f"[{problem.source}]\n")
        assert re.sub(r"^(It was|The|An|A) ", "", problem.answer.rstrip(".")).lower() in found.lower()
        assert len({passage.source for passage in problem.folder}) == 4
    tested = list(islice(searches(3, "test", 4), 30))
    hits = sum(p.toolbox.run(p.call).text.startswith(f"[{p.source}]\n") for p in tested)
    assert hits > 0.8 * len(tested)


def test_the_same_seed_asks_the_same_and_rows_are_valid(tmp_path: Path):
    again = list(problems(5, 60, "train"))
    assert [(p.asked, p.call, p.answer) for p in again] == [(p.asked, p.call, p.answer) for p in some("train")]
    assert [p.kind for p in again[:4]] == ["sum", "search"] * 2
    path = tmp_path / "rows.jsonl"
    rows = [p.as_conversation(tools=tools) for p in again for tools in (True, False)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    found = read_conversations([str(path)]).conversations
    assert [list(one.messages) for one in found] == [p.messages(tools=t) for p in again for t in (True, False)]
    assert [m.role for m in found[0].messages] == ["user", "assistant", "tool", "assistant"]
    assert found[0].messages[1].calls == (again[0].call,)
    with pytest.raises(DataError, match="0 problems"):
        problems(5, 0, "train")


def test_the_tools_are_those_of_wren_chat(tmp_path: Path):
    given = tools_named(["calculator", "search"], tmp_path)
    assert [tool.schema() for tool in given] == some("train")[0].toolbox.schemas()


def test_make_writes_data_and_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert bench().main(["make", "--out", str(tmp_path), "--train", "10", "--test", "8"]) == 0
    assert len((tmp_path / "train.jsonl").read_text().splitlines()) == 20
    assert len(list((tmp_path / "folder-1").glob("story-?.txt"))) == 4
    said = capsys.readouterr().out
    assert f"{tmp_path / 'folder-1'}: " in said
    assert exit_code("story_tools.py", lambda: bench().main(["make"])) == 2
    assert "with --out" in capsys.readouterr().err


class Knowing:
    """In the place of `answers`: a model that calls the right tool, and then says what it read or knows."""

    def __init__(self, test: list[Problem], answer: str = ""):
        self.test = {tuple(chat().tokenizer.encode(p.asked)): p for p in test}
        self.answer = answer

    def __call__(self, model, chat_, prompts, sampling, precision):
        return [self.reply(list(prompt)) for prompt in prompts]

    def reply(self, prompt: list[int]) -> list[int]:
        text = chat().tokenizer.decode(prompt)
        problem = next(p for asked, p in self.test.items() if p.asked in text)
        encode, special = chat().tokenizer.encode, chat().tokenizer.special
        if "Tools:" in text and prompt.count(special["tool"]) == 0:
            return [chat().call_id, *encode(problem.call), chat().end_id]
        right = "Tools:" in text and problem.kind == "sum"
        return [*encode(problem.answer if right else self.answer), chat().end_id]


def test_scores_are_of_what_is_said_in_the_end(monkeypatch: pytest.MonkeyPatch):
    test = some("test", 20)
    monkeypatch.setattr(bench(), "answers", Knowing(test, "I do not know."))
    result = bench().scored(None, chat(), test, FP32)
    ways = {row["name"]: row for row in result["ways"]}
    assert ways["sum, with tools"]["accuracy"] == 1
    assert ways["search, with tools"]["accuracy"] == ways["all, without"]["accuracy"] == 0
    assert result["accuracy"] == ways["all, with tools"]["accuracy"] == 0.5
    assert ways["all, with tools"]["calls"] == 20
    assert ways["all, without"]["calls"] == ways["all, with tools"]["failed"] == 0
    assert ways["all, with tools"]["low"] < 0.5 < ways["all, with tools"]["high"]
    assert len(result["wrong"]) == 10
    assert result["wrong"][0]["said"][-1]["content"] == "I do not know."
    assert bench().table(result["ways"]).row_count == 6


def test_a_run_is_scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(bench(), "_ANSWER_TOKENS", 4)
    path = base_run(tmp_path / "run")
    assert bench().main(["score", "--run", str(path), "--test", "4", "--json", str(tmp_path / "s.json")]) == 0
    assert json.loads((tmp_path / "s.json").read_text())["problems"] == 4
    assert exit_code("story_tools.py", lambda: bench().main(["score"])) == 2


def test_the_quickstart_tunes_asks_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name, value in {"_STORIES": {"cpu": 12}, "_VAL_STORIES": 2, "_TEST": 2}.items():
        monkeypatch.setattr(quickstart_chat, name, value)
    monkeypatch.setattr("wren.tune.run._SAMPLE_TOKENS", 4)
    run, said = Run(base_run(tmp_path / "run")), []
    config = run.config()
    config["train"]["batch_size"] = 1
    write_json(run.config_path, config)
    options = {"seconds": 10.0, "seed": 0, "device": "cpu", "say": said.append}
    found = quickstart_chat.tune_and_ask(run, {"tokens_per_second": 800.0}, **options)
    assert found["steps"] == 1
    assert len(found["turns"]) == 3
    assert found["questions"] == 2
    assert all(turn["right"] for turn in found["turns"])
    quickstart_chat.show(found, said.append)
    assert found["turns"][0]["question"] in "\n".join(said)
    assert re.search(r"Of 2 questions about as many other unseen stories it answers \d right", said[-1])
    assert len({turn["right"] for turn in found["turns"]}) == 3
    assert quickstart_chat.notes(found)["its answers"] == quickstart_chat.summary(found)
    assert quickstart_chat.notes(None) == {}
    faster, other = {"tokens_per_second": 8000.0}, Run(base_run(tmp_path / "other"))
    assert quickstart_chat._steps(run, faster, 2.0, 100) == found["steps"]  # those it began with
    assert quickstart_chat._steps(other, faster, 2.0, 100) == int(0.75 * 2.0 * 8000 / (4 * 100))


def test_a_model_that_answers_nothing_is_shown_too():
    found = {"story": "s", "turns": [{"question": "Who?", "answer": "", "right": "Ann."}], "questions": 4}
    found |= {"accuracy": 0.25, "ways": [{"name": name, "accuracy": 0.5} for name in ("no story", "most named")]}
    said: list[str] = []
    quickstart_chat.show(found, said.append)
    assert "(the story says: Ann.)" in said[1]
    assert "answers 1 right" in said[2]
