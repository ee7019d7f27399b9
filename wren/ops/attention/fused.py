"""Causal attention by torch's scaled_dot_product_attention, which never keeps the T x T scores.

B batch, T time, S cache slots, N blocks, W window, H query heads, J key-value heads, K head width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from wren.ops.attention.blocked import blocked_attention, serves


def causal_attention(
    q_BTHK: Tensor,
    k_BTJK: Tensor,
    v_BTJK: Tensor,
    *,
    documents_BT: Tensor | None = None,
    window: int | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Outputs (B, T, H, K) of whole rows. A query sees its document's last `window` tokens, itself included."""
    T = q_BTHK.shape[1]
    if serves(q_BTHK, window, dropout):
        return blocked_attention(q_BTHK, k_BTJK, v_BTJK, documents_BT=documents_BT, window=window)
    if window is not None and 2 * window < T:
        return _banded(q_BTHK, k_BTJK, v_BTJK, documents_BT, window, dropout)
    seen_BTT = None if documents_BT is None else documents_BT[:, :, None] == documents_BT[:, None, :]
    if window is not None and window < T:  # no more scores than blocks would make, and no copies of keys
        near_TT = torch.ones(T, T, dtype=torch.bool, device=q_BTHK.device).triu(1 - window)
        seen_BTT = near_TT[None] if seen_BTT is None else seen_BTT & near_TT
    return _attend(q_BTHK, k_BTJK, v_BTJK, None if seen_BTT is None else seen_BTT.tril()[:, None], dropout)


def cached_attention(
    q_BTHK: Tensor, k_BSJK: Tensor, v_BSJK: Tensor, query_BT: Tensor, key_BS: Tensor, *, window: int | None = None
) -> Tensor:
    """Outputs (B, T, H, K) over cached keys, given each query's and each key's place in its row.

    A key place below 0 marks an empty slot; every query must see at least one key.
    """
    age_BTS = query_BT[:, :, None] - key_BS[:, None, :]
    seen_BTS = (age_BTS >= 0) & (key_BS >= 0)[:, None, :]
    if window is not None:
        seen_BTS = seen_BTS & (age_BTS < window)
    return _attend(q_BTHK, k_BSJK, v_BSJK, seen_BTS[:, None], 0.0)


def one_query_attention(q_B1HK: Tensor, k_BSJK: Tensor, v_BSJK: Tensor, seen_BS: Tensor | None) -> Tensor:
    """Outputs (B, 1, H, K) of one query a row over cached keys; seen_BS: those it sees, at least one, None = all."""
    if seen_BS is not None:
        return _attend(q_B1HK, k_BSJK, v_BSJK, seen_BS[:, None, None], 0.0)
    q, k, v = (x.transpose(1, 2) for x in (q_B1HK, k_BSJK, v_BSJK))
    grouped = q_B1HK.shape[2] != k_BSJK.shape[2]
    return F.scaled_dot_product_attention(q, k, v, enable_gqa=grouped).transpose(1, 2)


def _attend(q_BTHK: Tensor, k_BSJK: Tensor, v_BSJK: Tensor, seen: Tensor | None, dropout: float) -> Tensor:
    """Attention where the mask `seen` (broadcast to B, H, T, S) is True; no mask = causal."""
    o_BHTK = F.scaled_dot_product_attention(
        q_BTHK.transpose(1, 2),
        k_BSJK.transpose(1, 2),
        v_BSJK.transpose(1, 2),
        attn_mask=seen,
        dropout_p=dropout,
        is_causal=seen is None,
        enable_gqa=q_BTHK.shape[2] != k_BSJK.shape[2],
    )
    return o_BHTK.transpose(1, 2)


def _banded(
    q_BTHK: Tensor, k_BTJK: Tensor, v_BTJK: Tensor, documents_BT: Tensor | None, window: int, dropout: float
) -> Tensor:
    """Blocks of W queries, each against its own and the previous block of keys: T x 2W scores instead of T x T."""
    B, T = q_BTHK.shape[:2]
    N = -(-T // window)
    q, k, v = (F.pad(x, (0, 0, 0, 0, 0, N * window - T)) for x in (q_BTHK, k_BTJK, v_BTJK))
    q = q.reshape(B * N, window, *q.shape[2:])
    k, v = (_with_previous(x, window).flatten(0, 1) for x in (k, v))
    index_W = torch.arange(window, device=q.device)
    key_S = torch.arange(-window, window, device=q.device)
    age_WS = index_W[:, None] - key_S
    seen_BNWS = ((age_WS >= 0) & (age_WS < window)).expand(1, N, -1, -1)
    in_row_NS = key_S + window * torch.arange(N, device=q.device)[:, None] >= 0
    seen_BNWS = seen_BNWS & in_row_NS[:, None]
    if documents_BT is not None:
        padded_BT = F.pad(documents_BT, (0, N * window - T))
        same = padded_BT.view(B, N, window, 1) == _with_previous(padded_BT, window)[:, :, None]
        seen_BNWS = seen_BNWS & (same | (age_WS == 0))  # a padded query sees itself, so that no row is empty
    seen = seen_BNWS.expand(B, -1, -1, -1).reshape(B * N, 1, window, 2 * window)
    return _attend(q, k, v, seen, dropout).reshape(B, N * window, *q_BTHK.shape[2:])[:, :T]


def _with_previous(x_BT: Tensor, window: int) -> Tensor:
    """(B, N*W, ...) -> (B, N, 2W, ...): each block preceded by the block before it, zeros before the first."""
    x = x_BT.unflatten(1, (-1, window))
    before = torch.cat((torch.zeros_like(x[:, :1]), x[:, :-1]), dim=1)
    return torch.cat((before, x), dim=2)
