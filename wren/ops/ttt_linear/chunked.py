"""TTT-Linear in its dual form: matrix products over mini-batches; a Python loop over these, never over tokens.

With W the model before the mini-batch, S the sum of gradients that an earlier call left of it, and G_s the gradient of
token s in what its norm reads, a row,
    o_t = f(q_t), whose norm reads  q_t (W - S) - sum_{s <= t} b_s (q_t . k_s) G_s,  and the next  S = S + k^T (b G),
where q and k end in a 1. Rows that continue at different places, and packed documents, have mini-batches of their own:
tokens are put into slots (mini-batch, place in it) first and their outputs taken out again.

B batch, T time, H heads, K head width, J = K + 1, G mini-batches of a row, C slots of one, E anything.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from wren.batch import positions_in_documents
from wren.ops.place import is_planned
from wren.ops.ttt_linear.naive import EPS, Model
from wren.ops.widen import widened


class _Slots(NamedTuple):
    """index_BT: the token's slot among G x C, G x C = none; None = in order. begins_BG: the mini-batch has its first
    token here; resets_BG: and it is a document's."""

    batches: int
    size: int
    index_BT: Tensor | None = None
    begins_BG: Tensor | None = None
    resets_BG: Tensor | None = None


def chunked_ttt_linear(
    q_BTHK: Tensor,
    k_BTHK: Tensor,
    v_BTHK: Tensor,
    rate_BTH: Tensor,
    model: Model,
    *,
    batch_size: int,
    memory_B2HJK: Tensor | None = None,
    lengths_B: Tensor | None = None,
    documents_BT: Tensor | None = None,
    valid_B: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """As naive_ttt_linear, for any length."""
    B, T, H, K = q_BTHK.shape
    slots = _slots(T, batch_size, lengths_B, documents_BT, valid_B)
    pieces = [_put(widened(x), slots) for x in (q_BTHK, k_BTHK, v_BTHK, rate_BTH[..., None])]
    weight, gain, bias = (widened(x) for x in model)
    gain_H1K, bias_H1K = gain[:, None], bias[:, None]
    moved, summed = (weight.new_zeros(B, 2, H, K + 1, K) if memory_B2HJK is None else memory_B2HJK).unbind(1)
    outputs = []
    with torch.autocast(q_BTHK.device.type, enabled=False):
        for g, (q, k, v, rate) in enumerate(zip(*pieces, strict=True)):
            moved, summed = _begun(moved, summed, slots, g)
            before_BHJK = weight + moved
            k_BHCJ, q_BHCJ = F.pad(k, (0, 1), value=1.0), F.pad(q, (0, 1), value=1.0)
            step_BHCK = rate * _gradients(k_BHCJ @ before_BHJK, v - k, gain_H1K, bias_H1K)
            seen_BHCC = (q_BHCJ @ k_BHCJ.mT).tril()
            read_BHCK = q_BHCJ @ (before_BHJK - summed) - seen_BHCC @ step_BHCK
            outputs.append(q + F.layer_norm(read_BHCK, (K,), eps=EPS) * gain_H1K + bias_H1K)
            summed = summed + k_BHCJ.mT @ step_BHCK
    return _taken(torch.stack(outputs, dim=1), slots, T), torch.stack((moved, summed), dim=1)


def _gradients(hidden_BHCK: Tensor, target_BHCK: Tensor, gain_H1K: Tensor, bias_H1K: Tensor) -> Tensor:
    """Of |norm(hidden) - target|^2 / 2 in hidden: the backward pass of a layer norm, as plain operations."""
    centred = hidden_BHCK - hidden_BHCK.mean(-1, keepdim=True)
    scale = torch.rsqrt(centred.square().mean(-1, keepdim=True) + EPS)
    normed = centred * scale
    slope = (normed * gain_H1K + bias_H1K - target_BHCK) * gain_H1K
    along = (slope * normed).mean(-1, keepdim=True)
    return scale * (slope - slope.mean(-1, keepdim=True) - normed * along)


def _begun(moved: Tensor, summed: Tensor, slots: _Slots, g: int) -> tuple[Tensor, Tensor]:
    """The model before mini-batch g takes the steps of the one before, where it begins; a document's first none."""
    if slots.begins_BG is None:
        return moved - summed, torch.zeros_like(summed)
    begins = slots.begins_BG[:, g, None, None, None]
    moved, summed = torch.where(begins, moved - summed, moved), torch.where(begins, 0.0, summed)
    if slots.resets_BG is not None:
        moved = torch.where(slots.resets_BG[:, g, None, None, None], 0.0, moved)
    return moved, summed


def _slots(T: int, size: int, lengths_B: Tensor | None, documents_BT: Tensor | None, valid_B: Tensor | None) -> _Slots:
    """Which slot each token takes. Asks the device for a number where documents are packed."""
    given = next((x for x in (lengths_B, documents_BT, valid_B) if x is not None), None)
    if given is None:
        return _Slots(-(-T // size), size)
    index_T = torch.arange(T, device=given.device)
    place_BT = index_T.expand(len(given), T) if documents_BT is None else positions_in_documents(documents_BT)
    place_BT = place_BT if lengths_B is None else place_BT + lengths_B[:, None]
    begins_BT = place_BT % size == 0
    batch_BT = begins_BT.cumsum(1) - begins_BT[:, :1].long()
    alone = documents_BT is None or is_planned()  # a plan has no values to ask for, and counts rows of one document
    count = (T + size - 2) // size + 1 if alone else int(batch_BT.max()) + 1
    there_BT = torch.ones_like(begins_BT) if valid_B is None else index_T < valid_B[:, None]
    index_BT = torch.where(there_BT, batch_BT * size + place_BT % size, count * size)
    resets_BT = None if documents_BT is None else there_BT & (place_BT == 0)

    def of_batches(chosen_BT: Tensor) -> Tensor:
        marked = chosen_BT.new_zeros(len(chosen_BT), count + 1)
        return marked.scatter(1, torch.where(chosen_BT, batch_BT, count), True)[:, :count]

    resets_BG = None if resets_BT is None else of_batches(resets_BT)
    return _Slots(count, size, index_BT, of_batches(there_BT & begins_BT), resets_BG)


def _put(x_BTHE: Tensor, slots: _Slots) -> tuple[Tensor, ...]:
    """In mini-batches (B, H, C, E); empty slots are zeros."""
    B, T, H, E = x_BTHE.shape
    total = slots.batches * slots.size
    if slots.index_BT is None:
        x_BNHE = F.pad(x_BTHE, (0, 0, 0, 0, 0, total - T))
    else:
        index_BTHE = slots.index_BT[:, :, None, None].expand(B, T, H, E)
        x_BNHE = x_BTHE.new_zeros(B, total + 1, H, E).scatter(1, index_BTHE, x_BTHE)[:, :total]
    return x_BNHE.transpose(1, 2).split(slots.size, dim=2)


def _taken(o_BGHCK: Tensor, slots: _Slots, T: int) -> Tensor:
    """The outputs in the order of the tokens, (B, T, H, K)."""
    o_BNHK = o_BGHCK.transpose(2, 3).flatten(1, 2)
    if slots.index_BT is None:
        return o_BNHK[:, :T]
    index_BTHK = slots.index_BT[:, :, None, None].expand(-1, -1, *o_BNHK.shape[2:])
    return F.pad(o_BNHK, (0, 0, 0, 0, 0, 1)).gather(1, index_BTHK)


def chunked_flops_per_token(context_len: int, batch_size: int, head_dim: int) -> float:
    """Of one head, averaged over a row of context_len tokens, as counted for the whole row at once."""
    padded = -(-context_len // batch_size) * batch_size / context_len
    wide = 2 * (head_dim + 1)
    return padded * (3 * wide * head_dim + batch_size * (wide + 2 * head_dim))
