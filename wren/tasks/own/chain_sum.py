"""Sums and differences of whole numbers in a row.

17+25-4=    ->    38

With steps=true the solution adds two terms at a time, in an order of its own for every problem, so that a model that
learned it finds several ways to an answer:

17+25-4=    ->    17-4=13
                  13+25=38
                  Answer: 38
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import ClassVar

from wren.errors import ConfigError
from wren.tasks import answers
from wren.tasks.answers import MAX_CHARACTERS
from wren.tasks.task import Problem, Task, named, settings_between

_STATED = re.compile(r"[0-9]+(?:[+-][0-9]+)+=")


@dataclass(frozen=True, kw_only=True)
class Rules(Task):
    """terms and digits of each: how many at least and at most. minus: whether terms are taken away too.

    steps: whether the solution shows its way.
    """

    min_terms: int = 2
    max_terms: int = 3
    min_digits: int = 1
    max_digits: int = 2
    minus: bool = True
    steps: bool = False

    def __post_init__(self) -> None:
        settings_between("chain_sum", "terms", self.min_terms, self.max_terms, (2, 20))
        settings_between("chain_sum", "digits", self.min_digits, self.max_digits, (1, 20))
        if self.max_digits == 1 and self.max_terms == 2 and not self.minus:
            raise ConfigError("chain_sum with two terms of one digit and no minus has 55 sums only; allow more.")

    @property
    def name(self) -> str:
        return named("chain_sum", self)

    def draw(self, rng: Random) -> Problem:
        terms = []
        for _ in range(rng.randint(self.min_terms, self.max_terms)):
            digits = rng.randint(self.min_digits, self.max_digits)
            terms.append(rng.randrange(10 ** (digits - 1) if digits > 1 else 0, 10**digits))
        signs = [1, *(rng.choice((1, -1)) if self.minus else 1 for _ in terms[1:])]
        return self._problem(signs, terms)

    invents: ClassVar[bool] = True

    def stated(self, prompt: str) -> Problem | None:
        if not _STATED.fullmatch(prompt) or len(prompt) > MAX_CHARACTERS:
            return None
        found = re.findall(r"([+-]?)([0-9]+)", prompt[:-1])
        terms, signs = [term for _, term in found], [-1 if sign == "-" else 1 for sign, _ in found]
        fits = self.min_terms <= len(terms) <= self.max_terms and (self.minus or -1 not in signs)
        fits = fits and all(self.min_digits <= len(term) <= self.max_digits for term in terms)
        fits = fits and all(term == str(int(term)) for term in terms)
        return self._problem(signs, [int(term) for term in terms]) if fits else None

    def score(self, problem: Problem, text: str) -> float:
        return float(answers.same(problem.answer, text))

    def _problem(self, signs: Sequence[int], terms: Sequence[int]) -> Problem:
        signed = [sign * term for sign, term in zip(signs, terms, strict=True)]
        prompt = "".join(f"{'-' if sign < 0 else '+'}{term}" for sign, term in zip(signs, terms, strict=True))[1:] + "="
        # 3+4 and 4+3 are one problem: the other order must not give it away
        key = " ".join(f"{term:+d}" for term in sorted(signed))
        solution = _steps(signed, Random(f"the steps of {prompt}")) if self.steps else ""
        return Problem(prompt=prompt, answer=str(sum(signed)), solution=solution, key=key)


def _steps(signed: Sequence[int], rng: Random) -> str:
    """Two numbers at a time become one, in an order that cannot be guessed, then the answer."""
    left, lines = list(signed), []
    while len(left) > 1:
        first, second = (left.pop(rng.randrange(len(left))) for _ in range(2))
        lines.append(f"{first}{second:+d}={first + second}")
        left.append(first + second)
    return "\n".join([*lines, f"Answer: {left[0]}"])
