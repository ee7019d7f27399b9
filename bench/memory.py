"""Bytes of a training step by part, for each way of saving memory, beside transformers with gradient checkpointing.

    python bench/memory.py [--recipe llama] [--params 10M] [--context-len 512] [--rows 2] [--device auto] [--json FILE]
    python bench/memory.py --device cuda --card 6GB [...]    the same on a GPU that may take no more than that
    python bench/memory.py --curves 200 [--params 10M]      losses of each way beside those of the plain step

On a CPU every storage that an operation makes is counted (wren/memory/count.py); on a GPU a step runs in a process of
its own, and what counts is torch.cuda.max_memory_reserved. Weights, moments and gradients are given per parameter,
activations and what else a step needs at its peak per token. The peer is transformers' Llama of the same shape with
torch's AdamW, plain and with gradient checkpointing; it is left out where transformers is not installed.
"""

import argparse
import importlib.util
import multiprocessing
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import nn

from wren import dial, gpus, recipes, units
from wren.batch import Batch
from wren.errors import ConfigError, WrenError
from wren.exits import exit_code
from wren.files import write_json
from wren.loss import cross_entropy
from wren.memory.activations import checkpoint_activations
from wren.memory.allocator import reserved
from wren.memory.count import Allocations, count_step
from wren.memory.job import Job
from wren.memory.trace import Tracer
from wren.mixers import attention
from wren.mlps import swiglu
from wren.model import ModelConfig
from wren.optim.optimizer import OptimizerConfig
from wren.planning.machine import CONTEXT_BYTES
from wren.precision import Precision, choose_device, choose_precision, has_native_bf16

OUT = Path(__file__).parent / "out" / "memory.json"
# Settings of the optimizer, and of activation checkpointing.
WAYS: dict[str, tuple[dict[str, Any], Any]] = {
    "plain": ({}, "none"),
    "selective checkpointing": ({}, "selective"),
    "full checkpointing": ({}, "full"),
    "step in backward": ({"in_backward": True}, "none"),
    "bf16 states": ({"state_dtype": "bf16"}, "none"),
    "8-bit states": ({"state_dtype": "8bit"}, "none"),
    "off-loaded states": ({"offload": True}, "none"),
    "bf16 weights": ({"weight_dtype": "bf16"}, "none"),
    "full, in backward, 8-bit": ({"in_backward": True, "state_dtype": "8bit"}, "full"),
    "all": ({"in_backward": True, "state_dtype": "8bit", "weight_dtype": "bf16", "offload": True}, "full"),
}
PEERS = {"transformers": False, "transformers, checkpointing": True}


@dataclass(frozen=True)
class Case:
    """What is measured: a recipe's model of a size, and the batch of one step."""

    recipe: str
    params: int
    vocab_size: int
    context_len: int
    rows: int
    device: str
    dtype: str

    @property
    def tokens(self) -> int:
        return self.rows * self.context_len

    def config(self) -> recipes.RunConfig:
        settings = dial.settings(self.recipe, vocab_size=self.vocab_size, depth=None, params=self.params)
        settings.append(f"context_len={self.context_len}")
        return recipes.build(self.recipe, vocab_size=self.vocab_size, settings=settings)

    def batch(self, seed: int = 0) -> Batch:
        shape, draws = (self.rows, self.context_len + 1), torch.Generator().manual_seed(seed)
        tokens_BT = torch.randint(self.vocab_size, shape, generator=draws)
        return Batch(tokens_BT[:, :-1].contiguous(), tokens_BT[:, 1:].contiguous()).to(choose_device(self.device))

    def precision(self, optimizer: OptimizerConfig) -> Precision:
        narrow = optimizer.weight_dtype == "bf16" and self.dtype == "auto"
        return choose_precision(choose_device(self.device), "bf16" if narrow else self.dtype)  # type: ignore[arg-type]


def measure(case: Case, way: str) -> dict[str, Any]:
    """A row of numbers for one way of training."""
    if way in PEERS:
        return _measure_peer(case, checkpointing=PEERS[way])
    changes, checkpointing = WAYS[way]
    config = case.config()
    optimizer_config = replace(config.optimizer, **changes)
    precision = case.precision(optimizer_config)
    torch.manual_seed(0)
    model = config.model.build().to(precision.device)
    num_params = model.num_params()
    optimizer = optimizer_config.build(model)
    checkpoint_activations(model, checkpointing)
    counted = count_step(model, optimizer, cross_entropy, case.batch(), precision)
    row = {"name": way, "params": num_params, "dtype": precision.name, **vars(counted)}
    return row | _reserved(precision.device) | foretold(case, way, precision)


def foretold(case: Case, way: str, precision: Precision) -> dict[str, int]:
    """What the plan says of the same step: its peak, and on a GPU what the allocator reserves for it."""
    changes, checkpointing = WAYS[way]
    config = case.config()
    traced = Tracer()(
        Job(
            model=config.model,
            optimizer=replace(config.optimizer, **changes),
            rows=case.rows,
            context_len=case.context_len,
            autocast=precision.autocast,
            device_type=precision.device.type,
            narrow_muon=has_native_bf16(precision.device),
            checkpointing=checkpointing,
            documents=False,
        )
    )
    standing, log = traced.standing, traced.log
    found = {"predicted": standing.total() + log.peak()[0]}
    if precision.device.type == "cuda":
        events = [event for event in log.events if log.kinds[max(event, ~event)] != "away"]
        found["predicted_reserved"] = reserved(standing.each(), log.sizes, events) or 0
    return found


