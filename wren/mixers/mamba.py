"""Mamba: h_t = exp(dt_t A) h_{t-1} + b_t (dt_t u_t)^T,  y_t = c_t h_t + D u_t, a state for every channel  (2312.00752).

u = silu(conv(W_u x)); dt, b and c are read off u: b = W_b u, c = W_c u, dt = softplus(W_up W_dt u + dt_bias) through a
bottleneck; A = -exp(A_log); the output is y * silu(W_g x). The historical point of the lab: one decay a channel and
state, so that the memory cannot be written by matrix products.

B batch, T time, D model width, E channels (expand times D), N states of a channel, R width of dt's bottleneck.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wren.mixer import Context, Mixer, State, advance, check_tail, own_state, valid_mask, with_values, without_padding
from wren.ops.decay import inverse_softplus_of_times
from wren.ops.selective_scan import block_length, chunked_selective_scan, naive_selective_scan
from wren.ops.settings import check_conv_size, check_counts
from wren.ops.short_convolution import next_tail, short_convolution
from wren.ops.widen import wide_dtype, widened


@dataclass(frozen=True, kw_only=True)
class Config:
    """expand: channels per unit of width. num_states: of each channel. dt_rank: None = dim / 16, rounded up.

    conv_size: taps of the short convolution, None = none. chunk_size trades speed and working memory only.
    """

    expand: int = 2
    num_states: int = 16
    dt_rank: int | None = None
    conv_size: int | None = 4
    chunk_size: int = 64

    def build(self, dim: int) -> "Mamba":
        """Raises ConfigError for sizes that are out of range."""
        check_counts("mamba", self, "expand", "num_states", "dt_rank", "chunk_size")
        check_conv_size("mamba", self.conv_size)
        return Mamba(dim, self)


EXAMPLES = (
    Config(num_states=4),
    Config(expand=1, num_states=3, dt_rank=5, conv_size=None, chunk_size=16),
)


@dataclass
class MambaState(State):
    """The memory, in fp32, and the last inputs of the short convolution."""

    memory_BNE: Tensor
    tail_BUE: Tensor  # (B, conv_size - 1, E); no rows without a convolution


class Mamba(Mixer):
    """values_BTD of the context is E wide and joins W_u x before its convolution.

    flops_per_token counts a whole row at once.
    """

    def __init__(self, dim: int, config: Config):
        super().__init__()
        self.config = config
        self.values_dim = config.expand * dim
        E, N, R = self.values_dim, config.num_states, config.dt_rank or math.ceil(dim / 16)
        self.widths = [R, N, N]
        self.u = nn.Linear(dim, E, bias=False)
        self.gate = nn.Linear(dim, E, bias=False)
        self.conv = self.conv_bias = None
        if config.conv_size is not None:
            bound = config.conv_size**-0.5
            self.conv = nn.Parameter(torch.empty(E, config.conv_size).uniform_(-bound, bound))
            self.conv_bias = nn.Parameter(torch.empty(E).uniform_(-bound, bound))
        self.select = nn.Linear(E, sum(self.widths), bias=False)
        # a parameter and no linear layer, so that the model's own start of small weights does not undo this one
        self.dt_up = nn.Parameter(torch.empty(E, R).uniform_(-(R**-0.5), R**-0.5))
        self.dt_bias = nn.Parameter(inverse_softplus_of_times(E))
        # flat, N * E: weight decay, which would pull every A towards -1, spares what has one dimension
        self.A_log = nn.Parameter(torch.arange(1.0, N + 1).log().repeat_interleave(E))
        self.D = nn.Parameter(torch.ones(E))
        self.out = nn.Linear(E, dim, bias=False)

    def forward(self, x_BTD: Tensor, context: Context) -> Tensor:
        state = own_state(context, MambaState, len(x_BTD))
        if state is not None:
            check_tail("memories", state.memory_BNE, (self.config.num_states, self.values_dim))
            check_tail("convolution tails", state.tail_BUE, self._tail_shape())
        x_BTD = without_padding(x_BTD, context.valid_B)
        u_BTE = self._channels(x_BTD, context, state)
        dt_BTR, b_BTN, c_BTN = self.select(u_BTE).split(self.widths, dim=-1)
        dt_BTE = F.softplus(widened(F.linear(dt_BTR, self.dt_up)) + self.dt_bias)
        valid_BT = valid_mask(context.valid_B, x_BTD.shape[1])
        if valid_BT is not None:
            dt_BTE = dt_BTE * valid_BT[:, :, None]
        y_BTE = self._scan((u_BTE, dt_BTE, b_BTN, c_BTN), context.documents_BT, state)
        if state is not None:
            state.lengths_B = advance(state.lengths_B, x_BTD.shape[1], context.valid_B)
        y_BTE = torch.addcmul(y_BTE, u_BTE, self.D)
        gate_BTE = F.silu(self.gate(x_BTD))
        return self.out(y_BTE.to(gate_BTE.dtype) * gate_BTE)

    def _channels(self, x_BTD: Tensor, context: Context, state: MambaState | None) -> Tensor:
        """u (B, T, E): projected, convolved, activated; carries the convolution's tail on."""
        u_BTE = with_values(self.u(x_BTD), context)
        if self.conv is None or self.conv_bias is None:
            return F.silu(u_BTE)
        tail_BUE = None if state is None else state.tail_BUE
        convolved_BTE = short_convolution(u_BTE, self.conv, tail_BUC=tail_BUE, documents_BT=context.documents_BT)
        if state is not None:
            state.tail_BUE = next_tail(u_BTE, self.conv.shape[1], state.tail_BUE, context.valid_B)
        return F.silu(convolved_BTE + self.conv_bias.to(convolved_BTE.dtype))

    def _scan(self, inputs: tuple[Tensor, ...], documents_BT: Tensor | None, state: MambaState | None) -> Tensor:
        """Runs the scan by the form that fits, and carries the memory on."""
        u, dt, b, c = inputs
        A_NE = -self.A_log.exp().view(self.config.num_states, self.values_dim)
        memory = None if state is None else state.memory_BNE
        if u.shape[1] == 1:
            y_BTE, last = naive_selective_scan(u, dt, A_NE, b, c, memory_BNE=memory)
        else:
            size = self.config.chunk_size
            y_BTE, last = chunked_selective_scan(
                u, dt, A_NE, b, c, memory_BNE=memory, documents_BT=documents_BT, chunk_size=size
            )
        if state is not None:
            state.memory_BNE = last
        return y_BTE

    def _tail_shape(self) -> tuple[int, int]:
        return ((self.config.conv_size or 1) - 1, self.values_dim)

    def new_state(
        self, batch_size: int, max_len: int, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> MambaState:
        """max_len bounds nothing here: the state has one size for every length."""
        memory_shape = (batch_size, self.config.num_states, self.values_dim)
        return MambaState(
            torch.zeros(batch_size, dtype=torch.long, device=device),
            torch.zeros(memory_shape, dtype=wide_dtype(dtype), device=device),
            torch.zeros(batch_size, *self._tail_shape(), dtype=dtype, device=device),
        )

    def flops_per_token(self, context_len: int) -> float:
        """As counted for a whole row, padded to whole blocks: the scan's one matrix product is reading its memory."""
        block = min(block_length(self.config.chunk_size), context_len)
        padded = math.ceil(context_len / block) * block / context_len
        weights = [layer.weight for layer in (self.u, self.gate, self.select, self.out)]
        weights += [self.dt_up] if self.conv is None else [self.dt_up, self.conv]
        return 2 * sum(w.numel() for w in weights) + padded * 2 * self.config.num_states * self.values_dim

    def state_bytes(self, context_len: int) -> int:
        return 4 * self.config.num_states * self.values_dim + 2 * math.prod(self._tail_shape())
