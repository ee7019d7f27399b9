"""Breakthrough on five by five: reach the other side, or take all pieces of the other colour.  (Troyka 2000)

5  b b b b b      White moves first, and upwards; a move goes one row ahead, straight to an empty cell, or
4  b b b b b      slantwise to an empty cell or to one of the other colour, whose piece it takes. Straight ahead
3  . . . . .      nothing is taken. There is always a move, and no draw.
2  w w w w w
1  w w w w w      a2b3: from a2 to b3
   a b c d e
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from random import Random
from typing import NamedTuple

from wren.errors import ConfigError
from wren.games.board import TOKENS, heading, observation, picture
from wren.games.game import Game
from wren.games.state import OVER, illegal, name_of

SIZE = 5
_CELLS = range(SIZE * SIZE)  # a1, b1, ... e5
_ALL = (1 << SIZE * SIZE) - 1
_ROW = (1 << SIZE) - 1
_ROWS = tuple(tuple(range(row * SIZE, row * SIZE + SIZE)) for row in range(SIZE - 1, -1, -1))
_NAMES = ("White", "Black")
_FILE_A = sum(1 << row * SIZE for row in range(SIZE))
_FILE_E = _FILE_A << SIZE - 1
_GOALS = (_ROW << SIZE * (SIZE - 1), _ROW)  # where White wins, where Black does


class State(NamedTuple):
    """white, black: their cells, one bit each. winner: once it is over."""

    white: int
    black: int
    player: int = 0
    winner: int = 0

    def legal(self) -> tuple[int, ...]:
        if self.player == OVER:
            return ()
        mine, theirs = (self.white, self.black) if self.player == 0 else (self.black, self.white)
        numbers = _numbers()[self.player]
        return tuple(sorted(numbers[step, cell] for step, cell in _steps(mine, theirs, self.player)))

    def play(self, move: int) -> "State":
        moves = move_cells()
        if self.player == OVER or not 0 <= move < len(moves):
            raise self._illegal(move)
        start, end = moves[move]
        mine, theirs = (self.white, self.black) if self.player == 0 else (self.black, self.white)
        goes_up = end > start
        blocked = mine | theirs if abs(end - start) == SIZE else mine
        if goes_up != (self.player == 0) or not mine >> start & 1 or blocked >> end & 1:
            raise self._illegal(move)
        mine, theirs = mine ^ (1 << start | 1 << end), theirs & ~(1 << end)
        player = OVER if 1 << end & _GOALS[self.player] or not theirs else 1 - self.player
        white, black = (mine, theirs) if self.player == 0 else (theirs, mine)
        return State(white, black, player, self.player)

    def _illegal(self, move: int) -> Exception:
        return illegal(name_of(move_names(), move), (move_names()[m] for m in self.legal()))

    def chances(self) -> tuple[tuple[int, float], ...]:
        return ()

    def returns(self) -> tuple[float, float] | None:
        if self.player != OVER:
            return None
        return (1.0, -1.0) if self.winner == 0 else (-1.0, 1.0)

    def observation(self, player: int) -> tuple[int, ...]:
        return observation(self.white, self.black, player, _CELLS)

    def text(self, player: int) -> str:
        rows = zip("54321", picture(self.white, self.black, _ROWS, "wb"), strict=True)
        lines = [f"{number} {row}" for number, row in rows]
        return "\n".join([heading(player, self.player, self.returns(), _NAMES), *lines, "  a b c d e"])


@dataclass(frozen=True, kw_only=True)
class Rules(Game[State]):
    """piece_rows: how many rows of pieces each begins with; 1 is OpenSpiel's game on five by five."""

    piece_rows: int = 2

    evaluation = (
        "20 for each piece more, and for each piece the square of the rows it has gone ahead, less the other's."
    )

    def __post_init__(self) -> None:
        if self.piece_rows not in (1, 2):
            raise ConfigError(f"breakthrough.piece_rows is {self.piece_rows}; it must be 1 or 2.")

    @property
    def name(self) -> str:
        return "breakthrough"

    @property
    def moves(self) -> tuple[str, ...]:
        return move_names()

    @property
    def tokens(self) -> tuple[str, ...]:
        return TOKENS

    @property
    def observation_len(self) -> int:
        return 1 + len(_CELLS)

    def start(self, rng: Random | None = None) -> State:
        pieces = (1 << SIZE * self.piece_rows) - 1
        return State(pieces, pieces << SIZE * (SIZE - self.piece_rows))

    def evaluate(self, state: State) -> int:
        white, black = _standing(state.white, upwards=True), _standing(state.black, upwards=False)
        return white - black if state.player == 0 else black - white


@cache
def _standing(pieces: int, *, upwards: bool) -> int:
    total = 0
    for row in range(SIZE):
        ahead = row if upwards else SIZE - 1 - row
        total += (20 + ahead * ahead) * (pieces >> row * SIZE & _ROW).bit_count()
    return total


@cache
def move_cells() -> tuple[tuple[int, int], ...]:
    """(from, to) of every move: White's first, then Black's, each by the cell it starts from."""
    return tuple(
        (cell, cell + ahead * SIZE + aside)
        for ahead in (1, -1)
        for cell in _CELLS
        for aside in (-1, 0, 1)
        if 0 <= cell + ahead * SIZE < len(_CELLS) and 0 <= cell % SIZE + aside < SIZE
    )


@cache
def move_names() -> tuple[str, ...]:
    """ "a2b3" for every move, in the order of their numbers."""
    return tuple(f"{_cell_name(start)}{_cell_name(end)}" for start, end in move_cells())


def _cell_name(cell: int) -> str:
    return f"{'abcde'[cell % SIZE]}{cell // SIZE + 1}"


@cache
def _numbers() -> tuple[dict[tuple[int, int], int], dict[tuple[int, int], int]]:
    """For each player, a move's number by its step (to - from) and the cell it ends on."""
    numbers: tuple[dict, dict] = ({}, {})
    for number, (start, end) in enumerate(move_cells()):
        numbers[0 if end > start else 1][end - start, end] = number
    return numbers


def _steps(mine: int, theirs: int, player: int) -> Iterator[tuple[int, int]]:
    """(step, cell it ends on) of every legal move."""
    empty = _ALL & ~(mine | theirs)
    to_left, to_right = mine & ~_FILE_A, mine & ~_FILE_E
    if player == 0:
        ends = ((4, to_left << 4 & ~mine), (5, mine << 5 & empty), (6, to_right << 6 & ~mine))
    else:
        ends = ((-6, to_left >> 6 & ~mine), (-5, mine >> 5 & empty), (-4, to_right >> 4 & ~mine))
    for step, cells in ends:
        cells &= _ALL
        while cells:
            lowest = cells & -cells
            yield step, lowest.bit_length() - 1
            cells ^= lowest
