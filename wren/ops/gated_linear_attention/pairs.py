"""Products of tokens under a decay of each channel: P_ij = sum_K q_iK exp(g_iK - g_jK) k_jK for i >= j.

g is the log decay summed. Split into a factor of i and one of j at the chunk's start the decay is not safe: exp(-g_j)
overflows. But halving the chunk again and again, every pair i > j is parted by exactly one middle, and from there both
ways the log decay sums to <= 0:
    exp(g_i - g_j) = exp(sum from the middle up to i) exp(sum from after j to the middle).
At each of the log2(C) levels a token stands in the first half of its block and is a key, or in the second and is a
query. So one row z a token and level holds k or q times its decay to the middle, P is the sum of the levels' z z^T
masked to (query, key) of one block, and all sums of all levels are one product of the log decay with a 0/1 table.

X chunks of all rows and heads, C tokens a chunk (a power of two), K key width, L levels.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from wren.ops.place import kind

# numbers (tokens x channels) worked on at a time: with all levels they stay in a core's cache of 2 MiB
_CACHED = 2**16


class ChannelDecay(torch.autograd.Function):
    """q, k, log_decay (X, C, K) -> P (X, C, C), from_start and to_end (X, C, K).

    P is 0 where i < j; from_start_i = exp(g_i), to_end_j = exp(g_C - g_j). All are computed anew for the backward pass.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, log_decay: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        X, C, _ = q.shape
        tables = _tables(C, q)
        pairs, from_start, to_end = q.new_empty(X, C, C), torch.empty_like(q), torch.empty_like(q)
        for group in _groups(q):
            decays = _decays(tables, log_decay[group])
            z = torch.where(tables.is_query_LC1, q[group, None], k[group, None]).mul_(decays[:, :-2])
            torch.sum((z @ z.mT).mul_(tables.meet_LCC), 1, out=pairs[group])
            pairs[group].diagonal(dim1=1, dim2=2).copy_((q[group] * k[group]).sum(-1))
            from_start[group], to_end[group] = decays[:, -2], decays[:, -1]
        ctx.save_for_backward(q, k, log_decay)
        return pairs, from_start, to_end

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, log_decay = ctx.saved_tensors
        tables = _tables(q.shape[1], q)
        results = (torch.empty_like(q), torch.empty_like(k), torch.empty_like(log_decay))
        with torch.autocast(q.device.type, enabled=False):  # a caller may go backward inside of it
            for group in _groups(q):
                inputs = (q[group], k[group], log_decay[group])
                _gradients(tables, inputs, [grad[group] for grad in grads], [into[group] for into in results])
        return results


def _gradients(tables: "_Tables", inputs: tuple[Tensor, ...], grads: list[Tensor], results: list[Tensor]) -> None:
    """Writes the gradients of q, k and log_decay, for some of the chunks, into `results`."""
    q, k, log_decay = inputs
    grad_pairs, grad_start, grad_end = grads
    decays = _decays(tables, log_decay)
    z = torch.where(tables.is_query_LC1, q[:, None], k[:, None]).mul_(decays[:, :-2])
    met = grad_pairs[:, None] * tables.meet_LCC
    into_z = (met + met.mT) @ z
    own = grad_pairs.diagonal(dim1=1, dim2=2)[..., None]
    into_token = into_z * decays[:, :-2]
    of_queries = (into_token * tables.is_query_LC1).sum(1)
    torch.addcmul(of_queries, own, k, out=results[0])
    torch.addcmul(into_token.sum(1).sub_(of_queries), own, q, out=results[1])
    decays[:, :-2] = into_z.mul_(z)  # from here on the gradients of the sums
    decays[:, -2].mul_(grad_start)
    decays[:, -1].mul_(grad_end)
    torch.matmul(tables.sums.mT, decays.flatten(1, 2), out=results[2])


class _Tables(NamedTuple):
    """sums ((L + 2) C, C): which tokens' log decays each sum takes in; the last two: from the start, and to the end."""

    sums: Tensor
    is_query_LC1: Tensor
    meet_LCC: Tensor


def _tables(chunk_len: int, like: Tensor) -> _Tables:
    place_C = torch.arange(chunk_len, device=like.device)
    half_L11 = (2 ** torch.arange(chunk_len.bit_length() - 1, device=like.device))[:, None, None]
    block_LC1 = place_C[:, None] // (2 * half_L11)
    middle_LC1 = (2 * block_LC1 + 1) * half_L11  # the first token of the second half
    is_query_LC1 = place_C[:, None] >= middle_LC1
    up_to_here_CC = place_C <= place_C[:, None]
    behind_middle_LCC = place_C >= middle_LC1
    sums_LCC = torch.where(is_query_LC1, up_to_here_CC & behind_middle_LCC, ~up_to_here_CC & ~behind_middle_LCC)
    sums = torch.cat((sums_LCC, up_to_here_CC[None], ~up_to_here_CC[None])).flatten(0, 1)
    meet_LCC = is_query_LC1 & ~is_query_LC1.mT & (block_LC1 == block_LC1.mT)
    return _Tables(sums.to(like.dtype), is_query_LC1, meet_LCC.to(like.dtype))


def _groups(q: Tensor) -> list[slice]:
    """Chunks to work on at a time: on a CPU as many as its cache holds, elsewhere all."""
    X, C, K = q.shape
    size = max(1, _CACHED // (C * K)) if kind(q) == "cpu" else X
    return [slice(i, i + size) for i in range(0, X, size)]


def _decays(tables: _Tables, log_decay: Tensor) -> Tensor:
    """(X, L + 2, C, K), no exponent above 0: at each level to the middle, then from the chunk's start, to its end."""
    return (tables.sums @ log_decay).exp_().unflatten(1, (-1, log_decay.shape[1]))
