"""Selective scan in chunks: as many Python steps a chunk as the root of its length, and its states are never kept.

Every channel and state has a decay of its own, so no matrix product mixes the tokens. A chunk is cut into M blocks of
C tokens, and step c treats the c-th token of all blocks at once: first the blocks from nothing, for what each leaves;
then the true memory from block to block; then the blocks again from their true beginnings. All decays are exp of
something <= 0 and none is divided by: 2 products a token where a prefix scan takes 2 log C.

The backward pass is the same thing turned round: with a_t = exp(dt_t A), G_t = c_t dy_t + R_{t+1} is the gradient of
h_t and R_t = a_t G_t that of h_{t-1}. Only the memory before each block is kept; the states between are made anew.

B batch, T time, M blocks, C tokens of a block, E channels, N states of a channel.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from wren.ops.widen import widened


def chunked_selective_scan(
    x_BTE: Tensor,
    dt_BTE: Tensor,
    A_NE: Tensor,
    b_BTN: Tensor,
    c_BTN: Tensor,
    *,
    memory_BNE: Tensor | None = None,
    documents_BT: Tensor | None = None,
    chunk_size: int = 64,
) -> tuple[Tensor, Tensor]:
    """As naive_selective_scan, for any length; differentiable once.

    What a backward pass keeps grows by T x E x (2 + N / sqrt(chunk_size)), what it works with by chunk_size x E x N.
    """
    T = x_BTE.shape[1]
    C = min(block_length(chunk_size), T)
    x, dt, b, c = (_blocks(widened(x), C) for x in (x_BTE, dt_BTE, b_BTN, c_BTN))
    memory = x.new_zeros(len(x), *A_NE.shape) if memory_BNE is None else memory_BNE.to(x.dtype)
    stays = None
    if documents_BT is not None:
        stays = F.pad((documents_BT[:, 1:] == documents_BT[:, :-1]).to(x.dtype), (1, 0), value=1.0)
        stays = _blocks(stays[:, :, None], C, value=1.0)[..., None]
    with torch.autocast(x.device.type, enabled=False):
        y_BMCE, last_BNE = _Scan.apply(x, dt, widened(A_NE), b, c, memory, stays, max(1, chunk_size // C))  # type: ignore[misc]
    return y_BMCE.flatten(1, 2)[:, :T], last_BNE


def block_length(chunk_size: int) -> int:
    """Tokens of a block: about as many as there are blocks in a chunk."""
    return math.isqrt(chunk_size)


def _blocks(x_BTE: Tensor, block_len: int, value: float = 0.0) -> Tensor:
    """(B, T, E) as (B, M, C, E), the last block padded with tokens that change nothing."""
    missing = -x_BTE.shape[1] % block_len
    padded = F.pad(x_BTE, (0, 0, 0, missing), value=value) if missing else x_BTE
    return padded.unflatten(1, (-1, block_len))


class _Chunk(NamedTuple):
    """The inputs of a few blocks, (B, M, C, ...); A_NE is the same for all."""

    x: Tensor
    dt: Tensor
    A_NE: Tensor
    b: Tensor
    c: Tensor
    stays: Tensor | None  # (B, M, C, 1, 1): 0 where a document begins, else 1; None = all 1

    def decays(self, out: Tensor) -> Tensor:
        """exp(dt A) (B, M, C, N, E), 0 across the beginning of a document."""
        torch.mul(self.dt[..., None, :], self.A_NE, out=out).exp_()
        return out if self.stays is None else out.mul_(self.stays)

    def block_decays(self) -> Tensor:
        """The decay over each whole block (B, M, N, E)."""
        decays_BMNE = (self.dt.sum(2)[..., None, :] * self.A_NE).exp()
        return decays_BMNE if self.stays is None else decays_BMNE * self.stays.amin(2)

    def written(self, out: Tensor) -> Tensor:
        """b (dt x)^T (B, M, C, N, E)."""
        return torch.mul(self.b[..., None], (self.dt * self.x)[..., None, :], out=out)


class _Scan(torch.autograd.Function):
    """(B, M, C, E) x and dt, (N, E) A, (B, M, C, N) b and c, (B, N, E) memory -> (B, M, C, E) y and the last memory."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, dt: Tensor, A_NE: Tensor, b: Tensor, c: Tensor, *rest: Any) -> tuple[Tensor, ...]:
        memory_BNE, stays, num_blocks = rest
        whole = _Chunk(x, dt, A_NE, b, c, stays)
        y = torch.empty_like(x)
        starts = x.new_empty(*x.shape[:2], *A_NE.shape)
        for piece, chunk, (decays, states) in _chunks(whole, num_blocks, num_buffers=2):
            chunk.decays(decays)
            chunk.written(states)
            memory_BNE = _block_starts(chunk, decays, states, memory_BNE, starts[:, piece])
            _fill_states(decays, states, starts[:, piece])
            y[:, piece] = (chunk.c[..., None, :] @ states).squeeze(-2)
        ctx.save_for_backward(x, dt, A_NE, b, c, stays, starts)
        ctx.num_blocks = num_blocks
        return y, memory_BNE

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        *inputs, starts = ctx.saved_tensors
        with torch.autocast(starts.device.type, enabled=False):
            return *_gradients(_Chunk(*inputs), starts, ctx.num_blocks, *grads), None, None


