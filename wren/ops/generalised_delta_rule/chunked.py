"""The generalised delta rule in chunks: matrix products and a triangular solve; Python loops over chunks, not tokens.

Inside a chunk let g_i be the log decay summed up to i and D_ij = exp(g_i - g_j), one for every key channel. With S the
memory before the chunk, what token i reads is
    x_i = S^T (exp(g_i) r_i) + sum_{j<i} (r_i D_ij k_j) v_j - sum_{j<i} (r_i D_ij e_j) x_j,
a unit-triangular system in X (after the UT form of 2406.06484). Then, with the same products of q,
    O = (exp(g) q) S + (q D k^T) V - (q D e^T) X   and the next   S is   exp(g_C) S + (D_C k)^T V - (D_C e)^T X.
Where e = k only what was written, U = V - X, is ever needed: one product instead of two.

B batch, T time, H heads, N chunks, C chunk size, K key width, V value width.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from wren.ops.generalised_delta_rule.pairs import DecayedPairs
from wren.ops.widen import widened


def chunked_generalised_delta_rule(
    q_BTHK: Tensor,
    k_BTHK: Tensor,
    v_BTHV: Tensor,
    log_decay_BTHK: Tensor,
    read_BTHK: Tensor,
    *,
    erase_BTHK: Tensor | None = None,
    memory_BHKV: Tensor | None = None,
    documents_BT: Tensor | None = None,
    chunk_size: int = 64,
) -> tuple[Tensor, Tensor]:
    """As naive_generalised_delta_rule, for any length; chunk_size is a power of two.

    What a backward pass keeps grows by T x (C + K + V + K V / C) per head.
    """
    B, T, H, K = q_BTHK.shape
    V, C = v_BTHV.shape[-1], _chunk_len(T, chunk_size)
    keys = [k_BTHK] if erase_BTHK is None else [k_BTHK, erase_BTHK]
    with torch.autocast(q_BTHK.device.type, enabled=False):
        rows_NBHSCK, keys_NBHYCK = _chunks([read_BTHK, q_BTHK], C), _chunks(keys, C)
        v_NBHCV, log_decay_NBHCK = _chunks([v_BTHV], C)[:, :, :, 0], _chunks([log_decay_BTHK], C)[:, :, :, 0]
        N = len(v_NBHCV)
        pairs, from_start, to_end = DecayedPairs.apply(  # type: ignore[misc]
            rows_NBHSCK.flatten(0, 2), keys_NBHYCK.flatten(0, 2), log_decay_NBHCK.flatten(0, 2)
        )
        pairs, from_start, to_end = (x.unflatten(0, (N, B, H)) for x in (pairs, from_start, to_end))
        if documents_BT is not None:
            pairs, from_start, to_end = _apart(pairs, from_start, to_end, documents_BT)
        inputs = (
            (rows_NBHSCK * from_start[:, :, :, None]).flatten(3, 4),
            (keys_NBHYCK * to_end[:, :, :, None]).flatten(3, 4).mT,
            pairs.flatten(-2),
            v_NBHCV,
            from_start[..., -1, :, None],
        )
        memory = v_BTHV.new_zeros(B, H, K, V) if memory_BHKV is None else memory_BHKV
        memory, outputs = memory.to(v_NBHCV.dtype), []
        for chunk in zip(*(x.unbind(0) for x in inputs), strict=True):
            o_BHCV, memory = _chunk(memory, *chunk)
            outputs.append(o_BHCV)
        o_BTHV = torch.stack(outputs, dim=1).transpose(2, 3).reshape(B, N * C, H, V)
    return o_BTHV[:, :T], memory


def chunked_flops_per_token(length: int, chunk_size: int, key_dim: int, value_dim: int, *, erases: bool) -> float:
    """Floating-point operations of chunked_generalised_delta_rule for a token and head, padding of the row included.

    erases: whether it is called with erase_BTHK.
    """
    C, K, V = _chunk_len(length, chunk_size), key_dim, value_dim
    kinds = 2 if erases else 1
    pairs, reading, solving = 2 * kinds * K * (C - 1), 4 * K * V, C * V
    writing = kinds * (2 * K * V + 2 * C * V) + (2 * C * V if erases else 0)
    return math.ceil(length / C) * C / length * (pairs + reading + solving + writing)


def _chunk_len(length: int, chunk_size: int) -> int:
    """A short row is one chunk of the next power of two."""
    return min(chunk_size, 1 << (length - 1).bit_length())


def _chunk(
    memory_BHKV: Tensor, rows: Tensor, keys_BHKY: Tensor, pairs: Tensor, v_BHCV: Tensor, decay_BHK1: Tensor
) -> tuple[Tensor, Tensor]:
    """Outputs (B, H, C, V) of one chunk and the memory after it."""
    C = v_BHCV.shape[2]
    said_BHCV, o_BHCV = (rows @ memory_BHKV).split(C, dim=2)
    of_read, of_q = pairs.unbind(2)
    if of_read.shape[-1] == C:  # what was read goes out where the value comes in
        missing_BHCV = v_BHCV - said_BHCV
        written = torch.linalg.solve_triangular(of_read, missing_BHCV, upper=False, unitriangular=True)
    else:
        values, erased = of_read.split(C, dim=-1)
        read_BHCV = torch.linalg.solve_triangular(erased, said_BHCV + values @ v_BHCV, upper=False, unitriangular=True)
        written = torch.cat((v_BHCV, -read_BHCV), dim=2)
    return o_BHCV + of_q @ written, memory_BHKV * decay_BHK1 + keys_BHKY @ written


def _apart(pairs: Tensor, from_start: Tensor, to_end: Tensor, documents_BT: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The same, with 0 wherever a document begins in between."""
    N, C = len(pairs), pairs.shape[4]
    begins_BT = F.pad((documents_BT[:, 1:] != documents_BT[:, :-1]).long(), (1, N * C - documents_BT.shape[1]))
    document_NBC = begins_BT.unflatten(1, (N, C)).transpose(0, 1).cumsum(-1)
    same_NBCC = document_NBC[..., :, None] == document_NBC[..., None, :]
    last_NBC = document_NBC == document_NBC[..., -1:]
    first, last = ((x[:, :, None, :, None]) for x in (document_NBC == 0, last_NBC))
    return pairs * same_NBCC[:, :, None, None, :, None, :], from_start * first, to_end * last


def _chunks(kinds: list[Tensor], chunk_size: int) -> Tensor:
    """Tensors (B, T, H, K) as one (N, B, H, S, C, K), the last chunk padded with tokens that change nothing."""
    missing = -kinds[0].shape[1] % chunk_size
    padded = [F.pad(widened(x), (0, 0, 0, 0, 0, missing)) if missing else widened(x) for x in kinds]
    return torch.stack([x.unflatten(1, (-1, chunk_size)).permute(1, 0, 3, 2, 4) for x in padded], dim=3)
