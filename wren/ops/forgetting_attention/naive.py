"""The truth: o_t = sum_{s <= t} softmax_s(q_t . k_s / sqrt(K) + sum_{s < l <= t} log f_l) v_s, scores T x T.

B batch, T time, H query heads, J key-value heads (query head h reads key head h // (H/J)), K head width.
"""

import math

import torch
from torch import Tensor

from wren.ops.widen import widest


def naive_forgetting_attention(
    q_BTHK: Tensor, k_BTJK: Tensor, v_BTJK: Tensor, log_forget_BTH: Tensor, *, documents_BT: Tensor | None = None
) -> Tensor:
    """Outputs (B, T, H, K). log_forget = log f <= 0; a query sees its own document up to itself.

    The log forgets are summed in fp64: thousands of tokens at -100 would leave fp32 no digits for their differences.
    """
    T, H, K = q_BTHK.shape[1:]
    k_BTHK = k_BTJK.repeat_interleave(H // k_BTJK.shape[2], dim=2)
    v_BTHK = v_BTJK.repeat_interleave(H // v_BTJK.shape[2], dim=2)
    seen_BTT = torch.ones(1, T, T, dtype=torch.bool, device=q_BTHK.device).tril()
    if documents_BT is not None:
        seen_BTT = seen_BTT & (documents_BT[:, :, None] == documents_BT[:, None, :])
    total_BHT = widest(log_forget_BTH).cumsum(1).transpose(1, 2)
    decay_BHTT = (total_BHT[..., :, None] - total_BHT[..., None, :]).to(log_forget_BTH.dtype)
    scores_BHTT = torch.einsum("bthk,bshk->bhts", q_BTHK, k_BTHK) / math.sqrt(K) + decay_BHTT
    weights_BHTT = scores_BHTT.masked_fill(~seen_BTT[:, None], -torch.inf).softmax(-1)
    return torch.einsum("bhts,bshk->bthk", weights_BHTT.to(v_BTHK.dtype), v_BTHK)
