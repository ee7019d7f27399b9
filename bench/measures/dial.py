"""Does one dial hold over sizes? Recipe wren at several depths, each at the rates of its dial and at multiples of them.

Every size is trained for the same number of tokens a parameter (of blocks and head, as the dial counts), so that small
and large models are at the same point of their training. What the dial gives up at a size is the loss at its own rates
less the least of a parabola through the losses over the logarithm of the rate; where the best rate lies says how the
exponents should change.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from rich import box
from rich.console import Console
from rich.table import Table

from measures.training import Say, trained
from wren import recipes, shapes, units
from wren.data.loader import TokenLoader
from wren.errors import ConfigError, DivergedError
from wren.evals.bits_per_byte import bits_per_byte
from wren.lab import scaling
from wren.lab.compare_data import Text
from wren.precision import DTypeName, choose_precision
from wren.recipes import RunConfig

RECIPE = "wren"


@dataclass(frozen=True, kw_only=True)
class Terms:
    """depths: sizes of the dial. scales: multiples of all its rates. tokens_per_param: trained on for every parameter
    of blocks and head. settings: of the recipe, as for `wren train --set`. eval_tokens: None = the whole split.
    """

    depths: tuple[int, ...]
    scales: tuple[float, ...]
    tokens_per_param: float
    seeds: tuple[int, ...] = (0,)
    context_len: int = 256
    settings: tuple[str, ...] = ()
    eval_tokens: int | None = 500_000
    dtype: DTypeName = "auto"

    def config(self, vocab_size: int, depth: int, scale: float, seed: int) -> RunConfig:
        """Raises ConfigError for settings that the recipe lacks."""
        size = shapes.size(depth, shapes.ASPECT * depth, vocab_size)
        settings = [
            f"depth={depth}", f"context_len={self.context_len}", f"tokens={round(self.tokens_per_param * size)}",
            f"train.dtype={self.dtype}", f"seed={seed}", *self.settings,
        ]  # fmt: skip
        config = recipes.build(RECIPE, vocab_size=vocab_size, settings=settings)
        if scale == 1.0:
            return config
        return recipes.build(
            RECIPE, vocab_size=vocab_size, settings=[*settings, f"lr={config.optimizer.lr * scale:.6g}"]
        )


def measure(
    text: Text,
    terms: Terms,
    device: torch.device,
    *,
    say: Say,
    keep: Callable[[dict[str, Any]], None] = lambda result: None,
    done: Sequence[dict[str, Any]] = (),
) -> dict[str, Any]:
    """Every depth at every scale, small ones first. keep: gets what there is after each one. done: rows of before."""
    if len(set(terms.scales)) < len(terms.scales) or 1.0 not in terms.scales:
        raise ConfigError(f"The scales are {terms.scales}; name 1 among them, and none twice.")
    rows = list(done)
    known = {(row["depth"], row["scale"], row["seed"]) for row in done}
    for depth in sorted(terms.depths):
        for seed in terms.seeds:
            for scale in sorted(terms.scales, key=lambda s: abs(math.log(s))):
                if (depth, scale, seed) not in known:
                    rows.append(_one(text, terms, device, depth, scale, seed, say))
                    keep({"terms": asdict(terms), "rows": rows, "summary": summary(rows)})
    return {"terms": asdict(terms), "rows": rows, "summary": summary(rows)}


def _one(
    text: Text, terms: Terms, device: torch.device, depth: int, scale: float, seed: int, say: Say
) -> dict[str, Any]:
    config = terms.config(text.manifest.vocab_size, depth, scale, seed)
    batch = config.train.batch_size * terms.context_len
    say(f"depth {depth}, rates x{scale:g}, seed {seed}: {config.train.steps:,} steps of {batch:,} tokens")
    loader = TokenLoader(text.train(terms.context_len), batch_size=config.train.batch_size, seed=seed)
    shared = {"depth": depth, "scale": scale, "seed": seed, "matrix_lr": config.optimizer.matrix_lr}
    try:
        model, row = trained(config, loader, device, say)
    except DivergedError as error:
        say(f"  diverged: {error}")
        return {**shared, "bits_per_byte": None}
    batches = text.val(terms.context_len).batches_in_order(max(1, 4096 // terms.context_len), terms.eval_tokens)
    precision = choose_precision(device, terms.dtype)
    found = bits_per_byte(model, batches, text.tokenizer.token_bytes(), precision)["bits_per_byte"]
    flops = model.flops_per_token(terms.context_len, training=True) * row["tokens"]
    blocks = sum(p.numel() for p in model.blocks.parameters())
    say(f"  {found:.4f} bits per byte after {row['seconds']:.0f} s")
    return {**shared, **row, "block_params": blocks, "flops": flops, "bits_per_byte": found}


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Of every depth: its loss at the dial, the least that the parabola finds, and where; and the law over the depths.

    best_scale is None where fewer than three rates ended, or the parabola has no least inside what was tried.
    """
    sizes = []
    for depth in sorted({row["depth"] for row in rows}):
        mine = [row for row in rows if row["depth"] == depth and row["bits_per_byte"] is not None]
        mean = {
            scale: float(np.mean([row["bits_per_byte"] for row in mine if row["scale"] == scale]))
            for scale in sorted({row["scale"] for row in mine})
        }
        if 1.0 not in mean:
            continue
        one = next(row for row in mine if row["scale"] == 1.0)
        best, least = parabola(mean)
        sizes.append(
            {
                "depth": depth, "block_params": one["block_params"], "tokens": one["tokens"], "flops": one["flops"],
                "matrix_lr": one["matrix_lr"], "losses": mean, "at_dial": mean[1.0], "best_scale": best,
                "given_up": None if least is None else mean[1.0] - least,
            }
        )  # fmt: skip
    law = None
    if len(sizes) >= scaling.LEAST_SIZES:
        found = scaling.fit([size["flops"] for size in sizes], [size["at_dial"] for size in sizes])
        law = asdict(found)
        for size in sizes:
            size["off_the_law"] = size["at_dial"] - found.loss(size["flops"])
    return {"sizes": sizes, "law": law}


