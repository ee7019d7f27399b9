"""The one training loop: pretraining, fine-tuning and policy gradient differ in their batches and their loss.

A checkpoint is saved before every evaluation, on Ctrl-C and on SIGTERM; resuming from it gives the same numbers as
never having stopped. One step is in step.py, what a checkpoint holds in resume.py, the signals in interrupt.py.
"""

import copy
import itertools
import statistics
import time
from collections.abc import Callable, Set
from dataclasses import dataclass
from typing import Any, NoReturn

import torch

from wren import checkpoint
from wren.distributed.ranks import ALONE, Ranks
from wren.errors import ConfigError, DiskError, DivergedError
from wren.interrupt import Interrupted, Signals, Stopped
from wren.memory.activations import Checkpointing, checkpoint_activations
from wren.memory.settings import check_memory_settings
from wren.model import LM
from wren.optim.optimizer import Optimizer, OptimizerConfig
from wren.optim.schedule import ScheduleConfig
from wren.precision import DTypeName, Precision
from wren.resume import Batches, Progress, TrainState, kept_rng, last_good
from wren.run import Run
from wren.step import Loss, SpoiledError, Step, compiled
from wren.utilisation import Utilisation

Row = dict[str, Any]
Callback = Callable[[int], Row]


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """batch_size: rows of context_len tokens in one optimizer step. micro_batch_size: rows at once, None = all.

    grad_clip: the largest gradient norm, 0 = any. eval_every, sample_every, save_every: in steps, 0 = only at the end.
    keep: checkpoints kept. max_bad_steps: steps in a row without a finite loss or gradient before training stops.
    activation_checkpointing: what a backward pass computes again instead of keeping it: the MLPs (selective) or the
    blocks (full). loss_chunk: tokens whose logits exist at once, None = what suits the device.
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
    activation_checkpointing: Checkpointing = "none"
    loss_chunk: int | None = None

    def __post_init__(self) -> None:
        least = {"steps": 1, "batch_size": 1, "context_len": 1, "micro_batch_size": 1, "grad_clip": 0, "loss_chunk": 1}
        least |= {"eval_every": 0, "eval_tokens": 1, "sample_every": 0, "save_every": 0, "keep": 1, "max_bad_steps": 1}
        for name, bound in least.items():
            value = getattr(self, name)
            if value is not None and not value >= bound:
                raise ConfigError(f"train.{name} is {value}; it must be at least {bound}.")

    def check(self, optimizer: OptimizerConfig, precision: Precision, num_ranks: int = 1) -> None:
        """Raises ConfigError for settings that save memory and do not go with the others."""
        sizes = {"batch_size": self.batch_size, "micro_batch_size": self.micro_batch_size}
        check_memory_settings(optimizer, precision, **sizes, compile=self.compile, num_ranks=num_ranks)


def _new_step(
    state: TrainState,
    loss: Loss,
    config: TrainConfig,
    precision: Precision,
    say: Callable[[str], None],
    utilisation: Utilisation | None = None,
) -> Step:
    config.check(state.optimizer.config, precision, state.ranks.size)
    checkpoint_activations(state.model, config.activation_checkpointing)
    state.model.loss_chunk = config.loss_chunk
    state.optimizer.sparse_gradients(state.ranks.size == 1 and not config.compile)
    loss = compiled(loss) if config.compile else loss
    return Step(state, loss, precision, config.grad_clip, say, utilisation=utilisation)


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
    watch: Callable[[Progress, Row], None] = lambda progress, row: None,
    until: Callable[[Progress], bool] = lambda progress: False,
    say: Callable[[str], None] = print,
    ranks: Ranks = ALONE,
    utilisation: Utilisation | None = None,
) -> Progress:
    """Trains until config.steps, going on from the newest good checkpoint of `run` if there is one.

    loss: gives the weighted sum over a batch. evaluate, sample: called with the step, their result joins the metrics;
    what they draw from torch's generators is put back. watch: sees every row of metrics. until: asked before every
    step, True ends the training early; the same call with another answer goes on from there. ranks: the processes that
    train this model together, which all call this with their own rows of the batch. utilisation: what a step's MFU is
    reckoned with, which joins the metrics. Batches that have a `listen` are given the signals; what they let
    Signals.at_once cut off must leave them so that the same batch follows. Raises Interrupted, DivergedError,
    CheckpointError (of another model or other data), ConfigError (no memory for one row), DiskError (the last
    checkpoint could not be written).
    """
    scaler = torch.amp.GradScaler(precision.device.type, enabled=precision.scaler)
    state = TrainState(model, optimizer, batches, scaler, precision.device, ranks=ranks)
    step = _new_step(state, loss, config, precision, say, utilisation)
    keeper = _Keeper(state, run, config, {"eval": evaluate, "sample": sample}, watch, say)
    done = keeper.resume()
    progress = state.progress
    progress.micro_batch_size = progress.micro_batch_size or config.micro_batch_size or config.batch_size
    if optimizer.in_backward is not None and not checkpoint.steps(run.checkpoints_path):
        keeper.save(final=False)  # there is one to go back to from the first step on
    with ranks.signals() as signals:
        if (listen := getattr(batches, "listen", None)) is not None:
            listen(signals)
        if progress.step:  # the run may have been killed between saving and evaluating
            keeper.call_back(signals, done)
        while progress.step < config.steps and not until(progress):
            try:
                row = step(schedule.factor(progress.step, config.steps))
            except SpoiledError as error:
                progress = keeper.go_back(error)
                continue
            except Stopped:
                keeper.stop(signals, anew=True)
            keeper.record(row)
            signals.agree()
            if progress.bad_in_a_row >= config.max_bad_steps:
                raise DivergedError(
                    f"The loss or its gradient was not finite for {progress.bad_in_a_row} steps in a row (to step "
                    f"{progress.step}); {last_good(run)} Lower the learning rate, or use --dtype fp32."
                )
            if signals.number is not None or keeper.saves_now():
                keeper.save(final=signals.number is not None or progress.step == config.steps)
            if signals.number is not None:
                raise Interrupted(progress.step, signals.number)
            keeper.call_back(signals)
        if keeper.saved_step != progress.step:  # ended early
            keeper.save(final=True)
        signals.agree()
        if signals.number is not None:  # it came between the last step's end and here
            raise Interrupted(progress.step, signals.number)
    return progress


@dataclass
class _Keeper:
    """The run directory's side of the loop: checkpoints, metrics, callbacks; and what to do when the disk is full."""

    state: TrainState
    run: Run
    config: TrainConfig
    callbacks: dict[str, Callback | None]
    watch: Callable[[Progress, Row], None]
    say: Callable[[str], None]
    saved_step: int = 0
    warned: bool = False

    def resume(self) -> set[tuple[str, int]]:
        """Restores the newest good checkpoint, if there is one; returns the callbacks (kind, step) done already."""
        folder, ranks = self.run.checkpoints_path, self.state.ranks
        path, warnings = ranks.first(lambda: checkpoint.newest_good(folder))
        for warning in warnings:
            self.say(f"Warning: {warning}")
        if path is not None:
            self.state.restore(ranks.load(path, self.state.model))
            self.saved_step = self.state.progress.step
            self.say(f"Resuming from {path}.")
        elif warnings:
            self.say("Warning: no good checkpoint is left; training begins anew.")
        ranks.first(lambda: checkpoint.clean(folder))
        self.run.rewind_metrics(self.saved_step)
        rows = ranks.first(self.run.metrics)
        last = max((row["step"] for row in rows if row.get("kind") == "train"), default=0)
        if last < self.saved_step:
            self.say(
                f"Warning: {self.run.metrics_path} ends at step {last}, the checkpoint is of step {self.saved_step}: "
                "the curve is incomplete, the training is not."
            )
        return {(row["kind"], row["step"]) for row in rows if "kind" in row}

    def go_back(self, error: SpoiledError) -> Progress:
        """Restores the newest good checkpoint in mid-run; raises the error where there is none."""
        path, _ = checkpoint.newest_good(self.run.checkpoints_path)
        if path is None:
            raise DivergedError(f"{error} {last_good(self.run).capitalize()}") from error
        at = self.state.progress.step + 1
        self.state.restore(checkpoint.load(path, verified=True))
        self.saved_step = self.state.progress.step
        self.run.rewind_metrics(self.saved_step)
        self.say(
            f"Warning: the gradient of step {at} was not finite after weights had been changed; going back to {path} "
            "and passing over that step."
        )
        return self.state.progress

    def saves_now(self) -> bool:
        """Whether this step ends with a checkpoint: every evaluation and sample has one before it."""
        return self._due(self.config.save_every) or any(self._due_callbacks())

    def save(self, *, final: bool) -> None:
        """A checkpoint of now; a full disk in mid-run is a warning, at the end an error."""
        try:
            self.state.save(self.run, self.config.keep)
            self.saved_step = self.state.progress.step
        except DiskError as error:
            if final:
                raise
            self.say(f"Warning: {error} Training goes on; the checkpoint before it is kept.")

    def record(self, row: Row) -> None:
        """Adds a row to the metrics; a disk without room for it is told once and stops nothing."""
        try:
            self.run.log_metrics(row)
        except DiskError as error:
            if not self.warned:
                self.say(f"Warning: {error} Training goes on without writing metrics until there is room.")
            self.warned = True
        self.watch(self.state.progress, row)

    def call_back(self, signals: Signals, done: Set[tuple[str, int]] = frozenset()) -> None:
        """Evaluates and samples where that is due; a signal cuts it short and raises Interrupted."""
        step = self.state.progress.step
        for kind, callback in self._due_callbacks().items():
            if (kind, step) in done:
                continue
            try:
                with signals.at_once(), kept_rng(self.state.device):  # a resumed run may skip it: it leaves no trace
                    row = {"step": step, "kind": kind, **callback(step)}
            except Stopped:
                self.stop(signals)
            except DiskError as error:
                self.say(f"Warning: {error} Training goes on.")
                continue
            self.record(row)

    def stop(self, signals: Signals, *, anew: bool = False) -> NoReturn:
        """What came after the last step was cut off; where a run stands is saved. Raises Interrupted.

        anew: even where that step was saved, since the batches may have gone on.
        """
        step = self.state.progress.step
        if anew or self.saved_step != step:
            self.save(final=True)
        raise Interrupted(step, signals.number or 0) from None

    def _due_callbacks(self) -> dict[str, Callback]:
        every = {"eval": self.config.eval_every, "sample": self.config.sample_every}
        return {kind: call for kind, call in self.callbacks.items() if call is not None and self._due(every[kind])}

    def _due(self, every: int) -> bool:
        step = self.state.progress.step
        return step == self.config.steps or (every > 0 and step % every == 0)


