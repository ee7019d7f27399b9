"""Tasks: problems in plain text with gold answers and verifiers, seeded and split. Plain Python and NumPy, no torch.

A task of Wren's own is one file of wren/tasks/own. Others come through adapters: "gym:NAME" is a generator of
reasoning-gym, "stories" asks about the story world, "file:PATH.jsonl" reads questions and answers.
"""

import dataclasses
import importlib
import typing

from wren import config as configs
from wren.errors import ConfigError, unknown_key
from wren.tasks import own
from wren.tasks.task import Task

ADAPTERS = {"gym": "gym:NAME", "file": "file:PATH"}


def names() -> list[str]:
    """Every task that needs neither a package nor a file, sorted."""
    return sorted([*own.names(), "stories"])


def read(text: str) -> Task:
    """The task that a text names: "chain_sum", "countdown:min_numbers=2:signs=+-*/", "gym:mini_sudoku", "file:a.jsonl".

    Raises ConfigError with the nearest name for an unknown task or setting, DataError for a file of no use.
    """
    name, _, rest = text.strip().partition(":")
    if name in ADAPTERS:
        if not rest:
            raise ConfigError(f"'{name}' alone is no task; write {ADAPTERS[name]}.")
        return importlib.import_module(f"wren.tasks.{name}").read(rest)
    if name not in names():
        raise ConfigError(unknown_key("Task", name, [*names(), *ADAPTERS.values()]))
    module = importlib.import_module("wren.tasks.stories" if name == "stories" else f"wren.tasks.own.{name}")
    return changed(module.Rules(), name, rest)


def changed(task: Task, name: str, settings: str) -> Task:
    """The task with settings such as "min_terms=2:minus=false"; raises ConfigError for an unknown key."""
    hints = typing.get_type_hints(type(task))
    fields = [field.name for field in dataclasses.fields(task)]  # type: ignore[arg-type]
    changes = {}
    for setting in filter(None, settings.split(":")):
        key, equals, value = setting.partition("=")
        if key not in fields:
            raise ConfigError(unknown_key(f"The setting of {name}", key, fields))
        changes[key] = configs.read_text(hints[key], value if equals else "true", f"{name}.{key}")
    return dataclasses.replace(task, **changes)  # type: ignore[type-var]  (at once: a new minimum may pass the old maximum)
