"""The examples in a prompt, what they teach by leaving one out, and views of them whose answers can be taken back.

    3 1 2 > 2 1 3
    5 0 > 0 5
    9 8 4 >             two examples and what is asked

An episode is a prompt in which one of the examples is asked for, and the others stand before it (2411.07279).
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import NamedTuple

from wren.errors import DataError

_ARROW = ">"
_ORDERS = 64  # of a view's examples that are looked at


class Example(NamedTuple):
    before: str
    after: str


class Puzzle(NamedTuple):
    examples: tuple[Example, ...]
    asked: str

    def prompt(self) -> str:
        return "\n".join([*(f"{before} {_ARROW} {after}" for before, after in self.examples), f"{self.asked} {_ARROW}"])


class Episode(NamedTuple):
    prompt: str
    answer: str


def read_puzzle(prompt: str) -> Puzzle:
    """The examples `before > after` of a prompt, and its last line `asked >`.

    Raises DataError for a prompt of another form, for fewer than two examples, and for examples that contradict.
    """
    lines = [line.strip() for line in prompt.strip().splitlines() if line.strip()]
    parts = [[part.strip() for part in line.split(_ARROW)] for line in lines]
    if not lines or any(len(part) != 2 for part in parts) or parts[-1][1] or any(not b for _, b in parts[:-1]):
        raise DataError(
            "The prompt holds no examples to learn from: it must have lines 'before > after' and end in 'asked >'."
        )
    examples = tuple(Example(*part) for part in parts[:-1])
    if len(examples) < 2:
        raise DataError("The prompt shows fewer than two examples; leaving one out leaves nothing to learn from.")
    known: dict[str, str] = {}
    for example in examples:
        if known.setdefault(example.before, example.after) != example.after:
            raise DataError(
                f"The examples contradict each other: '{example.before}' gives both '{known[example.before]}' and "
                f"'{example.after}'; mend the prompt."
            )
    return Puzzle(examples, parts[-1][0])


@dataclass(frozen=True)
class View:
    """order: of the examples. backwards: every list is written from its end; what is answered is turned back."""

    order: tuple[int, ...]
    backwards: bool = False

    def puzzle(self, puzzle: Puzzle) -> Puzzle:
        examples = [puzzle.examples[i] for i in self.order]
        turned = tuple(Example(self.written(before), self.written(after)) for before, after in examples)
        return Puzzle(turned, self.written(puzzle.asked))

    def written(self, text: str) -> str:
        """Its own inverse."""
        return " ".join(reversed(text.split())) if self.backwards else text


def views(count: int, examples: int, rng: Random, *, backwards: bool) -> list[View]:
    """`count` different ones, fewer where there are no more; the first is the prompt as it stands."""
    orders = list(itertools.islice(itertools.permutations(range(examples)), _ORDERS))
    every = [View(order, turned) for order in orders for turned in ((False, True) if backwards else (False,))]
    first, *rest = every
    rng.shuffle(rest)
    return [first, *rest][:count]


def episodes(puzzle: Puzzle, count: int, rng: Random, *, backwards: bool) -> list[Episode]:
    """Examples that are asked for while the others stand before them, in several views; never what is asked itself."""
    found = []
    for view in views(count, len(puzzle.examples), rng, backwards=backwards):
        *shown, (asked, answer) = view.puzzle(puzzle).examples
        found.append(Episode(Puzzle(tuple(shown), asked).prompt(), answer))
    return list(dict.fromkeys(found))


def voted(answers: Sequence[str]) -> str:
    """The answer given most often, of several the first one; what is empty does not vote."""
    counts: dict[str, int] = {}
    for answer in answers:
        if answer:
            counts[answer] = counts.get(answer, 0) + 1
    return max(counts, key=lambda answer: counts[answer], default="")
