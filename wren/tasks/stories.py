"""Questions about stories of the little world, answered by their facts.

    Once there was a baker called Tom ... Tom gave the kite to Ada.

    Who got the kite from Tom?    ->    Ada.

Questions of "test" are those that the story world holds out (wren/stories/questions.py): no two of their template, name
and thing ever stand together in a question of "train" or "val". These two have no story in common.
"""

from dataclasses import dataclass
from random import Random

from wren.errors import DataError
from wren.stories.questions import Question, questions
from wren.stories.story import MAX_CHARACTERS, MIN_CHARACTERS, Story, story
from wren.tasks import answers
from wren.tasks.task import SPLITS, Problem, Split, Task, check_split, named, setting_in

_TRIES = 10_000


@dataclass(frozen=True, kw_only=True)
class Rules(Task):
    """max_characters: longer stories are passed over."""

    max_characters: int = 800

    def __post_init__(self) -> None:
        setting_in("stories.max_characters", self.max_characters, MIN_CHARACTERS + 60, MAX_CHARACTERS)

    @property
    def name(self) -> str:
        return named("stories", self)

    def draw(self, rng: Random) -> Problem:
        return self._of(rng.choice(SPLITS), rng)

    def problem(self, seed: int, index: int, split: Split = "train") -> Problem:
        return self._of(split, Random(f"wren task {self.name} {check_split(split)} {seed} {index}"))

    def _of(self, split: Split, rng: Random) -> Problem:
        """Stories are told until one has a question of the split, for a test about one in eight."""
        kind = "test" if split == "test" else "train"
        for _ in range(_TRIES):
            told = story(rng.getrandbits(48), rng.getrandbits(16))
            if len(told.text) > self.max_characters or (split != "test" and _is_for_val(told) != (split == "val")):
                continue
            possible = [question for question in questions(told) if question.split == kind]
            if possible:
                chosen = _one_of(possible, rng)
                return Problem(prompt=f"{told.text}\n\n{chosen.text}", answer=chosen.answer)
        raise DataError(f"The task {self.name} finds no question in {_TRIES} stories; allow more characters.")

    def score(self, problem: Problem, text: str) -> float:
        return float(answers.same(problem.answer, text))


def _is_for_val(told: Story) -> bool:
    """Of the stories that are not asked about for a test."""
    return Problem(prompt=told.text, answer="").split == "val"


def _one_of(possible: list[Question], rng: Random) -> Question:
    """Every template as likely as another, then every question of it."""
    template = rng.choice(sorted({question.template for question in possible}))
    return rng.choice([question for question in possible if question.template == template])
