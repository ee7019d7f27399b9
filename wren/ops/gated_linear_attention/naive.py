"""The truth, token by token: S_t = diag(a_t) S_{t-1} + k_t v_t^T,  o_t = S_t^T q_t.

B batch, T time, H heads, K key width, V value width.
"""

import torch
from torch import Tensor

from wren.ops.widen import widened


def naive_gated_linear_attention(
    q_BTHK: Tensor,
    k_BTHK: Tensor,
    v_BTHV: Tensor,
    log_decay_BTHK: Tensor,
    *,
    memory_BHKV: Tensor | None = None,
    documents_BT: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Outputs (B, T, H, V) and the last memory (B, H, K, V), computed in fp32 or, for fp64 inputs, in fp64.

    log_decay = log a <= 0, one for every key channel. A token whose log_decay is 0, and whose k or v is, changes
    nothing.
    The memory is emptied where a new document begins; memory_BHKV is what the first document of a row begins with.
    """
    q, k, v, log_decay = (widened(x) for x in (q_BTHK, k_BTHK, v_BTHV, log_decay_BTHK))
    B, T, H, K = q.shape
    decay_BTHK = log_decay.exp()
    memory = v.new_zeros(B, H, K, v.shape[-1]) if memory_BHKV is None else memory_BHKV.to(v.dtype)
    outputs = []
    with torch.autocast(q.device.type, enabled=False):
        for t in range(T):
            if documents_BT is not None and t > 0:
                memory = memory * (documents_BT[:, t] == documents_BT[:, t - 1])[:, None, None, None]
            memory = memory * decay_BTHK[:, t, :, :, None] + k[:, t, :, :, None] * v[:, t, :, None]
            outputs.append((q[:, t, :, None] @ memory).squeeze(2))
    return torch.stack(outputs, dim=1), memory
