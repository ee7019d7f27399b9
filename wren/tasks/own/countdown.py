"""Reach a number with all the given ones, each used once; any way that does is right.

Make 24: 3 5 9    ->    9+3*5
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from random import Random
from typing import ClassVar

from wren import arithmetic
from wren.arithmetic import Expression, Name, Number, Operation
from wren.errors import ConfigError, DataError
from wren.tasks.task import RIGHT, Problem, Task, named, setting_in, settings_between

_BINDS = {"+": 1, "-": 1, "*": 2, "/": 2}
_TRIES = 1000


@dataclass(frozen=True, kw_only=True)
class Rules(Task):
    """numbers: how many at least and at most, each from 1 to max_number. max_target: the largest that is to be made.

    signs: what may stand between them, of +-*/ in any order.
    """

    min_numbers: int = 3
    max_numbers: int = 3
    max_number: int = 12
    max_target: int = 99
    signs: str = "+-*"

    def __post_init__(self) -> None:
        settings_between("countdown", "numbers", self.min_numbers, self.max_numbers, (2, 8))
        setting_in("countdown.max_number", self.max_number, 4, 1000)
        setting_in("countdown.max_target", self.max_target, 10, 1_000_000)
        if not self.signs or not set(self.signs) <= set(_BINDS) or len(set(self.signs)) < len(self.signs):
            raise ConfigError(f"countdown.signs is '{self.signs}'; give some of +-*/, each once.")
        if self.min_numbers > self.max_target and set(self.signs) == {"+"}:
            raise ConfigError(f"countdown.max_target is {self.max_target}, too small for sums of {self.min_numbers}.")

    @property
    def name(self) -> str:
        return named("countdown", self)

    def draw(self, rng: Random) -> Problem:
        for _ in range(_TRIES):
            numbers = [rng.randint(1, self.max_number) for _ in range(rng.randint(self.min_numbers, self.max_numbers))]
            tree = self._tree(numbers, rng)
            target = _target(tree)
            if target is None or not 1 <= target <= self.max_target:
                continue
            rng.shuffle(numbers)
            return _problem(target, numbers, _written(tree))
        raise DataError(
            f"The task {self.name} finds no problem in {_TRIES} tries; raise max_target or allow more signs."
        )

    invents: ClassVar[bool] = True

    def stated(self, prompt: str) -> Problem | None:
        """Whether a target can be made is not said: the answer is empty."""
        if not re.fullmatch(r"Make [0-9]{1,7}: [0-9]{1,4}(?: [0-9]{1,4})*", prompt):
            return None
        target, *numbers = (int(number) for number in re.findall("[0-9]+", prompt))
        fits = self.min_numbers <= len(numbers) <= self.max_numbers and 1 <= target <= self.max_target
        fits = fits and all(1 <= number <= self.max_number for number in numbers)
        if not fits or prompt != _asked(target, numbers):
            return None
        return _problem(target, numbers, "")

    def answered_by(self, problem: Problem, text: str) -> Problem | None:
        """The same numbers with the target that the answer makes of them."""
        try:
            target = _target(arithmetic.parse(text.strip().rstrip(".").partition("=")[0]))
        except arithmetic.ExpressionError:
            return None
        if target is None:
            return None
        found = self.stated(f"Make {target}:{problem.prompt.partition(':')[2]}")
        return found if found is not None and self.score(found, text) == RIGHT else None

    def _tree(self, numbers: list[int], rng: Random) -> Expression:
        """The numbers joined at random, two parts at a time."""
        parts: list[Expression] = [Number(Fraction(number)) for number in numbers]
        while len(parts) > 1:
            left, right = (parts.pop(rng.randrange(len(parts))) for _ in range(2))
            parts.append(Operation(rng.choice(self.signs), left, right))
        return parts[0]

    def score(self, problem: Problem, text: str) -> float:
        """1 where the text is arithmetic with exactly the given numbers and the allowed signs, and gives the target.

        "9+3*5=24" is right too.
        """
        target, given = problem.data
        left, equals, right = text.strip().rstrip(".").partition("=")
        try:
            tree = arithmetic.parse(left)
            fits = sorted(arithmetic.numbers(tree)) == list(given) and set(arithmetic.signs(tree)) <= set(self.signs)
            return float(
                fits and arithmetic.evaluate(tree) == target and (not equals or arithmetic.value(right) == target)
            )
        except arithmetic.ExpressionError:
            return 0.0


def _asked(target: int, numbers: Sequence[int]) -> str:
    return f"Make {target}: {' '.join(map(str, numbers))}"


def _problem(target: int, numbers: Sequence[int], answer: str) -> Problem:
    given = sorted(numbers)
    key = f"{target}: {' '.join(map(str, given))}"
    return Problem(prompt=_asked(target, numbers), answer=answer, key=key, data=(target, tuple(given)))


def _target(tree: Expression) -> int | None:
    """The value, where it is whole."""
    try:
        value = arithmetic.evaluate(tree)
    except arithmetic.ExpressionError:  # divided by 0
        return None
    return int(value) if value.denominator == 1 else None


def _written(tree: Expression, outer: int = 0) -> str:
    """With parentheses only where they are needed. outer: how tightly what is around it binds."""
    if isinstance(tree, Number):
        return str(tree.value)
    if isinstance(tree, Name) or tree.right is None:
        raise ValueError("a problem of numbers and signs alone")
    binds = _BINDS[tree.sign]
    inner = f"{_written(tree.left, binds)}{tree.sign}{_written(tree.right, binds + (tree.sign in '-/'))}"
    return f"({inner})" if binds < outer else inner
