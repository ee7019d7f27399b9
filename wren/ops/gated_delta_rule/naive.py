"""The truth, token by token: S_t = a_t (I - b_t k_t k_t^T) S_{t-1} + b_t k_t v_t^T,  o_t = S_t^T q_t / sqrt(K).

With n steps a token (2502.10297) the decay acts once, then each step writes its own value at its own key:
S <- a_t S_{t-1}, n times S <- (I - b k k^T) S + b k v^T, and o_t reads what the last step left.

B batch, T time, H heads, N tokens x steps, K key width, V value width.
"""

import torch
from torch import Tensor

from wren.ops.widen import widened


def naive_gated_delta_rule(
    q_BTHK: Tensor,
    k_BNHK: Tensor,
    v_BNHV: Tensor,
    log_decay_BTH: Tensor | None,
    beta_BNH: Tensor,
    *,
    memory_BHKV: Tensor | None = None,
    documents_BT: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Outputs (B, T, H, V) and the last memory (B, H, K, V), computed in fp32 or, for fp64 inputs, in fp64.

    k, v and beta hold n steps a token, one after another; N = T is the plain rule of one step.
    log_decay = log a <= 0, None = no decay; beta in (0, 2) for keys of length 1. A token of log_decay 0 and beta 0
    changes nothing.
    The memory is emptied where a new document begins; memory_BHKV is what the first document of a row begins with.
    """
    q, k, v, beta = (widened(x) for x in (q_BTHK, k_BNHK, v_BNHV, beta_BNH))
    log_decay = None if log_decay_BTH is None else widened(log_decay_BTH)
    B, T, H, K = q.shape
    num_steps = k.shape[1] // T
    memory = v.new_zeros(B, H, K, v.shape[-1]) if memory_BHKV is None else memory_BHKV.to(v.dtype)
    outputs = []
    with torch.autocast(q.device.type, enabled=False):
        for t in range(T):
            if documents_BT is not None and t > 0:
                memory = memory * (documents_BT[:, t] == documents_BT[:, t - 1])[:, None, None, None]
            if log_decay is not None:
                memory = memory * log_decay[:, t].exp()[..., None, None]
            for n in range(t * num_steps, (t + 1) * num_steps):
                recalled_BH1V = k[:, n, :, None] @ memory
                written_BH1V = beta[:, n, :, None, None] * (v[:, n, :, None] - recalled_BH1V)
                memory = memory + k[:, n, :, :, None] @ written_BH1V
            outputs.append((q[:, t, :, None] @ memory).squeeze(2))
    return torch.stack(outputs, dim=1) * K**-0.5, memory
