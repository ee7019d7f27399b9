"""GELU MLP: y = W_out gelu(W_in x), the feed-forward layer of GPT-2 (Hendrycks & Gimpel, 1606.08415)."""

from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from wren.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Config:
    """hidden: inner width, None = 4 x dim. approximate: "none" as in nanoGPT, "tanh" as in OpenAI's GPT-2."""

    hidden: int | None = None
    bias: bool = False
    approximate: Literal["none", "tanh"] = "none"

    def __post_init__(self) -> None:
        if self.hidden is not None and self.hidden < 1:
            raise ConfigError(f"gelu.hidden is {self.hidden}; it must be at least 1.")

    def build(self, dim: int) -> nn.Module:
        return Gelu(dim, self)


class Gelu(nn.Module):
    def __init__(self, dim: int, config: Config):
        super().__init__()
        hidden = config.hidden or 4 * dim
        self.approximate = config.approximate
        self.up = nn.Linear(dim, hidden, bias=config.bias)
        self.out = nn.Linear(hidden, dim, bias=config.bias)

    def forward(self, x_BTD: Tensor) -> Tensor:
        return self.out(F.gelu(self.up(x_BTD), approximate=self.approximate))
