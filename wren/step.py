"""One optimizer step on one global batch: micro-batches, clipping, skipped steps, and memory that runs out.

A step's loss is the sum over the learned targets of the whole global batch divided by their number, so that neither
micro-batches nor packing change it.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from wren.batch import Batch
from wren.errors import ConfigError, DivergedError
from wren.model import LM
from wren.precision import Precision, is_out_of_memory
from wren.resume import TrainState, rng_state, set_rng_state
from wren.utilisation import Utilisation

# Steps that may compile: the first; one with a smaller micro-batch, whose shape becomes a variable; one after memory
# has run out.
EXPECTED_COMPILING = 3
Loss = Callable[[LM, Batch], Tensor]  # the weighted sum over the learned targets of a (micro-)batch


class SpoiledError(DivergedError):
    """A gradient was not finite when weights had been changed by it already: optimizer.in_backward."""


@dataclass
class Step:
    """Calling it trains one step at `factor` times the base learning rates and returns its row of metrics.

    grad_clip: the largest norm of the gradient, 0 = any; where the step is fused into the backward pass each tensor is
    held to its part of that (InBackward.armed). spoiled: steps, with their losses, that are known to have a gradient
    that is not finite: passed over. Raises ConfigError when one row does not fit into memory, SpoiledError when weights
    are lost. utilisation: gives the row the step's share of the device's peak (mfu). A compiled loss gives it
    compiled_graphs, the number so far.
    """

    state: TrainState
    loss: Loss
    precision: Precision
    grad_clip: float
    say: Callable[[str], None]
    spoiled: dict[int, float] = field(default_factory=dict)
    utilisation: Utilisation | None = None
    _compiling: int = 0  # steps that compiled something, and how many graphs there were after the last one
    _graphs: int = 0

    def __call__(self, factor: float) -> dict[str, Any]:
        start = time.perf_counter()
        state, progress = self.state, self.state.progress
        state.optimizer.set_factor(factor)
        state.model.train()
        batch = state.batches.next_batch()
        num_targets = state.ranks.total(batch.num_targets())
        fused = state.optimizer.in_backward is not None
        loss, norm = (self._fused if fused else self._gradients)(batch, num_targets)
        if math.isfinite(loss) and math.isfinite(norm):
            if not fused:
                self._update()
            progress.bad_in_a_row = 0
        else:
            progress.skipped += 1
            progress.bad_in_a_row += self._is_bad(loss)
        state.scaler.update()
        progress.step += 1
        progress.tokens += num_targets
        seconds = time.perf_counter() - start
        progress.seconds += seconds
        return {
            "step": progress.step,
            "kind": "train",
            "loss": loss,
            "grad_norm": norm,
            "factor": factor,
            "skipped": progress.skipped,
            "tokens": progress.tokens,
            "seconds": progress.seconds,
            "tokens_per_second": num_targets / seconds,
            **self._speed(batch, seconds),
        }

    def _speed(self, batch: Batch, seconds: float) -> dict[str, Any]:
        """What else is known of a step's speed."""
        row: dict[str, Any] = {}
        if self.utilisation is not None:
            size = self.state.ranks.size
            row["mfu"] = self.utilisation.of(size * batch.tokens_BT.numel(), seconds, size)
        if isinstance(self.loss, Compiled):
            row["compiled_graphs"] = self.loss.graphs
            self._watch_compiler(self.loss.graphs)
        return row

    def _watch_compiler(self, graphs: int) -> None:
        """Warns, once, when steps go on being compiled."""
        if graphs == self._graphs:
            return
        self._graphs, self._compiling = graphs, self._compiling + 1
        if self._compiling == EXPECTED_COMPILING + 1:
            self.say(
                f"Warning: torch.compile has compiled something in {self._compiling} steps by step "
                f"{self.state.progress.step}, since something in a step keeps changing its shape or value; "
                "TORCH_LOGS=recompiles tells what. Without --compile training may be faster."
            )

    def _gradients(self, batch: Batch, num_targets: int) -> tuple[float, float]:
        """Leaves the clipped gradient of the mean loss in the parameters; returns that loss and the gradient's norm."""
        state, rows = self.state, len(batch.tokens_BT)
        rng = rng_state(state.device)
        ranks, progress = state.ranks, state.progress
        while (total := ranks.reduced(self._accumulate(batch, progress.micro_batch_size, num_targets))) is None:
            # out here the failed graph and the exception that held it are gone, so their memory can be given back
            if state.device.type == "cuda":
                torch.cuda.empty_cache()
            set_rng_state(rng, state.device)  # the dropout of a run that began with the smaller micro-batch
            self._halve(rows)
        for part in state.optimizer.parts:
            state.scaler.unscale_(part)
        clip = self.grad_clip or math.inf
        norm = ranks.clip(state.optimizer.params(), clip)
        loss, norm = torch.stack((total, norm)).tolist()  # the step's one wait for the device
        return loss, norm

    def _fused(self, batch: Batch, num_targets: int) -> tuple[float, float]:
        """A step inside one backward pass; returns the loss and the norm of the gradient as it was before clipping."""
        state, number = self.state, self.state.progress.step + 1
        assert state.optimizer.in_backward is not None
        if number in self.spoiled:
            return self.spoiled[number], math.inf
        state.optimizer.zero_grad()
        try:
            with self.precision.context():
                loss = self.loss(state.model, batch.to(state.device)) / max(num_targets, 1)
            value = float(loss.detach())  # a wait for the device, but no weight has changed yet
            if not math.isfinite(value):
                return value, math.inf
            with state.optimizer.in_backward.armed(self.grad_clip or math.inf):
                loss.backward()
            norm = state.optimizer.in_backward.norm()
        except (RuntimeError, MemoryError) as error:
            if is_out_of_memory(error):
                raise _no_memory(error, "optimizer.in_backward takes the whole batch at once") from error
            raise
        if not math.isfinite(norm):
            self.spoiled[number] = value
            raise SpoiledError(
                f"The gradient of step {number} was not finite, and weights were changed by it already. Lower the "
                "learning rate, or leave out optimizer.in_backward."
            )
        return value, norm

    def _accumulate(self, batch: Batch, size: int, num_targets: int) -> Tensor | None:
        """The mean loss over the batch, its gradient added up in micro-batches of `size` rows; None = no memory."""
        size = min(size, len(batch.tokens_BT))
        self.state.optimizer.zero_grad()
        total = None
        try:
            for start in range(0, len(batch.tokens_BT), size):
                micro = batch.rows(start, start + size).to(self.state.device)
                with self.precision.context():
                    loss = self.loss(self.state.model, micro) / max(num_targets, 1)
                if start + size >= len(batch.tokens_BT):
                    self.state.ranks.last_micro_batch()
                self.state.scaler.scale(loss).backward()
                total = loss.detach() if total is None else total + loss.detach()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if size == 1:
                raise _no_memory(error) from error
            return None
        return total

    def _halve(self, rows: int) -> None:
        size = min(self.state.progress.micro_batch_size, rows)
        self.state.progress.micro_batch_size = size // 2
        self.say(f"Out of memory: the micro-batch is now {size // 2} rows instead of {size}; the batch is the same.")

    def _update(self) -> None:
        """Steps the optimizers: their gradients are unscaled, clipped and finite by now."""
        try:
            for part in self.state.optimizer.parts:
                part.step()
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise _no_memory(error) from error
            raise

    def _is_bad(self, loss: float) -> bool:
        """Whether a skipped step is a sign of divergence: fp16's overflows are not while its scale can still fall."""
        return not (math.isfinite(loss) and self.precision.scaler and self.state.scaler.get_scale() > 1.0)


