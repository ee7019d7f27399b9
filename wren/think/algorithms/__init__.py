"""One file each, which opens with what it does and holds its frozen `Rules` (an Algorithm). No file knows another."""

import pkgutil


def names() -> list[str]:
    """Every algorithm of this folder, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))
