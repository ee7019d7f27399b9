"""The optimizer's step fused into the backward pass: gradients are never all alive (LOMO, 2306.09782).

A tensor is stepped when its gradient is complete, and the gradient is dropped. AdamW steps each tensor alone. Muon
gathers matrices of one shape until they hold 4M numbers, so that small ones still go together: of every shape of matrix
there are at most so many numbers of gradient at once, or one matrix.
"""

import contextlib
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from wren.optim.adamw import AdamW
from wren.optim.muon import Muon

_NEWER = 0.5  # weight of a step's parts against those of the steps before


class InBackward:
    """Steps the parameters of `parts` while a backward pass runs inside armed(); does nothing outside.

    ended: called when a step is complete. parts: of the square of the gradient's norm, each tensor's part in the last
    steps, in the order of the parameters; before the first step those of their sizes. They add up to 1.
    """

    def __init__(self, parts: Sequence[Any], ended: Callable[[], None]):
        self._muons = [part for part in parts if isinstance(part, Muon)]
        self._ended = ended
        self._limit: float | None = None
        self._norms: dict[int, Tensor] = {}
        self._norm = 0.0
        self._places: list[tuple[AdamW | Muon, dict[str, Any]]] = []
        sizes: list[int] = []
        for part in parts:
            for group in part.param_groups:
                for p in group["params"]:
                    p.register_post_accumulate_grad_hook(functools.partial(self._arrived, len(sizes)))
                    self._places.append((part, group))
                    sizes.append(p.numel())
        self.parts = [size / sum(sizes) for size in sizes]

    @contextlib.contextmanager
    def armed(self, clip: float) -> Iterator[None]:
        """Around a backward pass. clip: the largest norm of the whole gradient, inf = any.

        The norm of all tensors is known only when they have been stepped. So each is held to sqrt(its part) of the
        bound: all together never pass it, and where parts change little from step to step the clipped gradient is that
        of a step which waits.
        """
        self.norm()
        self._limit = clip
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
    def _arrived(self, number: int, param: Tensor) -> None:
        if self._limit is None or param.grad is None:
            return
        norm = torch.linalg.vector_norm(param.grad, dtype=torch.promote_types(param.grad.dtype, torch.float32))
        self._norms[number] = norm
        if math.isfinite(self._limit):
            limit = self._limit * math.sqrt(self.parts[number])
            param.grad.mul_(torch.clamp(limit / (norm + 1e-6), max=1.0).to(param.grad.dtype))
        part, group = self._places[number]
        part.step_one(param, group)

    def norm(self) -> float:
        """The norm of all gradients of the last step before they were clipped; waits for the device."""
        if self._norms:
            norms = [0.0] * len(self._places)
            for device in {norm.device for norm in self._norms.values()}:
                here = [number for number, norm in self._norms.items() if norm.device == device]
                found = torch.stack([self._norms[number].float() for number in here]).tolist()
                for number, norm in zip(here, found, strict=True):
                    norms[number] = norm
            self._norms, self._norm = {}, math.hypot(*norms)
            if math.isfinite(self._norm) and self._norm > 0:
                both = zip(self.parts, norms, strict=True)
                self.parts = [part + _NEWER * ((norm / self._norm) ** 2 - part) for part, norm in both]
        return self._norm
