"""Tasks: what holds for every one of Wren's own and for the stories, and `wren tasks`."""

import itertools
import json
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from random import Random

import pytest

from wren import arithmetic, tasks
from wren.cli import main
from wren.errors import ConfigError, DataError
from wren.stories.questions import questions
from wren.tasks import answers, command, prompts
from wren.tasks.own import chain_sum, countdown, list_functions
from wren.tasks.task import SPLITS, Problem, Task, check_gold

OWN = ["chain_sum", "countdown", "list_functions", "reverse_word", "sort_numbers"]
EVERY = [
    *OWN,
    "stories",
    "chain_sum:max_terms=5:max_digits=4:minus=false",
    "chain_sum:max_terms=5:steps",
    "countdown:min_numbers=2:max_numbers=5:signs=+-*/",
    "list_functions:steps=2:examples=4",
    "sort_numbers:descending",
    "reverse_word:alphabet=3:max_letters=5",
]


def test_the_tasks_are_those_of_the_folder_and_the_stories():
    assert tasks.names() == sorted([*OWN, "stories"])


@pytest.mark.parametrize("name", EVERY)
def test_every_gold_answer_is_right_and_little_else(name: str):
    task = tasks.read(name)
    for split in SPLITS:
        assert check_gold(task, 20, 3, split) == 20
        for problem in task.problems(3, 20, split):
            assert problem.prompt.strip() == problem.prompt != ""
            for wrong in ("", "?", "what", f"{problem.answer}x", f"{problem.answer}7", "9" * 30_000):
                assert task.score(problem, wrong) == 0, wrong


@pytest.mark.parametrize("name", EVERY)
def test_a_problem_depends_on_its_seed_split_and_index_alone(name: str):
    task, again = tasks.read(name), tasks.read(tasks.read(name).name)
    many = list(task.problems(5, 12, "val"))
    assert [again.problem(5, index, "val") for index in (11, 0, 6)] == [many[11], many[0], many[6]]
    assert list(task.split("val").problems(5, 12)) == many
    assert list(task.problems(6, 12, "val")) != many
    assert list(task.problems(5, 12, "train")) != many


@pytest.mark.parametrize("name", EVERY)
def test_splits_never_overlap_whatever_the_seeds(name: str):
    task = tasks.read(name)
    count = 40 if name == "stories" else 150
    marks = [{p.mark for seed in (0, 1) for p in task.problems(seed, count, split)} for split in SPLITS]
    assert all(len(each) > 10 for each in marks)
    assert not any(left & right for left, right in itertools.combinations(marks, 2))


def test_a_task_with_few_problems_still_has_splits_apart_and_says_when_one_is_empty():
    class Few(Task):
        name = "few"

        def __init__(self, count: int):
            self.count = count

        def draw(self, rng: Random) -> Problem:
            return Problem(prompt=f"number {rng.randrange(self.count)}", answer="x")

        def score(self, problem: Problem, text: str) -> float:
            return 1.0

    found = [{p.prompt for p in Few(40).distinct(0, 100, split)} for split in SPLITS]
    assert sum(map(len, found)) == len(set().union(*found)) == 40
    missing = {Problem(prompt="number 0", answer="x").split}
    with pytest.raises(DataError, match=r"too few different problems: in 200 draws none was of the split"):
        Few(1).problem(0, 0, next(split for split in SPLITS if split not in missing))


def test_a_verifier_that_fails_its_own_gold_answer_is_named():
    class Broken(chain_sum.Rules):
        def score(self, problem: Problem, text: str) -> float:
            return 0.5

    with pytest.raises(DataError, match=r"chain_sum fails its own gold answer '-?\d+': it gives 0\.5 to problem 0"):
        check_gold(Broken())


def test_sums_are_what_python_makes_of_them():
    for problem in tasks.read("chain_sum:max_terms=6:max_digits=5").problems(1, 200):
        terms = problem.prompt.removesuffix("=").replace("-", "+-").split("+")
        assert sum(map(int, terms)) == int(problem.answer)
        assert len(terms) <= 6


