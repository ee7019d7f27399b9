"""Gradients of n-gram tables in a trace: the rows that a batch reads, where training's gradients hold no others.

Fake tensors forget how many rows a sparse one holds, so here these are ordinary tensors: rows join those of earlier
micro-batches in new memory, twice read ones are added up in new memory before the update, and every token is taken to
read a row of its own.

N tokens, D width of a row.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from wren.memory.job import Job
from wren.model import LM
from wren.optim.optimizer import Optimizer, ngram_tables
from wren.optim.rows import Rows
from wren.tables import Table


class RowGradients:
    """Takes the gradients of a model's n-gram tables. mark: is told of every tensor that is one."""

    def __init__(self, model: LM, mark: Callable[[Tensor], None]):
        self._mark = mark
        self._held: dict[int, tuple[Tensor, Tensor]] = {}  # of each table: the rows' numbers (N) and gradients (N, D)
        self._tables = ngram_tables(model)
        for table in self._tables:
            table.forward = partial(self._read, table)  # type: ignore[method-assign]

    def begin(self, num_tokens: int) -> None:
        """As after earlier micro-batches of so many tokens."""
        for table in self._tables:
            self._hold(table, torch.empty(num_tokens, dtype=torch.long), _rows(table, num_tokens))

    def add_up(self) -> None:
        """As when a gradient is clipped: each row is there once."""
        for table in self._tables:
            if (held := self._held.get(id(table))) is not None:
                self._hold(table, *(torch.empty_like(x, memory_format=torch.contiguous_format) for x in held))

    def _read(self, table: Table, index_BT: Tensor) -> Tensor:
        return _Read.apply(table.weight, index_BT, partial(self._add, table))  # type: ignore[return-value]

    def _add(self, table: Table, index_N: Tensor, rows_ND: Tensor) -> None:
        if (held := self._held.get(id(table))) is not None:
            index_N, rows_ND = torch.cat((held[0], index_N)), torch.cat((held[1], rows_ND))
        self._hold(table, index_N, rows_ND)

    def _hold(self, table: Table, index_N: Tensor, rows_ND: Tensor) -> None:
        self._mark(index_N)
        self._mark(rows_ND)
        self._held[id(table)] = index_N, rows_ND


class _Read(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, index_BT: Tensor, take: Callable[[Tensor, Tensor], None]) -> Tensor:
        ctx.save_for_backward(index_BT)
        ctx.take = take
        return F.embedding(index_BT, weight)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[None, None, None]:
        ctx.take(ctx.saved_tensors[0].flatten(), grad_outputs[0].flatten(0, -2))
        return None, None, None


def step_rows(job: Job, optimizer: Optimizer, ignore: Callable[[list[Tensor]], None]) -> None:
    """Steps the tables by the rows of a whole batch, as many as there are at most. ignore: is told of what is there."""
    for part in optimizer.parts:
        if not isinstance(part, Rows):
            continue
        for param, group in [(p, settings) for settings in part.param_groups for p in settings["params"]]:
            count = min(len(param), job.rows * job.context_len)
            index_N, rows_ND = torch.empty(count, dtype=torch.long), param.new_empty(count, param.shape[1])
            ignore([index_N, rows_ND])
            part.step_rows(param, index_N, rows_ND, group)


def _rows(table: Table, count: int) -> Tensor:
    return table.weight.new_empty(count, table.weight.shape[1])
