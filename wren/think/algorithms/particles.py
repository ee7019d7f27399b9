"""Particle filtering: pieces of a reply are drawn, and after each piece the particles are drawn anew by their weights.

    log w_i  =  sharpness x (potential(x_i after the piece) - potential(x_i before it))

so that with log p(x) as potential the filter draws from p(x)^(1 + sharpness) instead of p(x), and with a learned
scorer's log P(right) from what looks right; systematic resampling where the effective number of particles falls below
half (2502.01618, for a learned score). What is left of the budget goes into further filters. Their particles vote with
their weights.
"""

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from random import Random

from wren.think.algorithm import Algorithm, Steps, positive, usable, votes
from wren.think.branch import Ask, Branch
from wren.think.case import Case


@dataclass(frozen=True, kw_only=True)
class Rules(Algorithm):
    """piece: tokens of one, 0 = a sixth of a reply. How many particles: as the budget allows."""

    piece: int = 0
    sharpness: float = 1.0
    temperature: float = 1.0

    def __post_init__(self) -> None:
        positive("particles.piece", self.piece, -1)
        positive("particles.sharpness", self.sharpness)
        positive("particles.temperature", self.temperature)

    def solve(self, case: Case) -> Steps:
        rng, weights = Random(case.seed), []
        while count := case.affordable():
            particles, logs = [case.root] * count, [0.0] * count
            room = min(case.max_tokens, case.left // count)
            length, piece = 0, self.piece or -(-case.max_tokens // 6)
            while length < room and not all(branch.ended for branch in particles):
                step = min(piece, room - length)
                after = yield from self._drawn(case, particles, step)
                logs = [log + self._gain(case, *pair) for log, *pair in zip(logs, particles, after, strict=True)]
                particles, logs, length = *self._resampled(after, logs, rng), length + step
            case.replies += particles
            weights += [math.exp(log - max(logs)) for log in logs]
        ended = usable(case)
        known = {id(reply) for reply in ended}
        kept = [w for reply, w in zip(case.replies, weights, strict=True) if id(reply) in known]
        return votes(case, ended, kept)[0].reply

    def _drawn(
        self, case: Case, particles: Sequence[Branch], step: int
    ) -> Generator[list[Ask], list[list[Branch]], list[Branch]]:
        """Every particle gone on by a piece; equal ones are asked for together."""
        going = {id(branch): branch for branch in particles if not branch.ended}
        counts = [sum(branch is each for each in particles) for branch in going.values()]
        asks = [Ask(b, n, step, self.temperature, keep=True) for b, n in zip(going.values(), counts, strict=True)]
        found = yield asks
        for branch in going.values():
            if branch is not case.root:
                branch.release()  # nothing goes on from here
        children = {key: iter(own) for key, own in zip(going, found, strict=True)}
        return [branch if branch.ended else next(children[id(branch)]) for branch in particles]

    def _gain(self, case: Case, before: Branch, after: Branch) -> float:
        if before is after:
            return 0.0
        return self.sharpness * (case.potential(after) - case.potential(before))

    def _resampled(self, particles: list[Branch], logs: list[float], rng: Random) -> tuple[list[Branch], list[float]]:
        weights = [math.exp(log - max(logs)) for log in logs]
        total = sum(weights)
        if total**2 >= len(weights) / 2 * sum(w * w for w in weights):
            return particles, logs
        chosen = systematic(weights, rng.random())
        going = {id(particles[i]) for i in chosen}
        for branch in particles:
            if id(branch) not in going:
                branch.release()
        return [particles[i] for i in chosen], [math.log(total / len(weights)) + max(logs)] * len(weights)


def systematic(weights: Sequence[float], offset: float) -> list[int]:
    """As many numbers as there are weights, each about in proportion to its own; offset: in [0, 1)  (Kitagawa 1996)."""
    count, total = len(weights), sum(weights)
    found, place, reached = [], 0, weights[0]
    for i in range(count):
        point = (i + offset) * total / count
        while reached <= point and place < count - 1:
            place += 1
            reached += weights[place]
        found.append(place)
    return found
