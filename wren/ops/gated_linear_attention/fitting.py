"""Gated linear attention by the form that fits the call.

B batch, T time, H heads, K key width, V value width.
"""

from torch import Tensor

from wren.ops.fla import Boundaries
from wren.ops.gated_linear_attention.chunked import chunked_gated_linear_attention
from wren.ops.gated_linear_attention.kernel import kernel_fits, kernel_gated_linear_attention
from wren.ops.gated_linear_attention.naive import naive_gated_linear_attention


def gated_linear_attention(
    q_BTHK: Tensor,
    k_BTHK: Tensor,
    v_BTHV: Tensor,
    log_decay_BTHK: Tensor,
    *,
    memory_BHKV: Tensor | None = None,
    documents_BT: Tensor | None = None,
    boundaries: Boundaries | None = None,
    chunk_size: int = 32,
) -> tuple[Tensor, Tensor | None]:
    """As naive_gated_linear_attention: that form for one token, else fla's kernel where it can run, else chunks.

    boundaries: of the documents, where the caller shares them between layers. The last memory is None where the
    kernel ran over packed documents.
    """
    inputs = (q_BTHK, k_BTHK, v_BTHV, log_decay_BTHK)
    if q_BTHK.shape[1] == 1:
        return naive_gated_linear_attention(*inputs, memory_BHKV=memory_BHKV)
    if kernel_fits(v_BTHV, memory_BHKV, documents_BT):
        return kernel_gated_linear_attention(
            *inputs, memory_BHKV=memory_BHKV, documents_BT=documents_BT, boundaries=boundaries
        )
    return chunked_gated_linear_attention(
        *inputs, memory_BHKV=memory_BHKV, documents_BT=documents_BT, chunk_size=chunk_size
    )
