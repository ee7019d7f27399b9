"""Wren's own tasks: one file each, which opens with a problem and its answer and holds its frozen `Rules` (a Task).

They are small enough for a model of a hundred thousand parameters that reads characters. No file knows another.
"""

import pkgutil


def names() -> list[str]:
    """Every task of this folder, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))
