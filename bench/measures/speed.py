"""Training speed of recipes: tokens a second, MFU and peak memory of whole steps (forward, backward, optimizer).

MFU = 3 x forward FLOPs a token x tokens a second / the card's dense peak. FLOPs are those of matrix products, of causal
attention only what its mask lets through, so attention counts half of what is often counted.

B batch, T time.
"""

from dataclasses import dataclass
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.table import Table

from measures.peaks import peak_of
from measures.training import pace
from wren import units
from wren.batch import Batch
from wren.data.loader import TokenLoader
from wren.lab.compare_data import Text
from wren.lab.measure import training_flops_per_token
from wren.precision import choose_precision
from wren.recipes import RunConfig
from wren.resume import Batches


@dataclass
class RandomTokens:
    """Batches of random tokens, one document a row, where no data is given."""

    vocab_size: int
    batch_size: int
    context_len: int
    row: int = 0

    def next_batch(self) -> Batch:
        generator = torch.Generator().manual_seed(self.row)
        self.row += 1
        tokens_BT = torch.randint(self.vocab_size, (self.batch_size, self.context_len + 1), generator=generator)
        return Batch(tokens_BT[:, :-1].contiguous(), tokens_BT[:, 1:].contiguous())

    def state(self) -> dict[str, Any]:
        return {"row": self.row}

    def load_state(self, state: dict[str, Any]) -> None:
        self.row = state["row"]


def batches_of(config: RunConfig, text: Text | None) -> Batches:
    length, rows = config.train.context_len, config.train.batch_size
    if text is None:
        return RandomTokens(config.model.vocab_size, rows, length)
    return TokenLoader(text.train(length), batch_size=rows, seed=config.seed)


def speed(name: str, config: RunConfig, text: Text | None, device: torch.device) -> dict[str, Any]:
    """One recipe's row. compile_seconds: what compilation adds to a training, 0 without it."""
    precision = choose_precision(device, config.train.dtype)
    torch.manual_seed(config.seed)
    model = config.model.build().to(device)
    optimizer = config.optimizer.build(model)
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    step, compiling = pace(model, optimizer, batches_of(config, text), config, precision)
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    flops, best = training_flops_per_token(config), peak_of(device, precision.name)
    tokens = config.train.batch_size * config.train.context_len / step
    return {
        "name": name,
        "compile": config.train.compile,
        "dtype": precision.name,
        "params": model.num_params(),
        "table_params": model.table_params(),
        "batch_size": config.train.batch_size,
        "context_len": config.train.context_len,
        "step_seconds": step,
        "compile_seconds": compiling,
        "tokens_per_second": tokens,
        "flops_per_token": flops,
        "peak_flops": best,
        "mfu": None if best is None else flops * tokens / best,
        "peak_memory_bytes": peak,
        "tokens": "random" if text is None else "data",
    }


def show(rows: list[dict[str, Any]], console: Console) -> None:
    headings = ("recipe", "params", "format", "batch", "tokens/s", "MFU", "memory", "compiled in")
    table = Table(*headings, title="Training speed", box=box.SIMPLE)
    for row in rows:
        peak = row["peak_memory_bytes"]
        table.add_row(
            row["name"], units.short(row["params"]), row["dtype"],
            f"{row['batch_size']} x {row['context_len']}", f"{row['tokens_per_second']:,.0f}",
            "" if row["mfu"] is None else f"{100 * row['mfu']:.1f} %", "" if peak is None else units.size(peak),
            units.duration(row["compile_seconds"]) if row["compile"] else "",
        )  # fmt: skip
    console.print(table)
