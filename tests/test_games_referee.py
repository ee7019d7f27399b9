"""The referee, its players, a person at the terminal, and matches in numbers."""

from collections.abc import Sequence
from random import Random

import pytest

from wren import games
from wren.errors import ConfigError
from wren.evals.matches import score
from wren.games import players, referee
from wren.games.game import random_opening
from wren.games.human import Human, Left
from wren.games.players import ManyPlayer, Minimax, Perfect, random_player
from wren.games.rules import connect4, kuhn
from wren.games.search import WIN, best_moves, perfect_moves
from wren.games.state import OVER, State

TIC_TAC_TOE = games.read("tic_tac_toe")
KUHN = games.read("kuhn")


def first_legal(state: State, rng: Random) -> int:
    return state.legal()[0]


class Last:
    """An object that plays."""

    def choose(self, state: State, rng: Random) -> int:
        return state.legal()[-1]


class Crowd(ManyPlayer):
    """Random, many at once; remembers how many."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def choose_many(self, states: Sequence[State], rngs: Sequence[Random]) -> list[int]:
        self.asked.append(len(states))
        return [rng.choice(state.legal()) for state, rng in zip(states, rngs, strict=True)]


def cheat(state: State, rng: Random) -> int:
    """Always the top left cell."""
    return 0


def test_functions_objects_and_crowds_play():
    played = referee.play(TIC_TAC_TOE, (first_legal, Last()))
    assert played.moves == ((0, 0), (1, 8), (0, 1), (1, 7), (0, 2))
    assert (played.returns, played.illegal, played.forfeit) == ((1.0, -1.0), (0, 0), None)
    crowd = Crowd()
    match = referee.match(TIC_TAC_TOE, crowd, first_legal, pairs=8)
    assert crowd.asked[0] == 8
    assert sum(crowd.asked) == sum(who == i % 2 for i, game in enumerate(match.games) for who, _ in game.moves)
    together = Crowd()
    referee.match(TIC_TAC_TOE, together, together, pairs=8)
    assert together.asked[0] == 16


def test_a_crowd_plays_as_one_by_one():
    whole = referee.match(KUHN, Crowd(), random_player, pairs=20, seed=3)
    single = referee.match(KUHN, random_player, random_player, pairs=20, seed=3)
    parts = referee.match(KUHN, Crowd(), random_player, pairs=20, seed=3, at_once=7)
    assert whole == single == parts
    assert whole != referee.match(KUHN, Crowd(), random_player, pairs=20, seed=4)


def test_pairs_share_opening_and_deals_with_seats_changed():
    match = referee.match(KUHN, random_player, first_legal, pairs=30)
    for one, other in zip(match.games[::2], match.games[1::2], strict=True):
        assert isinstance(one.end, kuhn.State)
        assert isinstance(other.end, kuhn.State)
        assert one.end.cards == other.end.cards
    assert len({game.moves[:2] for game in match.games}) == 6
    match = referee.match(TIC_TAC_TOE, random_player, random_player, pairs=10, opening=3)
    assert all(one.start == other.start for one, other in zip(match.games[::2], match.games[1::2], strict=True))
    assert {game.start.player for game in match.games} == {1}


def test_a_player_against_itself_is_even_over_pairs():
    match = referee.match(games.read("connect4"), first_legal, first_legal, pairs=5, opening=4)
    result = score(match)
    assert (result.share, result.mean_return, result.paired) == (0.5, 0.0, (0.5, 0.5))


def test_illegal_moves_lose():
    played = referee.play(TIC_TAC_TOE, (cheat, cheat), illegal="lose")
    assert (played.returns, played.illegal, played.forfeit) == ((1.0, -1.0), (0, 1), 1)
    assert len(played.moves) == 1


def test_illegal_moves_are_masked():
    played = referee.play(TIC_TAC_TOE, (cheat, first_legal), illegal="mask", seed=1)
    assert played.forfeit is None
    assert played.end.player == OVER
    assert played.illegal == (sum(who == 0 for who, _ in played.moves) - 1, 0)


def test_illegal_moves_are_refused_and_asked_again():
    def stubborn(state: State, rng: Random) -> int:
        return rng.choice((0, 99, state.legal()[-1]))

    played = referee.play(TIC_TAC_TOE, (stubborn, first_legal), illegal="refuse", seed=2)
    assert played.forfeit is None
    assert played.illegal[0] > 0
    lost = referee.play(TIC_TAC_TOE, (first_legal, cheat), illegal="refuse")
    assert (lost.illegal, lost.forfeit, lost.returns) == ((0, 10), 1, (1.0, -1.0))


def test_a_forfeit_costs_the_most_that_can_be_lost():
    played = referee.play(games.read("leduc"), (lambda state, rng: 7, random_player))
    assert played.returns == (-13.0, 13.0)


@pytest.mark.parametrize("name", games.names())
def test_every_game_is_played_through(name: str):
    game = games.read(name)
    match = referee.match(game, random_player, random_player, pairs=10, opening=0)
    assert sum(match.illegal) == 0
    assert all(game.end.player == OVER for game in match.games)
    assert sum(match.results()) == 20


def test_numbers_of_a_match():
    match = referee.match(TIC_TAC_TOE, Perfect(TIC_TAC_TOE), random_player, pairs=40)
    result = score(match)
    assert result.losses == 0
    assert result.share == pytest.approx((result.wins + result.draws / 2) / 80)
    assert result.wilson[0] < result.share < result.wilson[1]
    assert result.paired is not None
    assert result.paired[0] < result.share < result.paired[1]
    assert result.seats[0][0] + result.seats[1][0] == result.wins
    assert result.text("perfect", "random").startswith(f"perfect scores {result.share:.1%} against random (95 % ")
    assert result.text("perfect", "random").endswith("lost of 80).")
    cheating = score(referee.match(TIC_TAC_TOE, cheat, first_legal, pairs=1))
    assert cheating.text("A", "B").endswith("; A made 2 illegal moves.")
    assert cheating.paired is None


def test_wrong_matches_are_one_sentence():
    with pytest.raises(ConfigError, match=r"takes 2 players, not 1\.$"):
        referee.play(TIC_TAC_TOE, (random_player,))
    with pytest.raises(ConfigError, match=r"'loose' is unknown; did you mean 'lose'\?"):
        referee.play(TIC_TAC_TOE, (random_player, random_player), illegal="loose")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="at least 1 pair"):
        referee.match(TIC_TAC_TOE, random_player, random_player, pairs=0)
    with pytest.raises(ValueError, match="0 moves for 1 positions"):
        referee.play(TIC_TAC_TOE, (Mute(), random_player))


class Mute(ManyPlayer):
    def choose_many(self, states: Sequence[State], rngs: Sequence[Random]) -> list[int]:
        return []


# search


def plain_minimax(state: State, player: int, depth: int, game: games.Game) -> int:
    """Without pruning: the worth to the player."""
    if state.player == OVER:
        won = (state.returns() or ())[player]
        return 0 if won == 0 else WIN + depth if won > 0 else -WIN - depth
    if depth == 0:
        return game.evaluate(state) if state.player == player else -game.evaluate(state)
    worths = [plain_minimax(state.play(move), player, depth - 1, game) for move in state.legal()]
    return max(worths) if state.player == player else min(worths)


@pytest.mark.parametrize(
    ("name", "plies", "depth"),
    [("tic_tac_toe", 3, 4), ("connect4", 12, 3), ("connect4", 30, 3), ("breakthrough", 12, 2), ("nim", 1, 4)],
)
def test_alpha_beta_is_minimax(name: str, plies: int, depth: int):
    game = games.read(name)
    for seed in range(6):
        state = random_opening(game, plies, Random(seed))
        worths = {m: plain_minimax(state.play(m), state.player, depth - 1, game) for m in state.legal()}
        best = max(worths.values())
        expected = best, tuple(move for move, worth in worths.items() if worth == best)
        assert best_moves(state, depth, game.evaluate) == expected
        assert game.best_moves(state, depth) == expected


def test_connect4_search_on_bits_is_the_common_one():
    game = games.read("connect4")
    for seed in range(12):
        state = random_opening(game, 4 + 2 * seed, Random(seed))
        for depth in (1, 2, 4):
            assert game.best_moves(state, depth) == best_moves(state, depth, game.evaluate)


def test_connect4_proves_late_positions_with_memory():
    game = games.read("connect4")
    for seed in range(6):
        state = random_opening(game, 32, Random(seed))
        worth, moves = game.best_moves(state, 42)
        plain, plain_moves = best_moves(state, 42, game.evaluate)
        assert (worth, moves) == (plain, plain_moves)


def test_connect4_memory_changes_no_worth():
    memory: connect4.Memory = {}
    for seed in range(6):
        state = random_opening(connect4.Rules(), 10, Random(seed))
        memory.clear()
        for window in ((-2, 2), (-20, 20), (-2 * WIN, 2 * WIN)):
            for column in state.legal():
                board = state.first, state.second, column, 6, *window
                low, high = window
                plain, kept = connect4._dropped(*board, None), connect4._dropped(*board, memory)
                assert min(max(plain, low), high) == min(max(kept, low), high)


def test_connect4_proofs_keep_what_a_position_is_worth():
    game = games.read("connect4")
    for seed in range(8):
        state = random_opening(game, 30, Random(seed))
        assert game.perfect_moves(state) == perfect_moves(state, {})
    with pytest.raises(ConfigError, match=r"^Connect-4 is proved from 16 stones on, not with 6; play more moves first"):
        game.perfect_moves(random_opening(game, 6, Random(0)))


def test_connect4_minimax_takes_a_win_and_stops_one():
    stones = connect4.State()
    for column in "172737":
        stones = stones.play(connect4.MOVES.index(column))
    minimax = Minimax(games.read("connect4"), 2)
    assert minimax.choose(stones, Random(0)) == 3
    blocked = stones.play(5)
    assert minimax.choose(blocked, Random(0)) == 6  # four of its own come before stopping the other's


def test_minimax_beats_random_play():
    for name in ("connect4", "breakthrough"):
        game = games.read(name)
        match = referee.match(game, Minimax(game, 2), random_player, pairs=8, opening=2)
        assert match.results()[0] >= 15


def test_perfect_tic_tac_toe_players_draw_and_do_not_lose():
    perfect = Perfect(TIC_TAC_TOE)
    assert referee.match(TIC_TAC_TOE, perfect, perfect, pairs=10).results() == (0, 20, 0)
    assert referee.match(TIC_TAC_TOE, Minimax(TIC_TAC_TOE, 9), perfect, pairs=4).results() == (0, 8, 0)


@pytest.mark.parametrize(
    ("text", "game", "says"),
    [
        ("minmax:3", "connect4", r"Player 'minmax' is unknown; did you mean 'minimax:DEPTH'\?"),
        ("minimax", "connect4", r"Minimax needs the plies that it looks ahead, as in minimax:4, not 'minimax'\."),
        ("minimax:0", "connect4", r"look at least 1 ply ahead"),
        ("minimax:2", "kuhn", r"Minimax cannot play kuhn, where cards are hidden"),
        ("perfect", "connect4", r"The game connect4 is not one for perfect play; what can be asked of it: nothing"),
        ("random:3", "nim", r"The player random has no settings; leave out ':3'\."),
    ],
)
def test_wrong_players_are_one_sentence(text: str, game: str, says: str):
    with pytest.raises(ConfigError, match=says):
        players.read(text, games.read(game))


def test_players_are_read_by_name():
    assert players.read("random", KUHN) is random_player
    assert isinstance(players.read("perfect", TIC_TAC_TOE), Perfect)
    minimax = players.read("minimax:3", games.read("breakthrough"))
    assert isinstance(minimax, Minimax)
    assert minimax.depth == 3


# a person


class Typist:
    """Lines of a person, and what is shown."""

    def __init__(self, *lines: str | type[BaseException] | None) -> None:
        self.waiting, self.shown = list(lines), []

    def line(self, prompt: str) -> str | None:
        self.shown.append(prompt)
        line = self.waiting.pop(0)
        if isinstance(line, type):
            raise line
        return line


def human(typist: Typist, name: str = "tic_tac_toe") -> Human:
    return Human(games.read(name), typist.line, typist.shown.append)


def test_a_person_plays_a_game():
    typist = Typist("A3", "z9", "a3", "?", "", " b3 ", "c3")
    person = human(typist)

    def low(state: State, rng: Random) -> int:
        return state.legal()[-1]

    played = referee.play(TIC_TAC_TOE, (person, low), watch=person.watch(0))
    assert played.returns == (1.0, -1.0)
    assert played.illegal == (0, 0)
    shown = "\n".join(typist.shown)
    assert "You are X. It is your move." in shown
    assert "Here the move 'z9' is unknown" in shown
    assert "Here the move 'a3' is unknown; did you mean" in shown
    assert "Moves: b3, c3" in shown
    assert "The other player moves: c1." in shown
    assert "X has won." in typist.shown[-1]


@pytest.mark.parametrize("end", [None, KeyboardInterrupt, EOFError, "quit", "Q"])
def test_a_person_leaves(end: str | type[BaseException] | None):
    person = human(Typist("b2", end))
    with pytest.raises(Left):
        referee.play(TIC_TAC_TOE, (person, first_legal))


def test_a_person_is_not_shown_the_other_card():
    typist = Typist(*["pass"] * 2)
    person = human(typist, "kuhn")
    referee.play(KUHN, (person, lambda state, rng: kuhn.BET), watch=person.watch(0))
    assert "The other player moves: bet." in typist.shown
    assert "The other card: not shown. You lose 1." in typist.shown[-1]


def test_a_long_list_of_moves_is_shown_when_asked_for():
    typist = Typist("?", "a2a3")
    human(typist, "breakthrough").choose(games.read("breakthrough").start(), Random(0))
    assert typist.shown[1] == "Your move (? lists them): "
    assert typist.shown[2].startswith("Moves: a2a3, a2b3, ")
