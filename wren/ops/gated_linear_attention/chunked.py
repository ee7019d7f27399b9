"""Gated linear attention in chunks: matrix products; a Python loop over chunks, never over tokens.

Inside a chunk let g_i be the log decay summed up to i, one for every key channel. With S the memory before the chunk
    O = (exp(g) q) S + P V   and the next   S is   exp(g_C) S + (exp(g_C - g) k)^T V,
where P_ij = sum_K q_iK exp(g_iK - g_jK) k_jK for i >= j (2312.06635); wren.ops.gated_linear_attention.pairs has P.

B batch, T time, H heads, N chunks, C chunk size, K key width, V value width.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from wren.ops.gated_linear_attention.pairs import ChannelDecay
from wren.ops.widen import widened


def chunked_gated_linear_attention(
    q_BTHK: Tensor,
    k_BTHK: Tensor,
    v_BTHV: Tensor,
    log_decay_BTHK: Tensor,
    *,
    memory_BHKV: Tensor | None = None,
    documents_BT: Tensor | None = None,
    chunk_size: int = 32,
) -> tuple[Tensor, Tensor]:
    """As naive_gated_linear_attention, for any length; chunk_size is a power of two.

    What a backward pass keeps grows by T x (C + K + V + K V / C) per head.
    """
    B, T, H, K = q_BTHK.shape
    C = _chunk_len(T, chunk_size)
    with torch.autocast(q_BTHK.device.type, enabled=False):
        q, k, v, log_decay = (_chunks(x, C) for x in (q_BTHK, k_BTHK, v_BTHV, log_decay_BTHK))
        N = len(v)
        found = ChannelDecay.apply(*(x.flatten(0, 2) for x in (q, k, log_decay)))
        pairs, from_start, to_end = (x.unflatten(0, (N, B, H)) for x in found)  # type: ignore[union-attr]
        if documents_BT is not None:
            pairs, from_start, to_end = _apart(pairs, from_start, to_end, documents_BT)
        written_NBHKV = (k * to_end).mT @ v
        memory = v.new_zeros(B, H, K, v.shape[-1]) if memory_BHKV is None else memory_BHKV.to(v.dtype)
        memories = []
        for written_BHKV, kept_BHK1 in zip(written_NBHKV.unbind(), from_start[..., -1, :, None].unbind(), strict=True):
            memories.append(memory)
            memory = torch.addcmul(written_BHKV, memory, kept_BHK1)
        o_NBHCV = (q * from_start) @ torch.stack(memories) + pairs @ v
    return o_NBHCV.permute(1, 0, 3, 2, 4).flatten(1, 2)[:, :T], memory


def chunked_flops_per_token(length: int, chunk_size: int, key_dim: int, value_dim: int) -> float:
    """Floating-point operations of chunked_gated_linear_attention for a token and head, padding of the row included."""
    C, K, V = _chunk_len(length, chunk_size), key_dim, value_dim
    levels = C.bit_length() - 1
    sums, pairs = 2 * (levels + 2) * C * K, 2 * levels * C * K
    return math.ceil(length / C) * C / length * (sums + pairs + 2 * C * V + 4 * K * V)


def _chunk_len(length: int, chunk_size: int) -> int:
    """A short row is one chunk of the next power of two."""
    return max(2, min(chunk_size, 1 << (length - 1).bit_length()))


def _apart(pairs: Tensor, from_start: Tensor, to_end: Tensor, documents_BT: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The same, with 0 wherever a document begins in between."""
    N, C = len(pairs), pairs.shape[-1]
    begins_BT = F.pad((documents_BT[:, 1:] != documents_BT[:, :-1]).long(), (1, N * C - documents_BT.shape[1]))
    document_NB1C = begins_BT.unflatten(1, (N, C)).transpose(0, 1).cumsum(-1)[:, :, None]
    same = document_NB1C[..., :, None] == document_NB1C[..., None, :]
    first, last = document_NB1C == 0, document_NB1C == document_NB1C[..., -1:]
    return pairs * same, from_start * first[..., None], to_end * last[..., None]


def _chunks(x_BTHK: Tensor, chunk_size: int) -> Tensor:
    """(B, T, H, K) as (N, B, H, C, K), the last chunk padded with tokens that change nothing."""
    missing = -x_BTHK.shape[1] % chunk_size
    padded = F.pad(widened(x_BTHK), (0, 0, 0, 0, 0, missing)) if missing else widened(x_BTHK)
    return padded.unflatten(1, (-1, chunk_size)).permute(1, 0, 3, 2, 4).contiguous()