def parabola(losses: dict[float, float]) -> tuple[float | None, float | None]:
    """(scale, loss) at the least of a parabola over log(scale); (None, None) where it has none among the scales."""
    if len(losses) < 3:
        return None, None
    at = np.log(list(losses))
    a, b, c = np.polyfit(at, list(losses.values()), 2)
    if a <= 0 or not at.min() <= -b / (2 * a) <= at.max():
        return None, None
    return math.exp(-b / (2 * a)), float(c - b * b / (4 * a))


def show(result: dict[str, Any], console: Console) -> None:
    scales = sorted({float(scale) for size in result["summary"]["sizes"] for scale in size["losses"]})
    headings = [f"rates x{scale:g}" for scale in scales]
    table = Table(
        "depth", "blocks", "tokens", "matrices' lr", *headings, "best at", "given up", "off the law", box=box.SIMPLE
    )
    for size in result["summary"]["sizes"]:
        losses = {float(scale): loss for scale, loss in size["losses"].items()}
        row = [f"{losses[scale]:.4f}" if scale in losses else "" for scale in scales]
        best = "at the edge" if size["best_scale"] is None else f"x{size['best_scale']:.2f}"
        given_up = "" if size["given_up"] is None else f"{size['given_up']:.4f}"
        off = f"{size['off_the_law']:+.4f}" if "off_the_law" in size else ""
        table.add_row(
            str(size["depth"]), units.short(size["block_params"]), units.short(size["tokens"]),
            f"{size['matrix_lr']:.2g}", *row, best, given_up, off,
        )  # fmt: skip
    console.print(table)
    law = result["summary"]["law"]
    if law is not None:
        found = scaling.Law(**law)
        console.print(
            f"bits per byte = {found.floor:.3f} + {math.exp(found.log_a):.3g} FLOPs^-{found.b:.4f}", highlight=False
        )
