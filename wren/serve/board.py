"""A board that one can click: the player of a self-play run, move by move over HTTP.

The server keeps no game: a client sends all moves so far, and gets the player's answer and what stands on the board.
"""

import asyncio
import threading
from dataclasses import dataclass, field
from random import Random
from typing import Annotated, Any

from fastapi import FastAPI
from pydantic import BaseModel, Field

from wren import games
from wren.errors import ConfigError, WrenError
from wren.games.game import Game, move_by_name
from wren.games.players import ManyPlayer, ask
from wren.games.state import OVER, State
from wren.rl.game_net import Net, PolicyPlayer, SearchPlayer
from wren.rl.game_player import open_net
from wren.rl.game_search import SearchConfig
from wren.run import Run
from wren.serve.errors import ApiError
from wren.serve.schema import Asked

MAX_BUDGET, MAX_MOVES = 2000, 1000
Name = Annotated[str, Field(min_length=1, max_length=40)]


class BoardRequest(Asked):
    """moves: all so far, by name. seat: of the person. budget: simulations before each of the player's moves."""

    moves: list[Name] = Field(default_factory=list, max_length=MAX_MOVES)
    seat: Annotated[int, Field(ge=0, le=1)] = 0
    budget: Annotated[int, Field(ge=0, le=MAX_BUDGET)] = 0


class BoardRow(BaseModel):
    label: str
    cells: list[str]


class Board(BaseModel):
    """moves: with the player's answer. rows, columns: the board, empty where the game has none. won: 1, 0 or -1 for the
    person once it is over."""

    game: str
    moves: list[str]
    text: str
    rows: list[BoardRow]
    columns: list[str]
    legal: list[str]
    over: bool
    won: int | None


@dataclass(frozen=True)
class Table:
    """A game and who plays it."""

    game: Game
    net: Net
    lock: threading.Lock = field(default_factory=threading.Lock)

    def after(self, asked: BoardRequest) -> Board:
        """The board once the player has answered; raises ApiError for a move that is not legal where it stands."""
        state, names = self.game.start(), []
        for number, name in enumerate(asked.moves, 1):
            try:
                state = state.play(move_by_name(self.game, state, name))
            except WrenError as error:
                raise ApiError(400, f"Move {number}: {error}", param="moves", code="illegal_move") from error
            names.append(name)
        while state.player not in (OVER, asked.seat):
            move = self._answer(state, asked.budget)
            names.append(self.game.moves[move])
            state = state.play(move)
        return self._board(state, names, asked.seat)

    def _answer(self, state: State, budget: int) -> int:
        player: ManyPlayer = PolicyPlayer(self.net)
        if budget:
            player = SearchPlayer(self.net, SearchConfig(simulations=budget))
        with self.lock:
            return ask(player, [state], [Random(0)])[0]

    def _board(self, state: State, names: list[str], seat: int) -> Board:
        text = state.text(seat)
        rows, columns = _cells(text)
        returns = state.returns()
        return Board(
            game=self.game.name,
            moves=names,
            text=text,
            rows=rows,
            columns=columns,
            legal=[self.game.moves[move] for move in state.legal()] if returns is None else [],
            over=returns is not None,
            won=None if returns is None else (returns[seat] > 0) - (returns[seat] < 0),
        )


def table_of(run: Run, device: str) -> Table | None:
    """The table of a self-play run, None for every other run. Raises ConfigError for a game of hidden cards."""
    raw = run.config()
    if not isinstance(raw, dict) or "game" not in raw:
        return None
    game = games.read(raw["game"])
    if game.hidden:
        raise ConfigError(
            f"The cards of {game.name} are hidden, and a board shows all; play it with `wren play --game {game.name} "
            f"--run {run.path} --human`."
        )
    return Table(game, open_net(run.path, game, device))


def add_board(app: FastAPI, table: Table, responses: dict[int | str, dict[str, Any]]) -> None:
    @app.post("/v1/board", responses=responses)
    async def board(body: BoardRequest) -> Board:
        """All moves so far in, the player's answer and the board out."""
        return await asyncio.to_thread(table.after, body)


def _cells(text: str) -> tuple[list[BoardRow], list[str]]:
    """The board in a position's text: lines of single signs behind an optional label, the columns' names below."""
    lines = [line.split() for line in text.splitlines()[1:]]
    if len(lines) < 3 or any(len(word) > 1 for line in lines for word in line):
        return [], []
    *lines, columns = lines
    labelled = all(len(line) == len(columns) + 1 for line in lines)
    rows = [BoardRow(label=line[0] if labelled else "", cells=line[1:] if labelled else line) for line in lines]
    return rows, columns
