"""Sequence mixers: one file per architecture, each under the contract of wren.mixer."""

import dataclasses
import importlib
import pkgutil

from wren import config as configs
from wren.errors import ConfigError, unknown_key
from wren.mixer import MixerConfig


def names() -> list[str]:
    """Every architecture file of this folder, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.ispkg)


def read(text: str, *, num_heads: int) -> MixerConfig:
    """The settings that a short text names: "attention", "gated_delta_net:negative_eigenvalues=true:head_dim=32".

    num_heads: given to mixers that have heads, unless the text sets it. Raises ConfigError with the list of names for
    an unknown mixer or key.
    """
    name, *settings = text.strip().split(":")
    if name not in names():
        raise ConfigError(unknown_key("Mixer", name, names()))
    kind = importlib.import_module(f"wren.mixers.{name}").Config
    fields = [field.name for field in dataclasses.fields(kind)]
    config = kind(num_heads=num_heads) if "num_heads" in fields else kind()
    changes = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        changes[key] = value if equals else "true"
    return configs.replace(config, changes, name)
