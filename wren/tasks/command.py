"""`wren tasks`: which tasks there are, problems of one with their answers, and whether its verifier can be trusted."""

import dataclasses
import importlib
import importlib.util
from collections.abc import Callable, Iterator
from typing import Any

from wren import tasks
from wren.errors import ConfigError
from wren.tasks import gym
from wren.tasks.task import SPLITS, Problem, Split, Task, check_gold, written

_WIDTH = 18


def tasks_command(
    name: str = "",
    *,
    show: int = 0,
    check: int = 0,
    split: Split = "train",
    seed: int = 0,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Lists the tasks, or those of the adapter "gym"; of a single task shows problems and scores `check` gold answers.

    Raises ConfigError and DataError, also where a verifier refuses a gold answer.
    """
    if not name or name == "gym":
        if show or check:
            raise ConfigError("Name the task that is to be shown or checked, such as `wren tasks chain_sum --show 3`.")
        return _listed(name, say)
    if show < 0 or check < 0:
        raise ConfigError(f"{min(show, check)} problems cannot be looked at; ask for 0 or more.")
    task = tasks.read(name)
    sizes = {part: task.size(part) for part in SPLITS}
    found = list(task.problems(seed, show or (0 if check else 3), split))
    for number, problem in enumerate(found):
        say(_shown(task, problem, f"{split} {number}"))
    checked = check_gold(task, check, seed, split) if check else 0
    if checked:
        say(f"{task.name}: the verifier agrees with the gold answers of {checked:,} problems of '{split}'.")
    if None not in sizes.values():
        say(f"{task.name}: {', '.join(f'{size:,} {part}' for part, size in sizes.items())}.")
    rows = [{"prompt": problem.prompt, "answer": problem.answer, "solution": problem.said} for problem in found]
    return {"name": task.name, "split": split, "seed": seed, "sizes": sizes, "checked": checked, "problems": rows}


def _shown(task: Task, problem: Problem, what: str) -> str:
    lines = [f"--- {what} ---", problem.prompt, f"--- answer (scores {task.score(problem, problem.answer):g}) ---"]
    return "\n".join([*lines, problem.answer, ""])


def _listed(adapter: str, say: Callable[[str], None]) -> dict[str, Any]:
    if adapter:
        names = [f"gym:{name}" for name in gym.names()]
        say("\n".join(names))
        say(f"{len(names)} generators of reasoning-gym. `wren tasks {names[0]} --show 1` shows a problem.")
        return {"tasks": [{"name": name} for name in names]}
    rows = [_described(name) for name in tasks.names()]
    for row in rows:
        say(f"{row['name']:{_WIDTH}}{row['what']}")
        settings = " ".join(f"{key}={value}" for key, value in row["settings"].items())
        say(f"{'':{_WIDTH}}{settings}")
    is_here = importlib.util.find_spec(gym.PACKAGE) is not None
    more = "`wren tasks gym` lists them" if is_here else "pip install 'wren-llm[tasks]'"
    say(f"{'gym:NAME':{_WIDTH}}A generator of reasoning-gym with its own settings; {more}.")
    say(f"{'file:PATH.jsonl':{_WIDTH}}Questions and answers from a file.")
    say("A setting stands behind a colon: `wren tasks chain_sum:max_terms=4 --show 3`.")
    return {"tasks": rows}


def _described(name: str) -> dict[str, Any]:
    task = tasks.read(name)
    doc = importlib.import_module(type(task).__module__).__doc__ or ""
    settings = {key: written(value) for key, value in _settings(task)}
    return {"name": name, "what": " ".join(doc.split("\n\n")[0].split()), "settings": settings}


def _settings(task: Any) -> Iterator[tuple[str, Any]]:
    return ((field.name, getattr(task, field.name)) for field in dataclasses.fields(task))
