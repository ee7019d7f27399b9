"""Head and cross-entropy over chunks of tokens: the logits of one chunk at a time, and their gradient right away.

The gradient of a sum is known as soon as a chunk's logits are: (softmax - onehot) x weight. So it is taken in the
forward pass, and no logits are kept or computed twice (as in Liger Kernel, 2410.10989). Backward only scales it.

N tokens, C tokens of a chunk, D model width, V vocabulary.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from wren.ops.linear_cross_entropy.naive import IGNORE
from wren.ops.widen import wide_dtype

_LOGITS = {"cpu": 1 << 20, "cuda": 1 << 26}  # of a chunk: a CPU's cache, and enough to keep a GPU busy


def chunked_linear_cross_entropy(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    targets_N: Tensor,
    weights_N: Tensor | None = None,
    cap: float | None = None,
    *,
    chunk: int | None = None,
) -> Tensor:
    """As the naive form: a scalar, float32 at least. chunk: tokens at once, None = what suits the device.

    Matrix products follow autocast. Gradients flow to hidden_ND and weight_VD, once.
    """
    if chunk is None:
        chunk = max(256, _LOGITS.get(hidden_ND.device.type, 1 << 22) // len(weight_VD))
    return _Chunked.apply(hidden_ND, weight_VD, targets_N, weights_N, cap, chunk)  # type: ignore[return-value]


class _Chunked(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        targets_N: Tensor,
        weights_N: Tensor | None,
        cap: float | None,
        chunk: int,
    ) -> Tensor:
        kind = hidden_ND.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden_ND.dtype
        wide = wide_dtype(dtype)
        needs_hidden, needs_weight = ctx.needs_input_grad[:2]
        with torch.autocast(kind, enabled=False):
            h_ND, w_VD = hidden_ND.to(dtype), weight_VD.to(dtype)
            grad_ND = torch.empty_like(h_ND) if needs_hidden else None
            grad_VD = torch.zeros_like(weight_VD, dtype=wide) if needs_weight else None
            total = torch.zeros((), dtype=wide, device=hidden_ND.device)
            for start in range(0, len(h_ND), chunk):
                part = slice(start, start + chunk)
                logits_CV = (h_ND[part] @ w_VD.T).to(wide)
                weights_C = None if weights_N is None else weights_N[part].to(wide)
                loss, grad_CV = _chunk(logits_CV, targets_N[part], weights_C, cap, needs_hidden or needs_weight)
                total += loss
                grad_CV = grad_CV.to(dtype)
                if grad_ND is not None:
                    torch.mm(grad_CV, w_VD, out=grad_ND[part])
                if grad_VD is not None and dtype == wide:
                    grad_VD.addmm_(grad_CV.T, h_ND[part])
                elif grad_VD is not None:
                    grad_VD += grad_CV.T @ h_ND[part]
        ctx.save_for_backward(grad_ND, grad_VD)
        ctx.dtypes = hidden_ND.dtype, weight_VD.dtype
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        (grad,) = grad_outputs
        grads = (
            None if saved is None else saved.to(dtype) * grad
            for saved, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        )
        return (*grads, *(None,) * 4)


def _chunk(
    logits_CV: Tensor, targets_C: Tensor, weights_C: Tensor | None, cap: float | None, needs_grad: bool
) -> tuple[Tensor, Tensor]:
    """The loss of a chunk and its gradient on the logits, which overwrites them where it can."""
    slope_CV = None
    if cap is not None:
        logits_CV = cap * torch.tanh(logits_CV / cap)
        slope_CV = 1 - (logits_CV / cap).square() if needs_grad else None
    learned_C = targets_C != IGNORE
    index_C1 = torch.where(learned_C, targets_C, 0)[:, None]
    weights_C = learned_C.to(logits_CV.dtype) if weights_C is None else torch.where(learned_C, weights_C, 0)
    logp_CV = torch.log_softmax(logits_CV, dim=-1)
    loss = -torch.dot(logp_CV.gather(1, index_C1)[:, 0], weights_C)
    if not needs_grad:
        return loss, logp_CV
    grad_CV = logp_CV.exp_()
    grad_CV.scatter_add_(1, index_C1, grad_CV.new_full((), -1).expand_as(index_C1))
    grad_CV.mul_(weights_C[:, None])
    return loss, grad_CV if slope_CV is None else grad_CV.mul_(slope_CV)
