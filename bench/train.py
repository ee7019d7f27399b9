"""Training speed of the gpt2 recipe beside transformers' GPT-2 of the same shape: same tokens, same machine, one run.

    python bench/train.py [--steps 20] [--threads N] [--small] [--json FILE]

4 layers, width 256, 4 heads, vocabulary 4096, context 256, batch 16. All contestants but the last run the same plain
loop: forward, loss, backward, fused AdamW. The last is Wren's own `train()` at its defaults, with its loader, clipping,
schedule and metrics file. A round is one step of each, by turns inside train()'s own loop, so that a busy machine slows
all alike; a ratio is the median over rounds of two times of one round. --small adds Wren's `small` recipe at its
defaults (Muon), fp32 beside bf16.
"""

import argparse
import contextlib
import platform
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from wren.batch import Batch
from wren.data.loader import TokenLoader, TokenStream
from wren.exits import exit_code
from wren.files import write_json
from wren.loss import cross_entropy
from wren.model import LM
from wren.precision import choose_precision
from wren.recipes import RunConfig, gpt2, small
from wren.run import Run
from wren.train import train

VOCAB, CONTEXT, BATCH, LAYERS, WIDTH, HEADS, WARMUP = 4096, 256, 16, 4, 256, 4, 3
REFERENCE = "transformers, fp32"
TARGETS = {"wren, fp32": 1.0, "wren train(), defaults": 1.5}
CPU = torch.device("cpu")
OUT = Path(__file__).parent / "out" / "train.json"
StepFunction = Callable[[int], None]


def reference_model() -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=VOCAB,
        n_positions=CONTEXT,
        n_embd=WIDTH,
        n_layer=LAYERS,
        n_head=HEADS,
        activation_function="gelu",
        use_cache=False,
        bos_token_id=None,
        eos_token_id=None,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
    )
    config._attn_implementation = "sdpa"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return GPT2LMHeadModel(config)


def our_config(*, bias: bool, steps: int) -> RunConfig:
    shape = {"vocab_size": VOCAB, "depth": LAYERS, "dim": WIDTH, "num_heads": HEADS, "context_len": CONTEXT}
    return gpt2.recipe(**shape, batch_size=BATCH, steps=steps, bias=bias)


def their_loss(model: nn.Module, batch: Batch) -> Tensor:
    logits = model(batch.tokens_BT).logits.flatten(0, 1).float()
    return F.cross_entropy(logits, batch.targets_BT.flatten(), reduction="sum")


def our_loss(model: nn.Module, batch: Batch) -> Tensor:
    assert isinstance(model, LM)
    return cross_entropy(model, batch)


def plain_loop(
    model: nn.Module,
    loss: Callable[[nn.Module, Batch], Tensor],
    batches: list[Batch],
    dtype: torch.dtype | None,
    optimizers: Sequence[torch.optim.Optimizer] | None = None,
) -> StepFunction:
    """A function that trains one step."""
    parts = optimizers or [torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), fused=True)]

    def step(i: int) -> None:
        batch = batches[i % len(batches)]
        for part in parts:
            part.zero_grad()
        with torch.autocast("cpu", dtype=dtype) if dtype else contextlib.nullcontext():
            value = loss(model, batch) / batch.targets_BT.numel()
        value.backward()
        for part in parts:
            part.step()

    return step


class Rounds:
    """One step of every contestant whenever train() has made one of its own; keeps the seconds of each."""

    def __init__(self, contestants: dict[str, StepFunction], host: str):
        self.contestants = contestants
        self.seconds: dict[str, list[float]] = {name: [] for name in [*contestants, host]}
        self.host, self.round, self.left_at = host, 0, time.perf_counter()

    def __call__(self, progress: object, row: dict[str, Any]) -> None:
        elapsed = time.perf_counter() - self.left_at
        names = list(self.contestants)
        turn = self.round % len(names)
        for name in names[turn:] + names[:turn]:
            start = time.perf_counter()
            self.contestants[name](self.round)
            self.seconds[name].append(time.perf_counter() - start)
        self.seconds[self.host].append(elapsed)
        self.round += 1
        self.left_at = time.perf_counter()


def run_rounds(config: RunConfig, contestants: dict[str, StepFunction], host: str) -> dict[str, list[float]]:
    """Seconds per step of every contestant and of train() itself, without the warm-up."""
    torch.manual_seed(0)
    model = config.model.build()
    tokens = np.random.default_rng(0).integers(1, VOCAB, 2_000_000).astype(np.uint16)
    loader = TokenLoader(TokenStream([tokens], 0, config.train.context_len), batch_size=BATCH, seed=0)
    precision = choose_precision(CPU, config.train.dtype)
    rounds = Rounds(contestants, host)
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder) / "run")
        run.create({})
        optimizer = config.optimizer.build(model)
        train(
            model,
            optimizer,
            loader,
            cross_entropy,
            run,
            replace(config.train, eval_every=0, save_every=0),
            config.schedule,
            precision,
            watch=rounds,
            say=lambda text: None,
        )
    return {name: values[WARMUP:] for name, values in rounds.seconds.items()}


