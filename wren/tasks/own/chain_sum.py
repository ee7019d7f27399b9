"""Sums and differences of whole numbers in a row.

17+25-4=    ->    38
"""

from dataclasses import dataclass
from random import Random

from wren.errors import ConfigError
from wren.tasks import answers
from wren.tasks.task import Problem, Task, named, settings_between


@dataclass(frozen=True, kw_only=True)
class Rules(Task):
    """terms and digits of each: how many at least and at most. minus: whether terms are taken away too."""

    min_terms: int = 2
    max_terms: int = 3
    min_digits: int = 1
    max_digits: int = 2
    minus: bool = True

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
        signed = [sign * term for sign, term in zip(signs, terms, strict=True)]
        prompt = "".join(f"{'-' if sign < 0 else '+'}{term}" for sign, term in zip(signs, terms, strict=True))
        # 3+4 and 4+3 are one problem: the other order must not give it away
        key = " ".join(f"{term:+d}" for term in sorted(signed))
        return Problem(prompt=f"{prompt[1:]}=", answer=str(sum(signed)), key=key)

    def score(self, problem: Problem, text: str) -> float:
        return float(answers.same(problem.answer, text))
