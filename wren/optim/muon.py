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
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor

from wren.layout import is_sharded, local
from wren.ops.widen import wide_dtype
from wren.optim.rounding import stochastically_rounded
from wren.optim.store import Store

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
STEPS = 5
AT_ONCE = 2**24  # elements stacked, which bounds the memory of a step
WAITING = 2**22  # elements of one shape whose gradients wait for others to be stacked with, in the backward pass


class Across(Protocol):
    """How matrices are made orthogonal by several processes; rows: None where each has the whole matrix."""

    size: int

    def orthogonalised(self, directions: list[Tensor], rows: int | None, dtype: torch.dtype) -> Tensor: ...
    def norms(self, stacks: tuple[Tensor, ...], rows: int | None) -> list[Tensor]: ...


class Muon(torch.optim.Optimizer):
    """Takes matrices only. Its state is `momentum_buffer`, and with normalise `row_mean`, one number a row.

    dtype: of the Newton-Schulz steps. across: set where several processes train; its matrices may be sharded by rows.
    store: how momentum is kept where that is not in the dtype of the weights and beside them.
    """

    def __init__(
        self, params: Iterable[Tensor], *, lr: float, weight_decay: float, momentum: float,
        normalise: bool = False, row_beta: float = 0.95, dtype: torch.dtype = torch.float32, store: Store | None = None,
    ):  # fmt: skip
        defaults = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum}
        super().__init__(params, defaults | {"normalise": normalise, "row_beta": row_beta})
        self.dtype = dtype
        self.across: Across | None = None
        self.store = store
        self._waiting: dict[tuple[Any, ...], list[Tensor]] = {}

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            ranks = self.across.size if self.across is not None else 1
            for params in _alike([p for p in group["params"] if p.grad is not None], AT_ONCE * ranks):
                self._step(params, group)

    @torch.no_grad()
    def step_one(self, param: Tensor, group: dict[str, Any]) -> None:
        """Steps a matrix whose gradient has come, with all of its shape, once these are enough to be worth it; drops
        their gradients. flush() steps those that still wait."""
        waiting = self._waiting.setdefault((param.shape, param.dtype, param.device), [])
        waiting.append(param)
        if len(waiting) * param.numel() >= WAITING:
            self._step_waiting(waiting, group)

    @torch.no_grad()
    def flush(self) -> None:
        for waiting in self._waiting.values():
            if waiting:
                self._step_waiting(waiting, self.param_groups[0])

    def forget(self) -> None:
        """Lets go of matrices that still wait, where a backward pass broke off."""
        self._waiting.clear()

    def _step_waiting(self, params: list[Tensor], group: dict[str, Any]) -> None:
        self._step(params, group)
        for param in params:
            param.grad = None
        params.clear()

    def _step(self, params: list[Tensor], group: dict[str, Any]) -> None:
        directions = self._directions(params, group) if self.store is None else self._read(params, group, self.store)
        rows = len(params[0]) if is_sharded(params[0]) else None
        if (across := self.across) is None:
            updates = orthogonalised(torch.stack(directions), self.dtype)
        else:
            updates = across.orthogonalised(directions, rows, self.dtype)
        if group["normalise"]:
            norms = _norms if across is None else lambda *stacks: across.norms(stacks, rows)
            updates = _normalised(updates, [local(self.state[p]["row_mean"]) for p in params], group["row_beta"], norms)
        scale = 0.2 * group["lr"] * math.sqrt(max(params[0].shape))
        for param, update in zip(params, updates, strict=True):
            if self.store is not None and param.dtype == torch.bfloat16:
                changed = param.float().mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-scale)
                (piece,) = self.store.pieces(param, self.state[param], whole=True)
                param.copy_(stochastically_rounded(changed, self.store.generator(piece, "weights")))
            else:
                local(param).mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-scale)

    def _directions(self, params: list[Tensor], group: dict[str, Any]) -> list[Tensor]:
        """What is made orthogonal, G + m (M - G), of matrices whose momentum is advanced."""
        momentum = group["momentum"]
        directions = []
        for param in params:
            state = self.state[param]
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = torch.zeros_like(param)
                if group["normalise"]:
                    state["row_mean"] = torch.zeros_like(param[:, :1])
            assert param.grad is not None
            buffer, grad = local(state["momentum_buffer"]), local(param.grad)
            buffer.lerp_(grad, 1 - momentum)
            directions.append(grad.lerp(buffer, momentum))
        return directions

    def _read(self, params: list[Tensor], group: dict[str, Any], store: Store) -> list[Tensor]:
        """As _directions, of momentum that a store keeps."""
        momentum, pieces, directions = group["momentum"], [], []
        for param in params:
            state = self.state[param]
            if not state:
                state.update(store.new(param, "momentum_buffer"))
                if group["normalise"]:
                    state["row_mean"] = torch.zeros_like(param[:, :1], dtype=wide_dtype(param.dtype))
            pieces.extend(store.pieces(param, state, whole=True))
        for piece, kept in store.each(pieces, "momentum_buffer"):
            buffer = store.wide(kept, "momentum_buffer")
            assert piece.param.grad is not None
            grad = piece.param.grad.reshape(-1).to(buffer.dtype)
            buffer.lerp_(grad, 1 - momentum)
            directions.append(grad.lerp(buffer, momentum).view_as(piece.param))
            store.keep(piece, kept, "momentum_buffer", buffer)
        return directions


def _alike(params: list[Tensor], at_once: int) -> Iterator[list[Tensor]]:
    """Matrices of one shape, dtype and device, as many as may be stacked."""
    kinds: dict[tuple[Any, ...], list[Tensor]] = {}
    for param in params:
        kinds.setdefault((param.shape, param.dtype, param.device), []).append(param)
    for same in kinds.values():
        count = max(1, at_once // same[0].numel())
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


def _norms(*stacks: Tensor) -> list[Tensor]:
    return [x.norm(dim=(-2, -1), keepdim=True) for x in stacks]


def _normalised(
    updates: Tensor, row_means: list[Tensor], beta: float, norms_of: Callable[..., list[Tensor]] = _norms
) -> Tensor:
    """Updates (matrices, rows, columns) with rows of like size and the norm they had; advances the row means."""
    squares = updates.square().mean(-1, keepdim=True)
    for row_mean, square in zip(row_means, squares, strict=True):
        row_mean.lerp_(square, 1 - beta)
    even = updates * torch.stack(row_means).clamp(min=1e-10).rsqrt()
    norms = norms_of(updates, even)
    return even * (norms[0] / norms[1].clamp(min=1e-10))