def _reserved(device: torch.device) -> dict[str, int]:
    return {"reserved": torch.cuda.max_memory_reserved(device)} if device.type == "cuda" else {}


def _peer(config: ModelConfig, context_len: int) -> nn.Module:
    """transformers' Llama of the shape of ours; raises ConfigError for a recipe of another kind."""
    from transformers import LlamaConfig, LlamaForCausalLM

    mixer, mlp = config.mixers[0], config.mlp
    if not isinstance(mixer, attention.Config) or not isinstance(mlp, swiglu.Config):
        raise ConfigError("transformers' Llama has another shape than this recipe; choose --recipe llama.")
    theirs = LlamaConfig(
        vocab_size=config.vocab_size,
        hidden_size=config.dim,
        intermediate_size=mlp.build(config.dim).get_submodule("up").out_features,  # type: ignore[arg-type]
        num_hidden_layers=config.depth,
        num_attention_heads=mixer.num_heads,
        num_key_value_heads=mixer.num_kv_heads or mixer.num_heads,
        max_position_embeddings=context_len,
        tie_word_embeddings=config.tie_embeddings,
        use_cache=False,
    )
    theirs._attn_implementation = "sdpa"
    return LlamaForCausalLM(theirs)


def _measure_peer(case: Case, *, checkpointing: bool) -> dict[str, Any]:
    """torch's AdamW in fp32 under the same autocast; the second of two steps counts."""
    precision = case.precision(OptimizerConfig())
    model = _peer(case.config().model, case.context_len).to(precision.device).train()
    if checkpointing:
        model.activation_checkpointing_enable()  # type: ignore[operator]
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    batch, activations, counted = case.batch(), 0, Allocations()
    for counted in (Allocations(), Allocations()):
        optimizer.zero_grad()
        counted.ignore((*model.parameters(), *model.buffers(), batch.tokens_BT, batch.targets_BT))
        with counted:
            with precision.context():
                logits = model(batch.tokens_BT).logits.flatten(0, 1).float()
                loss = F.cross_entropy(logits, batch.targets_BT.flatten())
            del logits
            activations = counted.alive
            loss.backward()
            optimizer.step()
    params = sum(p.numel() for p in model.parameters())
    row = {"params": params, "dtype": precision.name, "weights": 4 * params, "tables": 0, "gradients": 4 * params}
    row |= {"moments": 8 * params, "moments_away": 0, "activations": activations, "peak": 12 * params + counted.peak}
    return {"name": "transformers" + (", checkpointing" if checkpointing else ""), **row} | _reserved(precision.device)


def _child(case: Case, way: str, card: float | None, answers: Any) -> None:
    if card is not None:
        device = choose_device(case.device)
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, (card - CONTEXT_BYTES) / total), device)
    try:
        answers.put(measure(case, way))
    except (WrenError, torch.OutOfMemoryError) as error:
        answers.put({"name": way, "error": " ".join(str(error).split())[:200]})


def measured(case: Case, way: str, card: float | None = None) -> dict[str, Any]:
    """measure() in a process of its own on a GPU, where memory that was reserved once stays so.

    card: bytes of a smaller GPU that is played, its context among them.
    """
    if choose_device(case.device).type != "cuda":
        return measure(case, way)
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    process = context.Process(target=_child, args=(case, way, card, answers))
    process.start()
    row = answers.get()
    process.join()
    return row


def show(console: Console, case: Case, rows: list[dict[str, Any]]) -> None:
    params = next((units.short(row["params"]) for row in rows if "params" in row), "?")
    on = choose_device(case.device)
    table = Table(
        title=f"{case.recipe} of {params} parameters, {case.rows} x {case.context_len} tokens, {on}",
        box=None,
        padding=(0, 2, 0, 0),
    )
    for heading in ("", "weights", "grads", "states", "away", "kept", "else", "MiB", "plan"):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    for row in rows:
        if "error" in row:
            table.add_row(row["name"], row["error"])
            continue
        weights = row["weights"] + row["tables"]
        rest = max(0, row["peak"] - weights - row["moments"] - row["gradients"])
        per_param = (weights, row["gradients"], row["moments"], row["moments_away"])
        table.add_row(
            row["name"],
            *(f"{value / row['params']:.2f}" for value in per_param),
            *(f"{value / case.tokens / 1024:.1f}" for value in (row["activations"], rest)),
            f"{row.get('reserved', row['peak']) / 2**20:,.0f}",
            _off(row),
        )
    console.print(table)
    console.print(
        "Bytes per parameter: weights, gradients, states here and away in main memory. KiB per token: kept after the "
        "forward pass, and all else at the peak. MiB: the peak, which on a GPU is what torch reserved. plan: how far "
        "off the plan of the same step is."
    )


