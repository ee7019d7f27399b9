"""A person at the terminal as a player: sees the position, types a move's name; Ctrl-C or Ctrl-D leaves."""

from collections.abc import Callable
from random import Random

from wren.errors import ConfigError
from wren.games.game import Game, move_by_name
from wren.games.state import CHANCE, OVER, State

_MANY = 12  # moves beyond this are listed only when asked for


class Left(Exception):
    """The person has left the game."""


class Human:
    """A player who is asked.

    lines: gives the next line without its end, shown a prompt, as input() does; at the end of input it gives None or
    raises EOFError. It may raise KeyboardInterrupt. write: shows a text of one or more lines, as print() does.
    """

    def __init__(self, game: Game, lines: Callable[[str], str | None], write: Callable[[str], None]) -> None:
        self.game, self.lines, self.write = game, lines, write

    def choose(self, state: State, rng: Random) -> int:
        """The move that the person types; an illegal one is refused with a sentence. Raises Left."""
        self.write(state.text(state.player))
        legal = ", ".join(self.game.moves[move] for move in state.legal())
        hint = f"Your move ({legal})" if len(state.legal()) <= _MANY else "Your move (? lists them)"
        while True:
            text = self._line(f"{hint}: ").strip()
            if text.lower() in ("quit", "exit", "q"):
                raise Left
            if text == "?":
                self.write(f"Moves: {legal}.")
            elif text:
                try:
                    return move_by_name(self.game, state, text)
                except ConfigError as error:
                    self.write(str(error))

    def _line(self, prompt: str) -> str:
        try:
            line = self.lines(prompt)
        except (KeyboardInterrupt, EOFError):
            self.write("")
            raise Left from None
        if line is None:
            raise Left
        return line

    def watch(self, seat: int) -> Callable[[State, int, State], None]:
        """What tells the person in this seat what others do and how the game ends: for the referee's `watch`."""

        def told(before: State, move: int, after: State) -> None:
            if before.player not in (seat, CHANCE):
                self.write(f"The other player moves: {self.game.moves[move]}.")
            if after.player == OVER:
                self.write(after.text(seat))

        return told
