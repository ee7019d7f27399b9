"""Tree search of many positions at once, and the policy it improves: Gumbel AlphaZero (Danihelka et al., ICLR 2022).

At the root the `considered` moves with the largest g + logit, g Gumbel noise, are halved in turns until the simulations
are spent, so few of them suffice; the improved policy is softmax(logits + sigma(q)), where a move not visited has the
mixed value q. Below the root a move is chosen as in AlphaZero (1712.01815). What a model says of all leaves of a
simulation is asked in one call. A move that wins at once is seen when a position is opened, without asking.

Values are worths to the player to move, between -1 and 1. For two players, without chance.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from random import Random
from typing import NamedTuple

from wren.errors import ConfigError
from wren.games.state import OVER, State, result

Evaluation = tuple[Sequence[float], float]  # log-probabilities of the legal moves, up to a constant; the worth
Evaluate = Callable[[Sequence[State]], Sequence[Evaluation]]


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """simulations: of each search. considered: moves at the root. explore: weight of the prior below the root.

    visits, scale: sigma(q) = (visits + most visits of a move) scale q.
    """

    simulations: int = 32
    considered: int = 16
    explore: float = 1.25
    visits: float = 50.0
    scale: float = 0.1

    def __post_init__(self) -> None:
        for name in ("simulations", "considered"):
            if getattr(self, name) < 1:
                raise ConfigError(f"search.{name} is {getattr(self, name)}; it must be at least 1.")
        for name in ("explore", "visits", "scale"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"search.{name} is {getattr(self, name)}; it must be 0 or above.")


class Found(NamedTuple):
    """policy: improved, over the legal moves in order. move: the one chosen. worth: to the player to move."""

    policy: list[float]
    move: int
    worth: float


class _Node:
    """A position that was reached. counts, sums: of each move, worths to its player; known: its worth, if sure."""

    __slots__ = ("counts", "kids", "known", "logits", "moves", "player", "priors", "state", "sums", "visits", "worth")

    def __init__(self, state: State):
        self.state, self.player = state, state.player
        self.moves = state.legal()
        self.kids: list[_Node | State] = [state.play(move) for move in self.moves]
        self.known: float | None = None
        self.counts, self.sums = [0] * len(self.moves), [0.0] * len(self.moves)
        self.visits, self.worth = 0, 0.0
        self.logits: Sequence[float] = ()
        self.priors: list[float] = []
        if self.player == OVER:
            self.known = result(state)[0]  # to the first player
        elif any(kid.player == OVER and result(kid)[self.player] > 0 for kid in self.kids):  # type: ignore[arg-type]
            self.known = 1.0

    def learn(self, evaluation: Evaluation) -> None:
        self.logits, self.worth = evaluation
        self.priors = softmax(self.logits)


def search(
    states: Sequence[State], evaluate: Evaluate, config: SearchConfig, rngs: Sequence[Random] | None
) -> list[Found]:
    """A search from each position, none of which is over. rngs: of the Gumbel noise, None = without, to play well."""
    roots = [_Node(state) for state in states]
    for root, evaluation in zip(roots, evaluate(states), strict=True):
        root.learn(evaluation)
    noises = [[_gumbel(rng) for _ in root.moves] for root, rng in zip(roots, rngs, strict=True)] if rngs else None
    noises = noises or [[0.0] * len(root.moves) for root in roots]
    plans = [_plan(min(config.considered, len(root.moves)), config.simulations) for root in roots]
    for i in range(config.simulations):
        paths, leaves = [], []
        for root, noise, plan in zip(roots, noises, plans, strict=True):
            path, leaf = _descend(root, _root_choice(root, noise, plan[i], config), config)
            paths.append(path)
            leaves.append(leaf)
        asked = [leaf for leaf in leaves if leaf.known is None]
        for leaf, evaluation in zip(asked, evaluate([leaf.state for leaf in asked]) if asked else (), strict=True):
            leaf.learn(evaluation)
        for path, leaf in zip(paths, leaves, strict=True):
            _back_up(path, leaf)
    return [_found(root, noise, config) for root, noise in zip(roots, noises, strict=True)]


def _descend(root: _Node, choice: int, config: SearchConfig) -> tuple[list[tuple[_Node, int]], _Node]:
    """The moves down to a position not seen before, or one whose worth is known."""
    node, path = root, []
    while True:
        path.append((node, choice))
        kid = node.kids[choice]
        if not isinstance(kid, _Node):
            kid = _Node(kid)
            node.kids[choice] = kid
            return path, kid
        if kid.known is not None:
            return path, kid
        node, choice = kid, _inner_choice(kid, config.explore)


def _inner_choice(node: _Node, explore: float) -> int:
    weight = explore * math.sqrt(node.visits + 1)
    best, choice = -math.inf, 0
    for i, count in enumerate(node.counts):
        q = node.sums[i] / count if count else node.worth - 0.2  # not visited: a little worse than the position
        score = q + weight * node.priors[i] / (1 + count)
        if score > best:
            best, choice = score, i
    return choice


def _root_choice(root: _Node, noise: Sequence[float], visits: int, config: SearchConfig) -> int:
    """The best of the moves that have had so many visits."""
    scores = _scores(root, config)
    able = [i for i, count in enumerate(root.counts) if count == visits] or range(len(root.moves))
    return max(able, key=lambda i: noise[i] + scores[i])


def _back_up(path: list[tuple[_Node, int]], leaf: _Node) -> None:
    worth, player = leaf.worth if leaf.known is None else leaf.known, leaf.player
    if player == OVER:
        player = 0
    for node, choice in path:
        node.visits += 1
        node.counts[choice] += 1
        node.sums[choice] += worth if node.player == player else -worth


def _scores(root: _Node, config: SearchConfig) -> list[float]:
    """logits + sigma(q), a move without visits taking the mixed value."""
    visited = [i for i, count in enumerate(root.counts) if count]
    mixed = root.worth
    if visited:
        mass = sum(root.priors[i] for i in visited)
        mean = sum(root.priors[i] * root.sums[i] / root.counts[i] for i in visited) / max(mass, 1e-12)
        mixed = (root.worth + root.visits * mean) / (1 + root.visits)
    weight = (config.visits + max(root.counts)) * config.scale
    return [
        logit + weight * (total / count if count else mixed)
        for logit, count, total in zip(root.logits, root.counts, root.sums, strict=True)
    ]


def _found(root: _Node, noise: Sequence[float], config: SearchConfig) -> Found:
    scores, most = _scores(root, config), max(root.counts)
    choice = max((i for i, c in enumerate(root.counts) if c == most), key=lambda i: noise[i] + scores[i])
    policy = softmax(scores)
    q = [total / count if count else root.worth for count, total in zip(root.counts, root.sums, strict=True)]
    return Found(policy, root.moves[choice], sum(p * worth for p, worth in zip(policy, q, strict=True)))


@lru_cache(maxsize=256)
def _plan(considered: int, simulations: int) -> tuple[int, ...]:
    """For each simulation, how many visits the move must have had that is visited next: sequential halving."""
    if considered == 1:
        return tuple(range(simulations))
    rounds = math.ceil(math.log2(considered))
    plan, visits, left = [], [0] * considered, considered
    while len(plan) < simulations:
        for _ in range(max(1, simulations // (rounds * left))):
            plan += visits[:left]
            visits[:left] = [count + 1 for count in visits[:left]]
        left = max(2, left // 2)
    return tuple(plan[:simulations])


def _gumbel(rng: Random) -> float:
    return -math.log(-math.log(rng.random() or 1e-12))


def softmax(scores: Sequence[float]) -> list[float]:
    """Probabilities proportional to exp(score)."""
    top = max(scores, default=0.0)
    weights = [math.exp(score - top) for score in scores]
    total = sum(weights)
    return [weight / total for weight in weights]
