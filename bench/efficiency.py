"""How much sooner and smaller Wren's recipe is than what people train: one command, three parts, one JSON.

    python bench/efficiency.py --text tinyshakespeare.txt --corpus train.jsonl.zst --corpus-val val.jsonl.zst

characters  nats a character of Shakespeare: nanoGPT's CPU example beside wren for several budgets (needs --text)
text        bits per byte of a corpus: gpt2, llama and Muon beside wren at parts of their time (needs --corpus)
inference   bytes of state, and decoding speed after long prompts, beside llama

Without --parts all are done that the inputs allow, in at most 30 minutes of two cores with one seed; every further seed
adds the time of characters and text once more. Each part's file in bench/measures says what is counted. The JSON is
written after each training and each part.
"""

import argparse
import functools
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from measures import characters, inference, options, race
from measures.paces import Paces
from measures.record import Record, rows_of
from rich.console import Console

from wren.data.shards import MANIFEST
from wren.errors import ConfigError, DataError, unknown_key
from wren.exits import exit_code
from wren.lab import compare_data
from wren.lab.machine import in_words
from wren.precision import choose_precision

OUT = Path(__file__).parent / "out" / "efficiency.json"
CPU = torch.device("cpu")
Keep = Callable[[dict[str, Any]], None]
PARTS = ("characters", "text", "inference")
MINUTES = 30.0  # that the defaults below are for
SECONDS, TEXT_SECONDS, REPEATS = (7.0, 15.0, 60.0, 119.0, 300.0), 100.0, 3


def parts_of(args: argparse.Namespace) -> list[str]:
    """What is to be done; raises ConfigError for an unknown part, or one whose input is missing."""
    inputs = {"characters": args.text is not None, "text": args.corpus is not None, "inference": True}
    if args.parts is None:
        return [part for part in PARTS if inputs[part]]
    asked = [part.strip() for part in args.parts.split(",") if part.strip()]
    for part in asked:
        if part not in PARTS:
            raise ConfigError(unknown_key("Part", part, PARTS))
        if not inputs[part]:
            raise ConfigError(f"Part {part} needs --{'text' if part == 'characters' else 'corpus'} FILE.")
    if not asked:
        raise ConfigError(f"--parts is empty; choose from {', '.join(PARTS)}, or leave it out.")
    return [part for part in PARTS if part in asked]


def do_characters(args: argparse.Namespace, console: Console, keep: Keep) -> None:
    seconds = args.seconds or [value * args.minutes / MINUTES for value in SECONDS]
    result = characters.measure(
        characters.Text.read(args.text, tune=args.tune), seeds=_seeds(args), seconds=seconds, settings=args.set,
        baseline=None if args.no_baseline else {"steps": args.baseline_steps}, say=console.print, keep=keep,
        paces=Paces(args.paces), done=args.done.get("characters", []),
    )  # fmt: skip
    characters.show(result, console)


