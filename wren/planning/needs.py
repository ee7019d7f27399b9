"""What a run with certain settings needs of a machine: bytes by part, from a traced step."""

from dataclasses import dataclass
from typing import Any

from wren import config as configs
from wren.memory.allocator import reserved
from wren.memory.job import Job
from wren.memory.trace import Tracer
from wren.planning.machine import Machine
from wren.recipes import RunConfig

PARTS = ("weights", "tables", "gradients", "moments", "activations", "logits", "working")


@dataclass(frozen=True)
class Needs:
    """Bytes on the device at the peak of a step, by part; away: in main memory beside it.

    reserved: what torch's allocator takes for them on a GPU, rounding and gaps included; the peak itself elsewhere, and
    None where there is no room. when: in which phase the peak is.
    """

    parts: dict[str, int]
    peak: int
    reserved: int | None
    away: int
    when: str
    allowance: int

    @property
    def total(self) -> int:
        return (self.reserved if self.reserved is not None else self.peak) + self.allowance


def job(config: RunConfig, machine: Machine) -> Job:
    """The traced step of a run: one of its micro-batches, and the update."""
    train = config.train
    rows = min(train.micro_batch_size or train.batch_size, train.batch_size)
    return Job(
        model=config.model,
        optimizer=config.optimizer,
        rows=rows,
        context_len=train.context_len,
        autocast=machine.precision.autocast,
        device_type=machine.kind,
        narrow_muon=machine.narrow_muon,
        checkpointing=train.activation_checkpointing,
        loss_chunk=train.loss_chunk,
        earlier_rows=train.batch_size - rows,
        sparse_tables=not train.compile,
    )


def needs(tracer: Tracer, config: RunConfig, machine: Machine) -> Needs:
    """Raises ConfigError for a model that cannot be planned."""
    traced = tracer(job(config, machine))
    standing, log = traced.standing, traced.log
    peak, when, parts = log.peak()
    parts = dict.fromkeys(PARTS, 0) | parts
    parts |= {"weights": sum(standing.weights), "tables": sum(standing.tables), "moments": sum(standing.moments)}
    total, taken = standing.total() + peak, None
    if machine.kind != "cuda":
        taken = total if total <= machine.room else None
    elif total <= machine.room:
        events = [event for event in log.events if log.kinds[max(event, ~event)] != "away"]
        taken = reserved(standing.each(), log.sizes, events, machine.room)
    return Needs(parts, total, taken, standing.away, when, machine.allowance)


def fits(found: Needs, machine: Machine) -> bool:
    return found.reserved is not None and found.total <= machine.memory


def least(tracer: Tracer, config: RunConfig, machine: Machine) -> int:
    """Bytes that are there all the time, and all gradients where they are alive at once: less cannot do."""
    standing = tracer.standing(job(config, machine))
    if config.optimizer.in_backward:
        return standing.total()
    return standing.total() + sum(standing.weights) + sum(standing.tables) - standing.sparse


def changed(config: RunConfig, settings: dict[str, Any]) -> RunConfig:
    """The config with {"optimizer.state_dtype": "8bit", ...}."""
    return configs.replace(config, settings)
