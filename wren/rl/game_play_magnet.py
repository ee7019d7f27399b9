"""A generation of magnetic mirror descent on sampled games, for hidden cards (2206.05825).

Both seats draw their moves from the model. In each information set I that was seen, the mean return of the games that
went on with a is q(I, a), and the policy is to move from p to

    p'(a) ~ (p(a) exp(stride q(I, a)))^(1 / (1 + stride entropy))

which is a step of mirror descent pulled back to the uniform policy. With a fixed entropy such steps lead to one
equilibrium, of the game with that bonus for entropy; letting it fall leads on to one of the game itself.
"""

import math
from random import Random

import numpy as np

from wren.games.game import Game
from wren.games.state import CHANCE, OVER, Observation, State, result
from wren.rl.game_net import Net
from wren.rl.game_rounds import Numbers, Positions, positions, three
from wren.rl.game_search import softmax
from wren.rl.game_settings import SelfPlayConfig

_DOUBT = 4.0  # games of mean return that each move is taken to have had


class _Set:
    """An information set: the policy there, and what was won after each move."""

    __slots__ = ("counts", "legal", "logits", "marks", "observation", "sums")

    def __init__(self, observation: Observation, legal: tuple[int, ...], logits: list[float]):
        self.observation, self.legal, self.logits = observation, legal, logits
        self.marks = np.cumsum(softmax(logits)).tolist()
        self.counts, self.sums = [0] * len(legal), [0.0] * len(legal)


class _Place:
    """A position of the tree that games share; its children are made when a game comes there."""

    __slots__ = ("information", "kids", "marks", "player", "returns", "state")

    def __init__(self, state: State, sets: dict[Observation, _Set], net: Net):
        self.state, self.player = state, state.player
        self.kids: list[_Place | None] = [None] * len(state.legal())
        self.information: _Set | None = None
        self.marks: list[float] = []
        self.returns: tuple[float, ...] = ()
        if self.player == OVER:
            self.returns = result(state)
        elif self.player == CHANCE:
            self.marks = np.cumsum([probability for _, probability in state.chances()]).tolist()
        else:
            seen = state.observation(self.player)
            if seen not in sets:
                sets[seen] = _Set(seen, state.legal(), list(net.evaluate([state])[0][0]))
            self.information = sets[seen]
            self.marks = self.information.marks


def play_magnet(
    game: Game, net: Net, known: dict[Observation, State], config: SelfPlayConfig, entropy: float, seed: str
) -> tuple[Positions, Numbers]:
    """Plays config.games games. known: a position of each information set, asked in one pass."""
    logits = {seen: each[0] for seen, each in zip(known, net.evaluate(list(known.values())), strict=True)}
    sets = {seen: _Set(seen, known[seen].legal(), list(row)) for seen, row in logits.items()}
    rng, root, first = Random(seed), _Place(game.start(), sets, net), []
    for _ in range(config.games):
        first.append(_play(root, sets, net, rng))
    seen = [each for each in sets.values() if sum(each.counts)]
    scale = 1 / abs(game.worst)
    numbers = {
        "games": len(first),
        "positions": len(seen),
        "first_wins": sum(won > 0 for won in first) / len(first),
        "draws": sum(won == 0 for won in first) / len(first),
        "mean_return": sum(first) / len(first),
        "entropy": float(np.mean([_entropy(softmax(each.logits)) for each in seen])),
        "entropy_weight": entropy,
        "illegal": 0.0,
    }
    stride = min(config.stride, config.pull * entropy)
    return _positions(net, seen, stride, entropy, scale), numbers


def _play(root: _Place, sets: dict[Observation, _Set], net: Net, rng: Random) -> float:
    """One game; returns what the first player won."""
    place, path = root, []
    while place.player != OVER:
        mark, choice = rng.random(), 0
        last = len(place.marks) - 1
        while choice < last and mark >= place.marks[choice]:
            choice += 1
        if place.information is not None:
            path.append((place.information, choice, place.player))
        kid = place.kids[choice]
        if kid is None:
            kid = _Place(place.state.play(place.state.legal()[choice]), sets, net)
            place.kids[choice] = kid
        place = kid
    for information, choice, player in path:
        information.counts[choice] += 1
        information.sums[choice] += place.returns[player]
    return place.returns[0]


def improved(logits: list[float], counts: list[int], sums: list[float], stride: float, entropy: float) -> list[float]:
    """p' of the formula above, the returns of moves seldom made drawn towards the mean return."""
    mean = sum(sums) / sum(counts)
    q = [(total + _DOUBT * mean) / (count + _DOUBT) for total, count in zip(sums, counts, strict=True)]
    top = max(logits)
    return softmax(
        [(x - top + stride * (worth - mean)) / (1 + stride * entropy) for x, worth in zip(logits, q, strict=True)]
    )


def _positions(net: Net, seen: list[_Set], stride: float, entropy: float, scale: float) -> Positions:
    probs_NM = np.zeros((len(seen), len(net.tokens.moves)))
    worths, weights = [], []
    for row_M, each in zip(probs_NM, seen, strict=True):
        row_M[list(each.legal)] = improved(each.logits, each.counts, each.sums, stride, entropy)
        count = sum(each.counts)
        worths.append(three(scale * sum(each.sums) / count))
        weights.append(math.sqrt(count))
    weights_N = np.array(weights) / np.mean(weights)
    tokens_NT = net.tokens.rows_of([each.observation for each in seen]).numpy()
    return positions(tokens_NT, probs_NM, np.array(worths), np.stack((0.1 * weights_N, weights_N), axis=1))


def _entropy(policy: list[float]) -> float:
    return -sum(p * math.log(p) for p in policy if p > 0)
