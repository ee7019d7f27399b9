"""The player of a run directory: what its newest checkpoint plays, alone or with a search."""

from pathlib import Path

from wren import checkpoint
from wren import config as configs
from wren.errors import CheckpointError, ConfigError
from wren.games.game import Game
from wren.games.players import ManyPlayer
from wren.generate import load_run
from wren.precision import choose_device
from wren.rl.game_net import Net, PolicyPlayer, SearchPlayer
from wren.rl.game_search import SearchConfig
from wren.rl.game_settings import GamePlayConfig
from wren.rl.game_tokens import GameTokens
from wren.run import Run


def open_generation(run: Path, generation: int, game: Game, device: str = "auto") -> ManyPlayer:
    """A frozen generation of the run's league; raises CheckpointError where that one is not kept."""
    net = open_net(run, game, device)
    folder = run / "league"
    if generation not in checkpoint.steps(folder):
        kept = ", ".join(str(step) for step in checkpoint.steps(folder)) or "none"
        raise CheckpointError(f"{run} keeps no generation {generation} in its league; it keeps {kept}.")
    path = folder / f"step_{generation:06d}"
    checkpoint.load_weights(net.model, checkpoint.load(path).model, path)
    return PolicyPlayer(net, 1.0 if game.hidden else 0.0)


def open_player(run: Path, game: Game, budget: int, device: str = "auto") -> ManyPlayer:
    """budget: simulations before each move, 0 = the policy alone; where cards are hidden it draws as it learned to.

    Raises ConfigError for a run of another game, or none of self-play, and for a search in a game of hidden cards.
    """
    if budget < 0:
        raise ConfigError(f"--budget is {budget}; give the simulations before each move, or 0 for none.")
    if budget and game.hidden:
        raise ConfigError(f"A tree search cannot play {game.name}, where cards are hidden; leave out --budget.")
    net = open_net(run, game, device)
    if budget:
        return SearchPlayer(net, SearchConfig(simulations=budget))
    return PolicyPlayer(net, 1.0 if game.hidden else 0.0)


def open_net(run: Path, game: Game, device: str = "auto") -> Net:
    """The newest checkpoint as a judge of positions of this game."""
    raw = Run(run).config()
    if not isinstance(raw, dict) or "game" not in raw:
        raise ConfigError(f"{run} is no run of self-play; `wren play --game {game.name} --run DIR` makes one.")
    config, tokens = configs.from_json(GamePlayConfig, raw), GameTokens(game)
    if config.game.partition(":")[0] != game.name or config.train.context_len != tokens.row_len:
        raise ConfigError(f"{run} has learned {config.game}, not {game.name} as it is asked for; name that game.")
    loaded = load_run(run, choose_device(device))
    if loaded.tokenizer.fingerprint() != tokens.tokenizer.fingerprint():
        raise CheckpointError(f"{run} has another vocabulary than games have; restore its tokenizer.json.")
    return Net(loaded.model, tokens)
