"""`wren play --game` as its user has it: learning, matches, a person at the terminal, mistakes."""

import io
import json
from pathlib import Path

import numpy as np
import pytest

from wren import cli
from wren.errors import CheckpointError, ConfigError
from wren.games.players import Minimax
from wren.games.referee import match
from wren.rl import game_run
from wren.rl.game_net import PolicyPlayer, SearchPlayer
from wren.rl.game_player import open_generation, open_player
from wren.rl.game_settings import read_game
from wren.rl.game_tokens import GameTokens

SMALL = (
    "model.depth=1", "selfplay.games=12", "selfplay.at_once=8", "selfplay.updates=3", "selfplay.window=2",
    "selfplay.measure_every=2", "search.simulations=6", "train.batch_size=16", "selfplay.league=0.5",
    "selfplay.league_games=4", "selfplay.rivals=1",
)  # fmt: skip


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three tiny generations of tic-tac-toe."""
    folder = tmp_path_factory.mktemp("played")
    line = ["play", "--game", "tic_tac_toe", "--run", str(folder / "run"), "--generations", "3", "--device", "cpu"]
    assert cli.main([*line, "--set", *SMALL, "--json", str(folder / "found.json")]) == 0
    found = json.loads((folder / "found.json").read_text())
    assert found["losing_lines"] > 0
    assert found["generations"] == 3
    assert found["game"] == "tic_tac_toe"
    return folder / "run"


def test_a_run_of_self_play_is_an_ordinary_run(played: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (played / "league.png").exists()
    assert (played / "result.json").exists()
    tokens, game = GameTokens(read_game("tic_tac_toe")), read_game("tic_tac_toe")
    prompt = bytes(tokens.rows([game.start()])[0, 1:].tolist()).decode()
    assert cli.main(["sample", "--run", str(played), "--prompt", prompt, "--max-tokens", "1", "--device", "cpu"]) == 0
    assert capsys.readouterr().out.startswith(prompt)


def test_the_same_command_measures_a_complete_run_again(played: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["play", "--game", "tic_tac_toe", "--run", str(played), "--generations", "3", "--device", "cpu", "--set"]
    assert cli.main([*line, *SMALL]) == 0
    assert "complete already" in capsys.readouterr().out
    assert cli.main([*line, *SMALL, "search.simulations=7"]) == 2
    assert "search.simulations = 6, and now it is 7" in capsys.readouterr().err


def test_a_match_and_a_person_at_the_terminal(
    played: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["play", "--game", "tic_tac_toe", "--run", str(played), "--device", "cpu"]
    out = tmp_path / "match.json"
    options = ["--against", "minimax:2", "--games", "10", "--opening", "2", "--budget", "8", "--json", str(out)]
    assert cli.main([*line, *options]) == 0
    found = json.loads(out.read_text())
    assert found["games"] == 10 == found["wins"] + found["draws"] + found["losses"]
    assert "scores" in capsys.readouterr().out
    monkeypatch.setattr("sys.stdin", io.StringIO("z9\nb2\nquit\n"))
    assert cli.main([*line, "--human", "--budget", "4"]) == 0
    text = capsys.readouterr().out
    assert "z9" in text
    assert "The other player moves" in text
    assert "Left the game" in text
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert cli.main(["play", "--game", "kuhn", "--human", "--against", "random"]) == 0


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("--game conect4 --run {new}", "connect4"),
        ("--game kuhn --run {new} --learn search", "hidden"),
        ("--game connect4 --run {new} --learn magnet", "hidden cards"),
        ("--game tic_tac_toe", "--run"),
        ("--game tic_tac_toe --task chain_sum --run {new}", "one of them"),
        ("--game tic_tac_toe --run {new} --generations 2 --time 10s", "exclude"),
        ("--game tic_tac_toe --run {new} --set selfplay.gmaes=3", "games"),
        ("--game tic_tac_toe --run {new} --set games=3", "KEY=VALUE"),
        ("--game tic_tac_toe --run {new} --set selfplay.illegal=lose", "reinforce"),
        ("--game tic_tac_toe --run {new} --budget 5", "--human or --against"),
        ("--game connect4 --run {run} --against random", "has learned tic_tac_toe"),
        ("--game tic_tac_toe --run {run} --against minimax", "minimax:4"),
        ("--game tic_tac_toe --run {run} --against random --games 3", "even number"),
        ("--game tic_tac_toe --run {run} --against random --budget -1", "--budget is -1"),
        ("--game tic_tac_toe --run {new} --human", "not a run directory"),
        ("--game tic_tac_toe --run {run} --against random --human", "one of them"),
    ],
)
def test_mistakes_are_one_sentence(
    played: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], line: str, says: str
) -> None:
    words = [word.format(new=tmp_path / "new", run=played) for word in line.split()]
    assert cli.main(["play", *words, "--device", "cpu"]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert "Traceback" not in error
    assert not (tmp_path / "new").exists()


def test_a_dry_run_writes_nothing_and_a_time_becomes_generations(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(game_run, "curve", lambda run: run.path)
    line = ["play", "--game", "nim:heaps=1,2", "--run", str(tmp_path / "run"), "--time", "2s", "--device", "cpu"]
    assert cli.main([*line, "--dry-run"]) == 0
    assert "Would learn nim" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()
    assert cli.main([*line, "--set", *SMALL]) == 0
    text = capsys.readouterr().out
    assert "A generation takes" in text
    stored = json.loads((tmp_path / "run" / "config.json").read_text())
    assert stored["train"]["steps"] == 3 * stored["generations"]
    assert stored["time_budget"] == 2.0
    assert cli.main([*line, "--set", *SMALL]) == 0  # goes on with what was measured


def test_opened_players_search_or_play_alone(played: Path) -> None:
    game = read_game("tic_tac_toe")
    alone, deep = (open_player(played, game, budget, "cpu") for budget in (0, 60))
    assert isinstance(alone, PolicyPlayer)
    assert isinstance(deep, SearchPlayer)
    assert np.mean(match(game, deep, Minimax(game, 1), pairs=10, opening=2).points) > 0.5
    (played.parent / "other").mkdir()
    (played.parent / "other" / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match="no run of self-play"):
        open_player(played.parent / "other", game, 0, "cpu")


def test_a_past_generation_can_be_played(played: Path) -> None:
    game = read_game("tic_tac_toe")
    assert isinstance(open_generation(played, 2, game, "cpu"), PolicyPlayer)
    with pytest.raises(CheckpointError, match="keeps no generation 1 in its league; it keeps 0, 2, 3"):
        open_generation(played, 1, game, "cpu")
