"""Forgetting attention by flash-linear-attention's Triton kernel, where that is installed and the GPU can run it.

B batch, T time, H query heads, J key-value heads, K head width.
"""

import torch
from torch import Tensor

from wren.ops.gated_delta_rule.kernel import _boundaries, _installed


def kernel_fits(q_BTHK: Tensor) -> bool:
    """Whether the kernel can take this call: bf16 or fp16 heads of up to 256 on a GPU of capability 8.0 or more, with
    fla installed. fp32 and fp64 stay with the blockwise form."""
    if q_BTHK.device.type != "cuda" or q_BTHK.dtype not in (torch.bfloat16, torch.float16) or q_BTHK.shape[-1] > 256:
        return False
    return _installed() and torch.cuda.get_device_capability(q_BTHK.device) >= (8, 0)


def kernel_forgetting_attention(
    q_BTHK: Tensor, k_BTJK: Tensor, v_BTJK: Tensor, log_forget_BTH: Tensor, *, documents_BT: Tensor | None = None
) -> Tensor:
    """As naive_forgetting_attention, in the dtype of v."""
    from fla.ops.forgetting_attn import parallel_forgetting_attn  # type: ignore[import-not-found]

    inputs = [q_BTHK.to(v_BTJK.dtype), k_BTJK.to(v_BTJK.dtype), v_BTJK, log_forget_BTH]
    if documents_BT is None:
        return parallel_forgetting_attn(*inputs)
    rows = [x.flatten(0, 1)[None] for x in inputs]  # fla packs documents of all rows into one long row
    o_1NHK = parallel_forgetting_attn(*rows, cu_seqlens=_boundaries(documents_BT))
    return o_1NHK[0].unflatten(0, documents_BT.shape)
