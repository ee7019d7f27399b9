"""Forgetting attention by blocks of queries; the T x T scores never stay, neither forward nor backward.

With c_t = sum_{l <= t} log f_l the score of key s for query t is q_t . k_s / sqrt(K) + c_t - c_s. c is summed in fp64
and counted from the first query of the block: for the keys before the block both parts of c_t - c_s are then below 0,
cancellation takes no digit, and fp32 suffices. Inside the block the differences are taken in fp64.

A block is one call of scaled_dot_product_attention with c_t - c_s as its mask. Fused forms give no gradient to a mask,
so the backward pass, which runs each block once more, adds a column to the keys that is 0 and that every query reads
with weight 1: its gradient is sum_t dS_ts = -dc_s, of the scores S. The part of c_t falls away, as a softmax does not
feel a constant. Then dlog f_l = sum_{s >= l} dc_s over l's document.

A weight is at most exp(c_t - c_s + 2 |q_t| max|k| / sqrt(K)), for the query's own key has a score too (the bound of
2504.06949). Keys for which that is far below the last digit are masked out: their weights would be denormal numbers,
on which a CPU is slow.

B batch, T time, S keys, C block of queries, H query heads, J key-value heads, K head width, E = K + 8.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from wren.ops.widen import wide_dtype, widest

E_MORE = 8  # one column would do; fused kernels of a GPU want widths that are multiples of 8


def chunked_forgetting_attention(
    q_BTHK: Tensor,
    k_BTJK: Tensor,
    v_BTJK: Tensor,
    log_forget_BTH: Tensor,
    *,
    documents_BT: Tensor | None = None,
    block_size: int = 128,
) -> Tensor:
    """As naive_forgetting_attention, for any length; what is kept grows as T, what is made at once as block_size x T.

    q, k and v agree in dtype; log_forget is fp32, or fp64 with the others.
    """
    return _Blockwise.apply(q_BTHK, k_BTJK, v_BTJK, log_forget_BTH, documents_BT, block_size)


def cached_forgetting_attention(
    q_BTHK: Tensor,
    k_BSJK: Tensor,
    v_BSJK: Tensor,
    log_forget_BSH: Tensor,
    query_BT: Tensor,
    *,
    block_size: int = 64,
) -> Tensor:
    """Outputs (B, T, H, K) over cached keys of places 0 .. S-1, given each query's place in its row (int64)."""
    H, S = q_BTHK.shape[2], k_BSJK.shape[1]
    key_S = torch.arange(S, device=query_BT.device)
    total_BHS = _totals(log_forget_BSH)
    k_BJSK, v_BJSK = k_BSJK.transpose(1, 2), v_BSJK.transpose(1, 2)
    outputs = []
    for q_BCHK, places_BC in zip(q_BTHK.split(block_size, dim=1), query_BT.split(block_size, dim=1), strict=True):
        at_BHC = total_BHS.gather(2, places_BC[:, None].expand(-1, H, -1))
        decay_BHCS = (at_BHC[..., None] - total_BHS[..., None, :]).to(q_BTHK.dtype)
        mask_BHCS = decay_BHCS.masked_fill((key_S > places_BC[..., None])[:, None], -torch.inf)
        o_BHCK = F.scaled_dot_product_attention(
            q_BCHK.transpose(1, 2), k_BJSK, v_BJSK, attn_mask=mask_BHCS, enable_gqa=k_BSJK.shape[2] != H
        )
        outputs.append(o_BHCK.transpose(1, 2))
    return torch.cat(outputs, dim=1)


