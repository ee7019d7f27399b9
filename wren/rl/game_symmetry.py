"""Symmetries of boards and heaps: a position turned or mirrored is as good, and its moves are turned with it.

A symmetry is (observation, moves): place k of the new observation is place observation[k] of the old one, and the new
move m is the old move moves[m].
"""

import itertools
from collections.abc import Sequence

import numpy as np

from wren.games.game import Game
from wren.games.rules import breakthrough, connect4, nim, tic_tac_toe

Symmetry = tuple[np.ndarray, np.ndarray]
_MOST = 24


def symmetries(game: Game) -> list[Symmetry]:
    """All of the game's symmetries that are known here, the identity first."""
    if isinstance(game, tic_tac_toe.Rules):
        return [_board(cells, cells) for cells in _square(3)]
    if isinstance(game, connect4.Rules):
        mirrored = [row * 7 + 6 - column for row in range(6) for column in range(7)]
        return [identity(game), _board(mirrored, range(6, -1, -1))]
    if isinstance(game, breakthrough.Rules):
        size = breakthrough.SIZE
        mirrored = [row * size + size - 1 - column for row in range(size) for column in range(size)]
        numbers = {step: i for i, step in enumerate(breakthrough.move_cells())}
        moves = [numbers[mirrored[start], mirrored[end]] for start, end in breakthrough.move_cells()]
        return [identity(game), _board(mirrored, moves)]
    if isinstance(game, nim.Rules):
        orders = itertools.islice(itertools.permutations(range(len(game.heaps))), _MOST)
        digits = game.most.bit_length()
        return [(_blocks(order, digits), _blocks(order, game.most)) for order in orders]
    return [identity(game)]


def identity(game: Game) -> Symmetry:
    return np.arange(game.observation_len), np.arange(len(game.moves))


def _board(cells: Sequence[int], moves: Sequence[int]) -> Symmetry:
    """An observation of the player's seat and then the cells."""
    return np.array([0, *(1 + cell for cell in cells)]), np.array(moves)


def _square(size: int) -> list[list[int]]:
    """The cells of a square in its eight positions."""
    board = np.arange(size * size).reshape(size, size)
    turned = [np.rot90(side, turns) for side in (board, board.T) for turns in range(4)]
    return [each.flatten().tolist() for each in turned]


def _blocks(order: Sequence[int], width: int) -> np.ndarray:
    return np.array([block * width + i for block in order for i in range(width)])
