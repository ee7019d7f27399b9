"""Muon: momentum made orthogonal by Newton-Schulz steps (Jordan et al. 2024), matrices of one shape all at once.

    M <- M + (1 - m)(G - M);  U = orth(G + m (M - G));  W <- (1 - lr wd) W - 0.2 lr sqrt(max(rows, columns)) U

orth: five steps X <- a X + (b A + c A A) X with A = X X^T, which pull every singular value near 1; 0.2 sqrt(max(...))
gives the update AdamW's size (2502.16982). The same rule as torch.optim.Muon's, with two differences: there each matrix
goes alone, which leaves a device idle between many small products, and in bf16 even where that is emulated
(docs/decisions/0006).

normalise (NorMuon, 2510.05491): U's rows are divided by a running mean of their size, and the whole is scaled back, so
that no neuron learns faster than another.
"""

import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
STEPS = 5
_AT_ONCE = 2**24  # elements stacked, which bounds the memory of a step


class Muon(torch.optim.Optimizer):
    """Takes matrices only. Its state is `momentum_buffer`, and with normalise `row_mean`, one number a row.

    dtype: of the Newton-Schulz steps.
    """

    def __init__(
        self, params: Iterable[Tensor], *, lr: float, weight_decay: float, momentum: float,
        normalise: bool = False, row_beta: float = 0.95, dtype: torch.dtype = torch.float32,
    ):  # fmt: skip
        defaults = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum}
        super().__init__(params, defaults | {"normalise": normalise, "row_beta": row_beta})
        self.dtype = dtype

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for params in _alike([p for p in group["params"] if p.grad is not None]):
                self._step(params, group)

    def _step(self, params: list[Tensor], group: dict[str, Any]) -> None:
        momentum = group["momentum"]
        directions = []
        for param in params:
            state = self.state[param]
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = torch.zeros_like(param)
                if group["normalise"]:
                    state["row_mean"] = torch.zeros_like(param[:, :1])
            buffer, grad = state["momentum_buffer"], param.grad
            assert grad is not None
            buffer.lerp_(grad, 1 - momentum)
            directions.append(grad.lerp(buffer, momentum))
        updates = orthogonalised(torch.stack(directions), self.dtype)
        if group["normalise"]:
            updates = _normalised(updates, [self.state[p]["row_mean"] for p in params], group["row_beta"])
        scale = 0.2 * group["lr"] * math.sqrt(max(params[0].shape))
        for param, update in zip(params, updates, strict=True):
            param.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-scale)


def _alike(params: list[Tensor]) -> Iterator[list[Tensor]]:
    """Matrices of one shape, dtype and device, as many as may be stacked."""
    kinds: dict[tuple[Any, ...], list[Tensor]] = {}
    for param in params:
        kinds.setdefault((param.shape, param.dtype, param.device), []).append(param)
    for same in kinds.values():
        count = max(1, _AT_ONCE // same[0].numel())
        yield from (same[start : start + count] for start in range(0, len(same), count))


def orthogonalised(matrices: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """About U V^T of the singular value decomposition U S V^T of matrices (..., rows, columns): every singular value
    between 0.5 and 1.5. In their dtype; the steps are done in the one given."""
    a, b, c = COEFFICIENTS
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.reshape(-1, *matrices.shape[-2:])
    x = (x.mT if tall else x) / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    x = x.to(dtype)
    for _ in range(STEPS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).to(matrices.dtype).reshape(matrices.shape)


def _normalised(updates: Tensor, row_means: list[Tensor], beta: float) -> Tensor:
    """Updates (matrices, rows, columns) with rows of like size and the norm they had; advances the row means."""
    squares = updates.square().mean(-1, keepdim=True)
    for row_mean, square in zip(row_means, squares, strict=True):
        row_mean.lerp_(square, 1 - beta)
    even = updates * torch.stack(row_means).clamp(min=1e-10).rsqrt()
    norms = [x.norm(dim=(-2, -1), keepdim=True) for x in (updates, even)]
    return even * (norms[0] / norms[1].clamp(min=1e-10))
