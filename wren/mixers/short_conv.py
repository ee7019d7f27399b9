"""Gated short convolution of LFM2: y = W_o (c * conv(b * u)),  b, c, u = W_in x  (Liquid AI 2025, 2511.23404).

Each channel looks back conv_size - 1 tokens and no further: a cheap neighbour of mixers with a long memory.

B batch, T time, D model width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from wren.errors import ConfigError
from wren.mixer import Context, Mixer, State, advance, check_tail, own_state, with_values, without_padding
from wren.ops.short_convolution import next_tail, short_convolution


@dataclass(frozen=True, kw_only=True)
class Config:
    """conv_size: taps of the convolution. bias: of both projections and the convolution."""

    conv_size: int = 3
    bias: bool = False

    def build(self, dim: int) -> "ShortConv":
        """Raises ConfigError for a convolution of no past."""
        if self.conv_size < 2:
            raise ConfigError(f"short_conv.conv_size is {self.conv_size}; use 2 or more, one tap sees no past.")
        return ShortConv(dim, self)


EXAMPLES = (Config(), Config(conv_size=5, bias=True))


@dataclass
class ShortConvState(State):
    """The last inputs of the convolution."""

    tail_BUD: Tensor  # (B, conv_size - 1, D)


class ShortConv(Mixer):
    """values_BTD of the context is D wide and is added to u.

    flops_per_token counts a whole row at once, where the convolution counts.
    """

    def __init__(self, dim: int, config: Config):
        super().__init__()
        self.config = config
        self.values_dim = dim
        self.inputs = nn.Linear(dim, 3 * dim, bias=config.bias)
        bound = config.conv_size**-0.5
        self.conv = nn.Parameter(torch.empty(dim, config.conv_size).uniform_(-bound, bound))
        self.conv_bias = nn.Parameter(torch.empty(dim).uniform_(-bound, bound)) if config.bias else None
        self.out = nn.Linear(dim, dim, bias=config.bias)

    def forward(self, x_BTD: Tensor, context: Context) -> Tensor:
        state = own_state(context, ShortConvState, len(x_BTD))
        if state is not None:
            check_tail("convolution tails", state.tail_BUD, self._tail_shape())
        b_BTD, c_BTD, u_BTD = self.inputs(without_padding(x_BTD, context.valid_B)).chunk(3, dim=-1)
        gated_BTD = b_BTD * with_values(u_BTD, context)
        tail_BUD = None if state is None else state.tail_BUD
        mixed_BTD = short_convolution(gated_BTD, self.conv, tail_BUC=tail_BUD, documents_BT=context.documents_BT)
        if self.conv_bias is not None:
            mixed_BTD = mixed_BTD + self.conv_bias.to(mixed_BTD.dtype)
        if state is not None:
            state.tail_BUD = next_tail(gated_BTD, self.config.conv_size, state.tail_BUD, context.valid_B)
            state.lengths_B = advance(state.lengths_B, x_BTD.shape[1], context.valid_B)
        return self.out(c_BTD * mixed_BTD)

    def _tail_shape(self) -> tuple[int, int]:
        return (self.config.conv_size - 1, len(self.conv))

    def new_state(
        self, batch_size: int, max_len: int, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> ShortConvState:
        """max_len bounds nothing here: the state has one size for every length."""
        return ShortConvState(
            torch.zeros(batch_size, dtype=torch.long, device=device),
            torch.zeros(batch_size, *self._tail_shape(), dtype=dtype, device=device),
        )

    def flops_per_token(self, context_len: int) -> float:
        """As counted for a whole row of at least conv_size tokens; the same for every length."""
        return 2.0 * (self.inputs.weight.numel() + self.conv.numel() + self.out.weight.numel())

    def state_bytes(self, context_len: int) -> int:
        return 2 * (self.config.conv_size - 1) * len(self.conv)
