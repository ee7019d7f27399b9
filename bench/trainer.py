"""Training speed of the llama recipe beside transformers' Llama under its own Trainer: same shape, machine and run.

    python bench/trainer.py [--steps 20] [--repeats 3] [--threads N] [--json FILE]

4 layers, width 256, 4 heads, vocabulary 4096, context 256, batch 16. Each contestant is its project's own loop with
loader, clipping, schedule and metrics: `wren train` in fp32 and at its defaults, Trainer in fp32 (its default on a CPU)
and with bf16=True. They train by turns, `repeats` times `steps` steps each; a contestant's time is the median over all
its steps but the first few of each turn. Needs `pip install 'wren-llm[bench]'`.
"""

import argparse
import importlib.util
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measures import options
from measures.record import Record
from rich import box
from rich.console import Console
from rich.table import Table

from wren.data.loader import TokenLoader, TokenStream
from wren.errors import ConfigError
from wren.exits import exit_code
from wren.lab.machine import in_words
from wren.loss import cross_entropy
from wren.mlps import swiglu
from wren.precision import choose_precision
from wren.recipes import RunConfig, llama
from wren.run import Run
from wren.train import train

VOCAB, CONTEXT, BATCH, LAYERS, WIDTH, HEADS, WARMUP = 4096, 256, 16, 4, 256, 4, 3
CPU = torch.device("cpu")
OUT = Path(__file__).parent / "out" / "trainer.json"
THEIR_DEFAULT = "Trainer, fp32 (its default)"
TARGETS = {("wren, fp32", "Trainer, fp32 (its default)"): 1.15, ("wren, bf16", "Trainer, bf16"): 1.15,
           ("wren, defaults", THEIR_DEFAULT): 1.5}  # fmt: skip


def our_steps(dtype: str, steps: int) -> list[float]:
    """Seconds of every step of train()."""
    config = _config(steps)
    config = replace(config, train=replace(config.train, dtype=dtype, eval_every=0, save_every=0))
    torch.manual_seed(0)
    model = config.model.build()
    tokens = np.random.default_rng(0).integers(1, VOCAB, 2_000_000).astype(np.uint16)
    loader = TokenLoader(TokenStream([tokens], 0, CONTEXT), batch_size=BATCH, seed=0)
    times = _Times()
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder) / "run")
        run.create({})
        train(
            model, config.optimizer.build(model), loader, cross_entropy, run, config.train, config.schedule,
            choose_precision(CPU, config.train.dtype), watch=lambda progress, row: times.end(), say=lambda text: None,
        )  # fmt: skip
    return times.seconds[WARMUP:]


def their_steps(bf16: bool, steps: int) -> list[float]:
    """Seconds of every step of Trainer."""
    from transformers import Trainer, TrainerCallback, TrainingArguments

    times = _Times()

    class Watch(TrainerCallback):
        def on_step_end(self, *args: Any, **options: Any) -> None:
            times.end()

    tokens = np.random.default_rng(0).integers(1, VOCAB, (512, CONTEXT))
    rows = [{"input_ids": torch.from_numpy(row), "labels": torch.from_numpy(row)} for row in tokens]
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        arguments = TrainingArguments(
            output_dir=folder, max_steps=steps, per_device_train_batch_size=BATCH, learning_rate=6e-4,
            adam_beta1=0.9, adam_beta2=0.95, weight_decay=0.1, lr_scheduler_type="cosine", warmup_steps=steps // 10,
            bf16=bf16, use_cpu=True, report_to=[], save_strategy="no", disable_tqdm=True, logging_strategy="no",
            dataloader_pin_memory=False,
        )  # fmt: skip
        trainer = Trainer(model=_their_model(), args=arguments, train_dataset=rows, callbacks=[Watch()])  # type: ignore[arg-type]
        times.left_at = time.perf_counter()
        trainer.train()
    return times.seconds[WARMUP:]


class _Times:
    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.left_at = time.perf_counter()

    def end(self) -> None:
        now = time.perf_counter()
        self.seconds.append(now - self.left_at)
        self.left_at = now


def _config(steps: int) -> RunConfig:
    return llama.recipe(
        vocab_size=VOCAB, depth=LAYERS, dim=WIDTH, num_heads=HEADS, context_len=CONTEXT, batch_size=BATCH, steps=steps
    )


