"""Linear attention with a decay for each head, by the form that fits the call.

B batch, T time, G groups of heads, H heads, K key width, V value width.
"""

from torch import Tensor

from wren.ops.decay_attention.chunked import chunked_decay_attention
from wren.ops.decay_attention.kernel import kernel_decay_attention, kernel_fits
from wren.ops.decay_attention.naive import naive_decay_attention
from wren.ops.fla import Boundaries


def decay_attention(
    q_BTGK: Tensor,
    k_BTGK: Tensor,
    v_BTHV: Tensor,
    log_decay_BTH: Tensor | None,
    *,
    memory_BHKV: Tensor | None = None,
    documents_BT: Tensor | None = None,
    boundaries: Boundaries | None = None,
    chunk_size: int = 64,
) -> tuple[Tensor, Tensor | None]:
    """As naive_decay_attention: that form for one token, else fla's kernel where it can run, else chunks.

    boundaries: of the documents, where the caller shares them between layers. The last memory is None where the
    kernel ran over packed documents.
    """
    inputs = (q_BTGK, k_BTGK, v_BTHV, log_decay_BTH)
    if q_BTGK.shape[1] == 1:
        return naive_decay_attention(*inputs, memory_BHKV=memory_BHKV)
    if kernel_fits(v_BTHV, memory_BHKV, documents_BT):
        return kernel_decay_attention(
            *inputs, memory_BHKV=memory_BHKV, documents_BT=documents_BT, boundaries=boundaries
        )
    return chunked_decay_attention(*inputs, memory_BHKV=memory_BHKV, documents_BT=documents_BT, chunk_size=chunk_size)
