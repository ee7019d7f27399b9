"""Products of tokens under a decay of each channel: M_ij = sum_K x_iK exp(g_iK - g_jK) y_jK for i > j.

g is the log decay summed. Split into a factor of i and one of j the decay is not safe: exp(-g_j) overflows. But every
pair is parted by one middle of a binary tree over the chunk, and from there both ways the log decay sums to <= 0:
    exp(g_i - g_j) = exp(sum from the middle up to i) exp(sum from after j to the middle).
So each level of the tree is one batched matrix product of halves of blocks of 2, 4, 8, ... tokens, with no exponent
above 0, no difference of sums and as many exponentials as there are inputs. The sums of a level are those of the level
below, plus the half's total.

The gradient of the log decay goes back down the same tree: nothing of one document enters the sums of another.

X chunks of all rows and heads, S kinds of rows (what reads), Y kinds of keys (what was written), C tokens a chunk (a
power of two), K key width; at a level: N blocks, each of two halves of L tokens.
"""

from typing import Any

import torch
from torch import Tensor

from wren.ops.place import kind

# numbers (tokens x channels) worked on at a time: the fastest of 2^15 .. 2^20 on a core with 2 MiB of cache
_CACHED = 2**18


class DecayedPairs(torch.autograd.Function):
    """rows (X, S, C, K), keys (X, Y, C, K), log_decay (X, C, K) -> pairs (X, S, C, Y, C), from_start, to_end (X, C, K).

    S = 2: rows of the first kind meet earlier keys only (i > j), those of the second their own token's too (i >= j).
    Elsewhere pairs are 0. from_start_i = exp(g_i), to_end_j = exp(g_C - g_j).
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, keys: Tensor, log_decay: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        X, S, C, _ = rows.shape
        pairs = rows.new_zeros(X, S, C, keys.shape[1], C)
        from_start, to_end = log_decay.clone(), torch.zeros_like(log_decay)
        for group in _groups(log_decay):
            _pairs_of_group(rows[group], keys[group], from_start[group], to_end[group], pairs[group])
        ctx.save_for_backward(rows, keys, log_decay, from_start, to_end)
        return pairs, from_start, to_end

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        rows, keys, log_decay, from_start, to_end = ctx.saved_tensors
        grad_pairs, grad_start, grad_end = grads
        grad_rows, grad_keys = torch.zeros_like(rows), torch.empty_like(keys)
        into_start, into_end = grad_start * from_start, grad_end * to_end
        with torch.autocast(rows.device.type, enabled=False):  # a caller may go backward inside of it
            for group in _groups(log_decay):
                given = (rows[group], keys[group], log_decay[group], grad_pairs[group])
                levels = _gradients_of_group(*given, grad_rows[group], grad_keys[group])
                _down_the_tree(into_start[group], into_end[group], levels)
        return grad_rows, grad_keys, into_start


def _groups(log_decay: Tensor) -> list[slice]:
    """Chunks to work on at a time: on a CPU as many as its cache holds, elsewhere all."""
    X, C, K = log_decay.shape
    size = max(1, _CACHED // (C * K)) if kind(log_decay) == "cpu" else X
    return [slice(i, i + size) for i in range(0, X, size)]


def _pairs_of_group(rows: Tensor, keys: Tensor, to_here: Tensor, from_here: Tensor, pairs: Tensor) -> None:
    """Writes pairs, and turns to_here (the log decay) and from_here (zeros) into the decays of the whole chunk."""
    sums = _Sums(to_here, from_here)
    while sums.half < rows.shape[2]:
        rows_NSLK, keys_NYLK, _, _ = _halves(rows, keys, sums)
        block = _below_diagonal(pairs, sums.half)
        block.copy_((rows_NSLK.flatten(1, 2) @ keys_NYLK.flatten(1, 2).mT).view(block.shape))
        sums.double()
    _own(pairs).copy_((rows[:, 1, None] * keys).sum(-1))
    to_here.exp_()
    from_here.exp_()


def _gradients_of_group(
    rows: Tensor, keys: Tensor, log_decay: Tensor, grad_pairs: Tensor, grad_rows: Tensor, grad_keys: Tensor
) -> list[tuple[Tensor, Tensor]]:
    """Writes the gradients of rows (zeros so far) and keys; returns those of the sums of every level's halves."""
    own = _own(grad_pairs)[..., None]
    torch.mul(own, rows[:, 1, None], out=grad_keys)
    torch.sum(own * keys, 1, out=grad_rows[:, 1])
    sums, levels = _Sums(log_decay.clone(), torch.zeros_like(log_decay)), []
    while sums.half < rows.shape[2]:
        rows_NSLK, keys_NYLK, to_here, from_here = _halves(rows, keys, sums)
        grad = _below_diagonal(grad_pairs, sums.half)
        grad = grad.reshape(-1, rows.shape[1] * sums.half, keys.shape[1] * sums.half)
        into_rows = (grad @ keys_NYLK.flatten(1, 2)).view_as(rows_NSLK)
        into_keys = (grad.mT @ rows_NSLK.flatten(1, 2)).view_as(keys_NYLK)
        _half(grad_rows, sums.half, 1).addcmul_(_as_half(into_rows, rows), to_here)
        _half(grad_keys, sums.half, 0).addcmul_(_as_half(into_keys, keys), from_here)
        levels.append((into_rows.mul_(rows_NSLK).sum(1), into_keys.mul_(keys_NYLK).sum(1)))
        sums.double()
    return levels


