"""Exact measures: lines against every reply, exploitability, CFR, agreement, Elo."""

from random import Random

import pytest

from wren import games
from wren.errors import ConfigError
from wren.games import equilibrium, measures
from wren.games.equilibrium import average, best_response, cfr, expected_returns, exploitability, tabulate, uniform
from wren.games.game import random_opening
from wren.games.players import Minimax, Perfect, random_player
from wren.games.rating import elo
from wren.games.rules import kuhn, nim
from wren.games.state import State

TIC_TAC_TOE = games.read("tic_tac_toe")
KUHN, LEDUC = games.read("kuhn"), games.read("leduc")


def first_legal(state: State, rng: Random) -> int:
    return state.legal()[0]


# lines


def test_lines_of_perfect_play_are_never_lost():
    for seat in (0, 1):
        lines = measures.lines_of(TIC_TAC_TOE, Perfect(TIC_TAC_TOE), seat)
        assert (lines.lost, lines.illegal, lines.lost_line) == (0, 0, None)
        assert lines.lines == lines.won + lines.drawn > 50


def test_lines_of_poor_play_are_counted_one_by_one():
    for seat in (0, 1):
        ends = []

        def walk(state: State, seat: int = seat, ends: list[float] = ends) -> None:
            returns = state.returns()
            if returns is not None:
                ends.append(returns[seat])
                return
            for move in state.legal()[:1] if state.player == seat else state.legal():
                walk(state.play(move))

        walk(TIC_TAC_TOE.start())
        lines = measures.lines_of(TIC_TAC_TOE, first_legal, seat, at_once=5)
        assert (lines.won, lines.drawn, lines.lost) == (ends.count(1), ends.count(0), ends.count(-1))
        assert lines.lost > 0
        assert lines.lost_line is not None
        state = TIC_TAC_TOE.start()
        for name in lines.lost_line:
            state = state.play(TIC_TAC_TOE.moves.index(name))
        assert state.returns() == ((-1.0, 1.0) if seat == 0 else (1.0, -1.0))


def test_illegal_moves_end_their_line():
    lines = measures.lines_of(TIC_TAC_TOE, lambda state, rng: 4, 1)
    assert (lines.lines, lines.lost, lines.illegal) == (1 + 8 * 7, 57, 57)


def test_lines_ask_for_a_game_that_can_be_gone_through():
    with pytest.raises(
        ConfigError, match=r"The game connect4 is not one for counting the lines .*: nothing; play match"
    ):
        measures.lines_of(games.read("connect4"), first_legal, 0)
    with pytest.raises(ConfigError, match="more than 500 positions"):
        measures.positions(TIC_TAC_TOE, limit=500)


# agreement


def test_agreement_with_the_nim_sum():
    game = nim.Rules(heaps=(3, 4, 5))
    states = list(game.positions())
    perfect = measures.agreement(states, Perfect(game), game.perfect_moves)
    lost = [s for s in states if s.heaps[0] ^ s.heaps[1] ^ s.heaps[2] == 0]
    assert perfect.share == 1.0
    assert perfect.count + perfect.skipped == len(states)
    assert perfect.skipped >= len(lost)
    poor = measures.agreement(states, first_legal, game.perfect_moves)
    right = sum(0 < len(g := game.perfect_moves(s)) < len(s.legal()) and s.legal()[0] in g for s in states)
    assert (poor.right, poor.count) == (right, perfect.count)
    wrong = measures.agreement(states, lambda state, rng: -1, game.perfect_moves)
    assert (wrong.right, wrong.illegal) == (0, wrong.count)
    assert measures.agreement([], first_legal, game.perfect_moves).share is None


def test_agreement_with_minimax():
    game = games.read("connect4")
    states = [random_opening(game, 8, Random(seed)) for seed in range(20)]

    def good(state: State) -> tuple[int, ...]:
        return game.best_moves(state, 3)[1]

    assert measures.agreement(states, Minimax(game, 3), good).share == 1.0
    assert 0 < (measures.agreement(states, random_player, good).share or 0) < 0.7


def test_a_game_without_a_solver_says_so():
    game = games.read("breakthrough")
    with pytest.raises(ConfigError, match="The game breakthrough has no solver"):
        game.perfect_moves(game.start())