def do_text(args: argparse.Namespace, console: Console, keep: Keep) -> None:
    chosen = race.CONTESTANTS if args.arms is None else race.read_contestants(args.arms, args.vocab_size)
    depth, dim = args.size
    terms = race.Terms(
        depth=depth, dim=dim, context_len=args.context, seeds=tuple(_seeds(args)), eval_tokens=args.eval_tokens,
        seconds=args.text_seconds or TEXT_SECONDS * args.minutes / MINUTES, fractions=tuple(args.fractions),
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        result = race.race(
            chosen, _corpus(args, Path(folder), console), terms, CPU, say=console.print, keep=keep,
            paces=Paces(args.paces), done=args.done.get("text", []),
        )  # fmt: skip
    race.show(result, console)


def _corpus(args: argparse.Namespace, folder: Path, console: Console) -> compare_data.Text:
    """--corpus opened, or prepared into `folder`; a file's validation split may lie beside it."""
    if (args.corpus / MANIFEST).is_file() or args.corpus.is_dir():
        if args.corpus_val is not None:
            raise ConfigError(f"{args.corpus} is a folder with a validation split of its own; leave --corpus-val out.")
        return compare_data.Text.open(args.corpus)
    val = args.corpus_val
    if val is None and "train" in args.corpus.name:
        beside = args.corpus.with_name(args.corpus.name.replace("train", "val"))
        val = beside if beside.exists() else None
    console.print(f"{args.corpus}, validated on {val or 'a part of it that is held out'}", highlight=False)
    found = compare_data.prepare_all(
        [args.vocab_size], folder, source=[str(args.corpus)], val=[] if val is None else [str(val)], data=None,
        text_key="text", fresh=False, say=console.print,
    )  # fmt: skip
    return found[args.vocab_size]


def do_inference(args: argparse.Namespace, console: Console, keep: Keep) -> None:
    depth, dim = args.infer_size
    configs = inference.contestants(depth, dim, args.vocab_size)
    repeats = args.repeats or max(2, round(REPEATS * args.minutes / MINUTES))
    result = inference.measure(
        configs, choose_precision(CPU), lengths=args.state_lengths, contexts=args.infer_contexts, repeats=repeats,
        say=console.print,
    )  # fmt: skip
    keep(result)
    inference.show(result, console)


def _seeds(args: argparse.Namespace) -> list[int]:
    return list(range(args.seed, args.seed + args.seeds))


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = found.add_argument
    add("--parts", help="comma-separated, of characters, text and inference; default: all that the inputs allow")
    add("--minutes", type=options.positive, default=MINUTES, help="scales the times that are not given by themselves")
    add("--seed", type=options.seed, default=0, help="the first seed")
    add("--seeds", type=options.whole, default=1, help="how many, paired; intervals from 2 on")
    add("--vocab-size", type=options.whole, default=4096, help="of text and inference")
    add("--paces", type=Path, help="step times are kept in this file, and from then on seconds are steps times these")
    add("--done", type=Path, nargs="+", default=[], metavar="JSON", help="trainings in these are not done again")
    add("--json", type=Path, default=OUT, help="where the numbers go")
    group = found.add_argument_group("characters")
    group.add_argument("--text", type=Path, help="tinyshakespeare")
    group.add_argument("--seconds", type=options.seconds, help="budgets of wren; default 7,15,60,119,300")
    group.add_argument("--no-baseline", action="store_true", help="do not train gpt2")
    group.add_argument(
        "--baseline-steps", type=options.whole, default=characters.NANOGPT["steps"], help="2000 = nanoGPT's"
    )
    group.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of wren; repeat it")
    group.add_argument("--tune", action="store_true", help="validate on the last 5 %% of the training split instead")
    group = found.add_argument_group("text")
    group.add_argument("--corpus", type=Path, help="a text file (.txt, .jsonl, .zst, ...) or a folder of `wren data`")
    group.add_argument("--corpus-val", type=Path, help="default: the file beside it with val for train, else a part")
    group.add_argument("--text-seconds", type=options.positive, help="S, each baseline's time; default 100")
    group.add_argument("--size", type=options.size, default="4x128", metavar="DEPTHxWIDTH")
    group.add_argument("--context", type=options.whole, default=256)
    group.add_argument(
        "--fractions", type=options.seconds, default=race.FRACTIONS, help="of S, what wren is trained for"
    )
    group.add_argument("--eval-tokens", type=options.whole, default=500_000, help="read of the validation split")
    group.add_argument("--arms", help="other arms, as for `wren compare --recipes`; one is named wren")
    group = found.add_argument_group("inference")
    group.add_argument("--infer-size", type=options.size, default="8x512", metavar="DEPTHxWIDTH")
    group.add_argument(
        "--infer-contexts", type=options.wholes, default=inference.CONTEXTS, help="tokens of the prompts"
    )
    group.add_argument(
        "--state-lengths", type=options.wholes, default=inference.LENGTHS, help="tokens that state is counted at"
    )
    group.add_argument("--repeats", type=options.whole, help="default 3")
    return found


def main(arguments: list[str] | None = None) -> int:
    args = parser().parse_args(arguments)
    console = Console()
    parts = parts_of(args)
    for name, path in (("--text", args.text), ("--corpus", args.corpus), ("--corpus-val", args.corpus_val)):
        if path is not None and not path.exists():
            hint = characters.WHERE if name == "--text" else "check the path"
            raise DataError(f"{path} does not exist; {hint}.")
    record = Record.begin(args.json, CPU, vars(args))
    args.done = {part: [row for path in args.done for row in rows_of(path, part)] for part in PARTS}
    console.print(f"{', '.join(parts)} on {in_words(record.content['machine'])}", highlight=False)
    calls = {"characters": do_characters, "text": do_text, "inference": do_inference}
    for part in parts:
        calls[part](args, console, functools.partial(record.put, part))
    console.print(f"written to {args.json}", highlight=False)
    return 0


if __name__ == "__main__":
    sys.exit(exit_code("efficiency.py", main))
