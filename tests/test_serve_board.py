"""The board of a game over HTTP and in a browser: whole games, every mistake, and a page that can be clicked."""

import importlib.util
import shutil
from collections.abc import Iterator
from random import Random
from typing import Any

import httpx
import pytest
import serve_parts as parts
import torch
from serve_parts import Hosted

from wren import games
from wren.errors import ConfigError
from wren.games.game import move_by_name
from wren.mixers import attention
from wren.mlps import relu2
from wren.model import ModelConfig
from wren.rl.game_net import Net
from wren.rl.game_tokens import GameTokens
from wren.run import Run
from wren.serve.board import MAX_BUDGET, BoardRequest, Table, table_of

CHROMIUM = shutil.which("chromium")
INSTALLED = importlib.util.find_spec("playwright") is not None
in_browser = pytest.mark.skipif(not (CHROMIUM and INSTALLED), reason="needs playwright and Debian's chromium")


def table(name: str) -> Table:
    game = games.read(name)
    tokens = GameTokens(game)
    torch.manual_seed(0)
    model = ModelConfig(
        vocab_size=tokens.tokenizer.vocab_size, dim=16, depth=1, mixers=(attention.Config(num_heads=2),),
        mlp=relu2.Config(),
    ).build()  # fmt: skip
    return Table(game, Net(model.eval(), tokens))


@pytest.fixture(scope="module")
def server() -> Iterator[Hosted]:
    with parts.hosted(parts.loaded(), table=table("tic_tac_toe")) as running:
        yield running


def board(server: Hosted, **body: Any) -> httpx.Response:
    return httpx.post(f"{server.url}/v1/board", json=body, timeout=60)


@pytest.mark.parametrize("name", ["tic_tac_toe", "connect4", "breakthrough", "nim"])
@pytest.mark.parametrize("seat", [0, 1])
@pytest.mark.parametrize("budget", [0, 4])
def test_whole_games_are_those_of_the_rules(name, seat, budget):
    """What the server says after every answer is what the rules say of the same moves."""
    here, rng = table(name), Random(seat)
    found = here.after(BoardRequest(seat=seat, budget=budget))
    while not found.over:
        move = rng.choice(found.legal)
        found = here.after(BoardRequest(moves=[*found.moves, move], seat=seat, budget=budget))
    state = here.game.start()
    for each in found.moves:
        state = state.play(move_by_name(here.game, state, each))
    returns = state.returns()
    assert returns is not None
    assert found.won == (returns[seat] > 0) - (returns[seat] < 0)
    assert found.legal == []
    assert found.text == state.text(seat)


def test_the_board_is_read_off_the_position():
    found = table("tic_tac_toe").after(BoardRequest(moves=["a3"]))
    assert found.columns == ["a", "b", "c"]
    assert [row.label for row in found.rows] == ["3", "2", "1"]
    assert found.rows[0].cells[0] == "X"
    assert sum(cell == "O" for row in found.rows for cell in row.cells) == 1
    four = table("connect4").after(BoardRequest(moves=["4"]))
    assert len(four.rows) == 6
    assert four.columns == list("1234567")
    assert table("nim").after(BoardRequest()).rows == []


def test_a_move_and_its_answer_over_http(server):
    found = board(server, moves=["b2"], budget=8)
    assert found.status_code == 200
    assert len(found.json()["moves"]) == 2
    assert board(server, moves=["b2"], budget=8).json() == found.json()
    assert board(server, seat=1).json()["moves"] != []


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({"moves": ["b2", "b2"]}, "Move 2"),
        ({"moves": ["z9"]}, "Move 1"),
        ({"seat": 2}, "seat"),
        ({"budget": MAX_BUDGET + 1}, "budget"),
        ({"moves": "b2"}, "moves"),
        ({"move": ["b2"]}, "move"),
        ({"moves": ["a3", "b3", "a2", "b2", "a1", "c3"]}, "Move 6"),
    ],
    ids=str,
)
def test_mistakes_are_told(server, body, sentence):
    found = board(server, **body)
    assert found.status_code == 400
    assert sentence in found.json()["error"]["message"]


def test_a_chat_has_no_board():
    with parts.hosted(parts.loaded()) as server:
        assert board(server).status_code == 404
        assert "draft" in httpx.get(server.url).text


def test_a_run_that_plays_no_game_has_no_table(tmp_path):
    run = Run(tmp_path / "run")
    run.create({"model": {}})
    assert table_of(run, "cpu") is None
    hidden = Run(tmp_path / "hidden")
    hidden.create({"game": "kuhn"})
    with pytest.raises(ConfigError, match="hidden"):
        table_of(hidden, "cpu")


@in_browser
def test_a_game_is_clicked_to_its_end(server):
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page, complaints = browser.new_page(), []
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(server.url)
        for number in range(1, 6):
            page.wait_for_selector("#board .cell")
            if page.inner_text("#says") != "Your move.":
                break
            free = page.query_selector_all("#board .cell.can")
            free[0].focus()
            page.keyboard.press("Enter")
            page.wait_for_selector(f"#played li:nth-child({2 * number - 1})", state="attached")
            parts.wait_until(lambda: page.inner_text("#says") != "It thinks.")
        assert page.inner_text("#says") in ("You have won.", "You have lost.", "A draw.")
        assert page.eval_on_selector_all("#board .cell:not([disabled])", "all => all.length") == 0
        page.click("#back")
        page.wait_for_selector("#board .cell.can")
        page.select_option("#seat", "1")
        page.wait_for_selector("#played li", state="attached")
        page.click("#again")
        parts.wait_until(lambda: len(page.query_selector_all("#played li")) == 1)
        assert complaints == []
        browser.close()
