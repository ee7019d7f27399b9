"""The truth, token by token: S_t = a_t (I - b_t k_t k_t^T) S_{t-1} + b_t k_t v_t^T,  o_t = S_t^T q_t / sqrt(K).

B batch, T time, H heads, K key width, V value width.
"""

import torch
from torch import Tensor


def naive_gated_delta_rule(
    q_BTHK: Tensor,
    k_BTHK: Tensor,
    v_BTHV: Tensor,
    log_decay_BTH: Tensor,
    beta_BTH: Tensor,
    *,
    memory_BHKV: Tensor | None = None,
    documents_BT: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Outputs (B, T, H, V) and the last memory (B, H, K, V), computed in fp32 or, for fp64 inputs, in fp64.

    log_decay = log a <= 0; beta in (0, 2) for keys of length 1. A token of log_decay 0 and beta 0 changes nothing.
    The memory is emptied where a new document begins; memory_BHKV is what the first document of a row begins with.
    """
    q, k, v, log_decay, beta = (widened(x) for x in (q_BTHK, k_BTHK, v_BTHV, log_decay_BTH, beta_BTH))
    B, T, H, K = q.shape
    memory = v.new_zeros(B, H, K, v.shape[-1]) if memory_BHKV is None else memory_BHKV.to(v.dtype)
    outputs = []
    for t in range(T):
        if documents_BT is not None and t > 0:
            memory = memory * (documents_BT[:, t] == documents_BT[:, t - 1])[:, None, None, None]
        memory = memory * log_decay[:, t].exp()[..., None, None]
        recalled_BH1V = k[:, t, :, None] @ memory
        written_BH1V = beta[:, t, :, None, None] * (v[:, t, :, None] - recalled_BH1V)
        memory = memory + k[:, t, :, :, None] @ written_BH1V
        outputs.append((q[:, t, :, None] @ memory).squeeze(2))
    return torch.stack(outputs, dim=1) * K**-0.5, memory


def widened(x: Tensor) -> Tensor:
    """In fp32 at least: a memory that sums thousands of tokens would lose the small ones."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
