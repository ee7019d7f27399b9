"""Rules: what holds for every game, and each game against counts, tables and brute force."""

from collections.abc import Iterator
from random import Random

import pytest

from wren import games
from wren.errors import ConfigError
from wren.games import measures
from wren.games.game import Game, dealt, draw_chance, move_by_name, random_opening
from wren.games.rules import breakthrough, connect4, kuhn, leduc, nim, tic_tac_toe
from wren.games.state import CHANCE, OVER, IllegalMove, S

NAMES = games.names()
EVERY = [*NAMES, "breakthrough:piece_rows=1", "nim:heaps=7,7,7,7:misere=true", "nim:heaps=1"]
KUHN_MOVES = {"p": kuhn.PASS, "b": kuhn.BET}
LEDUC_MOVES = {"f": leduc.FOLD, "c": leduc.CALL, "r": leduc.RAISE}


def random_play(game: Game[S], seed: int) -> Iterator[S]:
    """Every position of one random game."""
    rng = Random(seed)
    state = game.start(rng)
    yield state
    while state.player != OVER:
        move = draw_chance(state, rng) if state.player == CHANCE else rng.choice(state.legal())
        state = state.play(move)
        yield state


def test_the_games_are_those_of_the_folder():
    assert NAMES == ["breakthrough", "connect4", "kuhn", "leduc", "nim", "tic_tac_toe"]


@pytest.mark.parametrize("name", EVERY)
def test_random_play_keeps_the_contract(name: str):
    game = games.read(name)
    assert len(set(game.moves)) == len(game.moves)
    assert len(set(game.tokens)) == len(game.tokens)
    longest = 0
    for seed in range(60):
        states = list(random_play(game, seed))
        for state in states:
            legal = state.legal()
            assert list(legal) == sorted(set(legal))
            assert (legal == ()) == (state.player == OVER)
            assert (state.returns() is None) == (state.player != OVER)
            if state.player == CHANCE:
                assert tuple(outcome for outcome, _ in state.chances()) == legal
                assert sum(p for _, p in state.chances()) == pytest.approx(1)
                continue
            assert state.chances() == ()
            assert all(0 <= move < len(game.moves) for move in legal)
            for player in range(2):
                seen = state.observation(player)
                longest = max(longest, len(seen))
                assert all(0 <= token < len(game.tokens) for token in seen)
                assert 0 < max(len(line) for line in state.text(player).split("\n")) <= 120
        returns = states[-1].returns()
        assert returns is not None
        assert sum(returns) == 0
        assert min(returns) >= game.worst
    assert longest <= game.observation_len


@pytest.mark.parametrize("name", EVERY)
def test_positions_are_values(name: str):
    game = games.read(name)
    again = list(random_play(games.read(name), 3))
    once = list(random_play(game, 3))
    assert once == again
    assert [hash(state) for state in once] == [hash(state) for state in again]
    assert len(set(once)) == len(once)


@pytest.mark.parametrize("name", EVERY)
def test_exactly_the_legal_moves_can_be_played(name: str):
    game = games.read(name)
    for seed in range(5):
        for state in random_play(game, seed):
            legal = state.legal()
            for move in range(-2, len(game.moves) + 2):
                if move in legal:
                    assert state.play(move) != state
                else:
                    with pytest.raises(
                        IllegalMove, match=r"^The move \S.* (is not legal here; it can be: |comes after)"
                    ):
                        state.play(move)


@pytest.mark.parametrize("name", NAMES)
def test_moves_are_read_by_name(name: str):
    game = games.read(name)
    state = dealt(game.start(), Random(0))
    for move in state.legal():
        assert move_by_name(game, state, f" {game.moves[move].upper()} ") == move
    with pytest.raises(ConfigError, match=r"Here the move 'nowhere' is unknown.* It can be: "):
        move_by_name(game, state, "nowhere")


@pytest.mark.parametrize("name", ["breakthrough", "connect4", "tic_tac_toe"])
def test_observations_show_the_board_from_both_sides(name: str):
    for state in random_play(games.read(name), 1):
        mine, theirs = state.observation(0), state.observation(1)
        assert (mine[0], theirs[0]) == (0, 1)
        swap = {2: 2, 3: 4, 4: 3}
        assert [swap[token] for token in mine[1:]] == list(theirs[1:])


