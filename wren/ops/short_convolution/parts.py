"""One short convolution over several tensors beside one another, such as queries, keys and values.

B batch, T time, C channels of one tensor, A channels of all, W kernel width, U = W - 1.
"""

import torch
from torch import Tensor

from wren.ops.short_convolution.fused import next_tail, short_convolution


def convolve_parts(
    parts: list[Tensor],
    weight_AW: Tensor,
    *,
    tail_BUA: Tensor | None = None,
    documents_BT: Tensor | None = None,
    valid_B: Tensor | None = None,
) -> tuple[list[Tensor], Tensor | None]:
    """Each part (B, T, C) convolved, and the tail of all for the next call; None where none was given.

    weight_AW and tail_BUA hold the parts' channels one after another.
    """
    widths = [part.shape[-1] for part in parts]
    tails = [None] * len(parts) if tail_BUA is None else tail_BUA.split(widths, dim=-1)
    convolved = [
        short_convolution(part, weight, tail_BUC=tail, documents_BT=documents_BT)
        for part, weight, tail in zip(parts, weight_AW.split(widths), tails, strict=True)
    ]
    if tail_BUA is None:
        return convolved, None
    return convolved, next_tail(torch.cat(parts, dim=-1), weight_AW.shape[1], tail_BUA, valid_B)
