"""Bytes counted where they are made: every storage that an operation allocates, from its first tensor to its last.

Nothing is estimated, but what a kernel borrows inside itself is not seen. It works on real and on fake tensors.
"""

import contextlib
import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from wren.batch import Batch
from wren.layout import local
from wren.model import LM
from wren.precision import Precision
from wren.tables import Table


def _storages(x: Tensor) -> tuple[Any, ...]:
    """Where its numbers lie; those of a sparse tensor and of their places."""
    if x.is_sparse:
        return x._values().untyped_storage(), x._indices().untyped_storage()
    return (x.untyped_storage(),)


class Allocations(TorchDispatchMode):
    """Inside, `alive` is the bytes of storages made since it began that still exist, and `peak` the most there were.

    Storages are numbered as they come. sizes: bytes of each. events: the number of one that began to exist, or ~number
    of one that ended, in order. phases: what `phase` was when each began.
    """

    def __init__(self) -> None:
        super().__init__()
        self.alive = self.peak = 0
        self.phase = ""
        self.sizes: list[int] = []
        self.events: list[int] = []
        self.phases: list[str] = []
        self._known: dict[int, tuple[weakref.ref[Any], int | None]] = {}

    def ignore(self, tensors: Iterable[Tensor]) -> None:
        """Tensors that were there before are not counted when an operation gives them back."""
        for storage in (storage for x in tensors for storage in _storages(x)):
            self._enter(storage, counted=False)

    def number(self, x: Tensor) -> int | None:
        """That of a dense tensor's storage; None for one that is not counted."""
        storage = x.untyped_storage()
        known, number = self._known.get(id(storage), (None, None))
        return number if known is not None and known() is storage else None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        tensors = (x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor))
        given = {id(storage) for x in tensors for storage in _storages(x)}
        out = func(*args, **(kwargs or {}))
        for x in (out,) if isinstance(out, Tensor) else tree_leaves(out):
            for storage in _storages(x) if isinstance(x, Tensor) else ():
                if id(storage) not in given:
                    self._enter(storage, counted=True)
        return out

    def _enter(self, storage: Any, *, counted: bool) -> None:
        key = id(storage)
        if key in self._known and self._known[key][0]() is storage:
            return
        number, size = (len(self.sizes), storage.nbytes()) if counted else (None, 0)

        def gone(_: object) -> None:
            del self._known[key]
            if number is not None:
                self.alive -= size
                self.events.append(~number)

        self._known[key] = weakref.ref(storage, gone), number
        if number is not None:
            self.sizes.append(size)
            self.phases.append(self.phase)
            self.events.append(number)
        self.alive += size
        self.peak = max(self.peak, self.alive)


@dataclass(frozen=True, kw_only=True)
class StepBytes:
    """What a training step needs, in bytes. tables: of lookup, a tied head's too. moments_away: in main memory.

    gradients: the most that are alive at once. activations: what the forward pass leaves for the backward pass, the
    head's gradient included. peak: the most of weights, tables, moments and all that a step makes, at once.
    """

    weights: int
    tables: int
    gradients: int
    moments: int
    moments_away: int
    activations: int
    peak: int


class Stepped(Protocol):
    """What of an optimizer is needed here (optim/optimizer.py)."""

    parts: list[Any]
    in_backward: Any

    def zero_grad(self) -> None: ...
    def sparse_gradients(self, wanted: bool) -> None: ...
    def state_bytes(self) -> tuple[int, int]: ...


def weight_bytes(model: nn.Module) -> tuple[int, int]:
    """Bytes of parameters and buffers in this process: without lookup tables, and of these."""
    tables = {id(m.weight): m.weight for m in model.modules() if isinstance(m, (nn.Embedding, Table))}
    rest = {id(x): x for x in (*model.parameters(), *model.buffers()) if id(x) not in tables}
    return _bytes(rest.values()), _bytes(tables.values())


def _bytes(tensors: Iterable[Tensor]) -> int:
    parts = (part for x in tensors for part in ((x._values(), x._indices()) if x.is_sparse else (local(x),)))
    return sum(part.numel() * part.dtype.itemsize for part in parts)


def count_step(
    model: LM,
    optimizer: Stepped,
    loss: Callable[[LM, Batch], Tensor],
    batch: Batch,
    precision: Precision,
) -> StepBytes:
    """Trains two steps on a batch, all of it one micro-batch, and counts the second; weights and moments change.

    Gradients of n-gram tables are as training's are that does not compile.
    """
    model.train()
    optimizer.sparse_gradients(True)
    _step(model, optimizer, loss, batch, precision, Allocations())
    optimizer.zero_grad()
    weights, tables = weight_bytes(model)
    moments, away = optimizer.state_bytes()
    counted = Allocations()
    counted.ignore((*model.parameters(), *model.buffers(), *(x for x in batch if x is not None)))
    with _gradients_alive(model) as alive:
        activations = _step(model, optimizer, loss, batch, precision, counted)
    optimizer.zero_grad()
    return StepBytes(
        weights=weights,
        tables=tables,
        gradients=alive[0],
        moments=moments,
        moments_away=away,
        activations=activations,
        peak=weights + tables + moments + counted.peak,
    )


def _step(
    model: LM,
    optimizer: Stepped,
    loss: Callable[[LM, Batch], Tensor],
    batch: Batch,
    precision: Precision,
    counted: Allocations,
) -> int:
    """One step; returns the bytes alive after its forward pass."""
    optimizer.zero_grad()
    with counted:
        with precision.context():
            value = loss(model, batch) / max(batch.num_targets(), 1)
        activations = counted.alive
        with optimizer.in_backward.armed(1.0) if optimizer.in_backward is not None else contextlib.nullcontext():
            value.backward()
        if optimizer.in_backward is None:
            for part in optimizer.parts:
                part.step()
    return activations


@contextlib.contextmanager
def _gradients_alive(model: nn.Module) -> Iterator[list[int]]:
    """The most bytes of gradients at once, as the only item of a list."""
    most, params = [0], [p for p in model.parameters() if p.requires_grad]

    def arrived(param: Tensor) -> None:  # called after the optimizer's own, which may have dropped it by now
        there = sum(_bytes([p.grad]) for p in params if p.grad is not None)
        most[0] = max(most[0], there if param.grad is not None else there + _bytes([param]))

    hooks = [p.register_post_accumulate_grad_hook(arrived) for p in params]
    try:
        yield most
    finally:
        for hook in hooks:
            hook.remove()
