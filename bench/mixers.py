"""Forward and backward of the mixers beside `transformers`' own of the same shape: same weights' sizes, dtype, one run.

    python bench/mixers.py [--lengths 256,1024] [--batch 16] [--dim 256] [--dtype bf16|fp32] [--json FILE]

The two take turns, and each repeat gives a ratio of two neighbouring times, so that a busy machine slows both. The
batch shrinks as the rows grow: every length trains on batch x 256 tokens.
"""

import argparse
import logging
import os
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from wren.files import write_json
from wren.mixer import Context
from wren.mixers import attention, gated_delta_net
from wren.ops.gated_delta_rule import chunked_gated_delta_rule
from wren.ops.norm import l2_normalised

HEADS = 4
OUT = Path(__file__).parent / "out" / "mixers.json"
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
Run = Callable[[], None]


def attention_pair(x_BTD: Tensor, window: int | None = None) -> tuple[Run, Run]:
    """Ours and LlamaAttention over torch's scaled_dot_product_attention; transformers gives a window as a mask."""
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaAttention, LlamaRotaryEmbedding

    T, D = x_BTD.shape[1:]
    config = LlamaConfig(hidden_size=D, num_attention_heads=HEADS, num_key_value_heads=HEADS)
    config._attn_implementation = "sdpa"
    theirs, rotary = LlamaAttention(config, layer_idx=0), LlamaRotaryEmbedding(config)
    ours = attention.Config(num_heads=HEADS, window=window).build(D)
    places_1T = torch.arange(T)[None]
    seen = None
    if window is not None:
        seen = torch.ones(T, T, dtype=torch.bool).tril().triu(1 - window)[None, None]
    return (
        _step(lambda: ours(x_BTD, Context()), ours, x_BTD),
        _step(lambda: theirs(x_BTD, rotary(x_BTD, places_1T), seen)[0], theirs, x_BTD),
    )


def gated_delta_net_pair(x_BTD: Tensor) -> tuple[Run, Run]:
    """Ours and the PyTorch path of Qwen3NextGatedDeltaNet."""
    from transformers.models.qwen3_next.configuration_qwen3_next import Qwen3NextConfig
    from transformers.models.qwen3_next.modeling_qwen3_next import Qwen3NextGatedDeltaNet

    D = x_BTD.shape[-1]
    config = Qwen3NextConfig(
        hidden_size=D,
        linear_num_key_heads=HEADS,
        linear_num_value_heads=HEADS,
        linear_key_head_dim=D // HEADS,
        linear_value_head_dim=D // HEADS,
        num_hidden_layers=1,
        layer_types=["linear_attention"],
    )
    theirs = Qwen3NextGatedDeltaNet(config, layer_idx=0)
    ours = gated_delta_net.Config(num_heads=HEADS).build(D)
    return _step(lambda: ours(x_BTD, Context()), ours, x_BTD), _step(lambda: theirs(x_BTD), theirs, x_BTD)


def gated_delta_rule_pair(x_BTD: Tensor) -> tuple[Run, Run]:
    """The rule alone: our chunked form and torch_chunk_gated_delta_rule, both with unit queries and keys."""
    from transformers.models.qwen3_next.modeling_qwen3_next import torch_chunk_gated_delta_rule

    generator = torch.Generator().manual_seed(0)
    B, T, D = x_BTD.shape
    q, k, v = (torch.randn(B, T, HEADS, D // HEADS, generator=generator).requires_grad_() for _ in range(3))
    log_decay = (-torch.rand(B, T, HEADS, generator=generator)).requires_grad_()
    beta = torch.rand(B, T, HEADS, generator=generator).requires_grad_()

    def ours() -> None:
        o_BTHV, _ = chunked_gated_delta_rule(l2_normalised(q), l2_normalised(k), v, log_decay, beta)
        o_BTHV.sum().backward()

    def theirs() -> None:
        o_BTHV, _ = torch_chunk_gated_delta_rule(q, k, v, g=log_decay, beta=beta, use_qk_l2norm_in_kernel=True)
        o_BTHV.sum().backward()

    return ours, theirs


def _step(forward: Callable[[], Tensor], module: nn.Module, x_BTD: Tensor) -> Run:
    def run() -> None:
        module.zero_grad(set_to_none=True)
        x_BTD.grad = None
        forward().float().square().mean().backward()

    return run


PAIRS: dict[str, Callable[[Tensor], tuple[Run, Run]]] = {
    "attention": attention_pair,
    "attention, window 128": lambda x_BTD: attention_pair(x_BTD, 128),
    "gated_delta_net": gated_delta_net_pair,
    "gated delta rule alone, fp32": gated_delta_rule_pair,
}


def compare(pair: tuple[Run, Run], num_tokens: int, seconds: float) -> dict[str, Any]:
    """Tokens per second of both and the median of their ratios over repeats of at least `seconds` in all."""
    for run in pair:
        run()
    ratios, times = [], ([], [])
    end = time.perf_counter() + seconds
    while len(ratios) < 5 or time.perf_counter() < end:
        for run, taken in zip(pair, times, strict=True):
            start = time.perf_counter()
            run()
            taken.append(time.perf_counter() - start)
        ratios.append(times[1][-1] / times[0][-1])
    return {
        "tokens_per_second": num_tokens / statistics.median(times[0]),
        "transformers_tokens_per_second": num_tokens / statistics.median(times[1]),
        "ratio": statistics.median(ratios),
        "repeats": len(ratios),
    }


def measure(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    rows = []
    for length in (int(text) for text in arguments.lengths.split(",")):
        batch = max(1, arguments.batch * 256 // length)
        for name, pair in PAIRS.items():
            torch.manual_seed(0)
            x_BTD = torch.randn(batch, length, arguments.dim).requires_grad_()
            with torch.autocast("cpu", DTYPES[arguments.dtype], enabled=arguments.dtype != "fp32"):
                result = compare(pair(x_BTD), batch * length, arguments.seconds)
            rows.append({"name": name, "length": length, "batch": batch, **result})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", default="256,1024", help="tokens in a row, comma-separated")
    parser.add_argument("--batch", type=int, default=16, help="rows at 256 tokens; longer rows are fewer")
    parser.add_argument("--dim", type=int, default=256, help="model width, over 4 heads")
    parser.add_argument("--dtype", choices=sorted(DTYPES), default="bf16", help="bf16 = autocast")
    parser.add_argument("--seconds", type=float, default=5.0, help="time for each row of the table")
    parser.add_argument("--json", type=Path, default=OUT, help="where to write the numbers")
    arguments = parser.parse_args()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="transformers")
    rows = measure(arguments)
    table = Table(
        title=f"forward + backward, {arguments.dtype}, width {arguments.dim}, {torch.get_num_threads()} threads"
    )
    for heading in ("mixer", "length", "batch", "wren tokens/s", "transformers tokens/s", "ratio"):
        table.add_column(heading, justify="left" if heading == "mixer" else "right")
    for row in rows:
        speeds = (f"{row[key]:,.0f}" for key in ("tokens_per_second", "transformers_tokens_per_second"))
        table.add_row(row["name"], str(row["length"]), str(row["batch"]), *speeds, f"{row['ratio']:.2f}")
    Console().print(table)
    setting = {"dtype": arguments.dtype, "dim": arguments.dim, "threads": torch.get_num_threads()}
    write_json(arguments.json, {"torch": torch.__version__, "cores": os.cpu_count(), **setting, "rows": rows})


if __name__ == "__main__":
    main()
