"""What a traced step is of, and what a trace tells: which storages come and go, in which phase, and what they hold."""

from dataclasses import dataclass

import torch

from wren.memory.activations import Checkpointing
from wren.model import LM, ModelConfig
from wren.optim.optimizer import OptimizerConfig
from wren.tables import Table

FORWARD, LOSS, BACKWARD, UPDATE = "the forward pass", "the loss", "the backward pass", "the optimizer's step"
KINDS = {FORWARD: "activations", LOSS: "logits", BACKWARD: "working", UPDATE: "working"}  # unless it is a gradient


@dataclass(frozen=True, kw_only=True)
class Job:
    """A step to be traced. device_type: where it would run; cuda is stood in for.

    rows: of a micro-batch. earlier_rows: of the batch's micro-batches before it, whose gradients are there already.
    narrow_muon: Newton-Schulz steps are in bf16 there. documents: rows hold packed documents, as the loader's do.
    sparse_tables: gradients of n-gram tables may hold the rows that were read, as they do where nothing is compiled.
    """

    model: ModelConfig
    optimizer: OptimizerConfig
    rows: int
    context_len: int
    autocast: torch.dtype | None
    device_type: str = "cpu"
    narrow_muon: bool = False
    checkpointing: Checkpointing = "none"
    loss_chunk: int | None = None
    earlier_rows: int = 0
    documents: bool = True
    sparse_tables: bool = True

    @property
    def sparse(self) -> bool:
        """Whether gradients of n-gram tables do hold no more than the rows that were read (Optimizer)."""
        ours = self.optimizer.ngram_lr is not None and self.optimizer.is_plain
        return self.sparse_tables and self.device_type == "cpu" and ours

    def stays(self, model: LM) -> set[int]:
        """Weights (their ids) of tables that lie in main memory beside a GPU."""
        if self.device_type == "cpu":
            return set()
        return {id(module.weight) for module in model.modules() if isinstance(module, Table) and module.on_cpu}


@dataclass(frozen=True)
class Log:
    """Storages that came and went. events: numbers, ~number for an end; kinds: what each storage holds."""

    sizes: list[int]
    events: list[int]
    kinds: list[str]
    phases: list[str]

    def peak(self) -> tuple[int, str, dict[str, int]]:
        """The most bytes alive at once on the device, in which phase that was, and their parts."""
        alive = most = 0
        at = -1
        for i, event in enumerate(self.events):
            number = event if event >= 0 else ~event
            if self.kinds[number] != "away":
                alive += self.sizes[number] if event >= 0 else -self.sizes[number]
            if alive > most:
                most, at = alive, i
        there = set()
        for event in self.events[: at + 1]:
            there.add(event) if event >= 0 else there.discard(~event)
        parts: dict[str, int] = {}
        for number in there:
            parts[self.kinds[number]] = parts.get(self.kinds[number], 0) + self.sizes[number]
        parts.pop("away", None)
        return most, self.phases[self.events[at]] if at >= 0 else "", parts

    def then(self, other: "Log") -> "Log":
        """Both, one after the other; what was alive at the end of the first stays so."""
        shift = len(self.sizes)
        moved = [event + shift if event >= 0 else event - shift for event in other.events]
        return Log(self.sizes + other.sizes, self.events + moved, self.kinds + other.kinds, self.phases + other.phases)


@dataclass(frozen=True)
class Standing:
    """Bytes that are there all the time, a tensor each: weights, tables (a tied head's too), moments; in main memory
    beside a GPU: away. sparse: bytes of tables whose gradients hold only the rows that were read."""

    weights: list[int]
    tables: list[int]
    moments: list[int]
    away: int
    sparse: int = 0

    def total(self) -> int:
        return sum(self.weights) + sum(self.tables) + sum(self.moments)

    def each(self) -> list[int]:
        return [*self.weights, *self.tables, *self.moments]


@dataclass(frozen=True)
class Traced:
    standing: Standing
    log: Log
