"""Does the one dial of recipe wren hold over sizes? Losses at its own rates and at multiples of them, and the law.

    python bench/dial.py --corpus data/mine --depths 1,2,3 --scales 0.5,1,2 --tokens-per-param 2

The JSON is written after each training; with --done it goes on where an earlier one ended.
"""

import argparse
import functools
import sys
from pathlib import Path

from measures import dial, options
from measures.record import Record, rows_of
from rich.console import Console

from wren.errors import DataError
from wren.exits import exit_code
from wren.lab import compare_data
from wren.lab.machine import in_words
from wren.precision import choose_device

OUT = Path(__file__).parent / "out" / "dial.json"


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = found.add_argument
    add("--corpus", type=Path, required=True, help="a folder of `wren data`")
    add("--depths", type=options.wholes, default=[1, 2, 3], help="default 1,2,3")
    add("--scales", type=options.seconds, default=[0.5, 1.0, 2.0], help="multiples of the rates; default 0.5,1,2")
    add("--tokens-per-param", type=options.positive, default=2.0, help="of blocks and head; default 2")
    add("--seeds", type=options.whole, default=1, help="how many")
    add("--context", type=options.whole, default=256)
    add("--eval-tokens", type=options.whole, default=500_000, help="read of the validation split")
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of the recipe; repeat it")
    add("--device", default="auto", help="auto, cpu or cuda")
    add("--done", type=Path, nargs="+", default=[], metavar="JSON", help="trainings in these are not done again")
    add("--json", type=Path, default=OUT, help="where the numbers go")
    return found


def main(arguments: list[str] | None = None) -> int:
    args = parser().parse_args(arguments)
    console = Console()
    if not args.corpus.exists():
        raise DataError(f"{args.corpus} does not exist; check the path.")
    terms = dial.Terms(
        depths=tuple(args.depths), scales=tuple(args.scales), tokens_per_param=args.tokens_per_param,
        seeds=tuple(range(args.seeds)), context_len=args.context, settings=tuple(args.set),
        eval_tokens=args.eval_tokens,
    )  # fmt: skip
    text = compare_data.Text.open(args.corpus)
    device = choose_device(args.device)
    done = [row for path in args.done for row in rows_of(path, "dial")]
    record = Record.begin(args.json, device, vars(args))
    console.print(f"on {in_words(record.content['machine'])}", highlight=False)
    keep = functools.partial(record.put, "dial")
    result = dial.measure(text, terms, device, say=console.print, keep=keep, done=done)
    keep(result)
    dial.show(result, console)
    console.print(f"written to {args.json}", highlight=False)
    return 0


if __name__ == "__main__":
    sys.exit(exit_code("dial.py", main))
