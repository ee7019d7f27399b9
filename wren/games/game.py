"""The contract of a game, and what is done with any of them: openings, deals, moves by name.

A game's file `wren/games/rules/<name>.py` holds its `State` and its frozen `Rules`, a Game whose fields are its
settings. Adding a game is adding that file.
"""

from abc import ABC, abstractmethod
from random import Random
from typing import ClassVar, Generic, Literal

from wren.errors import ConfigError, unknown_key
from wren.games.search import best_moves
from wren.games.state import CHANCE, OVER, S, State

Proof = Literal["solver", "lines", "exploitability"]


class Game(ABC, Generic[S]):
    """Rules that a model, a solver and a person can play.

    moves: a name for every move of the game, so that a model can have one token for each. tokens: a name for every
    token of an observation. hidden: whether players see less than all. worst: the least that a player can win, which
    a forfeit costs. exact: the exact measures that can be asked: "solver" (perfect moves), "lines" (every reply to a
    fixed player), "exploitability". evaluation: in words, what minimax takes a position to be worth at its horizon.
    """

    num_players: int = 2
    hidden: bool = False
    worst: float = -1.0
    exact: tuple[Proof, ...] = ()
    evaluation: ClassVar[str] = "0 for every position that is not over."

    @property
    @abstractmethod
    def name(self) -> str:
        """What `wren.games.read` knows it by."""

    @property
    @abstractmethod
    def moves(self) -> tuple[str, ...]:
        """The names of all moves."""

    @property
    @abstractmethod
    def tokens(self) -> tuple[str, ...]:
        """The names of all tokens of observations."""

    @property
    @abstractmethod
    def observation_len(self) -> int:
        """The most tokens of one observation."""

    @abstractmethod
    def start(self, rng: Random | None = None) -> S:
        """The first position; where rng is given, one drawn of those that the game, like Nim, may begin with."""

    def evaluate(self, state: S) -> int:
        """A position's worth to the player to move, as `evaluation` says."""
        return 0

    def best_moves(self, state: S, depth: int) -> tuple[int, tuple[int, ...]]:
        """The worth of a position searched `depth` >= 1 plies, and the moves that reach it; not for hidden games."""
        return best_moves(state, depth, self.evaluate)

    def is_held_out(self, state: S) -> bool:
        """Whether a position is kept for tests, so that whoever trains leaves it out."""
        return False

    def perfect_moves(self, state: S) -> tuple[int, ...]:
        """Every move that keeps what the position is worth; only of games whose `exact` holds "solver"."""
        raise ConfigError(f"The game {self.name} has no solver; agreement is measured with minimax of a depth instead.")


def demand(game: Game, proof: Proof, measure: str) -> None:
    """Raises ConfigError unless the game can be measured exactly in that way."""
    if proof not in game.exact:
        able = ", ".join(game.exact) or "nothing; play matches instead"
        raise ConfigError(f"The game {game.name} is not one for {measure}; what can be asked of it: {able}.")


def draw_chance(state: State, rng: Random) -> int:
    """One of chance's outcomes by its probability."""
    outcomes = state.chances()
    mark = rng.random()
    for outcome, probability in outcomes:
        mark -= probability
        if mark < 0:
            return outcome
    return outcomes[-1][0]  # the probabilities sum to a little below 1 in floating point


def dealt(state: S, rng: Random) -> S:
    """The position once chance has done what is due."""
    while state.player == CHANCE:
        state = state.play(draw_chance(state, rng))
    return state


def random_opening(game: Game[S], plies: int, rng: Random) -> S:
    """A position after so many random moves of the players, where the game still goes on.

    Raises ConfigError where a hundred tries all ended earlier.
    """
    for _ in range(100):
        state = dealt(game.start(rng), rng)
        for _ in range(plies):
            if state.player == OVER:
                break
            state = dealt(state.play(rng.choice(state.legal())), rng)
        if state.player != OVER:
            return state
    raise ConfigError(f"A game of {game.name} is over before {plies} random moves; open with fewer.")


def move_by_name(game: Game, state: State, text: str) -> int:
    """The legal move that a text names, in any case; raises ConfigError, naming the moves, for another text."""
    names = {game.moves[move].lower(): move for move in state.legal()}
    move = names.get(text.strip().lower())
    if move is None:
        raise ConfigError(unknown_key("Here the move", text.strip(), (game.moves[move] for move in state.legal())))
    return move
