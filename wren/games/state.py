"""A position of a game: the contract that rules fulfil and players see."""

from collections.abc import Iterable
from typing import Protocol, Self, TypeVar

from wren.errors import WrenError

CHANCE, OVER = -1, -2
Observation = tuple[int, ...]
S = TypeVar("S", bound="State")


class State(Protocol):
    """A position. Immutable and hashable: play() gives another one."""

    @property
    def player(self) -> int:
        """Whose move it is: 0 for who begins, 1, ...; CHANCE where cards are dealt; OVER."""
        ...

    def legal(self) -> tuple[int, ...]:
        """The moves, numbers into Game.moves, ascending; chance's outcomes where it is CHANCE's turn; () when over."""
        ...

    def play(self, move: int) -> Self:
        """The position after this move or outcome; raises IllegalMove."""
        ...

    def chances(self) -> tuple[tuple[int, float], ...]:
        """Where it is CHANCE's turn: its outcomes and their probabilities, which sum to 1; () elsewhere."""
        ...

    def returns(self) -> tuple[float, ...] | None:
        """What each player has won, None until the game is over."""
        ...

    def observation(self, player: int) -> Observation:
        """All that this player may know, as numbers into Game.tokens, at most Game.observation_len of them.

        It is meant for the player to move, and does not say whose move it is. Where cards are hidden it tells all that
        the player has seen so far, so it names the information set.
        """
        ...

    def text(self, player: int) -> str:
        """The same in words and pictures, several lines."""
        ...


class IllegalMove(WrenError):
    """A move that the rules do not allow here."""


def illegal(name: str, legal: Iterable[str]) -> IllegalMove:
    """The error for a move by its name, and the names of those that may be played."""
    allowed = ", ".join(legal)
    if not allowed:
        return IllegalMove(f"The move {name} comes after the end of the game.")
    return IllegalMove(f"The move {name} is not legal here; it can be: {allowed}.")


def result(state: State) -> tuple[float, ...]:
    """The returns of a position that is over; raises ValueError for another one."""
    returns = state.returns()
    if returns is None:
        raise ValueError("returns of a game that goes on")
    return returns


def name_of(moves: tuple[str, ...], move: int) -> str:
    """A move's name, or its number where there is no such move."""
    return moves[move] if 0 <= move < len(moves) else f"number {move}"
