"""Gated delta rule in chunks: matrix products and a triangular solve; Python loops over chunks, never over tokens.

Inside a chunk let g_i be the log decay summed up to i, s_i = exp(g_i) and D_ij = exp(g_i - g_j) for i >= j; s and D are
0 across the beginning of a document. With S the memory before the chunk, what token i writes is
    u_i = b_i (v_i - s_i S^T k_i - sum_{j<i} D_ij (k_i . k_j) u_j),
a unit-triangular system in U (after the UT form of 2406.06484, with the decay of 2412.06464). Then
    O = (s q) S + (D * q k^T) U   and the next   S is   s_C S + sum_j D_Cj k_j u_j^T.
Solving once the memory is known, not beforehand, saves K of K + V right-hand sides, and one chunk at a time stays in
a CPU's cache.

With n steps a token the system is over the n C steps of a chunk, each with its token's s and D; between the steps of
one token nothing decays. Tokens read, steps do not: O costs C rows of queries, not n C.

B batch, T time, H heads, N tokens x steps, C chunk size, S steps of a chunk (n C), K key width, V value width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from wren.ops.widen import widened


def chunked_gated_delta_rule(
    q_BTHK: Tensor,
    k_BNHK: Tensor,
    v_BNHV: Tensor,
    log_decay_BTH: Tensor | None,
    beta_BNH: Tensor,
    *,
    memory_BHKV: Tensor | None = None,
    documents_BT: Tensor | None = None,
    chunk_size: int = 64,
) -> tuple[Tensor, Tensor]:
    """As naive_gated_delta_rule, for any length; chunk_size counts tokens.

    What a backward pass keeps grows by N x (S + K + V) per head.
    """
    B, T, H, K = q_BTHK.shape
    C = min(chunk_size, T)
    S = C * (k_BNHK.shape[1] // T)
    pieces = [_chunks(widened(x), size) for x, size in ((q_BTHK, C), (k_BNHK, S), (v_BNHV, S), (beta_BNH, S))]
    count = len(pieces[0])
    decays = [None] * count if log_decay_BTH is None else _chunks(widened(log_decay_BTH), C)
    begins = [None] * count if documents_BT is None else _chunks(_begins(documents_BT)[:, :, None], C)
    memory = v_BNHV.new_zeros(B, H, K, v_BNHV.shape[-1]) if memory_BHKV is None else memory_BHKV
    memory = memory.to(pieces[2][0].dtype)
    outputs = []
    with torch.autocast(q_BTHK.device.type, enabled=False):
        for q, k, v, beta, log_decay, begin in zip(*pieces, decays, begins, strict=True):
            pairs, from_start = _visible(q, begin) if log_decay is None else _decay(log_decay, begin)
            o_BHCV, memory = _chunk(memory, q, k, v, beta[..., None], pairs, from_start)
            outputs.append(o_BHCV)
    return torch.cat(outputs, dim=2)[:, :, :T].transpose(1, 2) * K**-0.5, memory


def _chunk(
    memory_BHKV: Tensor, q: Tensor, k: Tensor, v: Tensor, beta: Tensor, pairs_BHCC: Tensor, from_start_BHC1: Tensor
) -> tuple[Tensor, Tensor]:
    """Outputs (B, H, C, V) of one chunk and the memory after it; k, v and beta are of its S steps."""
    num_steps = k.shape[2] // q.shape[2]
    read_BHCS = _each_step(pairs_BHCC, num_steps, -1)
    pairs_BHSS, from_start_BHS1 = (_each_step(x, num_steps, -2) for x in (read_BHCS, from_start_BHC1))
    k_BHKS = k.mT
    system_BHSS = (k @ k_BHKS) * (pairs_BHSS * beta)  # its diagonal is taken for 1, what is above it for 0
    missing_BHSV = beta * (v - from_start_BHS1 * (k @ memory_BHKV))
    written_BHSV = torch.linalg.solve_triangular(system_BHSS, missing_BHSV, upper=False, unitriangular=True)
    o_BHCV = from_start_BHC1 * (q @ memory_BHKV) + ((q @ k_BHKS) * read_BHCS) @ written_BHSV
    to_end_BHS1 = read_BHCS[..., -1, :, None]
    return o_BHCV, memory_BHKV * from_start_BHC1[..., -1:, :] + k_BHKS @ (to_end_BHS1 * written_BHSV)


def _each_step(x: Tensor, num_steps: int, dim: int) -> Tensor:
    """What holds for a token, once for each of its steps."""
    return x if num_steps == 1 else x.repeat_interleave(num_steps, dim=dim)


def _decay(log_decay_BHC: Tensor, begin_B1C: Tensor | None) -> tuple[Tensor, Tensor]:
    """What is left at token i of what token j wrote (B, H, C, C), and of the memory before the chunk (B, H, C, 1)."""
    seen, document_B1C = _seen(log_decay_BHC, begin_B1C)
    if document_B1C is None:
        total_BHC = log_decay_BHC.cumsum(-1)
        from_start_BHC = total_BHC.exp()
    else:  # each document's own sum, so that not even rounding lets one feel another
        total_BHC = (seen[:, 0].to(log_decay_BHC.dtype) @ log_decay_BHC.mT).mT
        from_start_BHC = total_BHC.exp() * (document_B1C == 0)
    # masked before exp: where i < j the differences are positive and may overflow
    pairs_BHCC = (total_BHC[..., :, None] - total_BHC[..., None, :]).masked_fill(~seen, -torch.inf).exp()
    return pairs_BHCC, from_start_BHC[..., None]


def _visible(q_BHCK: Tensor, begin_B1C: Tensor | None) -> tuple[Tensor, Tensor]:
    """As _decay where nothing decays: 1 or 0, the same for all heads, and for all rows without documents."""
    seen, document_B1C = _seen(q_BHCK[..., 0], begin_B1C)
    if document_B1C is None:
        return seen[None, None].to(q_BHCK.dtype), q_BHCK.new_ones(1, 1, len(seen), 1)
    return seen.to(q_BHCK.dtype), (document_B1C == 0)[..., None].to(q_BHCK.dtype)


def _seen(x_BHC: Tensor, begin_B1C: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """True where j <= i is in the document of i: (C, C), or (B, 1, C, C) with each token's document in the chunk."""
    C = x_BHC.shape[-1]
    seen = torch.ones(C, C, dtype=torch.bool, device=x_BHC.device).tril()
    if begin_B1C is None:
        return seen, None
    document_B1C = begin_B1C.cumsum(-1)
    return seen & (document_B1C[..., :, None] == document_B1C[..., None, :]), document_B1C


def _begins(documents_BT: Tensor) -> Tensor:
    """1 where a document begins inside the row, else 0."""
    return F.pad((documents_BT[:, 1:] != documents_BT[:, :-1]).long(), (1, 0))


def _chunks(x_BTH: Tensor, chunk_size: int) -> tuple[Tensor, ...]:
    """(B, T, H, ...) in pieces (B, H, C, ...), the last one padded with tokens that change nothing."""
    missing = -x_BTH.shape[1] % chunk_size
    padded = F.pad(x_BTH, (0, 0) * (x_BTH.dim() - 2) + (0, missing)) if missing else x_BTH
    return padded.transpose(1, 2).split(chunk_size, dim=2)