def measure_step_seconds(
    model: LM,
    optimizer: Optimizer,
    batches: Batches,
    loss: Loss,
    config: TrainConfig,
    precision: Precision,
    warmup: int = 5,
    steps: int = 10,
    ranks: Ranks = ALONE,
) -> float:
    """Seconds of one training step (the median), after `warmup` steps that are not counted (compilation, caches).

    Model, optimizer, batches and torch's generators are as before afterwards. Their values wait in main memory, since
    a second model might not fit into the device's. Raises ConfigError when not even one row fits.
    """
    weights = {name: x.detach().to("cpu", copy=True) for name, x in checkpoint.weights(model).items()}
    moments = {name: x.to("cpu", copy=True) for name, x in optimizer.tensors().items()}
    place, training = copy.deepcopy(batches.state()), model.training
    scaler = torch.amp.GradScaler(precision.device.type, enabled=precision.scaler)
    progress = Progress(micro_batch_size=config.micro_batch_size or config.batch_size)
    state = TrainState(model, optimizer, batches, scaler, precision.device, progress, ranks)
    try:
        trial = _new_step(state, loss, config, precision, lambda text: None)
        with kept_rng(precision.device):
            for _ in range(warmup):
                trial(1e-6)
            times = [_now(precision.device)]
            for _ in range(steps):
                trial(1e-6)
                times.append(_now(precision.device))
            return statistics.median(after - before for before, after in itertools.pairwise(times))
    finally:
        optimizer.zero_grad()
        optimizer.set_factor(1.0)
        optimizer.load_tensors(moments)
        checkpoint.load_weights(model, weights, "the measured model")
        batches.load_state(place)
        model.train(training)


def _now(device: torch.device) -> float:
    """The time when the device has finished what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
