"""What games on a board of two colours share: cells as bits of two numbers, their tokens and their picture."""

from collections.abc import Sequence

from wren.games.state import OVER

TOKENS = ("first", "second", "empty", "mine", "theirs")
_EMPTY, _MINE, _THEIRS = 2, 3, 4


def observation(first: int, second: int, player: int, cells: Sequence[int]) -> tuple[int, ...]:
    """The player's seat, then each cell as empty, mine or theirs. first, second: the players' cells, one bit each."""
    mine, theirs = (first, second) if player == 0 else (second, first)
    return player, *[_MINE if mine >> c & 1 else _THEIRS if theirs >> c & 1 else _EMPTY for c in cells]


def picture(first: int, second: int, rows: Sequence[Sequence[int]], signs: str) -> list[str]:
    """A line for each row of cells, the top one first. signs: of the first player and of the second."""
    return [" ".join(signs[0] if first >> c & 1 else signs[1] if second >> c & 1 else "." for c in row) for row in rows]


def heading(player: int, mover: int, returns: tuple[float, ...] | None, names: Sequence[str]) -> str:
    """ "You are X. It is your move.", or how the game ended."""
    if mover == OVER or returns is not None:
        won = (returns or (0.0, 0.0))[0]
        return "A draw." if won == 0 else f"{_capital(names[0 if won > 0 else 1])} has won."
    turn = "It is your move." if mover == player else f"It is the move of {names[mover]}."
    return f"You are {names[player]}. {turn}"


def _capital(name: str) -> str:
    return name[0].upper() + name[1:]
