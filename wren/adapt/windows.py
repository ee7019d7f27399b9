"""Windows over texts that are read in lockstep, a chunk at a time, and the pass of the model over one of them.

A chunk sees the tokens before it in one of two ways:

recompute   the last `context` tokens are gone through again with the adapter as it is now: nothing is stale
carry       the chunk goes on from the states that earlier adapters left behind, which a changed adapter makes stale;
            they begin anew, without context, every `context` + `chunk` tokens. Each token is gone through once.

B batch, T time, D model width, N tokens of a text.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from wren.batch import IGNORE
from wren.errors import ConfigError
from wren.model import LM
from wren.ops.linear_cross_entropy import chunked_token_losses
from wren.precision import Precision
from wren.state import LMState


@dataclass(frozen=True, kw_only=True)
class Windows:
    """chunk: tokens that are scored before the adapter changes. context: tokens before them that they see."""

    chunk: int = 32
    context: int = 224
    past: Literal["recompute", "carry"] = "recompute"

    def __post_init__(self) -> None:
        if self.chunk < 1:
            raise ConfigError(f"The chunk is {self.chunk} tokens; it must be at least 1.")
        if self.context < 0:
            raise ConfigError(f"The context is {self.context} tokens; it must be 0 or above.")

    def begins_anew(self, start: int) -> bool:
        """Whether carried states end before the chunk whose first target is token `start`."""
        return (start - 1) % (self.context + self.chunk) == 0


class Window(NamedTuple):
    """The chunk of all rows, which begins at `first`, and what stands before it; padded on the right.

    targets_BT: those of the chunk and, with replay, of what stands before it. sizes: targets of each row's chunk.
    """

    tokens_BT: Tensor
    targets_BT: Tensor
    first: int
    sizes: list[int]

    def only(self, rows: list[int]) -> "Window":
        sizes = [self.sizes[i] for i in rows]
        return self._replace(tokens_BT=self.tokens_BT[rows], targets_BT=self.targets_BT[rows], sizes=sizes)


def window(texts: Sequence[Tensor], start: int, windows: Windows, *, replay: bool) -> Window:
    """The chunk whose first target is token `start` of texts (N,) that are all longer."""
    begin = max(0, start - 1 - windows.context) if windows.past == "recompute" else start - 1
    ends = [min(len(text), start + windows.chunk) for text in texts]
    tokens_BT = torch.zeros(len(texts), max(ends) - 1 - begin, dtype=torch.long)
    targets_BT = torch.full_like(tokens_BT, IGNORE)
    learned = begin if replay else start - 1
    for i, (text_N, end) in enumerate(zip(texts, ends, strict=True)):
        tokens_BT[i, : end - 1 - begin] = text_N[begin : end - 1]
        targets_BT[i, learned - begin : end - 1 - begin] = text_N[learned + 1 : end]
    return Window(tokens_BT, targets_BT, start - 1 - begin, [end - start for end in ends])


class Scorer:
    """Goes through the windows of one group of texts, always with or always without adapters; keeps carried states."""

    def __init__(self, model: LM, windows: Windows, precision: Precision):
        self.model, self.windows, self.precision = model, windows, precision
        self._state: LMState | None = None

    def __call__(self, window: Window, *, anew: bool, every: bool = False) -> Tensor:
        """-log p (B, T) of the chunk's targets, or of all targets of the window where `every` is set.

        anew: carried states begin anew. The rows are the first ones of the call before.
        """
        device, first = self.precision.device, 0 if every else window.first
        targets_BT = window.targets_BT[:, first:].to(device)
        with self.precision.context():
            state = self._carried(len(targets_BT), anew=anew)
            hidden_BTD = self.model.hidden(window.tokens_BT.to(device), state=state)[:, first:]
            product, cap = self.model.head_product(hidden_BTD), self.model.config.logit_softcap
            losses_N = chunked_token_losses(*product, targets_BT.flatten(), cap, chunk=self.model.loss_chunk)
        return losses_N.view_as(targets_BT)

    def _carried(self, num_rows: int, *, anew: bool) -> LMState | None:
        if self.windows.past == "recompute":
            return None
        if anew or self._state is None:
            self._state = self._new_state(num_rows)
        self._state = self._state.detach()
        if num_rows < len(self._state.lengths_B):
            self._state = self._state.select(torch.arange(num_rows, device=self.precision.device))
        return self._state

    def forget(self, rows: list[int]) -> None:
        """The carried states of these rows begin anew."""
        if self._state is not None:
            self._state = self._state.detach()
            with torch.no_grad():
                self._state.write(torch.tensor(rows, device=self.precision.device), self._new_state(len(rows)))

    def _new_state(self, num_rows: int) -> LMState:
        size, dtype = self.windows.context + self.windows.chunk, self.precision.autocast or torch.float32
        return self.model.new_state(num_rows, size, device=self.precision.device, dtype=dtype)
