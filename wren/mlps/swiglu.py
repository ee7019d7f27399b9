"""SwiGLU MLP: y = W_out (silu(W_gate x) * W_up x), the feed-forward layer of Llama (Shazeer, 2002.05202)."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from wren.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Config:
    """hidden: inner width, None = 8/3 x dim rounded up to a multiple of 32."""

    hidden: int | None = None

    def __post_init__(self) -> None:
        if self.hidden is not None and self.hidden < 1:
            raise ConfigError(f"swiglu.hidden is {self.hidden}; it must be at least 1.")

    def build(self, dim: int) -> nn.Module:
        return SwiGlu(dim, self)


class SwiGlu(nn.Module):
    def __init__(self, dim: int, config: Config):
        super().__init__()
        hidden = config.hidden or -(-8 * dim // (3 * 32)) * 32
        self.gate = nn.Linear(dim, hidden, bias=False)
        self.up = nn.Linear(dim, hidden, bias=False)
        self.out = nn.Linear(hidden, dim, bias=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        return self.out(F.silu(self.gate(x_BTD)) * self.up(x_BTD))
