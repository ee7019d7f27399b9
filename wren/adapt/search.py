"""Search with learning: an adapter that learns from its own attempts at one problem until one of them is right.

What pays has not been seen before the search is over, so that reward alone teaches nothing. Two things do:

avoidance   replies that were tried are made less likely, by -log(1 - p) of each (1908.04319)
hindsight   a wrong answer is often the right one to another problem of the task: that pair is learned as it stands
            (1707.01495); it keeps the form of an answer while avoidance changes what is said

Half of every round's attempts are made without the adapter, so that one that learned the wrong thing costs at most that
much. The adapter begins as no change and is dropped at the end. B attempts of a round.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from wren.adapt.attempts import Attempt, Trier
from wren.adapt.learner import Learner, check_rate
from wren.adapters.adapter import AdapterConfig
from wren.errors import ConfigError
from wren.generate import row_seed
from wren.tasks.task import Problem

_AVOIDED = 256  # replies at most, the newest


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """budget: generated tokens. attempts: of a round. learns: False = plain sampling. temperature: of the attempts."""

    budget: int = 4096
    attempts: int = 32
    learns: bool = True
    lr: float = 1e-3
    rank: int = 16
    temperature: float = 1.5

    def __post_init__(self) -> None:
        check_rate(self.lr)
        AdapterConfig(rank=self.rank)
        for name, least in (("budget", 1), ("attempts", 2)):
            if getattr(self, name) < least:
                raise ConfigError(f"search.{name} is {getattr(self, name)}; it must be at least {least}.")
        if not 0 < self.temperature < float("inf"):
            raise ConfigError(f"search.temperature is {self.temperature}; it must be above 0.")


class Searched(NamedTuple):
    """found_at: tokens generated up to the end of the first right attempt, None = none within the budget.

    answer: that attempt's, "" = none. spent: generated tokens. different: answers.
    """

    answer: str
    found_at: int | None
    spent: int
    attempts: int
    different: int
    rollbacks: int


def check_budget(config: SearchConfig, trier: Trier) -> None:
    """Raises ConfigError for a budget that is less than one attempt."""
    if config.budget < trier.max_tokens:
        raise ConfigError(f"A budget of {config.budget} tokens is less than one attempt of {trier.max_tokens}.")


def search(learner: Learner, problem: Problem, config: SearchConfig, trier: Trier, *, seed: int = 0) -> Searched:
    """Attempts until one is right or the budget is spent; the learner is as it began before and after.

    Raises ConfigError for a budget that is less than one attempt.
    """
    check_budget(config, trier)
    learner.reset()
    learner.set_lr(config.lr)
    undone, spent, tried = learner.rollbacks, 0, 0
    answers: Counter[str] = Counter()
    replies: dict[tuple[int, ...], Attempt] = {}
    found: Attempt | None = None
    while found is None and (count := min(config.attempts, (config.budget - spent) // trier.max_tokens)) > 0:
        round_B = _attempts(learner, problem, count, config, trier, row_seed(seed, tried))
        for each in round_B:
            tried, spent = tried + 1, spent + each.tokens
            answers[each.answer] += 1
            if each.right:
                found = each
                break
        if found is None and config.learns:
            learn(learner, problem, round_B, replies, trier)
    rollbacks = learner.rollbacks - undone
    learner.reset()
    place, answer = (None, "") if found is None else (spent, found.answer)
    return Searched(answer, place, spent, tried, len(answers), rollbacks)


def _attempts(
    learner: Learner, problem: Problem, count: int, config: SearchConfig, trier: Trier, seed: int
) -> list[Attempt]:
    """Half of them with the adapter, where it learns, in turn with the others."""
    learned = count // 2 if config.learns else 0
    [plain] = trier.attempts([problem], count - learned, temperature=config.temperature, seed=seed)
    if not learned:
        return plain
    [adapted] = trier.attempts(
        [problem], learned, adapter=learner.number, temperature=config.temperature, seed=row_seed(seed, 1 << 20)
    )  # fmt: skip
    paired = [each for pair in zip(plain, adapted, strict=False) for each in pair]
    return [*paired, *plain[learned:]]


def learn(
    learner: Learner,
    problem: Problem,
    round_B: Sequence[Attempt],
    replies: dict[tuple[int, ...], Attempt],
    trier: Trier,
) -> None:
    """From a round of wrong attempts. replies: those of the rounds before; the new ones join them."""
    new = {key: each for each in round_B if (key := tuple(each.reply.tokens)) not in replies and each.ended}
    solved = [(trier.task.answered_by(problem, each.answer), each) for each in new.values()]
    pairs = [(other, each) for other, each in solved if other is not None]
    replies.update(new)
    if pairs:
        trier.imitate(learner, pairs)
    if replies:
        trier.avoid(learner, list(replies.values())[-_AVOIDED:])
