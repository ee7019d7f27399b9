"""Who plays: random, minimax of a depth, a game's perfect player; and how players are asked for their moves.

A player is a function of (state, rng) that gives a move, an object whose choose(state, rng) does, or a ManyPlayer,
which answers many positions at once, as a model does best. What it may know is state.observation(state.player) or the
text of the same; where cards are hidden, a player that looks at more cheats.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from random import Random
from typing import Protocol, runtime_checkable

from wren.errors import ConfigError, unknown_key
from wren.games.game import Game, demand
from wren.games.state import State


@runtime_checkable
class Chooser(Protocol):
    """An object that plays."""

    def choose(self, state: State, rng: Random) -> int:
        """A move, a number into Game.moves."""
        ...


class ManyPlayer(ABC):
    """A player of many games at once."""

    @abstractmethod
    def choose_many(self, states: Sequence[State], rngs: Sequence[Random]) -> Sequence[int]:
        """A move for each position, drawn, where it is drawn, with that position's generator."""


Player = Callable[[State, Random], int] | Chooser | ManyPlayer


def ask(player: Player, states: Sequence[State], rngs: Sequence[Random]) -> list[int]:
    """The player's move in each position."""
    if isinstance(player, ManyPlayer):
        moves = [int(move) for move in player.choose_many(states, rngs)]
        if len(moves) != len(states):
            raise ValueError(f"{len(moves)} moves for {len(states)} positions")
        return moves
    choose = player.choose if isinstance(player, Chooser) else player
    return [int(choose(state, rng)) for state, rng in zip(states, rngs, strict=True)]


def random_player(state: State, rng: Random) -> int:
    """Any legal move, each as likely."""
    return rng.choice(state.legal())


class Minimax:
    """Looks `depth` plies ahead with alpha-beta pruning and the game's `evaluation`; equally good moves by chance."""

    def __init__(self, game: Game, depth: int) -> None:
        if game.hidden:
            raise ConfigError(f"Minimax cannot play {game.name}, where cards are hidden; play against random instead.")
        if game.num_players != 2:
            raise ConfigError(f"Minimax plays games of two; {game.name} has {game.num_players} players.")
        if depth < 1:
            raise ConfigError(f"Minimax of depth {depth} cannot be; look at least 1 ply ahead.")
        self.game, self.depth = game, depth

    def choose(self, state: State, rng: Random) -> int:
        return rng.choice(self.game.best_moves(state, self.depth)[1])


class Perfect:
    """Never gives away what a position is worth; equally good moves by chance. Raises ConfigError without a solver."""

    def __init__(self, game: Game) -> None:
        demand(game, "solver", "perfect play")
        self.game = game

    def choose(self, state: State, rng: Random) -> int:
        return rng.choice(self.game.perfect_moves(state))


def read(text: str, game: Game) -> Player:
    """The player that a short text names: "random", "minimax:4", "perfect"; raises ConfigError for another one."""
    name, _, rest = text.strip().partition(":")
    if name == "minimax":
        if not rest.isdecimal():
            raise ConfigError(f"Minimax needs the plies that it looks ahead, as in minimax:4, not '{text}'.")
        return Minimax(game, int(rest))
    if name not in ("random", "perfect"):
        raise ConfigError(unknown_key("Player", name, ["minimax:DEPTH", "perfect", "random"]))
    if rest:
        raise ConfigError(f"The player {name} has no settings; leave out ':{rest}'.")
    return random_player if name == "random" else Perfect(game)
