"""One type for every stage: what a training step learns from.

B batch, T time, K last places of a row, V vocabulary.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

IGNORE = -100  # the target of a place where nothing is learned


class Batch(NamedTuple):
    """Tokens and what is to be learned from them; None = unused.

    tokens_BT, targets_BT: int64; a target of IGNORE is not learned.
    weights_BT: float, the weight of each target's loss (1, or an advantage).
    documents_BT: int64, number of the packed document within its row; None = one document a row.
    positions_BT: int64, place of a token inside its document; None = 0, 1, 2, ... along the row.
    logprobs_BT, reference_logprobs_BT, groups_B: behaviour policy, reference policy, pairs or groups.
    kept_BTK: int64, the tokens that could be drawn in the target's place where top-k or top-p left few, filled up with
        IGNORE; a place with IGNORE alone could draw any.
    probs_BKV: float, distributions over the vocabulary to learn in the last K places of a row instead of one target
        each, as a search of a game gives them; the targets there only say what counts.
    """

    tokens_BT: Tensor
    targets_BT: Tensor
    weights_BT: Tensor | None = None
    documents_BT: Tensor | None = None
    positions_BT: Tensor | None = None
    logprobs_BT: Tensor | None = None
    reference_logprobs_BT: Tensor | None = None
    groups_B: Tensor | None = None
    kept_BTK: Tensor | None = None
    probs_BKV: Tensor | None = None

    def num_targets(self) -> int:
        """Number of learned targets; synchronises with the device."""
        return int((self.targets_BT != IGNORE).sum())

    def map(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        """The batch with every tensor that is there changed."""
        changed = {name: change(x) for name, x in self._asdict().items() if x is not None}
        return self._replace(**changed)

    def to(self, device: torch.device | str) -> "Batch":
        return self.map(lambda x: x.to(device, non_blocking=True))

    def rows(self, start: int, stop: int) -> "Batch":
        """The rows start..stop-1: a micro-batch."""
        return self.map(lambda x: x[start:stop])


class Batches(Protocol):
    """An endless source of batches that can say where it is and be put back there."""

    def next_batch(self) -> Batch: ...
    def state(self) -> dict[str, Any]: ...
    def load_state(self, state: dict[str, Any]) -> None: ...


def positions_in_documents(documents_BT: Tensor) -> Tensor:
    """Place of every token inside its document: 0, 1, 2, ... beginning anew where the document changes."""
    index_T = torch.arange(documents_BT.shape[1], device=documents_BT.device)
    starts_BT = torch.ones_like(documents_BT, dtype=torch.bool)
    starts_BT[:, 1:] = documents_BT[:, 1:] != documents_BT[:, :-1]
    return index_T - torch.where(starts_BT, index_T, 0).cummax(dim=1).values
