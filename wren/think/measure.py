"""`wren think`: how often algorithms are right within budgets of generated tokens, and what that takes.

Every algorithm answers the same problems; `seconds` are those of all problems together, divided by their number.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from wren import think
from wren.errors import ConfigError
from wren.generate import Engine, load_run
from wren.intervals import accuracy, ratio_interval
from wren.precision import Precision
from wren.run import Run
from wren.tasks.passes import pass_at_k
from wren.tasks.prompts import Form
from wren.tasks.task import RIGHT, Problem, Split
from wren.think.algorithm import Algorithm
from wren.think.asker import Asker, form_of, read_task
from wren.think.scorer import taught
from wren.think.thinker import Solved, Thinker

_GOLD = 200  # solutions of "train" that say how long answers are
_ROWS = 1024  # that decode at once
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """budgets: generated tokens of a problem. algorithms: as think.read knows them, empty = all. max_tokens: of one
    reply, None = what the task's solutions need and a little more. form: None = as the run was trained. scorer: what
    algorithms that choose by a score go by: the model's own log-probabilities, or what is learned from its attempts.
    verify: whether algorithms may see the task's verifier.
    """

    run: Path
    task: str
    budgets: tuple[int, ...]
    algorithms: tuple[str, ...] = ()
    problems: int = 100
    split: Split = "test"
    form: Form | None = None
    max_tokens: int | None = None
    seed: int = 0
    scorer: Literal["logprob", "learned"] = "logprob"
    verify: bool = True

    def __post_init__(self) -> None:
        for name, value in (("--problems", self.problems), ("--max-tokens", self.max_tokens)):
            if value is not None and value < 1:
                raise ConfigError(f"{name} is {value}; it must be at least 1.")
        if not 0 <= self.seed < 1 << 62:
            raise ConfigError(f"The seed is {self.seed}; it must be from 0 to 2^62 - 1.")
        if not self.budgets:
            raise ConfigError("There is no budget; give --budgets 64,256.")


@dataclass(frozen=True)
class Plan:
    """What will be measured. answer_tokens: of the longest solution, with its end."""

    asked: Asked
    thinker: Thinker
    problems: list[Problem]
    algorithms: dict[str, Algorithm]
    budgets: list[int]
    answer_tokens: int

    def text(self) -> str:
        thinker, problem = self.thinker, self.problems[0]
        return (
            f"Would ask {self.asked.run} {len(self.problems)} problems of {thinker.asker.task.name} "
            f"('{self.asked.split}', put as '{thinker.asker.form}', replies of at most {thinker.max_tokens} tokens) by "
            f"{', '.join(self.algorithms)} within {', '.join(map(str, self.budgets))} generated tokens each: at most "
            f"{len(self.problems) * len(self.algorithms) * sum(self.budgets):,} tokens. A problem, "
            f"{len(thinker.asker.prompt(problem))} tokens:\n{problem.prompt}\nand a right answer:\n{problem.said}"
        )


def plan(asked: Asked, precision: Precision, say: Say = lambda text: None) -> Plan:
    """Opens the run and checks what was asked; raises a WrenError for every mistake of the user."""
    algorithms = {name: think.read(name) for name in asked.algorithms or think.names()}
    if not asked.algorithms and not asked.verify:
        algorithms = {name: rules for name, rules in algorithms.items() if not rules.needs_verifier}
    task = read_task(asked.task)
    loaded = load_run(asked.run, precision.device, say)
    form = asked.form or form_of(Run(asked.run).config())
    if form == "chat" and "end" not in loaded.tokenizer.special:
        raise ConfigError("This run's vocabulary has no tokens for turns of a conversation; use --form bare or plain.")
    problems = task.distinct(asked.seed, asked.problems, asked.split)
    if not problems:
        raise ConfigError(f"The task {task.name} has no problems of '{asked.split}'; choose another --split.")
    asker = Asker(task, loaded.tokenizer, form)
    need = answer_tokens(asker)
    low = min(asked.budgets)
    if low < need:
        raise ConfigError(
            f"A budget of {low} tokens is less than one answer: those of {task.name} take up to {need} tokens with "
            f"their end; give budgets of at least {need}."
        )
    max_tokens = asked.max_tokens or need + max(4, need // 4)
    engine = Engine(loaded.model, precision, vocab_size=loaded.tokenizer.vocab_size, max_rows=_ROWS)
    thinker = Thinker(engine, asker, max_tokens, verify=asked.verify)
    for rules in algorithms.values():
        thinker.check(rules)
    for problem in problems:
        thinker.case(problem, max(asked.budgets))  # whether its prompt fits
    return Plan(asked, thinker, problems, algorithms, sorted(set(asked.budgets)), need)


def answer_tokens(asker: Asker) -> int:
    """Tokens of the longest solution of many, with the one that ends it."""
    said = [problem.said for problem in asker.task.problems(0, _GOLD, "train")]
    return 1 + max(len(tokens) for tokens in asker.tokenizer.encode_batch(said))


def measure(
    plan: Plan, say: Say, watch: Callable[[str, int], object], keep: Callable[[dict[str, Any]], object]
) -> None:
    """Measures budget by budget and algorithm by algorithm; keep gets each row as soon as it is there.

    {"name", "budget", "accuracy", "low", "high", "count", "tokens", "samples", "seconds", "verifier"} and, with greedy
    among the algorithms, "over_greedy"; tokens, samples, seconds: of one problem in the mean. At the end come the rows
    of pass@k, {"pass", "k", "tokens", "low", "high"}. watch: is told what is measured, and how many problems are done.
    """
    pool: list[Solved] | None = None
    for budget in plan.budgets:
        greedy: list[Solved] | None = None
        for name, algorithm in _greedy_first(plan.algorithms):
            row, solved = cell(plan, name, algorithm, budget, watch)
            greedy = solved if name == "greedy" else greedy
            keep(row if greedy is None else {**row, "over_greedy": over(solved, greedy)})
            say(f"{name} within {budget}: {row['accuracy']:.1%}, {row['tokens']:.0f} tokens, {row['seconds']:.3f} s")
            pool = solved if name == "vote" else pool
    if pool is None:
        _, pool = cell(plan, "samples", think.read("vote"), plan.budgets[-1], watch)
    for row in passes(plan.thinker, pool):
        keep(row)


def with_scorer(plan: Plan, say: Say) -> tuple[Plan, dict[str, Any] | None]:
    """The plan with the scorer it asks for, and what that is worth; raises ConfigError where none can be learned."""
    if plan.asked.scorer == "logprob":
        return plan, None
    say(f"a scorer learns from attempts at problems of 'train' of {plan.thinker.asker.task.name}")
    scorer, worth = taught(plan.thinker, plan.asked.seed)
    return replace(plan, thinker=replace(plan.thinker, scorer=scorer, potential=scorer)), worth


def _greedy_first(algorithms: dict[str, Algorithm]) -> list[tuple[str, Algorithm]]:
    """Others are compared with it."""
    return sorted(algorithms.items(), key=lambda item: item[0] != "greedy")


def over(solved: Sequence[Solved], other: Sequence[Solved]) -> dict[str, Any]:
    """The mean difference of right answers to the same problems: paired, so that their difficulty cancels."""
    found = [float(a.right) - float(b.right) for a, b in zip(solved, other, strict=True)]
    low, high = ratio_interval(found, [1.0] * len(found)) or (None, None)
    return {"mean": sum(found) / len(found), "low": low, "high": high}


def cell(
    plan: Plan, name: str, algorithm: Algorithm, budget: int, watch: Callable[[str, int], object] = lambda n, c: None
) -> tuple[dict[str, Any], list[Solved]]:
    """One algorithm within one budget: its row, and what it made of each problem."""
    what, seed, start = f"{name} within {budget}", plan.asked.seed, time.perf_counter()
    solved = plan.thinker.solve(
        algorithm, plan.problems, budget, seed=seed, watch=lambda count: watch(what, count)
    )  # fmt: skip
    seconds = time.perf_counter() - start
    count = len(solved)
    row = {
        "name": name,
        "budget": budget,
        **accuracy([each.right for each in solved]),
        "tokens": sum(each.spent for each in solved) / count,
        "samples": sum(each.samples for each in solved) / count,
        "seconds": seconds / count,
        "verifier": algorithm.needs_verifier,
    }
    return row, solved


def passes(thinker: Thinker, pool: Sequence[Solved]) -> list[dict[str, Any]]:
    """pass@k for k = 1, 2, 4, ... as far as every problem has so many replies; tokens: of k replies."""
    right = []
    for each in pool:
        scores = [thinker.score(each.problem, reply) for reply in each.replies]
        right.append(sum(score >= RIGHT for score in scores))
    counts = [len(each.replies) for each in pool]
    mean = sum(each.spent for each in pool) / sum(counts)
    rows, k = [], 1
    while k <= min(counts):
        shares = [pass_at_k(count, good, k) for count, good in zip(counts, right, strict=True)]
        low, high = ratio_interval(shares, [1.0] * len(shares)) or (None, None)
        rows.append({"pass": sum(shares) / len(shares), "k": k, "tokens": k * mean, "low": low, "high": high})
        k *= 2
    return rows
