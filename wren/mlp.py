"""The contract of a feed-forward layer: a map of every token by itself, x_BTD -> y_BTD.

Any module will do; the linear layer that ends it is named `out`. One that does not use all of its weights for every
token is a SparseMlp. B batch, T time, D model width.
"""

from abc import ABC, abstractmethod
from typing import Protocol

from torch import Tensor, nn


class MlpConfig(Protocol):
    """A feed-forward layer's settings: a frozen dataclass named `Config` in `wren/mlps/<name>.py`."""

    def build(self, dim: int) -> nn.Module: ...


class SparseMlp(nn.Module, ABC):
    """A feed-forward layer in which a token meets some of the weights only."""

    @abstractmethod
    def flops_per_token(self) -> float:
        """Forward floating-point operations of the matrix products that one token takes part in, multiply-add = 2."""

    @abstractmethod
    def active_params(self) -> int:
        """Parameters that one token uses."""

    @abstractmethod
    def begin_step(self) -> None:
        """Called by the optimizer when it drops the gradients: what was counted of an unfinished step is void."""

    def counts(self) -> list[Tensor]:
        """What was counted since begin_step; where several processes train, their sum is put in before end_step."""
        return []

    @abstractmethod
    def end_step(self) -> None:
        """Called after the optimizer has changed the weights, once a step however many micro-batches it had."""


def flops_per_token(mlp: nn.Module) -> float:
    """Forward floating-point operations of one token: by default every matrix multiplies it once."""
    if isinstance(mlp, SparseMlp):
        return mlp.flops_per_token()
    return 2 * sum(p.numel() for p in mlp.parameters() if p.dim() == 2)


def active_params(mlp: nn.Module) -> int:
    return mlp.active_params() if isinstance(mlp, SparseMlp) else sum(p.numel() for p in mlp.parameters())
