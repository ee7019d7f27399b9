"""Muon for devices that multiply bf16 slowly: the update of torch.optim.Muon with its Newton-Schulz steps in float32.

    M <- M + (1 - m)(G - M);  U = orth(G + m (M - G));  W <- (1 - lr wd) W - 0.2 lr sqrt(max(rows, columns)) U

orth: five steps X <- a X + (b A + c A A) X with A = X X^T, which pull every singular value near 1 (Jordan et al. 2024);
0.2 sqrt(max(...)) gives the update AdamW's size (2502.16982). Torch's own runs the steps in bf16 whatever the device:
on a CPU without bf16 units that takes 17 to 23 times as long as float32 (512 x 128 and 1024 x 256, one AVX2 core).
"""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
STEPS = 5


class Muon(torch.optim.Optimizer):
    """Takes matrices only. Its state is `momentum_buffer`, as in torch.optim.Muon."""

    def __init__(self, params: Iterable[Tensor], *, lr: float, weight_decay: float, momentum: float):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is not None:
                    self._step(param, param.grad, group)

    def _step(self, param: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        state = self.state[param]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(grad)
        buffer = state["momentum_buffer"]
        buffer.lerp_(grad, 1 - group["momentum"])
        update = orthogonalised(grad.lerp(buffer, group["momentum"]))
        param.mul_(1 - group["lr"] * group["weight_decay"])
        param.add_(update, alpha=-0.2 * group["lr"] * math.sqrt(max(param.shape)))


def orthogonalised(matrix: Tensor) -> Tensor:
    """About U V^T of the matrix's singular value decomposition U S V^T: every singular value between 0.5 and 1.5."""
    a, b, c = COEFFICIENTS
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(STEPS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x
