"""Words of a game's rows: they tell every stone, and turn as the observation does."""

from random import Random

import numpy as np
import pytest

from wren.games.game import random_opening
from wren.rl.game_settings import read_game
from wren.rl.game_symmetry import symmetries
from wren.rl.game_tokens import GameTokens
from wren.rl.game_words import Words


def test_columns_of_connect4_are_words_that_tell_every_stone() -> None:
    game = read_game("connect4")
    words = Words(game)
    states = [random_opening(game, plies, Random(seed)) for plies in (0, 7, 25) for seed in range(30)]
    seen = [state.observation(state.player) for state in states]
    back = np.zeros((len(seen), game.observation_len), dtype=int)
    numbers = words.numbers(seen)
    assert numbers.shape == (len(seen), 8)
    assert numbers.min() >= 0
    for row, row_of_numbers in zip(back, numbers, strict=True):
        for span, number in zip(words.spans, row_of_numbers, strict=True):
            row[list(span)] = words.known[number]
    assert back.tolist() == [list(each) for each in seen]
    assert len(words.known) == 2 + 127
    tokens = GameTokens(game)
    assert tokens.row_len == 11
    ids = [*tokens.seen.tolist(), *tokens.moves.tolist(), *tokens.worths.tolist()]
    assert len(set(ids)) == 129 + 7 + 3
    assert max(tokens.moves.tolist()) < 128  # a move is text


@pytest.mark.parametrize("name", ["tic_tac_toe", "connect4", "breakthrough", "nim:heaps=3,3,3"])
def test_words_are_turned_as_the_observation_is(name: str) -> None:
    game = read_game(name)
    words = Words(game)
    plies = 0 if game.name == "nim" else 3
    states = [random_opening(game, plies, Random(seed)) for seed in range(9)]
    seen = np.array([state.observation(state.player) for state in states])
    for observation, _ in symmetries(game):
        turned = words.numbers(seen[:, observation])
        assert np.array_equal(turned, words.numbers(seen)[:, words.turned(observation)])


def test_a_turn_that_tears_a_column_apart_is_refused() -> None:
    game = read_game("connect4")
    with pytest.raises(ValueError, match="not in list"):
        Words(game).turned(np.roll(np.arange(game.observation_len), 1))