def test_random_openings_go_on_and_are_drawn():
    game = connect4.Rules()
    starts = {random_opening(game, 4, Random(seed)) for seed in range(50)}
    assert len(starts) > 40
    assert all((state.first | state.second).bit_count() == 4 and state.player == 0 for state in starts)
    with pytest.raises(ConfigError, match="over before 9 random moves"):
        random_opening(games.read("tic_tac_toe"), 9, Random(0))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("conect4", r"^Game 'conect4' is unknown; did you mean 'connect4'\? It can be: .*open_spiel:NAME"),
        (
            "nim:heap=3",
            r"^nim key 'heap' is unknown; did you mean 'heaps'\? It can be: heaps, hold_out, hold_out_seed,",
        ),
        ("nim:heaps=0,3", r"^nim\.heaps is \(0, 3\); give 1 to 26 heaps"),
        ("nim:heaps=two", r"must be a number"),
        ("breakthrough:piece_rows=3", r"^breakthrough\.piece_rows is 3; it must be 1 or 2\."),
        ("nim:hold_out=1", r"^nim\.hold_out is 1\.0; it must lie in 0 to 0\.9\."),
        ("kuhn:cards=4", r"^The game kuhn has no settings, so 'cards=4' cannot be set"),
    ],
)
def test_unknown_games_and_settings_are_one_sentence(text: str, says: str):
    with pytest.raises(ConfigError, match=says):
        games.read(text)


# tic-tac-toe


def test_tic_tac_toe_has_255168_games_and_5478_positions():
    game = games.read("tic_tac_toe")
    assert measures.count_games(game.start(), {}) == 255_168
    found = measures.positions(game)
    assert len(found) == 5_478
    ends = [state.returns() for state in found if state.player == OVER]
    assert (ends.count((1.0, -1.0)), ends.count((-1.0, 1.0)), ends.count((0.0, 0.0))) == (626, 316, 16)


def test_tic_tac_toe_looks_like_its_board():
    state = tic_tac_toe.State()
    for name in ("a3", "b2", "c1"):
        state = state.play(tic_tac_toe.MOVES.index(name))
    assert state.text(1) == "You are O. It is your move.\n3 X . .\n2 . O .\n1 . . X\n  a b c"


# connect-4


def test_connect4_perft():
    start = connect4.State()
    assert [measures.perft(start, plies) for plies in range(6)] == [1, 7, 49, 343, 2401, 16807]


@pytest.mark.slow
def test_connect4_perft_to_seven_plies():
    assert [measures.perft(connect4.State(), plies) for plies in (6, 7)] == [117_649, 823_536]


