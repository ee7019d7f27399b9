"""Settings of self-play: what is the same for all games, what each game begins with, and what a user asked for."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from wren import config as configs
from wren import games, recipes
from wren.errors import ConfigError
from wren.games.game import Game
from wren.model import ModelConfig
from wren.optim.optimizer import OptimizerConfig
from wren.optim.schedule import ScheduleConfig
from wren.rl.game_search import SearchConfig
from wren.rl.game_tokens import GameTokens
from wren.train import TrainConfig

Learn = Literal["search", "magnet", "reinforce"]
GameIllegal = Literal["mask", "lose"]


@dataclass(frozen=True, kw_only=True)
class SelfPlayConfig:
    """learn: search = towards what a tree search prefers; magnet = magnetic mirror descent on sampled returns, for
    hidden cards; reinforce = plain policy gradient, the naive form.

    games: of a generation; at_once: of them together. opening: random plies before a game at most. updates: optimizer
    steps of a generation, on the positions of the last `window` ones. illegal: whether illegal moves are masked, or
    lose the game (reinforce). league: share of games against a frozen past self. bootstrap: how much of a worth comes
    from the search, not from the game's end.
    entropy: weight of the entropy at the first and at the last generation. stride: of mirror descent, at most `pull`
    times the entropy's weight, since longer ones go round in circles. baseline: what a
    return is compared with, the seat's mean or nothing.
    measure_every: generations between exact measures; each measured one joins the league, which keeps at most
    `members`. rivals, league_games: of its matches. patience: measures in a row that are a collapse, 0 = never.
    """

    learn: Learn = "search"
    games: int = 256
    at_once: int = 256
    opening: int = 6
    updates: int = 16
    window: int = 4
    illegal: GameIllegal = "mask"
    league: float = 0.1
    bootstrap: float = 0.5
    entropy: tuple[float, float] = (0.1, 0.01)
    stride: float = 0.5
    pull: float = 2.0
    baseline: Literal["role", "none"] = "role"
    measure_every: int = 4
    members: int = 12
    rivals: int = 3
    league_games: int = 40
    patience: int = 3

    def __post_init__(self) -> None:
        least = {"games": 1, "at_once": 1, "opening": 0, "updates": 1, "window": 1, "measure_every": 1, "members": 2}
        least |= {"rivals": 0, "league_games": 2, "patience": 0, "stride": 0, "pull": 0}
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise ConfigError(f"selfplay.{name} is {getattr(self, name)}; it must be at least {bound}.")
        for name in ("league", "bootstrap"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"selfplay.{name} is {getattr(self, name)}; it must lie in 0 to 1.")
        if min(self.entropy) < 0:
            raise ConfigError(f"selfplay.entropy is {self.entropy}; both must be 0 or above.")
        if self.illegal == "lose" and self.learn != "reinforce":
            raise ConfigError(
                "selfplay.illegal=lose goes with selfplay.learn=reinforce; a search masks what is illegal."
            )

    def entropy_at(self, share: float) -> float:
        """Of the way done: geometric between the two, linear where one is 0."""
        first, last = self.entropy
        if not first or not last:
            return first + (last - first) * share
        return first ** (1 - share) * last**share


@dataclass(frozen=True, kw_only=True)
class GamePlayConfig:
    """Everything that determines a run of self-play; written as config.json.

    game: what `wren.games.read` knows it by. time_budget: the seconds that were measured into generations.
    """

    recipe: str
    model: ModelConfig
    optimizer: OptimizerConfig
    schedule: ScheduleConfig
    train: TrainConfig
    game: str
    generations: int
    selfplay: SelfPlayConfig = field(default_factory=SelfPlayConfig)
    search: SearchConfig = field(default_factory=SearchConfig)
    seed: int = 0
    time_budget: float | None = None


@dataclass(frozen=True, kw_only=True)
class AskedGame:
    """What a user asked for; None = the game's default. settings: KEY=VALUE of model, optimizer, selfplay, search."""

    game: str
    run: Path
    generations: int | None = None
    seconds: float | None = None
    learn: Learn | None = None
    seed: int = 0
    settings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 1 << 62:
            raise ConfigError(f"The seed is {self.seed}; it must be from 0 to 2^62 - 1.")
        if self.generations is not None and self.seconds is not None:
            raise ConfigError("--generations and --time exclude each other; give one of them.")
        if self.generations is not None and self.generations < 1:
            raise ConfigError(f"--generations is {self.generations}; it must be at least 1.")


