"""Linear attention with a decay for each head, in chunks: matrix products; a Python loop over chunks, not tokens.

Inside a chunk let g_i be the log decay summed up to i, s_i = exp(g_i) and D_ij = exp(g_i - g_j) for i >= j; s and D are
0 across the beginning of a document. With S the memory before the chunk (2405.21060, 2307.08621)
    O = (s q) S + (D * q k^T) V   and the next   S is   s_C S + sum_j D_Cj k_j v_j^T.
The heads of a group share q k^T, and read and write their memories in one product. One chunk at a time stays in a
CPU's cache; the last chunk is shorter, so that nothing is padded.

B batch, T time, G groups of heads, R heads of a group, H = G R heads, C chunk size, K key width, V value width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from wren.ops.widen import widened, widest


def chunked_decay_attention(
    q_BTGK: Tensor,
    k_BTGK: Tensor,
    v_BTHV: Tensor,
    log_decay_BTH: Tensor | None,
    *,
    memory_BHKV: Tensor | None = None,
    documents_BT: Tensor | None = None,
    chunk_size: int = 64,
) -> tuple[Tensor, Tensor]:
    """As naive_decay_attention, for any length.

    What a backward pass keeps grows by T x (C + K + V + K V / C) per head.
    """
    B, _, G, K = q_BTGK.shape
    H, V = v_BTHV.shape[2:]
    q, k, v = (widened(x) for x in (q_BTGK, k_BTGK, v_BTHV.unflatten(2, (G, H // G))))
    pieces = [x.transpose(1, 2).split(chunk_size, dim=2) for x in (q, k, v)]
    count = len(pieces[0])
    decays = [None] * count
    if log_decay_BTH is not None:
        decays = widened(log_decay_BTH).unflatten(2, (G, H // G)).movedim(1, 3).split(chunk_size, dim=3)
    begins = [None] * count if documents_BT is None else _begins(documents_BT).split(chunk_size, dim=1)
    memory = v.new_zeros(B, G, K, H // G, V)
    if memory_BHKV is not None:
        memory = memory_BHKV.to(v.dtype).unflatten(1, (G, H // G)).transpose(2, 3)
    outputs = []
    with torch.autocast(q.device.type, enabled=False):
        for q_BGCK, k_BGCK, v_BGCRV, log_decay, begin in zip(*pieces, decays, begins, strict=True):
            pairs, from_start = _visible(q_BGCK, begin) if log_decay is None else _decay(log_decay, begin)
            o_BGRCV, memory = _chunk(memory, q_BGCK, k_BGCK, v_BGCRV, pairs, from_start)
            outputs.append(o_BGRCV.movedim(3, 1))
    return torch.cat(outputs, dim=1).flatten(2, 3), memory.transpose(2, 3).flatten(1, 2)


def chunked_flops_per_token(
    length: int, chunk_size: int, num_groups: int, num_heads: int, key_dim: int, value_dim: int
) -> float:
    """Floating-point operations of chunked_decay_attention for a token of a whole row without documents."""
    full, rest = divmod(length, chunk_size)
    seen = (full * chunk_size**2 + rest**2) / length
    return 2 * seen * (num_groups * key_dim + num_heads * value_dim) + 4 * num_heads * key_dim * value_dim


def _chunk(
    memory_BGKRV: Tensor,
    q_BGCK: Tensor,
    k_BGCK: Tensor,
    v_BGCRV: Tensor,
    pairs_BGRCC: Tensor,
    from_start_BGRC: Tensor,
) -> tuple[Tensor, Tensor]:
    """Outputs (B, G, R, C, V) of one chunk and the memory after it."""
    R, V = v_BGCRV.shape[3:]
    read_BGRCC = (q_BGCK @ k_BGCK.mT)[:, :, None] * pairs_BGRCC
    recalled_BGRCV = (q_BGCK @ memory_BGKRV.flatten(3)).unflatten(-1, (R, V)).transpose(2, 3)
    o_BGRCV = torch.addcmul(read_BGRCC @ v_BGCRV.transpose(2, 3), recalled_BGRCV, from_start_BGRC[..., None])
    to_end_BGCR = pairs_BGRCC[..., -1, :].mT
    written_BGKX = k_BGCK.mT @ (v_BGCRV * to_end_BGCR[..., None]).flatten(3)
    kept_BG1R1 = from_start_BGRC[..., -1][:, :, None, :, None]
    return o_BGRCV, torch.addcmul(written_BGKX.unflatten(-1, (R, V)), memory_BGKRV, kept_BG1R1)


def _decay(log_decay_BGRC: Tensor, begin_BC: Tensor | None) -> tuple[Tensor, Tensor]:
    """What is left at token i of what token j wrote (B, G, R, C, C), and of the memory before it (B, G, R, C)."""
    seen, document_BC = _seen(log_decay_BGRC, begin_BC)
    wide_BGRC = widest(log_decay_BGRC)  # near tokens differ by little, and in fp32 a sum of thousands hides it
    if document_BC is None:
        total_BGRC = wide_BGRC.cumsum(-1)
        from_start_BGRC = total_BGRC.exp()
    else:  # each document's own sum, so that not even rounding lets one feel another
        total_BGRC = (seen[:, 0].to(wide_BGRC.dtype) @ wide_BGRC.mT).mT
        from_start_BGRC = total_BGRC.exp() * (document_BC == 0)[:, None, None]
    differences = (total_BGRC[..., :, None] - total_BGRC[..., None, :]).to(log_decay_BGRC.dtype)
    # masked before exp: where i < j the differences are positive and may overflow
    return differences.masked_fill(~seen, -torch.inf).exp(), from_start_BGRC.to(log_decay_BGRC.dtype)


def _visible(q_BGCK: Tensor, begin_BC: Tensor | None) -> tuple[Tensor, Tensor]:
    """As _decay where nothing decays: 1 or 0, the same for all heads, and for all rows without documents."""
    C = q_BGCK.shape[2]
    seen, document_BC = _seen(q_BGCK[..., 0], begin_BC)
    if document_BC is None:
        return seen[None, None, None].to(q_BGCK.dtype), q_BGCK.new_ones(1, 1, 1, C)
    return seen.to(q_BGCK.dtype), (document_BC == 0)[:, None, None].to(q_BGCK.dtype)


def _seen(x_BGC: Tensor, begin_BC: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """True where j <= i is in the document of i: (C, C), or (B, 1, 1, C, C) with each token's document in the chunk."""
    C = x_BGC.shape[-1]
    seen = torch.ones(C, C, dtype=torch.bool, device=x_BGC.device).tril()
    if begin_BC is None:
        return seen, None
    document_BC = begin_BC.cumsum(-1)
    same_BCC = document_BC[:, :, None] == document_BC[:, None, :]
    return (seen & same_BCC)[:, None, None], document_BC


def _begins(documents_BT: Tensor) -> Tensor:
    """1 where a document begins inside the row, else 0."""
    return F.pad((documents_BT[:, 1:] != documents_BT[:, :-1]).long(), (1, 0))
