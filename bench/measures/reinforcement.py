"""What reinforcement adds to fine-tuning: the same start goes on for equal seconds in three ways.

A small model learns a task from `gold` problems with their solutions (the start). From there

    reinforced   problems without end, no solution of any, the verifier's score alone   (wren play --task)
    fine-tuned   the same gold problems with their solutions, further
    unlimited    problems without end, all with their solutions: what the verifier saves one from writing

Greedy answers to held-out problems, pass@k of samples beside them. B rows, T time.
"""

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from measures.training import trained
from wren import checkpoint, recipes
from wren import config as configs
from wren.batch import IGNORE, Batch
from wren.generate import Engine, load_run
from wren.lab.statistics import interval
from wren.loss import cross_entropy
from wren.model import LM
from wren.optim.optimizer import OptimizerConfig
from wren.optim.schedule import ScheduleConfig
from wren.precision import Precision, choose_precision
from wren.recipes import RunConfig
from wren.rl.held_out import solved
from wren.rl.reinforce import reinforce
from wren.rl.rollout import RolloutConfig, ask
from wren.rl.settings import Asked
from wren.run import Run
from wren.tasks import prompts
from wren.tasks.task import Problem, Split, Task
from wren.think.asker import Asker, read_task
from wren.tokenizer import Tokenizer
from wren.train import measure_step_seconds, train

CPU = torch.device("cpu")
WAYS = ("reinforced", "fine-tuned", "unlimited")
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Terms:
    """gold: problems with solutions. start_steps: of the start. seconds: that each way goes on. lrs: by way. whole: the
    start learns to write problems too. others: a task whose problems it learns to write, unsolved. settings: of
    the recipe."""

    tasks: tuple[str, ...]
    seeds: tuple[int, ...]
    seconds: float
    lrs: dict[str, float]
    ways: tuple[str, ...] = WAYS
    gold: int = 2000
    start_steps: int = 300
    depth: int = 2
    dim: int = 64
    batch_size: int = 64
    vocab_size: int = 270
    prompts: int = 64
    samples: int = 8
    test: int = 500
    split: Split = "test"
    whole: bool = False
    others: str | None = None
    settings: tuple[str, ...] = ()


@dataclass
class Solutions:
    """Problems with what a model is to say, one a row. gold: how many different ones there are, None = no end. whole:
    the problem's text is learned too, so that the model can invent others. others: every second row is a problem of
    this task without a solution."""

    task: Task
    tokenizer: Tokenizer
    batch_size: int
    seed: int
    gold: int | None
    row: int = 0
    whole: bool = False
    others: Task | None = None

    def next_batch(self) -> Batch:
        rows = []
        for _ in range(self.batch_size):
            rows.append(self._unsolved() if self.others is not None and self.row % 2 else self._row(self._problem()))
            self.row += 1
        longest = max(len(tokens) for tokens, _ in rows) - 1
        tokens_BT = torch.full((len(rows), longest), self.tokenizer.pad_id)
        targets_BT = torch.full((len(rows), longest), IGNORE)
        for i, (tokens, begun) in enumerate(rows):
            whole = torch.tensor(tokens)
            tokens_BT[i, : len(whole) - 1] = whole[:-1]
            begun = 1 if self.whole else begun
            targets_BT[i, begun - 1 : len(whole) - 1] = whole[begun:]
        return Batch(tokens_BT, targets_BT)

    def _problem(self) -> Problem:
        if self.gold is None:
            return self.task.problem(self.seed + 50_000, self.row, "train")
        turn, place = divmod(self.row, self.gold)
        order = torch.randperm(self.gold, generator=torch.Generator().manual_seed(self.seed * 10_007 + turn))
        return self.task.problem(self.seed + 10_000, int(order[place]), "train")

    def _unsolved(self) -> tuple[list[int], int]:
        assert self.others is not None
        problem = self.others.problem(self.seed + 20_000, self.row % (self.gold or self.row + 1), "train")
        return prompts.tokens(problem, self.tokenizer, "bare"), 1

    def _row(self, problem: Problem) -> tuple[list[int], int]:
        begun = prompts.tokens(problem, self.tokenizer, "bare")
        return [*begun, *self.tokenizer.encode(problem.said), self.tokenizer.document_id], len(begun)

    def state(self) -> dict[str, Any]:
        return {"row": self.row}

    def load_state(self, state: dict[str, Any]) -> None:
        self.row = state["row"]


