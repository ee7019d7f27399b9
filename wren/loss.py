"""The losses: sums over the learned targets of a `Batch`; the loop divides by their number in the global batch.

B batch, T time, V vocabulary.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from wren.batch import IGNORE, Batch
from wren.model import LM


def token_losses(model: LM, batch: Batch) -> Tensor:
    """-log p(target) in nats for every place (B, T), float32; 0 where nothing is learned."""
    logits_BTV = model(batch.tokens_BT, positions_BT=batch.positions_BT, documents_BT=batch.documents_BT)
    losses = F.cross_entropy(
        logits_BTV.flatten(0, 1).float(), batch.targets_BT.flatten(), ignore_index=IGNORE, reduction="none"
    )
    return losses.view_as(batch.targets_BT)


def cross_entropy(model: LM, batch: Batch) -> Tensor:
    """The weighted sum of -log p(target) in nats over the learned targets: a scalar.

    A sum, since micro-batches and ranks must add up to the loss of the whole global batch.
    """
    logits_BTV = model(batch.tokens_BT, positions_BT=batch.positions_BT, documents_BT=batch.documents_BT)
    logits, targets = logits_BTV.flatten(0, 1).float(), batch.targets_BT.flatten()
    if batch.weights_BT is None:
        return F.cross_entropy(logits, targets, ignore_index=IGNORE, reduction="sum")
    losses = F.cross_entropy(logits, targets, ignore_index=IGNORE, reduction="none")
    return torch.dot(losses, batch.weights_BT.flatten().to(losses.dtype))