def _their_model() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    mlp = _config(1).model.build().blocks[0].get_submodule("mlp")
    assert isinstance(mlp, swiglu.SwiGlu)
    hidden = mlp.out.in_features
    config = LlamaConfig(
        vocab_size=VOCAB, hidden_size=WIDTH, intermediate_size=hidden, num_hidden_layers=LAYERS,
        num_attention_heads=HEADS, num_key_value_heads=HEADS, max_position_embeddings=CONTEXT, use_cache=False,
        tie_word_embeddings=False,
    )  # fmt: skip
    config._attn_implementation = "sdpa"
    return LlamaForCausalLM(config)


def measure(steps: int, repeats: int, say: Callable[[str], None]) -> dict[str, list[list[float]]]:
    """Seconds of the steps of every contestant, turn by turn."""
    has_bf16 = choose_precision(CPU).autocast is not None
    calls: dict[str, Callable[[], list[float]]] = {
        "wren, fp32": lambda: our_steps("fp32", steps + WARMUP),
        THEIR_DEFAULT: lambda: their_steps(False, steps + WARMUP),
        "wren, defaults": lambda: our_steps("auto", steps + WARMUP),
    }
    if has_bf16:
        calls["Trainer, bf16"] = lambda: their_steps(True, steps + WARMUP)
    found: dict[str, list[list[float]]] = {name: [] for name in calls}
    for turn in range(repeats):
        names = list(calls)
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            found[name].append(calls[name]())
            say(f"  {name}: {1000 * statistics.median(found[name][-1]):.0f} ms a step")
    if has_bf16:
        found["wren, bf16"] = found["wren, defaults"]  # what they are on this machine
    return found


def summary(seconds: dict[str, list[list[float]]]) -> list[dict[str, Any]]:
    """A row for every comparison; ratio: of the median steps; turns: the least and the largest ratio of one turn."""
    rows = []
    for (ours, theirs), target in TARGETS.items():
        if ours not in seconds or theirs not in seconds:
            continue
        medians = [[statistics.median(turn) for turn in seconds[name]] for name in (ours, theirs)]
        turns = [b / a for a, b in zip(*medians, strict=True)]
        steps = [statistics.median([x for turn in seconds[name] for x in turn]) for name in (ours, theirs)]
        rows.append(
            {
                "ours": ours, "theirs": theirs, "tokens_per_second": BATCH * CONTEXT / steps[0],
                "their_tokens_per_second": BATCH * CONTEXT / steps[1], "ratio": steps[1] / steps[0],
                "turns": [min(turns), max(turns)], "target": target,
            }
        )  # fmt: skip
    return rows


def show(rows: list[dict[str, Any]], console: Console) -> None:
    table = Table("", "tokens/s", "beside", "tokens/s", "ratio", "turns", "target", box=box.SIMPLE)
    for row in rows:
        low, high = row["turns"]
        table.add_row(
            row["ours"], f"{row['tokens_per_second']:,.0f}", row["theirs"], f"{row['their_tokens_per_second']:,.0f}",
            f"{row['ratio']:.2f}x", f"{low:.2f} to {high:.2f}", f">= {row['target']}x",
        )  # fmt: skip
    console.print(table)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=options.whole, default=20, help="timed in a turn, after 3 that are not")
    parser.add_argument("--repeats", type=options.whole, default=3, help="turns of each")
    parser.add_argument("--threads", type=options.whole, help="CPU threads; default: torch's own choice")
    parser.add_argument("--json", type=Path, default=OUT, help="write the numbers to this file")
    args = parser.parse_args(arguments)
    for name in ("accelerate", "transformers"):
        if importlib.util.find_spec(name) is None:
            raise ConfigError(f"This bench needs {name}; pip install 'wren-llm[bench]'.")
    import transformers

    transformers.logging.set_verbosity_error()
    if args.threads:
        torch.set_num_threads(args.threads)
    console = Console()
    record = Record.begin(args.json, CPU, vars(args))
    console.print(f"on {in_words(record.content['machine'])}", highlight=False)
    seconds = measure(args.steps, args.repeats, lambda text: console.print(text, highlight=False))
    rows = summary(seconds)
    record.put("trainer", {"rows": rows, "seconds": seconds})
    show(rows, console)
    return 0


if __name__ == "__main__":
    sys.exit(exit_code("trainer.py", main))
