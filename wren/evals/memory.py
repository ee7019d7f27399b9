"""Evaluation in as little memory as it takes: a batch that does not fit is gone through in halves."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from wren.batch import Batch
from wren.precision import is_out_of_memory

T = TypeVar("T")


def by_halves(compute: Callable[[Batch], torch.Tensor], batch: Batch) -> torch.Tensor:
    """compute(batch), whose result has a row for every row of the batch; of halves where the whole takes too much."""
    parts = in_halves(lambda rows: [compute(batch.rows(rows[0], rows[-1] + 1))], range(len(batch.tokens_BT)))
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def in_halves(compute: Callable[[Sequence[int]], list[T]], rows: Sequence[int]) -> list[T]:
    """compute(rows), or that of both halves one behind the other; an error about memory in a single row is raised."""
    try:
        return compute(rows)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error) or len(rows) < 2:
            raise
    if torch.cuda.is_available():  # what the failed attempt held
        torch.cuda.empty_cache()
    middle = len(rows) // 2
    return [*in_halves(compute, rows[:middle]), *in_halves(compute, rows[middle:])]