class _Blockwise(torch.autograd.Function):
    """Keeps nothing but its inputs: the backward pass runs each block once more."""

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        q_BTHK: Tensor,
        k_BTJK: Tensor,
        v_BTJK: Tensor,
        log_forget_BTH: Tensor,
        documents_BT: Tensor | None,
        block_size: int,
    ) -> Tensor:
        ctx.save_for_backward(q_BTHK, k_BTJK, v_BTJK, log_forget_BTH, documents_BT)  # type: ignore[arg-type]
        ctx.block_size = block_size  # type: ignore[attr-defined]
        H, K = q_BTHK.shape[2:]
        q_BHTK, k_BHTK, v_BHTK = q_BTHK.transpose(1, 2), _per_query_head(k_BTJK, H), _per_query_head(v_BTJK, H)
        total_BHT, least_BHT = _totals(log_forget_BTH), _least_decay(q_BHTK, k_BHTK)
        outputs = []
        for start in range(0, q_BTHK.shape[1], block_size):
            block, seen = slice(start, start + block_size), slice(0, start + block_size)
            mask = _mask(total_BHT, block, documents_BT, least_BHT)
            outputs.append(_attend(q_BHTK[:, :, block], k_BHTK[:, :, seen], v_BHTK[:, :, seen], mask, K))
        return torch.cat(outputs, dim=2).transpose(1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad_BTHK: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        q_BTHK, k_BTJK, v_BTJK, log_forget_BTH, documents_BT = ctx.saved_tensors  # type: ignore[attr-defined]
        block_size: int = ctx.block_size  # type: ignore[attr-defined]
        T, H, K = q_BTHK.shape[1:]
        more = (0, E_MORE)
        q_BHTE = F.pad(q_BTHK.transpose(1, 2), more, value=K**0.5)  # 1 after the scale of the scores
        k_BHTE, v_BHTE = (F.pad(_per_query_head(x, H), more) for x in (k_BTJK, v_BTJK))
        grad_BHTE = F.pad(grad_BTHK.transpose(1, 2), more)
        total_BHT, least_BHT = _totals(log_forget_BTH), _least_decay(q_BHTE[..., :K], k_BHTE[..., :K])
        dq_BHTE = torch.empty_like(q_BHTE)
        dk_BHTE, dv_BHTE = (torch.zeros_like(x, dtype=log_forget_BTH.dtype) for x in (k_BHTE, v_BHTE))
        for start in range(0, T, block_size):
            block, seen = slice(start, start + block_size), slice(0, start + block_size)
            mask = _mask(total_BHT, block, documents_BT, least_BHT)
            given = (q_BHTE[:, :, block], k_BHTE[:, :, seen], v_BHTE[:, :, seen])
            dq, dk, dv = _gradients(given, mask, grad_BHTE[:, :, block], K)
            dq_BHTE[:, :, block] = dq
            dk_BHTE[:, :, seen] += dk
            dv_BHTE[:, :, seen] += dv
        dlog_forget_BHT = _sum_to_end(widest(-dk_BHTE[..., K]), documents_BT)
        dk_BTJK, dv_BTJK = (_per_key_head(x[..., :K], x_BTJK) for x, x_BTJK in ((dk_BHTE, k_BTJK), (dv_BHTE, v_BTJK)))
        dlog_forget_BTH = dlog_forget_BHT.transpose(1, 2).to(log_forget_BTH.dtype)
        return dq_BHTE[..., :K].transpose(1, 2), dk_BTJK, dv_BTJK, dlog_forget_BTH, None, None


def _attend(q_BHCE: Tensor, k_BHSE: Tensor, v_BHSE: Tensor, mask_BHCS: Tensor, scale_dim: int) -> Tensor:
    mask_BHCS = mask_BHCS.to(q_BHCE.dtype)
    with torch.autocast(q_BHCE.device.type, enabled=False):
        return F.scaled_dot_product_attention(q_BHCE, k_BHSE, v_BHSE, attn_mask=mask_BHCS, scale=scale_dim**-0.5)


def _gradients(
    given: tuple[Tensor, Tensor, Tensor], mask_BHCS: Tensor, grad_BHCE: Tensor, scale_dim: int
) -> tuple[Tensor, ...]:
    with torch.enable_grad():
        q, k, v = (x.detach().requires_grad_() for x in given)
        o_BHCE = _attend(q, k, v, mask_BHCS, scale_dim)
    return torch.autograd.grad(o_BHCE, (q, k, v), grad_BHCE)


def _per_query_head(x_BTJK: Tensor, num_heads: int) -> Tensor:
    return x_BTJK.repeat_interleave(num_heads // x_BTJK.shape[2], dim=2).transpose(1, 2)


def _per_key_head(grad_BHTK: Tensor, like_BTJK: Tensor) -> Tensor:
    return grad_BHTK.unflatten(1, (like_BTJK.shape[2], -1)).sum(2).transpose(1, 2).to(like_BTJK.dtype)


def _totals(log_forget_BTH: Tensor) -> Tensor:
    return widest(log_forget_BTH.transpose(1, 2)).cumsum(2)


def _least_decay(q_BHTK: Tensor, k_BHTK: Tensor) -> Tensor:
    """(B, H, T), fp32 or fp64: below it c_t - c_s takes key s out of query t's sum, by e^-25 of the last digit."""
    wide = wide_dtype(q_BHTK.dtype)
    q_BHT, k_BHT = (torch.linalg.vector_norm(x, dim=-1, dtype=wide) for x in (q_BHTK, k_BHTK))
    bound_BHT = 2 * q_BHTK.shape[-1] ** -0.5 * q_BHT * k_BHT.cummax(2).values
    return math.log(torch.finfo(wide).eps) - 25 - bound_BHT


def _mask(total_BHT: Tensor, block: slice, documents_BT: Tensor | None, least_BHT: Tensor) -> Tensor:
    """c_t - c_s (B, H, C, S) of the block's queries t and every key s up to its end; -inf where t does not see s."""
    queries_BHC = total_BHT[:, :, block]
    first_BH1 = queries_BHC[..., :1]
    of_query, of_key = ((x - first_BH1).to(least_BHT.dtype) for x in (queries_BHC, total_BHT[:, :, : block.stop]))
    decay_BHCS = of_query[..., :, None] - of_key[..., None, :]
    decay_BHCS[..., block.start :] = queries_BHC[..., :, None] - queries_BHC[..., None, :]
    size = decay_BHCS.shape[-2]
    future_CC = torch.ones(size, size, dtype=torch.bool, device=total_BHT.device).triu(1)
    decay_BHCS[..., block.start :].masked_fill_(future_CC, -torch.inf)
    decay_BHCS.masked_fill_(decay_BHCS < least_BHT[:, :, block, None], -torch.inf)
    if documents_BT is not None:
        other_BCS = documents_BT[:, block, None] != documents_BT[:, None, : block.stop]
        decay_BHCS.masked_fill_(other_BCS[:, None], -torch.inf)
    return decay_BHCS


def _sum_to_end(x_BHT: Tensor, documents_BT: Tensor | None) -> Tensor:
    """sum_{s >= l} x_s over l's document; not even rounding carries another document's numbers over."""
    sum_BHT = x_BHT.flip(2).cumsum(2).flip(2)
    if documents_BT is None:
        return sum_BHT
    T = x_BHT.shape[2]
    index_T = torch.arange(1, T + 1, device=x_BHT.device)
    is_last_BT = torch.ones_like(documents_BT, dtype=torch.bool)
    is_last_BT[:, :-1] = documents_BT[:, 1:] != documents_BT[:, :-1]
    next_BT = torch.where(is_last_BT, index_T, T).flip(1).cummin(1).values.flip(1)  # where the next document begins
    padded = torch.cat((sum_BHT, torch.zeros_like(sum_BHT[..., :1])), dim=2)
    return sum_BHT - padded.gather(2, next_BT[:, None].expand_as(sum_BHT))
