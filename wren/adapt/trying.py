"""`wren adapt --task --by search` and `--by vote`: learning without examples, beside what it does without learning.

search  problems that no attempt of a pilot solved: how many are solved within generated tokens, with and without
vote    problems without answers: what reinforcement by majority does to them, behind its gate and without it
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from wren import tasks
from wren.adapt.attempts import Trier
from wren.adapt.learner import Learner, adapting
from wren.adapt.majority import MajorityConfig, VoteGate, measured, sharpen
from wren.adapt.search import SearchConfig, Searched, check_budget, search
from wren.adapters.adapter import AdapterConfig
from wren.errors import ConfigError, DataError
from wren.generate import Engine, load_run, row_seed
from wren.intervals import accuracy, ratio_interval, share_interval
from wren.precision import Precision
from wren.tasks.prompts import Form
from wren.tasks.task import Problem, Split

LR = 1e-3
PILOT = 64  # attempts at a problem, none of which may be right for it to be hard
_PASS = 64  # attempts of pass@k
_GOLD = 200  # solutions of "train" that say how long attempts are
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class AskedTrying:
    """count: problems. budget: generated tokens of a search. max_tokens: of an attempt, None = as solutions need it.

    lr, rank: of the adapter. gate: of the vote.
    """

    task: str
    count: int = 100
    split: Split = "test"
    form: Form = "plain"
    budget: int = 4096
    max_tokens: int | None = None
    lr: float = LR
    rank: int = 16
    gate: bool = True
    compare: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("count", "max_tokens"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ConfigError(f"--{name.replace('_', '-')} is {value}; it must be at least 1.")
        if self.form == "chat":
            raise ConfigError("Learning from attempts puts problems as plain or bare text; give --form plain or bare.")


@contextmanager
def _ready(run: Path | str, precision: Precision, asked: AskedTrying, say: Say) -> Iterator[tuple[Trier, Learner]]:
    task = tasks.read(asked.task)
    loaded = load_run(run, precision.device, say)
    said = [problem.said for problem in task.problems(0, _GOLD, "train")]
    need = 1 + max(len(tokens) for tokens in loaded.tokenizer.encode_batch(said))
    with adapting(loaded.model) as adapters:
        engine = Engine(loaded.model, precision, vocab_size=loaded.tokenizer.vocab_size)
        most = asked.max_tokens or need + max(4, need // 4)
        generator = torch.Generator().manual_seed(asked.seed)
        learner = Learner(adapters, AdapterConfig(rank=asked.rank), asked.lr, generator)
        yield Trier(task, engine, loaded.tokenizer, precision, asked.form, most), learner


def by_search(
    run: Path | str, precision: Precision, asked: AskedTrying, say: Say = lambda text: None
) -> dict[str, Any]:
    """{"task", "hard", "asked", "accuracy", "low", "high", "forms": [{"name", "found": [...], "within": [...]}]}.

    accuracy: hard problems that search with learning solves within the budget. Raises a WrenError for a mistake of the
    user, and DataError where no problem is hard.
    """
    config = SearchConfig(budget=asked.budget, rank=asked.rank, lr=asked.lr)
    with _ready(run, precision, asked, say) as (trier, learner):
        check_budget(config, trier)
        every = trier.task.distinct(asked.seed, 10 * asked.count, asked.split)
        pilot = trier.attempts(every, PILOT, seed=row_seed(asked.seed, 1 << 40))
        hard = [p for p, group in zip(every, pilot, strict=True) if not any(a.right for a in group)][: asked.count]
        if not hard:
            raise DataError(
                f"Each of {len(every)} problems of {trier.task.name} is solved by one of {PILOT} attempts; there is "
                "nothing to search for. Choose harder settings of the task."
            )
        say(f"{len(hard)} problems that none of {PILOT} attempts solves, of {len(every)}")
        ways = {"search with learning": config}
        if asked.compare:
            ways["sampling"] = replace(config, learns=False)
            ways["search with learning at temperature 1"] = replace(config, temperature=1.0)
            ways["sampling at temperature 1"] = replace(config, learns=False, temperature=1.0)
        forms = [_searched(name, way, hard, learner, trier, asked.seed, say) for name, way in ways.items()]
    best = accuracy([place is not None for place in forms[0]["found"]])
    return {"task": trier.task.name, "hard": len(hard), "asked": len(every), **best, "forms": forms}


def _searched(
    name: str, config: SearchConfig, hard: Sequence[Problem], learner: Learner, trier: Trier, seed: int, say: Say
) -> dict[str, Any]:
    start, cpu = time.perf_counter(), time.process_time()
    found = [search(learner, problem, config, trier, seed=row_seed(seed, i << 30)) for i, problem in enumerate(hard)]
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu
    row = {
        "name": name,
        "within": [_within(found, config.budget >> shift) for shift in (4, 3, 2, 1, 0)],
        "found": [each.found_at for each in found],
        "tokens": sum(each.spent for each in found) / len(found),
        "different": sum(each.different for each in found) / sum(each.attempts for each in found),
        "rollbacks": sum(each.rollbacks for each in found),
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
    }
    say(search_line(row))
    return row


def _within(found: Sequence[Searched], budget: int) -> dict[str, float]:
    right = sum(each.found_at is not None and each.found_at <= budget for each in found)
    low, high = share_interval(right, len(found))
    return {"budget": budget, "share": right / len(found), "low": low, "high": high}


def search_line(row: dict[str, Any]) -> str:
    shares = "  ".join(f"{each['share']:.2f} within {each['budget']}" for each in row["within"])
    return f"{shares}  ({row['different']:.0%} of the answers differ, {row['seconds']:.1f} s)  {row['name']}"


def by_vote(run: Path | str, precision: Precision, asked: AskedTrying, say: Say = lambda text: None) -> dict[str, Any]:
    """{"task", "accuracy", "low", "high", "refused", "taken_back", "forms": [{"name", "accuracy", "pass", ...}]}.

    The forms: before, with the gate, without it. Raises a WrenError for a mistake of the user.
    """
    config = MajorityConfig(rank=asked.rank, gate=VoteGate() if asked.gate else None, lr=asked.lr)
    with _ready(run, precision, asked, say) as (trier, learner):
        problems = trier.task.distinct(asked.seed, asked.count, asked.split)
        known = trier.task.distinct(asked.seed, asked.count, "val" if asked.split != "val" else "train")
        if not problems or not known:
            raise DataError(f"The task {trier.task.name} has no problems in '{asked.split}' and beside it.")
        forms = [_state("before", learner, problems, trier, say)]
        ways = {"by vote, with the gate" if asked.gate else "by vote, without a gate": config}
        if asked.gate and asked.compare:
            ways["by vote, without a gate"] = replace(config, gate=None)
        for name, way in ways.items():
            start = time.perf_counter()
            done = sharpen(learner, problems, known, way, trier, seed=asked.seed, say=say)
            row = _state(name, learner, problems, trier, say)
            forms.append({**row, **done._asdict(), "seconds": time.perf_counter() - start})
    keys = ("accuracy", "low", "high", "refused", "taken_back")
    return {"task": trier.task.name, "known": len(known), **{key: forms[1][key] for key in keys}, "forms": forms}


def _state(name: str, learner: Learner, problems: Sequence[Problem], trier: Trier, say: Say) -> dict[str, Any]:
    found = measured(trier, problems, _PASS, adapter=learner.number)
    low, high = ratio_interval(found["passes"], [1.0] * len(problems)) or (None, None)
    samples = [each.right for group in found["groups"] for each in group]
    row = {"name": name, **accuracy(found["right"]), "samples_right": sum(samples) / len(samples)}
    row |= {"pass": found["pass"], "pass_low": low, "pass_high": high, "k": _PASS}
    say(vote_line(row))
    return row


def vote_line(row: dict[str, Any]) -> str:
    interval = f"[{row['low']:.3f}, {row['high']:.3f}]"
    more = f"; {row['refused']}" if row.get("refused") else ""
    more += f"; put back, since {row['taken_back']}" if row.get("taken_back") else ""
    return f"{row['accuracy']:.3f} {interval} greedy, pass@{row['k']} {row['pass']:.3f}  {row['name']}{more}"
