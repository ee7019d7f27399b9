"""Exact measures where nothing is hidden: lines against every reply, agreement with perfect play, counts."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from random import Random

from wren.errors import ConfigError
from wren.games.game import Game, demand
from wren.games.players import Player, ask
from wren.games.state import OVER, S, State, name_of


@dataclass(frozen=True, kw_only=True)
class Lines:
    """How all games end in which one player is fixed and the other tries everything.

    lines: those games, and how many of them the fixed player has won, drawn and lost; illegal: those that end with an
    illegal move of the fixed player, which are among the lost. lost_line: the moves of one that is lost, by name.
    """

    lines: int
    won: int
    drawn: int
    lost: int
    illegal: int
    lost_line: tuple[str, ...] | None


def lines_of(game: Game, player: Player, seat: int, *, at_once: int = 4096) -> Lines:
    """Every line of a deterministic player in this seat against every reply.

    Raises ConfigError for a game that cannot be gone through. The player is asked for up to at_once moves together,
    with a generator that is the same each time.
    """
    demand(game, "lines", "counting the lines of a player against every reply")
    won = drawn = lost = wrong = 0
    lost_line: tuple[int, ...] | None = None
    level: list[tuple[State, tuple[int, ...]]] = [(game.start(), ())]
    while level:
        following = []
        for state, line in level:
            returns = state.returns()
            if returns is None:
                following.append((state, line))
                continue
            won, drawn, lost = won + (returns[seat] > 0), drawn + (returns[seat] == 0), lost + (returns[seat] < 0)
            lost_line = line if returns[seat] < 0 and lost_line is None else lost_line
        level = []
        for state, line, moves in _replies(following, player, seat, at_once):
            for move in moves:
                if move in state.legal():
                    level.append((state.play(move), (*line, move)))
                else:
                    lost, wrong, lost_line = lost + 1, wrong + 1, lost_line or (*line, move)
    names = None if lost_line is None else tuple(name_of(game.moves, move) for move in lost_line)
    return Lines(lines=won + drawn + lost, won=won, drawn=drawn, lost=lost, illegal=wrong, lost_line=names)


def _replies(
    level: Sequence[tuple[State, tuple[int, ...]]], player: Player, seat: int, at_once: int
) -> Iterator[tuple[State, tuple[int, ...], tuple[int, ...]]]:
    """Each position with its line and the moves to follow: the player's one, or all of the other."""
    own = [(state, line) for state, line in level if state.player == seat]
    yield from ((state, line, state.legal()) for state, line in level if state.player != seat)
    for first in range(0, len(own), at_once):
        some = own[first : first + at_once]
        moves = ask(player, [state for state, _ in some], [Random(0) for _ in some])
        yield from ((state, line, (move,)) for (state, line), move in zip(some, moves, strict=True))


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """right of count: positions in which not all moves are equal, and those where the player took a perfect one.

    illegal: those where the player's move was illegal, which are not right. skipped: where all moves are equal.
    """

    right: int
    count: int
    illegal: int
    skipped: int

    @property
    def share(self) -> float | None:
        """Of the positions that count, None where there are none."""
        return self.right / self.count if self.count else None


def agreement(
    states: Iterable[S],
    player: Player,
    good_moves: Callable[[S], Sequence[int]],
    *,
    seed: int = 0,
    at_once: int = 4096,
) -> Agreement:
    """How often a player takes a good move: Game.perfect_moves for exact agreement, or minimax's as

        lambda state: game.best_moves(state, depth)[1]

    Positions that are over, or where every legal move is good, are skipped: nothing can be done wrong there.
    """
    asked, good, skipped = [], [], 0
    for state in states:
        best = set(good_moves(state)) if state.player != OVER else set()
        if len(best) == len(state.legal()):
            skipped += 1
            continue
        asked.append(state)
        good.append(best)
    right = wrong = 0
    for first in range(0, len(asked), at_once):
        some = asked[first : first + at_once]
        moves = ask(player, some, [Random(f"{seed} {first + i}") for i in range(len(some))])
        for state, move, best in zip(some, moves, good[first : first + at_once], strict=True):
            right += move in best
            wrong += move not in state.legal()
    return Agreement(right=right, count=len(asked), illegal=wrong, skipped=skipped)


def positions(game: Game, *, limit: int = 1_000_000) -> list[State]:
    """Every position that can be reached from the start, those at the end too; raises ConfigError beyond the limit."""
    seen: dict[State, None] = {game.start(): None}
    waiting = list(seen)
    while waiting:
        state = waiting.pop()
        for move in state.legal():
            after = state.play(move)
            if after not in seen:
                seen[after] = None
                waiting.append(after)
        if len(seen) > limit:
            raise ConfigError(f"The game {game.name} has more than {limit:,} positions; they are not all gone through.")
    return list(seen)


def perft(state: State, plies: int) -> int:
    """How many sequences of so many moves there are from here, those that end earlier left out."""
    if plies == 0:
        return 1
    if plies == 1:
        return len(state.legal())
    return sum(perft(state.play(move), plies - 1) for move in state.legal())


def count_games(state: State, memory: dict[State, int]) -> int:
    """How many games, as sequences of moves, can follow from here. memory: keeps every position's answer."""
    if state.player == OVER:
        return 1
    if state not in memory:
        memory[state] = sum(count_games(state.play(move), memory) for move in state.legal())
    return memory[state]
