"""The passes of a traced step, forward and backward, and the storages that they make."""

import contextlib
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from wren.batch import Batch
from wren.loss import cross_entropy
from wren.memory.activations import checkpoint_activations
from wren.memory.count import Allocations
from wren.memory.job import BACKWARD, FORWARD, KINDS, LOSS, UPDATE, Job, Log, Traced
from wren.memory.row_gradients import RowGradients
from wren.memory.update import made, sampled, sampler, standing_of, states
from wren.optim.optimizer import ngram_tables
from wren.optim.weights import narrow_weights


def _batch(job: Job) -> Batch:
    tokens_BT, targets_BT = (torch.zeros(job.rows, job.context_len, dtype=torch.long) for _ in range(2))
    if not job.documents:
        return Batch(tokens_BT, targets_BT)
    others = (torch.zeros(job.rows, job.context_len, dtype=torch.long) for _ in range(2))
    return Batch(tokens_BT, targets_BT, documents_BT=next(others), positions_BT=next(others))


class _Watched:
    """A model whose storages are counted, and whose gradients are known as such."""

    def __init__(self, job: Job):
        self.model, self.log = job.model.build(), Allocations()
        if job.optimizer.weight_dtype == "bf16":
            narrow_weights(self.model)
        checkpoint_activations(self.model, job.checkpointing)
        self.model.loss_chunk = job.loss_chunk
        self.params = [p for p in self.model.parameters() if p.requires_grad]
        self._kinds: dict[int, str] = {}
        self._stays = job.stays(self.model)
        self.rows = RowGradients(self.model, self._mark) if job.sparse else None
        self.log.ignore((*self.model.parameters(), *self.model.buffers()))
        for p in self.params:  # before an optimizer's own hooks, which drop the gradient
            p.register_post_accumulate_grad_hook(self.arrived)

    def arrived(self, param: Tensor) -> None:
        if param.grad is not None:
            self._mark(param.grad, "away" if id(param) in self._stays else "gradients")

    def begin(self, job: Job) -> None:
        """The gradients of earlier micro-batches."""
        sparse = {id(table.weight) for table in ngram_tables(self.model)} if self.rows is not None else set()
        for p in self.params:
            if id(p) not in sparse:
                p.grad = torch.empty_like(p)
                self.arrived(p)
        if self.rows is not None:
            self.rows.begin(job.earlier_rows * job.context_len)

    def _mark(self, gradient: Tensor, kind: str = "gradients") -> None:
        if (number := self.log.number(gradient)) is not None:
            self._kinds[number] = kind

    def logged(self) -> Log:
        log = self.log
        kinds = [self._kinds.get(number, KINDS[phase]) for number, phase in enumerate(log.phases)]
        return Log(log.sizes, log.events, kinds, log.phases)


def passes(job: Job) -> Log:
    watched = _Watched(job)
    with watched.log:
        if job.earlier_rows:
            watched.log.phase = BACKWARD
            watched.begin(job)
        _forward_and_backward(job, watched, contextlib.nullcontext())
        if watched.rows is not None:
            watched.log.phase = UPDATE
            watched.rows.add_up()
    return watched.logged()


def fused(job: Job) -> Traced:
    watched = _Watched(job)
    optimizer = made(job, watched.model)
    assert optimizer.in_backward is not None
    stepped = sampler(optimizer, job.stays(watched.model))
    for part in optimizer.parts:
        part.step_one = sampled(part.step_one, stepped)  # type: ignore[union-attr]
    watched.log.ignore(states(optimizer))
    with watched.log:
        _forward_and_backward(job, watched, optimizer.in_backward.armed(1.0))
    return Traced(standing_of(job, watched.model, optimizer), watched.logged())


def _forward_and_backward(job: Job, watched: _Watched, around: AbstractContextManager[None]) -> None:
    model, log = watched.model, watched.log
    log.phase = FORWARD
    batch, product = _batch(job), model.head_product

    def headed(hidden_BTD: Tensor) -> tuple[Tensor, Tensor]:
        log.phase = LOSS
        return product(hidden_BTD)

    model.head_product = headed  # type: ignore[method-assign]
    autocast = contextlib.nullcontext() if job.autocast is None else torch.autocast("cpu", dtype=job.autocast)
    with autocast:
        loss = cross_entropy(model, batch) / 1
    log.phase = BACKWARD
    with around:
        # as loss.backward(), which would shut out the mode that widens where checkpoints are computed again
        engine, seed = torch.autograd.Variable._execution_engine, torch.ones_like(loss)
        engine.run_backward((loss,), (seed,), False, False, (), allow_unreachable=True, accumulate_grad=True)
