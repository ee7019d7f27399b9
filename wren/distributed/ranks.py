"""What a training run asks of the processes that train the same model; `Alone` answers for a single one.

A rank is one process of a job. What says "every rank" must be called by all of them, in the same order: it waits for
the others.
"""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Protocol, TypeVar

from torch import Tensor, nn

from wren import checkpoint
from wren.batch import Batch
from wren.checkpoint import Checkpoint
from wren.interrupt import Signals
from wren.model import LM
from wren.optim.optimizer import Optimizer
from wren.optim.rows import clip_gradients
from wren.precision import Precision

T = TypeVar("T")


class Ranks(Protocol):
    """rank: this process's number, 0 .. size - 1. everywhere: whether whatever runs the model needs every rank."""

    rank: int
    size: int
    everywhere: bool

    def about(self) -> str:
        """A sentence on the other processes for the user, "" for none."""
        ...

    def device(self, name: str) -> str:
        """The device that this rank uses where the user named `name`; raises ConfigError when it has none."""
        ...

    def check(self, batch_size: int, *, compile: bool) -> None:
        """Raises ConfigError for settings that do not go with these ranks."""
        ...

    def place(self, model: LM, precision: Precision) -> None:
        """Puts the model, built alike on every rank and still in main memory, on this rank's device, or its part of it;
        before its optimizer is made."""
        ...

    def attach(self, optimizer: Optimizer) -> None:
        """Lets the optimizer work on matrices that lie on several ranks."""
        ...

    def seed(self, seed: int) -> None:
        """Seeds torch's generators for what a rank draws on its own, such as dropout; those of rank 0 are left."""
        ...

    def signals(self) -> Signals:
        """Ctrl-C and SIGTERM: one that reached any rank counts for every rank, once they have agreed."""
        ...

    def first(self, call: Callable[[], T]) -> T:
        """What `call` gives, or the WrenError that it raises, on the first rank: the same for every rank."""
        ...

    def total(self, count: int) -> int:
        """The sum of every rank's count."""
        ...

    def summed(self, values: Tensor) -> Tensor:
        """The sum of every rank's tensor (on the CPU)."""
        ...

    def any(self, text: str | None) -> str | None:
        """The text of the first rank that has one."""
        ...

    def shared(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """This rank's part of the batches of an evaluation; every rank gets equally many."""
        ...

    def last_micro_batch(self) -> None:
        """The backward pass that follows completes this rank's gradients, which may travel while it runs."""
        ...

    def reduced(self, loss: Tensor | None) -> Tensor | None:
        """Sums loss and gradients over every rank; None where one of them had no memory (None) for its rows."""
        ...

    def clip(self, params: list[nn.Parameter], limit: float) -> Tensor:
        """Scales the gradients down to the norm `limit`; returns the norm they had, a scalar alike on every rank."""
        ...

    def save(
        self, folder: Path, step: int, model: LM, optimizer: dict[str, Tensor], rng: dict[str, Tensor], state: dict
    ) -> None:
        """Writes the checkpoint folder/step_<step>; raises what checkpoint.save does, on every rank."""
        ...

    def load(self, path: Path, model: LM) -> Checkpoint:
        """A verified checkpoint in a form that `model` and its optimizer can take, with this rank's generators."""
        ...


class Alone:
    """The answers of a process that trains by itself: nobody is asked, nothing is changed."""

    rank = 0
    size = 1
    everywhere = False

    def about(self) -> str:
        return ""

    def device(self, name: str) -> str:
        return name

    def check(self, batch_size: int, *, compile: bool) -> None:
        pass

    def place(self, model: LM, precision: Precision) -> None:
        model.to(precision.device)

    def attach(self, optimizer: Optimizer) -> None:
        pass

    def seed(self, seed: int) -> None:
        pass

    def signals(self) -> Signals:
        return Signals()

    def first(self, call: Callable[[], T]) -> T:
        return call()

    def total(self, count: int) -> int:
        return count

    def summed(self, values: Tensor) -> Tensor:
        return values

    def any(self, text: str | None) -> str | None:
        return text

    def shared(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        return iter(batches)

    def last_micro_batch(self) -> None:
        pass

    def reduced(self, loss: Tensor | None) -> Tensor | None:
        return loss

    def clip(self, params: list[nn.Parameter], limit: float) -> Tensor:
        return clip_gradients(params, limit)

    def save(
        self, folder: Path, step: int, model: LM, optimizer: dict[str, Tensor], rng: dict[str, Tensor], state: dict
    ) -> None:
        checkpoint.save(folder, step, checkpoint.weights(model), {**optimizer, **rng}, state)

    def load(self, path: Path, model: LM) -> Checkpoint:
        return checkpoint.load(path, verified=True)


ALONE = Alone()
