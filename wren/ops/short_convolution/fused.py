"""The short convolution on a CPU: two taps as a sum of two products, more as one depthwise conv2d in channels-last
layout, which needs no transpose of (B, T, C).

Their own backward: the input's gradient is the same convolution with the kernel turned round, the weight's one sum a
tap; torch's is several times slower here. B batch, T time, C channels, W kernel width, R tokens near a document's
start.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from wren.ops.place import is_planned, kind
from wren.ops.short_convolution.naive import naive_short_convolution, with_tail
from wren.ops.widen import wide_dtype


def short_convolution(
    x_BTC: Tensor, weight_CW: Tensor, *, tail_BUC: Tensor | None = None, documents_BT: Tensor | None = None
) -> Tensor:
    """As naive_short_convolution, in the dtype of x; a tail and packed documents do not go together."""
    weight_CW = weight_CW.to(x_BTC.dtype)
    W = weight_CW.shape[1]
    if x_BTC.shape[1] < W or kind(x_BTC) != "cpu":  # the shifted sum suits a GPU, and single steps
        return naive_short_convolution(x_BTC, weight_CW, tail_BUC=tail_BUC, documents_BT=documents_BT)
    if W == 2 and tail_BUC is None:
        return _TwoTaps.apply(x_BTC, weight_CW, documents_BT)  # type: ignore[return-value]
    y_BTC: Tensor = _Depthwise.apply(with_tail(x_BTC, tail_BUC, W), weight_CW)  # type: ignore[assignment]
    return y_BTC if documents_BT is None else _apart(y_BTC, x_BTC, weight_CW, documents_BT)


def next_tail(x_BTC: Tensor, width: int, tail_BUC: Tensor, valid_B: Tensor | None) -> Tensor:
    """The last W-1 inputs (B, W-1, C) before valid_B: what the next call takes as its tail."""
    padded = with_tail(x_BTC, tail_BUC, width)
    if valid_B is None:
        return padded[:, x_BTC.shape[1] :].to(tail_BUC.dtype)
    index_BU = valid_B[:, None] + torch.arange(width - 1, device=x_BTC.device)
    return padded[torch.arange(len(x_BTC), device=x_BTC.device)[:, None], index_BU].to(tail_BUC.dtype)


def _apart(y_BTC: Tensor, x_BTC: Tensor, weight_CW: Tensor, documents_BT: Tensor) -> Tensor:
    """Computes anew, from their own document alone, the few outputs whose taps reach into another one."""
    W = weight_CW.shape[1]
    index_T = torch.arange(x_BTC.shape[1], device=x_BTC.device)
    source_TW = index_T[:, None] - torch.arange(W - 1, -1, -1, device=x_BTC.device)
    same_BTW = (documents_BT[:, source_TW.clamp(min=0)] == documents_BT[:, :, None]) & (source_TW >= 0)
    other_BT = (~same_BTW).any(-1)
    row_R, time_R = _places(other_BT, W - 1)
    taps_RWC = x_BTC[row_R[:, None], source_TW.clamp(min=0)[time_R]] * same_BTW[row_R, time_R][:, :, None]
    return y_BTC.index_put((row_R, time_R), (taps_RWC * weight_CW.T).sum(1).to(y_BTC.dtype))


def _places(chosen_BT: Tensor, each: int) -> tuple[Tensor, Tensor]:
    """Where it is true: row and time (R,); in a plan, which has no values to ask for, so many places of each row."""
    if is_planned():
        place_BE = torch.arange(each, device=chosen_BT.device).expand(len(chosen_BT), each)
        return torch.zeros_like(place_BE).flatten(), place_BE.flatten()
    row_R, time_R = chosen_BT.nonzero(as_tuple=True)
    return row_R, time_R


class _TwoTaps(torch.autograd.Function):
    """(B, T, C), (C, 2), documents (B, T) or None -> (B, T, C)."""

    @staticmethod
    def forward(ctx: Any, x_BTC: Tensor, weight_C2: Tensor, documents_BT: Tensor | None) -> Tensor:
        before_BTC = F.pad(x_BTC[:, :-1], (0, 0, 1, 0))
        same_BT1 = None
        if documents_BT is not None:  # a product is several times as quick here as masked_fill
            same_BT = F.pad(documents_BT[:, 1:] == documents_BT[:, :-1], (1, 0), value=True)
            same_BT1 = same_BT[:, :, None].to(x_BTC.dtype)
            before_BTC = before_BTC * same_BT1
        old_C, new_C = (tap.contiguous() for tap in weight_C2.unbind(1))
        ctx.save_for_backward(x_BTC, before_BTC, old_C, new_C, same_BT1)
        return torch.addcmul(before_BTC * old_C, x_BTC, new_C)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        (grad_BTC,) = grads
        x_BTC, before_BTC, old_C, new_C, same_BT1 = ctx.saved_tensors
        grad_x, grad_before = grad_BTC * new_C, grad_BTC * old_C
        if same_BT1 is not None:
            grad_before *= same_BT1
        grad_x[:, :-1] += grad_before[:, 1:]
        wide = wide_dtype(grad_BTC.dtype)
        taps = [(grad_BTC * tap).flatten(0, 1).sum(0, dtype=wide) for tap in (before_BTC, x_BTC)]
        return grad_x, torch.stack(taps, dim=1).to(new_C.dtype), None


class _Depthwise(torch.autograd.Function):
    """(B, W-1+T, C), (C, W) -> (B, T, C)."""

    @staticmethod
    def forward(ctx: Any, padded: Tensor, weight_CW: Tensor) -> Tensor:
        ctx.save_for_backward(padded, weight_CW)
        return _conv(padded, weight_CW)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        (grad_BTC,) = grads
        padded, weight_CW = ctx.saved_tensors
        T, W = grad_BTC.shape[1], weight_CW.shape[1]
        grad_padded = _conv(F.pad(grad_BTC, (0, 0, W - 1, W - 1)), weight_CW.flip(1))
        taps = [(grad_BTC * padded[:, i : i + T]).sum((0, 1), dtype=wide_dtype(grad_BTC.dtype)) for i in range(W)]
        return grad_padded, torch.stack(taps, dim=1).to(weight_CW.dtype)


def _conv(padded: Tensor, weight_CW: Tensor) -> Tensor:
    with torch.autocast(padded.device.type, enabled=False):
        image_BC1S = padded[:, None].permute(0, 3, 1, 2)
        return F.conv2d(image_BC1S, weight_CW[:, None, None], groups=len(weight_CW)).permute(0, 2, 3, 1)[:, 0]