def four_by_cells(stones: int) -> bool:
    """Lines of four by walking over rows and columns."""
    has = {(c // 7, c % 7) for c in range(49) if stones >> c & 1}
    return any(
        all((x + k * dx, y + k * dy) in has for k in range(4))
        for x, y in has
        for dx, dy in ((1, 0), (0, 1), (1, 1), (1, -1))
    )


def test_connect4_finds_fours_and_the_cells_that_make_them():
    for seed in range(400):
        rng = Random(seed)
        taken = sum((1 << rng.randint(0, 6)) - 1 << 7 * column for column in range(7))
        stones = taken & (rng.getrandbits(49) | rng.getrandbits(49) & rng.getrandbits(49))
        board = connect4._BOARD
        assert connect4.has_four(stones) == four_by_cells(stones)
        if connect4.has_four(stones):
            continue
        cells = sum(1 << c for c in range(49) if board & ~taken & 1 << c and four_by_cells(stones | 1 << c))
        assert connect4.winning_cells(stones, taken) == cells


def test_connect4_ends_with_a_full_board():
    state = connect4.State()
    for column in "441365675334466335442232661515577771217122":
        state = state.play(connect4.MOVES.index(column))
    assert (state.player, state.returns()) == (OVER, (0.0, 0.0))


# breakthrough


def breakthrough_moves(cells: dict[tuple[int, int], str], mover: str) -> list[str]:
    """Legal moves by name from a board of letters."""
    ahead = 1 if mover == "w" else -1
    found = []
    for (x, y), piece in cells.items():
        for dx in (-1, 0, 1):
            end = (x + dx, y + ahead)
            free = end not in cells if dx == 0 else cells.get(end) != mover
            if piece == mover and 0 <= end[0] < 5 and 0 <= end[1] < 5 and free:
                found.append(f"{'abcde'[x]}{y + 1}{'abcde'[end[0]]}{end[1] + 1}")
    return sorted(found)


def board_of(state: breakthrough.State) -> dict[tuple[int, int], str]:
    sides = (("w", state.white), ("b", state.black))
    return {(c % 5, c // 5): side for side, cells in sides for c in range(25) if cells >> c & 1}


def brute_perft(cells: dict[tuple[int, int], str], mover: str, plies: int) -> int:
    if plies == 0:
        return 1
    total = 0
    other, goal = ("b", 4) if mover == "w" else ("w", 0)
    for name in breakthrough_moves(cells, mover):
        start, end = ("abcde".index(name[0]), int(name[1]) - 1), ("abcde".index(name[2]), int(name[3]) - 1)
        after = {place: piece for place, piece in cells.items() if place != start} | {end: mover}
        is_over = end[1] == goal or other not in after.values()
        total += brute_perft(after, other, plies - 1) if not is_over else plies == 1
    return total


def test_breakthrough_perft_is_that_of_brute_force():
    start = breakthrough.Rules().start()
    expected = [brute_perft(board_of(start), "w", plies) for plies in range(1, 4)]
    assert [measures.perft(start, plies) for plies in range(1, 4)] == expected
    assert expected[0] == 13


def test_breakthrough_moves_are_those_of_brute_force_all_along():
    names = breakthrough.move_names()
    for seed in range(40):
        for state in random_play(breakthrough.Rules(), seed):
            if state.player != OVER:
                assert sorted(names[m] for m in state.legal()) == breakthrough_moves(
                    board_of(state), "wb"[state.player]
                )


def test_breakthrough_is_won_by_arriving_and_by_taking_all():
    names = breakthrough.move_names()
    arriving = breakthrough.State(1 << 15, 1 << 24).play(names.index("a4b5"))
    assert (arriving.player, arriving.returns()) == (OVER, (1.0, -1.0))
    taking = breakthrough.State(1 << 8, 1 << 12, 1).play(names.index("c3d2"))
    assert (taking.player, taking.returns()) == (OVER, (-1.0, 1.0))


# nim


@pytest.mark.parametrize("misere", [False, True])
def test_nim_perfect_moves_are_those_of_full_search(misere: bool):
    game = nim.Rules(heaps=(3, 4, 5), misere=misere)
    memory: dict[nim.State, bool] = {}

    def wins(state: nim.State) -> bool:
        """Whether the player to move does, from the rules alone."""
        if state not in memory:
            outcomes = []
            for move in state.legal():
                after = state.play(move)
                returns = after.returns()
                outcomes.append(returns[state.player] > 0 if returns else not wins(after))
            memory[state] = any(outcomes)
        return memory[state]

    for state in game.positions():
        good = []
        for move in state.legal():
            after = state.play(move)
            returns = after.returns()
            if returns[state.player] > 0 if returns else not wins(after):
                good.append(move)
        assert game.perfect_moves(state) == (tuple(good) or state.legal())


def test_nim_moves_and_digits():
    game = nim.Rules(heaps=(3, 4, 5))
    assert game.moves[:6] == ("a1", "a2", "a3", "a4", "a5", "b1")
    assert game.start().observation(0) == (0, 1, 1, 1, 0, 0, 1, 0, 1)
    assert [game.moves[move] for move in game.perfect_moves(game.start())] == ["a2"]
    with pytest.raises(ConfigError, match=r"Nim heaps \(1, 2\) do not fit: it takes 3 of 0 to 5 things"):
        game.position((1, 2))


def test_nim_holds_positions_out_for_tests():
    game = nim.Rules(heaps=(7, 7, 7), hold_out=0.25)
    kept, others = list(game.positions(held_out=True)), list(game.positions(held_out=False))
    assert len(kept) + len(others) == 8**3 - 1 == len(list(game.positions()))
    assert 0.1 < len(kept) / 511 < 0.4
    heaps = {tuple(sorted(state.heaps)) for state in kept}
    assert all((tuple(sorted(state.heaps)) in heaps) == game.is_held_out(state) for state in [*kept, *others])
    rng = Random(0)
    assert not any(game.is_held_out(game.start(rng)) for _ in range(300))
    assert game.start() == game.position((7, 7, 7))
    other = nim.Rules(heaps=(7, 7, 7), hold_out=0.25, hold_out_seed=1).positions(held_out=True)
    shared = {state.heaps for state in kept} & {state.heaps for state in other}
    assert len(shared) < 0.6 * len(kept)


# poker


def kuhn_state(cards: str, bets: str) -> kuhn.State:
    state = kuhn.State()
    for card in cards:
        state = state.play(kuhn.CARDS.index(card))
    for bet in bets:
        state = state.play(KUHN_MOVES[bet])
    return state


@pytest.mark.parametrize(
    ("cards", "bets", "first"),
    [
        ("KQ", "pp", 1),
        ("JQ", "pp", -1),
        ("JK", "bp", 1),
        ("KJ", "pbp", -1),
        ("QJ", "bb", 2),
        ("QK", "bb", -2),
        ("KQ", "pbb", 2),
        ("JQ", "pbb", -2),
    ],
)
def test_kuhn_pays_by_the_table(cards: str, bets: str, first: int):
    state = kuhn_state(cards, bets)
    assert (state.player, state.returns()) == (OVER, (first, -first))


def test_kuhn_goes_on_where_the_table_says_so():
    for bets, player in (("", 0), ("p", 1), ("b", 1), ("pb", 0)):
        state = kuhn_state("JK", bets)
        assert (state.player, state.legal()) == (player, (0, 1))
    assert kuhn_state("J", "").legal() == (1, 2)


def test_kuhn_hides_the_other_card():
    for bets in ("", "p", "pb"):
        assert kuhn_state("JQ", bets).observation(0) == kuhn_state("JK", bets).observation(0)
        assert kuhn_state("JQ", bets).text(0) == kuhn_state("JK", bets).text(0)
        assert kuhn_state("JQ", bets).observation(0) != kuhn_state("QJ", bets).observation(0)


def leduc_state(deal: str, line: str) -> leduc.State:
    """deal: both cards and the common one. line: moves, "/" between the rounds."""
    state = leduc.State()
    cards = iter(deal)
    for sign in line:
        while state.player == CHANCE:
            state = state.play(leduc.CARDS.index(next(cards)))
        state = state if sign == "/" else state.play(LEDUC_MOVES[sign])
    return state


@pytest.mark.parametrize(
    ("deal", "line", "first"),
    [
        ("KQ", "rf", 1),
        ("JQ", "crf", -1),
        ("JQ", "crrf", 3),
        ("KQJ", "cc/cc", 1),
        ("KQQ", "cc/cc", -1),
        ("KKJ", "cc/cc", 0),
        ("JQJ", "rc/rc", 7),
        ("JQK", "rrc/crrc", -13),
        ("QKJ", "rrc/rf", 5),
        ("QKQ", "cc/rrf", -5),
        ("QKQ", "cc/crf", -1),
    ],
)
def test_leduc_pays_by_the_table(deal: str, line: str, first: int):
    state = leduc_state(deal, line)
    assert (state.player, state.returns()) == (OVER, (first, -first))


@pytest.mark.parametrize(
    ("line", "player", "moves"),
    [
        ("", 0, "cr"),
        ("c", 1, "cr"),
        ("r", 1, "fcr"),
        ("rr", 0, "fc"),
        ("cr", 0, "fcr"),
        ("crr", 1, "fc"),
        ("cc/", 0, "cr"),
        ("cc/c", 1, "cr"),
        ("rc/rr", 0, "fc"),
    ],
)
def test_leduc_allows_by_the_table(line: str, player: int, moves: str):
    state = dealt(leduc_state("KQJ", line), Random(0))
    assert (state.player, state.legal()) == (player, tuple(LEDUC_MOVES[move] for move in moves))


def test_leduc_deals_by_what_is_left_and_hides_the_other_card():
    assert leduc.State().chances() == ((0, 1 / 3), (1, 1 / 3), (2, 1 / 3))
    assert leduc.State().play(0).chances() == ((0, 1 / 5), (1, 2 / 5), (2, 2 / 5))
    assert leduc_state("JJQ", "cc").chances() == ((1, 2 / 4), (2, 2 / 4))
    for line in ("c", "rr", "cc/c"):
        one, other = leduc_state("JQK", line), leduc_state("JKK", line)
        assert one.observation(0) == other.observation(0)
        assert one.text(0) == other.text(0)
        assert one.observation(1) != other.observation(1)
