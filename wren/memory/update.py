"""The update of a traced step, and what stands in memory all the time: weights, tables, moments."""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from wren.memory.count import Allocations
from wren.memory.job import KINDS, UPDATE, Job, Log, Standing
from wren.memory.row_gradients import step_rows
from wren.model import LM
from wren.optim.muon import AT_ONCE, Muon
from wren.optim.optimizer import Optimizer, ngram_tables
from wren.optim.sizes import is_moment, state_layout
from wren.optim.store import Piece
from wren.tables import Table


def made(job: Job, model: LM) -> Optimizer:
    optimizer = job.optimizer.build(model)
    for part in optimizer.parts:
        if isinstance(part, Muon):
            part.dtype = torch.bfloat16 if job.narrow_muon else torch.float32
    if optimizer.store is not None:
        optimizer.store.pieces = _short(optimizer.store.pieces)
    optimizer.begin()
    return optimizer


def sampler(optimizer: Optimizer, stays: set[int]) -> Callable[[Tensor], bool]:
    """Whether a parameter is among the first ones of its shape: as many as are ever stepped together, twice.

    The others need what these need, and a plan need not wait for them. stays: tables that are stepped in main memory.
    """
    matrices = {
        id(p) for part in optimizer.parts if isinstance(part, Muon) for g in part.param_groups for p in g["params"]
    }
    counts: dict[Any, int] = {}

    def is_one(p: Tensor) -> bool:
        kind = p.shape, p.dtype, id(p) in matrices
        counts[kind] = counts.get(kind, 0) + 1
        together = -(-AT_ONCE // p.numel()) if id(p) in matrices else 1
        return counts[kind] <= 2 * together and id(p) not in stays

    return is_one


def sampled(step_one: Callable[..., None], stepped: Callable[[Tensor], bool]) -> Callable[..., None]:
    def step(param: Tensor, group: dict[str, Any]) -> None:
        if stepped(param):
            step_one(param, group)
        else:
            param.grad = None

    return step


def _short(pieces: Callable[..., list[Piece]]) -> Callable[..., list[Piece]]:
    """Three pieces of each parameter, the last one too: those between need what they need."""

    def few(*arguments: Any, **options: Any) -> list[Piece]:
        all_of_them = pieces(*arguments, **options)
        return [*all_of_them[:2], *all_of_them[2:][-1:]]

    return few


def only_standing(job: Job) -> Standing:
    with torch.device("meta"):
        model = job.model.build()
    return standing_of(job, model, job.optimizer.build(model))


def standing_of(job: Job, model: LM, optimizer: Optimizer) -> Standing:
    stays = job.stays(model)
    tables = {id(m.weight): m.weight for m in model.modules() if isinstance(m, (torch.nn.Embedding, Table))}
    rest = {id(x): x for x in (*model.parameters(), *model.buffers()) if id(x) not in tables}
    away = sum(_size(x.shape, x.dtype) for key, x in tables.items() if key in stays)
    moments: list[int] = []
    store = optimizer.store
    for part, p in [(x, p) for x in optimizer.parts for group in x.param_groups for p in group["params"]]:
        for field, (shape, dtype) in state_layout(part, p, store).items():
            moved = store is not None and store.is_away(p) and is_moment(field)
            if moved or id(p) in stays:
                away += _size(shape, dtype)
            else:
                moments.append(_size(shape, dtype))
    return Standing(
        [_size(x.shape, x.dtype) for x in rest.values()],
        [_size(x.shape, x.dtype) for key, x in tables.items() if key not in stays],
        moments,
        away,
        sum(_size(tables[key].shape, tables[key].dtype) for key in _sparse(job, model)),
    )


def _sparse(job: Job, model: LM) -> set[int]:
    """Weights (their ids) of tables whose gradients hold only the rows that were read."""
    return {id(table.weight) for table in ngram_tables(model)} if job.sparse else set()


def _size(shape: Iterable[int], dtype: torch.dtype) -> int:
    return math.prod(shape) * dtype.itemsize


def update(job: Job) -> tuple[Standing, Log]:
    """The optimizer's step by itself; its gradients are not counted."""
    model = job.model.build()
    optimizer, log = made(job, model), Allocations()
    standing = standing_of(job, model, optimizer)
    stepped = sampler(optimizer, job.stays(model))
    sparse = _sparse(job, model)
    for p in optimizer.params():
        p.grad = torch.empty_like(p) if id(p) not in sparse else None
    log.ignore((*model.parameters(), *model.buffers(), *states(optimizer)))
    log.ignore(p.grad for p in optimizer.params() if p.grad is not None)
    log.phase = UPDATE
    with log:
        torch.nn.utils.clip_grad_norm_(optimizer.params(), 1.0)
        for p in optimizer.params():
            if not stepped(p):
                p.grad = None
        for part in optimizer.parts:
            part.step()
        if sparse:
            step_rows(job, optimizer, log.ignore)
    return standing, Log(log.sizes, log.events, [KINDS[phase] for phase in log.phases], log.phases)


def states(optimizer: Optimizer) -> Iterator[Tensor]:
    return (x for part in optimizer.parts for state in part.state.values() for x in state.values())
