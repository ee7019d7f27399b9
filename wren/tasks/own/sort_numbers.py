"""Numbers in order.

Sort: 31 4 15 9    ->    4 9 15 31
"""

import re
from dataclasses import dataclass
from random import Random
from typing import ClassVar

from wren.errors import ConfigError
from wren.tasks.answers import MAX_CHARACTERS
from wren.tasks.task import Problem, Task, named, setting_in, settings_between


@dataclass(frozen=True, kw_only=True)
class Rules(Task):
    """numbers: how many at least and at most, each from 0 to max_value. descending: the largest first."""

    min_numbers: int = 3
    max_numbers: int = 6
    max_value: int = 99
    descending: bool = False

    def __post_init__(self) -> None:
        settings_between("sort_numbers", "numbers", self.min_numbers, self.max_numbers, (2, 50))
        setting_in("sort_numbers.max_value", self.max_value, 1, 1_000_000)
        if (self.max_value + 1) ** self.max_numbers < 1000:
            raise ConfigError(
                f"sort_numbers with at most {self.max_numbers} numbers up to {self.max_value} has too few "
                "lists; allow more."
            )

    @property
    def name(self) -> str:
        return named("sort_numbers", self)

    def draw(self, rng: Random) -> Problem:
        numbers = [rng.randint(0, self.max_value) for _ in range(rng.randint(self.min_numbers, self.max_numbers))]
        return self._problem(numbers)

    def _problem(self, numbers: list[int]) -> Problem:
        ordered = sorted(numbers, reverse=self.descending)
        # by what is in it: another order of the same numbers has the same answer
        return Problem(prompt=f"Sort: {_written(numbers)}", answer=_written(ordered), key=_written(sorted(numbers)))

    invents: ClassVar[bool] = True

    def stated(self, prompt: str) -> Problem | None:
        if not re.fullmatch(r"Sort: [0-9]{1,7}(?: [0-9]{1,7})*", prompt):
            return None
        numbers = [int(number) for number in prompt.split()[1:]]
        fits = self.min_numbers <= len(numbers) <= self.max_numbers and max(numbers) <= self.max_value
        return self._problem(numbers) if fits and prompt == f"Sort: {_written(numbers)}" else None

    def score(self, problem: Problem, text: str) -> float:
        return float(len(text) <= MAX_CHARACTERS and re.split(r"[\s,]+", text.strip()) == problem.answer.split())


def _written(numbers: list[int]) -> str:
    return " ".join(map(str, numbers))
