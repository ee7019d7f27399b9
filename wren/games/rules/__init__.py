"""The rules: one file per game, which opens with them and holds its `State` and its frozen `Rules` (a Game)."""

import pkgutil


def names() -> list[str]:
    """Every game of this folder, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))