# exploitability


def kuhn_equilibrium(alpha: float) -> dict[tuple[int, ...], tuple[float, ...]]:
    """One of the equilibria (Kuhn 1950): alpha in 0 to 1/3 is how often the first player bluffs with the jack."""
    bets = {
        "J": alpha, "Q": 0.0, "K": 3 * alpha, "J pb": 0.0, "Q pb": alpha + 1 / 3, "K pb": 1.0,
        "J p": 1 / 3, "Q p": 0.0, "K p": 1.0, "J b": 0.0, "Q b": 1 / 3, "K b": 1.0,
    }  # fmt: skip

    def policy(state: State) -> tuple[float, ...]:
        assert isinstance(state, kuhn.State)
        line = "".join("pb"[bet] for bet in state.bets)
        bet = bets[f"{kuhn.CARDS[state.cards[state.player]]} {line}".strip()]
        return 1 - bet, bet

    return tabulate(KUHN, policy)


def test_uniform_play_is_as_exploitable_as_known():
    assert exploitability(KUHN, uniform(KUHN)) == pytest.approx(11 / 24)  # 0.458
    assert exploitability(LEDUC, uniform(LEDUC)) == pytest.approx(2.373611, abs=1e-6)
    assert best_response(KUHN, uniform(KUHN), 0) == pytest.approx(1 / 2)
    assert best_response(KUHN, uniform(KUHN), 1) == pytest.approx(5 / 12)


@pytest.mark.parametrize("alpha", [0.0, 0.2, 1 / 3])
def test_equilibria_of_kuhn_cannot_be_exploited(alpha: float):
    table = kuhn_equilibrium(alpha)
    assert exploitability(KUHN, table) == pytest.approx(0, abs=1e-12)
    assert expected_returns(KUHN, (table, table)) == pytest.approx((-1 / 18, 1 / 18))


def test_what_is_no_equilibrium_can_be_exploited():
    table = kuhn_equilibrium(0.2)
    table[0, 3] = (0.9, 0.1)  # the first player bets with the queen now and then
    assert exploitability(KUHN, table) > 0.001


def test_information_sets_are_those_known():
    assert len(equilibrium.information_sets(KUHN)) == 12
    assert len(equilibrium.information_sets(LEDUC)) == 288


def test_cfr_comes_near_equilibria():
    table = cfr(KUHN, 300)
    assert exploitability(KUHN, table) < 0.002
    assert expected_returns(KUHN, (table, table))[0] == pytest.approx(-1 / 18, abs=1e-3)
    few, more = (exploitability(LEDUC, cfr(LEDUC, count)) for count in (5, 40))
    assert more < 0.12 < few


@pytest.mark.slow
def test_cfr_solves_leduc():
    table = cfr(LEDUC, 600)
    assert exploitability(LEDUC, table) < 0.005
    assert expected_returns(LEDUC, (table, table))[0] == pytest.approx(-0.0856, abs=0.001)


def test_the_average_policy_plays_as_a_mixture():
    one, other = kuhn_equilibrium(0.3), uniform(KUHN)
    mixed = average(KUHN, (one, other), (3, 1))
    for opponent in (cfr(KUHN, 3), uniform(KUHN)):
        against_one, against_other = (expected_returns(KUHN, (table, opponent))[0] for table in (one, other))
        expected = 0.75 * against_one + 0.25 * against_other
        assert expected_returns(KUHN, (mixed, opponent))[0] == pytest.approx(expected)
    assert average(KUHN, (one,), (2,)) == {key: pytest.approx(row) for key, row in one.items()} | {
        key: pytest.approx((0.5, 0.5)) for key in _unreached(one)
    }


def _unreached(table: dict[tuple[int, ...], tuple[float, ...]]) -> list[tuple[int, ...]]:
    """Sets where the first player never comes: it always passed or bet before."""
    again = [key for key in table if len(key) == 4]  # card, pass, bet
    return [key for key in again if table[key[:2]][0] == 0]