def _off(row: dict[str, Any]) -> str:
    if "predicted" not in row:
        return ""
    said = row.get("predicted_reserved", row["predicted"])
    return f"{said / row.get('reserved', row['peak']) - 1:+.1%}"


def curve(case: Case, way: str, steps: int, seed: int, pool: list[Batch]) -> list[float]:
    """The losses of `steps` steps on the batches of `pool`, in turn, without clipping."""
    changes, checkpointing = WAYS[way]
    config = case.config()
    optimizer_config = replace(config.optimizer, **changes)
    precision = case.precision(optimizer_config)
    torch.manual_seed(seed)
    model = config.model.build().to(precision.device).train()
    optimizer = optimizer_config.build(model)
    checkpoint_activations(model, checkpointing)
    losses = []
    for step in range(steps):
        batch = pool[step % len(pool)]
        optimizer.set_factor(min(1.0, (step + 1) / 20))
        optimizer.zero_grad()
        with precision.context():
            loss = cross_entropy(model, batch) / batch.num_targets()
        if optimizer.in_backward is not None:
            with optimizer.in_backward.armed(float("inf")):
                loss.backward()
        else:
            loss.backward()
            for part in optimizer.parts:
                part.step()
        losses.append(float(loss.detach()))
    return losses


def learnable(case: Case, count: int = 64) -> list[Batch]:
    """Texts in which each token is the one before, times 5, plus 1, 2 or 3: something to learn."""
    draws, size = torch.Generator().manual_seed(0), case.vocab_size
    batches = []
    for _ in range(count):
        text_BT = torch.randint(1, size, (case.rows, case.context_len + 1), generator=draws)
        for t in range(1, case.context_len + 1):
            text_BT[:, t] = 1 + (5 * text_BT[:, t - 1] + text_BT[:, t] % 3 + 1) % (size - 1)
        batches.append(Batch(text_BT[:, :-1].contiguous(), text_BT[:, 1:].contiguous()).to(choose_device(case.device)))
    return batches


def curves(case: Case, ways: list[str], steps: int, seeds: int, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Each way's losses, and of `seeds` plain runs; a way's difference is in its mean over the last half."""
    pool, rows = learnable(case), []
    for name, seed in [*(("plain", seed) for seed in range(seeds)), *((way, 0) for way in ways if way != "plain")]:
        losses = curve(case, name, steps, seed, pool)
        late = sum(losses[steps // 2 :]) / (steps - steps // 2)
        rows.append({"name": name, "seed": seed, "late_loss": late, "losses": losses})
        off = late - rows[0]["late_loss"]
        say(f"{name:28} seed {seed}  first {losses[0]:.4f}  last half {late:.4f} ({off:+.4f})  last {losses[-1]:.4f}")
    return rows


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="llama")
    parser.add_argument("--params", default="10M", help="of blocks and head")
    parser.add_argument("--vocab-size", type=int, default=8192)
    parser.add_argument("--context-len", type=int, default=512)
    parser.add_argument("--rows", type=int, default=2, help="of the one micro-batch")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", choices=("auto", "fp32", "bf16", "fp16"), default="auto", help="of matrix products")
    parser.add_argument("--card", help="play a smaller GPU on this one, such as 6GB; only with CUDA")
    parser.add_argument("--ways", help="names of rows with ; between them; default: all")
    parser.add_argument("--curves", type=int, metavar="STEPS", help="train each way instead and compare losses")
    parser.add_argument("--seeds", type=int, default=3, help="plain runs that show the noise of --curves")
    parser.add_argument("--json", type=Path, default=OUT, help="write the numbers to this file")
    options = parser.parse_args(arguments)
    if min(options.vocab_size, options.context_len, options.rows, options.seeds, options.curves or 1) < 1:
        parser.error("--vocab-size, --context-len, --rows, --seeds and --curves must be at least 1")
    peers = list(PEERS) if importlib.util.find_spec("transformers") and options.recipe == "llama" else []
    known = [*WAYS, *peers]
    ways = [name.strip() for name in options.ways.split(";")] if options.ways else known
    if unknown := [name for name in ways if name not in known]:
        parser.error(f"--ways '{unknown[0]}' is unknown; name some of: {'; '.join(known)}")
    params = units.count(options.params, "number of parameters")
    case = Case(
        options.recipe, params, options.vocab_size, options.context_len, options.rows, options.device, options.dtype
    )
    console = Console()
    if options.curves:
        rows = curves(case, [way for way in ways if way in WAYS], options.curves, options.seeds, print)
    else:
        card = gpus.asked(options.card)[0].memory if options.card else None
        if card is not None and choose_device(options.device).type != "cuda":
            parser.error("--card plays a smaller GPU and needs one; leave it out")
        rows = [measured(case, way, card) for way in ways]
        show(console, case, rows)
    write_json(options.json, {"case": vars(case), "torch": torch.__version__, "rows": rows})
    return 0


if __name__ == "__main__":
    sys.exit(exit_code("memory.py", main))
