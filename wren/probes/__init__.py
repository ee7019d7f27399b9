"""Probes: synthetic tasks, one file each, that show what a mixer can and cannot compute."""

import importlib
import pkgutil
from types import ModuleType

from wren.errors import ConfigError, unknown_key


def names() -> list[str]:
    """Every probe of this folder, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def get(name: str) -> ModuleType:
    """The probe's module, with its Config and SIZES; raises ConfigError with the list for an unknown one."""
    if name not in names():
        raise ConfigError(unknown_key("Probe", name, names()))
    return importlib.import_module(f"wren.probes.{name}")
