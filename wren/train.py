"""The one training loop: pretraining, fine-tuning and policy gradient differ in their batches and their loss.

A step's loss is the sum over the learned targets of the whole global batch divided by their number, so that neither
micro-batches nor packing change it. A checkpoint is saved before every evaluation, on Ctrl-C and on SIGTERM; resuming
from it gives the same numbers as never having stopped.
"""

import contextlib
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from wren import checkpoint
from wren.batch import Batch
from wren.errors import ConfigError, DiskError, DivergedError
from wren.model import LM
from wren.optim.optimizer import Optimizer
from wren.optim.schedule import ScheduleConfig
from wren.precision import DTypeName, Precision, is_out_of_memory
from wren.run import Run


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """batch_size: rows of context_len tokens in one optimizer step. micro_batch_size: rows at once, None = all.

    eval_every, sample_every, save_every: in steps, 0 = only at the end. keep: checkpoints kept.
    """

    steps: int
    batch_size: int
    context_len: int
    micro_batch_size: int | None = None
    grad_clip: float = 1.0
    eval_every: int = 250
    eval_tokens: int | None = 500_000
    sample_every: int = 0
    save_every: int = 250
    keep: int = 2
    dtype: DTypeName = "auto"
    compile: bool = False
    max_bad_steps: int = 5

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "context_len", "keep"):
            if getattr(self, name) < 1:
                raise ConfigError(f"train.{name} is {getattr(self, name)}; it must be at least 1.")
        if self.micro_batch_size is not None and self.micro_batch_size < 1:
            raise ConfigError(f"train.micro_batch_size is {self.micro_batch_size}; it must be at least 1.")


class Batches(Protocol):
    """An endless source of batches that can say where it is and be put back there."""

    def next_batch(self) -> Batch: ...
    def state(self) -> dict[str, Any]: ...
    def load_state(self, state: dict[str, Any]) -> None: ...


