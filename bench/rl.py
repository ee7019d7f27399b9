"""Reinforcement on tasks beside fine-tuning for equal seconds, from one start, and the speed of rollouts.

    python bench/rl.py --tasks reverse_word,sort_numbers,countdown --seeds 3 --seconds 60

What is compared is said in measures/reinforcement.py. The JSON is written after each training; --done goes on.
"""

import argparse
import functools
import sys
import tempfile
from pathlib import Path

import torch
from measures import options, reinforcement
from measures.record import Record, rows_of
from rich import box
from rich.console import Console
from rich.table import Table

from wren.errors import ConfigError, unknown_key
from wren.exits import exit_code
from wren.lab.machine import in_words

OUT = Path(__file__).parent / "out" / "rl.json"
TASKS = "reverse_word,sort_numbers,countdown"
LRS = {"reinforced": 1e-3, "fine-tuned": 3e-4, "unlimited": 1e-3}


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = found.add_argument
    add("--tasks", default=TASKS, help=f"default {TASKS}")
    add("--seeds", type=options.whole, default=3, help="how many")
    add("--seed", type=options.seed, default=0, help="the first one")
    add("--seconds", type=options.positive, default=60.0, help="that each way goes on; default 60")
    add("--ways", default=",".join(reinforcement.WAYS), help="default all three")
    add("--lr", action="append", default=[], metavar="WAY=RATE", help="a way's learning rate; repeat it")
    add("--gold", type=options.whole, default=2000, help="problems with solutions; default 2000")
    add("--start-steps", type=options.whole, default=300)
    add("--size", type=options.size, default="2x64", metavar="DEPTHxWIDTH")
    add("--test", type=options.whole, default=500, help="held-out problems")
    add("--split", choices=["val", "test"], default="test", help="val to choose rates by")
    add("--no-speed", action="store_true", help="leave the speed of rollouts out")
    add("--done", type=Path, nargs="+", default=[], metavar="JSON", help="trainings in these are not done again")
    add("--json", type=Path, default=OUT, help="where the numbers go")
    return found


def terms_of(args: argparse.Namespace) -> reinforcement.Terms:
    """Raises ConfigError for an unknown way or rate."""
    lrs = dict(LRS)
    for text in args.lr:
        way, equals, rate = text.partition("=")
        if way not in lrs or not equals:
            raise ConfigError(unknown_key("The way of --lr", way, lrs))
        try:
            lrs[way] = float(rate)
        except ValueError:
            raise ConfigError(f"--lr {text}: '{rate}' is no number.") from None
    ways = tuple(each.strip() for each in args.ways.split(","))
    for way in ways:
        if way not in reinforcement.WAYS:
            raise ConfigError(unknown_key("Way", way, reinforcement.WAYS))
    depth, dim = args.size
    seeds = tuple(range(args.seed, args.seed + args.seeds))
    return reinforcement.Terms(
        tasks=tuple(each.strip() for each in args.tasks.split(",")), seeds=seeds, seconds=args.seconds, lrs=lrs,
        ways=ways, gold=args.gold, start_steps=args.start_steps, depth=depth, dim=dim, test=args.test,
        split=args.split,
    )  # fmt: skip


def show(result: dict, console: Console) -> None:
    names = ("start", *reinforcement.WAYS, "over fine-tuned")
    table = Table("task", *names, title="Held-out problems solved, %", box=box.SIMPLE)
    for group in result["tasks"]:
        cells = []
        for name in names:
            found = group.get(name)
            half = None if found is None else found["half"]
            shown = "" if found is None else f"{100 * found['mean']:.1f}"
            cells.append(shown if half is None else f"{shown} +- {100 * half:.1f}")
        table.add_row(group["task"], *cells)
    console.print(table)


def main(arguments: list[str] | None = None) -> int:
    args = parser().parse_args(arguments)
    console, terms = Console(), terms_of(args)
    done = [row for path in args.done for row in rows_of(path, "reinforcement")]
    record = Record.begin(args.json, torch.device("cpu"), vars(args))
    console.print(f"on {in_words(record.content['machine'])}", highlight=False)
    keep = functools.partial(record.put, "reinforcement")
    result = reinforcement.measure(terms, console.print, keep, done)
    keep(result)
    show(result, console)
    if not args.no_speed:
        with tempfile.TemporaryDirectory() as folder:
            run, _ = reinforcement.a_start(terms, terms.tasks[0], Path(folder))
            speed = reinforcement.rollout_speed(terms, run, terms.tasks[0], console.print)
        record.put("rollout", speed)
    console.print(f"written to {args.json}", highlight=False)
    return 0


if __name__ == "__main__":
    sys.exit(exit_code("rl.py", main))