def random_batches(context_len: int) -> list[Batch]:
    tokens_NBT = torch.randint(VOCAB, (8, BATCH, context_len + 1), generator=torch.Generator().manual_seed(0))
    return [Batch(x[:, :-1].contiguous(), x[:, 1:].contiguous()) for x in tokens_NBT]


def against_transformers(steps: int) -> dict[str, list[float]]:
    config = our_config(bias=False, steps=steps + WARMUP)
    auto = choose_precision(CPU).autocast
    batches = random_batches(CONTEXT)
    torch.manual_seed(0)
    contestants = {
        REFERENCE: plain_loop(reference_model(), their_loss, batches, None),
        "wren, fp32": plain_loop(config.model.build(), our_loss, batches, None),
        "wren, fp32, with GPT-2's biases": plain_loop(
            our_config(bias=True, steps=1).model.build(), our_loss, batches, None
        ),
    }
    if auto is not None:
        contestants["transformers, autocast"] = plain_loop(reference_model(), their_loss, batches, auto)
        contestants["wren, autocast"] = plain_loop(config.model.build(), our_loss, batches, auto)
    return run_rounds(config, contestants, "wren train(), defaults")


def small_recipe(steps: int) -> dict[str, list[float]]:
    config = small.recipe(vocab_size=VOCAB, batch_size=BATCH, steps=steps + WARMUP)
    batches = random_batches(config.train.context_len)
    contestants = {}
    for name, dtype in (("small, fp32", None), ("small, bf16", torch.bfloat16)):
        model = config.model.build()
        contestants[name] = plain_loop(model, our_loss, batches, dtype, config.optimizer.build(model).parts)
    return run_rounds(config, contestants, "small train(), defaults")


def summary(seconds: dict[str, list[float]], reference: str) -> list[dict[str, Any]]:
    """A row per contestant; ratio above 1 = faster than the reference."""
    rows = []
    for name, values in seconds.items():
        ratios = sorted(b / a for a, b in zip(values, seconds[reference], strict=True))
        low, high = (ratios[round(q * (len(ratios) - 1))] for q in (0.25, 0.75))
        rows.append(
            {
                "name": name,
                "milliseconds_per_step": 1000 * statistics.median(values),
                "tokens_per_second": BATCH * CONTEXT / statistics.median(values),
                "ratio": statistics.median(ratios),
                "ratio_quartiles": [low, high],
                "target": TARGETS.get(name),
            }
        )
    return rows


def show(console: Console, rows: list[dict[str, Any]], title: str, reference: str) -> None:
    table = Table(title=f"{title}; ratio: speed against {reference}")
    for heading in ("contestant", "ms a step", "tokens/s", "ratio", "quartiles", "target"):
        table.add_column(heading, justify="left" if heading == "contestant" else "right")
    for row in rows:
        low, high = row["ratio_quartiles"]
        table.add_row(
            row["name"],
            f"{row['milliseconds_per_step']:.0f}",
            f"{row['tokens_per_second']:,.0f}",
            f"{row['ratio']:.2f}x",
            f"{low:.2f} to {high:.2f}",
            f">= {row['target']:.1f}x" if row["target"] else "",
        )
    console.print(table)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20, help="timed rounds, after 3 that are not")
    parser.add_argument("--threads", type=int, help="CPU threads; default: torch's own choice")
    parser.add_argument("--small", action="store_true", help="measure the small recipe too, fp32 beside bf16")
    parser.add_argument("--json", type=Path, default=OUT, help="write the numbers to this file")
    options = parser.parse_args(arguments)
    if options.steps < 1 or (options.threads is not None and options.threads < 1):
        parser.error("--steps and --threads must be at least 1")
    if options.threads:
        torch.set_num_threads(options.threads)
    console = Console()
    rows = summary(against_transformers(options.steps), REFERENCE)
    show(console, rows, "gpt2 recipe, 4 layers, width 256, vocabulary 4096, 16 x 256 tokens", REFERENCE)
    if options.small:
        small_rows = summary(small_recipe(options.steps), "small, fp32")
        show(console, small_rows, "small recipe at its defaults, vocabulary 4096, 16 x 256 tokens", "small, fp32")
        rows += small_rows
    machine = {
        "platform": platform.platform(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "precision": choose_precision(CPU).name,
    }
    write_json(options.json, {"machine": machine, "steps": options.steps, "rows": rows})
    return 0


if __name__ == "__main__":
    sys.exit(exit_code("train.py", main))