def measure(
    terms: Terms, say: Say, keep: Callable[[dict[str, Any]], None], done: Sequence[dict[str, Any]] = ()
) -> dict[str, Any]:
    """A row for every task, seed and way; keep gets what there is after each."""
    rows = list(done)
    known = {(row["task"], row["seed"], row["way"]) for row in rows}
    for task in terms.tasks:
        for seed in terms.seeds:
            if all((task, seed, way) in known for way in ("start", *terms.ways)):
                continue
            with tempfile.TemporaryDirectory() as folder:
                for row in _ways(terms, task, seed, Path(folder), say):
                    rows.append(row)
                    keep(result(rows))
    return result(rows)


def _ways(terms: Terms, name: str, seed: int, folder: Path, say: Say) -> Iterator[dict[str, Any]]:
    """A row for the start and for every way to go on."""
    task, precision = read_task(name), choose_precision(CPU, "fp32")
    start, room = a_start(terms, name, folder, seed)
    model, tokenizer, _ = load_run(start, CPU)
    asker = Asker(task, tokenizer, "bare")
    test = task.distinct(1, terms.test, terms.split)

    def scored(way: str, trained_model: LM, seconds: float, **more: Any) -> dict[str, Any]:
        found = solved(trained_model, asker, test, precision, samples=terms.samples, max_tokens=room)
        passes = {f"pass_{k}": share for k, (share, _) in found["passes"].items()}
        shown = ", ".join(f"{k} {v:.1%}" for k, v in passes.items())
        say(f"  {name}, seed {seed}: {way} {found['accuracy']:.1%}, {shown}")
        return {
            "task": name, "seed": seed, "way": way, "accuracy": found["accuracy"], "count": found["count"], **passes,
            "seconds": seconds, "params": trained_model.num_params(), **more,
        }  # fmt: skip

    yield scored("start", model, 0.0)
    for way in terms.ways:
        if way == "reinforced":
            asked = Asked(
                run=start, task=name, out=folder / way, form="bare", seconds=terms.seconds, lr=terms.lrs[way],
                prompts=terms.prompts, samples=terms.samples, max_tokens=room, problems=50, seed=seed,
                settings=("train.eval_every=0", "train.save_every=0"),
            )  # fmt: skip
            found = reinforce(asked, device="cpu", say=lambda text: None)
            more = {k: found[k] for k in ("steps", "samples", "samples_per_second", "largest_logprob_difference")}
            yield scored(way, load_run(folder / way, CPU).model, found["seconds"], lr=terms.lrs[way], **more)
        else:
            gold_of = terms.gold if way == "fine-tuned" else None
            begun = terms.start_steps * terms.batch_size
            batches = Solutions(task, tokenizer, terms.batch_size, seed, gold_of, row=begun)
            on, row = _further(start, batches, terms, terms.lrs[way], folder / way, precision)
            yield scored(way, on, row["seconds"], lr=terms.lrs[way], steps=row["steps"])


def a_start(terms: Terms, name: str, folder: Path, seed: int = 0) -> tuple[Path, int]:
    """The run that all ways begin with, and the most tokens that an answer may have."""
    task = read_task(name)
    gold = [task.problem(seed + 10_000, i, "train") for i in range(terms.gold)]
    tokenizer = Tokenizer.train([prompts.document(problem, "bare") for problem in gold], terms.vocab_size)
    config = _config(terms, tokenizer, seed)
    others = None if terms.others is None else read_task(terms.others)
    batches = Solutions(task, tokenizer, terms.batch_size, seed, terms.gold, whole=terms.whole, others=others)
    model, _ = trained(config, batches, CPU, lambda text: None)
    room = max(len(tokenizer.encode(problem.said)) for problem in gold) + 4
    return _saved(config, model, tokenizer, folder / "start"), room