# dials of the recipe llama, generations, rows of a step, and changes by dotted key
_PLAIN = {"dim": 48, "depth": 3, "generations": 100, "rows": 256, "lr": 3e-3}
_OF_GAMES: dict[str, dict[str, Any]] = {
    "tic_tac_toe": {"generations": 120},
    "nim": {
        "generations": 200, "optimizer.weight_decay": 0.3, "selfplay.opening": 0, "search.simulations": 64,
        "search.considered": 64,
    },
    "connect4": {
        "dim": 64, "generations": 150, "lr": 2e-3, "selfplay.window": 12, "selfplay.updates": 40,
        "selfplay.measure_every": 10, "search.simulations": 24,
    },
    "breakthrough": {
        "dim": 64, "generations": 150, "lr": 2e-3, "selfplay.window": 12, "selfplay.updates": 40,
        "selfplay.measure_every": 10,
    },
    "kuhn": {"dim": 32, "depth": 2, "generations": 2000},
    "leduc": {
        "dim": 48, "depth": 2, "generations": 600, "selfplay.games": 8192, "selfplay.stride": 0.25,
        "selfplay.pull": 0.5, "selfplay.entropy": (1.0, 0.15),
    },
}  # fmt: skip
_MAGNET = {
    "selfplay.learn": "magnet", "selfplay.games": 4096, "selfplay.updates": 4, "selfplay.window": 1,
    "selfplay.opening": 0, "selfplay.league": 0.0, "selfplay.measure_every": 20, "selfplay.entropy": (1.0, 0.05),
    "selfplay.rivals": 0,
}  # fmt: skip
_ROOM = 4  # tokens that a run may sample after an observation
_KINDS = ("model", "optimizer", "schedule", "train", "selfplay", "search")


def plan(asked: AskedGame, game: Game) -> GamePlayConfig:
    """The config that was asked for; raises ConfigError for a learner that the game does not allow."""
    start = {**_PLAIN, **_OF_GAMES.get(game.name.partition(":")[0], {})}
    dials = {name: start.pop(name) for name in ("dim", "depth", "generations", "rows", "lr")}
    generations = asked.generations or dials["generations"]
    tokens = GameTokens(game)
    model = [f"dim={dials['dim']}", f"depth={dials['depth']}", "num_heads=4", f"context_len={tokens.row_len}"]
    model += [f"model.learned_positions={tokens.row_len + _ROOM}", f"lr={dials['lr']}", f"batch_size={dials['rows']}"]
    base = recipes.build("llama", vocab_size=tokens.vocab_size, settings=model)
    config = GamePlayConfig(
        recipe="llama",
        model=base.model,
        optimizer=OptimizerConfig(kind="muon", lr=dials["lr"], matrix_lr=3 * dials["lr"], weight_decay=0.01),
        schedule=ScheduleConfig(kind="wsd", warmup_steps=20, decay=0.4, final=0.05),
        train=dataclasses.replace(base.train, steps=1, eval_every=0, dtype="fp32", save_every=0),
        game=asked.game,
        generations=generations,
        seed=asked.seed,
        time_budget=asked.seconds,
    )
    if game.hidden and "exploitability" in game.exact:
        start = {**_MAGNET, **start}
    elif game.hidden:
        start["selfplay.learn"] = "reinforce"
    if asked.learn is not None:
        start["selfplay.learn"] = asked.learn
    if start.get("selfplay.learn") == "reinforce":
        start |= {"selfplay.window": 1}
    config = configs.replace(config, start)
    config = configs.replace(config, _settings(asked.settings))
    if game.hidden and config.selfplay.learn == "search":
        raise ConfigError(f"A tree search cannot play {game.name}, where cards are hidden; use --learn magnet.")
    if config.selfplay.learn == "magnet" and "exploitability" not in game.exact:
        raise ConfigError(
            f"--learn magnet is for small games with hidden cards, which {game.name} is not; "
            "leave it out, or use --learn reinforce."
        )
    return with_generations(config, generations)


def with_generations(config: GamePlayConfig, generations: int) -> GamePlayConfig:
    """The config with so many generations, and the steps and checkpoints that follow."""
    steps = generations * config.selfplay.updates
    every = config.train.save_every or config.selfplay.updates * config.selfplay.measure_every
    train = dataclasses.replace(config.train, steps=steps, save_every=every)
    return dataclasses.replace(config, generations=generations, train=train)


def read_game(text: str) -> Game:
    """The game; raises ConfigError for an unknown one, and for one that self-play cannot learn."""
    game = games.read(text)
    GameTokens(game)
    return game


def _settings(settings: tuple[str, ...]) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or key.split(".")[0] not in _KINDS:
            raise ConfigError(
                f"'{setting}' is no setting of self-play; write KEY=VALUE with a key of {', '.join(_KINDS)}, such as "
                "search.simulations=64."
            )
        changes[key] = value
    return changes
