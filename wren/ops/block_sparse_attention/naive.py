"""The truth: o_t = sum_{s in A_t} softmax_s(q_t . k_s / sqrt(K)) v_s, by a full T x T mask for every head.

A document is cut into blocks from its own start. A_t is t's own block up to t, and the top_k blocks before it of the
largest q_t . mean(k of the block); of equal ones the earlier.

B batch, T time, N blocks, H query heads, J key-value heads (query head h reads key head h // (H/J)), K head width.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from wren.batch import positions_in_documents


def naive_block_sparse_attention(
    q_BTHK: Tensor,
    k_BTJK: Tensor,
    v_BTJK: Tensor,
    *,
    block_size: int,
    top_k: int,
    documents_BT: Tensor | None = None,
) -> Tensor:
    """Outputs (B, T, H, K). The choice of blocks has no gradient; what is read from them has."""
    B, T, H, K = q_BTHK.shape
    k_BTHK = k_BTJK.repeat_interleave(H // k_BTJK.shape[2], dim=2)
    v_BTHK = v_BTJK.repeat_interleave(H // v_BTJK.shape[2], dim=2)
    if documents_BT is None:
        documents_BT = torch.zeros(B, T, dtype=torch.long, device=q_BTHK.device)
    block_BT = (positions_in_documents(documents_BT) % block_size == 0).cumsum(1) - 1
    member_BTN = F.one_hot(block_BT, T).to(q_BTHK.dtype)
    mean_BNHK = torch.einsum("btn,bthk->bnhk", member_BTN, k_BTHK) / block_size  # a block not yet full is never chosen
    document_BN = torch.full((B, T), -1, device=q_BTHK.device).scatter(1, block_BT, documents_BT)
    earlier_BTN = torch.arange(T, device=q_BTHK.device) < block_BT[..., None]
    allowed_BTN = earlier_BTN & (document_BN[:, None] == documents_BT[..., None])
    answer_BHTN = torch.einsum("bthk,bnhk->bhtn", q_BTHK, mean_BNHK).masked_fill(~allowed_BTN[:, None], -torch.inf)
    best = answer_BHTN.sort(dim=-1, descending=True, stable=True).indices[..., :top_k]
    chosen_BHTN = torch.zeros_like(answer_BHTN, dtype=torch.bool).scatter(-1, best, True) & allowed_BTN[:, None]
    of_key_BHTS = block_BT[:, None, None].expand(B, H, T, T)
    own_BTS = (block_BT[:, :, None] == block_BT[:, None]).tril()
    seen_BHTS = chosen_BHTN.gather(-1, of_key_BHTS) | own_BTS[:, None]
    scores_BHTS = torch.einsum("bthk,bshk->bhts", q_BTHK, k_BTHK) / math.sqrt(K)
    weights_BHTS = scores_BHTS.masked_fill(~seen_BHTS, -torch.inf).softmax(-1)
    return torch.einsum("bhts,bshk->bthk", weights_BHTS, v_BTHK)