def test_every_step_of_a_sum_is_right_and_orders_differ():
    task = tasks.read("chain_sum:min_terms=4:max_terms=4:steps")
    first_in_order = 0
    for problem in task.problems(1, 200):
        *steps, last = problem.solution.split("\n")
        assert len(steps) == 3
        assert last == f"Answer: {problem.answer}"
        for left, right in (step.split("=") for step in steps):
            assert arithmetic.value(left) == arithmetic.value(right)
        assert prompts.score(task, problem, problem.solution, "bare") == 1
        assert task.stated(problem.prompt) == problem
        first_in_order += problem.prompt.startswith(steps[0].split("=")[0])
    assert first_in_order < 60


def test_another_order_of_a_sum_is_in_the_same_split():
    left, right = Problem(prompt="3+4=", answer="7", key="+3 +4"), Problem(prompt="4+3=", answer="7", key="+3 +4")
    assert left.mark == right.mark
    drawn = {p.prompt: p for p in tasks.read("chain_sum:max_terms=2:max_digits=1").problems(0, 400)}
    twins = [(p, drawn[q]) for p in drawn.values() if (q := f"{p.prompt[2]}{p.prompt[1]}{p.prompt[0]}=") in drawn]
    assert len([1 for p, q in twins if p.prompt != q.prompt and "+" in p.prompt]) > 10
    assert all(p.mark == q.mark for p, q in twins if "+" in p.prompt)


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("3*5+9", 1),
        ("9 + 3 * 5 = 24", 1),
        ("(9+(5*3))", 1),
        ("3*5+9=25", 0),
        ("3*5+9+0", 0),
        ("24", 0),
        ("9*3-5+2", 0),
        ("3*5+9-3+3", 0),
        ("72/3", 0),
        ("--9+3*5", 0),
        ("9+3*5**1", 0),
        ("__import__('os').getpid()", 0),
        ("9" * 400, 0),
        ("9**9**9", 0),
    ],
)
def test_countdown_takes_any_way_that_uses_each_number_once(text: str, score: float):
    problem = Problem(prompt="Make 24: 9 3 5", answer="9+3*5", data=(24, (3, 5, 9)))
    assert countdown.Rules().score(problem, text) == score


def test_a_clear_list_function_leaves_one_answer():
    task = list_functions.Rules()
    for problem in task.problems(2, 60):
        *shown, asked = problem.prompt.split("\n")
        pairs = [tuple(tuple(map(int, part.replace("none", "").split())) for part in line.split(">")) for line in shown]
        query = tuple(map(int, asked.removesuffix(">").split()))
        outcomes = {
            list_functions.applied([name], query)
            for name in list_functions.FUNCTIONS
            if all(list_functions.applied([name], before) == after for before, after in pairs)
        }
        assert len(outcomes) == 1
        assert " ".join(map(str, outcomes.pop())) == problem.answer.replace("none", "")


def test_story_questions_of_the_test_are_those_the_story_world_holds_out(monkeypatch: pytest.MonkeyPatch):
    from wren.tasks import stories

    kept = {}

    def remembered(told):
        found = questions(told)
        kept.update({f"{told.text}\n\n{question.text}": question.split for question in found})
        return found

    monkeypatch.setattr(stories, "questions", remembered)
    task = tasks.read("stories:max_characters=700")
    for split in SPLITS:
        found = list(task.problems(0, 6, split))
        assert {kept[problem.prompt] for problem in found} == {"test" if split == "test" else "train"}
        assert max(len(problem.prompt.rpartition("\n\n")[0]) for problem in found) <= 700


