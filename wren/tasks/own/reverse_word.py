"""A word spelled backwards.

Reverse: wren    ->    nerw
"""

import string
from dataclasses import dataclass
from random import Random
from typing import ClassVar

from wren.errors import ConfigError
from wren.tasks import answers
from wren.tasks.task import Problem, Task, named, setting_in, settings_between

_BEGUN = "Reverse: "


@dataclass(frozen=True, kw_only=True)
class Rules(Task):
    """letters: how many at least and at most. alphabet: how many different letters, from a on."""

    min_letters: int = 3
    max_letters: int = 6
    alphabet: int = 26

    def __post_init__(self) -> None:
        settings_between("reverse_word", "letters", self.min_letters, self.max_letters, (2, 100))
        setting_in("reverse_word.alphabet", self.alphabet, 2, 26)
        if self.alphabet**self.max_letters < 100:
            raise ConfigError(
                f"reverse_word with {self.alphabet} letters in words of at most {self.max_letters} has "
                f"too few words; allow longer ones or more letters."
            )

    @property
    def name(self) -> str:
        return named("reverse_word", self)

    def draw(self, rng: Random) -> Problem:
        letters = string.ascii_lowercase[: self.alphabet]
        word = "".join(rng.choices(letters, k=rng.randint(self.min_letters, self.max_letters)))
        return _problem(word)

    invents: ClassVar[bool] = True

    def stated(self, prompt: str) -> Problem | None:
        begun, word = prompt[: len(_BEGUN)], prompt[len(_BEGUN) :]
        letters = set(string.ascii_lowercase[: self.alphabet])
        fits = begun == _BEGUN and self.min_letters <= len(word) <= self.max_letters and set(word) <= letters
        return _problem(word) if fits else None

    def score(self, problem: Problem, text: str) -> float:
        return float(answers.same(problem.answer, text))


def _problem(word: str) -> Problem:
    # a word and its reverse are one problem: who has seen one knows the other
    return Problem(prompt=f"{_BEGUN}{word}", answer=word[::-1], key=min(word, word[::-1]))
