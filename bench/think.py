"""What search and votes are worth to small models, against their likeliest reply and against larger models.

    python bench/think.py --tasks sort_numbers,countdown --ways best_of_n --times 4,16,64
    python bench/think.py --tasks chain_sum:steps:min_terms=4:max_terms=5:max_digits=1 --ways vote,auto --no-larger

What is measured is said in measures/thinking.py. The JSON is written after each pair of models; --done goes on.
"""

import argparse
import functools
import sys
from pathlib import Path

import torch
from measures import options, thinking
from measures.record import Record, rows_of
from measures.reinforcement import Terms
from rich import box
from rich.console import Console
from rich.table import Table

from wren import think
from wren.exits import exit_code
from wren.lab.machine import in_words

OUT = Path(__file__).parent / "out" / "think.json"
TASKS = "chain_sum:steps:min_terms=4:max_terms=5:max_digits=1,sort_numbers,countdown"
WAYS = "vote,auto,best_of_n"
LENGTHS = ((256, 64), (256, 256), (256, 1024), (1024, 64), (1024, 256), (1024, 1024), (4096, 4096))  # prompt and reply


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = found.add_argument
    add("--tasks", default=TASKS, help=f"default {TASKS}")
    add("--ways", default=WAYS, help=f"algorithms; default {WAYS}")
    add("--seeds", type=options.whole, default=3, help="how many")
    add("--seed", type=options.seed, default=0, help="the first one")
    add("--times", type=options.wholes, default=[4, 16, 64], help="budgets, in likeliest replies; default 4,16,64")
    add("--gold", type=options.whole, default=20_000, help="problems with solutions; default 20000")
    add("--start-steps", type=options.whole, default=300)
    add("--size", type=options.size, default="2x64", metavar="DEPTHxWIDTH")
    add("--larger", type=options.size, default="2x144", metavar="DEPTHxWIDTH", help="4 times the FLOPs of a token")
    add("--no-larger", action="store_true", help="leave the larger models out")
    add("--test", type=options.whole, default=200, help="held-out problems")
    add("--no-branches", action="store_true", help="leave the branches that memory holds out")
    add("--done", type=Path, nargs="+", default=[], metavar="JSON", help="models in these are not trained again")
    add("--json", type=Path, default=OUT, help="where the numbers go")
    return found


def main(arguments: list[str] | None = None) -> int:
    args = parser().parse_args(arguments)
    console, (depth, dim) = Console(), args.size
    ways, tasks = ([each.strip() for each in text.split(",")] for text in (args.ways, args.tasks))
    for name in ways:
        think.read(name)
    terms = Terms(
        tasks=tuple(tasks), seeds=tuple(range(args.seed, args.seed + args.seeds)), seconds=0.0, lrs={}, gold=args.gold,
        start_steps=args.start_steps, depth=depth, dim=dim, test=args.test,
    )  # fmt: skip
    done = [row for path in args.done for row in rows_of(path, "thinking")]
    record = Record.begin(args.json, torch.device("cpu"), vars(args))
    console.print(f"on {in_words(record.content['machine'])}", highlight=False)
    if not args.no_branches:
        show_branches(record, console)
    larger = None if args.no_larger else args.larger
    keep = functools.partial(record.put, "thinking")
    found = thinking.all_of(terms, larger, args.times, ways, console.print, keep, done)
    keep(found)
    for group in found["tasks"]:
        console.print(table(group))
    console.print(f"written to {args.json}", highlight=False)
    return 0


def show_branches(record: Record, console: Console) -> None:
    for prompt, reply in LENGTHS:
        row = thinking.branches(1 << 30, prompt, reply, 8, 512)
        record.put("branches", {f"{prompt}+{reply}": row})
        console.print(
            f"1 GiB, prompt {prompt}, reply {reply}: wren {row['wren']:,} branches, llama {row['llama']:,}, "
            f"{row['ratio']:.2f} times",
            highlight=False,
        )


def table(group: dict) -> Table:
    """Points are those of accuracy, +- half of a 95 % interval of the differences on the same problems."""
    columns = ("algorithm", "times", "right", "tokens", "over greedy", "over larger", "over vote", "vote's tokens")
    found = Table(
        box=box.SIMPLE, title=f"{group['task']}, {group['seeds']} seeds", pad_edge=False, padding=(0, 1, 0, 0)
    )
    for name in columns:
        found.add_column(name, justify="left" if name == "algorithm" else "right")
    for line in group["rows"]:
        over = [points(line.get(f"over_{other}")) for other in ("greedy", "larger", "vote")]
        found.add_row(
            f"{line['name']}, {line['params'] / 1e3:.0f}k", f"{line['times']}", f"{line['accuracy']['mean']:.1%}",
            f"{line['tokens']['mean']:.0f}", *over, f"{line['vote_tokens']:.1f}x" if "vote_tokens" in line else "",
        )  # fmt: skip
    return found


def points(over: dict | None) -> str:
    if over is None:
        return ""
    half = "" if over["low"] is None else f" +- {50 * (over['high'] - over['low']):.1f}"
    return f"{100 * over['mean']:+.1f}{half}"


if __name__ == "__main__":
    sys.exit(exit_code("think.py", main))
