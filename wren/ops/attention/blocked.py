"""Causal attention in blocks of queries by plain matrix products, which beats the fused form in bf16 on a CPU.

    P = softmax(Q K^T / sqrt(K) + mask);  O = P V;  dS = P (dO V^T - rowsum(dO O))     block by block

The fused form's backward pass makes little use of a CPU's bf16 units: at T = 256 this takes half its time, at T = 512
three quarters (docs/LOG.md). The probabilities are kept, so it serves short rows, and narrow windows at any length.

B batch, T time, S keys of a block, H query heads, J key-value heads, G = H / J, K head width, N = B J, R = G rows of a
block.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from wren.ops.place import kind

LONGEST = 512  # without a window; beyond it the scores leave the caches
WIDEST = 256
_SMALLEST, _LARGEST = 64, 256


def serves(q_BTHK: Tensor, window: int | None, dropout: float) -> bool:
    """Whether this form is the faster one here."""
    if kind(q_BTHK) != "cpu" or q_BTHK.dtype != torch.bfloat16 or dropout:
        return False
    return q_BTHK.shape[1] <= LONGEST or (window is not None and window <= WIDEST)


def blocked_attention(
    q_BTHK: Tensor, k_BTJK: Tensor, v_BTJK: Tensor, *, documents_BT: Tensor | None = None, window: int | None = None
) -> Tensor:
    """Outputs (B, T, H, K) of whole rows. A query sees its document's last `window` tokens, itself included."""
    if documents_BT is not None and bool((documents_BT == documents_BT[:, :1]).all()):
        documents_BT = None  # one document a row: nothing to hide
    return _Blocked.apply(q_BTHK, k_BTJK, v_BTJK, documents_BT, window)  # type: ignore[return-value]


class _Block(NamedTuple):
    """Queries start .. end and the keys that they can see, first .. end."""

    first: int
    start: int
    end: int


def _blocks(length: int, window: int | None) -> list[_Block]:
    size = _LARGEST if window is None else min(max(window, _SMALLEST), _LARGEST)
    count = math.ceil(length / size)
    even = math.ceil(length / count)  # no small rest
    starts = range(0, length, even)
    return [_Block(0 if window is None else max(0, s - window + 1), s, min(s + even, length)) for s in starts]


class _Blocked(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q_BTHK: Tensor, k_BTJK: Tensor, v_BTJK: Tensor, documents_BT: Tensor | None, window: int | None
    ) -> Tensor:
        heads = k_BTJK.shape[2]
        q_NGTK, k_NTK, v_NTK = _grouped(q_BTHK, heads), _grouped(k_BTJK, heads)[:, 0], _grouped(v_BTJK, heads)[:, 0]
        o_NGTK, probs = torch.empty_like(q_NGTK), []
        for block in _blocks(q_BTHK.shape[1], window):
            first, start, end = block
            p_NRS = _probabilities(q_NGTK[:, :, start:end], k_NTK[:, first:end], block, documents_BT, window)
            o_NGTK[:, :, start:end] = (p_NRS @ v_NTK[:, first:end]).view_as(o_NGTK[:, :, start:end])
            probs.append(p_NRS)
        ctx.save_for_backward(q_NGTK, k_NTK, v_NTK, o_NGTK, *probs)
        ctx.window, ctx.heads = window, heads
        return _apart(o_NGTK, heads)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        q_NGTK, k_NTK, v_NTK, o_NGTK, *probs = ctx.saved_tensors
        do_NGTK = _grouped(grad_outputs[0], ctx.heads)
        delta_NGT = (do_NGTK * o_NGTK).sum(-1, keepdim=True)
        dq_NGTK = torch.empty_like(q_NGTK)
        dk_NTK, dv_NTK = (
            torch.zeros_like(x, dtype=torch.promote_types(x.dtype, torch.float32)) for x in (k_NTK, v_NTK)
        )
        scale = q_NGTK.shape[-1] ** -0.5
        for (first, start, end), p_NRS in zip(_blocks(q_NGTK.shape[2], ctx.window), probs, strict=True):
            q_NRK, do_NRK, delta_NR = (x[:, :, start:end].flatten(1, 2) for x in (q_NGTK, do_NGTK, delta_NGT))
            ds_NRS = torch.baddbmm(delta_NR, do_NRK, v_NTK[:, first:end].mT, beta=-1).mul_(p_NRS).mul_(scale)
            dq_NGTK[:, :, start:end] = (ds_NRS @ k_NTK[:, first:end]).view_as(dq_NGTK[:, :, start:end])
            dk_NTK[:, first:end] += ds_NRS.mT @ q_NRK
            dv_NTK[:, first:end] += p_NRS.mT @ do_NRK
        dk, dv = (_apart(x[:, None].to(q_NGTK.dtype), ctx.heads) for x in (dk_NTK, dv_NTK))
        return _apart(dq_NGTK, ctx.heads), dk, dv, None, None


def _probabilities(
    q_NGTK: Tensor, k_NSK: Tensor, block: _Block, documents_BT: Tensor | None, window: int | None
) -> Tensor:
    """(N, R, S)"""
    groups, num_rows = q_NGTK.shape[1:3]
    first, start, end = block
    mask_TS = _mask(start - first, num_rows, window, q_NGTK.dtype, q_NGTK.device)
    bias = mask_TS.expand(groups, -1, -1).flatten(0, 1)[None]
    scores_NRS = torch.baddbmm(bias, q_NGTK.flatten(1, 2), k_NSK.mT, alpha=q_NGTK.shape[-1] ** -0.5)
    if documents_BT is not None:
        other_BTS = documents_BT[:, start:end, None] != documents_BT[:, None, first:end]
        by_head = scores_NRS.view(len(documents_BT), -1, num_rows, end - first)
        by_head.masked_fill_(other_BTS[:, None], -math.inf)
    return scores_NRS.softmax(-1)


def _mask(offset: int, num_rows: int, window: int | None, dtype: torch.dtype, device: torch.device) -> Tensor:
    """0 where row i, which stands at `offset` + i of the block's keys, sees a key; -inf elsewhere."""
    key_S = torch.arange(offset + num_rows, device=device)
    age_TS = key_S[offset:, None] - key_S
    hidden_TS = age_TS < 0 if window is None else (age_TS < 0) | (age_TS >= window)
    return torch.zeros(age_TS.shape, dtype=dtype, device=device).masked_fill_(hidden_TS, -math.inf)


def _grouped(x_BTHK: Tensor, heads: int) -> Tensor:
    """(B, T, J G, K) -> (B J, G, T, K)"""
    return x_BTHK.unflatten(2, (heads, -1)).permute(0, 2, 3, 1, 4).flatten(0, 1).contiguous()


def _apart(x_NGTK: Tensor, heads: int) -> Tensor:
    """(B J, G, T, K) -> (B, T, J G, K)"""
    return x_NGTK.unflatten(0, (-1, heads)).permute(0, 3, 1, 2, 4).flatten(2, 3)