def test_distinct_problems_are_distinct():
    found = tasks.read("chain_sum").distinct(0, 120, "test")
    assert len({problem.mark for problem in found}) == len(found) == 120


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("chain_sums", r"Task 'chain_sums' is unknown; did you mean 'chain_sum'\?"),
        ("", r"Task '' is unknown"),
        ("countdown:min_nubers=3", r"'min_nubers' is unknown; did you mean 'min_numbers'\?"),
        ("countdown:min_numbers=9", r"countdown\.min_numbers is 9; it must lie in 2 to 8\."),
        ("countdown:min_numbers=5", r"countdown\.min_numbers is 5, more than countdown\.max_numbers, which is 3"),
        ("countdown:min_numbers=few", r"countdown\.min_numbers must be a number"),
        ("countdown:signs=+&", r"give some of \+-\*/, each once"),
        ("countdown:max_target=1e9", r"must lie in 10 to 1e\+06"),
        ("chain_sum:minus=perhaps", r"write true or false"),
        ("chain_sum:minus=false:max_terms=2:max_digits=1", "55 sums only"),
        ("reverse_word:alphabet=2:max_letters=4", "too few words"),
        ("sort_numbers:max_value=2:max_numbers=3", "too few lists"),
        ("list_functions:steps=3", r"must lie in 1 to 2"),
        ("stories:max_characters=100", r"must lie in 500 to 1300"),
        ("gym", "write gym:NAME"),
        ("file:", "write file:PATH"),
        ("file:notes.txt", "is no file of JSON lines"),
    ],
)
def test_a_mistake_is_one_sentence(name: str, sentence: str):
    with pytest.raises(ConfigError, match=sentence) as caught:
        tasks.read(name)
    assert "\n" not in str(caught.value)


def test_a_wrong_split_or_count_is_one_sentence():
    with pytest.raises(ConfigError, match=r"The split 'valid' is unknown; did you mean 'val'\?"):
        tasks.read("chain_sum").split("valid")  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"-1 problems"):
        tasks.read("chain_sum").problems(0, -1)


def test_settings_stand_in_the_name_and_read_back():
    task = tasks.read("countdown:max_numbers=5:min_numbers=4")
    assert task.name == "countdown:min_numbers=4:max_numbers=5"
    assert tasks.read(task.name) == task == replace(countdown.Rules(), min_numbers=4, max_numbers=5)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("42", 42),
        (" $1,234.50 ", Fraction("1234.5")),
        ("-3/4", Fraction(-3, 4)),
        ("25%", 25),
        ("6e3", 6000),
        ("42.", 42),
    ],
)
def test_numbers_are_read_as_people_write_them(text: str, value: Fraction):
    assert answers.number(text) == value


@pytest.mark.parametrize("text", ["", "x", "1-2", "4 2 apples", "1e9999", "1/0", "1,2,3", "."])
def test_what_is_no_number_is_none(text: str):
    assert answers.number(text) is None


@pytest.mark.parametrize(
    ("gold", "said", "is_same"),
    [
        ("42", "42.0", True),
        ("42", "So there are 6 x 7 = 42 apples.", True),
        ("1,000", "1000", True),
        ("0.5", "1/2", True),
        ("42", "43", False),
        ("42", "42 or 43", False),
        ("42", "x42", False),
        ("Ada.", "ada", True),
        ("Ada.", "Ada or Tom", False),
        ("the kite", " The  kite.", True),
    ],
)
def test_the_same_answer_in_other_words(gold: str, said: str, is_same: bool):
    assert answers.same(gold, said) == is_same


def test_the_verb_lists_shows_and_checks(tmp_path: Path, capsys: pytest.CaptureFixture):
    assert main(["tasks"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in (*tasks.names(), "gym:NAME", "file:PATH.jsonl", "max_number=12"))
    out = tmp_path / "t.json"
    assert main(["tasks", "sort_numbers", "--show", "2", "--check", "--count", "7", "--json", str(out)]) == 0
    said = capsys.readouterr().out
    result = json.loads(out.read_text())
    assert "agrees with the gold answers of 7 problems of 'train'" in said
    assert [row["prompt"] in said and row["answer"] in said for row in result["problems"]] == [True, True]
    assert result["checked"] == 7


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["countdwn"], "did you mean 'countdown'?"),
        (["--show", "2"], "Name the task that is to be shown"),
        (["chain_sum", "--show", "-1"], "-1 problems cannot be looked at"),
        (["chain_sum", "--check", "--count", "0"], "--count is 0"),
        (["file:/nowhere/at.jsonl"], "does not exist"),
    ],
)
def test_a_mistake_of_the_verb_ends_with_2(arguments: list[str], sentence: str, capsys: pytest.CaptureFixture):
    assert main(["tasks", *arguments]) == 2
    assert sentence in capsys.readouterr().err


