"""The process group of a torchrun job: the answers of Ranks (ranks.py) where there are several."""

import datetime
import itertools
import signal
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from wren import checkpoint
from wren.batch import IGNORE, Batch
from wren.checkpoint import Checkpoint
from wren.errors import ConfigError, WrenError
from wren.interrupt import Signals
from wren.layout import is_sharded
from wren.mlp import SparseMlp
from wren.model import LM
from wren.optim.muon import Muon
from wren.optim.optimizer import Optimizer
from wren.precision import Precision

T = TypeVar("T")
_PATIENCE = datetime.timedelta(minutes=30)  # of one rank for the others while training: a save may take long


class Group:
    """The answers of Ranks (ranks.py) in a process group."""

    def __init__(self, device: torch.device, rank: int, size: int, store: Any, *, sharded: bool):
        """Joins the other ranks; store: of the whole job. sharded: models are spread over the ranks."""
        import torch.distributed as dist

        # read before the group is there, since some of torch's modules would keep it in their functions' defaults:
        # its threads would outlive its end, and now and then abort the process
        import torch.distributed.nn

        from wren.distributed import gradients, matrices

        if sharded:
            from wren.distributed import checkpoints, sharding

            self._sharding, self._checkpoints = sharding, checkpoints
        self.rank, self.size, self.everywhere = rank, size, sharded
        self.dist, self._gradients, self._matrices = dist, gradients, matrices
        self._device = device
        self._signals: Signals | None = None
        self._sparse: list[SparseMlp] = []
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        store = dist.PrefixStore("group", store)  # type: ignore[attr-defined]
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=_PATIENCE)
        self.summed(torch.zeros(1))  # connects now, where it is known who is missing

    def about(self) -> str:
        how = "the model sharded over them (FSDP2)" if self.everywhere else "the model whole on each (DDP)"
        return f"{self.size} processes, {how}."

    def device(self, name: str) -> str:
        return str(self._device)

    def check(self, batch_size: int, *, compile: bool) -> None:
        if batch_size % self.size:
            near = max(1, round(batch_size / self.size)) * self.size
            raise ConfigError(
                f"The batch of {batch_size} rows cannot be divided among {self.size} processes; set train.batch_size "
                f"to a multiple of {self.size}, such as {near}, or start another number of processes."
            )
        if compile and self.everywhere:
            raise ConfigError("--shard and --compile do not work together; leave one of them out.")

    def place(self, model: LM, precision: Precision) -> None:
        if self.everywhere:
            self._sharding.shard(model, precision)
        else:
            model.to(precision.device)
            for tensor in checkpoint.weights(model).values():  # another machine may have rounded otherwise
                self.dist.broadcast(tensor, src=0)
        whole = [p for p in model.parameters() if not is_sharded(p)]
        self._buckets = self._gradients.Buckets(whole, overlap=not self.everywhere)
        self._sparse = [module for module in model.modules() if isinstance(module, SparseMlp)]

    def attach(self, optimizer: Optimizer) -> None:
        for part in optimizer.parts:
            if isinstance(part, Muon):
                part.across = self._matrices.Across(self.rank, self.size)

    def seed(self, seed: int) -> None:
        if self.rank != 0:
            torch.manual_seed(_seed(seed, self.rank))

    def signals(self) -> Signals:
        self._signals = Signals(self._agreed)
        return self._signals

    def _agreed(self, arrived: int | None) -> int | None:
        numbers = (signal.SIGTERM, signal.SIGINT)
        counts = self.summed(torch.tensor([int(arrived == number) for number in numbers])).tolist()
        return next((int(number) for number, count in zip(numbers, counts, strict=True) if count), None)

    def first(self, call: Callable[[], T]) -> T:
        outcome: list[Any] = [None, None]
        if self.rank == 0:
            try:
                outcome[0] = call()
            except WrenError as error:
                outcome[1] = error
        self.dist.broadcast_object_list(outcome, src=0, device=torch.device("cpu"))
        if outcome[1] is not None:
            raise outcome[1]
        return outcome[0]

    def total(self, count: int) -> int:
        return int(self.summed(torch.tensor(count)))

    def summed(self, values: Tensor) -> Tensor:
        values = values.clone()
        self.dist.all_reduce(values)
        return values

    def any(self, text: str | None) -> str | None:
        texts: list[str | None] = [None] * self.size
        self.dist.all_gather_object(texts, text)
        return next((found for found in texts if found is not None), None)

    def shared(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        iterator = iter(batches)
        while round_ := list(itertools.islice(iterator, self.size)):
            if self._signals is not None:
                self._signals.agree()  # an evaluation may be cut short, but on all ranks
            if self.rank < len(round_):
                yield round_[self.rank]
            else:  # a sharded model needs every rank: one without a batch goes along and scores nothing
                yield round_[0]._replace(targets_BT=torch.full_like(round_[0].targets_BT, IGNORE))

    def last_micro_batch(self) -> None:
        self._buckets.arm()

    def reduced(self, loss: Tensor | None) -> Tensor | None:
        if loss is None and self.everywhere:
            raise ConfigError(
                f"Out of memory on rank {self.rank}; set a smaller --micro-batch-size, or use more processes."
            )
        if self._buckets.finish(failed=loss is None):
            return None
        assert loss is not None
        for module in self._sparse:
            for counts in module.counts():
                self.dist.all_reduce(counts)
        return self.summed(loss)

    def clip(self, params: list[nn.Parameter], limit: float) -> Tensor:
        if not self.everywhere:
            return torch.nn.utils.clip_grad_norm_(params, limit)
        return self._sharding.clip(params, limit)

    def save(
        self, folder: Path, step: int, model: LM, optimizer: dict[str, Tensor], rng: dict[str, Tensor], state: dict
    ) -> None:
        everyones: list[Any] = [None] * self.size
        self.dist.all_gather_object(everyones, rng)
        rngs = {name + (f"@{r}" if r else ""): x for r, own in enumerate(everyones) for name, x in own.items()}
        weights, tensors = checkpoint.weights(model), {**optimizer, **rngs}
        if self.everywhere:
            self._checkpoints.save(folder, step, {**weights, **tensors}, state, self.first)
        else:
            self.first(lambda: checkpoint.save(folder, step, weights, tensors, state))

    def load(self, path: Path, model: LM) -> Checkpoint:
        saved = self._checkpoints.load(path, model) if self.everywhere else checkpoint.load(path, verified=True)
        own = {name: x for name, x in saved.optimizer.items() if not name.startswith("rng/")}
        for name, x in saved.optimizer.items():
            base, _, rank = name.partition("@")
            if base.startswith("rng/") and int(rank or 0) == self.rank:
                own[base] = x
        if "rng/cpu" not in own and "rng/cpu" in saved.optimizer:  # there were fewer ranks
            own["rng/cpu"] = torch.Generator().manual_seed(_seed(saved.step, self.rank)).get_state()
        return saved._replace(optimizer=own)


def _seed(seed: int, rank: int) -> int:
    return int(np.random.SeedSequence((seed, rank)).generate_state(1, np.uint64)[0] >> np.uint64(1))
