"""The truth: all logits at once, then cross-entropy over them in float32.

N tokens, D model width, V vocabulary.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from wren.ops.widen import widened

IGNORE = -100  # the target of a token that is not learned; the same number as wren.batch.IGNORE


def naive_linear_cross_entropy(
    hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, weights_N: Tensor | None = None, cap: float | None = None
) -> Tensor:
    """The sum over tokens of weight x -log p(target) in nats; logits are c tanh(logits / c) where cap is c."""
    losses_N = naive_token_losses(hidden_ND, weight_VD, targets_N, cap)
    return losses_N.sum() if weights_N is None else torch.dot(losses_N, weights_N.to(losses_N.dtype))


def naive_token_losses(hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, cap: float | None = None) -> Tensor:
    """-log p(target) in nats of each token (N,), 0 where the target is IGNORE."""
    logits_NV = F.linear(hidden_ND, weight_VD)
    if cap is not None:
        logits_NV = cap * torch.tanh(logits_NV / cap)
    return F.cross_entropy(widened(logits_NV), targets_N, ignore_index=IGNORE, reduction="none")
