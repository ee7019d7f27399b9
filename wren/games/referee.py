"""The referee: one loop that plays any game between any players, and matches of pairs of games with seats changed.

An illegal move is counted, and then
    "refuse"   asked again, up to ten times for one move; after that the game is lost
    "mask"     replaced by a legal one, each as likely
    "lose"     the end of the game, which is lost
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Literal, get_args

from wren.errors import ConfigError, unknown_key
from wren.games.game import Game, draw_chance, random_opening
from wren.games.players import Player, ask
from wren.games.state import CHANCE, OVER, State

Illegal = Literal["refuse", "mask", "lose"]
_ASKED = 10  # times for one move
Watch = Callable[[State, int, State], None]


@dataclass(frozen=True, kw_only=True)
class Played:
    """One game. moves: (who, move) in order, chance's among them. illegal: how many by each player.

    returns: what each has won; who forfeits wins Game.worst, and the others share what that costs.
    """

    start: State
    end: State
    moves: tuple[tuple[int, int], ...]
    returns: tuple[float, ...]
    illegal: tuple[int, ...]
    forfeit: int | None = None


@dataclass(frozen=True, kw_only=True)
class Match:
    """Games of A against B. Pair i is games 2i, where A sits first, and 2i + 1, from the same opening, where B does."""

    games: tuple[Played, ...]

    @property
    def returns(self) -> list[float]:
        """What A has won in each game."""
        return [game.returns[i % 2] for i, game in enumerate(self.games)]

    @property
    def points(self) -> list[float]:
        """A's points in each game: 1 for a win, a half for a draw."""
        return [1.0 if won > 0 else 0.0 if won < 0 else 0.5 for won in self.returns]

    def results(self, seat: int | None = None) -> tuple[int, int, int]:
        """A's wins, draws and losses; those in one seat where it is given."""
        points = self.points if seat is None else self.points[seat::2]
        return points.count(1.0), points.count(0.5), points.count(0.0)

    @property
    def illegal(self) -> tuple[int, int]:
        """Illegal moves of A and of B."""
        of_a = sum(game.illegal[i % 2] for i, game in enumerate(self.games))
        return of_a, sum(sum(game.illegal) for game in self.games) - of_a


@dataclass
class _Table:
    """A game under way. players: by seat. rngs: theirs, and last that of chance."""

    start: State
    players: Sequence[Player]
    rngs: Sequence[Random]
    state: State = field(init=False)
    moves: list[tuple[int, int]] = field(default_factory=list)
    illegal: list[int] = field(init=False)
    asked: int = 0
    forfeit: int | None = None

    def __post_init__(self) -> None:
        self.state = self.start
        self.illegal = [0] * len(self.players)

    @property
    def is_over(self) -> bool:
        return self.forfeit is not None or self.state.player == OVER

    def play(self, move: int, watch: Watch | None) -> None:
        before = self.state
        self.state = before.play(move)
        self.moves.append((before.player, move))
        self.asked = 0
        if watch is not None:
            watch(before, move, self.state)

    def take(self, move: int, illegal: Illegal, watch: Watch | None) -> None:
        """What the player to move has answered."""
        who, legal = self.state.player, self.state.legal()
        if move in legal:
            self.play(move, watch)
            return
        self.illegal[who] += 1
        self.asked += 1
        if illegal == "mask":
            self.play(self.rngs[who].choice(legal), watch)
        elif illegal == "lose" or self.asked == _ASKED:
            self.forfeit = who

    def played(self, game: Game) -> Played:
        returns = self.state.returns() or ()
        if self.forfeit is not None:
            others = -game.worst / (len(self.players) - 1) if len(self.players) > 1 else 0.0
            returns = tuple(game.worst if who == self.forfeit else others for who in range(len(self.players)))
        return Played(
            start=self.start,
            end=self.state,
            moves=tuple(self.moves),
            returns=returns,
            illegal=tuple(self.illegal),
            forfeit=self.forfeit,
        )


def play(
    game: Game,
    players: Sequence[Player],
    *,
    seed: int = 0,
    start: State | None = None,
    illegal: Illegal = "lose",
    watch: Watch | None = None,
) -> Played:
    """One game. players: by seat. watch: told of every move, as (before, move, after)."""
    rngs = [*_generators(f"{seed}", len(players)), Random(f"deals of {seed}")]
    table = _Table(game.start() if start is None else start, players, rngs)
    _check(game, [table], illegal)
    _run([table], illegal, watch)
    return table.played(game)


def match(
    game: Game,
    a: Player,
    b: Player,
    *,
    pairs: int,
    seed: int = 0,
    opening: int = 0,
    illegal: Illegal = "lose",
    at_once: int = 512,
) -> Match:
    """2 * pairs games of A against B: each start is played in both seats, with the same deals.

    The start is one that the game draws, and `opening` random plies on.

    at_once: games that go on together, so that a ManyPlayer is asked for many moves in one call; players who use no
    other chance than their generator's play the same games whatever it is.
    """
    if pairs < 1 or at_once < 1 or opening < 0:
        raise ConfigError("A match takes at least 1 pair of games, 1 game at once and an opening of 0 plies or more.")
    tables = []
    for pair in range(pairs):
        rng = Random(f"start {pair} of {seed}")
        start = random_opening(game, opening, rng) if opening else game.start(rng)
        for i, seats in enumerate(((a, b), (b, a))):
            rngs = [*_generators(f"game {2 * pair + i} of {seed}", 2), Random(f"deals {pair} of {seed}")]
            tables.append(_Table(start, seats, rngs))
    _check(game, tables, illegal)
    for first in range(0, len(tables), at_once):
        _run(tables[first : first + at_once], illegal, None)
    return Match(games=tuple(table.played(game) for table in tables))


def _generators(seed: str, num_players: int) -> list[Random]:
    """One for each seat: what one player draws changes nothing for the other, nor the deals."""
    return [Random(f"{seed}, seat {seat}") for seat in range(num_players)]


def _check(game: Game, tables: Sequence[_Table], illegal: str) -> None:
    if illegal not in get_args(Illegal):
        raise ConfigError(unknown_key("The rule for illegal moves", illegal, get_args(Illegal)))
    if any(len(table.players) != game.num_players for table in tables):
        raise ConfigError(f"A game of {game.name} takes {game.num_players} players, not {len(tables[0].players)}.")


def _run(tables: Sequence[_Table], illegal: Illegal, watch: Watch | None) -> None:
    """The loop: in each round every game that goes on gets one move, and every player is asked once."""
    going = list(tables)
    while going:
        waiting: dict[int, list[_Table]] = {}
        for table in going:
            while table.state.player == CHANCE:
                table.play(draw_chance(table.state, table.rngs[-1]), watch)
            if not table.is_over:
                waiting.setdefault(id(table.players[table.state.player]), []).append(table)
        for group in waiting.values():
            player = group[0].players[group[0].state.player]
            moves = ask(player, [t.state for t in group], [t.rngs[t.state.player] for t in group])
            for table, move in zip(group, moves, strict=True):
                table.take(move, illegal, watch)
        going = [table for table in going if not table.is_over]
