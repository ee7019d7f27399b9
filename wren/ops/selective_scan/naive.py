"""The truth, token by token: h_t = exp(dt_t A) h_{t-1} + b_t (dt_t x_t)^T,  y_t = c_t h_t.

B batch, T time, E channels, N states of a channel.
"""

import torch
from torch import Tensor

from wren.ops.widen import widened


def naive_selective_scan(
    x_BTE: Tensor,
    dt_BTE: Tensor,
    A_NE: Tensor,
    b_BTN: Tensor,
    c_BTN: Tensor,
    *,
    memory_BNE: Tensor | None = None,
    documents_BT: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Outputs (B, T, E) and the last memory (B, N, E), computed in fp32 or, for fp64 inputs, in fp64.

    dt >= 0 and A <= 0, so that every decay lies in [0, 1]; a token of dt 0 changes nothing. The memory is emptied
    where a new document begins; memory_BNE is what the first document of a row begins with.
    """
    x, dt, A, b, c = (widened(x) for x in (x_BTE, dt_BTE, A_NE, b_BTN, c_BTN))
    memory = x.new_zeros(len(x), *A.shape) if memory_BNE is None else memory_BNE.to(x.dtype)
    outputs = []
    with torch.autocast(x.device.type, enabled=False):
        for t in range(x.shape[1]):
            if documents_BT is not None and t > 0:
                memory = memory * (documents_BT[:, t] == documents_BT[:, t - 1])[:, None, None]
            written_BNE = b[:, t, :, None] * (dt[:, t] * x[:, t])[:, None]
            memory = (dt[:, t, None] * A).exp() * memory + written_BNE
            outputs.append(c[:, t, None] @ memory)
    return torch.cat(outputs, dim=1), memory
