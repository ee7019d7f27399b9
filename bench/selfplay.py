"""Self-play from random weights on every game, by exact measures, and the naive form beside it.

    python bench/selfplay.py --parts tic_tac_toe,kuhn,leduc,nim --seeds 3 --runs out/selfplay

`naive` is tic-tac-toe by plain policy gradient against itself, without openings, entropy and league, at each of three
learning rates; the best is what counts. `search` plays a trained Connect-4 player with 16 times the simulations against
itself. A run that was stopped goes on; the JSON is written after each.
"""

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

import torch
from measures import options
from rich import box
from rich.console import Console
from rich.table import Table

from wren import games
from wren.errors import ConfigError, unknown_key
from wren.evals.matches import score
from wren.exits import exit_code
from wren.games.players import Minimax
from wren.games.referee import match
from wren.rl.game_player import open_player
from wren.rl.game_run import said, selfplay
from wren.rl.game_settings import AskedGame
from wren.run import Run

NAIVE = ("selfplay.opening=0", "selfplay.entropy=0,0", "selfplay.league=0", "selfplay.patience=0")
NAIVE += ("selfplay.games=1024", "selfplay.at_once=1024", "selfplay.updates=4", "selfplay.measure_every=20")
RATES = (3e-4, 1e-3, 3e-3)
PARTS: dict[str, dict[str, Any]] = {
    "tic_tac_toe": {"game": "tic_tac_toe"},
    "kuhn": {"game": "kuhn"},
    "leduc": {"game": "leduc"},
    "nim": {"game": "nim:heaps=7,7,7:hold_out=0.2"},
    "connect4": {"game": "connect4"},
    "breakthrough": {"game": "breakthrough"},
}
PARTS |= {
    f"naive-{rate:g}": {
        "game": "tic_tac_toe",
        "learn": "reinforce",
        "generations": 200,
        "settings": (*NAIVE, f"optimizer.lr={rate}", f"optimizer.matrix_lr={3 * rate}"),
    }
    for rate in RATES
}
MATCH, BUDGETS = 400, (16, 256)


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = found.add_argument
    add("--parts", default="tic_tac_toe,kuhn,leduc,nim", help=f"of {', '.join([*PARTS, 'match', 'search'])}")
    add("--seeds", type=options.whole, default=3, help="how many")
    add("--seed", type=options.seed, default=0, help="the first one")
    add("--runs", type=Path, default=Path(__file__).parent / "out" / "selfplay", help="where the runs lie")
    add("--games", type=options.whole, default=MATCH, help="of the matches; default 400")
    add("--json", type=Path, default=Path(__file__).parent / "out" / "selfplay.json", help="where the numbers go")
    return found


def learned(part: str, seed: int, runs: Path) -> dict[str, Any]:
    """One training, with the seconds of all its steps."""
    options = PARTS[part]
    result = selfplay(AskedGame(run=runs / f"{part}-{seed}", seed=seed, **options), device="cpu")
    rows = [row for row in Run(runs / f"{part}-{seed}").metrics() if row.get("kind") == "generation"]
    return {"part": part, "seed": seed, "draws": rows[-1]["draws"], **result}


def against_minimax(seed: int, runs: Path, count: int) -> dict[str, Any]:
    """Connect-4 against alpha-beta of depth 4 from random openings of 4 plies: the policy, and with 64 simulations."""
    game, found = games.read("connect4"), {}
    for budget in (0, 64):
        player = open_player(runs / f"connect4-{seed}", game, budget, "cpu")
        played = score(match(game, player, Minimax(game, 4), pairs=count // 2, seed=seed, opening=4))
        found[f"share_{budget}"], found[f"wilson_{budget}"] = played.share, played.wilson
    return {"part": "match", "seed": seed, **found}


def more_search(seed: int, runs: Path, count: int) -> dict[str, Any]:
    """The same Connect-4 player with 16 times the simulations; Elo from the share of the points."""
    game = games.read("connect4")
    few, many = (open_player(runs / f"connect4-{seed}", game, budget, "cpu") for budget in BUDGETS)
    played = score(match(game, many, few, pairs=count // 2, seed=seed, opening=4))
    elo = [400 * math.log10(p / (1 - p)) for p in (played.share, *played.wilson) if 0 < p < 1]
    return {"part": "search", "seed": seed, "share": played.share, "elo": elo}


def row_of(part: str, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    if part == "match":
        return against_minimax(seed, args.runs, args.games)
    return more_search(seed, args.runs, args.games) if part == "search" else learned(part, seed, args.runs)


def table(rows: list[dict[str, Any]]) -> Table:
    shown = Table(box=box.SIMPLE, title="self-play")
    for name in ("part", "seed", "found", "generations", "games", "seconds"):
        shown.add_column(name)
    for row in rows:
        kept = {key: value for key, value in row.items() if key not in ("part", "seed")}
        found = said(row) if "measure" in row else json.dumps(kept)
        numbers = [f"{row[name]:,.0f}" if name in row else "" for name in ("generations", "games", "seconds")]
        shown.add_row(row["part"], str(row["seed"]), found, *numbers)
    return shown


def main(arguments: list[str] | None = None) -> int:
    args = parser().parse_args(arguments)
    parts = args.parts.split(",")
    for part in parts:
        if part not in (*PARTS, "match", "search"):
            raise ConfigError(unknown_key("Part", part, [*PARTS, "match", "search"]))
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    for seed in range(args.seed, args.seed + args.seeds):
        for part in parts:
            rows.append(row_of(part, seed, args))
            args.json.parent.mkdir(parents=True, exist_ok=True)
            args.json.write_text(json.dumps(rows, indent=1))
    Console().print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(exit_code("selfplay.py", main))
