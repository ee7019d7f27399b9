"""Tree search without a network, symmetries of games, and observations as text."""

from random import Random
from typing import Any

import numpy as np
import pytest

from wren import games
from wren.games.game import random_opening
from wren.games.measures import agreement, positions
from wren.games.state import OVER
from wren.rl.game_search import SearchConfig, _plan, search
from wren.rl.game_settings import read_game
from wren.rl.game_symmetry import symmetries
from wren.rl.game_tokens import GameTokens


def ignorant(states: Any) -> list[tuple[list[float], float]]:
    return [([0.0] * len(state.legal()), 0.0) for state in states]


def test_a_search_of_someone_who_knows_nothing_plays_nearly_perfectly() -> None:
    game = read_game("tic_tac_toe")
    states = [state for state in positions(game) if state.player != OVER and state.observation(0).count(2) <= 5]
    states = Random(0).sample(states, 200)
    few, many = (search(states, ignorant, SearchConfig(simulations=n), None) for n in (1, 200))

    def right(found: Any) -> float:
        moves = {state: each.move for state, each in zip(states, found, strict=True)}
        return agreement(states, lambda state, rng: moves[state], game.perfect_moves).share or 0.0

    assert right(many) > 0.97 > 0.8 > right(few)


def test_the_improved_policy_prefers_perfect_moves_more_than_the_prior_does() -> None:
    game = read_game("tic_tac_toe")
    states = [random_opening(game, 4, Random(i)) for i in range(60)]
    found = search(states, ignorant, SearchConfig(simulations=32), [Random(i) for i in range(60)])
    before = after = 0.0
    for state, each in zip(states, found, strict=True):
        good = set(game.perfect_moves(state))
        before += len(good) / len(state.legal())
        after += sum(p for move, p in zip(state.legal(), each.policy, strict=True) if move in good)
        assert sum(each.policy) == pytest.approx(1)
        assert -1 <= each.worth <= 1
        assert each.move in state.legal()
    assert after > before + 6


def test_a_win_in_one_is_worth_one_and_a_lost_position_less_than_nothing() -> None:
    game = read_game("connect4")
    state = game.start()
    for move in (0, 1, 0, 1, 0, 1):
        state = state.play(move)
    found = search([state, state.play(6)], ignorant, SearchConfig(simulations=64), None)
    assert found[0].move == 0
    assert found[0].worth > 0.9
    assert found[1].move == 1
    assert found[1].worth > 0.9
    threatened = state.play(6).play(2)  # O has not won; X wins at 0
    assert search([threatened], ignorant, SearchConfig(simulations=32), None)[0].move == 0


def test_sequential_halving_spends_all_simulations_on_fewer_and_fewer_moves() -> None:
    for considered in (1, 2, 3, 7, 16):
        for simulations in (1, 5, 32, 100):
            plan_of = _plan(considered, simulations)
            assert len(plan_of) == simulations
            assert plan_of[0] == 0
            visits = [0] * considered
            for due in plan_of:  # there is always a move with so many visits
                visits[visits.index(due)] += 1
    assert max(np.bincount(_plan(8, 32))) == 8
    assert _plan(8, 32)[-1] >= 5


def test_a_search_does_not_depend_on_what_is_searched_beside_it() -> None:
    game = read_game("connect4")
    states = [random_opening(game, 5, Random(i)) for i in range(6)]
    how = SearchConfig(simulations=20)
    together = search(states, ignorant, how, [Random(i) for i in range(6)])
    assert together == [search([state], ignorant, how, [Random(i)])[0] for i, state in enumerate(states)]


@pytest.mark.parametrize("name", ["tic_tac_toe", "connect4", "breakthrough", "nim:heaps=3,3,3"])
def test_symmetries_turn_positions_into_positions_of_the_same_game(name: str) -> None:
    game = read_game(name)
    known = symmetries(game)
    assert len(known) == {"tic_tac_toe": 8, "nim": 6}.get(game.name, 2)
    assert [row.tolist() for row in known[0]] == [list(range(game.observation_len)), list(range(len(game.moves)))]
    for seed, (seen, moves) in enumerate(known):
        new_of = np.argsort(moves)  # the old move moves[m] is called m
        rng, old, new = Random(seed), game.start(), game.start()
        while old.player != OVER:
            turned = np.array(old.observation(old.player))[seen]
            assert turned.tolist() == list(new.observation(new.player))
            assert sorted(new_of[list(old.legal())]) == sorted(new.legal())
            move = rng.choice(old.legal())
            old, new = old.play(move), new.play(int(new_of[move]))
        assert old.returns() == new.returns()


@pytest.mark.parametrize("name", games.names())
def test_rows_are_text_that_the_tokenizer_reads_and_name_the_position(name: str) -> None:
    game = read_game(name)
    tokens = GameTokens(game)
    states = {}
    for seed in range(60):
        state = random_opening(game, seed % 3, Random(seed))
        states[state.observation(state.player)] = state
    rows_BT = tokens.rows(list(states.values()))
    assert rows_BT.shape == (len(states), tokens.row_len)
    assert len({tuple(row) for row in rows_BT.tolist()}) == len(states)
    ids = [*tokens.seen.tolist(), *tokens.moves.tolist(), *tokens.worths.tolist()]
    assert len(set(ids)) == len(ids)
    assert not set(ids) & {32, 33, 63}
    if max(ids) < 128:
        text = bytes(rows_BT[0, 1:].tolist()).decode()
        assert text.endswith("?!")
        assert tokens.tokenizer.encode(text) == rows_BT[0, 1:].tolist()