def test_wrong_policies_are_one_sentence():
    table = uniform(KUHN)
    with pytest.raises(ConfigError, match="The policy for leduc says nothing for 'first J call call common Q'"):
        exploitability(LEDUC, table)
    key = next(iter(table))
    with pytest.raises(ConfigError, match="is no distribution for 'first J': "):
        exploitability(KUHN, table | {(0, 2): (0.5, 0.6)})
    with pytest.raises(ConfigError, match="gives 3 moves, not 2, for"):
        exploitability(KUHN, table | {key: (0.5, 0.25, 0.25)})
    with pytest.raises(ConfigError, match="is no distribution"):
        exploitability(KUHN, table | {key: (float("nan"), 1.0)})
    with pytest.raises(ConfigError, match=r"The game connect4 is not one for exploitability"):
        exploitability(games.read("connect4"), table)
    with pytest.raises(ConfigError, match="CFR of 0 iterations"):
        cfr(KUHN, 0)
    with pytest.raises(ValueError, match="as many weights"):
        average(KUHN, [table], [0.0])


# Elo


def test_elo_of_two_is_the_formula():
    ratings = elo({("strong", "weak"): (75, 0, 25)})
    assert list(ratings) == ["strong", "weak"]
    assert ratings["strong"].elo - ratings["weak"].elo == pytest.approx(190.85, abs=0.01)
    assert ratings["strong"].elo == pytest.approx(-ratings["weak"].elo)
    anchored = elo({("strong", "weak"): (75, 0, 25)}, anchor="weak")
    assert (anchored["weak"].elo, anchored["weak"].half) == pytest.approx((0, 0))
    # the log-odds of a share has the error 1 / sqrt(n p (1 - p))
    assert anchored["strong"].half == pytest.approx(1.95996 * 173.7178 / (100 * 0.75 * 0.25) ** 0.5, rel=1e-4)
    assert anchored["strong"].games == 100


def test_elo_finds_the_ratings_that_made_the_results():
    truth = {"a": 300.0, "b": 120.0, "c": 0.0, "d": -250.0}
    names = list(truth)
    results = {}
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            share = 1 / (1 + 10 ** ((truth[b] - truth[a]) / 400))
            results[a, b] = (1000 * share, 0, 1000 * (1 - share))
    ratings = elo(results, anchor="c")
    for name, value in truth.items():
        assert ratings[name].elo == pytest.approx(value, abs=1e-5)


def test_elo_intervals_hold_the_truth_about_nineteen_times_in_twenty():
    truth = {"a": 150.0, "b": 0.0, "c": -100.0}
    inside = count = 0
    for seed in range(120):
        rng = Random(seed)
        results = {}
        for a, b in (("a", "b"), ("b", "c"), ("a", "c")):
            chance = 1 / (1 + 10 ** ((truth[b] - truth[a]) / 400))
            wins = sum(rng.random() < chance for _ in range(60))
            results[a, b] = (wins, 0, 60 - wins)
        ratings = elo(results, anchor="b")
        for name in ("a", "c"):
            count += 1
            inside += abs(ratings[name].elo - truth[name]) <= ratings[name].half
    assert 0.90 < inside / count <= 0.99


def test_draws_and_orders_of_pairs_add_up():
    one = elo({("a", "b"): (10, 20, 10), ("b", "a"): (0, 0, 10)})
    assert one == elo({("b", "a"): (10, 20, 20)})
    assert one["a"].elo > one["b"].elo


def test_elo_that_cannot_be_is_one_sentence():
    with pytest.raises(ConfigError, match=r"^b has no point against a, also not through others, .*; set a prior\.$"):
        elo({("a", "b"): (10, 0, 0)})
    rated = elo({("a", "b"): (10, 0, 0)}, prior=1)
    assert rated["a"].elo - rated["b"].elo == pytest.approx(528.89, abs=0.01)  # 10.5 to 0.5
    with pytest.raises(ConfigError, match=r"^No games join a and c"):
        elo({("a", "b"): (1, 1, 1), ("c", "d"): (1, 1, 1)})
    with pytest.raises(ConfigError, match=r"The anchor 'e' is unknown"):
        elo({("a", "b"): (1, 1, 1)}, anchor="e")
    with pytest.raises(ConfigError, match="at least two players"):
        elo({})
    with pytest.raises(ConfigError, match="must be games of two players"):
        elo({("a", "b"): (1, -1, 1)})
