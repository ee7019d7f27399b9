"""Linear attention with a decay for each head by flash-linear-attention's Triton kernel, where the GPU can run it.

B batch, T time, G groups of heads, H heads, K key width, V value width.
"""

from torch import Tensor

from wren.ops import fla

kernel_fits = fla.can_recur


def kernel_decay_attention(
    q_BTGK: Tensor,
    k_BTGK: Tensor,
    v_BTHV: Tensor,
    log_decay_BTH: Tensor | None,
    *,
    memory_BHKV: Tensor | None = None,
    documents_BT: Tensor | None = None,
    boundaries: fla.Boundaries | None = None,
) -> tuple[Tensor, Tensor | None]:
    """As naive_decay_attention, in the dtype of v; packed documents give no last memory (None)."""
    from fla.ops.simple_gla import chunk_simple_gla  # type: ignore[import-not-found]

    B, _, H, _ = v_BTHV.shape
    shared = H // q_BTGK.shape[2]
    q, k = (x.to(v_BTHV.dtype).repeat_interleave(shared, dim=2) for x in (q_BTGK, k_BTGK))
    inputs = {"q": q, "k": k, "v": v_BTHV}
    if log_decay_BTH is not None:
        inputs["g"] = log_decay_BTH.float().expand(B, -1, -1).contiguous()
    return fla.recur(chunk_simple_gla, inputs, memory_BHKV, documents_BT, boundaries, scale=1.0)
