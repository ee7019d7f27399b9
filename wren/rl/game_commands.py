"""What `wren play --game` does with its flags: learn, play a match, or let a person play."""

import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wren.errors import ConfigError
from wren.rl.game_settings import AskedGame, Learn


@dataclass(frozen=True, kw_only=True)
class GameFlags:
    """The flags as they came; units are read already."""

    game: str
    run: Path | None
    generations: int | None
    seconds: float | None
    learn: Learn | None
    human: bool
    against: str | None
    games: int
    opening: int
    budget: int
    seed: int
    settings: tuple[str, ...]
    device: str
    dry_run: bool


def play_game(flags: GameFlags) -> dict[str, Any]:
    """Raises ConfigError for flags that do not go together."""
    if flags.human:
        return _human(flags)
    if flags.against is not None:
        return _match(flags)
    if flags.run is None:
        raise ConfigError("Name the run directory of the player with --run DIR; a new one begins from random weights.")
    if flags.budget:
        raise ConfigError("--budget goes with --human or --against; in training set search.simulations with --set.")
    from wren.rl import game_run

    asked = AskedGame(
        game=flags.game,
        run=flags.run,
        generations=flags.generations,
        seconds=flags.seconds,
        learn=flags.learn,
        seed=flags.seed,
        settings=flags.settings,
    )
    if flags.dry_run:
        print(game_run.describe(asked, device=flags.device))
        return {}
    result = game_run.selfplay(asked, device=flags.device)
    print(f"{result['generations']:,} generations, {result['games']:,} games; picture: {flags.run / 'league.png'}")
    return result


def _match(flags: GameFlags) -> dict[str, Any]:
    """A player against another, each opening in both seats."""
    from wren import games
    from wren.evals.matches import score
    from wren.games import players
    from wren.games.referee import match
    from wren.rl.game_player import open_generation, open_player

    if flags.run is None:
        raise ConfigError("Name the run that plays the match with --run DIR; `wren play --game` makes one.")
    if flags.games < 2 or flags.games % 2:
        raise ConfigError(f"--games is {flags.games}; each opening is played in both seats, so give an even number.")
    game = games.read(flags.game)
    mine = open_player(flags.run, game, flags.budget, flags.device)
    against = flags.against or ""
    kind, _, number = against.partition(":")
    if kind == "generation" and number.isdecimal():
        other: players.Player = open_generation(flags.run, int(number), game, flags.device)
    elif Path(against).is_dir():
        other = open_player(Path(against), game, 0, flags.device)
    else:
        other = players.read(against, game)
    plies = 0 if game.hidden else flags.opening
    found = score(match(game, mine, other, pairs=flags.games // 2, seed=flags.seed, opening=plies, illegal="lose"))
    name = flags.run.resolve().name + (f" with {flags.budget} simulations" if flags.budget else "")
    print(found.text(name, against))
    return {"game": flags.game, "against": flags.against, "budget": flags.budget, **dataclasses.asdict(found)}


def _human(flags: GameFlags) -> dict[str, Any]:
    """A person at the terminal against a run or a named player, until they leave."""
    from wren import games
    from wren.games import players
    from wren.games.human import Human, Left
    from wren.games.referee import play
    from wren.rl.game_player import open_player

    game = games.read(flags.game)
    if flags.run is not None and flags.against is not None:
        raise ConfigError("With --human, --run and --against both name the other player; give one of them.")
    if flags.run is not None:
        other: players.Player = open_player(flags.run, game, flags.budget, flags.device)
    else:
        other = players.read(flags.against or "random", game)
    points, seat = [], flags.seed % 2
    print("Type a move's name; ? lists the moves, quit leaves.")
    while True:
        person = Human(game, _line, print)
        seats: list[players.Player] = [other, other]
        seats[seat] = person
        number = flags.seed + len(points)
        try:
            played = play(game, seats, seed=number, watch=person.watch(seat), illegal="refuse")
            points.append(played.returns[seat])
            if not sys.stdin.isatty() or _line("Another game? (enter = yes, quit = no): ").strip():
                break
        except (Left, EOFError, KeyboardInterrupt):
            print("\nLeft the game.")
            break
        seat = 1 - seat
    return {"game": flags.game, "returns": points}


def _line(prompt: str) -> str:
    return input(prompt)