@dataclass
class Progress:
    """Where a run is; saved with every checkpoint. seconds: in steps only, without evaluation and saving."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    skipped: int = 0
    bad_in_a_row: int = 0
    micro_batch_size: int = 0


class Interrupted(Exception):
    """Ctrl-C or SIGTERM arrived; the run was saved at `step`."""

    def __init__(self, step: int, signal_number: int):
        super().__init__(f"Interrupted; saved at step {step}.")
        self.step, self.signal_number = step, signal_number


Loss = Callable[[LM, Batch], Tensor]
Callback = Callable[[int], dict[str, Any]]


def train(
    model: LM,
    optimizer: Optimizer,
    batches: Batches,
    loss: Loss,
    run: Run,
    config: TrainConfig,
    schedule: ScheduleConfig,
    precision: Precision,
    *,
    evaluate: Callback | None = None,
    sample: Callback | None = None,
    watch: Callable[[Progress, dict[str, Any]], None] = lambda progress, row: None,
    say: Callable[[str], None] = print,
) -> Progress:
    """Trains until config.steps, going on from the newest good checkpoint of `run` if there is one.

    loss: gives the weighted sum over a batch. evaluate, sample: called with the step, their result joins the metrics.
    watch: sees every row of metrics. Raises Interrupted, DivergedError.
    """
    scaler = torch.amp.GradScaler(precision.device.type, enabled=precision.scaler)
    progress = _resume(model, optimizer, batches, scaler, run, say)
    progress.micro_batch_size = progress.micro_batch_size or config.micro_batch_size or config.batch_size
    loop = _Loop(model, optimizer, batches, loss, run, config, schedule, precision, scaler, progress, say)
    callbacks = {"eval": (evaluate, config.eval_every), "sample": (sample, config.sample_every)}
    done = {row["step"] for row in run.metrics() if row.get("kind") == "eval"}

    def call_back() -> None:
        for kind, (callback, every) in callbacks.items():
            if callback is not None and _due(progress.step, every, config.steps) and progress.step not in done:
                row = {"step": progress.step, "kind": kind, **callback(progress.step)}
                run.log_metrics(row)
                watch(progress, row)

    with _signals() as caught:
        if progress.step:
            call_back()  # the run may have been killed between saving and evaluating
        while progress.step < config.steps:
            row = loop.step()
            run.log_metrics(row)
            watch(progress, row)
            evaluates = any(
                c is not None and _due(progress.step, every, config.steps) for c, every in callbacks.values()
            )
            if caught or evaluates or _due(progress.step, config.save_every, config.steps):
                loop.save(final=bool(caught) or progress.step == config.steps)
            if caught:
                raise Interrupted(progress.step, caught[0])
            call_back()
    return progress


def _due(step: int, every: int, steps: int) -> bool:
    return step == steps or (every > 0 and step % every == 0)


@dataclass
class _Loop:
    model: LM
    optimizer: Optimizer
    batches: Batches
    loss: Loss
    run: Run
    config: TrainConfig
    schedule: ScheduleConfig
    precision: Precision
    scaler: torch.amp.GradScaler
    progress: Progress
    say: Callable[[str], None]

    def step(self) -> dict[str, Any]:
        """One optimizer step on one global batch; returns its row of metrics."""
        start = time.perf_counter()
        progress = self.progress
        factor = self.schedule.factor(progress.step, self.config.steps)
        self.optimizer.set_factor(factor)
        self.model.train()
        batch = self.batches.next_batch()
        num_targets = batch.num_targets()
        loss = self._backward(batch, num_targets)
        for part in self.optimizer.parts:
            self.scaler.unscale_(part)
        norm = float(torch.nn.utils.clip_grad_norm_(self.optimizer.params(), self.config.grad_clip))
        self._update(loss, norm)
        progress.step += 1
        progress.tokens += num_targets
        seconds = time.perf_counter() - start
        progress.seconds += seconds
        row = {"step": progress.step, "kind": "train", "loss": loss, "grad_norm": norm, "factor": factor}
        return {
            **row,
            "tokens": progress.tokens,
            "seconds": progress.seconds,
            "tokens_per_second": num_targets / seconds,
        }

    def _backward(self, batch: Batch, num_targets: int) -> float:
        """Gradients of the mean loss over the global batch, and that loss; halves the micro-batch when memory ends."""
        while True:
            size = self.progress.micro_batch_size
            self.optimizer.zero_grad()
            try:
                total = torch.zeros((), device=self.precision.device)
                for start in range(0, len(batch.tokens_BT), size):
                    micro = batch.rows(start, start + size).to(self.precision.device)
                    with self.precision.context():
                        loss = self.loss(self.model, micro) / max(num_targets, 1)
                    self.scaler.scale(loss).backward()
                    total += loss.detach()
                return float(total)
            except RuntimeError as error:
                if not is_out_of_memory(error) or size == 1:
                    raise
            self.progress.micro_batch_size = max(1, size // 2)
            if self.precision.device.type == "cuda":
                torch.cuda.empty_cache()
            self.say(
                f"Out of memory: the micro-batch is now {size // 2} rows instead of {size}; the batch is the same."
            )

    def _update(self, loss: float, norm: float) -> None:
        """Steps the optimizers, or skips the step when the loss or the gradient is not finite."""
        progress = self.progress
        finite = math.isfinite(loss) and math.isfinite(norm)
        if finite or self.precision.scaler:  # the scaler skips an overflow by itself and lowers its scale
            for part in self.optimizer.parts:
                self.scaler.step(part)
        self.scaler.update()
        progress.skipped += not finite
        # an overflow of scaled fp16 gradients is routine; a loss that is not finite is not
        bad = not math.isfinite(loss) or (not finite and not self.precision.scaler)
        progress.bad_in_a_row = progress.bad_in_a_row + 1 if bad else 0
        if progress.bad_in_a_row >= self.config.max_bad_steps:
            good, _ = checkpoint.newest_good(self.run.checkpoints_path)
            raise DivergedError(
                f"The loss was not finite for {progress.bad_in_a_row} steps in a row (step {progress.step + 1}); the "
                f"last good checkpoint is {good or 'none'}. Lower the learning rate, or use --dtype fp32."
            )

    def save(self, *, final: bool) -> None:
        """A checkpoint of now; a full disk in mid-run is a warning, at the end an error."""
        tensors = {**self.optimizer.tensors(), "rng/cpu": torch.get_rng_state()}
        if self.precision.device.type == "cuda":
            tensors["rng/cuda"] = torch.cuda.get_rng_state(self.precision.device)
        state = {"progress": vars(self.progress), "batches": self.batches.state(), "scaler": self.scaler.state_dict()}
        folder, step = self.run.checkpoints_path, self.progress.step
        try:
            checkpoint.save(folder, step, checkpoint.weights(self.model), tensors, state)
        except DiskError as error:
            if final:
                raise
            self.say(f"Warning: {error} Training goes on; the checkpoint before it is kept.")
            return
        checkpoint.prune(folder, self.config.keep)


def _resume(
    model: LM,
    optimizer: Optimizer,
    batches: Batches,
    scaler: torch.amp.GradScaler,
    run: Run,
    say: Callable[[str], None],
) -> Progress:
    path, warnings = checkpoint.newest_good(run.checkpoints_path)
    for warning in warnings:
        say(f"Warning: {warning}")
    if path is None:
        run.rewind_metrics(0)
        return Progress()
    saved = checkpoint.load(path)
    checkpoint.load_weights(model, saved.model, path)
    tensors = dict(saved.optimizer)
    torch.set_rng_state(tensors.pop("rng/cpu"))
    if (cuda := tensors.pop("rng/cuda", None)) is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(cuda)
    optimizer.load_tensors(tensors)
    batches.load_state(saved.state["batches"])
    scaler.load_state_dict(saved.state["scaler"])
    run.rewind_metrics(saved.step)
    say(f"Resuming from {path}.")
    return Progress(**saved.state["progress"])


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM so that a step ends before the run is saved; a second one acts at once."""
    caught: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield caught
        return

    def handle(number: int, frame: object) -> None:
        if caught:
            raise KeyboardInterrupt
        caught.append(number)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
