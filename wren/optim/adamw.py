"""AdamW (1711.05101) over pieces of a tensor, for moments and weights that are not kept in float32 (store.py).

The arithmetic is torch's own, in float32; one parameter can be stepped by itself, as soon as its gradient is there.
"""

from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from wren.ops.widen import wide_dtype
from wren.optim.rounding import stochastically_rounded
from wren.optim.store import Piece, Store

MOMENTS = ("exp_avg", "exp_avg_sq")


class AdamW(torch.optim.Optimizer):
    """State of a parameter: `step`, and `exp_avg` and `exp_avg_sq` as the store keeps them."""

    def __init__(
        self, groups: Any, *, lr: float, betas: tuple[float, float], eps: float, fused: bool, store: Store
    ):  # fmt: skip
        super().__init__(groups, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": 0.0, "fused": fused})
        self.store = store

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            self._step([p for p in group["params"] if p.grad is not None], group)

    @torch.no_grad()
    def step_one(self, param: Tensor, group: dict[str, Any]) -> None:
        """Steps a parameter and drops its gradient."""
        self._step([param], group)
        param.grad = None

    def _step(self, params: list[Tensor], group: dict[str, Any]) -> None:
        pieces = []
        for param in params:
            state = self.state[param]
            if not state:
                device = param.device if self.defaults["fused"] else None
                state["step"] = torch.zeros((), dtype=torch.float32, device=device)
                for field in MOMENTS:
                    state.update(self.store.new(param, field))
            pieces.extend(self.store.pieces(param, state))
        for piece, kept in self.store.each(pieces, *MOMENTS):
            self._step_piece(piece, kept, group)
            if piece.stop == piece.param.numel():
                piece.state["step"] += 1

    def _step_piece(self, piece: Piece, kept: dict[str, Tensor], group: dict[str, Any]) -> None:
        weights, wide = piece.of(piece.param), wide_dtype(piece.param.dtype)
        assert piece.param.grad is not None
        gradient = piece.param.grad.reshape(-1)[piece.start : piece.stop].to(wide)
        moments = [self.store.wide(kept, field) for field in MOMENTS]
        changed = weights.to(wide)
        (beta1, beta2), step = group["betas"], piece.state["step"].clone()  # adamw counts it up for every piece
        adamw(
            [changed], [gradient], [moments[0]], [moments[1]], [], [step], fused=self.defaults["fused"], amsgrad=False,
            beta1=beta1, beta2=beta2, lr=group["lr"], weight_decay=group["weight_decay"], eps=group["eps"],
            maximize=False,
        )  # fmt: skip
        for field, moment in zip(MOMENTS, moments, strict=True):
            self.store.keep(piece, kept, field, moment)
        if weights.dtype == torch.bfloat16:
            weights.copy_(stochastically_rounded(changed, self.store.generator(piece, "weights")))
