"""Calls of flash-linear-attention's kernels through Wren beside the same calls made directly, and beside the truth.

Parity: outputs and gradients of Wren's call in bf16 against the token-by-token form in float32, as the largest
difference over the largest value, with the direct call's beside it. Speed: forward and backward, taking turns.

B batch, T time, H heads, K key width, V value width.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor

from measures.training import now
from wren.errors import ConfigError
from wren.ops import fla
from wren.ops.gated_delta_rule import kernel_gated_delta_rule, naive_gated_delta_rule
from wren.ops.gated_linear_attention import kernel_gated_linear_attention, naive_gated_linear_attention

Call = Callable[..., Tensor]
Shape = tuple[int, int, int, int]  # B, T, H, K
PARITY: Shape = (2, 200, 4, 64)  # a length that no chunk divides
_LARGEST = 3e-2  # relative difference that bf16 explains: its step is 0.4 %


@dataclass(frozen=True)
class Case:
    """ours, truth and direct take the same inputs and give the outputs (B, T, H, V)."""

    name: str
    inputs: Callable[[int, int, int, int], list[Tensor]]
    ours: Call
    truth: Call
    direct: Call


def cases() -> list[Case]:
    """What recipe wren's recurrent layers call; raises ConfigError where fla is not there."""
    if not fla.is_installed():
        raise ConfigError("flash-linear-attention is not installed; `pip install wren-llm[gpu]` brings it.")
    from fla.ops.gated_delta_rule import chunk_gated_delta_rule  # type: ignore[import-not-found]
    from fla.ops.gla import chunk_gla  # type: ignore[import-not-found]

    return [
        Case(
            "gated_delta_rule",
            delta_inputs,
            lambda *given: kernel_gated_delta_rule(*given)[0],
            lambda *given: naive_gated_delta_rule(*given)[0],
            lambda q, k, v, g, beta: chunk_gated_delta_rule(q=q, k=k, v=v, g=g, beta=beta)[0],
        ),
        Case(
            "gated_linear_attention",
            linear_inputs,
            lambda *given: kernel_gated_linear_attention(*given)[0],
            lambda *given: naive_gated_linear_attention(*given)[0],
            lambda q, k, v, g: chunk_gla(q=q, k=k, v=v, g=g.float(), scale=1.0)[0],
        ),
    ]


def delta_inputs(B: int, T: int, H: int, K: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(B, T, H, K, generator=generator) for _ in range(3))
    log_decay = F.logsigmoid(torch.randn(B, T, H, generator=generator) + 3)
    beta = 2 * torch.rand(B, T, H, generator=generator)  # eigenvalues in [-1, 1], as recipe wren has them
    return [F.normalize(q, dim=-1), F.normalize(k, dim=-1), v, log_decay, beta]


def linear_inputs(B: int, T: int, H: int, K: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    q, k, v, decay = (torch.randn(B, T, H, K, generator=generator) for _ in range(4))
    return [q / K**0.5, k, v, F.logsigmoid(decay + 3)]


def measure(
    found: list[Case],
    device: torch.device,
    dtype: torch.dtype,
    *,
    shape: Shape,
    seconds: float,
    parity_shape: Shape = PARITY,
) -> list[dict[str, Any]]:
    """A row per case. shape: of the timing; seconds: of it."""
    rows = []
    for case in found:
        times = turns(case, _placed(case.inputs(*shape), device, dtype), device, seconds)
        errors = parity(case, device, dtype, parity_shape)
        rows.append(
            {
                "name": case.name,
                "shape": list(shape),
                **errors,
                "agrees": errors["error"] <= _LARGEST and errors["gradient_error"] <= _LARGEST,
                "milliseconds": 1000 * statistics.median(times["ours"]),
                "direct_milliseconds": 1000 * statistics.median(times["direct"]),
                "ratio": statistics.median(b / a for a, b in zip(times["ours"], times["direct"], strict=True)),
                "repeats": len(times["ours"]),
            }
        )
    return rows


def parity(case: Case, device: torch.device, dtype: torch.dtype, shape: Shape = PARITY) -> dict[str, float]:
    """The largest relative differences of outputs, and of any input's gradient, to the form in float32."""
    given = _placed(case.inputs(*shape), device, dtype)
    true = [x.detach().float().requires_grad_() for x in given]  # the same rounded numbers
    truth = _with_gradients(case.truth, true)
    found = {}
    for prefix, call in (("", case.ours), ("direct_", case.direct)):
        mine = _with_gradients(call, given)
        found[f"{prefix}error"] = _apart(mine[0], truth[0])
        found[f"{prefix}gradient_error"] = max(_apart(a, b) for a, b in zip(mine[1:], truth[1:], strict=True))
    return found


def turns(case: Case, inputs: list[Tensor], device: torch.device, seconds: float) -> dict[str, list[float]]:
    """Seconds of every repeat of both calls, which take turns; at least three."""
    calls = {"ours": case.ours, "direct": case.direct}
    for call in calls.values():  # kernels are compiled and tuned by then
        for _ in range(3):
            _with_gradients(call, inputs)
    times: dict[str, list[float]] = {name: [] for name in calls}
    end = time.perf_counter() + seconds
    while len(times["ours"]) < 3 or time.perf_counter() < end:
        for name, call in calls.items():
            start = now(device)
            _with_gradients(call, inputs)
            times[name].append(now(device) - start)
    return times


def _placed(inputs: list[Tensor], device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    """Matrices in the kernels' format; decays and betas (three dimensions) stay float32, as mixers give them."""
    return [x.to(device, dtype if x.dim() == 4 else torch.float32).requires_grad_() for x in inputs]


def _with_gradients(call: Call, inputs: list[Tensor]) -> list[Tensor]:
    """The output, then the gradient of every input."""
    output = call(*inputs)
    weight = torch.linspace(-1, 1, output.shape[-1], device=output.device)  # not the same for all channels
    return [output.detach(), *torch.autograd.grad((output.float() * weight).sum(), inputs)]


def _apart(found: Tensor, truth: Tensor) -> float:
    return float((found.float() - truth.float()).abs().max() / truth.float().abs().max())


def show(rows: list[dict[str, Any]], console: Console) -> None:
    headings = ("kernel", "ms", "directly", "speed", "error", "of gradients")
    table = Table(*headings, title="fla's kernels", box=box.SIMPLE)
    for row in rows:
        table.add_row(
            row["name"], f"{row['milliseconds']:.2f}", f"{row['direct_milliseconds']:.2f}", f"{row['ratio']:.2f}x",
            f"{row['error']:.1e}", f"{row['gradient_error']:.1e}{'' if row['agrees'] else ' TOO LARGE'}",
        )  # fmt: skip
    console.print(table)
