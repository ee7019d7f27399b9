"""Exact measures of hidden-card games: value, best response, exploitability, average policy; equilibria by CFR+.

A policy is a Table: for each information set, named by its observation, a probability for each legal move in order.
Exploitability is (b_0 + b_1) / 2, with b_i what a best response of player i wins against the policy, in games that sum
to 0: the mean of what each can win beyond the value of the game. It is 0 for an equilibrium only. An observation must
tell all that its player has seen, as those of our games do.

CFR+: regret matching with regrets kept above 0, players in turn, policies weighted by their iteration  (1407.5042).
"""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from wren.errors import ConfigError
from wren.games.game import Game, demand
from wren.games.state import CHANCE, OVER, Observation, State

Table = Mapping[Observation, Sequence[float]]
_TOLERANCE = 1e-6  # of probabilities that are to sum to 1; those of a model come in single precision


class _Node(NamedTuple):
    """A position of the game's tree. chances: of the children where chance is to move; returns: at the end."""

    player: int
    observation: Observation
    children: tuple["_Node", ...]
    chances: tuple[float, ...]
    returns: tuple[float, ...]


def information_sets(game: Game) -> dict[Observation, State]:
    """A position of each information set, in which the policy of the player to move is to be asked."""
    demand(game, "exploitability", "going through information sets")
    found: dict[Observation, State] = {}
    waiting: list[State] = [game.start()]
    while waiting:
        state = waiting.pop()
        if state.player >= 0:
            found.setdefault(state.observation(state.player), state)
        waiting += [state.play(move) for move in reversed(state.legal())]
    return found


def tabulate(game: Game, policy: Callable[[State], Sequence[float]]) -> dict[Observation, tuple[float, ...]]:
    """The table of a policy: for the player to move, a probability of each legal move, in order."""
    return {key: tuple(policy(state)) for key, state in information_sets(game).items()}


def uniform(game: Game) -> dict[Observation, tuple[float, ...]]:
    """Every legal move as likely."""
    return tabulate(game, lambda state: [1 / len(state.legal())] * len(state.legal()))


def expected_returns(game: Game, tables: Sequence[Table]) -> tuple[float, ...]:
    """What each player wins per game; tables: each player's policy."""
    root = _tree(game)
    for table in tables:
        _check(game, table)

    def value(node: _Node) -> tuple[float, ...]:
        if node.player == OVER:
            return node.returns
        weights = node.chances if node.player == CHANCE else tables[node.player][node.observation]
        parts = [value(child) for child in node.children]
        return tuple(sum(w * part[i] for w, part in zip(weights, parts, strict=True)) for i in range(game.num_players))

    return value(root)


def best_response(game: Game, table: Table, player: int) -> float:
    """What the best policy of this player wins per game against the table in the other seats."""
    root = _tree(game)
    _check(game, table)
    return _Response(root, table, player).value(root)


class _Response:
    """A best response: in each information set the move that is worth most over all positions it may be."""

    def __init__(self, root: _Node, table: Table, player: int) -> None:
        self.table, self.player = table, player
        self._members: dict[Observation, list[tuple[_Node, float]]] = {}
        self._values: dict[int, float] = {}
        self._choices: dict[Observation, int] = {}
        self._collect(root, 1.0)

    def _collect(self, node: _Node, others: float) -> None:
        """The player's information sets, with the probability that chance and the others lead to each position."""
        if node.player == self.player:
            self._members.setdefault(node.observation, []).append((node, others))
            weights: Sequence[float] = (1.0,) * len(node.children)
        else:
            weights = _weights(node, self.table) if node.children else ()
        for child, weight in zip(node.children, weights, strict=True):
            self._collect(child, others * weight)

    def _choice(self, observation: Observation) -> int:
        if observation not in self._choices:
            members = self._members[observation]
            moves = range(len(members[0][0].children))
            worths = [sum(weight * self.value(node.children[i]) for node, weight in members) for i in moves]
            self._choices[observation] = worths.index(max(worths))
        return self._choices[observation]

    def value(self, node: _Node) -> float:
        """What the player wins from here on."""
        if node.player == OVER:
            return node.returns[self.player]
        if id(node) not in self._values:
            if node.player == self.player:
                worth = self.value(node.children[self._choice(node.observation)])
            else:
                pairs = zip(_weights(node, self.table), node.children, strict=True)
                worth = sum(weight * self.value(child) for weight, child in pairs)
            self._values[id(node)] = worth
        return self._values[id(node)]


def exploitability(game: Game, table: Table) -> float:
    """How much a policy, played in every seat, loses to best responses on average, in coins per game."""
    return sum(best_response(game, table, player) for player in range(game.num_players)) / game.num_players


