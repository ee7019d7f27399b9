"""No MLP: y = 0. For probes and papers whose layers are mixers alone."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class Config:
    def build(self, dim: int) -> nn.Module:
        return NoMlp()


class NoMlp(nn.Module):
    def forward(self, x_BTD: Tensor) -> Tensor:
        return torch.zeros_like(x_BTD)
