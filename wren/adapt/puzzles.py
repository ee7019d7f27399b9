"""`wren adapt --task`: right answers to a task whose prompts show examples, in context and after learning from them."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import torch

from wren import tasks
from wren.adapt.examples import read_puzzle, views, voted
from wren.adapt.few_shot import Asker, FewShotConfig, ask, solve
from wren.adapt.learner import Learner, adapting
from wren.adapters.adapter import AdapterConfig
from wren.errors import ConfigError, DataError
from wren.generate import Engine, load_run
from wren.intervals import accuracy
from wren.precision import Precision
from wren.tasks.prompts import Form
from wren.tasks.task import RIGHT, Problem, Split, Task

MOST_SAMPLES = 1024
TEMPERATURE = 0.8


@dataclass(frozen=True, kw_only=True)
class AskedTask:
    """count: problems. compare: also samples that vote, as many as fit into the seconds that learning takes."""

    task: str
    count: int = 100
    split: Split = "test"
    form: Form = "plain"
    few_shot: FewShotConfig = field(default_factory=FewShotConfig)
    compare: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ConfigError(f"--count is {self.count}; it must be at least 1.")


def adapt_task(
    run: Path | str, precision: Precision, asked: AskedTask, say: Callable[[str], None] = lambda text: None
) -> dict[str, Any]:
    """{"task", "accuracy", "low", "high", "forms": [{"name", "accuracy", "low", "high", "seconds"}]}.

    Raises a WrenError for a mistake of the user.
    """
    task = tasks.read(asked.task)
    problems = task.distinct(asked.seed, asked.count, asked.split)
    if not problems:
        raise DataError(f"The task {task.name} has no problems in '{asked.split}'.")
    read_puzzle(problems[0].prompt)  # before the model is loaded
    loaded = load_run(run, precision.device, say)
    config = asked.few_shot
    with adapting(loaded.model) as adapters:
        engine = Engine(loaded.model, precision, vocab_size=loaded.tokenizer.vocab_size)
        asker = Asker(engine, loaded.tokenizer, precision, asked.form)
        generator = torch.Generator().manual_seed(asked.seed)
        learner = Learner(adapters, AdapterConfig(rank=config.rank), config.lr, generator)
        forms = _in_context(task, problems, config, asker, asked.seed, say)
        learned = _learned(task, problems, learner, config, asker, asked.seed, say)
        if asked.compare:
            forms.append(_samples(task, problems, config, asker, asked.seed, learned[1]["seconds"], say))
    best = learned[1]
    return {
        "task": task.name,
        "split": asked.split,
        "step": loaded.step,
        **{key: best[key] for key in ("accuracy", "low", "high", "seconds")},
        "rollbacks": learner.rollbacks,
        "forms": [*forms, *learned],
    }


def _row(name: str, right: Sequence[bool], seconds: float, say: Callable[[str], None]) -> dict[str, Any]:
    row = {"name": name, **accuracy(right), "seconds": seconds}
    say(line(row))
    return row


def line(row: dict[str, Any]) -> str:
    interval = f"[{row['low']:.3f}, {row['high']:.3f}]"
    return f"{row['accuracy']:.3f} {interval} right, {row['seconds']:7.1f} s  {row['name']}"


def _right(task: Task, problems: Sequence[Problem], answers: Sequence[str]) -> list[bool]:
    return [task.score(problem, answer) >= RIGHT for problem, answer in zip(problems, answers, strict=True)]


def _in_context(
    task: Task, problems: Sequence[Problem], config: FewShotConfig, asker: Asker, seed: int, say: Callable[[str], None]
) -> list[dict[str, Any]]:
    """The prompt as it stands, and a vote of its views, without learning."""
    start = time.perf_counter()
    alone = asker.answers([problem.prompt for problem in problems], config.max_tokens)
    forms = [_row("in context", _right(task, problems, alone), time.perf_counter() - start, say)]
    start, answers = time.perf_counter(), []
    for number, problem in enumerate(problems):
        puzzle, rng = read_puzzle(problem.prompt), Random(seed + number)
        chosen = views(config.votes, len(puzzle.examples), rng, backwards=config.backwards)
        answers.append(voted(ask(puzzle, chosen, config.max_tokens, asker)))
    name = f"in context, a vote of {config.votes} views"
    return [*forms, _row(name, _right(task, problems, answers), time.perf_counter() - start, say)]


def _learned(
    task: Task,
    problems: Sequence[Problem],
    learner: Learner,
    config: FewShotConfig,
    asker: Asker,
    seed: int,
    say: Callable[[str], None],
) -> list[dict[str, Any]]:
    """After learning from the examples: the prompt as it stands, and a vote of its views, in the same seconds."""
    start = time.perf_counter()
    found = [solve(learner, p.prompt, config, asker, seed=seed + number) for number, p in enumerate(problems)]
    seconds = time.perf_counter() - start
    alone, together = ([getattr(each, key) for each in found] for key in ("alone", "answer"))
    return [
        _row(f"learned in {config.steps} steps", _right(task, problems, alone), seconds, say),
        _row(f"learned, a vote of {config.votes} views", _right(task, problems, together), seconds, say),
    ]


def _samples(
    task: Task,
    problems: Sequence[Problem],
    config: FewShotConfig,
    asker: Asker,
    seed: int,
    seconds: float,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """A vote of as many samples of the prompt as take these seconds, by a first try of eight."""
    start = time.perf_counter()
    few = problems[: max(1, len(problems) // 10)]
    for problem in few:
        _sampled(problem, 8, config, asker, seed)
    each = (time.perf_counter() - start) / (8 * len(few))
    count = min(MOST_SAMPLES, max(1, round(seconds / len(problems) / each)))
    start = time.perf_counter()
    answers = [_sampled(problem, count, config, asker, seed + number) for number, problem in enumerate(problems)]
    taken = time.perf_counter() - start
    return _row(f"in context, a vote of {count} samples", _right(task, problems, answers), taken, say)


def _sampled(problem: Problem, count: int, config: FewShotConfig, asker: Asker, seed: int) -> str:
    replies = asker.answers([problem.prompt], config.max_tokens, n=count, temperature=TEMPERATURE, seed=seed)
    return voted([" ".join(reply.split()) for reply in replies])
