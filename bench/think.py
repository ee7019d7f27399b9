"""What search and votes are worth to small models, against their likeliest reply and against larger models.

    python bench/think.py --tasks reverse_word,sort_numbers,countdown --seeds 3 --times 4,16,64

What is measured is said in measures/thinking.py. The JSON is written after each model.
"""

import argparse
import functools
import sys
from pathlib import Path

import torch
from measures import options, thinking
from measures.record import Record
from measures.reinforcement import Terms
from rich.console import Console

from wren.exits import exit_code
from wren.lab.machine import in_words

OUT = Path(__file__).parent / "out" / "think.json"
TASKS = "reverse_word,sort_numbers,countdown"
LENGTHS = ((256, 64), (1024, 64), (1024, 1024), (4096, 256))  # tokens of prompt and reply


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = found.add_argument
    add("--tasks", default=TASKS, help=f"default {TASKS}")
    add("--seeds", type=options.whole, default=3, help="how many")
    add("--times", type=options.wholes, default=[4, 16, 64], help="budgets, in longest replies; default 4,16,64")
    add("--gold", type=options.whole, default=2000, help="problems with solutions; default 2000")
    add("--start-steps", type=options.whole, default=300)
    add("--size", type=options.size, default="2x64", metavar="DEPTHxWIDTH")
    add("--larger", type=options.size, default="2x128", metavar="DEPTHxWIDTH", help="about 4 times the parameters")
    add("--test", type=options.whole, default=200, help="held-out problems")
    add("--json", type=Path, default=OUT, help="where the numbers go")
    return found


def main(arguments: list[str] | None = None) -> int:
    args = parser().parse_args(arguments)
    console = Console()
    (depth, dim), tasks = args.size, tuple(each.strip() for each in args.tasks.split(","))
    terms = Terms(
        tasks=tasks, seeds=tuple(range(args.seeds)), seconds=0.0, lrs={}, gold=args.gold,
        start_steps=args.start_steps, depth=depth, dim=dim, test=args.test,
    )  # fmt: skip
    record = Record.begin(args.json, torch.device("cpu"), vars(args))
    console.print(f"on {in_words(record.content['machine'])}", highlight=False)
    for prompt, reply in LENGTHS:
        row = thinking.branches(1 << 30, prompt, reply, 8, 512)
        record.put("branches", {f"{prompt}+{reply}": row})
        console.print(
            f"1 GiB, prompt {prompt}, reply {reply}: wren {row['wren']:,} branches, llama {row['llama']:,}, "
            f"{row['ratio']:.2f} times",
            highlight=False,
        )
    keep = functools.partial(record.put, "thinking")
    result = thinking.all_of(terms, args.larger, args.times, console.print, keep)
    for group in result["tasks"]:
        console.print(f"\n{group['task']}")
        for key, found in group.items():
            if key != "task":
                half = "" if found["half"] is None else f" +- {found['half']:.3f}"
                console.print(f"  {key:28} {found['mean']:+.3f}{half}", highlight=False)
    console.print(f"written to {args.json}", highlight=False)
    return 0


if __name__ == "__main__":
    sys.exit(exit_code("think.py", main))
