"""What bench/efficiency.py measures, at 50M to 150M parameters in at most 9 minutes of one GPU: one command, one JSON.

    python bench/gpu.py --data FOLDER [--size 124M] [--parts speed,decode,loss,kernels,compile] [--json FILE]

speed    tokens/s, MFU and peak memory of gpt2, llama and wren, not compiled
decode   bytes of state, and decoding after 512 and 8,192 tokens
loss     bits per byte: llama with AdamW and with Muon for S seconds each, wren for S/3, S/1.3 and S (needs --data)
kernels  flash-linear-attention through Wren and directly: parity and speed
compile  speed once more through torch.compile

--data is a folder of `wren data`. A part that fails leaves its error in the JSON, which is written as results come, and
the others go on; so does one that would not end in --minutes. --device cpu --size tiny is a trial of all that in
seconds. The exit code is 1 where a part failed.
"""

import argparse
import dataclasses
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from measures import inference, kernels, options, race, speed
from measures.record import Deadline, OutOfTime, Record
from measures.training import build
from rich.console import Console

from wren import shapes, units
from wren.errors import ConfigError, WrenError, unknown_key
from wren.exits import exit_code
from wren.lab.compare_data import Text
from wren.lab.machine import in_words
from wren.precision import choose_device, choose_precision
from wren.recipes import RunConfig

OUT = Path(__file__).parent / "out" / "gpu.json"
PARTS = ("speed", "decode", "loss", "kernels", "compile")
RECIPES = ("gpt2", "llama", "wren")
FRACTIONS = (1 / 3, 1 / 1.3, 1.0)
SETUP, COMPILING = 20.0, 90.0  # seconds that a model, and its compilation, take beside what is measured
TINY = 2, 64  # depth and width
# Learning rates at width 768, carried to others as the root of the width.
GPU_ARMS = (
    race.Contestant(name="llama, AdamW", recipe="llama", lr=1e-3, width=768),
    race.Contestant(name="llama, Muon", recipe="llama", settings=("optimizer.kind=muon",), lr=3e-3, width=768),
    race.Contestant(name=race.OURS, recipe="wren", tuned="the recipe's own choice"),
)


