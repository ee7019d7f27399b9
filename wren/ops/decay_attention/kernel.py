"""Linear attention with a decay for each head by flash-linear-attention's Triton kernel, where the GPU can run it.

B batch, T time, G groups of heads, H heads, N rows x tokens, K key width, V value width.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from wren.ops import gated_delta_rule


def kernel_fits(v_BTHV: Tensor, memory_BHKV: Tensor | None, documents_BT: Tensor | None) -> bool:
    """Whether the kernel can take this call: as for the gated delta rule."""
    return gated_delta_rule.kernel_fits(v_BTHV, memory_BHKV, documents_BT)


def kernel_decay_attention(
    q_BTGK: Tensor,
    k_BTGK: Tensor,
    v_BTHV: Tensor,
    log_decay_BTH: Tensor | None,
    *,
    memory_BHKV: Tensor | None = None,
    documents_BT: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """As naive_decay_attention, in the dtype of v; packed documents give no last memory (None)."""
    from fla.ops.simple_gla import chunk_simple_gla  # type: ignore[import-not-found]

    B, _, H, _ = v_BTHV.shape
    shared = H // q_BTGK.shape[2]
    q, k = (x.to(v_BTHV.dtype).repeat_interleave(shared, dim=2) for x in (q_BTGK, k_BTGK))
    inputs = {"q": q, "k": k, "v": v_BTHV}
    if log_decay_BTH is not None:
        inputs["g"] = log_decay_BTH.float().expand(B, -1, -1).contiguous()
    return call_fla(chunk_simple_gla, inputs, memory_BHKV, documents_BT)


def call_fla(
    kernel: Callable[..., Any], inputs: dict[str, Tensor], memory_BHKV: Tensor | None, documents_BT: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Outputs and last memory of one of fla's kernels, on inputs (B, T, H, ...) by its own names of them."""
    if documents_BT is None:
        return kernel(**inputs, scale=1.0, initial_state=memory_BHKV, output_final_state=True)
    rows = {name: x.flatten(0, 1)[None] for name, x in inputs.items()}  # all rows as one long row of documents
    o_1NHV, _ = kernel(**rows, scale=1.0, cu_seqlens=_boundaries(documents_BT))
    return o_1NHV[0].unflatten(0, documents_BT.shape), None


def _boundaries(documents_BT: Tensor) -> Tensor:
    """int64: where in the flattened batch each document begins, and the total length at the end."""
    begins_BT = torch.ones_like(documents_BT, dtype=torch.bool)
    begins_BT[:, 1:] = documents_BT[:, 1:] != documents_BT[:, :-1]
    starts = begins_BT.flatten().nonzero().flatten()
    return torch.cat((starts, starts.new_tensor([documents_BT.numel()])))