def _config(terms: Terms, tokenizer: Tokenizer, seed: int) -> RunConfig:
    settings = [f"depth={terms.depth}", f"dim={terms.dim}", "context_len=128", f"batch_size={terms.batch_size}"]
    settings += [f"steps={terms.start_steps}", f"seed={seed}", *terms.settings]
    config = recipes.build("wren", vocab_size=tokenizer.vocab_size, settings=settings)
    return replace(config, train=replace(config.train, dtype="fp32"))


def _saved(config: RunConfig, model: LM, tokenizer: Tokenizer, path: Path) -> Path:
    run = Run(path)
    run.create(configs.to_json(config))
    tokenizer.save(run.tokenizer_path)
    checkpoint.save(run.checkpoints_path, config.train.steps, checkpoint.weights(model), {}, {})
    return path


def _further(
    start: Path, batches: Solutions, terms: Terms, lr: float, path: Path, precision: Precision
) -> tuple[LM, dict[str, Any]]:
    """Fine-tuned for so many seconds, by the optimizer and the schedule that reinforcement has."""
    raw = Run(start).config()
    config = configs.from_json(RunConfig, raw)
    config = replace(
        config,
        optimizer=OptimizerConfig(lr=lr, betas=(0.9, 0.95), weight_decay=0.0),
        schedule=ScheduleConfig(kind="wsd", warmup_steps=10, decay=0.3, final=0.1),
        train=replace(config.train, eval_every=0, save_every=0),
    )
    model = load_run(start, CPU).model
    optimizer = config.optimizer.build(model)
    step = measure_step_seconds(model, optimizer, batches, cross_entropy, config.train, precision, warmup=2, steps=5)
    config = replace(config, train=replace(config.train, steps=max(1, int(terms.seconds / step))))
    run = Run(path)
    run.create(configs.to_json(config))
    progress = train(
        model, optimizer, batches, cross_entropy, run, config.train, config.schedule, precision, say=lambda text: None
    )  # fmt: skip
    return model.eval(), {"steps": progress.step, "seconds": progress.seconds}


def result(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The rows, and for every task the ways over its seeds: accuracy, and what reinforcement gains over each."""
    groups = []
    for task in dict.fromkeys(row["task"] for row in rows):
        own = [row for row in rows if row["task"] == task]
        ways = {way: {row["seed"]: row["accuracy"] for row in own if row["way"] == way} for way in ("start", *WAYS)}
        found: dict[str, Any] = {"task": task}
        found |= {way: asdict(interval(list(by_seed.values()))) for way, by_seed in ways.items() if by_seed}
        for way in ("start", "fine-tuned", "unlimited"):
            both = sorted(set(ways["reinforced"]) & set(ways[way]))
            if both:
                found[f"over {way}"] = asdict(interval([ways["reinforced"][s] - ways[way][s] for s in both]))
        groups.append(found)
    return {"rows": list(rows), "tasks": groups}


def rollout_speed(terms: Terms, run: Path, name: str, say: Say) -> dict[str, Any]:
    """Samples a second of one round, all prompts together, and of the same samples asked prompt after prompt."""
    loaded, task = load_run(run, CPU), read_task(name)
    asker, precision = Asker(task, loaded.tokenizer, "bare"), choose_precision(CPU, "fp32")
    config = RolloutConfig(prompts=terms.prompts, samples=16, max_tokens=24)
    problems = list(task.problems(3, config.prompts))
    engine = Engine(loaded.model, precision, vocab_size=loaded.tokenizer.vocab_size, max_rows=4096)
    times: dict[str, list[float]] = {"together": [], "one prompt at a time": []}
    for repeat in range(4):  # in turn, so that a slow minute hits both; the first is not counted
        for way, parts in (("together", [problems]), ("one prompt at a time", [[each] for each in problems])):
            begun = time.perf_counter()
            for part in parts:
                ask(asker, engine, part, config.samples, config.sampling(repeat))
            if repeat:
                times[way].append(time.perf_counter() - begun)
    count = config.prompts * config.samples
    speed = {way: count / statistics.median(found) for way, found in times.items()}
    say(f"{name}: {json.dumps({way: round(value) for way, value in speed.items()})} samples a second")
    return {"task": name, **speed, "ratio": speed["together"] / speed["one prompt at a time"]}
