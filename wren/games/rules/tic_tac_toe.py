"""Tic-tac-toe: X and O take turns to fill a cell of three by three; three in a line win.

3  0 1 2
2  3 4 5      cell numbers, which are the moves; cell 0 is called a3
1  6 7 8
   a b c
"""

from dataclasses import dataclass
from functools import cache
from random import Random
from typing import NamedTuple

from wren.games.board import TOKENS, heading, observation, picture
from wren.games.game import Game
from wren.games.search import perfect_moves
from wren.games.state import OVER, illegal, name_of

MOVES = tuple(f"{'abc'[cell % 3]}{3 - cell // 3}" for cell in range(9))
_ROWS = ((0, 1, 2), (3, 4, 5), (6, 7, 8))
_LINES = tuple(
    sum(1 << cell for cell in line) for line in (*_ROWS, (0, 3, 6), (1, 4, 7), (2, 5, 8), (0, 4, 8), (2, 4, 6))
)
_FULL = 0b111_111_111
_CELLS = range(9)


class State(NamedTuple):
    """x, o: the cells of the first and the second player, one bit each."""

    x: int = 0
    o: int = 0
    player: int = 0

    def legal(self) -> tuple[int, ...]:
        return () if self.player == OVER else _free(self.x | self.o)

    def play(self, move: int) -> "State":
        taken = self.x | self.o
        if self.player == OVER or not 0 <= move < 9 or taken >> move & 1:
            raise illegal(name_of(MOVES, move), (MOVES[m] for m in self.legal()))
        bit = 1 << move
        full = (taken | bit) == _FULL
        if self.player == 0:
            x = self.x | bit
            return State(x, self.o, OVER if full or _won(x) else 1)
        o = self.o | bit
        return State(self.x, o, OVER if full or _won(o) else 0)

    def chances(self) -> tuple[tuple[int, float], ...]:
        return ()

    def returns(self) -> tuple[float, float] | None:
        if self.player != OVER:
            return None
        return (1.0, -1.0) if _won(self.x) else (-1.0, 1.0) if _won(self.o) else (0.0, 0.0)

    def observation(self, player: int) -> tuple[int, ...]:
        return observation(self.x, self.o, player, _CELLS)

    def text(self, player: int) -> str:
        rows = zip("321", picture(self.x, self.o, _ROWS, "XO"), strict=True)
        lines = [f"{number} {row}" for number, row in rows]
        return "\n".join([heading(player, self.player, self.returns(), "XO"), *lines, "  a b c"])


@dataclass(frozen=True, kw_only=True)
class Rules(Game[State]):
    """No settings."""

    exact = ("solver", "lines")

    @property
    def name(self) -> str:
        return "tic_tac_toe"

    @property
    def moves(self) -> tuple[str, ...]:
        return MOVES

    @property
    def tokens(self) -> tuple[str, ...]:
        return TOKENS

    @property
    def observation_len(self) -> int:
        return 10

    def start(self, rng: Random | None = None) -> State:
        return State()

    def perfect_moves(self, state: State) -> tuple[int, ...]:
        return perfect_moves(state, _memory())


@cache
def _free(taken: int) -> tuple[int, ...]:
    return tuple(cell for cell in _CELLS if not taken >> cell & 1)


@cache
def _won(cells: int) -> bool:
    return any(cells & line == line for line in _LINES)


@cache
def _memory() -> dict:
    return {}
