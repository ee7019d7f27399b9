"""Gated delta rule in chunks: matrix products and a triangular solve; Python loops over chunks, never over tokens.

Inside a chunk let g_i be the log decay summed up to i, s_i = exp(g_i) and D_ij = exp(g_i - g_j) for i >= j; s and D are
0 across the beginning of a document. With S the memory before the chunk, what token i writes is
    u_i = b_i (v_i - s_i S^T k_i - sum_{j<i} D_ij (k_i . k_j) u_j),
a unit-triangular system in U (after the UT form of 2406.06484, with the decay of 2412.06464). Then
    O = (s q) S + (D * q k^T) U   and the next   S is   s_C S + sum_j D_Cj k_j u_j^T.
Solving once the memory is known, not beforehand, saves K of K + V right-hand sides, and one chunk at a time stays in
a CPU's cache.

B batch, T time, H heads, C chunk size, K key width, V value width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from wren.ops.gated_delta_rule.naive import widened


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
    """As naive_gated_delta_rule, for any length; what a backward pass keeps grows by T x (C + K + V) per head."""
    B, T, H, K = q_BTHK.shape
    C = min(chunk_size, T)
    inputs = [_chunks(widened(x), C) for x in (q_BTHK, k_BTHK, v_BTHV, log_decay_BTH, beta_BTH)]
    begins = [None] * len(inputs[0]) if documents_BT is None else _chunks(_begins(documents_BT)[:, :, None], C)
    memory = v_BTHV.new_zeros(B, H, K, v_BTHV.shape[-1]) if memory_BHKV is None else memory_BHKV
    memory = memory.to(inputs[2][0].dtype)
    outputs = []
    with torch.autocast(q_BTHK.device.type, enabled=False):
        for q, k, v, log_decay, beta, begin in zip(*inputs, begins, strict=True):
            o_BHCV, memory = _chunk(memory, q, k, v, log_decay, beta[..., None], begin)
            outputs.append(o_BHCV)
    return torch.cat(outputs, dim=2)[:, :, :T].transpose(1, 2) * K**-0.5, memory


def _chunk(
    memory_BHKV: Tensor, q: Tensor, k: Tensor, v: Tensor, log_decay_BHC: Tensor, beta: Tensor, begin: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Outputs (B, H, C, V) of one chunk and the memory after it."""
    pairs_BHCC, from_start = _decay(log_decay_BHC, begin)
    k_BHKC = k.mT
    system_BHCC = (k @ k_BHKC) * (pairs_BHCC * beta)  # its diagonal is taken for 1, what is above it for 0
    missing_BHCV = beta * (v - from_start * (k @ memory_BHKV))
    written_BHCV = torch.linalg.solve_triangular(system_BHCC, missing_BHCV, upper=False, unitriangular=True)
    o_BHCV = from_start * (q @ memory_BHKV) + ((q @ k_BHKC) * pairs_BHCC) @ written_BHCV
    to_end_BHC1 = pairs_BHCC[..., -1, :, None]
    return o_BHCV, memory_BHKV * from_start[..., -1:, :] + k_BHKC @ (to_end_BHC1 * written_BHCV)


def _decay(log_decay_BHC: Tensor, begin_B1C: Tensor | None) -> tuple[Tensor, Tensor]:
    """What is left at token i of what token j wrote (B, H, C, C), and of the memory before the chunk (B, H, C, 1)."""
    C = log_decay_BHC.shape[-1]
    seen = torch.ones(C, C, dtype=torch.bool, device=log_decay_BHC.device).tril()
    if begin_B1C is None:
        total_BHC = log_decay_BHC.cumsum(-1)
        from_start_BHC = total_BHC.exp()
    else:  # each document's own sum, so that not even rounding lets one feel another
        document_B1C = begin_B1C.cumsum(-1)
        seen = seen & (document_B1C[..., :, None] == document_B1C[..., None, :])
        total_BHC = (seen[:, 0].to(log_decay_BHC.dtype) @ log_decay_BHC.mT).mT
        from_start_BHC = total_BHC.exp() * (document_B1C == 0)
    # masked before exp: where i < j the differences are positive and may overflow
    pairs_BHCC = (total_BHC[..., :, None] - total_BHC[..., None, :]).masked_fill(~seen, -torch.inf).exp()
    return pairs_BHCC, from_start_BHC[..., None]


def _begins(documents_BT: Tensor) -> Tensor:
    """1 where a document begins inside the row, else 0."""
    return F.pad((documents_BT[:, 1:] != documents_BT[:, :-1]).long(), (1, 0))


def _chunks(x_BTH: Tensor, chunk_size: int) -> tuple[Tensor, ...]:
    """(B, T, H, ...) in pieces (B, H, C, ...), the last one padded with tokens that change nothing."""
    missing = -x_BTH.shape[1] % chunk_size
    padded = F.pad(x_BTH, (0, 0) * (x_BTH.dim() - 2) + (0, missing)) if missing else x_BTH
    return padded.transpose(1, 2).split(chunk_size, dim=2)