def _gradients(whole: _Chunk, starts: Tensor, num_blocks: int, dy: Tensor, carried_BNE: Tensor) -> tuple[Tensor, ...]:
    """Of x, dt, A, b, c and the first memory, from those of y and of the last memory; the last chunk comes first."""
    dx, ddt, dA_NE, db, dc = (torch.zeros_like(x) for x in whole[:5])
    for piece, chunk, (decays, states, grads) in reversed(list(_chunks(whole, num_blocks, num_buffers=3))):
        chunk.decays(decays)
        chunk.written(states)
        _fill_states(decays, states, starts[:, piece])
        dc[:, piece] = (states @ dy[:, piece, :, :, None]).squeeze(-1)
        torch.mul(chunk.c[..., None], dy[:, piece, :, None], out=grads)
        carried_BNE = _fill_grads(chunk, decays, grads, carried_BNE)
        db[:, piece] = (grads @ (chunk.dt * chunk.x)[..., None]).squeeze(-1)
        dwritten = (chunk.b[..., None, :] @ grads).squeeze(-2)
        dx[:, piece] = dwritten * chunk.dt
        decays[:, :, 1:].mul_(states[:, :, :-1])  # R_t h_{t-1}: the gradient of dt_t A
        decays[:, :, 0].mul_(starts[:, piece])
        ddt[:, piece] = dwritten * chunk.x + torch.mul(decays, whole.A_NE, out=states).sum(-2)
        dA_NE += torch.mul(decays, chunk.dt[..., None, :], out=states).sum((0, 1, 2))
    return dx, ddt, dA_NE, db, dc, carried_BNE


def _chunks(whole: _Chunk, num_blocks: int, num_buffers: int) -> Iterator[tuple[slice, _Chunk, list[Tensor]]]:
    """(blocks, their inputs, buffers of (B, M, C, N, E)) of each chunk; all chunks share the buffers' memory."""
    total = whole.x.shape[1]
    buffers: list[Tensor] = []
    for start in range(0, total, num_blocks):
        piece = slice(start, min(start + num_blocks, total))
        x, dt, b, c = (each[:, piece] for each in (whole.x, whole.dt, whole.b, whole.c))
        chunk = _Chunk(x, dt, whole.A_NE, b, c, None if whole.stays is None else whole.stays[:, piece])
        shape = (*x.shape[:3], *whole.A_NE.shape)
        if not buffers or buffers[0].shape != shape:
            buffers = [x.new_empty(shape) for _ in range(num_buffers)]
        yield piece, chunk, buffers


def _block_starts(chunk: _Chunk, decays: Tensor, written: Tensor, memory_BNE: Tensor, starts: Tensor) -> Tensor:
    """Puts the memory before each block into `starts` (B, M, N, E); returns the memory after the last."""
    left = written[:, :, 0].clone()
    for i in range(1, written.shape[2]):
        torch.addcmul(written[:, :, i], decays[:, :, i], left, out=left)
    through = chunk.block_decays()
    for m in range(written.shape[1]):
        starts[:, m] = memory_BNE
        memory_BNE = torch.addcmul(left[:, m], through[:, m], memory_BNE)
    return memory_BNE


def _fill_states(decays: Tensor, written: Tensor, starts: Tensor) -> None:
    """Turns what each token writes into the state after it, in place."""
    before = starts
    for i in range(written.shape[2]):
        before = written[:, :, i].addcmul_(decays[:, :, i], before)


def _fill_grads(chunk: _Chunk, decays: Tensor, grads: Tensor, carried_BNE: Tensor) -> Tensor:
    """In place: `grads`, c_t dy_t at first, becomes G, and `decays` becomes R; returns R of the first token."""
    steps = range(grads.shape[2] - 1, -1, -1)
    left = torch.zeros_like(grads[:, :, 0])
    for i in steps:
        left.add_(grads[:, :, i]).mul_(decays[:, :, i])
    through = chunk.block_decays()
    after = torch.empty_like(left)  # R of the token after each block
    for m in range(grads.shape[1] - 1, -1, -1):
        after[:, m] = carried_BNE
        carried_BNE = torch.addcmul(left[:, m], through[:, m], carried_BNE)
    for i in steps:
        after = decays[:, :, i].mul_(grads[:, :, i].add_(after))
    return carried_BNE