def test_a_broken_verifier_is_told_by_the_check(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(chain_sum.Rules, "score", lambda self, problem, text: 0.0)
    with pytest.raises(DataError, match="fails its own gold answer"):
        command.tasks_command("chain_sum", check=3, say=lambda text: None)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2+3*4", 14),
        ("(2 + 3) * 4", 20),
        ("-2^2", -4),
        ("2**-1", Fraction(1, 2)),
        ("2**3**2", 512),
        ("7//2", 3),
        ("-7%3", 2),
        ("1,000/8", 125),
        ("1e3", 1000),
        (".5\u00d74", 2),
        ("1**9999999", 1),
        ("0**0", 1),
        ("--3", 3),
    ],
)
def test_arithmetic_is_exact(text: str, value: Fraction):
    assert arithmetic.value(text) == value


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "empty"),
        ("1+", "ends where a number"),
        ("(1", "closing parenthesis"),
        ("1 2", "'2' was not expected"),
        ("1/0", "divided by 0"),
        ("1%0", "divided by 0"),
        ("1//0", "divided by 0"),
        ("0**-1", "negative power"),
        ("2**0.5", "whole number"),
        ("9**9**9", "too large"),
        ("9**999999999999", "too large"),
        ("1e9999", "too large or too small"),
        ("9" * 499, "too large"),
        ("1" * 501, "501 characters"),
        ("(" * 50 + "1" + ")" * 50, "nested more than 40 deep"),
        ("-" * 100 + "1", "nested more than 40 deep"),
        ("x", "'x' is not arithmetic; use numbers"),
        ("__import__('os')", "is not arithmetic"),
        ("os", "'os' is not arithmetic; use numbers"),
        ("1;2", "is not arithmetic"),
    ],
)
def test_what_is_not_arithmetic_or_too_large_is_one_sentence(text: str, sentence: str):
    with pytest.raises(arithmetic.ExpressionError, match=sentence):
        arithmetic.value(text)


def test_arithmetic_agrees_with_python_on_random_expressions():
    rng = Random(0)

    def written(depth: int) -> str:
        if depth == 0 or rng.random() < 0.2:
            return str(rng.randint(0, 99))
        left, right = written(depth - 1), written(depth - 1)
        return f"({left}) {rng.choice(['+', '-', '*', '//', '%'])} -({right})"

    compared = 0
    for _ in range(300):
        text = written(3)
        try:
            expected = eval(text)
        except ZeroDivisionError:
            with pytest.raises(arithmetic.ExpressionError, match="divided by 0"):
                arithmetic.value(text)
            continue
        assert arithmetic.value(text) == expected, text
        compared += 1
    assert compared > 150


@pytest.mark.parametrize(
    "name", ["chain_sum", "chain_sum:max_terms=6:minus=false", "reverse_word", "sort_numbers:descending", "countdown"]
)
def test_a_problem_that_is_stated_is_read_back(name):
    task = tasks.read(name)
    assert task.invents
    for problem in task.problems(0, 100):
        found = task.stated(problem.prompt)
        assert found is not None
        assert (found.prompt, found.mark) == (problem.prompt, problem.mark)
        assert task.score(found, problem.answer) == 1
        assert found.answer in ("", problem.answer)


@pytest.mark.parametrize("text", ["", "x", "Sort: ", "Sort: 1  2 3", "Sort: 1 2 3 1000", "Sort: 01 2 3", "1+", "1+2",
    "01+2=", "1+2=3=", "1+2+3+4=", "100+1=", "Reverse: ", "Reverse: Ab", "Reverse: abcdefgh", "Reverse: abc ",
    "Make 5: ", "Make 0: 1 2 3", "Make 5: 1 2", "Make 5: 1 2 13", "Make 500: 1 2 3"])  # fmt: skip
def test_what_states_no_problem_is_not_read(text):
    for name in ("chain_sum", "reverse_word", "sort_numbers", "countdown"):
        assert tasks.read(name).stated(text) is None


def test_most_tasks_cannot_be_invented():
    task = tasks.read("list_functions")
    assert not task.invents
    assert task.stated(task.problem(0, 0).prompt) is None
