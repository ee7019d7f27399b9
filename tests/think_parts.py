"""What the tests of thinking share: a hand-made model of letters, and the driver that lets an algorithm ask it."""

from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any

from wren.think.algorithm import Algorithm
from wren.think.branch import Ask, Branch
from wren.think.case import Case

STOP = "."
Model = Callable[[str], Mapping[str, float]]  # the letters so far -> the chances of the next one; STOP ends a reply


def text(tokens: Sequence[int]) -> str:
    return "".join(map(chr, tokens))


def case(budget: int, max_tokens: int = 4, seed: int = 0, **more: Any) -> Case:
    """A problem whose answer is the last letter of the reply."""
    return Case(
        prompt=(1,), budget=budget, max_tokens=min(max_tokens, budget), seed=seed, text=text,
        answer=more.pop("answer", lambda said: said[-1:]), encode=lambda words: [ord(each) for each in words], **more,
    )  # fmt: skip


def answered(algorithm: Algorithm, given: Case, model: Model) -> Branch:
    """What the algorithm chooses; fails where it asks for more than its budget."""
    rng, steps = Random(given.seed), algorithm.solve(given)
    found: list[list[Branch]] | None = None
    while True:
        try:
            asks = next(steps) if found is None else steps.send(found)
        except StopIteration as end:
            return end.value
        assert sum(ask.most for ask in asks) <= given.left
        assert all(ask.most > 0 for ask in asks)
        found = [[_drawn(given, ask, model, rng) for _ in range(ask.n)] for ask in asks]


def _drawn(given: Case, ask: Ask, model: Model, rng: Random) -> Branch:
    import math

    tokens, logprobs = list(ask.branch.tokens), list(ask.branch.logprobs)
    assert not ask.branch.ended
    for _ in range(ask.max_tokens):
        chances = model(text(tokens))
        letters = list(chances)
        letter = max(letters, key=chances.__getitem__) if ask.temperature == 0 else ""
        letter = letter or rng.choices(letters, [chances[each] for each in letters])[0]
        logprobs.append(math.log(chances[letter]))
        given.spent += 1
        if letter == STOP:
            return Branch(tuple(tokens), tuple(logprobs), True, ask.branch)
        tokens.append(ord(letter))
    return Branch(tuple(tokens), tuple(logprobs), False, ask.branch)


def table(chances: Mapping[str, Mapping[str, float]]) -> Model:
    """Those chances after those letters; after all others the reply ends."""
    return lambda said: chances.get(said, {STOP: 1.0})
