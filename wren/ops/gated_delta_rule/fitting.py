"""The gated delta rule by the form that fits the call, and what the chunked form costs.

B batch, T time, H heads, N tokens x steps, K key width, V value width.
"""

import math

from torch import Tensor

from wren.ops.fla import Boundaries
from wren.ops.gated_delta_rule.chunked import chunked_gated_delta_rule
from wren.ops.gated_delta_rule.kernel import kernel_fits, kernel_gated_delta_rule
from wren.ops.gated_delta_rule.naive import naive_gated_delta_rule


def gated_delta_rule(
    q_BTHK: Tensor,
    k_BNHK: Tensor,
    v_BNHV: Tensor,
    log_decay_BTH: Tensor | None,
    beta_BNH: Tensor,
    *,
    memory_BHKV: Tensor | None = None,
    documents_BT: Tensor | None = None,
    boundaries: Boundaries | None = None,
    chunk_size: int = 64,
) -> tuple[Tensor, Tensor | None]:
    """As naive_gated_delta_rule: that form for one token, else fla's kernel where it can run, else chunks.

    boundaries: of the documents, where the caller shares them between layers. The last memory is None where the
    kernel ran over packed documents.
    """
    inputs = (q_BTHK, k_BNHK, v_BNHV, log_decay_BTH, beta_BNH)
    if q_BTHK.shape[1] == 1:
        return naive_gated_delta_rule(*inputs, memory_BHKV=memory_BHKV)
    if kernel_fits(v_BNHV, memory_BHKV, documents_BT):
        return kernel_gated_delta_rule(
            *inputs, memory_BHKV=memory_BHKV, documents_BT=documents_BT, boundaries=boundaries
        )
    return chunked_gated_delta_rule(*inputs, memory_BHKV=memory_BHKV, documents_BT=documents_BT, chunk_size=chunk_size)


def chunked_flops_per_token(
    context_len: int, chunk_size: int, key_dim: int, value_dim: int, num_steps: int = 1
) -> float:
    """Of the chunked form for one head, averaged over a whole row, whose last chunk is padded."""
    C, K, V = min(chunk_size, context_len), key_dim, value_dim
    S = num_steps * C
    padded = math.ceil(context_len / C) * C / context_len
    pairs, reading, solve = 2 * num_steps * S * K + 2 * S * K, 2 * S * V, num_steps * S * V
    memory = (4 * num_steps + 2) * K * V
    return padded * (pairs + reading + solve + memory)
