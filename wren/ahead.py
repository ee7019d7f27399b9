"""Multi-token prediction: extra heads that predict t+2, t+3, ... from the same stream (Gloeckle et al., 2404.19737).

Each head is one more block and norm above the last block, beside one another; the unembedding is shared. They act in
the training loss only, where their mean joins with a weight (lambda of DeepSeek-V3, 2412.19437).

B batch, T time, D model width.
"""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from wren.batch import IGNORE, Batch
from wren.block import Block, norm_flops
from wren.errors import ConfigError
from wren.mixer import Context


@dataclass(frozen=True, kw_only=True)
class AheadConfig:
    """tokens: how many tokens past the next one are predicted, 0 = none. weight: of their mean loss in the loss."""

    tokens: int = 0
    weight: float = 0.3

    def __post_init__(self) -> None:
        if self.tokens < 0:
            raise ConfigError(f"ahead.tokens is {self.tokens}; it must be 0 or more.")
        if not self.weight > 0:
            raise ConfigError(f"ahead.weight is {self.weight}; it must be above 0.")


class AheadHead(nn.Module):
    def __init__(self, block: Block, norm: nn.Module):
        super().__init__()
        self.block = block
        self.norm = norm

    def forward(self, x_BTD: Tensor, context: Context) -> Tensor:
        """The normed stream (B, T, D) that the unembedding reads."""
        return self.norm(self.block(x_BTD, context))

    def flops_per_token(self, context_len: int) -> float:
        return self.block.flops_per_token(context_len) + norm_flops(self.norm)


def ahead_targets(batch: Batch, steps: int) -> tuple[Tensor, Tensor | None]:
    """The targets (B, T) `steps` places further, and their weights; IGNORE where the row or the document ends before.

    The token that follows a document's last one is a target there, as it is for the next token.
    """
    steps = min(steps, batch.tokens_BT.shape[1])
    targets_BT = F.pad(batch.targets_BT[:, steps:], (0, steps), value=IGNORE)
    if batch.documents_BT is not None:
        kept = batch.documents_BT.shape[1] - steps
        same_BT = F.pad(batch.documents_BT[:, steps:] == batch.documents_BT[:, :kept], (0, steps))
        targets_BT = targets_BT.masked_fill(~same_BT, IGNORE)
    weights_BT = None if batch.weights_BT is None else F.pad(batch.weights_BT[:, steps:], (0, steps))
    return targets_BT, weights_BT
