"""Games of OpenSpiel through the adapter, and ours against OpenSpiel's rules where it is installed."""

import importlib.util
from random import Random

import pytest

from wren import games
from wren.errors import ConfigError
from wren.games import equilibrium, referee, spiel
from wren.games.game import Game
from wren.games.players import Minimax, random_player
from wren.games.rules import breakthrough
from wren.games.state import CHANCE, OVER, State

needs_open_spiel = pytest.mark.skipif(
    importlib.util.find_spec("pyspiel") is None, reason="needs OpenSpiel: pip install 'wren-llm[games]'"
)
# ours, and OpenSpiel's with the same rules
PAIRS = {
    "tic_tac_toe": "tic_tac_toe",
    "connect4": "connect_four",
    "kuhn": "kuhn_poker",
    "breakthrough:piece_rows=1": "breakthrough(rows=5,columns=5)",
    "nim:heaps=3,4,5": "nim(pile_sizes=3;4;5,is_misere=false)",
    "nim:heaps=2,3:misere=true": "nim(pile_sizes=2;3,is_misere=true)",
    "leduc": "leduc_poker",
}


def their_names(state: spiel.State) -> dict[str, int]:
    """OpenSpiel's legal moves by its own names."""
    inner, player = state._inner, state.player
    return {inner.action_to_string(player, move): move for move in state.legal()}


def our_name(name: str, game: Game, state: State, move: int) -> str:
    """One of our moves as OpenSpiel calls it."""
    if name == "tic_tac_toe":
        return f"{'xo'[state.player]}({move // 3},{move % 3})"
    if name == "connect4":
        return f"{'xo'[state.player]}{move}"
    if name.startswith("nim"):
        heap, taken = divmod(move, game.most)  # type: ignore[attr-defined]
        return f"pile:{heap + 1}, take:{taken + 1};"
    if name.startswith("breakthrough"):
        return breakthrough_name(state, move)
    return {"pass": "Pass", "bet": "Bet"}.get(game.moves[move], game.moves[move].capitalize())


def breakthrough_name(state: State, move: int) -> str:
    """OpenSpiel's first player stands at the top of the board and moves down; a star says that a piece is taken."""
    assert isinstance(state, breakthrough.State)
    start, end = breakthrough.move_cells()[move]
    taken = "*" if (state.white | state.black) >> end & 1 else ""
    return "".join(f"{'abcde'[cell % 5]}{5 - cell // 5}" for cell in (start, end)) + taken


def their_outcome(name: str, state: State, theirs: spiel.State, outcome: int) -> int:
    """A card of ours in OpenSpiel's deck, where Leduc's has two of each."""
    if name == "leduc":
        return next(card for card in theirs.legal() if card // 2 == outcome)
    return outcome


@needs_open_spiel
@pytest.mark.parametrize("name", PAIRS)
def test_our_rules_are_those_of_open_spiel(name: str):
    game, other = games.read(name), games.read(f"open_spiel:{PAIRS[name]}")
    for seed in range(60):
        rng = Random(seed)
        ours, theirs = game.start(), other.start()
        while ours.player != OVER:
            assert theirs.player == ours.player
            if ours.player == CHANCE:
                if name == "leduc":
                    shares = dict.fromkeys(ours.legal(), 0.0)
                    for card, chance in theirs.chances():
                        shares[card // 2] += chance
                    assert ours.chances() == tuple((card, pytest.approx(share)) for card, share in shares.items())
                else:
                    assert ours.chances() == tuple((card, pytest.approx(p)) for card, p in theirs.chances())
                outcome = rng.choice(ours.legal())
                theirs = theirs.play(their_outcome(name, ours, theirs, outcome))
                ours = ours.play(outcome)
                continue
            named = their_names(theirs)
            assert sorted(our_name(name, game, ours, move) for move in ours.legal()) == sorted(named)
            move = rng.choice(ours.legal())
            theirs = theirs.play(named[our_name(name, game, ours, move)])
            ours = ours.play(move)
        assert theirs.player == OVER
        assert ours.returns() == pytest.approx(theirs.returns())


@needs_open_spiel
@pytest.mark.parametrize(("name", "value"), [("kuhn_poker", 11 / 24), ("leduc_poker", 2.373611)])
def test_exploitability_through_the_adapter(name: str, value: float):
    game = spiel.read(name, exact=("exploitability",))
    assert equilibrium.exploitability(game, equilibrium.uniform(game)) == pytest.approx(value, abs=1e-6)


@needs_open_spiel
def test_our_exploitability_is_that_of_open_spiel():
    exploitabilities = pytest.importorskip("open_spiel.python.algorithms.exploitability")
    policies = pytest.importorskip("open_spiel.python.policy")
    pyspiel = pytest.importorskip("pyspiel")
    game, theirs = games.read("kuhn"), pyspiel.load_game("kuhn_poker")
    table = {}
    policy = policies.TabularPolicy(theirs)
    rng = Random(0)
    for key in sorted(equilibrium.information_sets(game)):
        bet = rng.random()
        table[key] = (1 - bet, bet)
        card, line = key[1] - 2, "".join("pb"[token - 5] for token in key[2:])
        policy.policy_for_key(f"{card}{line}")[:] = table[key]
    assert equilibrium.exploitability(game, table) == pytest.approx(exploitabilities.exploitability(theirs, policy))


@needs_open_spiel
@pytest.mark.parametrize("name", ["hex(board_size=3)", "matrix_rps", "dots_and_boxes", "liars_dice", "phantom_ttt"])
def test_any_game_is_played_by_the_referee(name: str):
    game = games.read(f"open_spiel:{name}")
    match = referee.match(game, random_player, random_player, pairs=3)
    assert all(played.end.player == OVER for played in match.games)
    state = game.start()
    while state.player == CHANCE:
        state = state.play(state.legal()[0])
    seen = state.observation(state.player)
    assert seen
    assert all(0 <= token < len(game.tokens) for token in seen)
    assert "Moves: " in state.text(state.player)
    one, other = (state.play(state.legal()[0]) for _ in range(2))
    assert (one, hash(one)) == (other, hash(other))
    assert one != state != state.play(state.legal()[1])


@needs_open_spiel
def test_minimax_and_three_players_through_the_adapter():
    game = games.read("open_spiel:tic_tac_toe")
    assert referee.match(game, Minimax(game, 4), random_player, pairs=3).results()[0] >= 3
    three = games.read("open_spiel:kuhn_poker(players=3)")
    assert len(referee.play(three, [random_player] * 3).returns) == 3
    with pytest.raises(ConfigError, match="takes 3 players, not 2"):
        referee.match(three, random_player, random_player, pairs=1)
    with pytest.raises(ConfigError, match="is not one for exploitability"):
        equilibrium.exploitability(three, {})


@needs_open_spiel
def test_unknown_games_of_open_spiel_are_one_sentence():
    with pytest.raises(ConfigError, match=r"^OpenSpiel's game 'tic_tac_to' is unknown; did you mean 'tic_tac_toe'\?$"):
        games.read("open_spiel:tic_tac_to")
    with pytest.raises(ConfigError, match=r"^OpenSpiel cannot load 'hex\(size=3\)': .*size"):
        games.read("open_spiel:hex(size=3)")


def test_without_open_spiel_a_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(__import__("sys").modules, "pyspiel", None)
    spiel._load.cache_clear()
    with pytest.raises(ConfigError, match=r"need the package open_spiel: pip install 'wren-llm\[games\]'\.$"):
        games.read("open_spiel:chess")
