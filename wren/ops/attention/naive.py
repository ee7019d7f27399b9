"""The truth: o_t = sum_{s <= t} softmax_s(q_t . k_s / sqrt(K)) v_s with a full T x T score matrix.

B batch, T time, H query heads, J key-value heads (query head h reads key head h // (H/J)), K head width.
"""

import math

import torch
from torch import Tensor


def naive_attention(
    q_BTHK: Tensor, k_BTJK: Tensor, v_BTJK: Tensor, *, documents_BT: Tensor | None = None, window: int | None = None
) -> Tensor:
    """Outputs (B, T, H, K). A query sees its document's last `window` tokens, itself included; None = all."""
    T, H, K = q_BTHK.shape[1:]
    k_BTHK = k_BTJK.repeat_interleave(H // k_BTJK.shape[2], dim=2)
    v_BTHK = v_BTJK.repeat_interleave(H // v_BTJK.shape[2], dim=2)
    index_T = torch.arange(T, device=q_BTHK.device)
    age_TT = index_T[:, None] - index_T
    seen_BTT = ((age_TT >= 0) & (age_TT < (window or T)))[None]
    if documents_BT is not None:
        seen_BTT = seen_BTT & (documents_BT[:, :, None] == documents_BT[:, None, :])
    scores_BHTT = torch.einsum("bthk,bshk->bhts", q_BTHK, k_BTHK) / math.sqrt(K)
    weights_BHTT = scores_BHTT.masked_fill(~seen_BTT[:, None], -torch.inf).softmax(-1)
    return torch.einsum("bhts,bshk->bthk", weights_BHTT, v_BTHK)
