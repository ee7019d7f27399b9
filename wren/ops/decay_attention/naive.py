"""The truth, token by token: S_t = a_t S_{t-1} + k_t v_t^T,  o_t = S_t^T q_t.

B batch, T time, G groups of heads, H heads, K key width, V value width.
"""

import torch
from torch import Tensor

from wren.ops.widen import widened


def naive_decay_attention(
    q_BTGK: Tensor,
    k_BTGK: Tensor,
    v_BTHV: Tensor,
    log_decay_BTH: Tensor | None,
    *,
    memory_BHKV: Tensor | None = None,
    documents_BT: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Outputs (B, T, H, V) and the last memory (B, H, K, V), computed in fp32 or, for fp64 inputs, in fp64.

    H is a multiple of G: the first H / G heads share the first queries and keys, and so on.
    log_decay = log a <= 0; its batch may be 1 where all rows decay alike; None = no decay. A token of log_decay 0 whose
    value is 0 changes nothing.
    The memory is emptied where a new document begins; memory_BHKV is what the first document of a row begins with.
    """
    v = widened(v_BTHV)
    shared = v.shape[2] // q_BTGK.shape[2]
    q, k = (widened(x).repeat_interleave(shared, dim=2) for x in (q_BTGK, k_BTGK))
    decay_BTH = None if log_decay_BTH is None else widened(log_decay_BTH).exp()
    B, T, H, K = q.shape
    memory = v.new_zeros(B, H, K, v.shape[-1]) if memory_BHKV is None else memory_BHKV.to(v.dtype)
    outputs = []
    with torch.autocast(q.device.type, enabled=False):
        for t in range(T):
            if documents_BT is not None and t > 0:
                memory = memory * (documents_BT[:, t] == documents_BT[:, t - 1])[:, None, None, None]
            if decay_BTH is not None:
                memory = memory * decay_BTH[:, t, :, None, None]
            memory = memory + k[:, t, :, :, None] * v[:, t, :, None]
            outputs.append((q[:, t, :, None] @ memory).squeeze(2))
    return torch.stack(outputs, dim=1), memory
