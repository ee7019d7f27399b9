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


class InBackward:
    """Steps the parameters of `parts` while a backward pass runs inside armed(); does nothing outside.

    ended: called when a step is complete. norms: of the last step's gradients, in the order of the parameters, before
    they were clipped; none before the first.
    """

    def __init__(self, parts: Sequence[Any], ended: Callable[[], None]):
        self._muons = [part for part in parts if isinstance(part, Muon)]
        self._ended = ended
        self._limit: float | None = None
        self._bounds: list[float] = []
        self._factor = 1.0
        self._arrivals: dict[int, Tensor] = {}
        self.norms: list[float] = []
        self._places: list[tuple[AdamW | Muon, dict[str, Any]]] = []
        self._shares: list[float] = []
        for part in parts:
            for group in part.param_groups:
                for p in group["params"]:
                    p.register_post_accumulate_grad_hook(functools.partial(self._arrived, len(self._places)))
                    self._places.append((part, group))
                    self._shares.append(float(p.numel()))
        size = sum(self._shares)
        self._shares = [math.sqrt(numbers / size) for numbers in self._shares]

    @contextlib.contextmanager
    def armed(self, clip: float) -> Iterator[None]:
        """Around a backward pass. clip: the largest norm of the whole gradient, inf = any.

        The norm of all tensors is known only when they have been stepped, so the last step's stands for it, and no
        tensor may have more than twice the part of the bound that it had there. In a first step its part is
        sqrt(its numbers / all numbers), and never less than that.
        """
        self.norm()
        self._limit = clip
        self._factor, self._bounds = self._clipping(clip)
        try:
            yield
            for part in self._muons:
                part.flush()
            self._ended()
        finally:
            self._limit = None
            for part in self._muons:
                part.forget()

    def _clipping(self, clip: float) -> tuple[float, list[float]]:
        """What every gradient is multiplied by, and the largest norm that each may have then."""
        total = math.hypot(*self.norms)
        if not self.norms or not math.isfinite(total) or total == 0:
            return 1.0, [clip * share for share in self._shares]
        both = zip(self.norms, self._shares, strict=True)
        return min(1.0, clip / total), [clip * max(2 * norm / total, share) for norm, share in both]

    @torch.no_grad()
    def _arrived(self, number: int, param: Tensor) -> None:
        if self._limit is None or param.grad is None:
            return
        norm = torch.linalg.vector_norm(param.grad, dtype=torch.promote_types(param.grad.dtype, torch.float32))
        self._arrivals[number] = norm
        if math.isfinite(self._limit):
            scale = torch.clamp(self._bounds[number] / (norm + 1e-6), max=self._factor)
            param.grad.mul_(scale.to(param.grad.dtype))
        part, group = self._places[number]
        part.step_one(param, group)

    def norm(self) -> float:
        """The norm of all gradients of the last step before they were clipped; waits for the device."""
        if self._arrivals:
            self.norms = [0.0] * len(self._places)
            for device in {norm.device for norm in self._arrivals.values()}:
                here = [number for number, norm in self._arrivals.items() if norm.device == device]
                found = torch.stack([self._arrivals[number].float() for number in here]).tolist()
                for number, norm in zip(here, found, strict=True):
                    self.norms[number] = norm
            self._arrivals = {}
        return math.hypot(*self.norms)
