"""Squared-ReLU MLP: y = W_out relu(W_up x)^2 (So et al., Primer, 2109.08668)."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from wren.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Config:
    """hidden: inner width, None = 4 x dim."""

    hidden: int | None = None

    def __post_init__(self) -> None:
        if self.hidden is not None and self.hidden < 1:
            raise ConfigError(f"relu2.hidden is {self.hidden}; it must be at least 1.")

    def build(self, dim: int) -> nn.Module:
        return Relu2(dim, self)


class Relu2(nn.Module):
    def __init__(self, dim: int, config: Config):
        super().__init__()
        hidden = config.hidden or 4 * dim
        self.up = nn.Linear(dim, hidden, bias=False)
        self.out = nn.Linear(hidden, dim, bias=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        return self.out(F.relu(self.up(x_BTD)).square())
