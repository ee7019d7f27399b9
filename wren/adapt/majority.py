"""Reinforcement by majority vote: what most attempts say counts as right (TTRL, 2504.16084), behind a gate.

No answer of the problems is known. The vote sharpens a model whose commonest answer is right, and destroys one whose
commonest answer is wrong, so that the gate asks three things:

of a problem    does the commonest answer lead the next one by more than chance, and do most attempts give it?
of all          on other problems, whose answers are known: are such votes right? If not, nothing is learned
of a moment     on the same known problems: did accuracy fall, or pass@k by much? Then the last good moment is put back

G problems, S attempts at each.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, NamedTuple

import torch

from wren.adapt.attempts import Attempt, Trier
from wren.adapt.learner import Learner, check_rate
from wren.adapters.adapter import AdapterConfig
from wren.errors import ConfigError, DataError
from wren.generate import row_seed
from wren.intervals import share_interval
from wren.tasks.passes import pass_at_k
from wren.tasks.task import RIGHT, Problem

_WATCH_SEED = 4_242  # of the attempts by which moments are compared: the same every time


@dataclass(frozen=True, kw_only=True)
class VoteGate:
    """lead: standard deviations by which the first answer leads. share: of the attempts that give it.

    precision: what the 95 % interval of the share of right votes must lie above. lose: of pass@k that may be lost.
    every: rounds between two looks at the known problems.
    """

    lead: float = 2.0
    share: float = 0.5
    precision: float = 0.6
    lose: float = 0.05
    every: int = 4

    def __post_init__(self) -> None:
        for name in ("share", "precision", "lose"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"The vote's gate has {name} {getattr(self, name)}; it must lie in [0, 1].")
        if self.lead < 0 or self.every < 1:
            raise ConfigError("The vote's gate needs a lead of 0 or more and a look every 1 round or more.")


@dataclass(frozen=True, kw_only=True)
class MajorityConfig:
    """problems, samples: of a round, and attempts at each. gate: None = every vote is believed."""

    rounds: int = 24
    problems: int = 32
    samples: int = 16
    lr: float = 1e-3
    rank: int = 16
    temperature: float = 1.0
    gate: VoteGate | None = field(default_factory=VoteGate)

    def __post_init__(self) -> None:
        check_rate(self.lr)
        AdapterConfig(rank=self.rank)
        for name, least in (("rounds", 1), ("problems", 1), ("samples", 2)):
            if getattr(self, name) < least:
                raise ConfigError(f"majority.{name} is {getattr(self, name)}; it must be at least {least}.")
        if not 0 < self.temperature < math.inf:
            raise ConfigError(f"majority.temperature is {self.temperature}; it must be above 0.")


class Vote(NamedTuple):
    """The commonest answer, how many give it, and how many give the next one; of `attempts`."""

    answer: str
    first: int
    second: int
    attempts: int

    def is_sure(self, gate: VoteGate) -> bool:
        lead = (self.first - self.second) / math.sqrt(max(1, self.first + self.second))
        return bool(self.answer) and lead >= gate.lead and self.first >= gate.share * self.attempts


class Sharpened(NamedTuple):
    """refused: why nothing was learned, "" = it was. rounds: that were learned. believed: votes, and seen: of how many.

    taken_back: why an earlier moment was put back, "" = it was not. watch: what was seen of the known problems.
    """

    refused: str
    rounds: int
    believed: int
    seen: int
    taken_back: str
    watch: list[dict[str, float]]


def vote(attempts: Sequence[Attempt]) -> Vote:
    """What is empty or was cut off does not vote; of equal answers the one that was given first."""
    counts = Counter(each.answer for each in attempts if each.answer and each.ended)
    (answer, first), (_, second) = (*counts.most_common(2), ("", 0), ("", 0))[:2]
    return Vote(answer, first, second, len(attempts))


def sharpen(
    learner: Learner,
    problems: Sequence[Problem],
    known: Sequence[Problem],
    config: MajorityConfig,
    trier: Trier,
    *,
    seed: int = 0,
    say: Callable[[str], None] = lambda text: None,
) -> Sharpened:
    """Leaves the learner as sharpened, or as it began where the gate refuses; no answer of `problems` is looked at.

    known: other problems, whose answers the gate compares; without a gate they are not asked. Raises DataError for
    problems that are among the known ones, and for a gate without known problems.
    """
    learner.reset()
    learner.set_lr(config.lr)
    watch, good = [], learner.moment()
    if config.gate is not None:
        _check_known(problems, known)
        watch = [look(learner, known, config, trier)]
        if refused := refusal(watch[0], config.gate):
            return Sharpened(refused, 0, 0, 0, "", watch)
    order, believed, seen = Random(seed), 0, 0
    for number in range(config.rounds):
        chosen = order.sample(list(problems), min(config.problems, len(problems)))
        taken, good_step = _round(learner, chosen, config, trier, row_seed(seed, number << 20))
        believed, seen = believed + taken, seen + len(chosen)
        if not good_step:
            learner.restore(good)
            return Sharpened("", number, believed, seen, "the adapter left the finite numbers", watch)
        if config.gate is None or ((number + 1) % config.gate.every and number + 1 < config.rounds):
            continue
        watch.append(look(learner, known, config, trier))
        say(f"round {number + 1}: {watch[-1]['accuracy']:.1%} of the known problems, pass@k {watch[-1]['pass']:.1%}")
        if lost := loss(watch, config.gate):
            learner.restore(good)
            return Sharpened("", number + 1, believed, seen, lost, watch)
        good = learner.moment()
    return Sharpened("", config.rounds, believed, seen, "", watch)


def _check_known(problems: Sequence[Problem], known: Sequence[Problem]) -> None:
    if not known:
        raise DataError("The gate of the vote needs problems whose answers are known; give some, or drop the gate.")
    if {problem.mark for problem in problems} & {problem.mark for problem in known}:
        raise DataError("A problem to learn from is among the known ones; the gate must look at other problems.")


def _round(
    learner: Learner, chosen: Sequence[Problem], config: MajorityConfig, trier: Trier, seed: int
) -> tuple[int, bool]:
    """How many votes were believed, and whether the step along them held."""
    groups = trier.attempts(
        chosen, config.samples, adapter=learner.number, temperature=config.temperature, seed=seed
    )  # fmt: skip
    rows: list[Attempt] = []
    worth: list[torch.Tensor] = []
    believed = 0
    for group in groups:
        found = vote(group)
        if not found.answer or (config.gate is not None and not found.is_sure(config.gate)):
            continue
        believed += 1
        agrees_S = torch.tensor([float(each.ended and each.answer == found.answer) for each in group])
        if found.first < len(group):  # all alike: nothing to learn
            rows += group
            worth.append(agrees_S - agrees_S.mean())
    return believed, not rows or trier.reinforce(learner, rows, torch.cat(worth), config.temperature)


def look(learner: Learner, known: Sequence[Problem], config: MajorityConfig, trier: Trier) -> dict[str, float]:
    """{"accuracy", "pass", "sure", "precision", "precision_low"} on problems whose answers are known.

    accuracy: of greedy answers. pass: whether one of the samples is right. sure: the share of votes that the gate would
    believe; precision: how many of those are right, with the lower end of its interval.
    """
    gate = config.gate or VoteGate()
    found = measured(trier, known, config.samples, adapter=learner.number, temperature=config.temperature)
    votes = [(vote(group), group) for group in found["groups"]]
    sure = [_is_right(made, group) for made, group in votes if made.is_sure(gate)]
    low = share_interval(sum(sure), len(sure))[0] if sure else 0.0
    return {
        "accuracy": found["accuracy"],
        "pass": found["pass"],
        "sure": len(sure) / len(known),
        "precision": sum(sure) / len(sure) if sure else 0.0,
        "precision_low": low,
    }


def _is_right(made: Vote, group: Sequence[Attempt]) -> bool:
    return next(each.right for each in group if each.answer == made.answer)


def refusal(seen: dict[str, float], gate: VoteGate) -> str:
    """Why the vote is not to be trusted, "" where it is."""
    if not seen["sure"]:
        return "No vote on the known problems has a clear winner, so none is to be trusted; nothing was learned."
    if seen["precision_low"] <= gate.precision:
        return (
            f"Clear votes on the known problems are right in {seen['precision']:.0%} of the cases (95 % interval from "
            f"{seen['precision_low']:.0%}), and more than {gate.precision:.0%} is asked for; nothing was learned."
        )
    return ""


def loss(watch: Sequence[dict[str, float]], gate: VoteGate) -> str:
    """What was lost since the beginning, "" where it is bearable."""
    first, last = watch[0], watch[-1]
    if last["accuracy"] < first["accuracy"]:
        return f"accuracy on the known problems fell from {first['accuracy']:.1%} to {last['accuracy']:.1%}"
    if last["pass"] < first["pass"] - gate.lose:
        return f"pass@k on the known problems fell from {first['pass']:.1%} to {last['pass']:.1%}"
    return ""


def measured(
    trier: Trier, problems: Sequence[Problem], samples: int, *, adapter: int = 0, temperature: float = 1.0
) -> dict[str, Any]:
    """{"right": of greedy answers, "accuracy", "pass": of all samples, "groups": the samples}."""
    greedy = trier.attempts(problems, 1, adapter=adapter, temperature=0.0)
    groups = trier.attempts(problems, samples, adapter=adapter, temperature=temperature, seed=_WATCH_SEED)
    right = [group[0].score >= RIGHT for group in greedy]
    passes = [pass_at_k(samples, sum(each.right for each in group), samples) for group in groups]
    return {
        "right": right,
        "accuracy": sum(right) / len(right),
        "passes": passes,
        "pass": sum(passes) / len(passes),
        "groups": groups,
    }
