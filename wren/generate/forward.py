"""Calls of a model with a state, as the engine makes them: which adapters, how many bytes, nothing kept for gradients.

B rows, T time, D model width, V vocabulary.
"""

import contextlib
from collections.abc import Sequence

import torch
from torch import Tensor

from wren.errors import ConfigError
from wren.model import LM
from wren.precision import Precision
from wren.state import LMState


class Forward:
    """A model in its number format."""

    def __init__(self, model: LM, precision: Precision):
        self.model, self.precision, self.device = model, precision, precision.device
        kind = model.embedding.weight.dtype
        self.dtype = precision.autocast or (kind if kind.is_floating_point else torch.float32)
        self._bytes: dict[int, int] = {}
        rows = model.config.learned_positions
        self._grows = self.row_bytes(1) != self.row_bytes(4096 if rows is None else rows)

    def hidden(
        self, tokens_BT: Tensor, state: LMState, adapters: Sequence[int], valid_B: Tensor | None = None
    ) -> Tensor:
        """(B, T, D); the state is advanced."""
        with self._adapted(adapters):
            return self.model.hidden(tokens_BT, valid_B=valid_B, state=state)

    def logits(self, hidden_BD: Tensor, adapters: Sequence[int]) -> Tensor:
        """(B, V)"""
        with self._adapted(adapters):
            return self.model.logits(hidden_BD)

    def _adapted(self, numbers: Sequence[int]) -> contextlib.AbstractContextManager[object]:
        if self.model.adapters is None or not any(numbers):
            return contextlib.nullcontext()
        return self.model.adapters.rows(numbers[0] if len(set(numbers)) == 1 else numbers)

    def check_adapter(self, number: int) -> None:
        if not number:
            return
        if self.model.adapters is None:
            raise ConfigError(f"Adapter {number} is asked for and the model has none; load one first.")
        with self.model.adapters.rows(number):
            pass

    def new_state(self, rows: int, max_len: int) -> LMState:
        return self.model.new_state(rows, max_len, device=self.device, dtype=self.dtype)

    def row_bytes(self, max_len: int) -> int:
        """Of the state of one row, counted on tensors without memory."""
        if max_len not in self._bytes:
            self._bytes[max_len] = self.model.new_state(1, max_len, device="meta", dtype=self.dtype).size()
        return self._bytes[max_len]

    def lane(self, need: int) -> int:
        """Which rows decode together: up to 256 tokens, 1,024, 4,096, ...; all where a state does not grow."""
        lane = 256
        while lane < need:
            lane *= 4
        return lane if self._grows else 0

    def index(self, rows: Sequence[int]) -> Tensor:
        return torch.tensor(rows, dtype=torch.long, device=self.device)
