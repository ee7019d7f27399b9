"""Gated delta rule in chunks: matrix products and one triangular solve; Python loops over chunks, never over tokens.

Inside a chunk let g_i be the log decay summed up to i and D_ij = exp(g_i - g_j) for i >= j (0 across documents). What
token i writes, u_i = b_i (v_i - exp(g_i) S^T k_i - sum_{j<i} D_ij (k_i . k_j) u_j), is a unit-triangular system whose
solution is U = U_v - U_k S with S the memory before the chunk (the UT form of 2406.06484, with the decay of
2412.06464). Then O = (q exp(g)) S + (D * q k^T) U, and the next S is exp(g_C) S + (k exp(g_C - g))^T U.

B batch, T time, H heads, N chunks, C chunk size, K key width, V value width.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from wren.ops.gated_delta_rule.naive import widened


class _Decay(NamedTuple):
    """How much is left, 0 where a document has begun in between."""

    pairs_BHNCC: Tensor  # at token i of what token j wrote, 0 for j > i
    from_start_BHNC: Tensor  # at token i of the memory before the chunk
    to_end_BHNC: Tensor  # at the chunk's end of what token j wrote


def chunked_gated_delta_rule(
    q_BTHK: Tensor,
    k_BTHK: Tensor,
    v_BTHV: Tensor,
    log_decay_BTH: Tensor,
    beta_BTH: Tensor,
    *,
    memory_BHKV: Tensor | None = None,
    documents_BT: Tensor | None = None,
    chunk_size: int = 64,
) -> tuple[Tensor, Tensor]:
    """As naive_gated_delta_rule, for any length; extra memory grows by T x (C + K + V) per head."""
    B, T, H, K = q_BTHK.shape
    C = min(chunk_size, T)
    with torch.autocast(q_BTHK.device.type, enabled=False):
        q, k, v, log_decay, beta = (
            _chunks(widened(x), C) for x in (q_BTHK * K**-0.5, k_BTHK, v_BTHV, log_decay_BTH, beta_BTH)
        )
        decay = _decay(log_decay, _starts(documents_BT, C))
        k_beta = k * beta[..., None]
        system = (k_beta @ k.mT) * decay.pairs_BHNCC  # its diagonal is taken for 1 and the rest above for 0
        given = torch.cat((v * beta[..., None], k_beta * decay.from_start_BHNC[..., None]), dim=-1)
        solved = torch.linalg.solve_triangular(system, given, upper=False, unitriangular=True)
        inside = (q @ k.mT) * decay.pairs_BHNCC
        reads = torch.cat((solved[..., v.shape[-1] :], q * decay.from_start_BHNC[..., None]), dim=-2)
        writes = (k * decay.to_end_BHNC[..., None]).mT
        memory = v.new_zeros(B, H, K, v.shape[-1]) if memory_BHKV is None else memory_BHKV.to(v.dtype)
        o_BHNCV, memory = _scan(memory, solved[..., : v.shape[-1]], reads, inside, writes, decay.from_start_BHNC)
    return o_BHNCV.flatten(2, 3)[:, :, :T].transpose(1, 2), memory


def _scan(
    memory: Tensor, values: Tensor, reads: Tensor, inside: Tensor, writes: Tensor, from_start: Tensor
) -> tuple[Tensor, Tensor]:
    """Carries the memory from chunk to chunk."""
    C = values.shape[-2]
    left = from_start[..., -1, None, None].unbind(2)
    outputs = []
    for u, read, a, w, keep in zip(
        values.unbind(2), reads.unbind(2), inside.unbind(2), writes.unbind(2), left, strict=True
    ):
        recalled, across = (read @ memory).split(C, dim=-2)
        written = u - recalled
        outputs.append(across + a @ written)
        memory = memory * keep + w @ written
    return torch.stack(outputs, dim=2), memory


def _chunks(x_BTH: Tensor, chunk_size: int) -> Tensor:
    """(B, T, H, ...) -> (B, H, N, C, ...), padded with tokens that change nothing."""
    missing = -x_BTH.shape[1] % chunk_size
    padded = F.pad(x_BTH, (0, 0) * (x_BTH.dim() - 2) + (0, missing))
    return padded.transpose(1, 2).unflatten(2, (-1, chunk_size)).contiguous()


def _starts(documents_BT: Tensor | None, chunk_size: int) -> Tensor | None:
    """(B, 1, N, C): how many documents have begun inside the chunk up to each token."""
    if documents_BT is None:
        return None
    begins = torch.zeros_like(documents_BT)
    begins[:, 1:] = documents_BT[:, 1:] != documents_BT[:, :-1]
    return _chunks(begins[:, :, None], chunk_size).cumsum(-1)


def _decay(log_decay_BHNC: Tensor, starts_B1NC: Tensor | None) -> _Decay:
    total = log_decay_BHNC.cumsum(-1)
    above_CC = torch.ones(total.shape[-1], total.shape[-1], dtype=torch.bool, device=total.device).triu(1)
    # masked before exp: above the diagonal the differences are positive and may overflow
    pairs = (total[..., :, None] - total[..., None, :]).masked_fill(above_CC, -torch.inf).exp()
    from_start, to_end = total.exp(), (total[..., -1:] - total).exp()
    if starts_B1NC is None:
        return _Decay(pairs, from_start, to_end)
    same = starts_B1NC[..., :, None] == starts_B1NC[..., None, :]
    return _Decay(pairs * same, from_start * (starts_B1NC == 0), to_end * (starts_B1NC == starts_B1NC[..., -1:]))
