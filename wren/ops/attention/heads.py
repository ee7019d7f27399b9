"""What the mixers of the softmax family share: the checks of their head settings, and the sigmoid gate on their output.

B batch, T time, H query heads, K head width, G gate width (1 or K).
"""

from typing import Literal

import torch
from torch import Tensor

from wren.errors import ConfigError
from wren.ops.settings import check_split

Gate = Literal["none", "head", "channel"]


def check_heads(
    mixer: str, dim: int, num_heads: int, num_kv_heads: int | None, head_dim: int | None, positions: str
) -> None:
    """Raises ConfigError for counts below 1, widths that heads do not divide, and odd heads under rotary positions."""
    for name, value in (("num_heads", num_heads), ("num_kv_heads", num_kv_heads), ("head_dim", head_dim)):
        if value is not None and value < 1:
            raise ConfigError(f"{mixer}.{name} is {value}; it must be at least 1.")
    check_split(mixer, dim, num_heads, head_dim)
    if num_heads % (num_kv_heads or num_heads):
        raise ConfigError(f"{mixer}.num_heads {num_heads} is no multiple of num_kv_heads {num_kv_heads}.")
    if positions == "rope" and (head_dim or dim // num_heads) % 2:
        raise ConfigError("Rotary positions need an even head_dim; change it, or set positions to 'none'.")


def gate_width(gate: Gate, head_dim: int) -> int:
    """Gate numbers per head: 0 for none, 1 for one a head, head_dim for one a channel."""
    return {"none": 0, "head": 1, "channel": head_dim}[gate]


def gated(o_BTHK: Tensor, logits_BTE: Tensor) -> Tensor:
    """sigmoid(logits) * o, for logits of H (one a head) or H*K (one a channel) numbers a token  (2505.06708)."""
    gate_BTHG = torch.sigmoid(logits_BTE).unflatten(-1, (o_BTHK.shape[2], -1))
    return o_BTHK.to(gate_BTHG.dtype) * gate_BTHG
