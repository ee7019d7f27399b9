"""The truth, token by token: S_t = (I - e_t r_t^T) diag(a_t) S_{t-1} + k_t v_t^T,  o_t = S_t^T q_t.

B batch, T time, H heads, K key width, V value width.
"""

import torch
from torch import Tensor

from wren.ops.widen import widened


def naive_generalised_delta_rule(
    q_BTHK: Tensor,
    k_BTHK: Tensor,
    v_BTHV: Tensor,
    log_decay_BTHK: Tensor,
    read_BTHK: Tensor,
    *,
    erase_BTHK: Tensor | None = None,
    memory_BHKV: Tensor | None = None,
    documents_BT: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Outputs (B, T, H, V) and the last memory (B, H, K, V), computed in fp32 or, for fp64 inputs, in fp64.

    log_decay = log a <= 0, one for every key channel. read is r: along it the decayed memory is read; what it says is
    taken away along erase, e, None = k. A token whose log_decay, k and erase are 0 changes nothing.
    The memory is emptied where a new document begins; memory_BHKV is what the first document of a row begins with.
    """
    q, k, v, log_decay, read = (widened(x) for x in (q_BTHK, k_BTHK, v_BTHV, log_decay_BTHK, read_BTHK))
    erase = k if erase_BTHK is None else widened(erase_BTHK)
    B, T, H, K = q.shape
    memory = v.new_zeros(B, H, K, v.shape[-1]) if memory_BHKV is None else memory_BHKV.to(v.dtype)
    outputs = []
    with torch.autocast(q.device.type, enabled=False):
        for t in range(T):
            if documents_BT is not None and t > 0:
                memory = memory * (documents_BT[:, t] == documents_BT[:, t - 1])[:, None, None, None]
            memory = memory * log_decay[:, t, :, :, None].exp()
            said_BH1V = read[:, t, :, None] @ memory
            memory = memory + k[:, t, :, :, None] * v[:, t, :, None] - erase[:, t, :, :, None] * said_BH1V
            outputs.append((q[:, t, :, None] @ memory).squeeze(2))
    return torch.stack(outputs, dim=1), memory