@dataclasses.dataclass(frozen=True)
class Bench:
    """What every part gets."""

    args: argparse.Namespace
    device: torch.device
    text: Text | None
    depth: int
    dim: int
    vocab_size: int
    record: Record
    deadline: Deadline
    console: Console

    @property
    def tiny(self) -> bool:
        return self.args.size == "tiny"

    def config(self, recipe: str, *, compile: bool) -> RunConfig:
        rows = max(1, self.args.batch_tokens // self.args.context)
        settings = [f"context_len={self.args.context}", f"batch_size={rows}", f"train.dtype={self.args.dtype}"]
        settings.append(f"train.compile={str(compile).lower()}")
        return build(recipe, self.vocab_size, self.depth, self.dim, settings)


def do_speed(bench: Bench, *, compile: bool = False) -> None:
    rows: list[dict[str, Any]] = []
    for recipe in RECIPES:
        bench.deadline.need(COMPILING if compile else 0.0 if bench.tiny else SETUP, f"the speed of {recipe}")
        rows.append(speed.speed(recipe, bench.config(recipe, compile=compile), bench.text, bench.device))
        bench.record.put("compile" if compile else "speed", {"rows": rows})
    speed.show(rows, bench.console)


def do_compile(bench: Bench) -> None:
    do_speed(bench, compile=True)


def do_decode(bench: Bench) -> None:
    configs = inference.contestants(bench.depth, bench.dim, bench.vocab_size)
    lengths, contexts = ((128, 256), (32, 128)) if bench.tiny else (inference.LENGTHS, inference.CONTEXTS)
    precision = choose_precision(bench.device, bench.args.dtype)
    result = inference.measure(
        configs, precision, lengths=lengths, contexts=contexts, decoded=8 if bench.tiny else inference.DECODED,
        repeats=2 if bench.tiny else bench.args.repeats, say=bench.console.print,
        begin=lambda: bench.deadline.need(0.0 if bench.tiny else SETUP, "a repeat of decoding"),
    )  # fmt: skip
    bench.record.put("decode", result)
    inference.show(result, bench.console)


def do_loss(bench: Bench) -> None:
    if bench.text is None:
        raise ConfigError("Part loss needs --data FOLDER, made by `wren data --source PATH... --out FOLDER`.")
    args = bench.args
    arms = GPU_ARMS if args.arms is None else race.read_contestants(args.arms, bench.vocab_size)
    arms = tuple(
        arm if arm.batch_tokens is None else dataclasses.replace(arm, batch_tokens=args.batch_tokens) for arm in arms
    )
    terms = race.Terms(
        depth=bench.depth, dim=bench.dim, context_len=args.context, seconds=args.seconds, seeds=(args.seed,),
        fractions=FRACTIONS, eval_tokens=args.eval_tokens, dtype=args.dtype, compile=args.compile,
    )  # fmt: skip

    def begin(seconds: float, what: str) -> None:
        around = 0.0 if bench.tiny else SETUP + (2 * COMPILING if args.compile else 0.0)
        bench.deadline.need(seconds + around, what)

    result = race.race(
        arms, bench.text, terms, bench.device, say=bench.console.print, begin=begin,
        keep=lambda found: bench.record.put("loss", found),
    )  # fmt: skip
    bench.record.put("loss", result)
    race.show(result, bench.console)


def do_kernels(bench: Bench) -> None:
    precision = choose_precision(bench.device, bench.args.dtype)
    if bench.device.type != "cuda" or precision.autocast is None:
        raise ConfigError("Part kernels needs a GPU that computes in bf16 or fp16: those are Triton kernels.")
    bench.deadline.need(SETUP, "the kernels")
    shape = (4, bench.args.context, max(1, bench.dim // 64), 64)
    rows = kernels.measure(kernels.cases(), bench.device, precision.autocast, shape=shape, seconds=5.0)
    bench.record.put("kernels", {"rows": rows})
    kernels.show(rows, bench.console)


CALLS: dict[str, Callable[[Bench], None]] = {
    "speed": do_speed, "decode": do_decode, "loss": do_loss, "kernels": do_kernels, "compile": do_compile,
}  # fmt: skip


def run_parts(bench: Bench, parts: list[str], calls: dict[str, Callable[[Bench], None]]) -> list[str]:
    """Does the parts in order and returns those that failed: one must not lose the others."""
    failed = []
    for part in parts:
        start = bench.deadline.left()
        try:
            calls[part](bench)
        except (WrenError, OutOfTime) as error:
            failed.append(part)
            bench.record.put(part, {"error": str(error)})
        except Exception as error:  # noqa: BLE001  whatever a kernel or compiler raises: it is kept with its traceback
            failed.append(part)
            bench.record.put(part, {"error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()})
        bench.record.put(part, {"part_seconds": start - bench.deadline.left()})
        if part in failed:
            print(f"part {part} failed: {bench.record.content['parts'][part]['error']}", file=sys.stderr, flush=True)
        if bench.device.type == "cuda":
            torch.cuda.empty_cache()
    return failed


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = found.add_argument
    add("--data", type=Path, help="a folder of `wren data`; without it tokens are random and there is no part loss")
    add("--parts", help=f"comma-separated, of {', '.join(PARTS)}; default: all that can be done")
    add("--size", default="124M", help="parameters of blocks and head, such as 50M or 150M; or tiny, for a trial")
    add("--device", default="auto", help="auto, cuda, cuda:1 or cpu")
    add("--dtype", choices=("auto", "fp32", "bf16", "fp16"), default="auto")
    add("--minutes", type=options.positive, default=9.0, help="after which nothing more is begun")
    add("--seconds", type=options.positive, help="S of part loss; default 60, tiny 1")
    add("--context", type=options.whole, help="default 2048, tiny 64")
    add("--batch-tokens", type=options.whole, help="tokens of a batch; default 32768, tiny 256")
    add("--eval-tokens", type=options.whole, default=1_000_000, help="of the validation split, read by part loss")
    add("--repeats", type=options.whole, default=3, help="of decoding")
    add("--compile", action="store_true", help="compile the trainings of part loss; their clock counts it")
    add("--arms", help="other arms of part loss, as for `wren compare --recipes`; one is named wren")
    add("--seed", type=options.seed, default=0)
    add("--json", type=Path, default=OUT)
    return found


def prepare(arguments: list[str] | None = None) -> tuple[Bench, list[str]]:
    args = parser().parse_args(arguments)
    tiny = args.size == "tiny"
    args.seconds = args.seconds or (1.0 if tiny else 60.0)
    args.context = args.context or (64 if tiny else 2048)
    args.batch_tokens = args.batch_tokens or (256 if tiny else 32_768)
    device = choose_device(args.device)
    text = None if args.data is None else Text.open(args.data)
    vocab_size = text.manifest.vocab_size if text is not None else 512 if tiny else 32_768
    depth, dim = TINY if tiny else shapes.shape(units.count(args.size, "number of parameters"), vocab_size)
    parts = parts_of(args, device)
    record = Record.begin(args.json, device, {**vars(args), "depth": depth, "dim": dim, "vocab_size": vocab_size})
    deadline = Deadline(60 * args.minutes)
    return Bench(args, device, text, depth, dim, vocab_size, record, deadline, Console()), parts


def parts_of(args: argparse.Namespace, device: torch.device) -> list[str]:
    """Raises ConfigError for an unknown part. By default what needs no missing input: compiling and kernels a GPU."""
    if args.parts is None:
        possible = {"loss": args.data is not None} | dict.fromkeys(("kernels", "compile"), device.type == "cuda")
        return [part for part in PARTS if possible.get(part, True)]
    asked = [part.strip() for part in args.parts.split(",") if part.strip()]
    for part in asked or [""]:
        if part not in PARTS:
            raise ConfigError(unknown_key("Part", part, PARTS))
    return [part for part in PARTS if part in asked]


def main(arguments: list[str] | None = None) -> int:
    bench, parts = prepare(arguments)
    what = f"{bench.depth} layers, width {bench.dim}, on {in_words(bench.record.content['machine'])}"
    bench.console.print(f"{', '.join(parts)}: {what}", highlight=False)
    failed = run_parts(bench, parts, CALLS)
    bench.console.print(f"written to {bench.args.json}", highlight=False)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(exit_code("gpu.py", main))
