"""Forgetting attention by flash-linear-attention's Triton kernel, where that is installed and the GPU can run it.

B batch, T time, H query heads, J key-value heads, K head width.
"""

from torch import Tensor

from wren.ops import fla

_WIDEST = 256  # of a head, in fla


def kernel_fits(q_BTHK: Tensor) -> bool:
    """Whether the kernel can take this call: as fla.can_take, with heads of up to 256 channels."""
    return q_BTHK.shape[-1] <= _WIDEST and fla.can_take(q_BTHK)


def kernel_forgetting_attention(
    q_BTHK: Tensor,
    k_BTJK: Tensor,
    v_BTJK: Tensor,
    log_forget_BTH: Tensor,
    *,
    documents_BT: Tensor | None = None,
    boundaries: fla.Boundaries | None = None,
) -> Tensor:
    """As naive_forgetting_attention, in the dtype of v."""
    from fla.ops.forgetting_attn import parallel_forgetting_attn  # type: ignore[import-not-found]

    inputs = {"q": q_BTHK.to(v_BTJK.dtype), "k": k_BTJK.to(v_BTJK.dtype), "v": v_BTJK, "g": log_forget_BTH}
    if documents_BT is None:
        return parallel_forgetting_attn(**inputs)
    o_1NHK = parallel_forgetting_attn(**fla.as_one_row(inputs, documents_BT, boundaries))
    return o_1NHK[0].unflatten(0, documents_BT.shape)