def average(game: Game, tables: Sequence[Table], weights: Sequence[float]) -> dict[Observation, tuple[float, ...]]:
    """The policy that plays as one who draws one of the tables, by weight, before each game.

    In an information set a table counts by how likely its own player comes there, so it is not the mean of tables.
    """
    root = _tree(game)
    if not tables or len(tables) != len(weights) or min(weights) < 0 or sum(weights) <= 0:
        raise ValueError("an average takes tables and as many weights of 0 or more, not all 0")
    sums: dict[Observation, list[float]] = {}
    for table, weight in zip(tables, weights, strict=True):
        _check(game, table)
        _gather(root, (weight,) * game.num_players, table, sums, set())
    return {key: _normal(row) for key, row in sums.items()}


def _gather(
    node: _Node, own: tuple[float, ...], table: Table, sums: dict[Observation, list[float]], seen: set[Observation]
) -> None:
    """Adds to `sums` each information set's probabilities times how likely its own player comes there."""
    row = table[node.observation] if node.player >= 0 else ()
    if node.player >= 0 and node.observation not in seen:  # own reach is the same in the whole set
        seen.add(node.observation)
        _add(sums, node.observation, row, own[node.player])
    for i, child in enumerate(node.children):
        _gather(child, tuple(w * row[i] if node.player == who else w for who, w in enumerate(own)), table, sums, seen)


def cfr(game: Game, iterations: int) -> dict[Observation, tuple[float, ...]]:
    """A policy near an equilibrium of a game of two that sums to 0: the average of so many iterations of CFR+."""
    root = _tree(game)
    if iterations < 1:
        raise ConfigError(f"CFR of {iterations} iterations cannot be; take at least 1.")
    policy = uniform(game)
    regrets: dict[Observation, list[float]] = {}
    sums: dict[Observation, list[float]] = {}
    for iteration in range(1, iterations + 1):
        for player in range(game.num_players):
            turn = _Turn(policy, player)
            turn.walk(root, 1.0, 1.0)
            for key, gains in turn.gains.items():
                _add(sums, key, policy[key], iteration * turn.reached[key])
                kept = regrets.get(key, [0.0] * len(gains))
                regrets[key] = [max(0.0, old + new) for old, new in zip(kept, gains, strict=True)]
                policy[key] = _normal(regrets[key])
    return {key: _normal(row) for key, row in sums.items()}


class _Turn:
    """One player's walk through the tree. gains: of each move over the policy, times the others' reach."""

    def __init__(self, policy: Table, player: int) -> None:
        self.policy, self.player = policy, player
        self.gains: dict[Observation, list[float]] = {}
        self.reached: dict[Observation, float] = {}

    def walk(self, node: _Node, own: float, others: float) -> float:
        """What the position is worth to the player. own, others: how likely they lead here."""
        if node.player == OVER:
            return node.returns[self.player]
        pairs = list(zip(node.children, _weights(node, self.policy), strict=True))
        if node.player != self.player:
            return sum(p * self.walk(child, own, others * p) for child, p in pairs)
        worths = [self.walk(child, own * p, others) for child, p in pairs]
        worth = sum(p * one for (_, p), one in zip(pairs, worths, strict=True))
        _add(self.gains, node.observation, [one - worth for one in worths], others)
        self.reached[node.observation] = own
        return worth


def _add(sums: dict[Observation, list[float]], key: Observation, row: Sequence[float], weight: float) -> None:
    total = sums.setdefault(key, [0.0] * len(row))
    for i, x in enumerate(row):
        total[i] += weight * x


def _normal(row: Sequence[float]) -> tuple[float, ...]:
    total = sum(row)
    return tuple(x / total for x in row) if total > 0 else (1 / len(row),) * len(row)


def _weights(node: _Node, table: Table) -> Sequence[float]:
    return node.chances if node.player == CHANCE else table[node.observation]


@lru_cache(maxsize=8)
def _tree(game: Game) -> _Node:
    demand(game, "exploitability", "exploitability")
    return _node(game.start())


def _node(state: State) -> _Node:
    moves = state.legal()
    return _Node(
        state.player,
        state.observation(state.player) if state.player >= 0 else (),
        tuple(_node(state.play(move)) for move in moves),
        tuple(p for _, p in state.chances()),
        state.returns() or (),
    )


def _check(game: Game, table: Table) -> None:
    """Raises ConfigError unless the table holds probabilities for every information set."""
    for key, count in _sizes(game).items():
        if key not in table:
            raise ConfigError(f"The policy for {game.name} says nothing for {_said(game, key)}.")
        row = table[key]
        if len(row) != count:
            raise ConfigError(
                f"The policy for {game.name} gives {len(row)} moves, not {count}, for {_said(game, key)}."
            )
        if not all(p >= 0 for p in row) or not abs(sum(row) - 1) < _TOLERANCE * count:
            raise ConfigError(f"The policy for {game.name} is no distribution for {_said(game, key)}: {list(row)}.")


@lru_cache(maxsize=8)
def _sizes(game: Game) -> dict[Observation, int]:
    return {key: len(state.legal()) for key, state in information_sets(game).items()}


def _said(game: Game, key: Observation) -> str:
    return "'" + " ".join(game.tokens[token] for token in key) + "'"
