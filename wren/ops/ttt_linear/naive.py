"""The truth, token by token, with gradients by autograd of the loss that the memory is trained on.

B batch, T time, H heads, K head width, J = K + 1 (the last one for the bias).
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from wren.ops.widen import widened

EPS = 1e-6


class Model(NamedTuple):
    """What the memory begins with, and its norm's gain and bias, which stay."""

    weight_HJK: Tensor
    gain_HK: Tensor
    bias_HK: Tensor


def naive_ttt_linear(
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
    """Outputs (B, T, H, K) and the last memory (B, 2, H, J, K), computed in fp32 or, for fp64 inputs, in fp64.

    rate = b >= 0. batch_size: tokens of a mini-batch. The memory holds how far the model before the mini-batch has come
    from `model`, and the sum of the mini-batch's gradients so far, which is to be taken off; None = zeros.
    lengths_B: tokens that it has seen already, None = none. A new document begins with `model`, as if alone. Tokens
    past valid_B change nothing; their outputs mean nothing.
    """
    q, k, v, rate = (widened(x) for x in (q_BTHK, k_BTHK, v_BTHK, rate_BTH))
    weight, gain, bias = (widened(x) for x in model)
    B, T, H, K = q.shape
    memory = q.new_zeros(B, 2, H, K + 1, K) if memory_B2HJK is None else memory_B2HJK.to(q.dtype)
    rows, finals = [], []
    with torch.autocast(q.device.type, enabled=False):
        for row in range(B):
            moved, summed = memory[row]
            place = 0 if lengths_B is None else int(lengths_B[row])
            outputs = []
            for t in range(T):
                if valid_B is not None and t >= int(valid_B[row]):
                    outputs.append(torch.zeros_like(q[row, t]))
                    continue
                if documents_BT is not None and t > 0 and documents_BT[row, t] != documents_BT[row, t - 1]:
                    moved, summed, place = torch.zeros_like(moved), torch.zeros_like(summed), 0
                if place % batch_size == 0:
                    moved, summed = moved - summed, torch.zeros_like(summed)
                gradient = _gradient(weight + moved, k[row, t], v[row, t], gain, bias)
                summed = summed + rate[row, t, :, None, None] * gradient
                outputs.append(_predicted(weight + moved - summed, q[row, t], gain, bias))
                place += 1
            rows.append(torch.stack(outputs))
            finals.append(torch.stack((moved, summed)))
    return torch.stack(rows), torch.stack(finals)


def _predicted(weight_HJK: Tensor, x_HK: Tensor, gain_HK: Tensor, bias_HK: Tensor) -> Tensor:
    hidden_HK = (F.pad(x_HK, (0, 1), value=1.0)[:, None] @ weight_HJK)[:, 0]
    return x_HK + F.layer_norm(hidden_HK, hidden_HK.shape[-1:], eps=EPS) * gain_HK + bias_HK


def _gradient(weight_HJK: Tensor, k_HK: Tensor, v_HK: Tensor, gain_HK: Tensor, bias_HK: Tensor) -> Tensor:
    """Of |f(k; W) - v|^2 / 2 in W, with a graph where the caller makes one."""
    keep = torch.is_grad_enabled()
    with torch.enable_grad():
        at = weight_HJK if weight_HJK.requires_grad else weight_HJK.detach().requires_grad_()
        loss = (_predicted(at, k_HK, gain_HK, bias_HK) - v_HK).square().sum() / 2
        (gradient,) = torch.autograd.grad(loss, at, create_graph=keep)
    return gradient
