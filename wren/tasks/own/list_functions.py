"""What does the function do? Lists before and after it, and one whose outcome is asked for.

    3 1 2 > 2 1 3
    5 0 > 0 5
    9 8 4 >          ->    4 8 9     (reversed; what it is called is not said)

The examples leave no doubt: every function of the family that fits them gives the same outcome.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from wren.errors import DataError
from wren.tasks.answers import MAX_CHARACTERS
from wren.tasks.task import Problem, Task, named, setting_in, settings_between

List = tuple[int, ...]
FUNCTIONS: dict[str, Callable[[List], List]] = {
    "same": lambda x: x,
    "reversed": lambda x: x[::-1],
    "sorted": lambda x: tuple(sorted(x)),
    "largest first": lambda x: tuple(sorted(x, reverse=True)),
    "plus one": lambda x: tuple(v + 1 for v in x),
    "doubled": lambda x: tuple(2 * v for v in x),
    "without the first": lambda x: x[1:],
    "without the last": lambda x: x[:-1],
    "turned left": lambda x: x[1:] + x[:1],
    "ends swapped": lambda x: x if len(x) < 2 else (x[-1], *x[1:-1], x[0]),
    "even ones": lambda x: tuple(v for v in x if v % 2 == 0),
    "each once": lambda x: tuple(dict.fromkeys(x)),
    "largest": lambda x: (max(x),) if x else (),
    "smallest": lambda x: (min(x),) if x else (),
    "sum": lambda x: (sum(x),),
    "number of them": lambda x: (len(x),),
}
_TRIES = 1000


@dataclass(frozen=True, kw_only=True)
class Rules(Task):
    """numbers: how many in a list at least and at most, each from 0 to max_value. examples: how many are shown.

    steps: functions one after the other, 1 or 2.
    """

    min_numbers: int = 3
    max_numbers: int = 5
    max_value: int = 9
    examples: int = 3
    steps: int = 1

    def __post_init__(self) -> None:
        settings_between("list_functions", "numbers", self.min_numbers, self.max_numbers, (2, 20))
        setting_in("list_functions.max_value", self.max_value, 3, 999)
        setting_in("list_functions.examples", self.examples, 1, 20)
        setting_in("list_functions.steps", self.steps, 1, 2)

    @property
    def name(self) -> str:
        return named("list_functions", self)

    def draw(self, rng: Random) -> Problem:
        family = list(itertools.product(FUNCTIONS, repeat=self.steps))
        for _ in range(_TRIES):
            chosen = rng.choice(family)
            lists = [self._list(rng) for _ in range(self.examples + 1)]
            pairs = [(x, applied(chosen, x)) for x in lists]
            (asked, outcome), shown = pairs[-1], pairs[:-1]
            if _is_clear(family, shown, asked, outcome):
                lines = [f"{_written(before)} > {_written(after)}" for before, after in shown]
                return Problem(prompt="\n".join([*lines, f"{_written(asked)} >"]), answer=_written(outcome))
        raise DataError(f"The task {self.name} finds no clear problem in {_TRIES} tries; show more examples.")

    def _list(self, rng: Random) -> List:
        return tuple(rng.randint(0, self.max_value) for _ in range(rng.randint(self.min_numbers, self.max_numbers)))

    def score(self, problem: Problem, text: str) -> float:
        return float(len(text) <= MAX_CHARACTERS and text.split() == problem.answer.split())


def applied(names: Sequence[str], numbers: List) -> List:
    """The list after these functions, the first one first."""
    for name in names:
        numbers = FUNCTIONS[name](numbers)
    return numbers


def _is_clear(
    family: Sequence[tuple[str, ...]], shown: Sequence[tuple[List, List]], asked: List, outcome: List
) -> bool:
    """Whether no function that fits the examples says anything else, and none of them gives the answer away."""
    if asked in [before for before, _ in shown]:
        return False
    fits = (names for names in family if all(applied(names, before) == after for before, after in shown))
    return all(applied(names, asked) == outcome for names in fits)


def _written(numbers: List) -> str:
    return " ".join(map(str, numbers)) or "none"
