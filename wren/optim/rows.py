"""Lookup tables stepped row by row: a row moves, and what is known of it changes, only in steps that read it.

    v <- b v + (1 - b) mean(g^2)        of the row's gradient, in the k-th step that has one
    w <- w - lr g / sqrt(v / (1 - b^k))

AdamW keeps two numbers for every weight and goes on moving a row long after it was read; here it is two numbers a row,
and the gradient of rows that were not read need not exist (one scale a row: the row-wise Adagrad of recommender
models, 1906.00091; a running mean with Adam's correction in place of the sum). There is no weight decay.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from wren.layout import local
from wren.ops.widen import wide_dtype
from wren.optim.rounding import stochastically_rounded
from wren.optim.store import PIECE, Piece, Store

FIELDS = ("row_square", "visits")  # of shape (rows, 1)
_EPS = 1e-12  # rows without a gradient are left out, so that nothing is divided by zero


class Rows(torch.optim.Optimizer):
    """Takes tables (rows, D) whose gradients are dense, or sparse over their rows; both give the same step."""

    def __init__(self, params: Iterable[Tensor], *, lr: float, beta: float = 0.95, store: Store | None = None):
        super().__init__(params, {"lr": lr, "beta": beta})
        self.store = store

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is not None:
                    self._step(param, group)

    @torch.no_grad()
    def step_one(self, param: Tensor, group: dict[str, Any]) -> None:
        """Steps a table and drops its gradient."""
        self._step(param, group)
        param.grad = None

    def _step(self, param: Tensor, group: dict[str, Any]) -> None:
        state = self.state[param]
        if not state:
            wide = wide_dtype(param.dtype)
            state.update({field: torch.zeros_like(param.detach()[:, :1], dtype=wide) for field in FIELDS})
        assert param.grad is not None
        if not param.grad.is_sparse:
            count = max(1, PIECE // max(1, param.shape[1]))  # what a step needs does not grow with the table
            for start in range(0, len(local(param)), count):
                self._step_stretch(param, slice(start, start + count), group)
            return
        grad = param.grad.coalesce()
        read = (grad.values() != 0).any(1)  # as many steps count for a row as with a dense gradient
        self.step_rows(param, grad.indices()[0][read], grad.values()[read], group)

    @torch.no_grad()
    def step_rows(self, param: Tensor, index_N: Tensor, grad_ND: Tensor, group: dict[str, Any]) -> None:
        """Steps N rows of a table, each of which is there once, by a gradient of their own."""
        square, visits = (local(self.state[param][field]) for field in FIELDS)
        visits[index_N] += 1
        update, square[index_N] = _update(grad_ND.to(square.dtype), square[index_N], visits[index_N], group)
        param[index_N] = self._changed(param, param[index_N], update)

    def _step_stretch(self, param: Tensor, rows: slice, group: dict[str, Any]) -> None:
        """Steps neighbouring rows by a dense gradient."""
        assert param.grad is not None
        grad = local(param.grad)[rows]
        square, visits = (local(self.state[param][field])[rows] for field in FIELDS)
        read = (grad != 0).any(1, keepdim=True)
        update, new = _update(grad.to(square.dtype), square, visits + 1, group)
        visits += read
        square.copy_(torch.where(read, new, square))
        weights = local(param)[rows]
        weights.copy_(self._changed(param, weights, torch.where(read, update, 0), rows.start))

    def _changed(self, param: Tensor, weights: Tensor, update: Tensor, first: int = 0) -> Tensor:
        """The rows after an update, the first of them at `first` of the table."""
        changed = weights.to(update.dtype) + update
        if weights.dtype == torch.bfloat16 and self.store is not None:
            piece = Piece(param, self.state[param], first * param.shape[1], param.numel())
            changed = stochastically_rounded(changed, self.store.generator(piece, "weights"))
        return changed.to(weights.dtype)


def _update(grad: Tensor, square: Tensor, visits: Tensor, group: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """What is added to the rows, and their new running mean."""
    new = square.lerp(grad.square().mean(1, keepdim=True), 1 - group["beta"])
    corrected = new / (1 - group["beta"] ** visits.to(new.dtype))
    return grad * (-group["lr"] / (corrected.sqrt() + _EPS)), new


def clip_gradients(params: Iterable[Tensor], limit: float) -> Tensor:
    """torch's clip_grad_norm_ where some gradients are sparse: these end coalesced."""
    params = list(params)
    if not any(p.grad is not None and p.grad.is_sparse for p in params):
        return torch.nn.utils.clip_grad_norm_(params, limit)
    grads = []
    for p in params:
        if p.grad is not None:
            p.grad = p.grad.coalesce() if p.grad.is_sparse else p.grad
            grads.append(p.grad.values() if p.grad.is_sparse else p.grad)
    norm = torch.nn.utils.get_total_norm(grads)
    factor = torch.clamp(limit / (norm + 1e-6), max=1.0)
    for grad in grads:
        grad.mul_(factor.to(grad.device, grad.dtype))
    return norm
