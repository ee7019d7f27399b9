"""The contract of a sequence mixer: a causal map x_BTD -> y_BTD, and what it remembers of the past.

B batch, T time, D model width.
"""

from abc import ABC, abstractmethod
from typing import NamedTuple, Protocol, Self

import torch
from torch import Tensor, nn


class State(ABC):
    """What one mixer remembers of the past of each row; every tensor is batch first.

    A forward pass with gradients enabled replaces the tensors of a state and never writes into them; without
    gradients it may write in place. Changed weights make every state stale.
    """

    lengths_B: Tensor  # int64: tokens seen by each row

    @abstractmethod
    def select(self, rows_B: Tensor) -> Self:
        """A new state of the given rows (int64): repeats fork a sample, a permutation reorders beams. Copies."""

    @abstractmethod
    def write(self, rows_B: Tensor, other: Self) -> None:
        """Puts the rows of `other` in place of `rows_B`: admits new rows into a running batch."""

    @abstractmethod
    def detach(self) -> Self:
        """The same state cut off from the graph that made it."""


class Context(NamedTuple):
    """What a mixer may know besides x.

    tokens_BT: int64 ids.  positions_BT: int64, None = lengths + 0, 1, 2, ...
    documents_BT: int64, tokens of different documents in a row never see each other; None = one document.
    valid_B: int64, tokens past it are padding: they advance no state, and their output means nothing; None = all.
    values_BTD: what the block adds to the mixer's values, or None.
    state: None in training. It is advanced by the call.
    """

    tokens_BT: Tensor | None = None
    positions_BT: Tensor | None = None
    documents_BT: Tensor | None = None
    valid_B: Tensor | None = None
    values_BTD: Tensor | None = None
    state: State | None = None


class Mixer(nn.Module, ABC):
    """A causal sequence mixer. Its file holds its frozen Config with `.build(dim)`, its State and itself."""

    @abstractmethod
    def forward(self, x_BTD: Tensor, context: Context) -> Tensor: ...

    @abstractmethod
    def new_state(
        self, batch_size: int, max_len: int, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> State:
        """A state for `batch_size` rows of up to `max_len` tokens; `dtype` is that of cached keys and values."""

    @abstractmethod
    def flops_per_token(self, context_len: int) -> float:
        """Floating-point operations of the forward pass for one token, averaged over a row of context_len tokens.

        A multiply-add counts 2. Matrix products only: what is counted by torch.utils.flop_counter for the algorithm.
        """

    @abstractmethod
    def state_bytes(self, context_len: int) -> int:
        """Bytes of state per sequence after context_len tokens, at 2 bytes a cached value and 4 a recurrent one."""


class MixerConfig(Protocol):
    """A mixer's settings: a frozen keyword-only dataclass named `Config` in `wren/mixers/<name>.py`."""

    def build(self, dim: int) -> Mixer: ...