class _Sums:
    """The log decay summed in blocks of `half` tokens: from a block's start to each token, and after it to the end."""

    def __init__(self, to_here: Tensor, from_here: Tensor):
        """to_here: the log decay; from_here: zeros. Both are written over."""
        self.half = 1
        self.to_here, self.from_here = to_here, from_here

    def double(self) -> None:
        to_here, from_here = (x.unflatten(1, (-1, 2, self.half)) for x in (self.to_here, self.from_here))
        from_here[:, :, 0] += to_here[:, :, 1, -1:]
        to_here[:, :, 1] += to_here[:, :, 0, -1:]
        self.half *= 2


def _halves(rows: Tensor, keys: Tensor, sums: _Sums) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Rows of second halves (N, S, L, K), keys of first halves (N, Y, L, K), and the decays that both were given."""
    to_here = _half(sums.to_here[:, None], sums.half, 1).exp()
    from_here = _half(sums.from_here[:, None], sums.half, 0).exp()
    scaled = []
    for x, decay, which in ((rows, to_here, 1), (keys, from_here, 0)):
        x_XNSLK = _half(x, sums.half, which).transpose(1, 2)
        decay_XN1LK = decay.transpose(1, 2)
        out = x.new_empty(x_XNSLK.shape)  # contiguous, so that the product below copies nothing
        scaled.append(torch.mul(x_XNSLK, decay_XN1LK, out=out).flatten(0, 1))
    return scaled[0], scaled[1], to_here, from_here


def _half(x: Tensor, half: int, which: int) -> Tensor:
    """(X, S, C, K) -> (X, S, N, L, K): the first (0) or second (1) halves of all blocks, a view."""
    return x.unflatten(2, (-1, 2, half))[:, :, :, which]


def _as_half(x_NSLK: Tensor, like: Tensor) -> Tensor:
    """(X N, S, L, K) -> (X, S, N, L, K), a view."""
    return x_NSLK.unflatten(0, (len(like), -1)).transpose(1, 2)


def _below_diagonal(pairs: Tensor, half: int) -> Tensor:
    """(X, S, C, Y, C) -> (X, N, S, L, Y, L): for every block its second half's rows and first half's keys, a view."""
    blocks = pairs.unflatten(4, (-1, 2, half)).unflatten(2, (-1, 2, half))[:, :, :, 1, :, :, :, 0]
    return blocks.diagonal(dim1=2, dim2=5).permute(0, 5, 1, 2, 3, 4)


def _own(pairs: Tensor) -> Tensor:
    """(X, S, C, Y, C) -> (X, Y, C): the second kind of rows with the keys of the same token, a view."""
    return pairs[:, 1].diagonal(dim1=1, dim2=3)


def _down_the_tree(into_to_here: Tensor, into_from_here: Tensor, levels: list[tuple[Tensor, Tensor]]) -> None:
    """Turns gradients of the sums over whole chunks (X, C, K), and of every level's halves, into the log decay's.

    It is written over into_to_here.
    """
    for level in reversed(range(len(levels))):
        half = 2**level
        to_here, from_here = (x.unflatten(1, (-1, 2, half)) for x in (into_to_here, into_from_here))
        first_total, second_total = to_here[:, :, 1].sum(2), from_here[:, :, 0].sum(2)
        to_here[:, :, 0, -1] += first_total
        to_here[:, :, 1, -1] += second_total
        to_here[:, :, 1] += levels[level][0].view(to_here[:, :, 1].shape)
        from_here[:, :, 0] += levels[level][1].view(from_here[:, :, 0].shape)
