"""The optimizer's step fused into the backward pass: gradients are never all alive (LOMO, 2306.09782).

A tensor is stepped when its gradient is complete, and the gradient is dropped. AdamW steps each tensor alone. Muon
gathers matrices of one shape until they hold 4M numbers, so that small ones still go together: of every shape of matrix
there are at most so many numbers of gradient at once, or one matrix.
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from wren.optim.adamw import AdamW
from wren.optim.muon import Muon


class InBackward:
    """Steps the parameters of `parts` while a backward pass runs inside armed(); does nothing outside.

    ended: called when a step is complete.
    """

    def __init__(self, parts: Sequence[Any], ended: Callable[[], None]):
        self._muons = [part for part in parts if isinstance(part, Muon)]
        self._ended = ended
        self._limit: float | None = None
        self._squares: dict[torch.device, Tensor] = {}
        self._places: dict[int, tuple[AdamW | Muon, dict[str, Any]]] = {}
        self._sizes: dict[int, int] = {}
        for part in parts:
            for group in part.param_groups:
                for p in group["params"]:
                    self._places[id(p)] = part, group
                    self._sizes[id(p)] = p.numel()
                    p.register_post_accumulate_grad_hook(self._arrived)
        self._size = sum(self._sizes.values())

    @contextlib.contextmanager
    def armed(self, clip: float) -> Iterator[None]:
        """Around a backward pass. clip: the largest norm of the whole gradient, inf = any; each tensor is held to the
        part of it that its size has, sqrt(numbers / all numbers), since the others are not known yet."""
        self._limit, self._squares = clip, {}
        try:
            yield
            for part in self._muons:
                part.flush()
            self._ended()
        finally:
            self._limit = None
            for part in self._muons:
                part.forget()

    @torch.no_grad()
    def _arrived(self, param: Tensor) -> None:
        if self._limit is None or param.grad is None:
            return
        norm = torch.linalg.vector_norm(param.grad, dtype=torch.promote_types(param.grad.dtype, torch.float32))
        square = norm.double().square() if param.device.type != "mps" else norm.square()
        before = self._squares.get(param.device)
        self._squares[param.device] = square if before is None else before + square
        if math.isfinite(self._limit):
            limit = self._limit * math.sqrt(self._sizes[id(param)] / self._size)
            param.grad.mul_(torch.clamp(limit / (norm + 1e-6), max=1.0).to(param.grad.dtype))
        part, group = self._places[id(param)]
        part.step_one(param, group)

    def norm(self) -> float:
        """The norm of all gradients of the last step before they were clipped; waits for the device."""
        return math.sqrt(sum(float(square) for square in self._squares.values()))
