"""What goes wrong in the tests of the loop: losses, memory, signals, full disks."""

import contextlib
import math
import resource
import signal
from typing import Any

import torch
from torch import Tensor

from wren.batch import Batch
from wren.loss import cross_entropy
from wren.model import LM
from wren.train import Progress


class Faulty:
    """cross_entropy that goes wrong in the given calls (one per step where the micro-batch is the batch)."""

    def __init__(self, kind: str, calls: set[int]):
        self.kind, self.calls, self.call = kind, calls, -1

    def __call__(self, model: LM, batch: Batch) -> Tensor:
        self.call += 1
        loss = cross_entropy(model, batch)
        if self.call not in self.calls:
            return loss
        if self.kind == "gradient":  # the derivative of a root at 0 is infinite, the loss stays what it is
            return loss + (model.head.weight[0, :1] * 0).sqrt().sum()
        return loss * {"nan": math.nan, "inf": math.inf, "overflow": 1e35}[self.kind]


class Memory:
    """cross_entropy on a device with room for `rows` rows."""

    def __init__(self, rows: int, error: Exception | None = None):
        self.rows, self.error, self.calls = rows, error or torch.OutOfMemoryError("CUDA out of memory."), 0

    def __call__(self, model: LM, batch: Batch) -> Tensor:
        self.calls += 1
        loss = cross_entropy(model, batch)  # the dropout is drawn before the memory ends
        if len(batch.tokens_BT) > self.rows:
            raise self.error
        return loss


def stop_at(step: int, number: int = signal.SIGINT) -> Any:
    """A `watch` that presses Ctrl-C (or sends SIGTERM) when it sees the row of that step."""

    def watch(progress: Progress, row: dict[str, Any]) -> None:
        if progress.step == step and row["kind"] == "train":
            signal.raise_signal(number)

    return watch


@contextlib.contextmanager
def file_size_limit(size: int):
    """Every file may grow to `size` bytes only: what writers meet on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
