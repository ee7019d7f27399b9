"""The truth: y_t = sum_i w_i x_{t-(W-1)+i} as a sum of W shifted copies.

B batch, T time, C channels, W kernel width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def naive_short_convolution(
    x_BTC: Tensor, weight_CW: Tensor, *, tail_BUC: Tensor | None = None, documents_BT: Tensor | None = None
) -> Tensor:
    """Outputs (B, T, C). tail (B, W-1, C): the inputs before these, None = zeros. No tap reaches another document."""
    T, W = x_BTC.shape[1], weight_CW.shape[1]
    padded = with_tail(x_BTC, tail_BUC, W)
    y_BTC = x_BTC * weight_CW[:, -1]
    for back in range(1, W):
        tap_BTC = padded[:, W - 1 - back : W - 1 - back + T]
        if documents_BT is not None:
            same_BT = F.pad(documents_BT[:, back:] == documents_BT[:, :-back], (min(back, T), 0))
            tap_BTC = tap_BTC * same_BT[:, :, None]
        y_BTC = y_BTC + tap_BTC * weight_CW[:, -1 - back]
    return y_BTC


def with_tail(x_BTC: Tensor, tail_BUC: Tensor | None, width: int) -> Tensor:
    """(B, W-1+T, C): the inputs preceded by the tail or by zeros."""
    if tail_BUC is None:
        return F.pad(x_BTC, (0, 0, width - 1, 0))
    return torch.cat((tail_BUC.to(x_BTC.dtype), x_BTC), dim=1)
