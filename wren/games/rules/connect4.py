"""Connect-4: drop a stone into one of seven columns of six cells; four in a line win, in any of four directions.

A board is a number with seven bits a column, the lowest cell first; the seventh bit stays empty, so that no line runs
from one column into the next. A move is a column, called 1 to 7.

    5 12 19 26 33 40 47
    ...
    0  7 14 21 28 35 42
"""

from dataclasses import dataclass
from functools import cache
from random import Random
from typing import NamedTuple

from wren.errors import ConfigError
from wren.games.board import TOKENS, heading, observation, picture
from wren.games.game import Game
from wren.games.search import WIN
from wren.games.state import OVER, illegal, name_of

WIDTH, HEIGHT = 7, 6
PROVABLE = 16  # stones on the board from which a proof takes seconds at most
Memory = dict[tuple[int, int], tuple[int, int]]
MOVES = tuple("1234567")
_BOTTOM = sum(1 << 7 * column for column in range(WIDTH))
_TOP = _BOTTOM << HEIGHT - 1
_BOARD = _BOTTOM * (2**HEIGHT - 1)
_COLUMN = 2**HEIGHT - 1
_TO_THE_END = WIDTH * HEIGHT
_CENTRE = _COLUMN << 21
_BESIDE = _COLUMN << 14 | _COLUMN << 28
_INWARDS = (3, 2, 4, 1, 5, 0, 6)  # columns in the order in which a search tries them
_ROWS = tuple(tuple(7 * column + row for column in range(WIDTH)) for row in range(HEIGHT - 1, -1, -1))
_CELLS = tuple(cell for row in _ROWS for cell in row)


class State(NamedTuple):
    """first, second: the stones of the players."""

    first: int = 0
    second: int = 0
    player: int = 0

    def legal(self) -> tuple[int, ...]:
        return () if self.player == OVER else _open((self.first | self.second) & _TOP)

    def play(self, move: int) -> "State":
        taken = self.first | self.second
        if self.player == OVER or not 0 <= move < WIDTH or taken & _TOP & _COLUMN << 7 * move:
            raise illegal(name_of(MOVES, move), (MOVES[m] for m in self.legal()))
        stone = (taken + (1 << 7 * move)) & _COLUMN << 7 * move & ~taken
        full = taken | stone == _BOARD
        if self.player == 0:
            first = self.first | stone
            return State(first, self.second, OVER if full or has_four(first) else 1)
        second = self.second | stone
        return State(self.first, second, OVER if full or has_four(second) else 0)

    def chances(self) -> tuple[tuple[int, float], ...]:
        return ()

    def returns(self) -> tuple[float, float] | None:
        if self.player != OVER:
            return None
        return (1.0, -1.0) if has_four(self.first) else (-1.0, 1.0) if has_four(self.second) else (0.0, 0.0)

    def observation(self, player: int) -> tuple[int, ...]:
        """The player's seat, then the cells row by row, the top row first."""
        return observation(self.first, self.second, player, _CELLS)

    def text(self, player: int) -> str:
        rows = picture(self.first, self.second, _ROWS, "XO")
        return "\n".join([heading(player, self.player, self.returns(), "XO"), *rows, " ".join(MOVES)])


@dataclass(frozen=True, kw_only=True)
class Rules(Game[State]):
    """No settings."""

    evaluation = (
        "16 for each empty cell where a stone would make four, 2 for each stone in the middle column and 1 for each in "
        "the columns beside it, less the other's."
    )

    @property
    def name(self) -> str:
        return "connect4"

    @property
    def moves(self) -> tuple[str, ...]:
        return MOVES

    @property
    def tokens(self) -> tuple[str, ...]:
        return TOKENS

    @property
    def observation_len(self) -> int:
        return 1 + len(_CELLS)

    def start(self, rng: Random | None = None) -> State:
        return State()

    def evaluate(self, state: State) -> int:
        return _standing(*_sides(state))

    def best_moves(self, state: State, depth: int) -> tuple[int, tuple[int, ...]]:
        """As every game's, on the bare bits: about six times as fast."""
        best, moves = -2 * WIN, []
        memory: Memory | None = {} if depth > 6 else None
        for column in sorted(state.legal(), key=_INWARDS.index):
            worth = _dropped(*_sides(state), column, depth, best - 1, 2 * WIN, memory)
            if worth > best:
                best, moves = worth, [column]
            elif worth == best:
                moves.append(column)
        return best, tuple(sorted(moves))

    def perfect_moves(self, state: State) -> tuple[int, ...]:
        """For late positions only, of PROVABLE stones or more; raises ConfigError for an earlier one."""
        stones = (state.first | state.second).bit_count()
        if stones < PROVABLE:
            raise ConfigError(
                f"Connect-4 is proved from {PROVABLE} stones on, not with {stones}; play more moves first, or measure "
                "agreement with minimax of a depth."
            )
        memory: Memory = {}
        # a window around 0 tells a win, a draw and a loss apart, and no more
        worths = [_dropped(*_sides(state), column, _TO_THE_END, -1, 1, memory) for column in state.legal()]
        best = max((min(max(worth, -1), 1) for worth in worths), default=0)
        return tuple(c for c, worth in zip(state.legal(), worths, strict=True) if min(max(worth, -1), 1) == best)


