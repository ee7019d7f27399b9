"""What inference-time compute is worth to small models that learned a task from solutions.

times        accuracy within 4, 16, ... times the tokens of the likeliest reply (greedy), by votes and by searches
auto         its accuracy beside greedy's, and its tokens beside those of the least vote that is as good
larger       a small model that searches beside a larger one's likeliest reply, within the FLOPs of that: of all tokens
             that are read and generated; the larger one's training took more of them
branches     samples that fit into the same memory, the prompt's prefix stored once for the recipe llama

Models have no table of bigrams: it would hold more parameters than all else. Differences are paired: on each problem.
"""

import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from measures.reinforcement import CPU, Say, Terms, a_start
from measures.training import build
from wren import think
from wren.generate.forward import Forward
from wren.generate.loading import load_run
from wren.intervals import ratio_interval
from wren.lab.statistics import interval
from wren.precision import choose_precision
from wren.think import measure

FP32 = choose_precision(CPU, "fp32")
HEADS = (64, 48, 32, 16)  # widths
VERIFIED = ("best_of_n", "tree")
Keep = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Trained:
    """A model that learned a task. prompt: tokens of one in the mean. flops: of a token."""

    plan: measure.Plan
    prompt: float
    flops: float
    known: dict[str, Any]

    def row(self, name: str, budget: int, **more: Any) -> dict[str, Any]:
        """One algorithm: right is a digit for each problem, flops those of one problem in the mean."""
        row, solved = measure.cell(self.plan, name, think.read(name), budget)
        row["right"] = "".join(str(int(each.right)) for each in solved)
        if name == "vote":
            row["pass_1"] = measure.passes(self.plan.thinker, solved)[0]["pass"]
        return {**self.known, **row, "flops": self.flops * (self.prompt + row["tokens"]), **more}


def trained_on(terms: Terms, task: str, seed: int) -> Trained:
    head = next(head for head in HEADS if terms.dim % head == 0 and head < terms.dim)
    terms = replace(terms, settings=(*terms.settings, "bigrams=0", f"head_dim={head}"))
    with tempfile.TemporaryDirectory() as folder:
        run, _ = a_start(terms, task, Path(folder), seed)
        asked = measure.Asked(
            run=run, task=task, budgets=(1 << 20,), problems=terms.test, form="bare", split=terms.split, seed=1
        )  # fmt: skip
        plan = measure.plan(asked, FP32)
        model = load_run(run, CPU).model
    prompts = [len(plan.thinker.asker.prompt(problem)) for problem in plan.problems]
    known = {
        "task": task, "seed": seed, "depth": terms.depth, "dim": terms.dim, "steps": terms.start_steps,
        "params": model.num_params(), "without_tables": model.num_params() - model.table_params(),
    }  # fmt: skip
    flops = model.flops_per_token(max(prompts) + plan.thinker.max_tokens)
    return Trained(plan, sum(prompts) / len(prompts), flops, known)


def all_of(
    terms: Terms,
    larger: tuple[int, int] | None,
    times: Sequence[int],
    ways: Sequence[str],
    say: Say,
    keep: Keep,
    done: Sequence[dict[str, Any]] = (),
) -> dict[str, Any]:
    """Every task and seed: the small model by all ways, and the larger one's likeliest reply. done: rows there are."""
    rows = list(done)
    known = {(row["task"], row["seed"]) for row in rows}
    for seed in terms.seeds:
        for task in terms.tasks:
            if (task, seed) not in known:
                rows += _of_pair(terms, larger, task, seed, times, ways, say)
                keep(result(rows))
    return result(rows)


def _of_pair(
    terms: Terms, larger: tuple[int, int] | None, task: str, seed: int, times: Sequence[int], ways: Sequence[str],
    say: Say,
) -> list[dict[str, Any]]:  # fmt: skip
    small, rows = trained_on(terms, task, seed), []

    def keep(row: dict[str, Any]) -> dict[str, Any]:
        rows.append(row)
        say(f"  {task}, seed {seed}, {row['depth']}x{row['dim']}: {row['name']} x{row['times']} "
            f"{row['accuracy']:.1%}, {row['tokens']:.0f} tokens")  # fmt: skip
        return row

    greedy = keep(small.row("greedy", 1 << 20, times=1))
    for name in ways:
        for factor in times:
            budget = max(math.floor(factor * greedy["tokens"]), small.plan.answer_tokens)
            keep(small.row(name, budget, times=factor))
    if larger is not None:
        large = keep(
            trained_on(replace(terms, depth=larger[0], dim=larger[1]), task, seed).row("greedy", 1 << 20, times=1)
        )
        budget = math.floor(large["flops"] / small.flops - small.prompt)
        for name in ways:
            keep(small.row(name, max(budget, small.plan.answer_tokens), times="larger"))
    return rows


