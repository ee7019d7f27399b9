"""The contract of a task: seeded problems in plain text, each with a gold answer and a verifier, in three splits.

Splits never overlap: a problem belongs to the split that a hash of its key names, whatever seed it was drawn with, and
each split has seeds of its own. Problem `index` of a seed and a split is the same on every machine.
"""

import dataclasses
import hashlib
import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Any, ClassVar, Literal, NamedTuple, get_args

from wren.errors import ConfigError, DataError, unknown_key

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
RIGHT = 1.0  # the score of a right answer; less is partial credit
_PARTS = 6  # one in so many problems is of "test", one of "val", the others of "train"
_DRAWS = 200  # until a split counts as empty: where it has its share, it is missed once in 10^15 times


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """prompt: what is asked. answer: a right answer, for some tasks one of many.

    solution: what a model learns to say, answer where empty. key: what tells problems apart, prompt where empty; two
    with the same key are in the same split. data: what the verifier alone reads.
    """

    prompt: str
    answer: str
    solution: str = ""
    key: str = ""
    data: Any = dataclasses.field(default=None, compare=False)

    @property
    def said(self) -> str:
        """What a model learns to say."""
        return self.solution or self.answer

    @property
    def mark(self) -> int:
        """A number that depends on the key alone; white space and case do not count."""
        words = " ".join((self.key or self.prompt).casefold().split())
        return int.from_bytes(hashlib.blake2b(words.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")

    @property
    def split(self) -> Split:
        """Where it belongs."""
        return split_of(self.mark)


def split_of(mark: int) -> Split:
    """The split of a problem with this mark."""
    part = mark % _PARTS
    return "test" if part == 0 else "val" if part == 1 else "train"


class Task(ABC):
    """Problems and their verifier. Adding one of Wren's own is adding a file to wren/tasks/own."""

    @property
    @abstractmethod
    def name(self) -> str:
        """What `wren.tasks.read` knows it by, with the settings that differ from their defaults."""

    @abstractmethod
    def draw(self, rng: Random) -> Problem:
        """A problem of any split."""

    @abstractmethod
    def score(self, problem: Problem, text: str) -> float:
        """How good an answer is, from 0 to 1 = RIGHT; never raises, never runs the text, never takes long.

        text: the answer alone, as prompts.answer_in() takes it out of a reply.
        """

    def size(self, split: Split) -> int | None:
        """Problems of a split, None where they are drawn without end."""
        return None

    invents: ClassVar[bool] = False  # whether `stated` can read problems

    def stated(self, prompt: str) -> Problem | None:
        """The problem that a text of anyone's states, in the very form of this task and within its settings; None for
        every other text. Its answer, where only a search would find one, may be empty."""
        return None

    def answered_by(self, problem: Problem, text: str) -> Problem | None:
        """The problem like this one that an answer solves, where a wrong answer is the right one to another problem;
        None where no such problem is known."""
        return None

    def problem(self, seed: int, index: int, split: Split = "train") -> Problem:
        """Problem `index` of a seed; raises DataError where the split seems to have none."""
        rng = Random(f"wren task {self.name} {check_split(split)} {seed} {index}")
        for _ in range(_DRAWS):
            found = self.draw(rng)
            if found.split == split:
                return found
        raise DataError(
            f"The task {self.name} has too few different problems: in {_DRAWS} draws none was of the split '{split}'; "
            "choose settings that allow more of them."
        )

    def problems(self, seed: int, count: int | None = None, split: Split = "train") -> Iterator[Problem]:
        """The first `count` problems of a seed, or all of them without end. Raises DataError for a negative count."""
        if count is not None and count < 0:
            raise DataError(f"{count} problems cannot be drawn; ask for 0 or more.")
        indices = itertools.count() if count is None else range(count)
        return (self.problem(seed, index, split) for index in indices)

    def distinct(self, seed: int, count: int, split: Split) -> list[Problem]:
        """`count` different problems for a test, fewer where the split has no more."""
        found: dict[int, Problem] = {}
        in_vain = 0
        for problem in self.problems(seed, split=split):
            if len(found) >= count or in_vain >= _DRAWS or len(found) == self.size(split):
                break
            in_vain = 0 if problem.mark not in found else in_vain + 1
            found.setdefault(problem.mark, problem)
        return list(found.values())

    def split(self, split: Split) -> "Part":
        """One split by itself."""
        return Part(self, check_split(split))


class Part(NamedTuple):
    """A split of a task."""

    task: Task
    name: Split

    def problem(self, seed: int, index: int) -> Problem:
        return self.task.problem(seed, index, self.name)

    def problems(self, seed: int, count: int | None = None) -> Iterator[Problem]:
        return self.task.problems(seed, count, self.name)

    def distinct(self, seed: int, count: int) -> list[Problem]:
        return self.task.distinct(seed, count, self.name)


def check_split(split: str) -> Split:
    """Raises ConfigError for a name that is none."""
    for name in SPLITS:
        if name == split:
            return name
    raise ConfigError(unknown_key("The split", split, SPLITS))


def check_gold(task: Task, count: int = 20, seed: int = 0, split: Split = "train") -> int:
    """Scores the gold answers of `count` problems and returns their number.

    Raises DataError where the verifier refuses one of them.
    """
    for number, problem in enumerate(task.problems(seed, count, split)):
        score = task.score(problem, problem.answer)
        if score < RIGHT:
            raise DataError(
                f"The verifier of the task {task.name} fails its own gold answer {problem.answer!r:.60}: it gives "
                f"{score:g} to problem {number} of seed {seed} in '{split}', so its scores cannot be trusted."
            )
    return count


def setting_in(where: str, value: float, low: float, high: float) -> None:
    """Raises ConfigError for a setting outside its range."""
    if not low <= value <= high:
        raise ConfigError(f"{where} is {value:g}; it must lie in {low:g} to {high:g}.")


def settings_between(task: str, noun: str, low: int, high: int, limits: tuple[int, int]) -> None:
    """Raises ConfigError unless limits[0] <= min_{noun} <= max_{noun} <= limits[1]."""
    setting_in(f"{task}.min_{noun}", low, *limits)
    setting_in(f"{task}.max_{noun}", high, *limits)
    if low > high:
        raise ConfigError(f"{task}.min_{noun} is {low}, more than {task}.max_{noun}, which is {high}; swap them.")


def named(name: str, task: Any) -> str:
    """ "countdown:max_number=9": a name with those fields of a dataclass that differ from their defaults."""
    changed = {f.name: getattr(task, f.name) for f in dataclasses.fields(task) if getattr(task, f.name) != f.default}
    return ":".join([name, *(f"{key}={written(value)}" for key, value in changed.items())])


def written(value: Any) -> str:
    """A setting as a user writes it."""
    return str(value).lower() if isinstance(value, bool) else str(value)
