"""Games: rules, referee, players and exact measures. Plain Python and NumPy, no torch.

A game is one file of wren/games/rules; any game of OpenSpiel is named "open_spiel:NAME".
"""

import dataclasses
import importlib

from wren import config as configs
from wren.errors import ConfigError, unknown_key
from wren.games import rules
from wren.games.game import Game

_ADAPTER = "open_spiel"


def names() -> list[str]:
    """Every game that has a file of its own, sorted."""
    return rules.names()


def read(text: str) -> Game:
    """The game that a short text names: "connect4", "nim:heaps=1,3,5:misere=true", "open_spiel:hex(board_size=5)".

    Raises ConfigError with the nearest name for an unknown game, key or OpenSpiel game.
    """
    name, _, rest = text.strip().partition(":")
    if name == _ADAPTER:
        return importlib.import_module("wren.games.spiel").read(rest)
    if name not in names():
        raise ConfigError(unknown_key("Game", name, [*names(), f"{_ADAPTER}:NAME"]))
    game = importlib.import_module(f"wren.games.rules.{name}").Rules()
    settings = [setting for setting in rest.split(":") if setting]
    if settings and not dataclasses.fields(game):
        raise ConfigError(f"The game {name} has no settings, so '{settings[0]}' cannot be set; leave it out.")
    changes = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        changes[key] = value if equals else "true"
    return configs.replace(game, changes, name)
