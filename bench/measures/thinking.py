"""What inference-time compute is worth to small models that learned a task from solutions.

vote         accuracy of the likeliest reply and of votes within 1, 4, 16, ... times its tokens
verifier     the same for a search that may ask the verifier
auto         its tokens beside those of the least vote that is as good
sizes        a small model that searches beside a larger one's likeliest reply, FLOPs of all they read and generate
branches     samples that fit into the same memory, the prompt's prefix stored once for the recipe llama
"""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from measures.reinforcement import CPU, Say, Terms, a_start
from measures.training import build
from wren.generate.forward import Forward
from wren.generate.loading import load_run
from wren.lab.statistics import interval
from wren.precision import choose_precision
from wren.think import measure

FP32 = choose_precision(CPU, "fp32")


def measured(
    terms: Terms, task: str, seed: int, times: Sequence[int], algorithms: Sequence[str], say: Say
) -> list[dict[str, Any]]:
    """Rows of one model: each algorithm within so many times the budget of one answer. flops: of one problem."""
    with tempfile.TemporaryDirectory() as folder:
        run, _ = a_start(terms, task, Path(folder), seed)
        asked = measure.Asked(
            run=run, task=task, budgets=(1 << 20,), algorithms=tuple(algorithms), problems=terms.test, form="bare",
            split=terms.split,
        )  # fmt: skip
        plan = measure.plan(asked, FP32)
        params = load_run(run, CPU).model.num_params()
    prompt = max(len(plan.thinker.asker.prompt(problem)) for problem in plan.problems)
    one = plan.thinker.max_tokens
    flops = plan.thinker.engine.model.flops_per_token(prompt + one)
    size = {"task": task, "seed": seed, "depth": terms.depth, "dim": terms.dim, "params": params}
    rows = []
    for name, algorithm in plan.algorithms.items():
        for factor in times if name != "greedy" else (1,):
            row, _ = measure.cell(plan, name, algorithm, factor * one)
            rows.append({**size, **row, "times": factor, "flops": flops * (prompt + row["tokens"])})
            say(f"  {task}, seed {seed}, {terms.depth}x{terms.dim}: {name} x{factor} {row['accuracy']:.1%}, "
                f"{row['tokens']:.0f} tokens")  # fmt: skip
    return rows


def all_of(
    terms: Terms, larger: tuple[int, int], times: Sequence[int], say: Say, keep: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    """Every task and seed: the small model by all ways, the larger one by its likeliest reply."""
    rows: list[dict[str, Any]] = []
    ways = ("greedy", "vote", "auto", "best_of_n", "tree")
    for task in terms.tasks:
        for seed in terms.seeds:
            rows += measured(terms, task, seed, times, ways, say)
            keep({"rows": rows, "tasks": summary(rows)})
            large = replace(terms, depth=larger[0], dim=larger[1])
            rows += measured(large, task, seed, (1,), ("greedy",), say)
            keep({"rows": rows, "tasks": summary(rows)})
    return {"rows": rows, "tasks": summary(rows)}


def summary(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """For every task, over its seeds: what votes and the verifier's search gain over the small model's likeliest reply,
    auto's accuracy over it and the tokens of the least vote that is as good over auto's own, and the search's accuracy
    within the larger model's FLOPs over that model's."""
    found = []
    for task in dict.fromkeys(row["task"] for row in rows):
        values: dict[str, list[float]] = {}
        for seed in sorted({row["seed"] for row in rows if row["task"] == task}):
            own = [row for row in rows if (row["task"], row["seed"]) == (task, seed)]
            for key, value in _of_seed(own).items():
                values.setdefault(key, []).append(value)
        found.append({"task": task} | {key: asdict(interval(each)) for key, each in values.items()})
    return found


def _of_seed(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    small = min(row["params"] for row in rows)
    own = [row for row in rows if row["params"] == small]
    [greedy] = [row for row in own if row["name"] == "greedy"]
    found = {"greedy": greedy["accuracy"]}
    for row in own:
        if row is not greedy:
            found[f"{row['name']} x{row['times']}"] = row["accuracy"] - greedy["accuracy"]
    auto = max((row for row in own if row["name"] == "auto"), key=lambda row: row["times"])
    as_good = [row["tokens"] for row in own if row["name"] == "vote" and row["accuracy"] >= auto["accuracy"]]
    if as_good:
        found["vote's tokens / auto's"] = min(as_good) / auto["tokens"]
    for large in (row for row in rows if row["params"] != small):
        fits = [r["accuracy"] for r in own if r["name"] in ("best_of_n", "tree") and r["flops"] <= large["flops"]]
        found["larger, greedy"] = large["accuracy"]
        if fits:
            found["search - larger"] = max(fits) - large["accuracy"]
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
