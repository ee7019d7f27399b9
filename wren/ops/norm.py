"""Norms over the last dimension: y = w x / sqrt(mean(x^2) + eps)  (1910.07467)  and  y = x / sqrt(sum(x^2) + eps)."""

import torch
import torch.nn.functional as F
from torch import Tensor


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """In the dtype of x: under autocast torch has no fused form for a weight of another dtype."""
    return F.rms_norm(x, weight.shape, weight.to(x.dtype), eps)


def l2_normalised(x: Tensor, eps: float = 1e-6) -> Tensor:
    """Unit vectors; a vector much shorter than sqrt(eps) stays short instead of blowing up its noise."""
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + eps)
