"""Recipes: Python functions that return a complete RunConfig, one file each, found by their file's name.

A recipe file holds `recipe(*, vocab_size: int, ...) -> RunConfig`; its keyword arguments are the dials that
`wren train --set NAME=VALUE` can turn, besides every key of the config by its dotted path (`optimizer.lr`).
"""

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from wren import config as configs
from wren.errors import ConfigError, unknown_key
from wren.model import ModelConfig
from wren.optim.optimizer import OptimizerConfig
from wren.optim.schedule import ScheduleConfig
from wren.train import TrainConfig


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that determines a training run; written as config.json.

    data, data_hash: the folder of shards and what identifies their content. time_budget: the seconds that were turned
    into train.steps by measuring, None = the steps were given. horizon: the tokens that the recipe chose batch and
    learning rate for, None = they do not follow from it. planned: the settings, KEY=VALUE, that a plan chose to fit a
    machine; resuming takes them from here.
    """

    recipe: str
    model: ModelConfig
    optimizer: OptimizerConfig
    schedule: ScheduleConfig
    train: TrainConfig
    seed: int = 0
    data: str = ""
    data_hash: str = ""
    time_budget: float | None = None
    horizon: int | None = None
    planned: tuple[str, ...] = ()


def names() -> list[str]:
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def get(name: str) -> Callable[..., RunConfig]:
    """The recipe of that name; raises ConfigError with the list for an unknown one."""
    if name not in names():
        raise ConfigError(unknown_key("Recipe", name, names()))
    return importlib.import_module(f"wren.recipes.{name}").recipe


def build(name: str, *, vocab_size: int, settings: Sequence[str] = ()) -> RunConfig:
    """The recipe with `KEY=VALUE` settings: its own dials first, then dotted keys of the config."""
    function = get(name)
    parameters = inspect.signature(function).parameters
    dials: dict[str, Any] = {}
    keys: dict[str, str] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not key:
            raise ConfigError(f"'{setting}' is not a setting; write KEY=VALUE, such as depth=6 or optimizer.lr=1e-3.")
        if "." in key or key == "seed":
            keys[key] = value
        elif key in parameters and key != "vocab_size":
            dials[key] = configs.read_text(parameters[key].annotation, value, key)
        else:
            sections = ["model.*", "optimizer.*", "schedule.*", "train.*"]
            raise ConfigError(unknown_key("Setting", key, [*(p for p in parameters if p != "vocab_size"), *sections]))
    return configs.replace(function(vocab_size=vocab_size, **dials), keys)