def result(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The rows, and for every task what its seeds say."""
    found = []
    for task in dict.fromkeys(row["task"] for row in rows):
        own = [row for row in rows if row["task"] == task]
        found.append({"task": task, "seeds": len({row["seed"] for row in own}), "rows": _lines(own)})
    return {"rows": list(rows), "tasks": found}


def _lines(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """For every algorithm, times and size: accuracy and tokens over the seeds, and what is gained over the small
    model's likeliest reply and over the larger one's; for auto, what the vote of as good a result costs."""
    small = min(row["params"] for row in rows)
    greedy = {r["seed"]: r for r in rows if r["name"] == "greedy" and r["params"] == small}
    larger = {r["seed"]: r for r in rows if r["name"] == "greedy" and r["params"] != small}
    lines = []
    for params, name, times in dict.fromkeys((r["params"], r["name"], r["times"]) for r in rows):
        own = {r["seed"]: r for r in rows if (r["params"], r["name"], r["times"]) == (params, name, times)}
        line: dict[str, Any] = {"name": name, "times": times, "params": params}
        for key in ("accuracy", "tokens", "flops"):
            line[key] = asdict(interval([r[key] for r in own.values()]))
        if all("pass_1" in r for r in own.values()):
            line["pass_1"] = asdict(interval([r["pass_1"] for r in own.values()]))
        if name != "greedy":
            line["over_greedy"] = over(own, greedy)
        if times == "larger":
            line["over_larger"] = over(own, larger)
        if name == "auto":
            line |= _beside_votes(own, [r for r in rows if r["name"] == "vote" and r["times"] != "larger"], times)
        lines.append(line)
    return lines


def over(rows: dict[int, dict[str, Any]], others: dict[int, dict[str, Any]]) -> dict[str, Any]:
    """The difference of two algorithms on the same problems, of all seeds together, and of the seeds as values."""
    pairs = [(rows[seed]["right"], others[seed]["right"]) for seed in rows]
    each = [int(a) - int(b) for one, other in pairs for a, b in zip(one, other, strict=True)]
    low, high = ratio_interval(each, [1.0] * len(each)) or (None, None)
    seeds = interval([rows[seed]["accuracy"] - others[seed]["accuracy"] for seed in rows])
    return {"mean": sum(each) / len(each), "low": low, "high": high, "over_seeds": asdict(seeds)}


def _beside_votes(autos: dict[int, dict[str, Any]], votes: Sequence[dict[str, Any]], times: Any) -> dict[str, Any]:
    """Auto beside the vote within the same budget, and beside the cheapest vote whose accuracy over all seeds is as
    good: the vote's tokens over auto's."""
    accuracy = sum(row["accuracy"] for row in autos.values())
    tokens = sum(row["tokens"] for row in autos.values())
    found: dict[str, Any] = {}
    for each in sorted({row["times"] for row in votes}):
        own = {row["seed"]: row for row in votes if row["times"] == each}
        if set(own) != set(autos):
            continue
        saved = sum(row["tokens"] for row in own.values()) / tokens
        if each == times:
            found |= {"vote_tokens": saved, "over_vote": over(autos, own)}
        if "as_good_a_vote" not in found and sum(row["accuracy"] for row in own.values()) >= accuracy:
            found |= {"as_good_a_vote": each, "as_good_tokens": saved}
    return found


def branches(memory: int, prompt: int, reply: int, depth: int, dim: int) -> dict[str, Any]:
    """How many samples of a prompt fit into so many bytes: recipe wren with a whole state each, recipe llama with the
    prompt's keys and values stored once and those of its own reply each. Counted without memory, in 32 bits."""
    held: dict[str, int] = {}
    for name in ("wren", "llama"):
        config = build(name, 4096, depth, dim, [f"context_len={prompt + reply}"])
        forward = Forward(config.model.build(), FP32)
        whole, shared = forward.row_bytes(prompt + reply), forward.row_bytes(prompt)
        held[name] = memory // whole if name == "wren" else (memory - shared) // max(1, whole - shared)
    return {"memory": memory, "prompt": prompt, "reply": reply, **held, "ratio": held["wren"] / max(1, held["llama"])}
