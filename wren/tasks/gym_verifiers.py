"""Verifiers of our own for some of reasoning-gym's generators (version 0.1.25).

Those of countdown, puzzle24, simple_integration, intermediate_integration, string_insertion, spiral_matrix,
binary_matrix and n_queens hand the answer to eval() or sympy.parse_expr(), which runs it as Python. puzzle24's asks for
four numbers in range but not for the given ones, number_sorting's lets each number be off by 1, and that of
game_of_life_halting takes whatever is not True for False.
"""

import json
import math
from collections.abc import Callable, Mapping
from fractions import Fraction
from random import Random

from wren import arithmetic
from wren.arithmetic import Expression, ExpressionError, Name, Number
from wren.tasks import answers
from wren.tasks.task import Problem

_POINTS = 8  # random places at which two formulas are compared
_CLOSE = 1e-6
_CONSTANTS = {"E": math.e, "pi": math.pi}
_FUNCTIONS: Mapping[str, Callable[[float], float]] = {
    **{name: getattr(math, name) for name in ("exp", "log", "sqrt", "sin", "cos", "tan", "asin", "acos", "atan")},
    **{name: getattr(math, name) for name in ("sinh", "cosh", "tanh")},
    "ln": math.log,
    "Abs": abs,
    "negative": lambda value: -value,
}


def _countdown(problem: Problem, text: str) -> float:
    metadata = problem.data["metadata"]
    return _reaches(text, metadata["numbers"], metadata["target"])


def _puzzle24(problem: Problem, text: str) -> float:
    given = list(arithmetic.numbers(arithmetic.parse(problem.answer)))
    return _reaches(text, given, 24)


def _reaches(text: str, given: list[int] | list[Fraction], target: int) -> float:
    """1 where the text is arithmetic of exactly these numbers, joined by + - * /, that gives the target."""
    try:
        tree = arithmetic.parse(text)
        fits = sorted(arithmetic.numbers(tree)) == sorted(given)
        plain = set(arithmetic.signs(tree)) <= {"+", "-", "*", "/", "negative"}
        return float(fits and plain and arithmetic.evaluate(tree) == target)
    except ExpressionError:
        return 0.0


def _integral(problem: Problem, text: str) -> float:
    """1 where the text and the gold answer differ by a constant, compared at random points."""
    names = [problem.data["metadata"]["variable"], "C", *_CONSTANTS]
    rng = Random(problem.mark)
    try:
        gold, said = (arithmetic.parse(formula, names, _FUNCTIONS) for formula in (problem.answer, text))
    except ExpressionError:
        return 0.0
    differences, sizes = [], []
    for _ in range(10 * _POINTS):
        values = {**_CONSTANTS, "C": 1.0, names[0]: rng.uniform(-3.0, 3.0)}
        try:
            wanted = _float(gold, values)
        except (ArithmeticError, ValueError):  # outside the domain of a root or a logarithm
            continue
        try:
            differences.append(_float(said, values) - wanted)
        except (ArithmeticError, ValueError):
            return 0.0
        sizes.append(max(1.0, abs(wanted)))
        if len(sizes) == _POINTS:
            spread = max(differences) - min(differences)
            return float(math.isfinite(spread) and spread <= _CLOSE * max(sizes))
    return 0.0


def _float(tree: Expression, values: Mapping[str, float]) -> float:
    if isinstance(tree, Number):
        return float(tree.value)
    if isinstance(tree, Name):
        return values[tree.name]
    left = _float(tree.left, values)
    if tree.right is None:
        return _FUNCTIONS[tree.sign](left)
    right = _float(tree.right, values)
    if tree.sign == "**":
        return math.pow(left, right)
    return {"+": left + right, "-": left - right, "*": left * right}[tree.sign] if tree.sign in "+-*" else left / right


def _number_sorting(problem: Problem, text: str) -> float:
    try:
        said, gold = (json.loads(answer.replace("'", '"')) for answer in (text, problem.answer))
        return float(
            isinstance(said, list) and [float(number) for number in said] == [float(number) for number in gold]
        )
    except (ValueError, TypeError, RecursionError, OverflowError):
        return 0.0


def _n_queens(problem: Problem, text: str) -> float:
    return float(_rows(text) in [_rows(board) for board in problem.data["metadata"]["valid_answers"]])


def _word(problem: Problem, text: str) -> float:
    return float(answers.same(problem.answer, text))


def _same(problem: Problem, text: str) -> float:
    return float(_rows(text) == _rows(problem.answer))


def _rows(text: str) -> list[list[str]]:
    return [line.split() for line in text.strip().splitlines()]


OWN: Mapping[str, Callable[[Problem, str], float]] = {
    "countdown": _countdown,
    "puzzle24": _puzzle24,
    "simple_integration": _integral,
    "intermediate_integration": _integral,
    "game_of_life_halting": _word,
    "number_sorting": _number_sorting,
    "string_insertion": _same,
    "spiral_matrix": _same,
    "binary_matrix": _same,
    "n_queens": _n_queens,
}
