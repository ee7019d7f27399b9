"""Block sparse attention whose work grows as T * (top_k + 1) * block_size, and the choice of blocks as T * N.

Blocks are laid out side by side, the last one of a document filled up with zeros. Every query meets its own block
densely. For the chosen blocks the pairs (query, block) are sorted by block and cut into tiles of queries that read the
same block, so that everything is batched matrix products; what a query got from each of its blocks is then joined as
parts of one softmax, by their largest scores (as in flash decoding).

B batch, T time, S cached keys, N blocks, C block size, Q = N*C places, H query heads, J key-value heads, G = H/J,
X = B*H, Y = B*J, R blocks chosen by a query, M queries of a tile, K head width.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from wren.batch import positions_in_documents
from wren.ops.widen import wide_dtype, widened

TILE = 64  # queries of a tile: fewer fill tiles better, more make larger products
PIECE = 1024  # queries that choose at once


class Part(NamedTuple):
    """A softmax's part: sum_s exp(score_s - top) v_s, sum_s exp(score_s - top), and top, its largest score."""

    read_XQRK: Tensor
    total_XQR: Tensor
    top_XQR: Tensor  # without a gradient: the joined result does not depend on it; -inf for a part that is empty


def chunked_block_sparse_attention(
    q_BTHK: Tensor,
    k_BTJK: Tensor,
    v_BTJK: Tensor,
    *,
    block_size: int,
    top_k: int,
    documents_BT: Tensor | None = None,
) -> Tensor:
    """As naive_block_sparse_attention, for any length; memory grows as T in both passes.

    Products take the dtype of q, k and v, which must agree (bf16 rounds scores to it); softmaxes are fp32 at least.
    With documents, and for the tiles, the host asks the device how many blocks there are.
    """
    B, T, H, K = q_BTHK.shape
    if documents_BT is None:
        C = min(block_size, T)
        place_BT, num_blocks = None, -(-T // C)
        q, k, v = (F.pad(x, (0, 0, 0, 0, 0, num_blocks * C - T)) for x in (q_BTHK, k_BTJK, v_BTJK))
        document_BN = torch.zeros(B, num_blocks, dtype=torch.long, device=q.device)
    else:
        C = block_size
        place_BT, document_BN = _layout(documents_BT, C)
        q, k, v = (_put(x, place_BT, document_BN.shape[1] * C) for x in (q_BTHK, k_BTJK, v_BTJK))
    with torch.autocast(q.device.type, enabled=False):
        q_XQK = (q.transpose(1, 2) * K**-0.5).reshape(B * H, -1, K)
        k_YNCK, v_YNCK = (x.transpose(1, 2).reshape(-1, document_BN.shape[1], C, K) for x in (k, v))
        picks_XQR = _choose(q_XQK.detach(), k_YNCK.detach(), document_BN, top_k)
        o_XQK = _joined(_own_part(q_XQK, k_YNCK, v_YNCK), _chosen_part(q_XQK, k_YNCK, v_YNCK, picks_XQR))
    o_BQHK = o_XQK.to(v.dtype).unflatten(0, (B, H)).transpose(1, 2)
    if place_BT is None:
        return o_BQHK[:, :T]
    return o_BQHK[torch.arange(B, device=q.device)[:, None], place_BT]


def cached_block_sparse_attention(
    q_BTHK: Tensor,
    k_BSJK: Tensor,
    v_BSJK: Tensor,
    sums_BNJK: Tensor,
    query_BT: Tensor,
    *,
    block_size: int,
    top_k: int,
    piece: int = 16,
) -> Tensor:
    """Outputs (B, T, H, K) over cached keys of places 0 .. S-1, given each query's place in its row (int64).

    sums: of each block's keys; right for those before the block of any query. Reads only the blocks it chooses.
    """
    B, S, J, K = k_BSJK.shape
    H, C, earlier = q_BTHK.shape[2], block_size, (S - 1) // block_size
    means_BHKN = (sums_BNJK[:, :earlier] / C).repeat_interleave(H // J, dim=2).permute(0, 2, 3, 1)
    rows_B1 = torch.arange(B, device=q_BTHK.device).view(B, 1, 1, 1, 1)
    heads_H1 = (torch.arange(H, device=q_BTHK.device) // (H // J)).view(H, 1, 1)
    outputs = []
    for q, place_BT in zip(q_BTHK.split(piece, dim=1), query_BT.split(piece, dim=1), strict=True):
        own_BT11 = (place_BT // C)[..., None, None]
        with torch.autocast(q.device.type, enabled=False):
            answer_BTHN = (q.transpose(1, 2).to(means_BHKN.dtype) @ means_BHKN).transpose(1, 2).detach()
            allowed_BTHN = torch.arange(earlier, device=q.device) < own_BT11
            picks_BTHR = _best(answer_BTHN, allowed_BTHN, top_k)
            blocks_BTHR = torch.cat((picks_BTHR, own_BT11.expand(-1, -1, H, 1)), dim=-1)
            key_BTHRC = blocks_BTHR[..., None] * C + torch.arange(C, device=q.device)
            seen_BTHRC = (blocks_BTHR >= 0)[..., None] & (key_BTHRC <= place_BT[:, :, None, None, None])
            at = (rows_B1, key_BTHRC.clamp(min=0, max=S - 1), heads_H1)
            k_BTHZK, v_BTHZK = (x[at].flatten(3, 4) for x in (k_BSJK, v_BSJK))
            scores_BTHZ = (q[..., None, :] * K**-0.5 @ k_BTHZK.mT).squeeze(-2).to(means_BHKN.dtype)
            weights_BTHZ = scores_BTHZ.masked_fill(~seen_BTHRC.flatten(3), -torch.inf).softmax(-1)
            outputs.append((weights_BTHZ.to(v_BTHZK.dtype)[..., None, :] @ v_BTHZK).squeeze(-2))
    return torch.cat(outputs, dim=1)


def _layout(documents_BT: Tensor, block_size: int) -> tuple[Tensor, Tensor]:
    """Each token's place (B, T) where every document begins a block, and each block's document (B, N), -1 for none."""
    positions_BT = positions_in_documents(documents_BT)
    block_BT = (positions_BT % block_size == 0).cumsum(1) - 1
    num_blocks = int(block_BT[:, -1].max()) + 1
    none_BN = documents_BT.new_full((len(documents_BT), num_blocks), -1)
    return block_BT * block_size + positions_BT % block_size, none_BN.scatter(1, block_BT, documents_BT)


def _put(x_BTHK: Tensor, place_BT: Tensor, num_places: int) -> Tensor:
    rows_B1 = torch.arange(len(x_BTHK), device=x_BTHK.device)[:, None]
    empty = x_BTHK.new_zeros(len(x_BTHK), num_places, *x_BTHK.shape[2:])
    return empty.index_put((rows_B1, place_BT), x_BTHK)


@torch.no_grad()
def _choose(q_XQK: Tensor, k_YNCK: Tensor, document_BN: Tensor, top_k: int) -> Tensor:
    """(X, Q, R) the chosen blocks of each query, -1 where there are fewer than R to choose from."""
    N, C = k_YNCK.shape[1:3]
    wide = wide_dtype(q_XQK.dtype)
    means_YNK = k_YNCK.sum(2, dtype=wide) / C
    means_XKN = means_YNK.repeat_interleave(len(q_XQK) // len(k_YNCK), dim=0).mT
    index_N = torch.arange(N, device=q_XQK.device)
    allowed_BNN = (index_N < index_N[:, None]) & (document_BN[:, :, None] == document_BN[:, None])
    allowed_XNN = allowed_BNN.repeat_interleave(len(q_XQK) // len(document_BN), dim=0)
    picks = []
    for block in range(0, N, step := max(1, PIECE // C)):
        answer_XQN = q_XQK[:, block * C : (block + step) * C].to(wide) @ means_XKN
        picks.append(_best(answer_XQN, allowed_XNN[:, block : block + step].repeat_interleave(C, dim=1), top_k))
    return torch.cat(picks, dim=1)


@torch.no_grad()
def _best(answer: Tensor, allowed: Tensor, top_k: int) -> Tensor:
    """The places of the top_k largest allowed numbers of the last dimension, -1 where there are no more.

    argmax gives the first of equal ones, which torch.topk leaves open: every form must choose alike.
    """
    left = answer.masked_fill(~allowed, -torch.inf)
    picks = []
    for _ in range(min(top_k, answer.shape[-1])):
        pick = left.argmax(-1, keepdim=True)
        picks.append(torch.where(left.gather(-1, pick) == -torch.inf, -1, pick))
        left.scatter_(-1, pick, -torch.inf)
    return torch.cat(picks, dim=-1) if picks else answer.new_empty((*answer.shape[:-1], 0), dtype=torch.long)


def _own_part(q_XQK: Tensor, k_YNCK: Tensor, v_YNCK: Tensor) -> Part:
    """What each query reads from its own block up to itself."""
    Y, N, C, K = k_YNCK.shape
    q_YNRK = q_XQK.view(Y, -1, N, C, K).transpose(1, 2).reshape(Y * N, -1, K)  # R = G*C
    scores = (q_YNRK @ k_YNCK.flatten(0, 1).mT).view(Y * N, -1, C, C)
    future_CC = torch.ones(C, C, dtype=torch.bool, device=q_XQK.device).triu(1)
    part = _read(scores.masked_fill(future_CC, -torch.inf).flatten(1, 2), v_YNCK.flatten(0, 1))
    read, total, top = (x.view(Y, N, -1, C, x.shape[-1]).transpose(1, 2).reshape(len(q_XQK), N * C, -1) for x in part)
    return Part(read[:, :, None], total, top)


def _chosen_part(q_XQK: Tensor, k_YNCK: Tensor, v_YNCK: Tensor, picks_XQR: Tensor) -> Part | None:
    """What each query reads from every block that it chose; None where no query chose one."""
    X, Q, R = picks_XQR.shape
    N = k_YNCK.shape[1]
    group_XQR = torch.arange(X, device=picks_XQR.device)[:, None, None] * N + picks_XQR
    group_P = torch.where(picks_XQR < 0, X * N, group_XQR).flatten()
    count = torch.bincount(group_P, minlength=X * N + 1)[:-1]
    tiles = (count + TILE - 1) // TILE
    num_tiles, num_pairs = torch.stack((tiles.sum(), count.sum())).tolist()
    if num_pairs == 0:
        return None
    pair_P = group_P.argsort(stable=True)[:num_pairs]
    of_pair = group_P[pair_P]
    rank = torch.arange(num_pairs, device=count.device) - (count.cumsum(0) - count)[of_pair]
    slot = (tiles.cumsum(0) - tiles)[of_pair] * TILE + rank
    query = torch.zeros(num_tiles * TILE, dtype=torch.long, device=count.device).scatter(0, slot, pair_P // R)
    group = torch.repeat_interleave(tiles, output_size=num_tiles)
    block = group // N // (X // len(k_YNCK)) * N + group % N
    q_tiles = _rows(q_XQK.reshape(X * Q, -1), query).unflatten(0, (num_tiles, TILE))
    k_tiles, v_tiles = (_rows(x.flatten(0, 1), block) for x in (k_YNCK, v_YNCK))
    read, total, top = (x.flatten(0, 1) for x in _read(q_tiles @ k_tiles.mT, v_tiles))
    slot_P = torch.zeros_like(group_P).scatter(0, pair_P, slot)
    read, total, top = (_rows(x, slot_P).view(X, Q, R, -1) for x in (read, total, top))
    return Part(read, total[..., 0], top[..., 0].masked_fill(picks_XQR < 0, -torch.inf))


def _rows(x: Tensor, index: Tensor) -> Tensor:
    """x[index] for a flat index that repeats rows: the backward pass of embedding is the quickest on a CPU."""
    return F.embedding(index, x.flatten(1)).unflatten(1, x.shape[1:])


def _read(scores: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """exp(score - top) v, summed over the keys; the sum of exp(score - top); top. Of (..., M, C) and (..., C, K)."""
    wide = widened(scores)
    top = wide.detach().amax(-1, keepdim=True)
    powers = (wide - top).exp()
    return powers.to(values.dtype) @ values, powers.sum(-1, keepdim=True), top


def _joined(own: Part, chosen: Part | None) -> Tensor:
    """The parts as one softmax: (X, Q, K)."""
    if chosen is None:
        return own.read_XQRK[:, :, 0] / own.total_XQR
    top_XQ1 = torch.maximum(own.top_XQR, chosen.top_XQR.amax(-1, keepdim=True))
    own_XQ1, chosen_XQR = (own.top_XQR - top_XQ1).exp(), (chosen.top_XQR - top_XQ1).exp()
    read_XQK = own_XQ1 * own.read_XQRK[:, :, 0] + (chosen_XQR[:, :, None] @ chosen.read_XQRK.to(own_XQ1)).squeeze(2)
    return read_XQK / (own_XQ1 * own.total_XQR + (chosen_XQR * chosen.total_XQR).sum(-1, keepdim=True))
