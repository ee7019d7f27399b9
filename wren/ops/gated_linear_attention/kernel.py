"""Gated linear attention by flash-linear-attention's Triton kernel, where the GPU can run it.

B batch, T time, H heads, K key width, V value width.
"""

from torch import Tensor

from wren.ops import fla

kernel_fits = fla.can_recur


def kernel_gated_linear_attention(
    q_BTHK: Tensor,
    k_BTHK: Tensor,
    v_BTHV: Tensor,
    log_decay_BTHK: Tensor,
    *,
    memory_BHKV: Tensor | None = None,
    documents_BT: Tensor | None = None,
    boundaries: fla.Boundaries | None = None,
) -> tuple[Tensor, Tensor | None]:
    """As naive_gated_linear_attention, in the dtype of v; packed documents give no last memory (None)."""
    from fla.ops.gla import chunk_gla  # type: ignore[import-not-found]

    given = {"q": q_BTHK, "k": k_BTHK, "v": v_BTHV}
    inputs = {name: x.to(v_BTHV.dtype) for name, x in given.items()} | {"g": log_decay_BTHK.float()}
    return fla.recur(chunk_gla, inputs, memory_BHKV, documents_BT, boundaries, scale=1.0)
