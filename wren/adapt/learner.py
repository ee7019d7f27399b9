"""An adapter that learns while the model is used: its number on the model, its optimizer, and the way back.

The base weights take no gradient and no step: outside `adapters.rows` the model's logits are bit for bit the old ones,
and after `reset` or `restore` so are those with the adapter.
"""

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from wren.adapters.adapter import Adapter, AdapterConfig
from wren.adapters.rows import Adapters
from wren.errors import ConfigError
from wren.model import LM
from wren.optim.optimizer import Optimizer, OptimizerConfig

LARGEST = 1e3  # of an adapter's numbers, which begin near 0: beyond, it is lost though still finite


class Moment(NamedTuple):
    """The tensors of an adapter and of its optimizer at one time."""

    adapter: dict[str, Tensor]
    optimizer: dict[str, Tensor]


class Learner:
    """number: of the adapter among `adapters`. rollbacks: steps that were undone since they left the finite numbers.

    clip: the norm that a gradient is shortened to.
    """

    def __init__(
        self, adapters: Adapters, config: AdapterConfig, lr: float, generator: torch.Generator, *, clip: float = 1.0
    ):
        """Raises ConfigError for a learning rate that is not above 0."""
        self.adapter = Adapter(adapters.model, config, generator).to(adapters.model.embedding.weight.dtype)
        self.number = adapters.add(self.adapter)
        self.optimizer: Optimizer = _optimizer(lr).build(self.adapter)
        self.clip, self.rollbacks = clip, 0
        self._start = self.moment()

    def moment(self) -> Moment:
        """Copies of all that learning changes, to roll back to."""
        return Moment(self.adapter.snapshot(), {name: x.clone() for name, x in self.optimizer.tensors().items()})

    def restore(self, moment: Moment) -> None:
        """Puts a moment back, bit for bit."""
        self.adapter.restore(moment.adapter)
        self.optimizer.load_tensors(moment.optimizer)

    def reset(self) -> None:
        """As it began: no change of the model."""
        self.restore(self._start)

    def set_lr(self, lr: float) -> None:
        """Raises ConfigError as the constructor."""
        self.optimizer.set_factor(check_rate(lr) / self.optimizer.config.lr)

    def step(self) -> bool:
        """One step along the gradients that are there, which are dropped; False where it had to be undone.

        Undone is a step that starts or ends outside the finite numbers: the adapter is then as it began.
        """
        params = self.optimizer.params()
        norm = torch.nn.utils.clip_grad_norm_(params, self.clip)
        good = bool(norm.isfinite())
        if good:
            for part in self.optimizer.parts:
                part.step()
            good = bool(torch.stack([p.detach().abs().amax() for p in params]).amax() < LARGEST)
        self.optimizer.zero_grad()
        if not good:
            self.roll_back()
        return good

    def roll_back(self) -> None:
        """reset, counted."""
        self.reset()
        self.rollbacks += 1


def check_rate(lr: float) -> float:
    """The learning rate itself; raises ConfigError where it is not a number above 0."""
    if not 0 < lr < float("inf"):
        raise ConfigError(f"The learning rate is {lr}; it must be a number above 0.")
    return lr


def _optimizer(lr: float) -> OptimizerConfig:
    return OptimizerConfig(lr=check_rate(lr), weight_decay=0.0, betas=(0.9, 0.95))


@contextlib.contextmanager
def adapting(model: LM) -> Iterator[Adapters]:
    """Puts adapters on a model that is not trained meanwhile: no dropout, no gradient of its own weights."""
    before: list[tuple[Any, bool]] = [(p, p.requires_grad) for p in model.parameters()]
    training = model.training
    model.eval()
    adapters = Adapters(model)
    try:
        for p, _ in before:
            p.requires_grad_(False)
        yield adapters
    finally:
        adapters.close()
        for p, wanted in before:
            p.requires_grad_(wanted)
        model.train(training)
