"""Any game of OpenSpiel under Wren's contract (1908.09453, `pip install wren-llm[games]`).

Games in which players move at the same time are played in turns, with moves hidden until all have moved. Moves are
called by OpenSpiel's numbers, since their names there may change with the position; text() lists both. Observations
are the bytes of OpenSpiel's own words for what a player knows.
"""

import importlib
from dataclasses import dataclass
from functools import cached_property, lru_cache
from random import Random
from types import ModuleType
from typing import Any

from wren.errors import ConfigError, unknown_key
from wren.games.game import Game, Proof
from wren.games.state import CHANCE, OVER, Observation, illegal, name_of

_BYTES = tuple(chr(i) if 32 <= i < 127 else f"byte {i}" for i in range(256))


class State:
    """A position of OpenSpiel that is never changed: play() works on a copy."""

    __slots__ = ("_game", "_inner", "_key")

    def __init__(self, game: "Rules", inner: Any) -> None:
        self._game, self._inner = game, inner
        self._key = (game.text, tuple(inner.history()))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, State) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    @property
    def player(self) -> int:
        if self._inner.is_terminal():
            return OVER
        return CHANCE if self._inner.is_chance_node() else self._inner.current_player()

    def legal(self) -> tuple[int, ...]:
        return () if self._inner.is_terminal() else tuple(sorted(self._inner.legal_actions()))

    def play(self, move: int) -> "State":
        if move not in self.legal():
            raise illegal(name_of(self._game.moves, move), (str(m) for m in self.legal()))
        inner = self._inner.clone()
        inner.apply_action(move)
        return State(self._game, inner)

    def chances(self) -> tuple[tuple[int, float], ...]:
        return tuple(sorted(self._inner.chance_outcomes())) if self.player == CHANCE else ()

    def returns(self) -> tuple[float, ...] | None:
        return tuple(self._inner.returns()) if self._inner.is_terminal() else None

    def observation(self, player: int) -> Observation:
        return tuple(f"{player} {self._said(player)}".encode())

    def text(self, player: int) -> str:
        lines = [f"You are player {player}.", self._said(player)]
        if self.player == player:
            named = (f"{move} = {self._inner.action_to_string(player, move)}" for move in self.legal())
            lines.append("Moves: " + ", ".join(named) + ".")
        returns = self.returns()
        if returns is not None:
            lines.append(f"You win {returns[player]:g}.")
        return "\n".join(lines)

    def _said(self, player: int) -> str:
        kind = self._game.inner.get_type()
        if self._game.hidden and kind.provides_information_state_string:
            return self._inner.information_state_string(player)
        if kind.provides_observation_string:
            return self._inner.observation_string(player)
        if kind.provides_information_state_string:
            return self._inner.information_state_string(player)
        return str(self._inner)


@dataclass(frozen=True, kw_only=True)
class Rules(Game[State]):
    """text: OpenSpiel's name of the game, with its settings in brackets. The rest is what read() found out."""

    text: str
    exact: tuple[Proof, ...]
    num_players: int
    hidden: bool
    worst: float

    @property
    def inner(self) -> Any:
        """OpenSpiel's own object for the game."""
        return _load(self.text)

    @property
    def name(self) -> str:
        return f"open_spiel:{self.text}"

    @cached_property
    def _moves(self) -> tuple[str, ...]:
        return tuple(str(move) for move in range(self.inner.num_distinct_actions()))

    @property
    def moves(self) -> tuple[str, ...]:
        return self._moves

    @property
    def tokens(self) -> tuple[str, ...]:
        return _BYTES

    @property
    def observation_len(self) -> int:
        raise ConfigError(f"{self.name} does not say how long its observations get; measure them in random play.")

    def start(self, rng: Random | None = None) -> State:
        return State(self, self.inner.new_initial_state())


def read(text: str, exact: tuple[Proof, ...] = ()) -> Rules:
    """The game that OpenSpiel loads by this text, such as "hex(board_size=5)"; raises ConfigError with a sentence.

    exact: the exact measures that the caller knows to be within reach, since games of any size come this way.
    """
    game = _load(text.strip())
    return Rules(
        text=text.strip(),
        exact=exact,
        num_players=game.num_players(),
        hidden=str(game.get_type().information) != "Information.PERFECT_INFORMATION",
        worst=float(game.min_utility()),
    )


@lru_cache(maxsize=32)
def _load(text: str) -> Any:
    spiel = _open_spiel()
    name = text.partition("(")[0]
    if name not in spiel.registered_names():
        raise ConfigError(_unknown(name, spiel.registered_names()))
    try:
        game = spiel.load_game_as_turn_based(text)
    except spiel.SpielError as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise ConfigError(f"OpenSpiel cannot load '{text}': {reason}.") from error
    if str(game.get_type().dynamics) != "Dynamics.SEQUENTIAL":
        raise ConfigError(f"OpenSpiel's {name} is not played in turns, so it cannot be played here.")
    return game


def _unknown(name: str, valid: list[str]) -> str:
    """The nearest name, without the list of more than a hundred."""
    return unknown_key("OpenSpiel's game", name, valid).partition(" It can be: ")[0]


def _open_spiel() -> ModuleType:
    try:
        return importlib.import_module("pyspiel")
    except ImportError as error:
        raise ConfigError("Games of OpenSpiel need the package open_spiel: pip install 'wren-llm[games]'.") from error
