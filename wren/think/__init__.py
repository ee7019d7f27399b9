"""Inference-time compute: algorithms that answer a problem within a budget of generated tokens.

    thinker = Thinker(engine, asker)
    solved = thinker.solve(think.read("vote"), problems, budget=256)

An algorithm is one file of wren/think/algorithms and is found by its name.
"""

import importlib

from wren import config as configs
from wren.errors import ConfigError, unknown_key
from wren.think import algorithms
from wren.think.algorithm import Algorithm


def names() -> list[str]:
    """Every algorithm, sorted."""
    return algorithms.names()


def read(text: str) -> Algorithm:
    """The algorithm that a text names: "vote", "beam:piece=4:children=8".

    Raises ConfigError with the nearest name for an unknown algorithm or setting.
    """
    name, *settings = text.strip().split(":")
    if name not in names():
        raise ConfigError(unknown_key("Algorithm", name, names()))
    rules: Algorithm = importlib.import_module(f"wren.think.algorithms.{name}").Rules()
    changes = {key: value if equals else "true" for key, equals, value in (each.partition("=") for each in settings)}
    return configs.replace(rules, changes, name)