@cache
def _open(top: int) -> tuple[int, ...]:
    return tuple(column for column in range(WIDTH) if not top & _COLUMN << 7 * column)


def has_four(stones: int) -> bool:
    """Whether four of these stones lie in a line."""
    for step in (1, 7, 6, 8):
        pairs = stones & stones >> step
        if pairs & pairs >> 2 * step:
            return True
    return False


def winning_cells(stones: int, taken: int) -> int:
    """The empty cells, reachable now or later, where one more of these stones makes four."""
    threes = (stones & stones << 1 & stones << 2) << 1  # upright: only above
    for step in (7, 6, 8):
        pairs = stones & stones >> step
        row = pairs & stones >> 2 * step
        threes |= row << 3 * step | row >> step
        threes |= (pairs & stones >> 3 * step) << 2 * step | (stones & pairs >> 2 * step) << step
    return threes & _BOARD & ~taken


def _standing(mine: int, theirs: int) -> int:
    taken = mine | theirs
    fours = winning_cells(mine, taken).bit_count() - winning_cells(theirs, taken).bit_count()
    centre = (mine & _CENTRE).bit_count() - (theirs & _CENTRE).bit_count()
    beside = (mine & _BESIDE).bit_count() - (theirs & _BESIDE).bit_count()
    return 16 * fours + 2 * centre + beside


def _sides(state: State) -> tuple[int, int]:
    """The stones of the player to move, and the other's."""
    return (state.first, state.second) if state.player == 0 else (state.second, state.first)


def _dropped(mine: int, theirs: int, column: int, depth: int, alpha: int, beta: int, memory: Memory | None) -> int:
    """What a move is worth to the player who makes it, exact between alpha and beta."""
    taken = mine | theirs
    stone = taken + (1 << 7 * column) & _COLUMN << 7 * column & ~taken
    if has_four(mine | stone):
        return WIN + depth - 1
    if taken | stone == _BOARD:
        return 0
    return -_worth(theirs, mine | stone, depth - 1, -beta, -alpha, memory)


def _worth(mine: int, theirs: int, depth: int, alpha: int, beta: int, memory: Memory | None) -> int:
    """Of a position that is not over, to the player to move; as wren.games.search has it, exact between alpha and beta.

    memory: bounds (low, high) on positions, whose depth follows from their stones.
    """
    if depth == 0:
        return _standing(mine, theirs)
    taken = mine | theirs
    reachable = taken + _BOTTOM & _BOARD
    if winning_cells(mine, taken) & reachable:
        return WIN + depth - 1
    if depth > 1 and (threats := winning_cells(theirs, taken) & reachable):
        if threats & threats - 1:
            return -WIN - depth + 2  # two at once: one of them comes next move
        reachable = threats
    low, high = -2 * WIN, 2 * WIN
    if memory is not None:
        low, high = memory.get((mine, taken), (low, high))
        if low >= beta or low == high:
            return low
        if high <= alpha:
            return high
        alpha, beta = max(alpha, low), min(beta, high)
    best = _best_reply(mine, theirs, reachable, depth, alpha, beta, memory)
    if memory is not None:
        memory[mine, taken] = (best if best > alpha else low, best if best < beta else high)
    return best


def _best_reply(
    mine: int,
    theirs: int,
    reachable: int,
    depth: int,
    alpha: int,
    beta: int,
    memory: Memory | None,
) -> int:
    """The best worth over the stones that may be set, none of which wins at once."""
    taken, best = mine | theirs, -2 * WIN
    for column in _INWARDS:
        stone = reachable & _COLUMN << 7 * column
        if not stone:
            continue
        if taken | stone == _BOARD:
            worth = 0
        else:
            worth = -_worth(theirs, mine | stone, depth - 1, -beta, -max(alpha, best), memory)
        if worth > best:
            best = worth
            if best >= beta:
                break
    return best
