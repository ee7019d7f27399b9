"""What torch counts of a call's floating-point operations."""

from collections.abc import Callable
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


def counted(run: Callable[[], object], *, hidden: bool = True) -> int:
    """Floating-point operations of a call: matrix products, convolutions and triangular solves.

    hidden: whether the scores count that torch's causal attention hides.
    """
    solve = torch.ops.aten.linalg_solve_triangular
    flops: dict[Any, Callable[..., int]] = {solve: lambda a, b, *_, out_shape=None, **__: b[-2] * _product(b)}
    backends = [SDPBackend.MATH]
    if not hidden:
        flops[torch.ops.aten._scaled_dot_product_flash_attention_for_cpu] = _seen_flops
        backends.append(SDPBackend.FLASH_ATTENTION)
    with sdpa_kernel(backends), FlopCounterMode(display=False, custom_mapping=flops) as counter:
        run()
    return counter.get_total_flops()


def _seen_flops(
    q: torch.Size, k: torch.Size, v: torch.Size, _dropout: float = 0.0, causal: bool = False, **_: Any
) -> int:
    """Of torch's fused attention on a CPU, where query t of a causal call meets t + 1 keys."""
    T, S = q[-2], k[-2]
    pairs = T * (T + 1) // 2 if causal else T * S
    return 2 * _product(q[:-2]) * pairs * (q[-1] + v[-1])


def _product(shape: torch.Size) -> int:
    return torch.Size(shape).numel()