def _no_memory(error: BaseException, what: str = "") -> ConfigError:
    short = " ".join(str(error).split())[:160]
    if what:
        return ConfigError(f"Out of memory ({short}): {what}; set a smaller train.batch_size, or leave it out.")
    return ConfigError(
        f"Out of memory even with one row at a time ({short}); choose a smaller model or a shorter context, "
        "or free the device of other programs."
    )


class Compiled:
    """`loss` through torch.compile, the model's forward pass and the head's cross-entropy in one.

    The model itself is left as it is: names of parameters, evaluation and sampling do not change. graphs: how many
    were compiled so far, in this process. Calls raise ConfigError where this machine lacks what torch.compile needs.
    """

    def __init__(self, loss: Loss):
        from torch._dynamo import utils  # here: importing the compiler takes seconds
        from torch._dynamo.exc import TorchDynamoException

        self._counters, self._failures = utils.counters, TorchDynamoException
        self.graphs = 0
        try:
            self._fast = torch.compile(loss)
        except RuntimeError as error:  # on a system, or in a Python, that it does not know
            raise _no_compiler(error) from error

    def __call__(self, model: LM, batch: Batch) -> Tensor:
        before = self._compiled()
        try:
            return self._fast(model, batch)
        except self._failures as error:
            raise _no_compiler(error) from error
        finally:
            self.graphs += self._compiled() - before

    def _compiled(self) -> int:
        """Graphs that this process has compiled: as many more as there were before where one is compiled again."""
        return self._counters["stats"]["unique_graphs"]


def _no_compiler(error: BaseException) -> ConfigError:
    short = " ".join(str(error).split())[:160]
    return ConfigError(f"torch.compile does not work here ({short}); train without --compile, or run `wren doctor`.")


def compiled(loss: Loss) -> Compiled:
    """The loss compiled; raises ConfigError where torch.compile does not know the system."""
    return Compiled(loss)
