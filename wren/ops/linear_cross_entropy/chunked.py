"""Head and cross-entropy over chunks of tokens: the logits of one chunk at a time, and their gradient right away.

The gradient of a sum is known as soon as a chunk's logits are: (softmax - onehot) x weight. So it is taken in the
forward pass, and no logits are kept or computed twice (as in Liger Kernel, 2410.10989). Backward only scales it.

N tokens, C tokens of a chunk, D model width, V vocabulary.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from wren.ops.linear_cross_entropy.naive import IGNORE
from wren.ops.place import kind
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
    chunk = chunk or chunk_size(kind(hidden_ND), len(weight_VD))
    return _Chunked.apply(hidden_ND, weight_VD, targets_N, weights_N, cap, chunk)  # type: ignore[return-value]


def chunk_size(device_type: str, vocab_size: int) -> int:
    """Tokens whose logits exist at once on a device."""
    return max(256, _LOGITS.get(device_type, 1 << 22) // vocab_size)


def chunked_token_losses(
    hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, cap: float | None = None, *, chunk: int | None = None
) -> Tensor:
    """As naive_token_losses, float32 at least. Each token may get a gradient of its own, known only in the backward
    pass, which therefore computes the logits a second time."""
    chunk = chunk or chunk_size(kind(hidden_ND), len(weight_VD))
    return _TokenLosses.apply(hidden_ND, weight_VD, targets_N, cap, chunk)  # type: ignore[return-value]


def _matmul_dtype(x: Tensor) -> torch.dtype:
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


class _TokenLosses(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, cap: float | None, chunk: int
    ) -> Tensor:
        dtype = _matmul_dtype(hidden_ND)
        with torch.autocast(hidden_ND.device.type, enabled=False):
            w_VD = weight_VD.to(dtype)
            pieces = zip(hidden_ND.split(chunk), targets_N.split(chunk), strict=True)
            losses = [_losses((h.to(dtype) @ w_VD.T).to(wide_dtype(dtype)), target, cap) for h, target in pieces]
        ctx.save_for_backward(hidden_ND, weight_VD, targets_N)
        ctx.settings = dtype, cap, chunk
        return torch.cat(losses)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        hidden_ND, weight_VD, targets_N = ctx.saved_tensors
        dtype, cap, chunk = ctx.settings
        _, *grads = _summed(
            hidden_ND, weight_VD, targets_N, grad_outputs[0], cap, chunk, dtype, ctx.needs_input_grad[:2]
        )
        wanted = (hidden_ND.dtype, weight_VD.dtype)
        return (*(None if x is None else x.to(kind) for x, kind in zip(grads, wanted, strict=True)), *(None,) * 3)


def _losses(logits_CV: Tensor, targets_C: Tensor, cap: float | None) -> Tensor:
    if cap is not None:
        logits_CV = cap * torch.tanh(logits_CV / cap)
    return F.cross_entropy(logits_CV, targets_C, ignore_index=IGNORE, reduction="none")


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
        dtype = _matmul_dtype(hidden_ND)
        total, grad_ND, grad_VD = _summed(
            hidden_ND, weight_VD, targets_N, weights_N, cap, chunk, dtype, ctx.needs_input_grad[:2]
        )
        if grad_VD is not None and weight_VD.dtype.itemsize < grad_VD.dtype.itemsize:
            grad_VD = grad_VD.to(weight_VD.dtype)  # what the backward pass would do first, but not kept wide till then
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


def _summed(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    targets_N: Tensor,
    weights_N: Tensor | None,
    cap: float | None,
    chunk: int,
    dtype: torch.dtype,
    needs: tuple[bool, bool],
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """The loss, its gradient on hidden_ND in `dtype`, and that on weight_VD in the wide form of it."""
    wide = wide_dtype(dtype)
    needs_hidden, needs_weight = needs
    with torch.autocast(hidden_ND.device.type, enabled=False):
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
    return total, grad_ND, grad_VD


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
